"""Drawing a preview: the pixels of an image as a small, lossless PNG (ISO/IEC 15948) without any tag.

Apart from ``previews``, which keeps them: what draws has the decoders loaded, what keeps them must not.
"""

from __future__ import annotations

import struct

import numpy as np
from isal import isal_zlib
from PIL import Image, ImageOps

from preread.core.types import PixelArray
from preread.imaging.previews import GREY_8_BITS, MAX_SIDE_PX, PNG_START

# A longer side of at least this many is left as whole pixels averaged give it; else shares of pixels are averaged.
_MIN_SIDE_PX = 768
_UP = 2


def encode_preview(pixels: PixelArray) -> bytes:
    """Return a PNG of at most 1024 px a side from uint8 [rows, columns]; pixels are never stretched."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    longer = max(picture.size)
    factor = -(-longer // MAX_SIDE_PX)
    if longer / factor >= min(_MIN_SIDE_PX, longer):
        picture = picture.reduce(factor) if factor > 1 else picture
    else:
        picture = ImageOps.contain(picture, (MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.BOX)
    return _as_png(np.asarray(picture))


def _as_png(pixels: PixelArray) -> bytes:
    """Write uint8 [rows, columns] as PNG (ISO/IEC 15948), each pixel as its difference from the one above.

    Pillow and libpng take two to seven times as long, which was more than the network takes.
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
