"""JPEG and JPEG-LS frames, rebuilt from the segments that decoding needs.

See ITU-T T.81 and T.87. The decoder receives start of image, tables, frame header, scans and end of image, all checked.
Application segments and comments are dropped, after EXIF, XMP and colour transform were read from them. Hierarchical
and arithmetic coding, palettes of JPEG-LS, unknown markers and too many scans are errors.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from preread.core.errors import DecodeFailed, TruncatedPixels, UnsupportedPixels
from preread.imaging.codecs.codestreams import Codestream, RasterMetadata

BASELINE, EXTENDED, PROGRESSIVE, LOSSLESS, LOSSLESS_LS = 0xC0, 0xC1, 0xC2, 0xC3, 0xF7
SEQUENTIAL = frozenset({BASELINE, EXTENDED})
FRAMES = SEQUENTIAL | {PROGRESSIVE, LOSSLESS, LOSSLESS_LS}
"""Start-of-frame markers of the supported coding processes."""
_DHT, _SOI, _EOI, _SOS, _DQT, _DNL, _DRI, _LSE = 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xF8
KEPT = FRAMES | {_DHT, _SOS, _DQT, _DRI, _LSE}
DROPPED = frozenset({*range(0xE0, 0xF0), 0xFE, _DNL})
"""APPn, COM and DNL, on which the samples do not depend."""
DROPPED_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
"""TEM and RSTn outside of scans; they have no length field."""

_MARKER = re.compile(rb"\xff+([^\x00\xff])")
# Except for restarts, FF within a scan is followed by 00 (T.81 B.1.1.5) or by a byte below 80 (T.87 A.1).
_SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_SCAN_END_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
# A progressive image has about ten; each takes a decoder the time of a complete image.
SCANS_MAX = 100
_SEGMENTS_MAX = 100_000
# A code ends in at most 16 bits of any value and 7 of padding (T.87 A.5.3).
_ZEROS_MAX = 3
_METADATA_BYTES_MAX = 1 << 20
_ADOBE_BYTES, _JFIF_BYTES = 12, 14


@dataclass(slots=True)
class _Frame:
    """Parts of a parsed frame.

    Attributes:
        written: segments and scans for the decoder.
        scanned: identifiers of the components with a scan.
        exif: TIFF data of APP1.
        xmp: text of APP1.
        jfif: there is a JFIF APP0 segment.
        adobe: colour transform of Adobe's APP14; ``None`` if there is none.
    """

    written: list[bytes] = field(default_factory=list)
    scanned: list[int] = field(default_factory=list)
    exif: bytes = b""
    xmp: bytes = b""
    jfif: bool = False
    adobe: int | None = None


def read_jpeg_size(data: bytes) -> Codestream:
    """Read size and sample format of a JPEG or JPEG-LS frame.

    See T.81 B.2.2 and T.87 C.2.2.

    Args:
        data: the codestream.

    Raises:
        DecodeFailed: there is none, or it is damaged.
        TruncatedPixels: the codestream is truncated before it.
    """
    for marker, content, _ in _segments(data):
        if marker in FRAMES:
            return _read_frame(marker, content)[0]
        if marker == _SOS:
            break
    raise DecodeFailed("The JPEG codestream has no frame header (SOF) before its first scan; 1 is required.")


def rebuild_jpeg_frame(data: bytes) -> bytes:
    """Rebuild a JPEG or JPEG-LS frame from the segments for decoding.

    Args:
        data: the codestream.

    Raises:
        DecodeFailed: the frame is inconsistent, or has segments that no radiograph needs.
        UnsupportedPixels: its samples are palette indices, or depend on an application segment.
        TruncatedPixels: it is truncated.
    """
    return _joined(_read(data).written)


def rebuild_jpeg_ls_variants(data: bytes) -> Iterator[bytes]:
    """Yield a rebuilt JPEG-LS codestream, and forms with less padding.

    Some writers pad a scan with zero bytes, which CharLS does not accept. The last code of a scan may end in at most
    three zero bytes itself, so those that a scan needs are not known before it is decoded.

    Args:
        data: the codestream.

    Raises:
        DecodeFailed, UnsupportedPixels, TruncatedPixels: as ``rebuild_jpeg_frame``.
    """
    written = _read(data).written
    yield _joined(written)
    scans = written[1::2]
    bare = [scan.rstrip(b"\0") for scan in scans]
    padding = max(len(scan) - len(end) for scan, end in zip(scans, bare, strict=True))
    for kept in range(min(padding, 1 + _ZEROS_MAX)):
        trimmed = list(written)
        trimmed[1::2] = [scan[: len(end) + kept] for scan, end in zip(scans, bare, strict=True)]
        yield _joined(trimmed)


def rebuild_jpeg_file(data: bytes) -> tuple[bytes, RasterMetadata]:
    """Rebuild a JPEG file from the segments for decoding, and read metadata.

    As ``rebuild_jpeg_frame``, for a decoder that converts colours.
    The colour transform stated by JFIF or Adobe's segment is written to a new segment.

    Returns:
        The codestream and the metadata of the file.
    """
    parts = _read(data)
    components = read_jpeg_size(data).samples
    transform = parts.adobe
    if components == 3 and (parts.jfif or transform not in {None, 0}):
        transform = 1
    elif components == 4 and transform not in {None, 0}:
        transform = 2
    metadata = RasterMetadata(parts.exif, parts.xmp)
    if components < 3 or transform is None:
        return _joined(parts.written), metadata
    return _joined([_segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform)), *parts.written]), metadata


def _joined(written: list[bytes]) -> bytes:
    return b"".join((b"\xff\xd8", *written, b"\xff\xd9"))


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield marker, content and, after a scan header, scan of each segment.

    TEM and RSTn are skipped.
    """
    if data[:2] != b"\xff\xd8":
        raise DecodeFailed("The JPEG codestream does not begin with the marker FFD8 (start of image).")
    position, scan_end = 2, _SCAN_END
    for _ in range(_SEGMENTS_MAX):
        matched = _MARKER.match(data, position)
        if not matched:
            if position + 2 > len(data) or not data[position:].strip(b"\xff"):
                raise _truncated(data)
            raise DecodeFailed(
                f"The JPEG codestream is damaged: byte {position} of {len(data)} does not begin with a marker (FF)."
            )
        marker, position = matched[1][0], matched.end()
        if marker in DROPPED_BARE:
            continue
        if marker == _EOI:
            yield marker, b"", b""
            return
        if marker not in KEPT and marker not in DROPPED:
            raise DecodeFailed(f"The JPEG codestream has the marker FF{marker:02X}, which is not supported.")
        length = int.from_bytes(data[position : position + 2], "big")
        if position + max(length, 2) > len(data):
            raise _truncated(data)
        if length < 2:
            raise DecodeFailed(
                f"A JPEG segment with the marker FF{marker:02X} states length {length}; the minimum is 2."
            )
        content, position = data[position + 2 : position + length], position + length
        scan = b""
        if marker == LOSSLESS_LS:
            scan_end = _SCAN_END_LS
        elif marker == _SOS:
            end = scan_end.search(data, position)
            if not end:
                raise _truncated(data)
            scan, position = data[position : end.start()], end.start()
        yield marker, content, scan
    raise DecodeFailed(f"The JPEG codestream has more than {_SEGMENTS_MAX} marker segments, which is the limit.")


