"""Activation maps and logits of a network for a set of images.

A map shows what moved the result, not where a disease is: no label of the published data set states a place.
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
class NetworkOutputs:
    """Logits and activation maps of a network for a set of images.

    Attributes:
        logits: float64 [n], of one finding.
        maps: float32 [n, cells, cells], the activation maps of that finding.
    """

    logits: Scores
    maps: FloatArray


RunNetwork = Callable[[PixelArray], NetworkOutputs]


def load_bundle_runner(classifier: Classifier) -> RunNetwork:
    """Return a function that runs a bundle's network on images.

    Args:
        classifier: the loaded bundle; its first finding is taken.

    Returns:
        A function of uint8 [n, rows, columns] of any size that returns ``NetworkOutputs``, image by image.
    """

    def look(images: PixelArray) -> NetworkOutputs:
        spec = classifier.bundle.manifest.preprocessing
        inputs = (
            normalise_grey_levels(spec, resize_to_input(spec, image))[np.newaxis, ..., np.newaxis] for image in images
        )
        outputs = [classifier.classify(each) for each in inputs]
        logits = np.array([output.logit[0] for output in outputs], np.float64)
        return NetworkOutputs(logits, np.stack([output.activation_map for output in outputs]))

    return look


def make_keras_runner(served: Any, spec: PreprocessingSpec, finding: int = 0) -> RunNetwork:
    """Return a function that runs one finding of a Keras network on images.

    Args:
        served: a network of ``trainer.build_serving_network``.
        spec: preprocessing of the network's inputs.
        finding: column of the network's outputs.

    Returns:
        A function of uint8 [n, spec.rows, spec.columns] that returns ``NetworkOutputs``, in batches.
    """

    def look(images: PixelArray) -> NetworkOutputs:
        outputs = [
            served.predict_on_batch(normalise_grey_levels(spec, images[start : start + _BATCH])[..., np.newaxis])
            for start in range(0, len(images), _BATCH)
        ]
        logits = np.concatenate([output["logit"][:, finding] for output in outputs])
        maps = np.concatenate([output["activation_map"][..., finding] for output in outputs])
        return NetworkOutputs(logits.astype(np.float64), maps)

    return look


def estimate_head_bias(seen: NetworkOutputs) -> tuple[float, float]:
    """Estimate the constant between logits and means of their maps.

    Global average pooling and one dense unit make the logit the mean of the map plus the head's bias.

    Args:
        seen: logits and maps of at least one image.

    Returns:
        The bias, and the largest absolute deviation of an image from it, which is rounding only.
    """
    difference = seen.logits - seen.maps.mean(axis=(1, 2), dtype=np.float64)
    bias = float(np.median(difference))
    return bias, float(np.abs(difference - bias).max())


def make_border_cell_mask(cells: int) -> Rows:
    """Return the mask of a map's outermost cells, bool [cells, cells]."""
    region = np.ones((cells, cells), bool)
    region[1:-1, 1:-1] = False
    return region


def measure_map_energy_share(maps: FloatArray, region: Rows) -> Scores:
    """Return the share of each map's absolute values within a region.

    Args:
        maps: float32 [n, cells, cells].
        region: bool [cells, cells].

    Returns:
        float64 [n] in [0, 1], 0 for a map of zeros; compare it with the region's share of the area.
    """
    weight = np.abs(maps).astype(np.float64)
    total = weight.sum(axis=(1, 2))
    return np.asarray(weight[:, region].sum(axis=1) / np.where(total > 0, total, 1.0))


def correlate_maps(first: FloatArray, second: FloatArray) -> Scores:
    """Return the Pearson correlation of two activation maps of each image.

    Args:
        first: float32 [n, cells, cells].
        second: float32 [n, cells, cells], of the same images.

    Returns:
        float64 [n] in [-1, 1]; 0 if one of the two maps is constant.
    """
    a, b = (each.reshape(len(each), -1).astype(np.float64) for each in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray((a * b).sum(axis=1) / np.where(scale > 1e-12, scale, np.inf))


def shuffle_weights(model: Any, seed: int = 0) -> None:
    """Shuffle the weights of a Keras network in place, array by array.

    The scale of the weights stays, what was learned is lost. If the maps of such a network look like those of the
    fitted
    one, they show the image and not what was learned (model randomisation, Adebayo et al. 2018).

    Args:
        model: the network to change.
        seed: of the permutations.
    """
    generator = np.random.default_rng(seed)
    model.set_weights([generator.permutation(each.ravel()).reshape(each.shape) for each in model.get_weights()])


def draw_map_over_image(image: PixelArray, activation_map: FloatArray, strength: float = 0.45) -> PixelArray:
    """Draw an activation map over its image as colours.

    Red raises the logit of the finding, blue lowers it.

    Args:
        image: uint8 [rows, columns].
        activation_map: float32 [cells, cells].
        strength: of the colour at the map's largest absolute value, in [0, 1].

    Returns:
        uint8 [rows, columns, 3], RGB.
    """
    rows, columns = image.shape
    places = [
        (np.arange(length) + 0.5) / length * cells - 0.5
        for length, cells in zip((rows, columns), activation_map.shape, strict=True)
    ]
    stretched = _stretch(_stretch(activation_map, places[0]).T, places[1]).T
    largest = float(np.abs(stretched).max())
    share = (stretched / largest if largest else stretched)[..., np.newaxis] * strength
    grey = np.repeat(image[..., np.newaxis].astype(np.float32), 3, axis=2)
    colour = np.where(share > 0, np.array([255.0, 40.0, 20.0]), np.array([30.0, 90.0, 255.0]))
    return np.asarray(np.rint(grey * (1 - np.abs(share)) + colour * np.abs(share))).astype(np.uint8)


def _stretch(values: npt.NDArray[Any], places: Scores) -> Scores:
    """Interpolate the first axis linearly, constant beyond its ends."""
    places = np.clip(places, 0, len(values) - 1)
    low = np.minimum(places.astype(int), max(0, len(values) - 2))
    part = (places - low)[:, np.newaxis]
    return np.asarray(values[low] * (1 - part) + values[np.minimum(low + 1, len(values) - 1)] * part)
