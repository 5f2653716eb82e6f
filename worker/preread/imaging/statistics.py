"""Figures of a picture that cost next to nothing and say whether a site's films are still what they were.

Of what the network sees, so that they mean the same for films of every size and format.
"""

from __future__ import annotations

import math

import numpy as np

from preread.core.types import ImageStatistics, PixelArray

_BORDER = 8  # its share of each side is one in so many
_GREYS = np.arange(256)


def measure_image(picture: PixelArray) -> ImageStatistics:
    """Describe uint8 [rows, columns] after ``preprocessing.shrink``; at least 8 by 8 pixels."""
    rows, columns = picture.shape
    down, across = rows // _BORDER, columns // _BORDER
    inner = picture[down : rows - down, across : columns - across]
    # sums of integers are exact: the same picture gives the same figures on every machine
    counts = np.bincount(picture.ravel(), minlength=256)
    total, inside = int(counts @ _GREYS), int(inner.sum(dtype=np.int64))
    mean = total / picture.size
    # in 8 bits: the larger of two neighbours less the smaller
    pairs = ((picture[1:], picture[:-1]), (picture[:, 1:], picture[:, :-1]))
    steps = [np.maximum(one, other) - np.minimum(one, other) for one, other in pairs]
    return ImageStatistics(
        mean=mean,
        contrast=math.sqrt(float(counts @ (_GREYS - mean) ** 2) / picture.size),
        sharpness=sum(int(step.sum(dtype=np.int64)) for step in steps) / sum(step.size for step in steps),
        border=(total - inside) / (picture.size - inner.size),
    )
