"""Codestream properties, fragments and RLE segments, before decoding.

A header of 16 x 16 may precede a codestream of 12000 x 12000, and a decoder allocates memory for the latter.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from itertools import accumulate, pairwise

from preread.core.errors import BrokenHeader, TruncatedPixels

_RLE_HEADER_BYTES = 64
_NO_OPERATION = re.compile(rb"\x80*")
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
# Instead of the delimiter: zeros, the delimiter of an item, Data Set Trailing Padding
_ENDS = frozenset({_SEQUENCE_END, _ITEM_END, (0, 0), (0xFFFC, 0xFFFC)})
# JPEG and JPEG-LS, JPEG 2000, JP2
_SIGNATURES = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
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


def cut_rle_segment(segment: bytes, count: int) -> bytes:
    """Return an RLE segment without the bytes after its last pixel.

    Writers pad segments to an even length with zeros, blanks or anything else, which a decoder takes for further runs.

    Args:
        segment: PackBits runs (PS3.5 G.3.1).
        count: number of bytes that the segment stands for.

    Returns:
        Runs of exactly ``count`` bytes; the segment as it is if it has fewer.
    """
    position, left, size = 0, count, len(segment)
    while left > 0 and position < size:
        begin, header = position, segment[position]
        if header == 0x80:
            matched = _NO_OPERATION.match(segment, position)
            position = matched.end() if matched else size
            continue
        run = header + 1 if header < 0x80 else 257 - header
        position += 2 + header if header < 0x80 else 2
        left -= run
    if left > 0:
        return segment
    if left == 0:
        return segment[:position]
    needed = run + left  # the last run goes beyond the last pixel
    if begin + 1 == size:
        return segment
    if header < 0x80 or needed == 1:
        return segment[:begin] + bytes((needed - 1,)) + segment[begin + 1 : begin + 1 + needed]
    return segment[:begin] + bytes((257 - needed, segment[begin + 1]))


def join_frame_fragments(body: bytes, start: int) -> bytes:
    """Join the fragments of a DICOM frame of encapsulated pixel data.

    See PS3.5 A.4.

    The Basic Offset Table counts only if one of its entries points to another fragment that begins a codestream:
    writers add entries for fragments and for the end.

    Args:
        body: the Data Set.
        start: offset of the first item, the Basic Offset Table.

    Raises:
        BrokenHeader: there are no items, or the table has several frames.
        TruncatedPixels: a fragment is truncated, or there is none.
    """
    fragments: list[bytes] = []
    table: tuple[int, int] | None = None
    position = start
    while position + 8 <= len(body):
        if len(fragments) > _FRAGMENTS_MAX:
            raise BrokenHeader(
                f"The encapsulated pixel data has more than {_FRAGMENTS_MAX} fragments, which is the limit."
            )
        group, element, length = struct.unpack_from("<HHI", body, position)
        position += 8
        if table is not None and (group, element) in _ENDS:
            break
        if (group, element) != _ITEM:
            raise BrokenHeader(
                f"The encapsulated pixel data is damaged: no item (FFFE,E000) begins at byte {position - 8}."
            )
        if position + length > len(body):
            raise TruncatedPixels(
                "A fragment of the encapsulated pixel data has a "
                f"length of {length} bytes; {len(body) - position} follow."
            )
        if table is None:
            table = position, position + length // 4 * 4
        else:
            fragments.append(body[position : position + length])
        position += length
    if not any(fragments):
        raise TruncatedPixels("The encapsulated pixel data has no fragment with content; 1 is required.")
    if table and _has_several_frames(memoryview(body)[slice(*table)], fragments):
        raise BrokenHeader("The Basic Offset Table points to several frames; NumberOfFrames in the header is 1.")
    return fragments[0] if len(fragments) == 1 else b"".join(fragments)


def _has_several_frames(table: memoryview, fragments: list[bytes]) -> bool:
    """Return whether a Basic Offset Table points to a second codestream."""
    offsets = accumulate((8 + len(fragment) for fragment in fragments), initial=0)
    others = {
        offset
        for offset, fragment in zip(offsets, fragments, strict=False)
        if offset > 0 and _begins_codestream(fragment)
    }
    return any(others.issuperset(entry) for entry in struct.iter_unpack("<I", table)) if others else False


def _begins_codestream(fragment: bytes) -> bool:
    if fragment.startswith(_SIGNATURES):
        return True
    if len(fragment) < _RLE_HEADER_BYTES:
        return False
    count, first, *_ = struct.unpack_from("<16I", fragment)
    return bool(0 < count <= 15 and first == _RLE_HEADER_BYTES)
