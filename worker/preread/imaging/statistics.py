"""Image statistics for drift monitoring.

They are computed from the network's input, so that images of every size and format are comparable.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from preread.core.types import ImageStatistics, PixelArray

_BORDER = 8  # the border is this fraction (1/8) of each side
_GREYS = np.arange(256)


# At least 89 in the 5,216 training images and 150 in the 180 of them at full size.
GREY_LEVEL_SPREAD_MIN = 80


def grey_level_range(counts: npt.NDArray[np.number[Any]]) -> tuple[int, int]:
    """Return the 0.5th and 99.5th percentile of grey levels.

    Args:
        counts: number of pixels of each level, [256].
    """
    cumulated = np.cumsum(counts)
    low, high = (int(np.searchsorted(cumulated, share * cumulated[-1])) for share in (0.005, 0.995))
    return low, high


def measure_image(pixels: PixelArray) -> ImageStatistics:
    """Compute brightness, contrast, sharpness and border of an image.

    Args:
        pixels: uint8 [rows, columns], 0 to 255, at least 8 by 8, after ``preprocessing.resize_to_input``.
    """
    rows, columns = pixels.shape
    down, across = rows // _BORDER, columns // _BORDER
    inner = pixels[down : rows - down, across : columns - across]
    # sums of integers are exact: an image has the same statistics on every machine
    counts = np.bincount(pixels.ravel(), minlength=256)
    total, inside = int(counts @ _GREYS), int(inner.sum(dtype=np.int64))
    mean = total / pixels.size
    # in 8 bits: the larger of two neighbours less the smaller
    pairs = ((pixels[1:], pixels[:-1]), (pixels[:, 1:], pixels[:, :-1]))
    steps = [np.maximum(first, second) - np.minimum(first, second) for first, second in pairs]
    return ImageStatistics(
        mean=mean,
        contrast=math.sqrt(float(counts @ (_GREYS - mean) ** 2) / pixels.size),
        sharpness=sum(int(step.sum(dtype=np.int64)) for step in steps) / sum(step.size for step in steps),
        border=(total - inside) / (pixels.size - inner.size),
    )
