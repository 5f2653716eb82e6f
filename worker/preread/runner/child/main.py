"""Inference process: reads one file at a time, confined.

It parses bytes that anyone may have written, with decoders in C. So it loads all that it will ever need, takes its own
rights away (``confinement``), and is sent each file as an open file: it can then read that, compute and answer. It has
a memory limit, no core file, no inherited descriptors and none of the worker's settings (they may hold a password); it
is the first to go when memory runs out, and ends when the worker does. What kills it costs one file.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from preread.core.errors import (
    BundleMismatch,
    EnvironmentFault,
    PrereadError,
    SlotCrashed,
    SlotMemory,
)
from preread.core.text import vocabulary
from preread.core.text.escaping import escape
from preread.core.types import PixelArray
from preread.runner.child import protocol, reading
from preread.runner.child.protocol import Known, Reply, ReplyKind, Setup
from preread.runner.child.reading import OpenFile
from preread.runner.confine import confinement

if TYPE_CHECKING:
    from preread.model.classifier import Classifier

_PR_SET_PDEATHSIG = 1
_MAX_MESSAGE_BYTES = 64 * 1024


def main(load: Callable[[Setup], Classifier] | None = None, *, confined: bool = True) -> int:
    """Serve jobs from the socket that is standard input until it ends.

    Args:
        load: makes the classifier; tests give another.
        confined: ``False`` in tests whose process writes files.
    """
    # printing of any library must not reach the worker: the protocol gets a descriptor of its own
    replies = os.fdopen(os.dup(1), "wb")
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    control = socket.socket(fileno=os.dup(0))
    os.dup2(devnull, 0)
    os.close(devnull)
    setup = protocol.decode_setup(protocol.receive_message(control, _MAX_MESSAGE_BYTES)[0])
    _limit(setup)
    preview = None
    if setup.preview_fd >= 0:
        preview = mmap.mmap(setup.preview_fd, 0)
        os.close(setup.preview_fd)
    lacking: tuple[str, ...] = ()
    try:
        slot = _Slot(setup, control, replies, preview, load or _load)
        if confined:
            lacking = _confine(slot, self_tested=load is None)
    except PrereadError as error:
        _send(replies, Reply(ReplyKind.UNFIT, error.code, escape(str(error))))
        return 1
    except MemoryError:
        message = (
            f"{setup.memory_bytes} bytes are too few for an inference process to start; raise PREREAD_SLOT_MEMORY_BYTES"
        )
        _send(replies, Reply(ReplyKind.UNFIT, SlotMemory.code, message))
        return 1
    _send(replies, Reply(ReplyKind.READY, lacking=lacking))
    code = slot.serve()
    control.detach()  # whoever closes it, ends it; the process does
    return code


def _limit(setup: Setup) -> None:
    """Take away rights that loading does not need."""
    # the worker ends its processes itself; a signal to the whole group must not cost the file in hand
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (setup.memory_bytes, setup.memory_bytes))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != setup.parent_pid:
        raise SystemExit(1)  # the worker was gone before the line above


def _confine(slot: _Slot, *, self_tested: bool) -> tuple[str, ...]:
    """Take away the other rights, and check that everything still works.

    Returns:
        Parts of the confinement that this machine lacks.
    """
    from preread.runner.confine import self_test

    self_test.import_image_modules()
    images = self_test.make_test_images() if self_tested else {}
    if self_tested:
        # unconfined first (33 ms): libraries import more at their first call, such as numpy.ma for percentiles
        self_test.run_self_test(images, slot.classifier)
    self_test.block_imports()
    lacking = confinement.confine_process(slot.control)
    if slot.setup.require_confinement and (missing := confinement.ESSENTIAL.intersection(lacking)):
        raise confinement.Unconfined(f"this machine has no {' and no '.join(sorted(missing))}")
    if self_tested:
        self_test.run_self_test(images, slot.classifier)
    return lacking


def _load(setup: Setup) -> Classifier:
    from preread.model import bundles
    from preread.model.classifier import Classifier

    bundle = bundles.load_bundle(Path(os.fsdecode(protocol.text_to_path(setup.bundle))))
    if bundle.digest != setup.digest:
        raise BundleMismatch(f"the bundle at {bundle.path} is no longer the one that the worker started with")
    classifier = Classifier(bundle)
    classifier.verify_reference_outputs()
    return classifier


class _Slot:
    """Server of jobs.

    Args:
        load: makes a classifier; that of the shadow is made now, since no file can be read later.

    Raises:
        PrereadError: the bundle cannot be used.
    """

    def __init__(
        self,
        setup: Setup,
        control: socket.socket,
        replies: BinaryIO,
        preview: mmap.mmap | None,
        load: Callable[[Setup], Classifier],
    ) -> None:
        self.setup = setup
        self.control = control
        self.classifier = None if setup.pictures else load(setup)
        vocabulary.extended(setup.vocabulary)  # kept in memory, since no file can be read later
        self._replies = replies
        self._preview = preview
        self._in_shadow: Classifier | PrereadError | None = None
        if setup.shadow is not None:
            try:
                self._in_shadow = load(setup.of_shadow())
            except PrereadError as error:
                self._in_shadow = error

    def serve(self) -> int:
        """Answer jobs until there are no more; return the exit code."""
        while True:
            message, descriptor = protocol.receive_message(self.control, _MAX_MESSAGE_BYTES)
            if not message or descriptor is None:
                return 0
            job = protocol.decode_job(message)
            chosen = self._in_shadow if job.shadow else self.classifier
            if isinstance(chosen, PrereadError) or (job.shadow and chosen is None):
                os.close(descriptor)
                text = f"the bundle in the shadow cannot be used: {chosen}"
                _send(self._replies, Reply(ReplyKind.FAULT, EnvironmentFault.code, escape(text)))
                continue
            draw = None if self._preview is None else self._draw
            reply = _serve(OpenFile(job, descriptor, chosen, self.setup, self._ask, draw))
            _send(self._replies, reply)
            if reply.kind is ReplyKind.BROKE or reply.last:
                return 1

    def _ask(self, sha256: str) -> Known:
        """Return what the worker knows of this content."""
        _send(self._replies, Reply(ReplyKind.READ, sha256=sha256))
        return protocol.decode_known(protocol.receive_message(self.control, _MAX_MESSAGE_BYTES)[0])

    def _draw(self, pixels: PixelArray) -> int:
        """Write a preview into the memory that the worker reads.

        Args:
            pixels: uint8 [rows, columns].

        Returns:
            Its size in bytes, 0 if there is no room for it.
        """
        from preread.imaging.preview_png import encode_preview

        content = encode_preview(pixels)
        if self._preview is None or len(content) > len(self._preview):
            return 0
        self._preview[: len(content)] = content
        return len(content)


def _serve(file: OpenFile) -> Reply:
    setup = file.setup
    try:
        report = reading.assess_open_file(file)
        return Reply(ReplyKind.DONE, report=report, last=file.decoder_failed)
    except EnvironmentFault as error:
        return Reply(ReplyKind.FAULT, error.code, escape(str(error)))
    except MemoryError:
        return Reply(ReplyKind.BROKE, SlotMemory.code, f"the file needs more than {setup.memory_bytes} bytes of memory")
    except Exception as error:  # noqa: BLE001  named, sent to the worker and counted; only the class, texts quote tags
        return Reply(ReplyKind.BROKE, SlotCrashed.code, f"reading the file failed with {type(error).__name__}")


def _send(replies: BinaryIO, reply: Reply) -> None:
    replies.write(protocol.encode_message(reply))
    replies.flush()


if __name__ == "__main__":
    os._exit(main())  # nothing of a heap that may be damaged is touched again
