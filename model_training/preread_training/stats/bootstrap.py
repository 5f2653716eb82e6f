"""Bootstrap intervals (95 %) by patient.

Shares (sensitivity, specificity, accuracy) get Wilson's interval on the effective number of images, which stays wide
if no error was seen; other measures get the percentiles of a bootstrap that draws patients. DeLong's variance is not
used: it takes images for independent, and one patient here has up to thirty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[np.bool_]
Groups = npt.NDArray[np.str_]

_Z = 1.959963984540054  # 97.5 % of the standard normal distribution lie below


@dataclass(frozen=True, slots=True)
class Measure:
    """A value with its 95 % interval; NaN if undefined (one label only).

    Attributes:
        value: on the images as they are.
        low: end of the interval.
        high: end of the interval.
    """

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Return ``value``, ``low`` and ``high``, ``None`` if undefined."""
        return {"value": nan_to_none(self.value), "low": nan_to_none(self.low), "high": nan_to_none(self.high)}


def nan_to_none(value: float) -> float | None:
    """Return a number for JSON, ``None`` for NaN, which JSON does not have."""
    return None if math.isnan(value) else float(value)


def compute_effective_count(hit: Rows, groups: Groups) -> float:
    """Return the effective number of images that come in groups.

    Images divided by the design effect of a ratio over groups (Rao and Scott 1992), never more than there are; the
    number of groups if all images agree, so that their variance has no information.

    Args:
        hit: bool [n].
        groups: str [n], the patients.
    """
    images = len(hit)
    _, group = np.unique(groups, return_inverse=True)
    sizes, hits = np.bincount(group), np.bincount(group, hit.astype(float))
    share, count = hit.mean(), len(sizes)
    if share in (0.0, 1.0) or count < 2:
        return float(count)
    between = count / (count - 1) * ((hits - share * sizes) ** 2).sum() / images**2
    return float(images / max(1.0, between / (share * (1 - share) / images)))


def measure_share(hit: Rows, groups: Groups) -> Measure:
    """Return the share of hits with its 95 % interval (Wilson 1927).

    The interval is on the effective number of images.

    Args:
        hit: bool [n].
        groups: str [n], the patients.

    Returns:
        The share; NaN of no image.
    """
    if not len(hit):
        return Measure(float("nan"), float("nan"), float("nan"))
    count, value = compute_effective_count(hit, groups), float(hit.mean())
    centre = (value + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(value * (1 - value) / count + _Z**2 / (4 * count**2))
    return Measure(value, max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half)))


def draw_bootstrap_samples(groups: Groups, count: int, seed: int = 0) -> Iterator[Scores]:
    """Yield bootstrap samples of groups, as weights of images.

    Args:
        groups: str [n], the patients.
        count: number of samples.
        seed: of the samples.

    Yields:
        float64 [n], how often each image counts in a sample.
    """
    _, group = np.unique(groups, return_inverse=True)
    number_of = int(group.max()) + 1
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield np.bincount(generator.integers(0, number_of, number_of), minlength=number_of).astype(float)[group]


def bootstrap_measures(
    measures: Mapping[str, Callable[[Scores], float]], groups: Groups, *, count: int = 2000, seed: int = 0
) -> dict[str, Measure]:
    """Return measures with 95 % intervals over bootstrap samples of groups.

    Args:
        measures: by name a function of float64 [n], how often each image counts.
        groups: str [n], the patients.
        count: number of samples.
        seed: of the samples.
    """
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for weight in draw_bootstrap_samples(groups, count, seed):
        for name, of in measures.items():
            drawn[name].append(of(weight))
    result = {}
    for name, of in measures.items():
        finite = np.array(drawn[name])[np.isfinite(drawn[name])]
        low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (float("nan"), float("nan"))
        result[name] = Measure(of(np.ones(len(groups))), float(low), float(high))
    return result
