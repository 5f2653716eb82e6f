"""JPEG and JPEG-LS frames, rebuilt from what a picture needs (ITU-T T.81, T.87).

A decoder is handed a start of image, the tables, the frame header, the scans and an end of image, each checked. What
applications add (APPn, comments) is dropped after what the product itself reads of it was read; hierarchical and
arithmetic coding, palettes of JPEG-LS and markers that are not known are refused. Scans are counted.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from preread.core.errors import DecodeFailed, TruncatedPixels, UnsupportedPixels
from preread.imaging.codecs.codestreams import Codestream, Metadata

SEQUENTIAL, PROGRESSIVE, LOSSLESS, LOSSLESS_LS = frozenset({0xC0, 0xC1}), 0xC2, 0xC3, 0xF7
FRAMES = SEQUENTIAL | {PROGRESSIVE, LOSSLESS, LOSSLESS_LS}
"""Start-of-frame markers of the coding processes that are read."""
_DHT, _SOI, _EOI, _SOS, _DQT, _DNL, _DRI, _LSE = 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xF8
KEPT = FRAMES | {_DHT, _SOS, _DQT, _DRI, _LSE}
DROPPED = frozenset({*range(0xE0, 0xF0), 0xFE, _DNL})
"""APPn, COM, and a number of lines that the frame header states already: the samples do not depend on them."""
DROPPED_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
"""TEM and RSTn outside of scans; they have no length."""

_MARKER = re.compile(rb"\xff+([^\x00\xff])")
# Within a scan FF is followed by 00 (T.81 B.1.1.5) or by a byte below 80 (T.87 A.1), but for restarts.
_SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_SCAN_END_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
# A progressive picture has about ten; each costs a decoder the time of the whole picture.
SCANS_MAX = 100
_SEGMENTS_MAX = 100_000
_METADATA_BYTES_MAX = 1 << 20
_ADOBE_BYTES, _JFIF_BYTES = 12, 14


@dataclass(slots=True)
class _Found:
    """What a frame consists of.

    Attributes:
        written: the segments and scans that a decoder is handed.
        scanned: identifiers of the components whose scan was read.
        exif: TIFF data of APP1.
        xmp: text of APP1.
        jfif: there is an APP0 of JFIF.
        adobe: the colour transform of Adobe's APP14.
    """

    written: list[bytes] = field(default_factory=list)
    scanned: list[int] = field(default_factory=list)
    exif: bytes = b""
    xmp: bytes = b""
    jfif: bool = False
    adobe: int | None = None


def read_size(data: bytes) -> Codestream:
    """Read the frame header of JPEG (T.81 B.2.2) or JPEG-LS (T.87 C.2.2).

    Raises:
        DecodeFailed: there is none, or it is damaged.
        TruncatedPixels: the codestream is cut off before it.
    """
    for marker, content, _ in _segments(data):
        if marker in FRAMES:
            return _read_frame(marker, content)[0]
        if marker == _SOS:
            break
    raise DecodeFailed("The JPEG codestream has no frame header.")


def rebuild(data: bytes) -> bytes:
    """Return the codestream to decode.

    Raises:
        DecodeFailed: the frame contradicts itself, or holds what no radiograph needs.
        UnsupportedPixels: its samples are indices of a palette, or depend on what applications add.
        TruncatedPixels: it is cut off.
    """
    return _joined(_read(data).written)


def rebuild_image(data: bytes) -> tuple[bytes, Metadata]:
    """Do the same for a file whose colours are to be converted, and return what it says beside the picture.

    The colour transform that JFIF or Adobe's segment states is stated again, in a segment written here.
    """
    found = _read(data)
    components = read_size(data).samples
    transform = found.adobe
    if components == 3 and (found.jfif or transform not in {None, 0}):
        transform = 1
    elif components == 4 and transform not in {None, 0}:
        transform = 2
    metadata = Metadata(found.exif, found.xmp)
    if components < 3 or transform is None:
        return _joined(found.written), metadata
    return _joined([_segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform)), *found.written]), metadata


def _joined(written: list[bytes]) -> bytes:
    return b"".join((b"\xff\xd8", *written, b"\xff\xd9"))


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield each marker with its segment's content and, after a scan header, the scan; without TEM and RSTn."""
    if data[:2] != b"\xff\xd8":
        raise DecodeFailed("The pixel data does not begin as a JPEG codestream.")
    position, scan_end = 2, _SCAN_END
    for _ in range(_SEGMENTS_MAX):
        found = _MARKER.match(data, position)
        if not found:
            if position + 2 > len(data) or not data[position:].strip(b"\xff"):
                raise TruncatedPixels("The JPEG codestream breaks off.")
            raise DecodeFailed("The JPEG codestream is damaged: a marker is missing.")
        marker, position = found[1][0], found.end()
        if marker in DROPPED_BARE:
            continue
        if marker == _EOI:
            yield marker, b"", b""
            return
        if marker not in KEPT and marker not in DROPPED:
            raise DecodeFailed(f"The JPEG codestream holds the marker {marker:02X}, which no radiograph needs.")
        length = int.from_bytes(data[position : position + 2], "big")
        if position + max(length, 2) > len(data):
            raise TruncatedPixels("The JPEG codestream breaks off.")
        if length < 2:
            raise DecodeFailed(f"The length of a marker segment {marker:02X} is {length}; 2 is the least.")
        content, position = data[position + 2 : position + length], position + length
        scan = b""
        if marker == LOSSLESS_LS:
            scan_end = _SCAN_END_LS
        elif marker == _SOS:
            end = scan_end.search(data, position)
            if not end:
                raise TruncatedPixels("The JPEG codestream breaks off.")
            scan, position = data[position : end.start()], end.start()
        yield marker, content, scan
    raise DecodeFailed(f"The JPEG codestream has more than {_SEGMENTS_MAX} marker segments.")


