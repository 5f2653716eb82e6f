"""Files that are written completely or not at all.

Each is written beside its place and renamed in one step.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from preread.core.errors import PrereadError

if TYPE_CHECKING:  # a page is written where Keras need not be
    import keras


class NotKept(PrereadError):
    """A file of a run could not be written."""

    code = "not_kept"
    hint = "Make room, then give the same command again: it goes on from the last epoch that was kept."


def _keep(path: Path, part: Path, write: Callable[[Path], object]) -> None:
    try:
        write(part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # HDF5 reports a full disk as either, depending on when it notices
        part.unlink(missing_ok=True)
        raise NotKept(f"{path} could not be written: {error}") from error


def keep_text(path: Path, text: str) -> None:
    """Write UTF-8 text.

    Raises:
        NotKept: the disk is full or refuses; what stood there before stands there still.
    """
    _keep(path, path.with_name(f"part-{path.name}"), lambda part: part.write_text(text, encoding="utf-8"))


def keep_bytes(path: Path, content: bytes) -> None:
    """Write bytes; raises as ``keep_text`` does."""
    _keep(path, path.with_name(f"part-{path.name}"), lambda part: part.write_bytes(content))


def keep_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays to a ``.npz`` file; raises as ``keep_text`` does."""
    _keep(path, path.with_name(f"part-{path.name}"), lambda part: np.savez(part, **arrays))  # type: ignore[arg-type]


def keep_weights(model: keras.Model, path: Path) -> None:
    """Write a network's weights and its optimizer's state.

    The name ends in ``.weights.h5``.

    Raises as ``keep_text`` does.
    """
    _keep(path, path.with_name("part.weights.h5"), model.save_weights)
