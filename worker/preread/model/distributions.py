"""How values are distributed, and how far one distribution lies from another.

The measure is the population stability index: the sum of (found - expected) * ln(found / expected) over the shares in
each bin; 0 where they are equal. By custom 0.1 is worth a look and 0.25 is another population (N. Siddiqi, Credit Risk
Scorecards, 2006). Between two samples of one population it is about chi-squared * (1/n + 1/m) with one degree of
freedom less than bins (B. Yurdakul, J. Naranjo, 2020): few films differ by chance, and that is no drift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_NORMAL_95 = 1.6449  # of a standard distribution 95 % lie below
_EMPTY = 0.5  # films added to each bin, so that an empty one is no infinity


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many films lie in each bin.

    Attributes:
        edges: between the bins, rising; a value on an edge belongs to the bin above it.
        films: one more than edges.
    """

    edges: tuple[float, ...]
    films: tuple[int, ...]

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False))
        if not (rising and all(map(math.isfinite, self.edges))):
            raise ValueError("edges must be finite and rise")
        if len(self.films) != len(self.edges) + 1 or min(self.films) < 0:
            raise ValueError(
                "films must hold a number of at least 0 for each bin, of which there is one more than edges"
            )

    @property
    def total(self) -> int:
        """All films."""
        return sum(self.films)


@dataclass(frozen=True, slots=True)
class Reference:
    """How the films were distributed on which a bundle's figures were measured: the manifest's ``reference`` section.

    Attributes:
        films: which those are, in words.
        probability: by finding, out of fold.
        picture: by name of ``domain.ImageStatistics``.
    """

    films: str
    probability: dict[str, Distribution] = field(default_factory=dict)
    picture: dict[str, Distribution] = field(default_factory=dict)


def decile_histogram(values: Sequence[float]) -> Distribution:
    """Distribute values over bins that hold about a tenth of them each; equal values stay together."""
    if not values:
        return Distribution((), (0,))
    # each edge is one of the values, and none the least, so that no bin is empty
    edges = np.unique(np.quantile(values, np.arange(1, 10) / 10, method="higher"))
    return histogram(values, [float(edge) for edge in edges if edge > min(values)])


def histogram(values: Sequence[float], edges: Sequence[float]) -> Distribution:
    """Distribute values over bins that are given."""
    places = np.searchsorted(np.asarray(edges, dtype=np.float64), np.asarray(values, dtype=np.float64), side="right")
    return Distribution(tuple(edges), tuple(int(n) for n in np.bincount(places, minlength=len(edges) + 1)))


def stability_index(expected: Distribution, found: Distribution) -> float:
    """Return how far ``found`` lies from ``expected``, in [0, inf).

    Raises:
        ValueError: they have not the same bins.
    """
    if expected.edges != found.edges:
        raise ValueError("distributions over other bins cannot be compared")
    bins = len(expected.films)
    total = 0.0
    for before, now in zip(expected.films, found.films, strict=True):
        p = (before + _EMPTY) / (expected.total + bins * _EMPTY)
        q = (now + _EMPTY) / (found.total + bins * _EMPTY)
        total += (q - p) * math.log(q / p)
    return total


def chance_level(expected: Distribution, found: Distribution) -> float:
    """Return the index that two samples of this size from one population exceed once in 20 times."""
    degrees = len(expected.films) - 1
    if not (degrees and expected.total and found.total):
        return 0.0
    # the 95 % point of chi-squared, after E. B. Wilson and M. M. Hilferty, 1931
    term = 2 / (9 * degrees)
    chi_squared = degrees * (1 - term + _NORMAL_95 * math.sqrt(term)) ** 3
    return chi_squared * (1 / expected.total + 1 / found.total)
