"""Bounded, linear-time parser of a Data Set without pixels (PS3.5 7).

pydicom converts values on access but searches for the end of each value of undefined length anew, parses sequences
that are never accessed, and has no limits. Here each byte is read once: a Data Set beyond the limits is an error, and
elements that no radiograph has are skipped like broken ones.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement, convert_raw_data_element, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import STANDARD_VR

from preread.core.errors import BrokenHeader

LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
"""Value representations with a four-byte length after two reserved bytes (PS3.5 table 7.1-1)."""
ELEMENTS_MAX = 20_000
"""Most elements of a Data Set; a radiograph has about a hundred."""
PIECES_MAX = 500_000
"""Most elements and items within sequences; multi-frame objects, which are refused later, have that many."""
DEPTH_MAX = 64
"""Most levels of nested sequences."""
# A sequence that is used has a few items; the largest has a table of 65,536 entries.
_PIECES_KEPT_MAX = 2_000
_SEQUENCE_BYTES_MAX = 1 << 20
# Longest text or number in an explicit encoding; tables of octets may be longer.
_VALUE_BYTES_MAX = 0xFFFF
_UNDEFINED = 0xFFFFFFFF
_ANY_PIXEL_DATA = frozenset({0x7FE00010, 0x7FE00008, 0x7FE00009})
_CHARACTER_SET = 0x00080005
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LATIN_9 = re.compile(r"ISO.(2022.)?IR.203", re.IGNORECASE)
_DELIMITERS = frozenset({_ITEM, _ITEM_END, _SEQUENCE_END})
_VRS = {vr.value.encode(): vr.value for vr in STANDARD_VR}


@dataclass(frozen=True, slots=True)
class PixelSpan:
    """Position of the pixel data in ``DicomFile.body``.

    Attributes:
        tag: (7FE0,0010), or the tag of float pixel data, which no radiograph has.
        vr: value representation; ``None`` in an implicit encoding.
        start: offset of its first byte in bytes.
        length: in bytes, as written; ``None`` is undefined, that is encapsulated.
    """

    tag: int
    vr: str | None
    start: int
    length: int | None


@dataclass(slots=True)
class _Level:
    """A sequence or item that encloses the current position.

    Attributes:
        end: offset of the first byte after it; ``None`` if a delimiter ends it.
        implicit: its elements are in implicit VR.
        items: it consists of items (a sequence), else of elements.
        order: byte order, ``<`` or ``>``.
    """

    end: int | None
    implicit: bool
    items: bool
    order: str


@dataclass(slots=True)
class _Walk:
    """State of the parser: position in nested sequences, and counts.

    Attributes:
        body: bytes that contain the Data Set.
        order: byte order at the current position, ``<`` or ``>``.
        pieces: elements and items within sequences so far.
        delimiters: offset of the next sequence delimiter by byte order.
        levels: sequences and items that enclose the current position.
    """

    body: bytes
    order: str
    pieces: int = 0
    delimiters: dict[str, int] = field(default_factory=dict)
    levels: list[_Level] = field(default_factory=list)

    def tag_and_length(self, position: int) -> tuple[int, int]:
        group, element, length = struct.unpack_from(f"{self.order}HHI", self.body, position)
        return (group << 16) | element, length

    def header(self, position: int, *, implicit: bool, end: int | None = None) -> tuple[int, str | None, int, int]:
        """Return tag, VR (``None`` if implicit or invalid), length and offset of the value.

        Args:
            position: offset of the element.
            implicit: it is in implicit VR.
            end: offset of the first byte after its item, if known.
        """
        tag, length = self.tag_and_length(position)
        vr = None if implicit or tag in _DELIMITERS else _VRS.get(self.body[position + 4 : position + 6], "")
        if vr is None:
            return tag, None, length, position + 8
        if vr:
            return tag, vr, *self._length(position, is_long=vr in LONG)
        return tag, None, *self._probable_length(position, tag, len(self.body) if end is None else end)

    def _length(self, position: int, *, is_long: bool) -> tuple[int, int]:
        """Return length and offset of the value of an element in explicit VR."""
        if is_long:
            (length,) = struct.unpack_from(f"{self.order}I", self.body, position + 8)
            return length, position + 12
        (length,) = struct.unpack_from(f"{self.order}H", self.body, position + 6)
        return length, position + 8

    def _probable_length(self, position: int, tag: int, end: int) -> tuple[int, int]:
        """Return length and offset of the value of an element with an invalid VR.

        Writers leave it blank or zero, and write a length of two or four bytes, or an element in implicit VR. The form
        is right after which a Data Element or the end follows.
        """
        is_name = self._is_name(position)
        implicit = self.tag_and_length(position)[1], position + 8
        short = self._length(position, is_long=False)
        forms = [short, implicit]
        if not short[0] and position + 12 <= len(self.body):  # two reserved bytes, and four of length
            # a VR that the standard may add has this form (PS3.5 6.2)
            forms.insert(0 if is_name else 1, self._length(position, is_long=True))
        for length, value_at in forms:
            if length == _UNDEFINED:
                if self.sequence_order(value_at):
                    return length, value_at
            elif value_at + length == end or self._is_next(value_at + length, tag):
                return length, value_at
        return short if is_name else implicit

    def _is_name(self, position: int) -> bool:
        """Return whether two letters stand where an explicit element has its VR."""
        written = self.body[position + 4 : position + 6]
        return written.isalpha() and written.isupper()

    def _is_next(self, position: int, previous: int) -> bool:
        """Return whether a Data Element seems to begin here."""
        if position + 8 > len(self.body):
            return False
        tag, _ = self.tag_and_length(position)
        if tag in _DELIMITERS:
            return True
        vr = _VRS.get(self.body[position + 4 : position + 6])
        if vr is not None:
            if position + 12 > len(self.body):
                return False
            length, value_at = self._length(position, is_long=vr in LONG)
            return length == _UNDEFINED or value_at + length <= len(self.body)
        if tag < previous:  # elements are in ascending order (PS3.5 7.1)
            return False
        is_creator = tag & 0x10000 != 0 and 0x10 <= tag & 0xFFFF <= 0xFF
        return is_creator or tag >> 16 == previous >> 16 or _dictionary(tag) is not None

    def is_implicit(self, position: int) -> bool:
        """Return whether a Data Set or item is implicit, by its first element."""
        if self._is_name(position):
            return False
        if position + 8 > len(self.body):
            return True
        # explicit, but for the VR of the first element
        for is_long in (False, True):
            if is_long and position + 12 > len(self.body):
                break
            length, value_at = self._length(position, is_long=is_long)
            if self.body[value_at + length + 4 : value_at + length + 6] in _VRS and self._is_next(
                value_at + length, self.tag_and_length(position)[0]
            ):
                return False
        return True

    def sequence_order(self, value_at: int) -> str:
        """Return the byte order in which an item begins here, else an empty string.

        A sequence that is written as UN is in implicit VR little endian, whatever the transfer syntax (PS3.5 6.2.2).
        """
        for order in (self.order, "<"):
            if self.body[value_at : value_at + 4] in {
                struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF) for tag in (_ITEM, _SEQUENCE_END)
            }:
                return order
        return ""

    def is_sequence(self, tag: int, vr: str | None, value_at: int) -> bool:
        """Return whether a value of undefined length is a sequence, else octets."""
        if vr in {"SQ", "UN"}:
            return True
        if vr is not None:
            return False
        known = _dictionary(tag)
        return known == "SQ" or (known is None and bool(self.sequence_order(value_at)))

    def octets_end(self, value_at: int) -> int:
        """Return the offset after the delimiter of a value of octets; cached."""
        found = self.delimiters.get(self.order, -1)
        if found < value_at:
            index = self.body.find(struct.pack(f"{self.order}HH", 0xFFFE, 0xE0DD), value_at)
            found = self.delimiters[self.order] = len(self.body) if index < 0 else index
        if found + 8 > len(self.body):
            raise BrokenHeader(
                f"The element of the DICOM header with its value at byte {value_at} has an undefined length and no "
                "delimiter (FFFE,E0DD)."
            )
        return found + 8

    def count(self) -> None:
        self.pieces += 1
        if self.pieces > PIECES_MAX:
            raise BrokenHeader(
                "The sequences (SQ) of the DICOM header hold more "
                f"than {PIECES_MAX} elements and items, which is the limit."
            )

    def sequence_end(self, position: int, end: int | None, *, implicit: bool) -> int:
        """Parse a sequence and return the offset after it.

        Raises:
            BrokenHeader: it is truncated, has no items, or has too many elements or levels.
        """
        outer = self.order
        try:
            self.levels = []
            self._enter(_Level(end, implicit, items=True, order=self.sequence_order(position) or outer))
            while self.levels:
                level = self.levels[-1]
                self.order = level.order
                if level.end is not None and position >= level.end:
                    if position > level.end:
                        raise BrokenHeader(
                            f"A sequence (SQ) of the DICOM header ends at byte {position}, after the end {level.end} "
                            "that its length states."
                        )
                    self.levels.pop()
                    continue
                if position + 8 > len(self.body):
                    raise BrokenHeader(
                        f"A sequence (SQ) of the DICOM header is truncated: the file ends after {len(self.body)} bytes."
                    )
                position = self._item(position, level) if level.items else self._element(position, level)
        finally:
            self.order = outer
        return position

    def _item(self, position: int, level: _Level) -> int:
        tag, length = self.tag_and_length(position)
        if tag == _SEQUENCE_END:
            self.levels.pop()
            return position + 8 if level.end is None else level.end
        if tag != _ITEM:
            raise BrokenHeader(
                f"A sequence (SQ) of the DICOM header is damaged: no item (FFFE,E000) begins at byte {position}."
            )
        self.count()
        end = None if length == _UNDEFINED else position + 8 + length
        implicit = level.implicit or self.is_implicit(position + 8)
        self._enter(_Level(end, implicit, items=False, order=level.order))
        return position + 8

    def _element(self, position: int, level: _Level) -> int:
        tag, vr, length, value_at = self.header(position, implicit=level.implicit, end=level.end)
        if tag == _ITEM_END:
            self.levels.pop()
            return position + 8 if level.end is None else level.end
        self.count()
        if length != _UNDEFINED:
            return value_at + length
        if not self.is_sequence(tag, vr, value_at):
            return self.octets_end(value_at)
        order = self.sequence_order(value_at) or level.order
        self._enter(_Level(None, level.implicit, items=True, order=order))
        return value_at

    def _enter(self, level: _Level) -> None:
        if len(self.levels) >= 2 * DEPTH_MAX:
            raise BrokenHeader(
                f"The DICOM header nests sequences (SQ) in more than {DEPTH_MAX} levels, which is the limit."
            )
        self.levels.append(level)


def _dictionary(tag: int) -> str | None:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return None


def parse_data_set(body: bytes, position: int, *, implicit: bool, little: bool) -> tuple[Dataset, PixelSpan | None]:
    """Parse the elements of a DICOM Data Set before the pixel data.

    Args:
        body: bytes that contain the Data Set.
        position: offset of the first element.
        implicit: the transfer syntax has implicit VR; the first element takes precedence.
        little: the byte order is little endian.

    Returns:
        The elements, and the position of the pixel data (``None`` if there is none).

    Raises:
        BrokenHeader: it cannot be parsed, or is beyond the limits of this module.
    """
    walk = _Walk(body, "<" if little else ">")
    if position + 6 <= len(body):
        implicit = walk.is_implicit(position)
    raw: dict[BaseTag, RawDataElement] = {}
    span: PixelSpan | None = None
    for count in range(ELEMENTS_MAX + 1):
        if position + 8 > len(body):
            break
        tag, vr, length, value_at = walk.header(position, implicit=implicit)
        if tag in _ANY_PIXEL_DATA:
            span = PixelSpan(tag, vr, value_at, None if length == _UNDEFINED else length)
            break
        if tag == _ITEM_END:
            break
        if count == ELEMENTS_MAX:
            raise BrokenHeader(f"The DICOM header has more than {ELEMENTS_MAX} elements, which is the limit.")
        order = walk.sequence_order(value_at) or walk.order
        position, value, vr = _value(walk, tag, vr, length, value_at, implicit=implicit)
        if value is not None:
            content: bytes | None = value or empty_value_for_VR(vr, raw=True)  # type: ignore[assignment]
            is_little = order == "<" if vr == "SQ" else little
            raw[BaseTag(tag)] = RawDataElement(BaseTag(tag), vr, len(value), content, value_at, implicit, is_little)
    return _dataset(raw, implicit=implicit, little=little), span


def skip_element(body: bytes, position: int, *, implicit: bool, little: bool) -> int:
    """Return the offset after an element of a Data Set.

    An element of undefined length ends with the Data Set here.

    Raises:
        struct.error: its header is truncated.
    """
    _, _, length, value_at = _Walk(body, "<" if little else ">").header(position, implicit=implicit)
    return len(body) if length == _UNDEFINED else value_at + length


def _value(
    walk: _Walk, tag: int, vr: str | None, length: int, value_at: int, *, implicit: bool
) -> tuple[int, bytes | None, str | None]:
    """Return offset after a value, the value (``None`` if skipped) and its VR."""
    body = walk.body
    before = walk.pieces
    if length == _UNDEFINED:
        if not walk.is_sequence(tag, vr, value_at):
            end = walk.octets_end(value_at)
            return end, _within_limits(body[value_at : end - 8], tag, vr), vr
        end, vr = walk.sequence_end(value_at, None, implicit=implicit), "SQ"
        stop = end - 8
    else:
        end = stop = value_at + length
        known = _dictionary(tag) if vr in {None, "UN"} else vr
        if known != "SQ" or not length:
            return end, _within_limits(body[value_at:end], tag, vr), vr
        try:
            complete = walk.sequence_end(value_at, end, implicit=implicit) == end
        except BrokenHeader:
            if walk.pieces > PIECES_MAX:
                raise
            complete = False
        if not complete:
            return end, None, vr
    if walk.pieces - before > _PIECES_KEPT_MAX or stop - value_at > _SEQUENCE_BYTES_MAX:
        return end, None, vr
    return end, body[value_at:stop], vr


def _within_limits(value: bytes, tag: int, vr: str | None) -> bytes | None:
    """Return a value, or ``None`` if it is longer than its VR allows."""
    if len(value) <= _VALUE_BYTES_MAX:
        return value
    known = (_dictionary(tag) or "") if vr in {None, "UN"} else vr
    return value if len(value) <= _SEQUENCE_BYTES_MAX and ("OW" in known or "OB" in known) else None


def _dataset(raw: dict[BaseTag, RawDataElement], *, implicit: bool, little: bool) -> Dataset:
    dataset = Dataset({**raw})
    terms = convert_raw_data_element(raw[BaseTag(_CHARACTER_SET)]).value if _CHARACTER_SET in raw else None
    dataset.set_original_encoding(implicit, little, find_codecs(terms))
    return dataset


def find_codecs(terms: str | Sequence[str] | None) -> list[str]:
    """Return Python's codecs for a Specific Character Set (0008,0005).

    pydicom has no Latin alphabet No. 9 (ISO_IR 203).

    Args:
        terms: the defined terms; ``None`` is the default repertoire.

    Returns:
        At least one. An unknown term becomes Latin alphabet No. 1, as in pydicom.
    """
    written = [terms] if isinstance(terms, str) else [str(term) for term in terms or ()]
    # convert_encodings accepts names of Python's codecs, too
    return convert_encodings(["iso8859_15" if _LATIN_9.fullmatch(term.strip()) else term for term in written])
