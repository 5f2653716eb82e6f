"""Preprocessing of pixels to network input, in training and serving.

The published training images are radiographs resized to a square without keeping the aspect ratio, which is exactly
Pillow's antialiased ``resize(..., BILINEAR)``; bilinear without antialiasing differs by about three grey levels.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from preread.core.types import FloatArray, PixelArray


@dataclass(frozen=True, slots=True)
class PreprocessingSpec:
    """Preprocessing section of a bundle's manifest; never set by settings.

    Attributes:
        rows: height of the network's input in pixels.
        columns: width of the network's input in pixels.
        resample: resampling method; only ``bilinear_antialiased`` is supported.
        subtract: grey level (0 to 255) that becomes 0.
        divide: grey levels per unit of the network's input.
    """

    rows: int
    columns: int
    resample: str
    subtract: float
    divide: float

    def __post_init__(self) -> None:
        if self.resample != "bilinear_antialiased":
            raise ValueError(f"resample is {self.resample!r}; this version supports bilinear_antialiased only")
        if not (0 < self.rows <= 1024 and 0 < self.columns <= 1024 and self.divide > 0):
            raise ValueError(
                f"rows is {self.rows}, columns {self.columns} and divide {self.divide}; rows and columns must be 1 to "
                "1024, and divide above 0"
            )

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the preprocessing section as canonical JSON."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


TRAINING_SPEC = PreprocessingSpec(rows=224, columns=224, resample="bilinear_antialiased", subtract=127.0, divide=128.0)


def resize_to_input(spec: PreprocessingSpec, pixels: PixelArray) -> PixelArray:
    """Resize an image to the network's input size, in any aspect ratio.

    Args:
        spec: gives the size.
        pixels: uint8 [rows, columns], 0 to 255.

    Returns:
        uint8 [spec.rows, spec.columns], 0 to 255; ``pixels`` itself if it has this size.
    """
    if pixels.shape == (spec.rows, spec.columns):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((spec.columns, spec.rows), Image.Resampling.BILINEAR))


def normalise_grey_levels(spec: PreprocessingSpec, pixels: PixelArray) -> FloatArray:
    """Convert grey levels (0 to 255) to the units of the network's input.

    Args:
        spec: gives offset and scale.
        pixels: uint8 [...], 0 to 255.

    Returns:
        float32 of the same shape: (pixels - subtract) / divide.
    """
    return (pixels.astype(np.float32) - np.float32(spec.subtract)) / np.float32(spec.divide)


def preprocess_image(spec: PreprocessingSpec, pixels: PixelArray) -> FloatArray:
    """Resize and normalise an image to the network's input, a batch of one.

    Args:
        spec: gives size, offset and scale.
        pixels: uint8 [rows, columns], 0 = black, 255 = white.

    Returns:
        float32 [1, spec.rows, spec.columns, 1] in network units.
    """
    return normalise_grey_levels(spec, resize_to_input(spec, pixels))[np.newaxis, :, :, np.newaxis]
