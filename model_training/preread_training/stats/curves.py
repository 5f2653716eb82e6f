"""ROC and precision-recall curves with bootstrap bands by patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from preread_training.stats import bootstrap as intervals
from preread_training.stats.bootstrap import Groups, Labels, Scores

# Fine where good classifiers live, coarse elsewhere.
_GRID = np.unique(np.concatenate([np.linspace(0, 0.25, 126), np.linspace(0.25, 0.75, 26), np.linspace(0.75, 1, 126)]))


@dataclass(frozen=True, slots=True)
class Band:
    """A curve with its 95 % band at fixed places.

    Attributes:
        x: float64 [points], rising from 0 to 1.
        y: float64 [points].
        low: float64 [points].
        high: float64 [points].
    """

    x: Scores
    y: Scores
    low: Scores
    high: Scores


def compute_roc_curve(scores: Scores, labels: Labels, groups: Groups, *, draws: int = 500, seed: int = 0) -> Band:
    """Return the ROC curve with its band: sensitivity against 1 - specificity.

    Args:
        scores: float64 [n], higher = more likely.
        labels: int64 [n] in {0, 1}, both present.
        groups: str [n], the unit that is drawn.
        draws: number of bootstrap samples.
        seed: of the samples.

    Raises:
        ValueError: a label is absent.
    """

    def sensitivity(found: Scores, called: Scores) -> Scores:
        return np.asarray(np.interp(_GRID, np.append(0.0, called / called[-1]), np.append(0.0, found / found[-1])))

    return _band(scores, labels, groups, sensitivity, draws, seed)


def compute_precision_recall_curve(
    scores: Scores, labels: Labels, groups: Groups, *, draws: int = 500, seed: int = 0
) -> Band:
    """Return the precision-recall curve with its band.

    Precision (y) is that at the first threshold that reaches each recall (x).

    Args:
        scores: float64 [n], higher = more likely.
        labels: int64 [n] in {0, 1}, both present.
        groups: str [n], the unit that is drawn.
        draws: number of bootstrap samples.
        seed: of the samples.

    Raises:
        ValueError: a label is absent.
    """

    def precision(found: Scores, called: Scores) -> Scores:
        at = np.searchsorted(found / found[-1], np.maximum(_GRID, 1e-9) - 1e-12)
        return np.asarray(found[at] / (found[at] + called[at]))

    return _band(scores, labels, groups, precision, draws, seed)


def _band(
    scores: Scores,
    labels: Labels,
    groups: Groups,
    of: Callable[[Scores, Scores], Scores],
    draws: int,
    seed: int,
) -> Band:
    """Return a curve and its band over all thresholds.

    ``of`` gets the weight of images with and without the finding at or above each threshold.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    present = labels[order] == 1

    def curve(weight: Scores) -> Scores | None:
        found = np.cumsum(weight * present)[last_of_tie]
        called = np.cumsum(weight * ~present)[last_of_tie]
        return of(found, called) if found[-1] and called[-1] else None

    whole = curve(np.ones(len(scores)))
    if whole is None:
        raise ValueError(f"a curve needs images of both labels, but got {len(labels)} of one: add some of the other")
    drawn = [curve(weight[order]) for weight in intervals.draw_bootstrap_samples(groups, draws, seed)]
    low, high = np.percentile([each for each in drawn if each is not None] or [whole], [2.5, 97.5], axis=0)
    return Band(_GRID, whole, low, high)
