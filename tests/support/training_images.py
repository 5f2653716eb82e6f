"""Data sets of synthetic images for tests that train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from preread.core.types import PixelArray
from preread_training.data.phantoms import draw_chest


def brightened_chest(seed: int, lift: int) -> PixelArray:
    """Draw a synthetic chest image whose grey levels are raised.

    Args:
        seed: of the drawing.
        lift: added to each pixel, in grey levels; negative darkens.

    Returns:
        uint8 [512, 512].
    """
    return np.asarray(np.clip(draw_chest(seed).astype(int) + lift, 0, 255), np.uint8)


def write_data_set(folder: Path, images: int) -> Path:
    """Write a data set that one epoch can tell apart: images with pneumonia are brighter.

    Args:
        folder: where the folders ``NORMAL`` and ``PNEUMONIA`` are made.
        images: number of images in each of them, each of another patient.

    Returns:
        The folder.
    """
    for label, lift in (("NORMAL", 0), ("PNEUMONIA", 60)):
        (folder / label).mkdir()
        for seed in range(images):
            name = f"person{seed}_virus_{seed}.png" if lift else f"IM-{seed:04}-0001.png"
            Image.fromarray(brightened_chest(seed, lift)).save(folder / label / name)
    return folder