def _truncated(data: bytes) -> TruncatedPixels:
    return TruncatedPixels(f"The JPEG codestream ends after {len(data)} bytes, before its end-of-image marker FFD9.")


def _read(data: bytes) -> _Frame:
    """Parse a codestream into the parts that decoding needs."""
    parts = _Frame()
    frame: Codestream | None = None
    components: list[int] = []
    scans = 0
    for marker, content, scan in _segments(data):
        if marker == _EOI:
            break
        if marker in DROPPED:
            _read_application(marker, content, parts)
            continue
        if marker in FRAMES:
            if frame:
                raise DecodeFailed("The JPEG codestream has more than 1 frame header (SOF), which is the limit.")
            frame, components = _read_frame(marker, content)
            if marker == BASELINE and frame.precision > 8:
                marker = EXTENDED  # noqa: PLW2901  baseline has 8 bits (T.81 table B.2), and some writers state it for 12
        elif marker == _SOS:
            if frame is None:
                raise DecodeFailed("The JPEG codestream has a scan (SOS) before its frame header (SOF).")
            scans += 1
            if scans > SCANS_MAX:
                raise DecodeFailed(f"The JPEG codestream has more than {SCANS_MAX} scans, which is the limit.")
            content = _checked_scan(content, frame, components, parts.scanned)  # noqa: PLW2901
        else:
            _check_table(marker, content, jpeg_ls=frame is not None and frame.process == LOSSLESS_LS)
        parts.written.extend((_segment(marker, content), scan))
    if frame is None:
        raise TruncatedPixels("The JPEG codestream has no frame header (SOF); 1 is required.")
    if missing := set(components) - set(parts.scanned):
        raise TruncatedPixels(
            f"The JPEG codestream has no scan for {len(missing)} of its {len(components)} components."
        )
    return parts


