"""Assessment of an image: a pure function of content and bundle.

Service, commands, evaluation and tests call the same function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from preread.core.errors import BlankPicture, ColourNotGrey
from preread.core.types import Assessment, Caveat, Declared, PixelArray, Refusal, RefusalCode, Stage
from preread.imaging.preprocessing import preprocess_image, resize_to_input
from preread.imaging.radiograph import DEFAULT_LIMITS, ImageHeader, ImageLimits, decode_radiograph, read_image_header
from preread.imaging.statistics import GREY_LEVEL_SPREAD_MIN, grey_level_range, measure_image
from preread.model.classifier import Classifier
from preread.model.intended_use import TagCheck, check_intended_use, not_understood

_GREY_LEVELS_MIN = 8
# If the codec stores lower resolutions, network and page need no more than this.
SHORTER_SIDE_PX = 1024


def assess(
    data: bytes,
    classifier: Classifier,
    declared: Declared = Declared(),
    limits: ImageLimits = DEFAULT_LIMITS,
    on_stage_end: Callable[[Stage], None] = lambda _: None,
    sha256: str | None = None,
) -> Assessment | Refusal:
    """Assess an image with a model bundle: its findings, or a refusal.

    Args:
        data: content of the file.
        classifier: the bundle to use.
        declared: declaration of the watched folder or command.
        limits: upper limits on bytes and pixels, applied before any decoding.
        on_stage_end: called with the stage after each stage has ended; the caller measures time.
        sha256: SHA-256 of ``data`` (hex) if already known; ``None`` computes it.

    Returns:
        The findings, or the refusal of an image outside the intended use.

    Raises:
        UnreadableError: a subclass gives the reason why the content is not a radiograph, e.g. ``BlankPicture``.
    """
    sha256 = sha256 or hashlib.sha256(data).hexdigest()
    bundle = classifier.bundle
    header = read_image_header(data, limits)
    checked = check_intended_use(header, bundle.manifest.intended_use, declared)
    on_stage_end(Stage.HEADER)
    if checked.refusal is not None:
        return _refusal(sha256, bundle.label, checked.refusal, header, checked)
    try:
        radiograph = decode_radiograph(header, limits, shorter_side_px=SHORTER_SIDE_PX)
    except ColourNotGrey:
        reason = "the image is in colour, as a photograph or a screen capture"
        return _refusal(sha256, bundle.label, (RefusalCode.NOT_A_RADIOGRAPH, reason), header, checked)
    on_stage_end(Stage.DECODE)
    if radiograph.scale_fault:
        unclear = (RefusalCode.SCALE_UNCLEAR, radiograph.scale_fault)
        return _refusal(sha256, bundle.label, unclear, header, checked)
    pixels = resize_to_input(bundle.manifest.preprocessing, radiograph.pixels)
    # averages lie between the averaged values: if they differ by so much, so do the full-resolution pixels
    if np.ptp(pixels) < _GREY_LEVELS_MIN and np.ptp(radiograph.pixels) < _GREY_LEVELS_MIN:
        low, high = int(radiograph.pixels.min()), int(radiograph.pixels.max())
        raise BlankPicture(
            f"All grey levels are between {low} and {high} of 255; they must differ by at least {_GREY_LEVELS_MIN}."
        )
    batch = preprocess_image(bundle.manifest.preprocessing, pixels)
    on_stage_end(Stage.PREPROCESS)
    output = classifier.classify(batch)
    on_stage_end(Stage.INVOKE)
    refusal = classifier.detector.check_scope(pixels, output.embedding) or _check_grey_scale(pixels)
    if refusal is None and checked.refusal_unless_typical is not None:
        typical = classifier.detector.is_typical(pixels, output.embedding)
        refusal = None if typical else checked.refusal_unless_typical
    if refusal:
        return _refusal(sha256, bundle.label, refusal, header, checked)
    caveats: dict[Caveat, None] = dict.fromkeys((*checked.caveats, *radiograph.caveats))
    return Assessment(
        sha256=sha256,
        bundle=bundle.label,
        findings=tuple(
            spec.compute_finding(float(logit))
            for spec, logit in zip(bundle.manifest.findings, output.logit, strict=True)
        ),
        caveats=tuple(caveats),
        radiograph=radiograph,
        statistics=measure_image(pixels),
        activation_map=output.activation_map,
        embedding=output.embedding,
        tags=checked.tags,
    )


def _refusal(
    sha256: str, bundle: str, refusal: tuple[RefusalCode, str], header: ImageHeader, checked: TagCheck
) -> Refusal:
    return Refusal(
        sha256,
        bundle,
        *refusal,
        header.identity,
        header.format,
        study_header=header.study_header,
        caveats=not_understood(checked.tags),
        tags=checked.tags,
    )


def _check_grey_scale(pixels: PixelArray) -> tuple[RefusalCode, str] | None:
    """Return the refusal of an image that is nearly of one grey level.

    Args:
        pixels: uint8 [rows, columns] of the network's input.

    Returns:
        Code, and reason as a sentence; ``None`` if the image may be assessed.
    """
    darkest, brightest = grey_level_range(np.bincount(pixels.ravel(), minlength=256))
    if brightest - darkest >= GREY_LEVEL_SPREAD_MIN:
        return None
    return RefusalCode.SCALE_UNCLEAR, (
        f"nearly all grey levels lie between {darkest} and {brightest} of 255; they must differ by at least "
        f"{GREY_LEVEL_SPREAD_MIN}"
    )
