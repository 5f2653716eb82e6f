"""A slot: the child process that reads films, one at a time; ``slots.py`` starts it.

It parses bytes that anyone may have written, with decoders in C. So it has a memory limit, no core file, no inherited
descriptors and none of the worker's settings (they may hold a password); it is the first to go when memory runs out,
and ends when the worker does. What kills it costs one file.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from worker import beneath, slot_messages
from worker.domain import FORGOTTEN, Assessment, Caveat, Declared, Identity, Outcome, PixelArray, Refusal, Stage
from worker.entries import Observation
from worker.errors import (
    BundleMismatch,
    EnvironmentFault,
    PrereadError,
    SlotCrashed,
    SlotMemory,
    TooManyBytes,
    UnreadableError,
)
from worker.escaping import escape
from worker.slot_messages import Content, Job, Known, Reply, Report, Say, Setup

if TYPE_CHECKING:
    from worker.classifier import Classifier
    from worker.radiograph import Limits

_PR_SET_PDEATHSIG = 1


def main(load: Callable[[Setup], Classifier] | None = None) -> int:
    """Serve jobs from standard input until it ends.

    Args:
        load: makes the classifier; tests give another.
    """
    # printing of any library must not reach the worker: the protocol gets a descriptor of its own
    replies = os.fdopen(os.dup(1), "wb")
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    lines = sys.stdin.buffer
    setup = slot_messages.decode_setup(lines.readline())
    _confine(setup)
    try:
        classifier = (load or _load)(setup)
    except PrereadError as error:
        _send(replies, Reply(Say.UNFIT, error.code, escape(str(error))))
        return 1
    except MemoryError:
        message = f"{setup.memory_bytes} bytes are too few for a slot to start"
        _send(replies, Reply(Say.UNFIT, SlotMemory.code, message))
        return 1
    _send(replies, Reply(Say.READY))
    if load is None:
        _import_all()
    in_shadow: Classifier | None = None
    while line := lines.readline():
        job = slot_messages.decode_job(line)
        if job.shadow and in_shadow is None:
            try:
                in_shadow = (load or _load)(setup.of_shadow())
            except PrereadError as error:
                message = f"the bundle in the shadow cannot be used: {error}"
                _send(replies, Reply(Say.FAULT, EnvironmentFault.code, escape(message)))
                continue
        chosen = in_shadow if job.shadow and in_shadow is not None else classifier
        reply = _serve(job, setup, chosen, lines, replies)
        _send(replies, reply)
        if reply.say is Say.BROKE:
            return 1
    return 0


def _confine(setup: Setup) -> None:
    """Take away what reading films does not need."""
    # the worker ends its slots itself; a signal to the whole group must not cost the film in hand
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


def _import_all() -> None:
    """Import what the first film needs, a fifth of a second, while the slot waits for it."""
    from worker import assess, gate, previews, radiograph  # noqa: F401


def _load(setup: Setup) -> Classifier:
    from worker import bundle as bundles
    from worker.classifier import Classifier

    bundle = bundles.load(Path(os.fsdecode(slot_messages.to_path(setup.bundle))))
    if bundle.digest != setup.digest:
        raise BundleMismatch(f"the bundle at {bundle.path} is no longer the one that the worker started with")
    classifier = Classifier(bundle)
    classifier.self_check()
    return classifier


def _serve(job: Job, setup: Setup, classifier: Classifier, lines: BinaryIO, replies: BinaryIO) -> Reply:
    try:
        return Reply(Say.DONE, report=_read_film(job, setup, classifier, lines, replies))
    except EnvironmentFault as error:
        return Reply(Say.FAULT, error.code, escape(str(error)))
    except MemoryError:
        return Reply(Say.BROKE, SlotMemory.code, f"the film needs more than {setup.memory_bytes} bytes of memory")
    except Exception as error:  # noqa: BLE001  named, sent to the worker and counted; only the class, texts quote tags
        return Reply(Say.BROKE, SlotCrashed.code, f"reading the film failed with {type(error).__name__}")


class _Laps:
    """How long each stage took, in milliseconds; what passes before ``start`` belongs to none."""

    def __init__(self) -> None:
        self.ms: dict[Stage, float] = {}
        self.start()

    def start(self) -> None:
        self._since = time.perf_counter()

    def ended(self, stage: Stage) -> None:
        self.ms[stage] = _ms_since(self._since)
        self.start()


def _read_film(job: Job, setup: Setup, classifier: Classifier, lines: BinaryIO, replies: BinaryIO) -> Report:
    from worker.radiograph import Limits

    os.environ["OPJ_NUM_THREADS"] = str(job.threads)  # OpenJPEG looks there for each film that it decodes
    began = time.perf_counter()
    laps = _Laps()
    limits = Limits(max_bytes=setup.max_file_bytes, max_pixels=setup.max_pixels)
    root, path = slot_messages.to_path(job.root), slot_messages.to_path(job.path)
    try:
        contents = beneath.read(root, Observation(path, job.size_bytes, job.mtime_ns), setup.max_file_bytes)
    except TooManyBytes as error:
        return _unreadable(error, None, began)
    sha256 = hashlib.sha256(contents.data).hexdigest()
    laps.ended(Stage.READ)
    os.write(setup.notes_fd, sha256.encode())
    answer = Known(False)
    if job.ask:
        _send(replies, Reply(Say.READ, sha256=sha256))
        answer = slot_messages.decode_known(lines.readline())
    if answer.forgotten:
        return Report(Outcome.REFUSED, sha256, _ms_since(began), code=FORGOTTEN)
    laps.start()
    pixels: PixelArray | None = None
    try:
        if answer.known:
            report = _screen(contents.data, sha256, job, classifier, limits, began)
        else:
            report, pixels = _assess(contents.data, sha256, job, classifier, limits, began, laps)
    except UnreadableError as error:
        report = _with_header(_unreadable(error, sha256, began), contents.data, limits)
    # whatever was found holds only for a file that stood still meanwhile
    beneath.check_unchanged(root, path, contents.status)
    if job.preview and report.outcome is not Outcome.UNREADABLE:
        laps.start()
        report = replace(report, preview_dropped=not _keep_preview(contents.data, sha256, pixels, setup, limits))
        laps.ended(Stage.PREVIEW)
    return replace(_named_by_path(report, job), ms=_ms_since(began), stages_ms=laps.ms)


def _keep_preview(data: bytes, sha256: str, pixels: PixelArray | None, setup: Setup, limits: Limits) -> bool:
    """Keep what was seen of the film; a refused one is decoded for this alone."""
    from worker import previews
    from worker.assess import SHORTER_SIDE_PX
    from worker.radiograph import decode, read_header

    if setup.preview_dir is None:
        return True
    folder = Path(os.fsdecode(slot_messages.to_path(setup.preview_dir)))
    if previews.exists(folder, sha256):
        return True
    try:
        if pixels is None:
            pixels = decode(read_header(data, limits), limits, shorter_side_px=SHORTER_SIDE_PX).pixels
    except UnreadableError:
        return True  # there is nothing to see
    return previews.keep(folder, sha256, pixels, setup.min_free_bytes)


def _assess(
    data: bytes, sha256: str, job: Job, classifier: Classifier, limits: Limits, began: float, laps: _Laps
) -> tuple[Report, PixelArray | None]:
    from worker.assess import assess

    answer = assess(data, classifier, Declared(job.population), limits, laps.ended, sha256)
    if isinstance(answer, Refusal):
        refused = _refused(answer.sha256, answer.code.value, answer.reason, answer.identity, answer.format, began)
        return refused, None
    return _assessed(answer, began), answer.radiograph.pixels


def _assessed(answer: Assessment, began: float) -> Report:
    film = answer.radiograph
    answers = [number for finding in answer.findings for number in (finding.logit, finding.probability)]
    activations = answer.activation_map.tolist()
    if not all(map(math.isfinite, (*answers, *itertools.chain(*activations)))):
        raise ArithmeticError("the network's answer is no number")
    return Report(
        Outcome.ASSESSED,
        answer.sha256,
        _ms_since(began),
        identity=film.identity,
        format=film.format,
        transfer_syntax_uid=film.transfer_syntax_uid,
        rows=film.rows,
        columns=film.columns,
        gate_caveats=tuple(caveat for caveat in answer.caveats if caveat not in film.caveats),
        content=Content(answer.findings, film.caveats, film.decoder, activations, answer.picture),
    )


def _screen(data: bytes, sha256: str, job: Job, classifier: Classifier, limits: Limits, began: float) -> Report:
    """Header and gate alone: the pixels were assessed before, under whatever name."""
    from worker import gate
    from worker.radiograph import read_header

    header = read_header(data, limits)
    verdict = gate.screen(header, classifier.bundle.manifest.intended_use, Declared(job.population))
    if verdict.refusal is not None:
        code, reason = verdict.refusal
        return _refused(sha256, code.value, reason, header.identity, header.format, began)
    return Report(
        Outcome.ASSESSED,
        sha256,
        _ms_since(began),
        identity=header.identity,
        format=header.format,
        transfer_syntax_uid=header.transfer_syntax_uid,
        rows=header.rows,
        columns=header.columns,
        gate_caveats=verdict.caveats,
    )


def _refused(sha256: str, code: str, reason: str, identity: Identity, kind: str, began: float) -> Report:
    return Report(
        Outcome.REFUSED, sha256, _ms_since(began), identity=identity, format=kind, code=code, reason=escape(reason)
    )


def _unreadable(error: UnreadableError, sha256: str | None, began: float) -> Report:
    return Report(Outcome.UNREADABLE, sha256, _ms_since(began), code=error.code, reason=escape(str(error)))


def _with_header(report: Report, data: bytes, limits: Limits) -> Report:
    """A film whose pixels cannot be decoded still belongs to its patient."""
    from worker.radiograph import read_header

    try:
        header = read_header(data, limits)
    except UnreadableError:
        return report
    return replace(
        report,
        identity=header.identity,
        format=header.format,
        transfer_syntax_uid=header.transfer_syntax_uid,
        rows=header.rows,
        columns=header.columns,
    )


def _named_by_path(report: Report, job: Job) -> Report:
    """Let the root's path pattern name the patient of a film whose tags do not, and make all text fit for sending."""
    from worker import identity as identities

    found = report.identity
    caveats = report.gate_caveats
    if job.path_pattern is not None:
        path = os.fsdecode(slot_messages.to_path(job.path))
        found = identities.fill(found, identities.from_path(path, job.path_pattern))
        if found.patient_id is not None:
            caveats = tuple(caveat for caveat in caveats if caveat is not Caveat.UNIDENTIFIED)
    values: dict[str, Any] = {one.name: getattr(found, one.name) for one in fields(found)}
    safe: dict[str, Any] = {name: escape(value) if isinstance(value, str) else value for name, value in values.items()}
    return replace(report, identity=Identity(**safe), gate_caveats=caveats)


def _send(replies: BinaryIO, reply: Reply) -> None:
    replies.write(slot_messages.encode(reply))
    replies.flush()


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    sys.exit(main())
