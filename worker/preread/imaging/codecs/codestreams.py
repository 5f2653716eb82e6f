"""What a compressed picture says of itself, read before any decoder sees it.

A header of 16 x 16 may stand before a codestream of 12000 x 12000, and a decoder allocates by the latter.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from preread.core.errors import BrokenHeader, TruncatedPixels

_RLE_HEADER_BYTES = 64
# One frame may lie in several; a fragment of two kilobytes, and a file at the limit of 200 MiB.
_FRAGMENTS_MAX = 100_000


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


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says beside its picture: EXIF (TIFF data) and XMP, each perhaps empty."""

    exif: bytes = b""
    xmp: bytes = b""


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
        if len(fragments) > _FRAGMENTS_MAX:
            raise BrokenHeader(f"The pixel data has more than {_FRAGMENTS_MAX} fragments.")
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