def _read_frame(marker: int, content: bytes) -> tuple[Codestream, list[int]]:
    """Return the size, and the identifiers of the components."""
    if len(content) < 6 or len(content) != 6 + 3 * content[5] or not 1 <= content[5] <= 4:
        raise DecodeFailed(
            f"The frame header (SOF) of the JPEG codestream has {len(content)} bytes; it must have 6, and 3 for each "
            "of 1 to 4 components."
        )
    precision, rows, columns, samples = struct.unpack_from(">BHHB", content)
    identifiers = list(content[6::3])
    factors = [factor for both in content[7::3] for factor in (both >> 4, both & 15)]
    depths = {BASELINE: {8, 12}, EXTENDED: {8, 12}, PROGRESSIVE: {8, 12}}.get(marker, set(range(2, 17)))
    if not rows or not columns:
        raise DecodeFailed(f"The frame header of the JPEG codestream states {rows} x {columns} pixels, fewer than 1.")
    if not all(1 <= factor <= 4 for factor in factors) or max(content[8::3]) > 3:
        raise DecodeFailed(
            "The frame header of the JPEG codestream has a sampling "
            "factor beyond 1 to 4, or a quantisation table beyond 0 to 3."
        )
    if len(set(identifiers)) < samples:
        raise DecodeFailed(
            f"The {samples} components of the JPEG codestream have {len(set(identifiers))} different identifiers; each "
            "must have its own."
        )
    if precision not in depths:
        raise UnsupportedPixels(
            f"The JPEG codestream has {precision} bits per sample; its coding process FF{marker:02X} allows "
            f"{min(depths)} to {max(depths)}."
        )
    return Codestream(rows, columns, samples, precision, process=marker), identifiers


def _checked_scan(content: bytes, frame: Codestream, components: list[int], scanned: list[int]) -> bytes:
    """Check a scan header (T.81 B.2.3).

    Returns:
        The header, with fixed parameters if the coding process is sequential.
    """
    count = content[0] if content else 0
    chosen, tables = list(content[1 : 1 + 2 * count : 2]), content[2 : 2 + 2 * count : 2]
    is_valid = 1 <= count <= len(components) and len(content) == 4 + 2 * count and len(set(chosen)) == count
    if not is_valid or set(chosen) - set(components):
        raise DecodeFailed(
            f"A scan header (SOS) of the JPEG codestream has {count} components in {len(content)} bytes; it must have "
            f"1 to {len(components)} of the frame header, each once."
        )
    if frame.process != PROGRESSIVE and set(chosen) & set(scanned):
        raise DecodeFailed("The JPEG codestream has 2 scans of one component; only progressive coding allows that.")
    scanned.extend(component for component in chosen if component not in scanned)
    start, end, high, low = content[-3], content[-2], content[-1] >> 4, content[-1] & 15
    if frame.process == LOSSLESS_LS:
        is_valid = not any(tables) and end <= 2 and high == low == 0
    elif frame.process == LOSSLESS:
        is_valid = 1 <= start <= 7 and end == high == 0 and low < frame.precision
    elif frame.process == PROGRESSIVE:
        band = start == end == 0 or (0 < start <= end <= 63 and count == 1)
        is_valid = band and low <= 13 and (high == 0 or high == low + 1)
    else:  # these parameters are fixed (T.81 table B.3), and some writers set them to anything
        content = content[:-3] + b"\x00\x3f\x00"
    if not is_valid or (frame.process != LOSSLESS_LS and any(table & 0xCC for table in tables)):
        raise DecodeFailed(
            f"A scan header (SOS) of the JPEG codestream has parameters ({start}, {end}, {high}, {low}) or tables "
            f"that its coding process FF{frame.process:02X} does not allow."
        )
    return content


def _check_table(marker: int, content: bytes, *, jpeg_ls: bool) -> None:
    """Check a table segment (T.81 B.2.4, T.87 C.2.4).

    Quantisation tables, Huffman tables, restart interval or JPEG-LS parameters.
    """
    position, is_valid = 0, True
    if marker == _DQT:
        while is_valid and position < len(content):
            precision, number = divmod(content[position], 16)
            position += 1 + 64 * (1 + precision)
            is_valid = precision <= 1 and number <= 3
    elif marker == _DHT:
        while is_valid and position < len(content):
            kind, number = divmod(content[position], 16)
            symbols = sum(content[position + 1 : position + 17])
            position += 17 + symbols
            is_valid = kind <= 1 and number <= 3 and symbols <= 256
    elif marker == _DRI:
        position = len(content) if jpeg_ls and len(content) in {3, 4} else 2
    elif content[:1] in {b"\x02", b"\x03"}:
        raise UnsupportedPixels("The JPEG-LS codestream has a colour palette (mapping table), which is not supported.")
    else:
        position, is_valid = 11, jpeg_ls and content[:1] == b"\x01"
    if not is_valid or position != len(content):
        raise DecodeFailed(
            f"A table of the JPEG codestream (marker FF{marker:02X}, {len(content)} bytes) is damaged: its values or "
            "its length are invalid."
        )


def _read_application(marker: int, content: bytes, parts: _Frame) -> None:
    """Read metadata and colour transform from an application segment."""
    if marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= _JFIF_BYTES:
        parts.jfif = True
    elif marker == 0xE1 and content.startswith(b"Exif\0\0") and len(parts.exif) < _METADATA_BYTES_MAX:
        parts.exif += content[6:]
    elif marker == 0xE1 and content.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        parts.xmp = content.split(b"\0", 1)[1]
    elif marker == 0xEE and content.startswith(b"Adobe") and len(content) >= _ADOBE_BYTES:
        parts.adobe = content[11]
    elif marker == 0xE8 and content.startswith(b"mrfx") and any(content[4:]):
        raise UnsupportedPixels("The JPEG-LS codestream has a colour transform (mrfx), which is not supported.")