def _read(data: bytes) -> _Found:
    found = _Found()
    frame: Codestream | None = None
    components: list[int] = []
    scans = 0
    for marker, content, scan in _segments(data):
        if marker == _EOI:
            break
        if marker in DROPPED:
            _read_application(marker, content, found)
            continue
        if marker in FRAMES:
            if frame:
                raise DecodeFailed("The JPEG codestream has more than one frame header.")
            frame, components = _read_frame(marker, content)
        elif marker == _SOS:
            if frame is None:
                raise DecodeFailed("The JPEG codestream has a scan before its frame header.")
            scans += 1
            if scans > SCANS_MAX:
                raise DecodeFailed(f"The JPEG codestream has more than {SCANS_MAX} scans.")
            content = _checked_scan(content, frame, components, found.scanned)  # noqa: PLW2901
        else:
            _check_table(marker, content, jpeg_ls=frame is not None and frame.process == LOSSLESS_LS)
        found.written.extend((_segment(marker, content), scan))
    if frame is None or set(components) - set(found.scanned):
        raise TruncatedPixels("The JPEG codestream lacks a scan or its frame header.")
    return found


def _read_frame(marker: int, content: bytes) -> tuple[Codestream, list[int]]:
    """Return size, and the components' identifiers."""
    if len(content) < 6 or len(content) != 6 + 3 * content[5] or not 1 <= content[5] <= 4:
        raise DecodeFailed("The frame header of the JPEG codestream is damaged.")
    precision, rows, columns, samples = struct.unpack_from(">BHHB", content)
    identifiers = list(content[6::3])
    factors = [factor for both in content[7::3] for factor in (both >> 4, both & 15)]
    depths = {0xC0: {8}, 0xC1: {8, 12}, PROGRESSIVE: {8, 12}}.get(marker, set(range(2, 17)))
    if not rows or not columns or not all(1 <= factor <= 4 for factor in factors) or max(content[8::3]) > 3:
        raise DecodeFailed("The frame header of the JPEG codestream is damaged.")
    if len(set(identifiers)) < samples:
        raise DecodeFailed("Two components of the JPEG codestream have one identifier.")
    if precision not in depths:
        raise UnsupportedPixels(f"The codestream has {precision} bits per sample.")
    return Codestream(rows, columns, samples, precision, process=marker), identifiers


