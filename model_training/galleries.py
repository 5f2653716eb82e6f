"""Pictures of films for the local report: samples by what the names tell, and errors with their activation maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.image import imsave

from model_training.dataset import Data
from worker.domain import PixelArray
from worker.preprocessing import TRAINING_SPEC, normalise

Floats = npt.NDArray[np.float64]

# Warm where a cell speaks for the finding, cool where it speaks against it.
_FOR, _AGAINST = np.array([255.0, 120.0, 0.0]), np.array([0.0, 130.0, 255.0])
_OPACITY = 0.55
_QUALITY = 85
_BATCH = 64


def data_uri(kind: str, content: bytes) -> str:
    """Bytes as an address that needs no other file; kind is a media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def jpeg_uri(picture: PixelArray) -> str:
    """A picture, uint8 [rows, columns] or [rows, columns, 3], inside its own address."""
    stream = io.BytesIO()
    colours = picture if picture.ndim == 3 else np.repeat(picture[..., np.newaxis], 3, axis=2)
    imsave(stream, colours, format="jpg", pil_kwargs={"quality": _QUALITY})
    return data_uri("image/jpeg", stream.getvalue())


def activation_maps(run: Path, data: Data, rows: npt.NDArray[np.int64], finding: int) -> dict[int, Floats]:
    """What each cell adds to the logit, by the network of the fold in which the film was held out.

    Args:
        rows: int64 [n], of the data set.

    Returns:
        For each row float64 [cells, cells], whose mean plus the head's bias is the logit. A row whose network is
        missing, or a reference system that has no such map, is absent.
    """
    import tensorflow as tf

    from model_training.running import network_of

    maps: dict[int, Floats] = {}
    for fold in np.unique(data.folds[rows]):
        served = network_of(run, f"fold-{fold}", len(data.findings))
        if served is None:
            continue
        look = tf.function(lambda x, served=served: served(x, training=False)["activation_map"])
        of_fold = rows[data.folds[rows] == fold]
        for start in range(0, len(of_fold), _BATCH):
            part = of_fold[start : start + _BATCH]
            found = look(normalise(TRAINING_SPEC, data.pictures[part])[..., np.newaxis]).numpy()[..., finding]
            maps |= dict(zip(part.tolist(), found.astype(np.float64), strict=True))
    return maps


def enlarge(cells: Floats, rows: int, columns: int) -> Floats:
    """Interpolate float64 [cells, cells] bilinearly to [rows, columns], cell centres where they belong."""
    for side in (rows, columns):  # one axis after the other, the result transposed each time
        at = (np.arange(side) + 0.5) / side * cells.shape[0] - 0.5
        at = np.clip(at, 0, cells.shape[0] - 1)
        low = np.minimum(at.astype(int), max(0, cells.shape[0] - 2))
        high = np.minimum(low + 1, cells.shape[0] - 1)
        share = (at - low)[:, np.newaxis]
        cells = (cells[low] * (1 - share) + cells[high] * share).T
    return cells


def overlay(film: PixelArray, cells: Floats, full: float) -> PixelArray:
    """Lay an activation map over a film.

    Args:
        film: uint8 [rows, columns].
        cells: float64 [cells, cells].
        full: the value drawn at full strength, above 0; the same for all films, so that they can be compared.

    Returns:
        uint8 [rows, columns, 3].
    """
    strength = np.clip(enlarge(cells, *film.shape) / full, -1, 1)[..., np.newaxis]
    opacity = _OPACITY * np.abs(strength)
    mixed = film[..., np.newaxis] * (1 - opacity) + np.where(strength > 0, _FOR, _AGAINST) * opacity
    return np.asarray(mixed.round(), dtype=np.uint8)


def kinds(data: Data, finding: int) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """What is to be told apart, and the rows of each: without and with the finding, bacterial and viral by name."""
    name, labels = data.findings[finding], data.labels[:, finding]
    yield f"without {name}", np.flatnonzero(labels == 0)
    rest = labels == 1
    for prefix, kind in (("bacteria-", "bacterial"), ("virus-", "viral")):
        chosen = np.char.startswith(data.patients, prefix) & (labels == 1)
        if chosen.any():
            yield f"{name}, {kind}", np.flatnonzero(chosen)
            rest &= ~chosen
    if rest.any():
        yield name, np.flatnonzero(rest)


def sample(data: Data, rows: npt.NDArray[np.int64], count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Draw films of different patients, always the same ones; fewer where there are fewer patients."""
    _, first = np.unique(data.patients[rows], return_index=True)
    drawn = np.random.default_rng(seed).permutation(first)[:count]
    return np.asarray(rows[np.sort(drawn)])
