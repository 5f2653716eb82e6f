"""One preprocessing, for training and serving alike: what turns a radiograph into what the network expects.

The published training pictures are whole films squashed to a square, which is exactly Pillow's antialiased
``resize(..., BILINEAR)`` (a plain bilinear without antialiasing is off by some three grey levels).
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
    """Read from the bundle's manifest, never from settings.

    Attributes:
        rows: height of the network's input in pixels.
        columns: width of the network's input in pixels.
        resample: only ``bilinear_antialiased`` exists.
        subtract: grey level that becomes 0.
        divide: grey levels per unit of the network's input.
    """

    rows: int
    columns: int
    resample: str
    subtract: float
    divide: float

    def __post_init__(self) -> None:
        if self.resample != "bilinear_antialiased":
            raise ValueError(f"resample is {self.resample!r}; this version knows bilinear_antialiased only")
        if not (0 < self.rows <= 1024 and 0 < self.columns <= 1024 and self.divide > 0):
            raise ValueError("rows and columns must lie in 1..1024 and divide must be above 0")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the spec in canonical JSON: equal digests give equal pictures."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


TRAINING_SPEC = PreprocessingSpec(rows=224, columns=224, resample="bilinear_antialiased", subtract=127.0, divide=128.0)


def shrink(spec: PreprocessingSpec, pixels: PixelArray) -> PixelArray:
    """Squash uint8 [rows, columns] to uint8 [spec.rows, spec.columns]; the aspect is not kept."""
    if pixels.shape == (spec.rows, spec.columns):
        return pixels
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize((spec.columns, spec.rows), Image.Resampling.BILINEAR))


def normalise(spec: PreprocessingSpec, pixels: PixelArray) -> FloatArray:
    """Map uint8 grey levels of any shape to float32 network units."""
    return (pixels.astype(np.float32) - np.float32(spec.subtract)) / np.float32(spec.divide)


def apply(spec: PreprocessingSpec, pixels: PixelArray) -> FloatArray:
    """Turn uint8 [rows, columns], 0 = black, into float32 [1, spec.rows, spec.columns, 1]."""
    return normalise(spec, shrink(spec, pixels))[np.newaxis, :, :, np.newaxis]
