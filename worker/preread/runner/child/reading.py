"""Read one open file in an inference process and report its outcome."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from preread.core.errors import PrereadError, UnreadableError
from preread.core.text import vocabulary
from preread.core.text.escaping import escape
from preread.core.types import (
    FORGOTTEN,
    Caveat,
    Declared,
    Identity,
    Outcome,
    PixelArray,
    Radiograph,
    Refusal,
    Stage,
    StatedTag,
    StatedTags,
)
from preread.ledger.records import Observation
from preread.runner.child import protocol
from preread.runner.child.protocol import Content, Job, Known, Report, Setup
from preread.runner.confine import confinement
from preread.share import safe_read

if TYPE_CHECKING:
    from preread.imaging.radiograph import ImageHeader, ImageLimits
    from preread.model.classifier import Classifier


class _Laps:
    """Milliseconds of each stage; time before ``start`` belongs to none."""

    def __init__(self) -> None:
        self.ms: dict[Stage, float] = {}
        self.start()

    def start(self) -> None:
        self._since = time.perf_counter()

    def ended(self, stage: Stage) -> None:
        self.ms[stage] = _ms_since(self._since)
        self.start()


@dataclass(slots=True)
class OpenFile:
    """Open file that the inference process has in hand.

    Attributes:
        descriptor: of its file; closed once it is read.
        classifier: ``None`` if images for training are asked for and no assessment.
        ask: asks the worker what it knows of these bytes, by their SHA-256.
        draw: keeps a preview of these pixels; ``None`` where none is kept. Returns its size, 0 if there is no room.
        decoder_failed: a decoder raised, which may have left the process's memory in any state.
    """

    job: Job
    descriptor: int
    classifier: Classifier | None
    setup: Setup
    ask: Callable[[str], Known]
    draw: Callable[[PixelArray], int] | None
    decoder_failed: bool = False


def assess_open_file(file: OpenFile) -> Report:
    """Assess an open file in an inference process, and draw its preview.

    Raises:
        EnvironmentFault: it changed meanwhile, or the share does not hand out its bytes.
    """
    from preread.imaging.codecs import decoders
    from preread.imaging.radiograph import ImageLimits

    job, setup = file.job, file.setup
    os.environ["OPJ_NUM_THREADS"] = str(job.threads)  # OpenJPEG looks there for each file that it decodes
    began = time.perf_counter()
    laps = _Laps()
    limits = ImageLimits(max_bytes=setup.max_file_bytes, max_pixels=setup.max_pixels)
    expected = Observation(protocol.text_to_path(job.path), job.size_bytes, job.mtime_ns)
    try:
        data = safe_read.read_opened_file(file.descriptor, expected, confinement.read_file_key)
    finally:
        os.close(file.descriptor)
    sha256 = hashlib.sha256(data).hexdigest()
    laps.ended(Stage.READ)
    os.write(setup.notes_fd, sha256.encode())
    answer = file.ask(sha256) if job.ask else Known(False)
    if answer.forgotten:
        return Report(Outcome.REFUSED, sha256, _ms_since(began), code=FORGOTTEN)
    laps.start()
    pixels: PixelArray | None = None
    declared = Declared(job.population, job.assume_age, vocabulary.extended(setup.vocabulary))
    survived = decoders.decoder_failures.survived
    try:
        if file.classifier is None:
            report = _training_image(data, sha256, limits, laps)
        elif answer.known:
            report = _screen(data, sha256, declared, file.classifier, limits, laps)
        else:
            report, pixels = _assess(data, sha256, declared, file.classifier, limits, laps)
    except UnreadableError as error:
        # before the header is read, no decoder of pixels has run
        file.decoder_failed |= Stage.HEADER in laps.ms and _from_decoder(error)
        report = _unreadable(error, sha256, data, limits)
    if job.preview and not answer.preview and report.outcome is not Outcome.UNREADABLE:
        laps.start()
        report = _with_preview(report, data, pixels, file, limits)
        laps.ended(Stage.PREVIEW)
    file.decoder_failed |= decoders.decoder_failures.survived > survived
    return replace(_named_by_path(report, job), ms=_ms_since(began), stages_ms=laps.ms)


def _from_decoder(error: UnreadableError) -> bool:
    """Return whether a library failed, and not a check of ours."""
    cause: BaseException | None = error
    while cause is not None and isinstance(cause, PrereadError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _with_preview(
    report: Report, data: bytes, pixels: PixelArray | None, file: OpenFile, limits: ImageLimits
) -> Report:
    """Add a preview; a refused image is decoded for this alone."""
    from preread.imaging.radiograph import decode_radiograph, read_image_header
    from preread.model.assess import SHORTER_SIDE_PX

    if file.draw is None:
        return report
    try:
        if pixels is None:
            pixels = decode_radiograph(read_image_header(data, limits), limits, shorter_side_px=SHORTER_SIDE_PX).pixels
    except UnreadableError as error:
        file.decoder_failed |= _from_decoder(error)
        return report  # there is nothing to see
    try:
        drawn = file.draw(pixels)
    except MemoryError:
        drawn = 0
    return replace(report, preview_bytes=drawn, preview_dropped=drawn == 0)


def _assess(
    data: bytes, sha256: str, declared: Declared, classifier: Classifier, limits: ImageLimits, laps: _Laps
) -> tuple[Report, PixelArray | None]:
    """Assess the image; also return its pixels, ``None`` if it was refused."""
    from preread.model.assess import assess

    answer = assess(data, classifier, declared, limits, laps.ended, sha256)
    if isinstance(answer, Refusal):
        return _refused(answer), None
    radiograph = answer.radiograph
    numbers = [number for finding in answer.findings for number in (finding.logit, finding.probability)]
    activations = answer.activation_map.tolist()
    if not all(map(math.isfinite, (*numbers, *itertools.chain(*activations)))):
        raise ArithmeticError("the network's output is not finite")
    report = Report(
        Outcome.ASSESSED,
        sha256,
        gate_caveats=tuple(caveat for caveat in answer.caveats if caveat not in radiograph.caveats),
        content=Content(answer.findings, radiograph.caveats, radiograph.decoder, activations, answer.statistics),
        tags=_escaped(answer.tags),
    )
    return _described(report, radiograph), radiograph.pixels


def _training_image(data: bytes, sha256: str, limits: ImageLimits, laps: _Laps) -> Report:
    """Report header and pixels as for training, without an assessment."""
    from preread.imaging.preprocessing import TRAINING_SPEC, resize_to_input
    from preread.imaging.radiograph import decode_radiograph, read_image_header

    header = read_image_header(data, limits)
    laps.ended(Stage.HEADER)
    pixels = resize_to_input(TRAINING_SPEC, decode_radiograph(header, limits).pixels)
    return _described(Report(Outcome.ASSESSED, sha256, shrunk=base64.b64encode(pixels.tobytes()).decode()), header)


def _screen(
    data: bytes, sha256: str, declared: Declared, classifier: Classifier, limits: ImageLimits, laps: _Laps
) -> Report:
    """Check header and intended use of a known content, its pixels only if a tag is not understood."""
    from preread.imaging.radiograph import read_image_header
    from preread.model import intended_use

    header = read_image_header(data, limits)
    verdict = intended_use.check_intended_use(header, classifier.bundle.manifest.intended_use, declared)
    if verdict.refusal is not None:
        refusal = Refusal(sha256, classifier.bundle.label, *verdict.refusal, header.identity, header.format)
        stated = replace(refusal, study_header=header.study_header, caveats=verdict.caveats, tags=verdict.tags)
        return _refused(stated)
    if verdict.refusal_unless_typical is not None:
        report, _ = _assess(data, sha256, declared, classifier, limits, laps)
        return replace(report, content=None)
    tags = _escaped(verdict.tags)
    return _described(Report(Outcome.ASSESSED, sha256, gate_caveats=verdict.caveats, tags=tags), header)


def _refused(refusal: Refusal) -> Report:
    return Report(
        Outcome.REFUSED,
        refusal.sha256,
        identity=refusal.identity,
        format=refusal.format,
        gate_caveats=refusal.caveats,
        code=refusal.code.value,
        reason=escape(refusal.reason),
        study_header=refusal.study_header,
        tags=_escaped(refusal.tags),
    )


def _escaped(tags: StatedTags) -> StatedTags:
    """Return the tags with escaped text."""
    stated: dict[str, StatedTag] = {item.name: getattr(tags, item.name) for item in fields(tags)}
    return StatedTags(
        **{
            name: replace(tag, written=None if tag.written is None else escape(tag.written))
            for name, tag in stated.items()
        }
    )


def _unreadable(error: UnreadableError, sha256: str, data: bytes, limits: ImageLimits) -> Report:
    """Report an image that cannot be decoded, with its header if readable."""
    from preread.imaging.radiograph import read_image_header

    report = Report(Outcome.UNREADABLE, sha256, code=error.code, reason=escape(str(error)))
    try:
        return _described(report, read_image_header(data, limits))
    except UnreadableError:
        return report


def _described(report: Report, source: ImageHeader | Radiograph) -> Report:
    """Return the report with identity, format and size of its image."""
    return replace(
        report,
        identity=source.identity,
        format=source.format,
        transfer_syntax_uid=source.transfer_syntax_uid,
        rows=source.rows,
        columns=source.columns,
        study_header=source.study_header,
    )


def _named_by_path(report: Report, job: Job) -> Report:
    """Fill the identity from the path, and escape its text."""
    from preread.imaging.identity import fill_missing_identity, read_identity_from_path

    found = report.identity
    caveats = report.gate_caveats
    if job.path_pattern is not None:
        path = os.fsdecode(protocol.text_to_path(job.path))
        found = fill_missing_identity(found, read_identity_from_path(path, job.path_pattern))
        if found.patient_id is not None:
            caveats = tuple(caveat for caveat in caveats if caveat is not Caveat.UNIDENTIFIED)
    values: dict[str, Any] = {item.name: getattr(found, item.name) for item in fields(found)}
    safe: dict[str, Any] = {name: escape(value) if isinstance(value, str) else value for name, value in values.items()}
    return replace(report, identity=Identity(**safe), gate_caveats=caveats)


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
