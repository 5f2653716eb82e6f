"""Decoding of JPEG and PNG files with Pillow."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import numpy.typing as npt
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
from preread.imaging.codecs.codestreams import Codestream, RasterMetadata
from preread.imaging.codecs.stored_bits import find_depth
from preread.imaging.elements import PARSE_ERRORS
from preread.imaging.statistics import GREY_LEVEL_SPREAD_MIN, grey_level_range

# JPEG stores colour at low resolution, so that even the channels of a grey image differ a little.
_CHANNELS_APART_MAX = 16
_COLOURED_SHARE_MAX = 0.001
_COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr"})
_BANDS = {"CMYK": 4, "RGBA": 4, "RGB": 3, "YCbCr": 3, "P": 3}
# Read and resolved at import: a confined process can open no file and load no library later.
_IMAGECODECS = f"imagecodecs {version('imagecodecs')}"
_DEEP_DECODERS = {
    "JPEG": f"{_IMAGECODECS} ({imagecodecs.jpeg8_version()})",
    "PNG": f"{_IMAGECODECS} ({imagecodecs.png_version()})",
}
_decode_png = imagecodecs.png_decode
_DEEP_BITS = 16
# An image of uncertain depth whose values all have fewer bits is right-aligned.
_RIGHT_ALIGNED_BITS = 14


# More than any radiograph has, whatever ``ImageLimits.max_pixels``.
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


class _Format(NamedTuple):
    """Functions and Pillow plugin for a format; no other plugin is loaded."""

    read_size: Callable[[bytes], Codestream]
    rebuild_image: Callable[[bytes], tuple[bytes, RasterMetadata]]
    reader: Callable[[io.BytesIO], Image.Image]


_FORMATS = {
    "JPEG": _Format(jpeg.read_jpeg_size, jpeg.rebuild_jpeg_file, JpegImagePlugin.JpegImageFile),
    "PNG": _Format(png.read_png_size, png.rebuild_png_file, PngImagePlugin.PngImageFile),
}


@dataclass(frozen=True, slots=True)
class RasterSize:
    """Rows and columns that the header of a JPEG or PNG file states."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Grey levels of a decoded JPEG or PNG file.

    Attributes:
        pixels: uint8 [rows, columns], 0 = black, 255 = white.
        decoder: name and version of the decoder.
        caveats: assumptions made while decoding.
    """

    pixels: PixelArray
    decoder: str
    caveats: tuple[Caveat, ...] = ()


def detect_raster_format(data: bytes) -> str | None:
    """Detect whether a file is JPEG or PNG by its signature, else ``None``."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    return None


def read_raster_size(data: bytes, kind: str) -> RasterSize:
    """Read rows and columns from the header of a JPEG or PNG file.

    Args:
        data: content of the file.
        kind: ``JPEG`` or ``PNG``.

    Raises:
        BrokenHeader: it cannot be parsed.
        TooManyPixels: it states more than 180 million pixels.
    """
    try:
        size = _FORMATS[kind].read_size(data)
    except (DecodeFailed, TruncatedPixels) as error:
        raise BrokenHeader(f"The {kind} header cannot be parsed: {error}") from None
    if size.rows * size.columns > _PIXELS_MAX:
        raise TooManyPixels(
            f"The {kind} header states {size.rows} x {size.columns} pixels; the limit is {_PIXELS_MAX} pixels."
        )
    return RasterSize(size.rows, size.columns)


