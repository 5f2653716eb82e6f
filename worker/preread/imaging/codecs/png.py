"""PNG files, rebuilt from the chunks that decoding needs (ISO/IEC 15948).

The decoder receives header, palette, image data and end. Ancillary chunks are dropped, after EXIF and XMP were read
from them; an unknown critical chunk is an error.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from preread.core.errors import DecodeFailed, MultiFrame, TruncatedPixels
from preread.imaging.codecs.codestreams import Codestream, RasterMetadata
from preread.imaging.elements import PARSE_ERRORS

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
# Colour type: samples, and allowed bit depths (table 8).
_COLOURS = {0: (1, {1, 2, 4, 8, 16}), 2: (3, {8, 16}), 3: (1, {1, 2, 4, 8}), 4: (2, {8, 16}), 6: (4, {8, 16})}
_PALETTE = 3
_CHUNKS_MAX = 100_000
_METADATA_BYTES_MAX = 1 << 20
_END = struct.pack(">I4sI", 0, b"IEND", 0xAE426082)


def read_png_size(data: bytes) -> Codestream:
    """Read size and sample format from the header chunk of a PNG file.

    Args:
        data: content of the file.

    Raises:
        DecodeFailed: it is missing or damaged.
        TruncatedPixels: the file is truncated before its end.
    """
    for kind, content, _ in _chunks(data):
        if kind == b"IHDR":
            return _read_header(content)[0]
        break
    raise DecodeFailed("The first chunk of the PNG is not its header (IHDR).")


def rebuild_png_file(data: bytes) -> tuple[bytes, RasterMetadata]:
    """Rebuild a PNG file from the chunks for decoding, and read metadata.

    Args:
        data: content of the file.

    Raises:
        DecodeFailed: the file is inconsistent, or has an unknown critical chunk.
        MultiFrame: it is an animation.
        TruncatedPixels: it is truncated.
    """
    written = [SIGNATURE]
    exif = profile = xmp = b""
    colour, last, pixels = -1, -1, 0
    for kind, content, chunk in _chunks(data):
        if kind in KEPT - {b"IDAT"} and chunk[-4:] != zlib.crc32(chunk[4:-4]).to_bytes(4, "big"):
            raise DecodeFailed(f"The checksum (CRC) of the PNG chunk {kind.decode()} does not match its content.")
        order = (b"IHDR", b"PLTE", b"IDAT", b"IEND").index(kind) if kind in KEPT else -1
        if order >= 0:
            if order < last or (order == last and kind != b"IDAT") or (last < 0) != (kind == b"IHDR"):
                raise DecodeFailed(
                    f"The PNG chunk {kind.decode()} is out of order or repeated; IHDR, PLTE, IDAT and IEND must "
                    "follow in this order."
                )
            last = order
        if kind == b"IHDR":
            colour = _read_header(content)[1]
            written.append(chunk)
        elif kind == b"PLTE":
            if not content or len(content) % 3 or len(content) > 768:
                raise DecodeFailed(
                    f"The palette (PLTE) of the PNG has {len(content)} "
                    "bytes; it must have 3 for each of 1 to 256 colours."
                )
            if colour == _PALETTE:
                written.append(chunk)
        elif kind == b"IDAT":
            if colour == _PALETTE and len(written) < 3:
                raise DecodeFailed("The PNG has colour type 3 and no palette (PLTE) before its image data.")
            pixels += len(content)
            written.append(chunk)
        elif kind == b"IEND":
            break
        elif kind == b"fdAT" or (kind == b"acTL" and int.from_bytes(content[:4], "big") > 1):
            raise MultiFrame
        elif not kind[0] & 0x20:
            raise DecodeFailed(
                "The PNG has a critical chunk besides IHDR, PLTE, IDAT and IEND, which is not supported."
            )
        elif kind == b"eXIf":
            exif = content
        elif kind in {b"iTXt", b"tEXt", b"zTXt"}:
            key, _, text = content.partition(b"\0")
            if key == b"XML:com.adobe.xmp" and kind == b"iTXt":
                xmp = _international(text)
            elif key == b"Raw profile type exif" and kind != b"iTXt":
                profile = _profile(text if kind == b"tEXt" else _inflated(text[1:]))
    if not pixels:
        raise TruncatedPixels("The PNG has 0 bytes of image data (IDAT).")
    return b"".join((*written, _END)), RasterMetadata(exif or profile, xmp)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield kind, content and all bytes of each chunk."""
    if not data.startswith(SIGNATURE):
        raise DecodeFailed("The file does not begin with the 8 bytes of the PNG signature.")
    position, has_image_data = len(SIGNATURE), False
    for _ in range(_CHUNKS_MAX):
        if position + 12 > len(data):
            if has_image_data:  # only the end chunk can be missing; decoding detects missing image data
                return
            raise TruncatedPixels(f"The PNG ends after {len(data)} bytes, before its image data (IDAT).")
        length, kind = struct.unpack_from(">I4s", data, position)
        if not kind.isalpha():
            raise DecodeFailed(
                f"The PNG is damaged: the chunk at byte {position} of {len(data)} has a name that is not 4 letters."
            )
        end = position + 12 + length
        if end > len(data):
            raise TruncatedPixels(f"The PNG ends after {len(data)} bytes; its chunk at byte {position} requires {end}.")
        yield kind, data[position + 8 : end - 4], data[position:end]
        position, has_image_data = end, has_image_data or kind == b"IDAT"
    raise DecodeFailed(f"The PNG has more than {_CHUNKS_MAX} chunks, which is the limit.")


def _read_header(content: bytes) -> tuple[Codestream, int]:
    if len(content) != 13:
        raise DecodeFailed(f"The header (IHDR) of the PNG has {len(content)} bytes; it must have 13.")
    columns, rows, depth, colour, compression, filtering, interlace = struct.unpack(">2I5B", content)
    samples, depths = _COLOURS.get(colour, (0, set()))
    is_valid = 0 < columns < 1 << 31 and 0 < rows < 1 << 31 and not compression and not filtering and interlace <= 1
    if not is_valid or depth not in depths:
        raise DecodeFailed(
            f"The header (IHDR) of the PNG states {columns} x {rows} pixels, colour type {colour}, bit depth {depth} "
            f"and methods {compression}, {filtering} and {interlace}, which the format does not allow."
        )
    return Codestream(rows, columns, samples, depth), colour


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _METADATA_BYTES_MAX)
    except zlib.error:
        return b""


def _international(text: bytes) -> bytes:
    """Return the text of an iTXt chunk, without its keyword.

    Args:
        text: content of the chunk after the keyword.
    """
    compressed, _, rest = text[:1] == b"\1", text[1:2], text[2:]
    value = rest.split(b"\0", 2)[-1]
    return _inflated(value) if compressed else value


def _profile(text: bytes) -> bytes:
    """Return EXIF as ImageMagick writes it: hexadecimal after three lines."""
    try:
        return bytes.fromhex(b"".join(text[:_METADATA_BYTES_MAX].split(b"\n")[3:]).decode("ascii")).removeprefix(
            b"Exif\0\0"
        )
    except PARSE_ERRORS:
        return b""
