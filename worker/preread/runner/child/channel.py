"""Launch an inference process, with its socket, pipes and shared memory."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from preread.imaging import previews
from preread.runner.child import protocol
from preread.runner.child.protocol import MAX_LINE_BYTES, Job, Known, Reply, Setup
from preread.runner.confine.refused_calls import RefusedCalls

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
# One core each; one arena keeps the address space near the memory in use.
_LIBRARY_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}
_SHA256 = re.compile(rb"[0-9a-f]{64}")


class ProcessChannel:
    """Inference process with its socket, its pipes and the preview's memory.

    Args:
        command: program of the process.
        setup: first message to it.
        previews_kept: the process gets memory for a preview.

    Attributes:
        process: the child process.
        control: socket for messages to it; while it starts it sends the listener for refused calls.
        from_child: pipe of its messages.
        refused: its refused system calls; ``None`` until the listener has come.

    Raises:
        OSError: there is no room for another process.
    """

    def __init__(self, command: Sequence[str], setup: Setup, *, previews_kept: bool) -> None:
        # this pipe wakes nobody: it is read only once the process is dead or late
        self._notes, notes_fd = os.pipe()
        os.set_blocking(self._notes, False)
        self.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._preview = os.memfd_create("preview", os.MFD_CLOEXEC) if previews_kept else -1
        self._setup = replace(setup, notes_fd=notes_fd, preview_fd=self._preview)
        self._pending = b""
        self.refused: RefusedCalls | None = None
        try:
            self.process = self._launch(command, control.fileno(), notes_fd)
        except OSError:
            self._close_own()
            raise
        finally:
            control.close()
            os.close(notes_fd)
        assert self.process.stdout is not None
        self.from_child = self.process.stdout
        os.set_blocking(self.from_child.fileno(), False)

    def _launch(self, command: Sequence[str], control_fd: int, notes_fd: int) -> subprocess.Popen[bytes]:
        given = [notes_fd]
        if self._preview >= 0:
            os.ftruncate(self._preview, previews.MAX_BYTES)
            given.append(self._preview)
        return subprocess.Popen(
            command,
            stdin=control_fd,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # messages of decoders can quote a file
            env=_environment(),
            close_fds=True,
            pass_fds=given,
            start_new_session=True,
        )

    def send_setup(self) -> None:
        """Send the first message to the inference process."""
        self.send_message(self._setup)

    def send_message(self, message: Setup | Job | Known, *descriptors: int) -> None:
        """Send a message to the inference process, with descriptors.

        A process that does not read it shows at its other pipe.
        """
        with contextlib.suppress(OSError):
            protocol.send_message(self.control, protocol.encode_message(message), descriptors)

    def receive_listener(self) -> bool:
        """Receive the descriptor by which the kernel reports refused calls.

        It comes through the socket while the process starts; nothing more does.

        Returns:
            ``True`` if it came now.
        """
        try:
            _, descriptor = protocol.receive_message(self.control, 64, socket.MSG_DONTWAIT)
        except OSError:
            descriptor = None
        if descriptor is not None:
            self.refused = RefusedCalls(descriptor)
        self.control.shutdown(socket.SHUT_RD)
        return self.refused is not None

    def read_replies(self) -> Iterator[Reply | None]:
        """Read the inference process's messages; ``None`` at their end.

        Raises:
            ValueError: a message is invalid.
        """
        while True:
            try:
                block = os.read(self.from_child.fileno(), 65536)
            except BlockingIOError:
                return
            if not block:
                yield None
                return
            *lines, self._pending = (self._pending + block).split(b"\n")
            for line in lines:
                yield protocol.decode_reply(line)
            if len(self._pending) > MAX_LINE_BYTES:
                raise ValueError(f"a message of an inference process is longer than {MAX_LINE_BYTES} bytes")

    def read_note(self) -> tuple[bool, str | None]:
        """Read the SHA-256 that the process noted once it had a file's bytes.

        Returns:
            ``True`` if it noted anything since the last call; the SHA-256 (hex), ``None`` if there is no valid one.
        """
        try:
            noted = os.read(self._notes, 4096)
        except BlockingIOError:
            return False, None
        return noted != b"", noted.decode() if _SHA256.fullmatch(noted) else None

    def read_preview(self, size_bytes: int) -> bytes:
        """Copy a preview from the memory shared with the inference process."""
        return os.pread(self._preview, min(size_bytes, previews.MAX_BYTES), 0)

    def close(self) -> None:
        """Close socket, pipes and shared memory of the inference process."""
        self._close_own()
        if self.refused is not None:
            self.refused.close()
        with contextlib.suppress(OSError):
            self.from_child.close()

    def _close_own(self) -> None:
        self.control.close()
        os.close(self._notes)
        if self._preview >= 0:
            os.close(self._preview)


def _environment() -> dict[str, str]:
    """Return the environment of a process, without the worker's settings.

    One of them may hold the database's password.
    """
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # this very package, wherever the worker was started from
    return passed_on | _LIBRARY_SETTINGS | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
