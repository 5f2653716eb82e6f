"""Check of the intended use by tags: modality, body part, view, age.

Tags can cause a refusal but prove nothing: a third of real chest radiographs state neither body part nor view, and some
state a wrong one. A missing tag becomes a caveat. One that is not understood is not a missing one: a view or body part
is then assessed only if the pixels are clearly those of a chest, an age only in research.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from preread.core.text import vocabulary
from preread.core.text.ages import AgeReading
from preread.core.types import (
    Caveat,
    Declared,
    IntendedUse,
    Population,
    RefusalCode,
    StatedTag,
    StatedTags,
    TagState,
)
from preread.imaging.radiograph import ImageHeader, read_sop_class_name
from preread.model import stated_tags

_FOR_PROCESSING_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.1.1.1"})
_COMPUTED = "1.2.840.10008.5.1.4.1.1.1"
_DIGITAL = "1.2.840.10008.5.1.4.1.1.1.1"
_SECONDARY = frozenset({"1.2.840.10008.5.1.4.1.1.7", *(f"1.2.840.10008.5.1.4.1.1.7.{n}" for n in (1, 2, 3, 4))})
_STANDARD_PREFIX = "1.2.840.10008."

_SIDE_MIN_PX = 64
_ASPECT_MAX = 4.0

_Reason = tuple[RefusalCode, str] | None
_NOT_UNDERSTOOD = {
    "age": Caveat.AGE_NOT_UNDERSTOOD,
    "view": Caveat.VIEW_NOT_UNDERSTOOD,
    "body_part": Caveat.BODY_PART_NOT_UNDERSTOOD,
    "modality": Caveat.MODALITY_NOT_UNDERSTOOD,
    "species": Caveat.SPECIES_NOT_UNDERSTOOD,
}


@dataclass(frozen=True, slots=True)
class TagCheck:
    """Result of the check of an image's tags: refusal or caveats.

    Attributes:
        refusal: code, and reason as a sentence; ``None`` if the image may be assessed.
        caveats: assumptions, and what is outside the intended use, in the order of the checks; with a refusal, the tags
            that are not understood.
        refusal_unless_typical: refusal of an image whose view or body part is not understood, unless its pixels are
            within the range of usual chest radiographs (``Detector.is_typical``); ``None`` if there is no such tag.
        tags: what the image states.
    """

    refusal: _Reason = None
    caveats: tuple[Caveat, ...] = ()
    refusal_unless_typical: _Reason = None
    tags: StatedTags = field(default=StatedTags(), compare=False)


def check_intended_use(header: ImageHeader, intended_use: IntendedUse, declared: Declared) -> TagCheck:
    """Check from its header if an image is within a bundle's intended use.

    Args:
        header: header of the image.
        intended_use: intended use of the bundle.
        declared: declaration for missing tags; it never overrides a tag, nor one that is not understood. The population
            ``research`` allows other ages and views, with a caveat; all other checks are the same.

    Returns:
        A refusal with its reason, or the caveats of an assessment.
    """
    if not header.is_image:
        return _refuse(RefusalCode.NOT_AN_IMAGE, "the DICOM file is not an image but a report, a directory or similar")
    tags = stated_tags.read_tags(header, intended_use, declared.vocabulary or vocabulary.standard())
    caveats: list[Caveat] = []
    if header.format == "DICOM":
        refusal = _modality(header, tags.modality, intended_use) or (_species(tags) if header.has_pixels else None)
        if refusal is None and (not header.has_pixels or header.number_of_frames > 1):
            return TagCheck(tags=tags)  # unreadable when decoded; its other tags may be truncated
        refusal = refusal or _shape(header) or _body_part(tags.body_part, intended_use, caveats)
        refusal = refusal or _view(tags.view, intended_use, declared, caveats)
    else:
        caveats.append(Caveat.NO_TAGS)
        refusal = _shape(header)
    refusal = refusal or _age(header.age, tags.age, intended_use, declared, caveats)
    if refusal:
        return TagCheck(refusal, not_understood(tags), tags=tags)
    if header.identity.patient_id is None:
        caveats.append(Caveat.UNIDENTIFIED)
    return TagCheck(None, tuple(caveats), _unless_typical(caveats, tags, intended_use, declared), tags)


def not_understood(tags: StatedTags) -> tuple[Caveat, ...]:
    """Return the caveats of all tags that are present but not understood."""
    return tuple(
        caveat for name, caveat in _NOT_UNDERSTOOD.items() if getattr(tags, name).state is TagState.NOT_UNDERSTOOD
    )


def _refuse(code: RefusalCode, reason: str) -> TagCheck:
    return TagCheck((code, reason))


def _modality(header: ImageHeader, modality: StatedTag, intended_use: IntendedUse) -> _Reason:
    """Check modality and SOP class together, since either is often wrong.

    Most DX objects state the modality CR, and some CR and secondary captures one of the old terms.
    """
    sop_class_uid = header.sop_class_uid
    if sop_class_uid in _FOR_PROCESSING_CLASSES or header.presentation_intent_type == "FOR PROCESSING":
        return RefusalCode.FOR_PROCESSING, "the image is raw detector data (FOR PROCESSING), not for presentation"
    supported = ", ".join(intended_use.modalities)
    is_radiograph_class = sop_class_uid in {_COMPUTED, _DIGITAL}
    readable = modality.value in intended_use.modalities or modality.value in stated_tags.MODALITY_ALIASES
    if modality.state is TagState.NOT_UNDERSTOOD:
        stated = f"the modality is {_quote(modality.written)}, which is not a term of DICOM"
    elif modality.state is TagState.UNDERSTOOD and not readable:
        stated = f"the modality is {_quote(modality.value)}"
    elif sop_class_uid is not None and not is_radiograph_class and sop_class_uid not in _SECONDARY:
        return RefusalCode.MODALITY, f"{_other_class(sop_class_uid)}; the bundle reads radiographs ({supported})"
    elif readable or is_radiograph_class or not header.has_pixels:
        return None
    else:
        stated = "the image states no modality"
    return RefusalCode.MODALITY, f"{stated}; the bundle reads {supported}"


def _other_class(sop_class_uid: str) -> str:
    if not sop_class_uid.startswith(_STANDARD_PREFIX):
        return f"the SOP class {_quote(sop_class_uid, 64)} is a manufacturer's own, whose pixels only its programs know"
    return f"the SOP class is {_quote(read_sop_class_name(sop_class_uid), 64)}, not that of a plain radiograph"


def _species(tags: StatedTags) -> _Reason:
    species = tags.species
    if species.state is TagState.NOT_UNDERSTOOD:
        reason = f"the species is {_quote(species.written)}, which is not understood; the bundle reads images of humans"
        return RefusalCode.NOT_HUMAN, reason
    if species.value == vocabulary.ANIMAL:
        return RefusalCode.NOT_HUMAN, "the image is of an animal, by its species, breed, owner or descriptions"
    return None


def _shape(header: ImageHeader) -> _Reason:
    rows, columns = header.rows or 0, header.columns or 0
    if rows <= 0 or columns <= 0:
        return None  # decoding reports the fault of such a header
    if min(rows, columns) < _SIDE_MIN_PX or max(rows, columns) > _ASPECT_MAX * min(rows, columns):
        return RefusalCode.SHAPE, f"{rows} x {columns} pixels is not the size or shape of a radiograph"
    return None


def _body_part(part: StatedTag, intended_use: IntendedUse, caveats: list[Caveat]) -> _Reason:
    if part.state is TagState.NOT_UNDERSTOOD and (part.written or "").upper() not in intended_use.body_parts:
        caveats += [Caveat.BODY_PART_UNKNOWN, Caveat.BODY_PART_NOT_UNDERSTOOD]
    elif part.state is TagState.ABSENT:
        caveats.append(Caveat.BODY_PART_UNKNOWN)
    elif part.value is not None and not set(part.value.split("+")) <= set(intended_use.body_parts):
        supported = ", ".join(intended_use.body_parts)
        return RefusalCode.BODY_PART, f"the body part is {_in_words(part)}; the bundle reads {supported}"
    return None


def _view(view: StatedTag, intended_use: IntendedUse, declared: Declared, caveats: list[Caveat]) -> _Reason:
    supported = intended_use.view_positions
    if view.state is TagState.NOT_UNDERSTOOD:
        caveats += [Caveat.VIEW_UNKNOWN, Caveat.VIEW_NOT_UNDERSTOOD]
    elif view.state is TagState.ABSENT or (view.value == "FRONTAL" and not {"AP", "PA"} <= set(supported)):
        caveats.append(Caveat.VIEW_UNKNOWN)
    elif view.value != "FRONTAL" and view.value not in supported:
        if declared.population is not Population.RESEARCH:
            return RefusalCode.VIEW, f"the view is {_in_words(view)}; the bundle reads {', '.join(supported)}"
        caveats.append(Caveat.OUTSIDE_INTENDED_VIEW)
    return None


def _age(
    reading: AgeReading, age: StatedTag, intended_use: IntendedUse, declared: Declared, caveats: list[Caveat]
) -> _Reason:
    low, high = intended_use.age_min_years, intended_use.age_max_years
    if age.state is TagState.UNDERSTOOD and reading.youngest is not None:
        if low <= reading.youngest < high:
            return None
        refusal = (
            RefusalCode.AGE_OUTSIDE,
            f"the patient is {age.value} old; the bundle reads ages {low:g} to under {high:g}",
        )
    elif age.state is TagState.NOT_UNDERSTOOD:
        problem = reading.problem or _TWO_READINGS
        refusal = (RefusalCode.AGE_UNKNOWN, problem.format(written=_quote(age.written)))
    # a declaration replaces missing tags, not those that contradict each other or are not understood
    elif declared.population is Population.CHILDREN_1_5Y:
        caveats.append(Caveat.AGE_DECLARED)
        return None
    elif declared.assume_age:
        caveats.append(Caveat.AGE_ASSUMED)
        return None
    else:
        refusal = (RefusalCode.AGE_UNKNOWN, "the image states no patient age, and its folder declares no population")
    if declared.population is not Population.RESEARCH:
        return refusal
    caveats.append(Caveat.OUTSIDE_INTENDED_AGE)
    if age.state is TagState.NOT_UNDERSTOOD:
        caveats.append(Caveat.AGE_NOT_UNDERSTOOD)
    return None


_TWO_READINGS = "the date {written} has two readings, of which one gives an age within the intended ones"


def _unless_typical(caveats: list[Caveat], tags: StatedTags, intended_use: IntendedUse, declared: Declared) -> _Reason:
    """Return the refusal of an image whose pixels do not make up for a tag that is not understood."""
    unclear = "which is not understood, and the pixels are not clearly those of"
    if Caveat.BODY_PART_NOT_UNDERSTOOD in caveats:
        parts = ", ".join(intended_use.body_parts)
        reason = f"the body part is {_quote(tags.body_part.written)}, {unclear} a chest; the bundle reads {parts}"
        return RefusalCode.BODY_PART, reason
    if Caveat.VIEW_NOT_UNDERSTOOD in caveats and declared.population is not Population.RESEARCH:
        views = ", ".join(intended_use.view_positions)
        reason = f"the view is {_quote(tags.view.written)}, {unclear} a frontal view; the bundle reads {views}"
        return RefusalCode.VIEW, reason
    return None


def _in_words(tag: StatedTag) -> str:
    """Return what a tag means, and in brackets what is written if that differs."""
    meaning = (tag.value or "").replace("_", " ").replace("+", " and ")
    written = _quote(tag.written)
    return meaning if written.upper() == meaning else f"{meaning} ({written})"


def _quote(text: str | None, length: int = 32) -> str:
    """Return a tag's text for a message: at most so many safe characters."""
    return re.sub(r"[^\w .,/+\\-]", "?", text or "")[:length]