def decode_raster(data: bytes, kind: str, max_pixels: int) -> DecodedImage:
    """Decode a JPEG or PNG file to 8-bit grey levels.

    Eight-bit grey is unchanged. Colour must be grey but for its encoding and is converted with Pillow's
    ``convert("L")``, as the training images were. Samples of 16 bits are scaled by the range of the bits that they
    use, burned-in markers aside; if that is not certain, by their full range, or between their 0.5th and 99.5th
    percentile if all values have at most 14 bits; JPEG of 9 to 16 bits (extended and lossless) is scaled in the same
    way. Of 16-bit colour and grey with alpha Pillow keeps the high byte only, so imagecodecs (libpng) decodes these.
    EXIF orientation is applied.

    Args:
        data: content of the file.
        kind: ``JPEG`` or ``PNG``.
        max_pixels: limit on rows x columns x channels.

    Raises:
        TooManyPixels: rows x columns x channels exceed ``max_pixels``.
        ColourNotGrey, MultiFrame, UnsupportedPixels: it is not a radiograph.
        BrokenHeader, TruncatedPixels, DecodeFailed: the file is damaged.
    """
    decoder = f"Pillow {PIL.__version__}"
    functions = _FORMATS[kind]
    size = read_raster_size(data, kind)
    if size.rows * size.columns > max_pixels:
        raise TooManyPixels(
            f"The {kind} header states {size.rows} x {size.columns} pixels; the limit is {max_pixels} pixels."
        )
    bare, metadata = functions.rebuild_image(data)
    if kind == "JPEG" and (codestream := jpeg.read_jpeg_size(data)).precision > 8:
        return _decode_deep_jpeg(bare, codestream, _orientation(metadata), max_pixels)
    try:
        image: Image.Image = functions.reader(io.BytesIO(bare))
    except PARSE_ERRORS:
        raise BrokenHeader(f"Pillow cannot parse the header of the {kind} file.") from None
    with image:
        if image.width * image.height * _BANDS.get(image.mode, 1) > max_pixels:
            raise TooManyPixels(
                f"The {kind} image has {image.height} x {image.width} pixels of {_BANDS.get(image.mode, 1)} samples; "
                f"the limit is {max_pixels} samples."
            )
        try:
            image.load()
        except OSError as error:
            if "truncated" in str(error) or "incomplete" in str(error):
                raise TruncatedPixels(f"The image data of the {kind} file ends too early.") from None
            raise DecodeFailed(f"Pillow cannot decode the image data of the {kind} file.") from None
        except PARSE_ERRORS:
            raise DecodeFailed(f"Pillow cannot decode the image data of the {kind} file.") from None
        caveats: tuple[Caveat, ...] = ()
        if image.mode.startswith("I"):
            image, caveats = _scale_16_bit(np.asarray(image))
        elif functions is _FORMATS["PNG"] and functions.read_size(bare).precision == _DEEP_BITS:
            decoder = _DEEP_DECODERS["PNG"]
            image, caveats = _scale_16_bit(_deep_channels(bare))
        if (turn := _TURNS.get(_orientation(metadata))) is not None:
            image = image.transpose(turn)
    if image.mode == "L":
        return DecodedImage(np.asarray(image), decoder, caveats)
    if image.mode in {"LA", "1"}:
        return DecodedImage(np.asarray(image.convert("L")), decoder, caveats)
    if image.mode not in _COLOUR_MODES:
        raise UnsupportedPixels(f"The {kind} image has Pillow's mode {image.mode}; grey and RGB images are supported.")
    colours = image.convert("RGB")
    require_grey(np.asarray(colours))
    return DecodedImage(np.asarray(colours.convert("L")), decoder, caveats)


def _decode_deep_jpeg(bare: bytes, codestream: Codestream, orientation: int, max_pixels: int) -> DecodedImage:
    """Decode a JPEG file of more than 8 bits, which Pillow cannot.

    Args:
        bare: the rebuilt file.
        codestream: its size and sample format.
        orientation: EXIF orientation, 1 to 8.
        max_pixels: limit on rows x columns x samples.
    """
    rows, columns, samples = codestream.rows, codestream.columns, codestream.samples
    if rows * columns * samples > max_pixels:
        raise TooManyPixels(
            f"The JPEG image has {rows} x {columns} pixels of {samples} samples; the limit is {max_pixels} samples."
        )
    if samples not in {1, 3} or codestream.process == jpeg.LOSSLESS_LS:
        raise UnsupportedPixels(
            f"The JPEG file has {samples} samples of {codestream.precision} bits, and its coding process is "
            f"FF{codestream.process:02X}; grey and RGB images of FFC0 to FFC3 are supported."
        )
    try:
        values = np.asarray(imagecodecs.jpeg8_decode(bare))
    except PARSE_ERRORS:
        raise DecodeFailed("imagecodecs cannot decode the image data of the JPEG file.") from None
    if values.shape[:2] != (rows, columns):
        raise DecodeFailed(
            f"The decoder returned an image of {values.shape} samples; the file states {rows} x {columns}."
        )
    if samples == 3:
        require_grey((values >> (codestream.precision - 8)).astype(np.uint8))
        values = values[:, :, 1]
    # 0 to 65535, as in a 16-bit PNG
    full = values.astype(np.float64) * (0xFFFF / ((1 << codestream.precision) - 1))
    image, caveats = _scale_16_bit(np.floor(full + 0.5).astype(np.int32))
    if (turn := _TURNS.get(orientation)) is not None:
        image = image.transpose(turn)
    return DecodedImage(np.asarray(image), _DEEP_DECODERS["JPEG"], caveats)


