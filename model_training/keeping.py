"""Files that are there whole or not at all: written beside their place, then put there in one step."""

from __future__ import annotations

import os
from pathlib import Path

import keras


def keep_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    part = path.with_name(f"part-{path.name}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def keep_weights(model: keras.Model, path: Path) -> None:
    """Write a network's weights, and its optimizer's state if it has one; the name ends in ``.weights.h5``."""
    part = path.with_name("part.weights.h5")
    model.save_weights(part)
    os.replace(part, path)
