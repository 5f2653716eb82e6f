"""The one pure function that decides; daemon, commands, evaluation and tests all call it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from preread.core.errors import BlankPicture
from preread.core.types import Assessment, Caveat, Declared, Refusal, Stage
from preread.imaging.preprocessing import apply, shrink
from preread.imaging.radiograph import DEFAULT_LIMITS, Limits, decode, read_header
from preread.imaging.statistics import measure_image
from preread.model.classifier import Classifier
from preread.model.intended_use import check_intended_use

_GREY_LEVELS_MIN = 8
# A film whose codec holds smaller copies of itself is decoded no larger than network and page need it.
SHORTER_SIDE_PX = 1024


def assess(
    data: bytes,
    classifier: Classifier,
    declared: Declared = Declared(),
    limits: Limits = DEFAULT_LIMITS,
    on_stage_end: Callable[[Stage], None] = lambda _: None,
    sha256: str | None = None,
) -> Assessment | Refusal:
    """Say what the classifier's bundle says of one file's bytes.

    Args:
        data: the whole file.
        declared: what its root says of its films.
        limits: on bytes and pixels, applied before any decoding.
        on_stage_end: hears of each stage when it is over; who wants to know how long it took has a clock.
        sha256: of the data, where it is known already.

    Raises:
        UnreadableError: a subclass names why the bytes are no radiograph.
    """
    sha256 = sha256 or hashlib.sha256(data).hexdigest()
    bundle = classifier.bundle
    header = read_header(data, limits)
    verdict = check_intended_use(header, bundle.manifest.intended_use, declared)
    on_stage_end(Stage.HEADER)
    if verdict.refusal is not None:
        code, reason = verdict.refusal
        return Refusal(sha256, bundle.label, code, reason, header.identity, header.format)
    radiograph = decode(header, limits, shorter_side_px=SHORTER_SIDE_PX)
    on_stage_end(Stage.DECODE)
    picture = shrink(bundle.manifest.preprocessing, radiograph.pixels)
    # averages lie between what they average: where they differ by so much, the film's own pixels need no look
    if np.ptp(picture) < _GREY_LEVELS_MIN and np.ptp(radiograph.pixels) < _GREY_LEVELS_MIN:
        low, high = int(radiograph.pixels.min()), int(radiograph.pixels.max())
        raise BlankPicture(f"all of the picture lies between the grey levels {low} and {high} of 255")
    batch = apply(bundle.manifest.preprocessing, picture)
    on_stage_end(Stage.PREPROCESS)
    output = classifier.classify(batch)
    on_stage_end(Stage.INVOKE)
    refused = classifier.detector.check(picture, output.embedding)
    if refused:
        return Refusal(sha256, bundle.label, *refused, header.identity, header.format)
    caveats: dict[Caveat, None] = dict.fromkeys((*verdict.caveats, *radiograph.caveats))
    return Assessment(
        sha256=sha256,
        bundle=bundle.label,
        findings=tuple(
            spec.to_finding(float(logit)) for spec, logit in zip(bundle.manifest.findings, output.logit, strict=True)
        ),
        caveats=tuple(caveats),
        radiograph=radiograph,
        statistics=measure_image(picture),
        activation_map=output.activation_map,
        embedding=output.embedding,
    )
