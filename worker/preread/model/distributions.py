"""Histograms and the population stability index (PSI) between two of them.

The index is the sum of (observed - expected) * ln(observed / expected) over the shares in each bin; 0 if all are equal.
By convention 0.1 is a moderate and 0.25 a large shift (N. Siddiqi, Credit Risk Scorecards, 2006). Between samples of
sizes n and m of one population it is about chi-squared * (1/n + 1/m), with one degree of freedom less than bins
(B. Yurdakul, J. Naranjo, 2020): small samples differ by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_NORMAL_95 = 1.6449  # 95th percentile of the standard normal distribution
_EMPTY = 0.5  # added to the count of each bin, so that the index of an empty one is finite


@dataclass(frozen=True, slots=True)
class Distribution:
    """Histogram of a quantity over images.

    Attributes:
        edges: edges between the bins, increasing; a value on an edge belongs to the bin above it.
        ``films``: number of images in each bin; one more than edges.
    """

    edges: tuple[float, ...]
    films: tuple[int, ...]

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False))
        if not (rising and all(map(math.isfinite, self.edges))):
            raise ValueError(f"edges is {list(self.edges)}; the edges of the histogram must be finite and increasing")
        if len(self.films) != len(self.edges) + 1 or min(self.films) < 0:
            raise ValueError(
                f"`films` (images in each bin) is {list(self.films)}; {len(self.edges)} edges require "
                f"{len(self.edges) + 1} counts of at least 0"
            )

    @property
    def total(self) -> int:
        """Number of images in all bins of the histogram."""
        return sum(self.films)


@dataclass(frozen=True, slots=True)
class Reference:
    """Distributions of the images on which a bundle's metrics were measured.

    The section ``reference`` of the manifest.

    Attributes:
        ``films``: description of these images.
        probability: out-of-fold probabilities by finding.
        ``picture``: image statistics by field of ``ImageStatistics``.
    """

    films: str
    probability: dict[str, Distribution] = field(default_factory=dict)
    picture: dict[str, Distribution] = field(default_factory=dict)


def compute_decile_histogram(values: Sequence[float]) -> Distribution:
    """Compute a histogram whose bins have about a tenth of the values each.

    Args:
        values: finite numbers; equal values are in one bin. None give a single empty bin.
    """
    if not values:
        return Distribution((), (0,))
    # each edge is one of the values but not the smallest, so that no bin is empty
    edges = np.unique(np.quantile(values, np.arange(1, 10) / 10, method="higher"))
    return compute_histogram(values, [float(edge) for edge in edges if edge > min(values)])


def compute_histogram(values: Sequence[float], edges: Sequence[float]) -> Distribution:
    """Compute a histogram of values over images, with the given bin edges.

    Args:
        values: finite numbers.
        edges: edges between the bins, increasing.
    """
    places = np.searchsorted(np.asarray(edges, dtype=np.float64), np.asarray(values, dtype=np.float64), side="right")
    return Distribution(tuple(edges), tuple(int(n) for n in np.bincount(places, minlength=len(edges) + 1)))


def compute_stability_index(expected: Distribution, observed: Distribution) -> float:
    """Compute the population stability index (PSI) of two histograms.

    Args:
        expected: reference histogram.
        observed: histogram to compare with it.

    Returns:
        In [0, inf); 0 if the shares are equal.

    Raises:
        ValueError: the bins differ.
    """
    if expected.edges != observed.edges:
        raise ValueError(
            "the histograms have different edges, "
            f"{list(expected.edges)} and {list(observed.edges)}; they must be equal"
        )
    bins = len(expected.films)
    total = 0.0
    for before, now in zip(expected.films, observed.films, strict=True):
        p = (before + _EMPTY) / (expected.total + bins * _EMPTY)
        q = (now + _EMPTY) / (observed.total + bins * _EMPTY)
        total += (q - p) * math.log(q / p)
    return total


def compute_chance_level(expected: Distribution, observed: Distribution) -> float:
    """Compute the stability index (PSI) that chance exceeds in 5 %.

    That is between samples of one population.

    Args:
        expected: reference histogram.
        observed: histogram to compare with it.

    Returns:
        0 if there is a single bin or an empty histogram.
    """
    degrees = len(expected.films) - 1
    if not (degrees and expected.total and observed.total):
        return 0.0
    # 95th percentile of chi-squared (E. B. Wilson, M. M. Hilferty, 1931)
    term = 2 / (9 * degrees)
    chi_squared = degrees * (1 - term + _NORMAL_95 * math.sqrt(term)) ** 3
    return chi_squared * (1 / expected.total + 1 / observed.total)
