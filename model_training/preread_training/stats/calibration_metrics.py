"""Calibration measures, with images weighed to a prevalence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from preread.core.types import JSONObject
from preread_training.stats.baselines import fit_logistic
from preread_training.stats.bootstrap import Labels, Scores, nan_to_none

BINS = 15
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class Bin:
    """Images of similar probability.

    Attributes:
        probability: their weighted mean.
        share: the weighted share of them with the finding.
        weight: their part of all weight, in (0, 1].
        count: their number.
    """

    probability: float
    share: float
    weight: float
    count: int


def compute_reliability_bins(
    probability: Scores, labels: Labels, weights: Scores | None = None, bins: int = BINS
) -> list[Bin]:
    """Sort images by probability into bins of equal weight.

    Images of one probability stay in one bin.

    Args:
        probability: float64 [n] in [0, 1].
        labels: int64 [n] in {0, 1}.
        weights: float64 [n], see ``OutOfFold.weigh_to_prevalence``; ``None``: 1 each.
        bins: how many at most.

    Returns:
        The bins by rising probability; fewer if images are few or tied.
    """
    weight = np.ones(len(labels)) if weights is None else weights
    _, rank = np.unique(probability, return_inverse=True)
    mass = np.bincount(rank, weight)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    of = np.minimum((middle * bins).astype(int), bins - 1)[rank]
    found = []
    for each in np.unique(of):
        rows = of == each
        part = weight[rows].sum()
        if part > 0:
            mean, share = (float(weight[rows] @ of_rows / part) for of_rows in (probability[rows], labels[rows]))
            found.append(Bin(mean, share, float(part / weight.sum()), int(rows.sum())))
    return found


def expected_calibration_error(bins: list[Bin]) -> float:
    """Return the expected calibration error, in [0, 1].

    Over bins of equal weight (Naeini 2015, with bins by weight). Noise within a bin adds to it: even a perfect
    probability has an error above 0 on few images.

    Args:
        bins: of ``compute_reliability_bins``.
    """
    return float(sum(each.weight * abs(each.probability - each.share) for each in bins))


def brier_score(probability: Scores, labels: Labels, weights: Scores | None = None) -> float:
    """Return the weighted Brier score, in [0, 1].

    Args:
        probability: float64 [n] in [0, 1].
        labels: int64 [n] in {0, 1}.
        weights: float64 [n]; ``None``: 1 each.
    """
    return float(np.average((probability - labels) ** 2, weights=weights))


def negative_log_likelihood(probability: Scores, labels: Labels, weights: Scores | None = None) -> float:
    """Return the weighted negative log-likelihood, in nats.

    Args:
        probability: float64 [n] in [0, 1].
        labels: int64 [n] in {0, 1}.
        weights: float64 [n]; ``None``: 1 each.
    """
    given = np.clip(np.where(labels == 1, probability, 1 - probability), _SMALLEST, 1.0)
    return float(np.average(-np.log(given), weights=weights))


def fit_calibration_line(probability: Scores, labels: Labels, weights: Scores | None = None) -> tuple[float, float]:
    """Return slope and intercept of the calibration line (Cox 1958).

    They are 1 and 0 for a calibrated probability; a slope below 1 is an overconfident one.

    Args:
        probability: float64 [n] in [0, 1].
        labels: int64 [n] in {0, 1}.
        weights: float64 [n]; ``None``: 1 each.

    Returns:
        Slope and intercept; NaN if a label is absent.
    """
    if len(np.unique(labels)) < 2:
        return math.nan, math.nan
    clipped = np.clip(probability, 1e-9, 1 - 1e-9)
    weight = np.ones(len(labels)) if weights is None else weights
    slope, intercept = fit_logistic(np.log(clipped / (1 - clipped))[:, None], labels, weight, ridge=1e-6)
    return float(slope), float(intercept)


def measure_calibration(probability: Scores, labels: Labels, weights: Scores | None = None) -> JSONObject:
    """Return every calibration measure of a probability as a record.

    Args:
        probability: float64 [n] in [0, 1].
        labels: int64 [n] in {0, 1}.
        weights: float64 [n]; ``None``: 1 each.

    Returns:
        ``expected_calibration_error``, ``brier``, ``negative_log_likelihood``, ``slope``, ``intercept``, ``bins``.
    """
    bins = compute_reliability_bins(probability, labels, weights)
    slope, intercept = fit_calibration_line(probability, labels, weights)
    return {
        "expected_calibration_error": expected_calibration_error(bins),
        "brier": brier_score(probability, labels, weights),
        "negative_log_likelihood": negative_log_likelihood(probability, labels, weights),
        "slope": nan_to_none(slope),
        "intercept": nan_to_none(intercept),
        "bins": [
            {"probability": each.probability, "share": each.share, "weight": each.weight, "films": each.count}
            for each in bins
        ],
    }
