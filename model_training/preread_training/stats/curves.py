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


def roc(scores: Scores, labels: Labels, groups: Groups, *, draws: int = 500, seed: int = 0) -> Band:
    """Return sensitivity (y) against 1 - specificity (x).

    Arguments as of ``metrics.measure``, both labels present.
    """

    def sensitivity(found: Scores, called: Scores) -> Scores:
        return np.asarray(np.interp(_GRID, np.append(0.0, called / called[-1]), np.append(0.0, found / found[-1])))

    return _band(scores, labels, groups, sensitivity, draws, seed)


def precision_recall(scores: Scores, labels: Labels, groups: Groups, *, draws: int = 500, seed: int = 0) -> Band:
    """Return precision (y) at the first cut that reaches each recall (x).

    Arguments as of ``roc``.
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
    """Return a curve and its band over all cuts.

    ``of`` gets the weight of images with and without the finding at or above each cut.
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
        raise ValueError("a curve needs films of both labels")
    drawn = [curve(weight[order]) for weight in intervals.draws(groups, draws, seed)]
    low, high = np.percentile([each for each in drawn if each is not None] or [whole], [2.5, 97.5], axis=0)
    return Band(_GRID, whole, low, high)
