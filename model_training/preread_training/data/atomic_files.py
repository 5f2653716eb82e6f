"""Files of a run that are written completely or not at all.

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
    hint = (
        "Free space or choose another folder, then run the same command again: it continues after the last whole epoch."
    )


def _keep(path: Path, part: Path, write: Callable[[Path], object]) -> None:
    try:
        write(part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # HDF5 reports a full disk as either, depending on when it notices
        part.unlink(missing_ok=True)
        raise NotKept(f"{path} could not be written: {error}") from error


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text to a file of a run, replacing it in one step.

    Args:
        path: the file.
        text: its content.

    Raises:
        NotKept: the disk is full or refuses; a file that was there stays as it was.
    """
    _keep(path, path.with_name(f"part-{path.name}"), lambda part: part.write_text(text, encoding="utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write bytes to a file of a run, replacing it in one step.

    Args:
        path: the file.
        content: its content.

    Raises:
        NotKept: see ``write_text_atomically``.
    """
    _keep(path, path.with_name(f"part-{path.name}"), lambda part: part.write_bytes(content))


def write_arrays_atomically(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays of any shape to a run's ``.npz`` file, in one step.

    Args:
        path: the file.
        arrays: by name.

    Raises:
        NotKept: see ``write_text_atomically``.
    """
    _keep(path, path.with_name(f"part-{path.name}"), lambda part: np.savez(part, **arrays))  # type: ignore[arg-type]


def write_weights_atomically(model: keras.Model, path: Path) -> None:
    """Write a network's weights and its optimizer's state, in one step.

    Args:
        model: the compiled network.
        path: the file; its name ends in ``.weights.h5``.

    Raises:
        NotKept: see ``write_text_atomically``.
    """
    _keep(path, path.with_name("part.weights.h5"), model.save_weights)
