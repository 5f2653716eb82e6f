"""A DICOM file as its Data Set without pixels and a view of its pixel data, whatever its encoding (PS3.5, PS3.10).

The File Meta Information is read here and not by pydicom, because pydicom inflates a deflated file without a bound
before it parses anything, and gives up where the transfer syntax is missing.
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
# Group 0002 has some ten.
_META_ELEMENTS_MAX = 1_000
_GROUPS_AT_START = frozenset({0x0002, 0x0008})


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A parsed file.

    Attributes:
        dataset: every element before the pixel data.
        transfer_syntax_uid: as the file says; where it says none, the native one that it was found to be in.
        media_storage_sop_class_uid: from the File Meta Information, ``None`` if that is missing.
        little_endian: byte order of the Data Set.
        body: the bytes that ``pixels`` points into: the file, or what it inflates to.
    """

    dataset: Dataset
    transfer_syntax_uid: str
    media_storage_sop_class_uid: str | None
    little_endian: bool
    body: bytes
    pixels: PixelSpan | None


def looks_like_dicom(data: bytes) -> bool:
    """Tell DICOM by content: the prefix after a preamble, or a first element that can begin a file without one."""
    if data[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] == b"DICM":
        return True
    return _encoding_at(data, 0) is not None


def parse(data: bytes, max_bytes: int) -> DicomFile:
    """Read everything but the pixel data.

    Args:
        data: the whole file.
        max_bytes: most bytes that a deflated Data Set may inflate to.

    Raises:
        UnknownFormat: without preamble, and the start is no Data Set.
        BrokenHeader: the Data Set cannot be read.
        TooManyBytes: it inflates to more than ``max_bytes``, or needs more memory than there is.
    """
    offset = _PREAMBLE_BYTES + 4 if data[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] == b"DICM" else 0
    meta, offset = _read_meta(data, offset)
    syntax = meta.get(0x0010)
    body = data
    if syntax == DEFLATED:
        body, offset = _inflate(data, offset, max_bytes), 0
    if syntax is None:
        guess = _encoding_at(body, offset)
        if guess is None and offset == 0:
            raise UnknownFormat
        if guess is None:
            raise BrokenHeader("The file names no transfer syntax, and its first element is in none.")
        implicit, little = guess
        syntax = IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE if little else EXPLICIT_BIG
    else:
        implicit, little = syntax == IMPLICIT_LITTLE, syntax != EXPLICIT_BIG
    try:
        dataset, pixels = data_set.read(body, offset, implicit=implicit, little=little)
    except PARSE_ERRORS:
        raise BrokenHeader("The DICOM header cannot be parsed.") from None
    except MemoryError:
        raise TooManyBytes("The header needs more memory than there is.") from None
    return DicomFile(dataset, syntax, meta.get(0x0002), little, body, pixels)


def _read_meta(data: bytes, offset: int) -> tuple[dict[int, str], int]:
    """Walk group 0002, which is explicit little endian (PS3.10 7.1); its length element is not trusted.

    Returns:
        The UIDs (0002,0002) and (0002,0010) by element number, and the offset of the Data Set.
    """
    found: dict[int, str] = {}
    for count in itertools.count():
        if offset + 8 > len(data):
            break
        group, element = struct.unpack_from("<HH", data, offset)
        if group != 0x0002:
            break
        if count == _META_ELEMENTS_MAX:
            raise BrokenHeader(f"The file meta information has more than {_META_ELEMENTS_MAX} elements.")
        vr = data[offset + 4 : offset + 6]
        if vr.isalpha() and vr.isupper():
            if vr.decode() in LONG:
                if offset + 12 > len(data):
                    raise BrokenHeader("The file meta information breaks off.")
                start, length = offset + 12, struct.unpack_from("<I", data, offset + 8)[0]
            else:
                start, length = offset + 8, struct.unpack_from("<H", data, offset + 6)[0]
        else:  # some writers use implicit VR here too
            start, length = offset + 8, struct.unpack_from("<I", data, offset + 4)[0]
        if start + length > len(data):
            raise BrokenHeader("The file meta information breaks off.")
        if element in {0x0002, 0x0010} and 0 < length <= 66:
            uid = data[start : start + length].decode("ascii", "replace").strip(" \0")
            if uid:
                found[element] = uid
        offset = start + length
    return found, offset


def _encoding_at(data: bytes, offset: int) -> tuple[bool, bool] | None:
    """Tell how an element is encoded that no file meta information describes.

    Returns:
        (implicit VR, little endian), or ``None`` if there is no plausible element of the first groups.
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
    """Text may begin with bytes that look like a tag, seldom with those of an attribute in its own VR."""
    if element == 0:  # group length, retired but written
        return vr in {None, "UL"}
    try:
        known = dictionary_VR((group << 16) | element)
    except KeyError:
        return False
    return vr is None or vr in known.split(" or ") or vr == "UN"


def _inflate(data: bytes, offset: int, max_bytes: int) -> bytes:
    """Inflate a deflated Data Set (PS3.5 A.5) to at most ``max_bytes``."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(memoryview(data)[offset:], max_bytes + 1)
    except zlib.error:
        raise BrokenHeader("The deflated data set is damaged.") from None
    except MemoryError:
        raise TooManyBytes("The file inflates to more than memory holds.") from None
    if len(body) > max_bytes:
        raise TooManyBytes(f"The file inflates to more than {max_bytes} bytes.")
    return body
