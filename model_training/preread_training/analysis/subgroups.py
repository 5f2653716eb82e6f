"""Subgroups of a data set: by file name, framing, greys, patient."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from preread.core.types import PixelArray
from preread_training.data.dataset import Data
from preread_training.stats.baselines import Features, compute_thumbnails, measure_sharpness

_BY_NAME = (
    ("bacteria-", "bacterial", 1),
    ("virus-", "viral", 1),
    ("IM-", "named IM, without", 0),
    ("NORMAL2-IM-", "named NORMAL2-IM, without", 0),
)
_MANY_IMAGES = 5


def measure_chin_contrast(images: PixelArray) -> Features:
    """Measure how much brighter the middle of the top edge is than its rest.

    It is high if chin or jaw are in view, as in most images without pneumonia of the published training split: the
    plain sign of a framing that gives the label away.

    Args:
        images: uint8 [n, rows, columns], sides divisible by 14.

    Returns:
        float64 [n] in grey levels; the middle is a seventh of the width.
    """
    top = compute_thumbnails(images)[:, 0]
    middle = (top.shape[1] - 2) // 2
    rest = np.delete(top, [middle, middle + 1], axis=1)
    return np.asarray(top[:, middle : middle + 2].mean(axis=1) - rest.mean(axis=1))


def assign_tertiles(values: Features) -> npt.NDArray[np.int64]:
    """Return the third in which each of float64 [n] lies, int64 [n] in 0 to 2."""
    return np.digitize(values, np.quantile(values, [1 / 3, 2 / 3])).astype(np.int64)


def name_chin_contrast(data: Data) -> str:
    """Return the name for readers of what ``measure_chin_contrast`` measures.

    Only of the published data set it is known that the bright top centre is the chin.
    """
    return "chin in view" if data.published else "top centre bright"


def select_subgroups(data: Data, rows: npt.NDArray[np.int64], finding: int) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the rows of each subgroup of held-out images.

    What the data do not tell (no conflict slice, unknown patients) is left out; names of patients tell a kind of
    pneumonia in the published set only.

    Args:
        data: the data set.
        rows: int64 [n], the held-out images in it.
        finding: column of the data set's findings.

    Returns:
        By name bool [n], at least one image each.
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
            measure_chin_contrast(data.pixels[rows]),
            tuple(f"{name_chin_contrast(data)}: {third}" for third in ("least", "middle third", "most")),
        ),
        (
            data.pixels[rows].mean(axis=(1, 2)),
            ("brightness: darkest third", "brightness: middle third", "brightness: brightest third"),
        ),
        (
            measure_sharpness(data.pixels[rows])[:, 0],
            ("sharpness: softest third", "sharpness: middle third", "sharpness: sharpest third"),
        ),
    ):
        third = assign_tertiles(values)
        for index, name in enumerate(names):
            yield name, third == index
    if not all(image.patient_known for image in data.images):
        return
    _, of, counts = np.unique(data.patients, return_inverse=True, return_counts=True)
    count = counts[of][rows]
    for name, chosen in (
        ("one film", count == 1),
        (f"2 to {_MANY_IMAGES - 1} films", (count > 1) & (count < _MANY_IMAGES)),
        (f"{_MANY_IMAGES} films or more", count >= _MANY_IMAGES),
    ):
        yield f"patients with {name}", chosen  # a key of the manifest, which stays
