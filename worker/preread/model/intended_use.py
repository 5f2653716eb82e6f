"""Check of the intended use by tags: modality, body part, view, age.

Tags can cause a refusal but prove nothing: a third of real chest radiographs state neither body part nor view, and some
state a wrong one. A missing tag becomes a caveat.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from preread.core.types import Caveat, Declared, Identity, IntendedUse, Population, RefusalCode
from preread.imaging.radiograph import ImageHeader

_FOR_PROCESSING_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.1.1.1"})
_COMPUTED = "1.2.840.10008.5.1.4.1.1.1"
_DIGITAL = "1.2.840.10008.5.1.4.1.1.1.1"
_SECONDARY = frozenset({"1.2.840.10008.5.1.4.1.1.7", *(f"1.2.840.10008.5.1.4.1.1.7.{n}" for n in (1, 2, 3, 4))})
# Other names of the modality of projection radiographs: old or non-standard DX and CR.
_MODALITY_ALIASES = frozenset({"DR", "RG", "XR"})

_SIDE_MIN_PX = 64
_ASPECT_MAX = 4.0

_ANIMAL = re.compile(r"\b(canine|feline|equine|bovine|veterin\w*|v[eé]t[eé]rin\w*|tierklinik|tierarzt\w*)\b")

_BLANK_PARTS = frozenset({"", "UNKNOWN", "OTHER", "UNSPECIFIED", "NONE", "NULL", "N/A", "NA", "*", "-", "."})
_CHEST = re.compile(r"chest|thora[ckx]|t[oó]rax|lung|pulmo|poumon|brust\b|\bcxr\b|\bcht\b")
_MORE_THAN_CHEST = re.compile(r"spine|spinal|lumb|abd")
_CHEST_CODES = frozenset({"816094009", "51185008", "43799004", "39607008", "t-d3000", "t-28000"})
_OTHER_PARTS = re.compile(
    r"\b(abdom\w*|pelvis|hips?|knees?|ankles?|foot|feet|toes?|hands?|wrists?|fingers?|thumbs?|elbows?|forearms?|"
    r"humerus|shoulders?|clavicles?|scapula\w*|[clt]-?spine|spine|cervical|lumbar|lumbosacral|skull|head|neck|sinus\w*|"
    r"orbits?|mandible|teeth|tooth|femur|tibia|fibula|leg|legs|calcaneus|breast|mammo\w*|extremit\w+)\b"
)

_FRONTAL = frozenset({"AP", "PA"})
_OTHER_VIEWS = frozenset({"LL", "RL", "LAT", "LATERAL", "LLD", "RLD", "RLO", "LLO", "LAO", "RAO", "LPO", "RPO", "OBL"})
_FRONTAL_TEXT = re.compile(r"\b(ap|pa|frontal|a\.p\.?|p\.a\.?|antero-?posterior|postero-?anterior)\b")
_OTHER_TEXT = re.compile(r"\b(lat|lateral\w*|lld|rld|obl\w*|lao|rao|lpo|rpo|lordot\w*|apical|decub\w*|seitlich)\b")
# SNOMED CT, and the SRT codes that stood for them until 2018 (PS3.16 CID 4010).
_FRONTAL_CODES: Mapping[str, str] = {"399348003": "AP", "272479007": "PA", "r-10206": "AP", "r-10214": "PA"}
_OTHER_CODES = frozenset({"399067008", "399173006", "399198007", "r-10236", "r-10232"})


@dataclass(frozen=True, slots=True)
class TagCheck:
    """Result of the check of an image's tags: refusal or caveats.

    Attributes:
        refusal: code, and reason as a sentence; ``None`` if the image may be assessed.
        caveats: assumptions, and what is outside the intended use, in the order of the checks.
    """

    refusal: tuple[RefusalCode, str] | None = None
    caveats: tuple[Caveat, ...] = ()


def check_intended_use(header: ImageHeader, intended_use: IntendedUse, declared: Declared) -> TagCheck:
    """Check from its header if an image is within a bundle's intended use.

    Args:
        header: header of the image.
        intended_use: intended use of the bundle.
        declared: declaration for missing tags; it never overrides a tag. The population ``research`` allows other ages
            and views, with a caveat; all other checks are the same.

    Returns:
        A refusal with its reason, or the caveats of an assessment.
    """
    if not header.is_image:
        return _refuse(RefusalCode.NOT_AN_IMAGE, "the DICOM file is not an image but a report, a directory or similar")
    caveats: list[Caveat] = []
    if header.format == "DICOM":
        refusal = _modality(header, intended_use) or (_animal(header) if header.has_pixels else None)
        if refusal:
            return TagCheck(refusal)
        if not header.has_pixels or header.number_of_frames > 1:
            return TagCheck()  # unreadable when decoded; its other tags may be truncated
        for check in (_shape(header), _body_part(header, intended_use, caveats)):
            if check:
                return TagCheck(check)
        refusal = _view(header, intended_use, declared, caveats)
    else:
        caveats.append(Caveat.NO_TAGS)
        refusal = _shape(header)
    refusal = refusal or _age(header.identity, intended_use, declared, caveats)
    if refusal:
        return TagCheck(refusal)
    if header.identity.patient_id is None:
        caveats.append(Caveat.UNIDENTIFIED)
    return TagCheck(None, tuple(caveats))


def _refuse(code: RefusalCode, reason: str) -> TagCheck:
    return TagCheck((code, reason))


_Reason = tuple[RefusalCode, str] | None


def _modality(header: ImageHeader, intended_use: IntendedUse) -> _Reason:
    """Check modality and SOP class together, since either is often wrong.

    Most DX objects state the modality CR.
    """
    modality, sop_class_uid = header.identity.modality, header.sop_class_uid
    if sop_class_uid in _FOR_PROCESSING_CLASSES or header.presentation_intent_type == "FOR PROCESSING":
        return RefusalCode.FOR_PROCESSING, "the image is raw detector data (FOR PROCESSING), not for presentation"
    supported = ", ".join(intended_use.modalities)
    is_radiograph_class = sop_class_uid in {_COMPUTED, _DIGITAL}
    if sop_class_uid is not None and not is_radiograph_class and sop_class_uid not in _SECONDARY:
        stated = f"the modality is {_quote(modality)}" if modality else "the SOP class is that of another modality"
        return RefusalCode.MODALITY, f"{stated}; the bundle reads {supported}"
    if modality in intended_use.modalities or (is_radiograph_class and modality in {None, *_MODALITY_ALIASES}):
        return None
    if modality is None and not header.has_pixels:
        return None
    if modality is None:
        return RefusalCode.MODALITY, f"the image states no modality; the bundle reads {supported}"
    return RefusalCode.MODALITY, f"the modality is {_quote(modality)}; the bundle reads {supported}"


def _animal(header: ImageHeader) -> _Reason:
    described = (*header.search_text, (header.identity.institution_name or "").lower())
    if header.animal_text or any(_ANIMAL.search(line) for line in described):
        return RefusalCode.NOT_HUMAN, "the image is of an animal"
    return None


def _shape(header: ImageHeader) -> _Reason:
    rows, columns = header.rows or 0, header.columns or 0
    if rows <= 0 or columns <= 0:
        return None  # decoding reports the fault of such a header
    if min(rows, columns) < _SIDE_MIN_PX or max(rows, columns) > _ASPECT_MAX * min(rows, columns):
        return RefusalCode.SHAPE, f"{rows} x {columns} pixels is not the size or shape of a radiograph"
    return None


def _body_part(header: ImageHeader, intended_use: IntendedUse, caveats: list[Caveat]) -> _Reason:
    """Check the body part by tag and code, else by the descriptions."""
    stated = (header.identity.body_part_examined or "").strip()
    parts = [] if stated in _BLANK_PARTS else [stated.lower()]
    parts += header.body_part_codes
    supported = ", ".join(intended_use.body_parts)
    if any(_is_chest(part) or part.upper() in intended_use.body_parts for part in parts):
        return None
    if parts:
        return RefusalCode.BODY_PART, f"the body part is {_quote(parts[0].upper())}; the bundle reads {supported}"
    if any(_is_chest(line) for line in header.search_text):
        return None
    for line in header.search_text:
        other = _OTHER_PARTS.search(line)
        if other:
            return (
                RefusalCode.BODY_PART,
                f"the body part in the descriptions is {other[0]}; the bundle reads {supported}",
            )
    caveats.append(Caveat.BODY_PART_UNKNOWN)
    return None


def _is_chest(text: str) -> bool:
    return text in _CHEST_CODES or (_CHEST.search(text) is not None and not _MORE_THAN_CHEST.search(text))


def _view(header: ImageHeader, intended_use: IntendedUse, declared: Declared, caveats: list[Caveat]) -> _Reason:
    view = _stated_view(header)
    if view is None:
        caveats.append(Caveat.VIEW_UNKNOWN)
        return None
    if view in intended_use.view_positions:
        return None
    if declared.population is Population.RESEARCH:
        caveats.append(Caveat.OUTSIDE_INTENDED_VIEW)
        return None
    return RefusalCode.VIEW, f"the view is {_quote(view)}; the bundle reads {', '.join(intended_use.view_positions)}"


def _stated_view(header: ImageHeader) -> str | None:
    """Return the stated view: ``AP``, ``PA``, another name, or ``None``.

    Study descriptions are not used: "PA and lateral" there describes all images of the study.
    """
    for code in header.view_codes:
        if code in _FRONTAL_CODES:
            return _FRONTAL_CODES[code]
        if code in _OTHER_CODES or (_OTHER_TEXT.search(code) and not _FRONTAL_TEXT.search(code)):
            return "LATERAL"
    stated = re.sub(r"[^A-Z]+", " ", header.identity.view_position or "").split()
    if stated:
        if set(stated) & _OTHER_VIEWS:
            return next(word for word in stated if word in _OTHER_VIEWS)
        if set(stated) & _FRONTAL:
            return next(word for word in stated if word in _FRONTAL)
    # In a lateral view the row points to the front or the back of the patient (PS3.3 C.7.6.1.1.1).
    row = (header.patient_orientation or "").split("\\")[0].strip()
    for line in header.view_text:
        if _OTHER_TEXT.search(line) and not _FRONTAL_TEXT.search(line):
            return "LATERAL"
    if row[:1] in {"A", "P"} and "\\" in (header.patient_orientation or ""):
        return "LATERAL"
    for line in header.view_text:
        match = _FRONTAL_TEXT.search(line)
        if match and not _OTHER_TEXT.search(line):  # "AP/LAT" is a protocol of two views, not the view of this image
            return "AP" if match[0].startswith(("ap", "a.", "antero")) else "PA"
    return None


def _age(identity: Identity, intended_use: IntendedUse, declared: Declared, caveats: list[Caveat]) -> _Reason:
    low, high = intended_use.age_min_years, intended_use.age_max_years
    research = declared.population is Population.RESEARCH
    years = identity.patient_age_years
    if years is not None:
        if low <= years < high:
            return None
        if research:
            caveats.append(Caveat.OUTSIDE_INTENDED_AGE)
            return None
        stated = f"{years:.0f} years" if years >= 6 else f"{years:.1f} years"
        return RefusalCode.AGE_OUTSIDE, f"the patient is {stated} old; the bundle reads ages {low:g} to under {high:g}"
    # A declaration replaces missing tags, not contradictory ones.
    if not identity.age_conflict:
        if declared.population is Population.CHILDREN_1_5Y:
            caveats.append(Caveat.AGE_DECLARED)
            return None
        if declared.assume_age:
            caveats.append(Caveat.AGE_ASSUMED)
            return None
    if research:
        caveats.append(Caveat.OUTSIDE_INTENDED_AGE)
        return None
    if identity.age_conflict:
        return RefusalCode.AGE_UNKNOWN, "the stated age contradicts the birth and study dates"
    return RefusalCode.AGE_UNKNOWN, "the image states no patient age, and its folder declares no population"


def _quote(text: str) -> str:
    """Return a tag's text for a message: at most 32 safe characters."""
    return re.sub(r"[^\w .,/+-]", "?", text)[:32]