def _orientation(metadata: RasterMetadata) -> int:
    """Return the orientation from EXIF, else XMP, else 1 (as stored)."""
    exif = Image.Exif()
    try:
        exif.load(metadata.exif)
        value = exif.get(ExifTags.Base.Orientation)
    except PARSE_ERRORS:
        value = None
    if value is None and (match := _XMP_ORIENTATION.search(metadata.xmp)):
        value = int(match[1])
    return value if isinstance(value, int) else 1


def require_grey(channels: PixelArray) -> None:
    """Raise ``ColourNotGrey`` if an RGB image is in colour, not grey.

    Differences that lossy coding causes are tolerated.

    Args:
        channels: uint8 [rows, columns, 3], RGB, 0 to 255.

    Raises:
        ColourNotGrey: in more than 0.1 % of the pixels the channels differ by more than 16.
    """
    # channel by channel: reducing an axis of length 3 is a hundred times slower in numpy
    red, green, blue = channels[:, :, 0], channels[:, :, 1], channels[:, :, 2]
    apart = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    if np.count_nonzero(apart > _CHANNELS_APART_MAX) > _COLOURED_SHARE_MAX * apart.size:
        raise ColourNotGrey


def _deep_channels(bare: bytes) -> npt.NDArray[np.integer[Any]]:
    """Decode a PNG of 16 bits with several channels, without its alpha channel.

    Returns:
        uint16 [rows, columns], or [rows, columns, 3] for colour.
    """
    try:
        levels = np.asarray(_decode_png(bare))
    except PARSE_ERRORS:
        raise DecodeFailed("libpng cannot decode the image data of the PNG file.") from None
    if levels.ndim != 3 or levels.dtype != np.uint16:
        raise DecodeFailed("libpng returned another form of the image than the PNG header states.")
    return levels[:, :, 0] if levels.shape[2] == 2 else levels[:, :, :3]


def _scale_16_bit(levels: npt.NDArray[Any]) -> tuple[Image.Image, tuple[Caveat, ...]]:
    """Scale 16-bit samples to 8 bits (Pillow's ``convert("L")`` would saturate).

    Args:
        levels: integers [rows, columns] or [rows, columns, 3], 0 to 65535.

    Returns:
        Image in Pillow's mode L or RGB.
    """
    if levels.min() < 0 or levels.max() > 0xFFFF:
        raise UnsupportedPixels(
            f"The grey levels of the image range from {levels.min()} to {levels.max()}; the limits are 0 and 65535."
        )
    indices = levels.astype(np.uint16)
    counts = np.bincount(indices.ravel(), minlength=1 << _DEEP_BITS)
    values = np.flatnonzero(counts)
    depth = find_depth(values, counts[values])
    used = min(depth.bits if depth.is_certain else _DEEP_BITS, _DEEP_BITS)
    entries = np.arange(1 << _DEEP_BITS)
    table = np.floor(np.minimum(entries / ((1 << used) - 1), 1.0) * 255 + 0.5).astype(np.uint8)
    caveats: tuple[Caveat, ...] = (Caveat.DEPTH_CORRECTED,) if used < _DEEP_BITS else ()
    low, high = grey_level_range(np.bincount(table, weights=counts, minlength=256))
    if high - low < GREY_LEVEL_SPREAD_MIN and depth.bits <= _RIGHT_ALIGNED_BITS:
        darkest, brightest = (int(np.searchsorted(np.cumsum(counts), share * indices.size)) for share in (0.005, 0.995))
        stretched = np.clip((entries - darkest) * (255 / max(brightest - darkest, 1)), 0, 255)
        table, caveats = np.floor(stretched + 0.5).astype(np.uint8), (Caveat.NO_WINDOW,)
    return Image.fromarray(table[indices]), caveats
