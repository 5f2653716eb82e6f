"""Image galleries of the local report: samples and errors."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.image import imsave

from preread.core.types import FloatArray, PixelArray
from preread.imaging.preprocessing import TRAINING_SPEC
from preread_training.analysis.activation_maps import look_with_keras, overlay
from preread_training.data.dataset import Data

_OPACITY = 0.4
_QUALITY = 85


def data_uri(kind: str, content: bytes) -> str:
    """Return bytes as a data URI; ``kind`` is a media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def jpeg_uri(picture: PixelArray) -> str:
    """Return an image as a data URI.

    uint8 [rows, columns] or [rows, columns, 3].
    """
    stream = io.BytesIO()
    colours = picture if picture.ndim == 3 else np.repeat(picture[..., np.newaxis], 3, axis=2)
    imsave(stream, colours, format="jpg", pil_kwargs={"quality": _QUALITY})
    return data_uri("image/jpeg", stream.getvalue())


def activation_maps(run: Path, data: Data, rows: npt.NDArray[np.int64], finding: int) -> dict[int, FloatArray]:
    """Return what each cell adds to the logit.

    By the network of the fold in which the image was held out.

    Args:
        rows: int64 [n], of the data set.

    Returns:
        For each row float32 [cells, cells], whose mean plus the head's bias is the logit. A row whose network is
        missing, or a reference system that has no such map, is absent.
    """
    from preread_training.fit.cross_validation import network_of

    maps: dict[int, FloatArray] = {}
    for fold in np.unique(data.folds[rows]):
        served = network_of(run, f"fold-{fold}", len(data.findings))
        if served is not None:
            of_fold = rows[data.folds[rows] == fold]
            seen = look_with_keras(served, TRAINING_SPEC, finding)(data.pictures[of_fold])
            maps |= dict(zip(of_fold.tolist(), seen.maps, strict=True))
    return maps


def overlaid(film: PixelArray, cells: FloatArray, full: float) -> PixelArray:
    """Draw an activation map over an image.

    Its strength is its largest value relative to ``full``, above 0.

    One ``full`` for all films of a gallery lets them be compared: a map that says little is faint.
    """
    return overlay(film, cells, _OPACITY * min(1.0, float(np.abs(cells).max()) / full))


def kinds(data: Data, finding: int) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Return the kinds of images and the rows of each.

    Without and with the finding; by kind in the published data set.
    """
    name, labels = data.findings[finding], data.labels[:, finding]
    yield f"without {name}", np.flatnonzero(labels == 0)
    rest = labels == 1
    for prefix, kind in (("bacteria-", "bacterial"), ("virus-", "viral")) if data.published else ():
        chosen = np.char.startswith(data.patients, prefix) & (labels == 1)
        if chosen.any():
            yield f"{name}, {kind}", np.flatnonzero(chosen)
            rest &= ~chosen
    if rest.any():
        yield name, np.flatnonzero(rest)


def sample(data: Data, rows: npt.NDArray[np.int64], count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Draw images of different patients, the same ones each time."""
    _, first = np.unique(data.patients[rows], return_index=True)
    drawn = np.random.default_rng(seed).permutation(first)[:count]
    return np.asarray(rows[np.sort(drawn)])
