"""Activation maps and logits of a network.

The map shows what moved the answer, not where a disease is: no film of this data set says where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from preread.core.types import FloatArray, PixelArray
from preread.imaging.preprocessing import PreprocessingSpec, normalise_grey_levels, resize_to_input
from preread.model.classifier import Classifier
from preread_training.stats.bootstrap import Rows, Scores

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Seen:
    """Logits, maps and embeddings of a network for a set of images.

    Attributes:
        logits: float64 [n].
        maps: float32 [n, cells, cells], the activation maps.
    """

    logits: Scores
    maps: FloatArray


Look = Callable[[PixelArray], Seen]


def look_with(classifier: Classifier) -> Look:
    """Return a function that runs a bundle's network, first finding.

    The function takes uint8 [n, rows, columns] of any size.
    """

    def look(pictures: PixelArray) -> Seen:
        spec = classifier.bundle.manifest.preprocessing
        inputs = (
            normalise_grey_levels(spec, resize_to_input(spec, picture))[np.newaxis, ..., np.newaxis]
            for picture in pictures
        )
        outputs = [classifier.classify(each) for each in inputs]
        logits = np.array([output.logit[0] for output in outputs], np.float64)
        return Seen(logits, np.stack([output.activation_map for output in outputs]))

    return look


def look_with_keras(served: Any, spec: PreprocessingSpec, finding: int = 0) -> Look:
    """Return a function that runs one finding of a Keras network.

    The network is one of ``trainer.serving``; images go through it in batches.
    """

    def look(pictures: PixelArray) -> Seen:
        outputs = [
            served.predict_on_batch(normalise_grey_levels(spec, pictures[start : start + _BATCH])[..., np.newaxis])
            for start in range(0, len(pictures), _BATCH)
        ]
        logits = np.concatenate([output["logit"][:, finding] for output in outputs])
        maps = np.concatenate([output["activation_map"][..., finding] for output in outputs])
        return Seen(logits.astype(np.float64), maps)

    return look


def head_bias(seen: Seen) -> tuple[float, float]:
    """Return the bias between logit and mean of the map, and its spread.

    Global average pooling and one dense unit make the logit the mean of the map plus the head's bias: the second
    number is the largest deviation from that over these films, and rounding only.
    """
    difference = seen.logits - seen.maps.mean(axis=(1, 2), dtype=np.float64)
    bias = float(np.median(difference))
    return bias, float(np.abs(difference - bias).max())


def border_cells(cells: int) -> Rows:
    """Return the outermost cells of a map, bool [cells, cells]."""
    region = np.ones((cells, cells), bool)
    region[1:-1, 1:-1] = False
    return region


def energy_share(maps: FloatArray, region: Rows) -> Scores:
    """Return the share of each map's absolute values within a region.

    float64 [n]; compare it with the region's share of the area.
    """
    weight = np.abs(maps).astype(np.float64)
    total = weight.sum(axis=(1, 2))
    return np.asarray(weight[:, region].sum(axis=1) / np.where(total > 0, total, 1.0))


def map_correlation(first: FloatArray, second: FloatArray) -> Scores:
    """Return the Pearson correlation of two maps of each image.

    float64 [n]; 0 if one of the two is constant.
    """
    a, b = (each.reshape(len(each), -1).astype(np.float64) for each in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray((a * b).sum(axis=1) / np.where(scale > 1e-12, scale, np.inf))


def scramble(model: Any, seed: int = 0) -> None:
    """Shuffle each weight array of a Keras network in place.

    What was learned is lost, the scale of the weights is not (model-randomisation test).

    If maps of a scrambled network look like those of the fitted one, they show the film and not what was learned
    (model randomisation, Adebayo et al. 2018).
    """
    generator = np.random.default_rng(seed)
    model.set_weights([generator.permutation(each.ravel()).reshape(each.shape) for each in model.get_weights()])


def overlay(picture: PixelArray, activation_map: FloatArray, strength: float = 0.45) -> PixelArray:
    """Draw a map over its image: red for the finding, blue against it.

    Args:
        picture: uint8 [rows, columns].
        activation_map: float32 [cells, cells].
        strength: of the colour at the map's largest absolute value, in [0, 1].

    Returns:
        uint8 [rows, columns, 3], RGB.
    """
    rows, columns = picture.shape
    places = [
        (np.arange(length) + 0.5) / length * cells - 0.5
        for length, cells in zip((rows, columns), activation_map.shape, strict=True)
    ]
    stretched = _stretch(_stretch(activation_map, places[0]).T, places[1]).T
    largest = float(np.abs(stretched).max())
    share = (stretched / largest if largest else stretched)[..., np.newaxis] * strength
    grey = np.repeat(picture[..., np.newaxis].astype(np.float32), 3, axis=2)
    colour = np.where(share > 0, np.array([255.0, 40.0, 20.0]), np.array([30.0, 90.0, 255.0]))
    return np.asarray(np.rint(grey * (1 - np.abs(share)) + colour * np.abs(share))).astype(np.uint8)


def _stretch(values: npt.NDArray[Any], places: Scores) -> Scores:
    """Interpolate the first axis linearly, constant beyond its ends."""
    places = np.clip(places, 0, len(values) - 1)
    low = np.minimum(places.astype(int), max(0, len(values) - 2))
    part = (places - low)[:, np.newaxis]
    return np.asarray(values[low] * (1 - part) + values[np.minimum(low + 1, len(values) - 1)] * part)
