"""What a compressed picture says of itself, read before any decoder sees it.

A header of 16 x 16 may stand before a codestream of 12000 x 12000, and a decoder allocates by the latter.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from worker.errors import BrokenHeader, DecodeFailed, TruncatedPixels

# Start Of Frame markers (ITU-T T.81 table B.1, T.87): all of C0..CF but DHT, JPG and DAC; F7 is JPEG-LS.
_SOF = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_RLE_HEADER_BYTES = 64


@dataclass(frozen=True, slots=True)
class Codestream:
    """The size of a codestream.

    Attributes:
        process: JPEG's start-of-frame marker (0xC0 baseline, 0xC3 lossless, 0xF7 JPEG-LS); 0 for JPEG 2000.
        precision: bits per sample.
        signed: whether samples are signed; JPEG and JPEG-LS cannot say, so ``False``.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    process: int = 0
    signed: bool = False


def read_jpeg(data: bytes) -> Codestream:
    """Read the frame header of JPEG (ITU-T T.81 B.2.2) or JPEG-LS (T.87 C.2.2).

    Raises:
        DecodeFailed: there is none.
        TruncatedPixels: the codestream has no end-of-image marker.
    """
    if data[:2] != b"\xff\xd8":
        raise DecodeFailed("The pixel data does not begin as a JPEG codestream.")
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise DecodeFailed("The JPEG codestream is damaged before its frame header.")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _STANDALONE:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _SOF:
            if position + 10 > len(data):
                break
            precision, rows, columns, samples = struct.unpack_from(">BHHB", data, position + 4)
            # Within entropy-coded data FF is always stuffed, so the last FFD9 ends the picture. Decoders fill what
            # is missing with grey and say nothing.
            if data.rfind(b"\xff\xd9") < position:
                raise TruncatedPixels("The JPEG codestream breaks off.")
            return Codestream(rows, columns, samples, precision, process=marker)
        position += 2 + length
    raise TruncatedPixels("The JPEG codestream breaks off before its frame header.")


def read_rle(data: bytes, segments: int) -> list[bytes]:
    """Cut an RLE frame into its segments (PS3.5 annex G).

    Args:
        segments: samples per pixel times bytes per sample.

    Raises:
        BrokenHeader: the frame has another number of segments.
        TruncatedPixels: a segment begins behind the end.
    """
    if len(data) < _RLE_HEADER_BYTES:
        raise TruncatedPixels("The RLE frame breaks off.")
    count, *offsets = struct.unpack_from("<16I", data)
    if count != segments:
        raise BrokenHeader(f"The RLE frame has {count} segments; the header means {segments}.")
    bounds = [*offsets[:count], len(data)]
    if bounds[0] < _RLE_HEADER_BYTES or sorted(bounds) != bounds:
        raise TruncatedPixels("The RLE frame breaks off.")
    return [data[begin:end] for begin, end in pairwise(bounds)]


def read_frame(body: bytes, start: int) -> bytes:
    """Join the fragments of the one frame of encapsulated pixel data (PS3.5 A.4).

    Args:
        body: the Data Set.
        start: offset of the first item, the Basic Offset Table.

    Raises:
        BrokenHeader: there are no items, or the table speaks of several frames.
        TruncatedPixels: a fragment is cut off, or the delimiter is missing after half a header.
    """
    fragments: list[bytes] = []
    position, table_seen = start, False
    while position + 8 <= len(body):
        group, element, length = struct.unpack_from("<HHI", body, position)
        position += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            break
        if (group, element) != (0xFFFE, 0xE000):
            raise BrokenHeader("The encapsulated pixel data holds something that is no item.")
        if position + length > len(body):
            raise TruncatedPixels("A fragment of the pixel data breaks off.")
        if not table_seen:
            table_seen = True
            if length > 4:
                raise BrokenHeader("The offset table speaks of several frames; the header of one.")
        else:
            fragments.append(body[position : position + length])
        position += length
    if not any(fragments):
        raise TruncatedPixels("The pixel data holds no fragment.")
    return fragments[0] if len(fragments) == 1 else b"".join(fragments)
