"""Encoding of previews: an image as a small, lossless PNG (ISO/IEC 15948).

Separate from ``previews``, which stores them: the process that stores previews must not load decoders.
"""

from __future__ import annotations

import struct

import numpy as np
from isal import isal_zlib
from PIL import Image, ImageOps

from preread.core.types import PixelArray
from preread.imaging.previews import GREY_8_BITS, MAX_SIDE_PX, PNG_START

# Whole pixels are averaged if the longer side then has at least this many pixels; else fractions of pixels are.
_MIN_SIDE_PX = 768
_UP = 2


def encode_preview(pixels: PixelArray) -> bytes:
    """Encode an image as a preview: a PNG of at most 1024 pixels a side.

    Args:
        pixels: uint8 [rows, columns], 0 = black; never enlarged.

    Returns:
        The content of an 8-bit grey PNG without metadata.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    longer = max(image.size)
    factor = -(-longer // MAX_SIDE_PX)
    if longer / factor >= min(_MIN_SIDE_PX, longer):
        image = image.reduce(factor) if factor > 1 else image
    else:
        image = ImageOps.contain(image, (MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.BOX)
    return _as_png(np.asarray(image))


def _as_png(pixels: PixelArray) -> bytes:
    """Write uint8 [rows, columns] as PNG with the filter "Up".

    Pillow and libpng take two to seven times as long, more than the network.
    """
    rows, columns = pixels.shape
    lines = np.empty((rows, columns + 1), np.uint8)
    lines[:, 0] = _UP
    lines[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=lines[1:, 1:])
    header = struct.pack(">II5B", columns, rows, *GREY_8_BITS)
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(lines, 1)), (b"IEND", b""))
    return PNG_START + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checked = isal_zlib.crc32(content, isal_zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checked)
