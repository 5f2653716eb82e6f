"""Measures of a binary finding, with intervals from a bootstrap over patients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Measure:
    """A value with its 95 % interval (NaN where it is undefined: one label only)."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """The three numbers; ``None`` where undefined, since JSON has no NaN."""
        return {"value": number(self.value), "low": number(self.low), "high": number(self.high)}


def number(value: float) -> float | None:
    """``None`` for NaN, which JSON has not and which equals nothing, not even itself."""
    return None if math.isnan(value) else value


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """What networks said of films of patients that they had not seen.

    Attributes:
        logits: float64 [n].
        labels: int64 [n] in {0, 1}.
        conflict: bool [n], see ``baselines.conflict_slice``.
    """

    logits: Scores
    labels: Labels
    conflict: npt.NDArray[np.bool_]

    @property
    def conflict_normals(self) -> npt.NDArray[np.bool_]:
        """Films without the finding that are framed like films with it."""
        return np.asarray(self.conflict & (self.labels == 0))

    @property
    def hard_normals(self) -> npt.NDArray[np.bool_]:
        """The conflict normals; in a data set without any, all films without the finding."""
        return self.conflict_normals if self.conflict_normals.any() else np.asarray(self.labels == 0)

    def on_conflict_normals(self) -> tuple[Scores, Labels]:
        """Scores and labels of the conflict normals against all films with the finding."""
        kept = self.conflict_normals | (self.labels == 1)
        return self.logits[kept], self.labels[kept]


def auc(scores: Scores, labels: Labels, weights: Scores | None = None) -> float:
    """Area under the ROC curve: the chance that a film with the finding scores above one without; ties count half.

    Args:
        weights: float64 [n], how often each film counts (bootstrap), 1 where absent.

    Returns:
        A value in [0, 1]; NaN when a label is absent.
    """
    weight = np.ones(len(scores)) if weights is None else weights
    _, rank = np.unique(scores, return_inverse=True)
    present = np.bincount(rank, weight * (labels == 1))
    absent = np.bincount(rank, weight * (labels == 0))
    total = present.sum() * absent.sum()
    if total == 0:
        return float("nan")
    below = np.cumsum(absent) - absent
    return float((present * (below + absent / 2)).sum() / total)


def _share(hit: npt.NDArray[np.bool_], weight: Scores) -> float:
    return float(weight[hit].sum() / weight.sum()) if weight.sum() else float("nan")


def measure(
    scores: Scores,
    called: npt.NDArray[np.bool_],
    labels: Labels,
    groups: npt.NDArray[np.str_],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Measure]:
    """AUC, accuracy, sensitivity and specificity with 95 % intervals (percentiles of a cluster bootstrap).

    Args:
        scores: float64 [n], higher = more likely.
        called: bool [n], at or above the operating point.
        labels: int64 [n] in {0, 1}.
        groups: str [n], the unit that is drawn (patient, or image where patients are unknown).
    """
    right = called == (labels == 1)
    measures: dict[str, Callable[[Scores], float]] = {
        "auc": lambda w: auc(scores, labels, w),
        "accuracy": lambda w: _share(right, w),
        "sensitivity": lambda w: _share(right[labels == 1], w[labels == 1]),
        "specificity": lambda w: _share(right[labels == 0], w[labels == 0]),
    }
    _, group = np.unique(groups, return_inverse=True)
    generator = np.random.default_rng(seed)
    count = int(group.max()) + 1
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(draws):
        times = np.bincount(generator.integers(0, count, count), minlength=count).astype(np.float64)
        for name, of in measures.items():
            drawn[name].append(of(times[group]))
    result = {}
    for name, of in measures.items():
        finite = np.array(drawn[name])[np.isfinite(drawn[name])]
        low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (float("nan"), float("nan"))
        result[name] = Measure(of(np.ones(len(labels))), float(low), float(high))
    return result
