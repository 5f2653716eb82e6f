"""Transforms for perturbation tests: framing, tone, blur, JPEG, pose.

All functions take and return uint8 [n, rows, columns]; images are enlarged by the worker's own resizing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from preread.core.types import PixelArray
from preread.imaging.preprocessing import PreprocessingSpec, resize_to_input
from preread_training.stats.bootstrap import Rows

Disturbance = Callable[[PixelArray], PixelArray]

# Width by height of the published images: those without pneumonia lie about 1.21, those with it about 1.5.
_ASPECT_WITHOUT, _ASPECT_WITH = 1.21, 1.5
# Quantisation of luminance at quality 50 (ISO/IEC 10918-1, table K.1).
_JPEG_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=np.float32,
)  # fmt: skip


def _grey(values: npt.NDArray[Any]) -> PixelArray:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _sized(images: PixelArray, rows: int, columns: int) -> PixelArray:
    spec = PreprocessingSpec(rows, columns, "bilinear_antialiased", 0.0, 1.0)
    return np.stack([resize_to_input(spec, image) for image in images])


def crop_margins(images: PixelArray, *, top: float = 0.0, bottom: float = 0.0, sides: float = 0.0) -> PixelArray:
    """Crop margins of images and enlarge the rest, as a perturbation test.

    Args:
        images: uint8 [n, rows, columns].
        top: share of the height that is cut off at the top, in [0, 1).
        bottom: the same, at the bottom.
        sides: share of the width that is cut off at each side, in [0, 0.5).

    Returns:
        uint8 [n, rows, columns].
    """
    rows, columns = images.shape[1:]
    first, last = round(top * rows), rows - round(bottom * rows)
    margin = round(sides * columns)
    return _sized(images[:, first:last, margin : columns - margin], rows, columns)


def reframe_like_pneumonia(images: PixelArray, top: float) -> PixelArray:
    """Frame images like those with pneumonia, as a perturbation test.

    The top (chin, jaw) is cropped, to an aspect ratio of 1.5.

    Args:
        images: uint8 [n, rows, columns].
        top: share of the height that is cut off, in [0.1, 0.25]. If that leaves more height than the aspect allows, the
            rest goes at the bottom.

    Returns:
        uint8 [n, rows, columns].
    """
    return crop_margins(images, top=top, bottom=max(0.0, 1 - top - _ASPECT_WITHOUT / _ASPECT_WITH))


def apply_gamma(images: PixelArray, power: float) -> PixelArray:
    """Apply a gamma curve to images, as a perturbation test.

    Args:
        images: uint8 [n, rows, columns].
        power: below 1 brightens middle greys, above 1 darkens them.

    Returns:
        uint8 [n, rows, columns].
    """
    table = _grey(255 * (np.arange(256, dtype=np.float32) / 255) ** power)
    return np.asarray(table[images])


def scale_contrast(images: PixelArray, factor: float) -> PixelArray:
    """Scale the contrast about each image's mean, as a perturbation test.

    Args:
        images: uint8 [n, rows, columns].
        factor: below 1 lowers the contrast, above 1 raises it.

    Returns:
        uint8 [n, rows, columns], clipped to 0 to 255.
    """
    mean = images.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    return _grey((images - mean) * np.float32(factor) + mean)


def blur_images(images: PixelArray, sigma_px: float) -> PixelArray:
    """Blur images with a Gaussian, as a perturbation test.

    Args:
        images: uint8 [n, rows, columns].
        sigma_px: standard deviation of the Gaussian in pixels.

    Returns:
        uint8 [n, rows, columns].
    """
    reach = int(np.ceil(3 * sigma_px))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    values = images.astype(np.float32)
    for axis in (1, 2):
        length = values.shape[axis]
        width = [(reach, reach) if each == axis else (0, 0) for each in range(3)]
        padded = np.pad(values, width, mode="edge")
        values = sum(
            (tap * padded.take(range(at, at + length), axis=axis) for at, tap in enumerate(kernel)),
            start=np.zeros_like(values),
        )
    return _grey(values)


def add_noise(images: PixelArray, deviation: float, seed: int = 0) -> PixelArray:
    """Add Gaussian noise to images, as a perturbation test.

    Args:
        images: uint8 [n, rows, columns].
        deviation: standard deviation in grey levels.
        seed: of the noise.

    Returns:
        uint8 [n, rows, columns], clipped to 0 to 255.
    """
    return _grey(images + np.random.default_rng(seed).normal(0, deviation, images.shape).astype(np.float32))


def apply_jpeg_loss(images: PixelArray, quality: int) -> PixelArray:
    """Apply the loss of JPEG to images, as a perturbation test.

    After ISO/IEC 10918-1.

    Cosine coefficients of 8x8 blocks are rounded with libjpeg's scaling of the tables.

    Args:
        images: uint8 [n, rows, columns], sides divisible by 8.
        quality: 1 to 100.

    Returns:
        uint8 [n, rows, columns].
    """
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    step = np.clip(np.floor((_JPEG_LUMINANCE * scale + 50) / 100), 1, 255)
    place = np.arange(8)
    cosine = np.sqrt(2 / 8) * np.cos((2 * place[None, :] + 1) * place[:, None] * np.pi / 16)
    cosine[0] /= np.sqrt(2)
    cosine = cosine.astype(np.float32)
    n, rows, columns = images.shape
    blocks = images.reshape(n, rows // 8, 8, columns // 8, 8).swapaxes(2, 3).astype(np.float32) - 128
    kept = np.rint(cosine @ blocks @ cosine.T / step) * step
    return _grey((cosine.T @ kept @ cosine + 128).swapaxes(2, 3).reshape(n, rows, columns))


def rotate_images(images: PixelArray, degrees: float) -> PixelArray:
    """Rotate images about their centre, as a perturbation test.

    Bilinear, with black corners.

    Args:
        images: uint8 [n, rows, columns].
        degrees: of the rotation; positive turns the content clockwise.

    Returns:
        uint8 [n, rows, columns].
    """
    rows, columns = images.shape[1:]
    angle = np.deg2rad(degrees)
    y, x = np.mgrid[:rows, :columns] - np.array([(rows - 1) / 2, (columns - 1) / 2])[:, None, None]
    from_y = np.cos(angle) * y - np.sin(angle) * x + (rows - 1) / 2
    from_x = np.sin(angle) * y + np.cos(angle) * x + (columns - 1) / 2
    inside = (from_y >= 0) & (from_y <= rows - 1) & (from_x >= 0) & (from_x <= columns - 1)
    low_y = np.clip(np.floor(from_y), 0, rows - 2).astype(int)
    low_x = np.clip(np.floor(from_x), 0, columns - 2).astype(int)
    part_y, part_x = (np.clip(p, 0, 1).astype(np.float32) for p in (from_y - low_y, from_x - low_x))
    values = images.astype(np.float32)
    upper = values[:, low_y, low_x] * (1 - part_x) + values[:, low_y, low_x + 1] * part_x
    lower = values[:, low_y + 1, low_x] * (1 - part_x) + values[:, low_y + 1, low_x + 1] * part_x
    return _grey((upper * (1 - part_y) + lower * part_y) * inside)


def reduce_resolution(images: PixelArray, side_px: int) -> PixelArray:
    """Shrink and enlarge images again, as a perturbation test.

    Args:
        images: uint8 [n, rows, columns].
        side_px: side of the small image.

    Returns:
        uint8 [n, rows, columns].
    """
    rows, columns = images.shape[1:]
    return _sized(_sized(images, side_px, side_px), rows, columns)


def fill_region(images: PixelArray, region: Rows, grey: PixelArray | None = None) -> PixelArray:
    """Fill a region of images with one grey, as a perturbation test.

    Args:
        images: uint8 [n, rows, columns].
        region: bool [rows, columns].
        grey: uint8 [n], the grey levels; ``None``: each image's own mean.

    Returns:
        uint8 [n, rows, columns].
    """
    fill = _grey(images.mean(axis=(1, 2), dtype=np.float32)) if grey is None else grey
    return np.where(region, fill[:, None, None], images)


DISTURBANCES: Mapping[str, Disturbance] = {
    "top 10 % cut off": partial(crop_margins, top=0.10),
    "top 25 % cut off": partial(crop_margins, top=0.25),
    "bottom 15 % cut off": partial(crop_margins, bottom=0.15),
    "10 % cut off all around": partial(crop_margins, top=0.1, bottom=0.1, sides=0.1),
    "gamma 0.6": partial(apply_gamma, power=0.6),
    "gamma 1.6": partial(apply_gamma, power=1.6),
    "contrast 0.6": partial(scale_contrast, factor=0.6),
    "contrast 1.4": partial(scale_contrast, factor=1.4),
    "blur, sigma 1 px of 224": partial(blur_images, sigma_px=1.0),
    "blur, sigma 2 px of 224": partial(blur_images, sigma_px=2.0),
    "noise, 10 of 255 grey levels": partial(add_noise, deviation=10.0),
    "JPEG quality 50": partial(apply_jpeg_loss, quality=50),
    "JPEG quality 10": partial(apply_jpeg_loss, quality=10),
    "turned by 5 degrees": partial(rotate_images, degrees=5.0),
    "turned by 15 degrees": partial(rotate_images, degrees=15.0),
    "112 pixels a side": partial(reduce_resolution, side_px=112),
    "56 pixels a side": partial(reduce_resolution, side_px=56),
}
