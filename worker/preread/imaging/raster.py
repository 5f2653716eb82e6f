"""JPEG and PNG films: plain pictures without tags, read by Pillow."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import PIL
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin

from preread.core.errors import (
    BrokenHeader,
    ColourNotGrey,
    DecodeFailed,
    TooManyPixels,
    TruncatedPixels,
    UnsupportedPixels,
)
from preread.core.types import Caveat, PixelArray
from preread.imaging.codecs import jpeg, png
from preread.imaging.codecs.codestreams import Codestream, Told
from preread.imaging.elements import PARSE_ERRORS

# JPEG stores colour coarsely, so that even a grey film's channels differ a little.
_CHANNELS_APART_MAX = 16
_COLOURED_SHARE_MAX = 0.001
_COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr"})
_BANDS = {"CMYK": 4, "RGBA": 4, "RGB": 3, "YCbCr": 3, "P": 3}
# A 16-bit PNG without a value in its upper half-of-half holds fewer bits, right-aligned.
_DEEP_RIGHT_ALIGNED = 1 << 14


# Not even a film that the limit on pixels would be raised for has more.
_PIXELS_MAX = 180_000_000
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


class _Form(NamedTuple):
    """How a format is read; the readers are named, so that no other is loaded."""

    read_size: Callable[[bytes], Codestream]
    rebuild_picture: Callable[[bytes], tuple[bytes, Told]]
    reader: Callable[[io.BytesIO], Image.Image]


_FORMS = {
    "JPEG": _Form(jpeg.read_size, jpeg.rebuild_picture, JpegImagePlugin.JpegImageFile),
    "PNG": _Form(png.read_size, png.rebuild_picture, PngImagePlugin.PngImageFile),
}


@dataclass(frozen=True, slots=True)
class Size:
    """What a picture's header claims."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: uint8 pixels [rows, columns], 0 = black."""

    pixels: PixelArray
    decoder: str
    caveats: tuple[Caveat, ...] = ()


def sniff(data: bytes) -> str | None:
    """Return ``JPEG``, ``PNG`` or ``None``."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    return None


def read_size(data: bytes, kind: str) -> Size:
    """Read rows and columns from the header.

    Raises:
        BrokenHeader: it cannot be parsed.
        TooManyPixels: it claims more than any picture has.
    """
    try:
        found = _FORMS[kind].read_size(data)
    except (DecodeFailed, TruncatedPixels) as error:
        raise BrokenHeader(f"The {kind} header cannot be parsed: {error}") from None
    if found.rows * found.columns > _PIXELS_MAX:
        raise TooManyPixels(f"The picture claims {found.rows} x {found.columns} pixels.")
    return Size(found.rows, found.columns)


def decode(data: bytes, kind: str, max_pixels: int) -> Picture:
    """Decode to grey levels.

    Eight-bit grey is taken as it is; colour must be grey in all but its encoding and becomes Pillow's
    ``convert("L")``, which is what the training pictures were made with; 16-bit grey is scaled by its full range, or
    stretched between its 0.5th and 99.5th percentile where it holds 14 bits or fewer. EXIF orientation is applied.

    Raises:
        TooManyPixels: rows x columns x channels exceed ``max_pixels``.
        ColourNotGrey, MultiFrame, UnsupportedPixels: no radiograph.
        BrokenHeader, TruncatedPixels, DecodeFailed: the file is damaged.
    """
    decoder = f"Pillow {PIL.__version__}"
    form = _FORMS[kind]
    size = read_size(data, kind)
    if size.rows * size.columns > max_pixels:
        raise TooManyPixels(f"The picture claims {size.rows} x {size.columns} pixels.")
    bare, told = form.rebuild_picture(data)
    try:
        picture: Image.Image = form.reader(io.BytesIO(bare))
    except PARSE_ERRORS:
        raise BrokenHeader(f"The {kind} header cannot be parsed.") from None
    with picture:
        if picture.width * picture.height * _BANDS.get(picture.mode, 1) > max_pixels:
            raise TooManyPixels(f"The picture claims {picture.height} x {picture.width} pixels.")
        try:
            picture.load()
        except OSError as error:
            if "truncated" in str(error) or "incomplete" in str(error):
                raise TruncatedPixels from None
            raise DecodeFailed from None
        except PARSE_ERRORS:
            raise DecodeFailed from None
        if (turn := _TURNS.get(_orientation(told))) is not None:
            picture = picture.transpose(turn)
    if picture.mode.startswith("I"):
        return _deep(np.asarray(picture), decoder)
    if picture.mode == "L":
        return Picture(np.asarray(picture), decoder)
    if picture.mode in {"LA", "1"}:
        return Picture(np.asarray(picture.convert("L")), decoder)
    if picture.mode not in _COLOUR_MODES:
        raise UnsupportedPixels(f"The picture's mode is {picture.mode}.")
    colours = picture.convert("RGB")
    require_grey(np.asarray(colours))
    return Picture(np.asarray(colours.convert("L")), decoder)


def _orientation(told: Told) -> int:
    """Return EXIF's orientation, else that of XMP; 1, as it is stored, where neither can be read."""
    exif = Image.Exif()
    try:
        exif.load(told.exif)
        found = exif.get(ExifTags.Base.Orientation)
    except PARSE_ERRORS:
        found = None
    if found is None and (named := _XMP_ORIENTATION.search(told.xmp)):
        found = int(named[1])
    return found if isinstance(found, int) else 1


def require_grey(channels: PixelArray) -> None:
    """Check that uint8 [rows, columns, 3] is grey but for what lossy coding adds.

    Raises:
        ColourNotGrey: more than one pixel in a thousand has channels that differ visibly.
    """
    # channel by channel: numpy reduces an axis of three a hundred times more slowly
    red, green, blue = channels[:, :, 0], channels[:, :, 1], channels[:, :, 2]
    apart = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    if np.count_nonzero(apart > _CHANNELS_APART_MAX) > _COLOURED_SHARE_MAX * apart.size:
        raise ColourNotGrey


def _deep(levels: np.ndarray[tuple[int, ...], np.dtype[np.generic]], decoder: str) -> Picture:
    """Scale 16-bit grey to 8 bits (Pillow's own ``convert("L")`` would saturate)."""
    if levels.ndim != 2 or levels.min() < 0 or levels.max() > 0xFFFF:
        raise UnsupportedPixels("The picture's grey levels are not of 16 bits.")
    indices = levels.astype(np.uint16)
    top = int(indices.max())
    entries = np.arange(0x10000, dtype=np.float64)
    if top >= _DEEP_RIGHT_ALIGNED:
        return Picture(np.floor(entries / 257 + 0.5).astype(np.uint8)[indices], decoder)
    low, high = np.percentile(indices, (0.5, 99.5))
    table = np.clip((entries - low) * (255 / max(high - low, 1.0)), 0, 255)
    return Picture(np.floor(table + 0.5).astype(np.uint8)[indices], decoder, (Caveat.NO_WINDOW,))
