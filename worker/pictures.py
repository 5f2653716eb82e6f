"""JPEG and PNG films: plain pictures without tags, read by Pillow."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image, ImageOps

from worker.domain import Caveat, PixelArray
from worker.errors import (
    BrokenHeader,
    ColourNotGrey,
    DecodeFailed,
    MultiFrame,
    TooManyPixels,
    TruncatedPixels,
    UnsupportedPixels,
)
from worker.tags import PARSE_ERRORS

# JPEG stores colour coarsely, so that even a grey film's channels differ a little.
_CHANNELS_APART_MAX = 16
_COLOURED_SHARE_MAX = 0.001
_COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr"})
_BANDS = {"CMYK": 4, "RGBA": 4, "RGB": 3, "YCbCr": 3, "P": 3}
# A 16-bit PNG without a value in its upper half-of-half holds fewer bits, right-aligned.
_DEEP_RIGHT_ALIGNED = 1 << 14


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
    with _opened(data, kind) as picture:
        return Size(picture.height, picture.width)


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
    with _opened(data, kind) as picture:
        if picture.width * picture.height * _BANDS.get(picture.mode, 1) > max_pixels:
            raise TooManyPixels(f"The picture claims {picture.height} x {picture.width} pixels.")
        if kind == "PNG" and getattr(picture, "n_frames", 1) > 1:
            raise MultiFrame
        try:
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
        except OSError as error:
            if "truncated" in str(error) or "incomplete" in str(error):
                raise TruncatedPixels from None
            raise DecodeFailed from None
        except PARSE_ERRORS:
            raise DecodeFailed from None
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


def _opened(data: bytes, kind: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=[kind])
    except Image.DecompressionBombError:
        raise TooManyPixels("The picture claims more pixels than any film has.") from None
    except PARSE_ERRORS:
        raise BrokenHeader(f"The {kind} header cannot be parsed.") from None


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
