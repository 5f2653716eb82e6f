"""Reading of the study header: elements as their bytes state them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from preread.core.study_header import ELEMENT_BYTES_MAX, TAGS, StudyHeader
from preread.core.text.code_extensions import IN_CHARACTER_SET, decode_extended_text
from preread.imaging.elements import PARSE_ERRORS, read_sequence_items

_SINGLE_VALUE = frozenset({"LT", "ST", "UR", "UT"})
_TEXT = IN_CHARACTER_SET | frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
_PN_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_DEPTH_MAX = 3
_REPLACEMENT = "\ufffd"

Element = dict[str, Any]


def read_study_header(dataset: Dataset) -> StudyHeader:
    """Read the study header, to be called before anything converts a value.

    Args:
        dataset: the Data Set as parsed.

    Returns:
        The elements that the file has, also empty and invalid ones.
    """
    elements: dict[str, Element | None] = {}
    for keyword, tag in TAGS.items():
        if BaseTag(int(tag, 16)) in dataset:
            elements[keyword] = _element(dataset, BaseTag(int(tag, 16)))
    return StudyHeader.of(elements)


def _element(dataset: Dataset, tag: BaseTag, depth: int = 0) -> Element | None:
    """Return one element as DICOM JSON; ``None`` if it is too long to be kept.

    Args:
        dataset: holds it.
        tag: its tag.
        depth: number of sequences around it.
    """
    raw: object = dataset.get_item(tag, keep_deferred=True)
    if not isinstance(raw, RawDataElement) or depth > _DEPTH_MAX:
        return None  # converted before, it is not as written any more
    vr = _vr(raw)
    if not raw.value:
        return {"vr": vr}
    if len(raw.value) > ELEMENT_BYTES_MAX:
        return None
    if vr == "SQ":
        found = [_item(item, depth + 1) for item in read_sequence_items(dataset, keyword_for_tag(tag))]
        if None in found:
            return None
        return {"vr": vr, "Value": found} if found else _as_bytes(raw.value)
    text = _decoded(raw.value, vr, dataset.original_character_set)
    return _as_bytes(raw.value) if text is None else {"vr": vr, "Value": _values(text, vr)}


def _item(item: Dataset, depth: int) -> dict[str, Element] | None:
    """Return the standard elements of an item; ``None`` if one of them is too long."""
    elements = {
        f"{tag:08X}": _element(item, tag, depth)
        for tag in item.keys()  # noqa: SIM118 - iterating over the item itself converts its elements
        if keyword_for_tag(tag)
    }
    kept = {tag: element for tag, element in elements.items() if element is not None}
    return kept if len(kept) == len(elements) else None


def _vr(raw: RawDataElement) -> str:
    """Return the VR as written; that of the dictionary where the file states none (PS3.5 A.1, 6.2.2)."""
    if raw.VR in _TEXT or raw.VR == "SQ":
        return raw.VR
    known = dictionary_VR(raw.tag) if raw.VR in {None, "UN"} else "UN"
    return known if known in _TEXT or known == "SQ" else "UN"


def _decoded(value: bytes, vr: str, encodings: str | Sequence[str]) -> str | None:
    """Return the text of a value; ``None`` if it cannot be decoded without loss."""
    if vr not in _TEXT:
        return None
    try:
        if vr not in IN_CHARACTER_SET:
            return value.decode("ascii")
        text = decode_extended_text(value, encodings, is_name=vr == "PN")
    except PARSE_ERRORS:
        return None
    return None if _REPLACEMENT in text else text


def _values(text: str, vr: str) -> list[Any]:
    """Return the values of a text; the padding at their ends is no part of them (PS3.5 6.2)."""
    written = [text] if vr in _SINGLE_VALUE else text.split("\\")
    values = [value.rstrip(" \0") for value in written]
    if vr == "PN":
        return [_name(value) for value in values]
    return [value or None for value in values]


def _name(value: str) -> dict[str, str] | None:
    """Return the component groups of a name (PS3.5 6.2.1)."""
    groups = zip(_PN_GROUPS, value.split("=", 2), strict=False)
    return {name: group for name, group in groups if group} or None


def _as_bytes(value: bytes) -> Element:
    return {"vr": "UN", "InlineBinary": base64.b64encode(value).decode("ascii")}
