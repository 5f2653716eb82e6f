"""Subgroups of a report: by file name, framing, brightness, patient."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from preread.core.types import PixelArray
from preread_training.data.dataset import Data
from preread_training.stats.baselines import Features, sharpness, thumbnails

_BY_NAME = (
    ("bacteria-", "bacterial", 1),
    ("virus-", "viral", 1),
    ("IM-", "named IM, without", 0),
    ("NORMAL2-IM-", "named NORMAL2-IM, without", 0),
)
_MANY_FILMS = 5


def chin_contrast(pictures: PixelArray) -> Features:
    """Return how much brighter the middle of the top edge is than its rest.

    float64 [n] in grey levels; the middle is a seventh of the width.

    High where chin or jaw are in view, as in most films without pneumonia of the published training split: the plain
    sign of a framing that gives the label away.
    """
    top = thumbnails(pictures)[:, 0]
    middle = (top.shape[1] - 2) // 2
    rest = np.delete(top, [middle, middle + 1], axis=1)
    return np.asarray(top[:, middle : middle + 2].mean(axis=1) - rest.mean(axis=1))


def tertiles(values: Features) -> npt.NDArray[np.int64]:
    """Return the third in which each value lies, int64 [n] in {0, 1, 2}."""
    return np.digitize(values, np.quantile(values, [1 / 3, 2 / 3])).astype(np.int64)


def top_centre(data: Data) -> str:
    """Return the name of what ``chin_contrast`` measures.

    That it is the chin is known for the published data set only.
    """
    return "chin in view" if data.published else "top centre bright"


def subgroups(data: Data, rows: npt.NDArray[np.int64], finding: int) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the subgroups of these rows, bool [rows] by name.

    What the data do not tell (no conflict slice, unknown patients) is left out; names of patients tell a kind of
    pneumonia in the published set only.
    """
    return {name: chosen for name, chosen in _all(data, rows, finding) if chosen.any()}


def _all(data: Data, rows: npt.NDArray[np.int64], finding: int) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    labels, conflict, patients = data.labels[rows, finding], data.conflict[rows, finding], data.patients[rows]
    if data.published:
        for prefix, name, label in _BY_NAME:
            yield name, np.char.startswith(patients, prefix) & (labels == label)
    yield "conflict slice, without", conflict & (labels == 0)
    yield "conflict slice, with", conflict & (labels == 1)
    misled = data.misled_by_sharpness[rows, finding]
    yield "sharpness misleads, without", misled & (labels == 0)
    yield "sharpness misleads, with", misled & (labels == 1)
    for values, names in (
        (
            chin_contrast(data.pictures[rows]),
            tuple(f"{top_centre(data)}: {third}" for third in ("least", "middle third", "most")),
        ),
        (
            data.pictures[rows].mean(axis=(1, 2)),
            ("brightness: darkest third", "brightness: middle third", "brightness: brightest third"),
        ),
        (
            sharpness(data.pictures[rows])[:, 0],
            ("sharpness: softest third", "sharpness: middle third", "sharpness: sharpest third"),
        ),
    ):
        third = tertiles(values)
        for index, name in enumerate(names):
            yield name, third == index
    if not all(film.patient_known for film in data.films):
        return
    _, of, counts = np.unique(data.patients, return_inverse=True, return_counts=True)
    films = counts[of][rows]
    yield "patients with one film", films == 1
    yield f"patients with 2 to {_MANY_FILMS - 1} films", (films > 1) & (films < _MANY_FILMS)
    yield f"patients with {_MANY_FILMS} films or more", films >= _MANY_FILMS
