"""Codestream properties, fragments and RLE segments, before decoding.

A header of 16 x 16 may precede a codestream of 12000 x 12000, and a decoder allocates memory for the latter.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from preread.core.errors import BrokenHeader, TruncatedPixels

_RLE_HEADER_BYTES = 64
# A frame may have several; fragments of two kilobytes in a file at the limit of 200 MiB.
_FRAGMENTS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Codestream:
    """Size and sample format that a codestream (compressed image) states.

    Attributes:
        rows: height in pixels.
        columns: width in pixels.
        samples: samples per pixel.
        process: JPEG's start-of-frame marker (0xC0 baseline, 0xC3 lossless, 0xF7 JPEG-LS); 0 for JPEG 2000.
        precision: bits per sample.
        signed: samples are signed; always ``False`` for JPEG and JPEG-LS, which cannot state it.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    process: int = 0
    signed: bool = False


@dataclass(frozen=True, slots=True)
class RasterMetadata:
    """EXIF and XMP metadata of a JPEG or PNG file.

    Attributes:
        exif: TIFF data; empty if there is none.
        xmp: XML; empty if there is none.
    """

    exif: bytes = b""
    xmp: bytes = b""


def split_rle_frame(data: bytes, segments: int) -> list[bytes]:
    """Split a DICOM frame in RLE Lossless into its segments (PS3.5 annex G).

    Args:
        data: the frame.
        segments: samples per pixel times bytes per sample.

    Raises:
        BrokenHeader: the frame has another number of segments.
        TruncatedPixels: a segment begins after the end of the frame.
    """
    if len(data) < _RLE_HEADER_BYTES:
        raise TruncatedPixels(f"The RLE frame has {len(data)} bytes; its header alone has {_RLE_HEADER_BYTES}.")
    count, *offsets = struct.unpack_from("<16I", data)
    if count != segments:
        raise BrokenHeader(
            f"The RLE frame has {count} segments; SamplesPerPixel and BitsAllocated of the header require {segments}."
        )
    bounds = [*offsets[:count], len(data)]
    if bounds[0] < _RLE_HEADER_BYTES or sorted(bounds) != bounds:
        raise TruncatedPixels(f"The offsets of the RLE segments do not rise from {_RLE_HEADER_BYTES} to {len(data)}.")
    return [data[begin:end] for begin, end in pairwise(bounds)]


def join_frame_fragments(body: bytes, start: int) -> bytes:
    """Join the fragments of a DICOM frame of encapsulated pixel data.

    See PS3.5 A.4.

    Args:
        body: the Data Set.
        start: offset of the first item, the Basic Offset Table.

    Raises:
        BrokenHeader: there are no items, or the table has several frames.
        TruncatedPixels: a fragment is truncated, or there is none.
    """
    fragments: list[bytes] = []
    position, is_table_read = start, False
    while position + 8 <= len(body):
        if len(fragments) > _FRAGMENTS_MAX:
            raise BrokenHeader(
                f"The encapsulated pixel data has more than {_FRAGMENTS_MAX} fragments, which is the limit."
            )
        group, element, length = struct.unpack_from("<HHI", body, position)
        position += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            break
        if (group, element) != (0xFFFE, 0xE000):
            raise BrokenHeader(
                f"The encapsulated pixel data is damaged: no item (FFFE,E000) begins at byte {position - 8}."
            )
        if position + length > len(body):
            raise TruncatedPixels(
                f"A fragment of the encapsulated pixel data has a length of {length} bytes; {len(body) - position} "
                "follow."
            )
        if not is_table_read:
            is_table_read = True
            if length > 4:
                raise BrokenHeader(
                    f"The Basic Offset Table has {length // 4} frames; NumberOfFrames in the header is 1."
                )
        else:
            fragments.append(body[position : position + length])
        position += length
    if not any(fragments):
        raise TruncatedPixels("The encapsulated pixel data has no fragment with content; 1 is required.")
    return fragments[0] if len(fragments) == 1 else b"".join(fragments)