def _checked_scan(content: bytes, frame: Codestream, components: list[int], scanned: list[int]) -> bytes:
    """Check a scan header (T.81 B.2.3), and return it as the frame's coding process wants it."""
    count = content[0] if content else 0
    chosen, tables = list(content[1 : 1 + 2 * count : 2]), content[2 : 2 + 2 * count : 2]
    well = 1 <= count <= len(components) and len(content) == 4 + 2 * count and len(set(chosen)) == count
    if not well or set(chosen) - set(components):
        raise DecodeFailed("A scan header of the JPEG codestream is damaged.")
    if frame.process != PROGRESSIVE and set(chosen) & set(scanned):
        raise DecodeFailed("The JPEG codestream codes a component twice.")
    scanned.extend(one for one in chosen if one not in scanned)
    start, end, high, low = content[-3], content[-2], content[-1] >> 4, content[-1] & 15
    if frame.process == LOSSLESS_LS:
        well = not any(tables) and end <= 2 and high == low == 0
    elif frame.process == LOSSLESS:
        well = 1 <= start <= 7 and end == high == 0 and low < frame.precision
    elif frame.process == PROGRESSIVE:
        band = start == end == 0 or (0 < start <= end <= 63 and count == 1)
        well = band and low <= 13 and (high == 0 or high == low + 1)
    else:  # nothing may be chosen here (T.81 table B.3), and some writers leave anything
        content = content[:-3] + b"\x00\x3f\x00"
    if not well or (frame.process != LOSSLESS_LS and any(table & 0xCC for table in tables)):
        raise DecodeFailed("A scan header of the JPEG codestream is damaged.")
    return content


def _check_table(marker: int, content: bytes, *, jpeg_ls: bool) -> None:
    """Check quantisation tables, Huffman tables, restart interval or JPEG-LS parameters (T.81 B.2.4, T.87 C.2.4)."""
    position, well = 0, True
    if marker == _DQT:
        while well and position < len(content):
            precision, number = divmod(content[position], 16)
            position += 1 + 64 * (1 + precision)
            well = precision <= 1 and number <= 3
    elif marker == _DHT:
        while well and position < len(content):
            kind, number = divmod(content[position], 16)
            symbols = sum(content[position + 1 : position + 17])
            position += 17 + symbols
            well = kind <= 1 and number <= 3 and symbols <= 256
    elif marker == _DRI:
        position = len(content) if jpeg_ls and len(content) in {3, 4} else 2
    elif content[:1] in {b"\x02", b"\x03"}:
        raise UnsupportedPixels("The samples of the JPEG-LS codestream are indices of a palette.")
    else:
        position, well = 11, jpeg_ls and content[:1] == b"\x01"
    if not well or position != len(content):
        raise DecodeFailed(f"The marker segment {marker:02X} of the JPEG codestream is damaged.")


def _read_application(marker: int, content: bytes, found: _Found) -> None:
    """Keep what this product reads of the segments that no decoder is handed."""
    if marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= _JFIF_BYTES:
        found.jfif = True
    elif marker == 0xE1 and content.startswith(b"Exif\0\0") and len(found.exif) < _METADATA_BYTES_MAX:
        found.exif += content[6:]
    elif marker == 0xE1 and content.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        found.xmp = content.split(b"\0", 1)[1]
    elif marker == 0xEE and content.startswith(b"Adobe") and len(content) >= _ADOBE_BYTES:
        found.adobe = content[11]
    elif marker == 0xE8 and content.startswith(b"mrfx") and any(content[4:]):
        raise UnsupportedPixels("The JPEG-LS codestream holds a colour transform that its standard does not know.")
