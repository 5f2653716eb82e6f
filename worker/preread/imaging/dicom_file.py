"""Parser of DICOM files: Data Set, and position of the pixel data.

All encodings of PS3.5 and PS3.10. The File Meta Information is not read by pydicom, because pydicom inflates a deflated
file without a limit before it parses anything, and fails if the transfer syntax is missing.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from preread.core.errors import BrokenHeader, TooManyBytes, UnknownFormat
from preread.imaging import data_set
from preread.imaging.data_set import LONG, PixelSpan
from preread.imaging.elements import PARSE_ERRORS

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
NATIVE = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG})

_PREAMBLE_BYTES = 128
_PREFIX = b"DICM"
# (0002,0000), with which File Meta Information begins (PS3.10 7.1)
_META_LENGTH = b"\x02\0\0\0UL\x04\0"
# Group 0002 has about ten.
_META_ELEMENTS_MAX = 1_000
_GROUPS_AT_START = frozenset({0x0002, 0x0008})


@dataclass(frozen=True, slots=True)
class DicomFile:
    """Parsed DICOM file: Data Set, and position of the pixel data.

    Attributes:
        dataset: the elements before the pixel data.
        transfer_syntax_uid: as stated; if the file states none, the native one detected from its content.
        media_storage_sop_class_uid: (0002,0002); ``None`` if missing.
        little_endian: the Data Set is in little-endian byte order.
        body: the bytes that ``pixels`` refers to: the file, or the inflated Data Set.
        pixels: position of the pixel data; ``None`` if there is none.
    """

    dataset: Dataset
    transfer_syntax_uid: str
    media_storage_sop_class_uid: str | None
    little_endian: bool
    body: bytes
    pixels: PixelSpan | None


def looks_like_dicom(data: bytes) -> bool:
    """Return whether a file's content is DICOM, with or without preamble.

    See PS3.10 7.
    """
    if data[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] == _PREFIX:
        return True
    return _encoding_at(data, 0) is not None


def parse_dicom_file(data: bytes, max_bytes: int) -> DicomFile:
    """Parse a DICOM file up to its pixel data.

    Args:
        data: content of the file.
        max_bytes: limit on the inflated size of a deflated Data Set in bytes.

    Raises:
        UnknownFormat: there is no preamble, and the content does not begin with a Data Set.
        BrokenHeader: the Data Set cannot be parsed.
        TooManyBytes: it inflates to more than ``max_bytes``, or needs more memory than available.
    """
    meta, offset = _read_meta(data, _start(data))
    syntax = meta.get(0x0010)
    body = data
    if syntax == DEFLATED:
        body, offset = _inflate(data, offset, max_bytes), 0
    if syntax is None:
        guess = _encoding_at(body, offset)
        if guess is None and offset == 0:
            raise UnknownFormat
        if guess is None:
            raise BrokenHeader(
                "The file lacks TransferSyntaxUID (0002,0010), and "
                "its first element has none of the encodings of DICOM."
            )
        implicit, little = guess
        syntax = IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE if little else EXPLICIT_BIG
    else:
        implicit, little = syntax == IMPLICIT_LITTLE, syntax != EXPLICIT_BIG
    try:
        dataset, pixels = data_set.parse_data_set(body, offset, implicit=implicit, little=little)
    except PARSE_ERRORS:
        raise BrokenHeader("An element of the DICOM header is truncated or damaged and cannot be parsed.") from None
    except MemoryError:
        raise TooManyBytes(
            f"Parsing the DICOM header of {len(body)} bytes needs more memory than is available."
        ) from None
    return DicomFile(dataset, syntax, meta.get(0x0002), little, body, pixels)


def _start(data: bytes) -> int:
    """Return the offset of the first element: after the preamble, or 0.

    The prefix ``DICM`` may also stand by chance in a value of a Data Set without preamble.
    """
    behind = _PREAMBLE_BYTES + 4
    if data[_PREAMBLE_BYTES:behind] != _PREFIX:
        return 0
    if data[behind : behind + 8] == _META_LENGTH or not _value_covers(data, _PREAMBLE_BYTES, behind):
        return behind
    return 0


def _value_covers(data: bytes, begin: int, end: int) -> bool:
    """Return whether elements from offset 0 lead to a value that covers a range."""
    try:
        _, position = _read_meta(data, 0)
        guess = _encoding_at(data, position)
        if guess is not None:
            implicit, little = guess
            while position < begin:
                position = data_set.skip_element(data, position, implicit=implicit, little=little)
    except (BrokenHeader, struct.error):
        return False
    return end <= position <= len(data)


def _read_meta(data: bytes, offset: int) -> tuple[dict[int, str], int]:
    """Parse group 0002, explicit little endian (PS3.10 7.1).

    Returns:
        The UIDs (0002,0002) and (0002,0010) by element number, and the offset of the Data Set.
    """
    uids: dict[int, str] = {}
    for count in itertools.count():
        if offset + 8 > len(data):
            break
        group, element = struct.unpack_from("<HH", data, offset)
        if group != 0x0002:
            break
        if count == _META_ELEMENTS_MAX:
            raise BrokenHeader(
                "The File Meta Information (group 0002) has more "
                f"than {_META_ELEMENTS_MAX} elements, which is the limit."
            )
        vr = data[offset + 4 : offset + 6]
        if vr.isalpha() and vr.isupper():
            if vr.decode() in LONG:
                if offset + 12 > len(data):
                    raise _truncated_meta(element, offset + 12, data)
                start, length = offset + 12, struct.unpack_from("<I", data, offset + 8)[0]
            else:
                start, length = offset + 8, struct.unpack_from("<H", data, offset + 6)[0]
        else:  # some writers use implicit VR here too
            start, length = offset + 8, struct.unpack_from("<I", data, offset + 4)[0]
        if start + length > len(data):
            raise _truncated_meta(element, start + length, data)
        if element in {0x0002, 0x0010} and 0 < length <= 66:
            uid = data[start : start + length].decode("ascii", "replace").strip(" \0")
            if uid:
                uids[element] = uid
        offset = start + length
    return uids, offset


def _truncated_meta(element: int, end: int, data: bytes) -> BrokenHeader:
    return BrokenHeader(
        f"The File Meta Information is truncated: its element (0002,{element:04X}) ends at byte {end} of {len(data)}."
    )


def _encoding_at(data: bytes, offset: int) -> tuple[bool, bool] | None:
    """Detect the encoding of an element without File Meta Information.

    Returns:
        (implicit VR, little endian); ``None`` if there is no plausible element of groups 0002 or 0008.
    """
    head = data[offset : offset + 8]
    if len(head) < 8:
        return None
    for little in (True, False):
        order = "<" if little else ">"
        group, element = struct.unpack_from(f"{order}HH", head)
        if group not in _GROUPS_AT_START or element > 0x2000:
            continue
        if group == 0x0002 and not little:
            continue
        vr = head[4:6]
        if vr.isalpha() and vr.isupper():
            return (False, little) if _in_dictionary(group, element, vr.decode()) else None
        (length,) = struct.unpack_from(f"{order}I", head, 4)
        if little and length <= len(data) - offset - 8 and _in_dictionary(group, element, None):
            return True, True
    return None


def _in_dictionary(group: int, element: int, vr: str | None) -> bool:
    """Return whether the data dictionary has the tag (with the VR, if given)."""
    if element == 0:  # group length, retired but written
        return vr in {None, "UL"}
    try:
        known = dictionary_VR((group << 16) | element)
    except KeyError:
        return False
    return vr is None or vr in known.split(" or ") or vr == "UN"


def _inflate(data: bytes, offset: int, max_bytes: int) -> bytes:
    """Inflate a deflated Data Set (PS3.5 A.5) to at most ``max_bytes`` bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(memoryview(data)[offset:], max_bytes + 1)
    except zlib.error:
        raise BrokenHeader(
            f"The Data Set is damaged: its transfer syntax is {DEFLATED} (deflated), but it cannot be inflated."
        ) from None
    except MemoryError:
        raise TooManyBytes(
            f"Inflating the {len(data)} bytes of the file needs more memory than is available."
        ) from None
    if len(body) > max_bytes:
        raise TooManyBytes(f"The deflated Data Set inflates to more than {max_bytes} bytes, which is the limit.")
    return body
