"""Out-of-fold logits and their measures, with intervals by patient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from preread.core.types import Answer, JSONObject
from preread_training.stats.bootstrap import Groups, Labels, Measure, Rows, Scores, bootstrap_measures, measure_share

# Half of the weight of the images without the finding lies on the hard negatives, as images of elsewhere may be framed
# like those with it.
CONFLICT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Logits of networks for images of patients that they had not seen.

    Attributes:
        logits: float64 [n].
        labels: int64 [n] in {0, 1}.
        conflict: bool [n], see ``dataset.Data``.
        patients: str [n], the patient of each image; ``None`` if that is unknown.
        folds: int64 [n], the fold in which each image was held out; ``None`` if there was one only.
    """

    logits: Scores
    labels: Labels
    conflict: Rows
    patients: Groups | None = None
    folds: npt.NDArray[np.int64] | None = None

    @property
    def groups(self) -> Groups:
        """Groups of the bootstrap: the patient, else the image; str [n]."""
        return np.arange(len(self.labels)).astype(np.str_) if self.patients is None else self.patients

    @property
    def hard_negatives(self) -> Rows:
        """Mask of images without the finding that are framed like those with it."""
        return np.asarray(self.conflict & (self.labels == 0))

    @property
    def hard_negatives_or_all(self) -> Rows:
        """Mask of the hard negatives; of all without the finding if there is none."""
        return self.hard_negatives if self.hard_negatives.any() else np.asarray(self.labels == 0)

    @property
    def hard_negatives_and_present(self) -> Rows:
        """Mask of the hard negatives and all images with the finding, bool [n]."""
        return np.asarray(self.hard_negatives | (self.labels == 1))

    def select_hard_negatives(self) -> tuple[Scores, Labels]:
        """Return logits and labels of hard negatives and images with the finding."""
        kept = self.hard_negatives_and_present
        return self.logits[kept], self.labels[kept]

    def select_rows(self, rows: Rows) -> OutOfFold:
        """Return the images of these rows, bool [n]."""
        patients = None if self.patients is None else self.patients[rows]
        folds = None if self.folds is None else self.folds[rows]
        return OutOfFold(self.logits[rows], self.labels[rows], self.conflict[rows], patients, folds)

    def weigh_to_prevalence(self, prevalence: float, conflict_share: float | None = CONFLICT_SHARE) -> Scores:
        """Return weights of images that give this prevalence.

        Args:
            prevalence: weight of the images with the finding, in (0, 1).
            conflict_share: share of the other images' weight that lies on the hard negatives, in [0, 1]; ``None``
                counts all of them alike.

        Returns:
            float64 [n], sum n.
        """
        hard, rest = self.hard_negatives_or_all, (self.labels == 0) & ~self.hard_negatives_or_all
        if conflict_share is None:
            conflict_share = hard.sum() / max(1, hard.sum() + rest.sum())
        weight = np.zeros(len(self.labels))
        for rows, part in (
            (self.labels == 1, prevalence),
            (hard, (1 - prevalence) * conflict_share),
            (rest if rest.any() else hard, (1 - prevalence) * (1 - conflict_share)),
        ):
            weight[rows] += part / max(1, rows.sum())
        return weight * len(weight)


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of images by label and answer at the threshold."""

    true_positive: int
    false_negative: int
    false_positive: int
    true_negative: int

    @classmethod
    def count(cls, called: Rows, labels: Labels) -> Confusion:
        """Count answers bool [n] against labels int64 [n]."""
        present = labels == 1
        tables = (called & present, ~called & present, called & ~present, ~called & ~present)
        return cls(*(int(table.sum()) for table in tables))

    def to_json(self) -> JSONObject:
        """Return the four counts by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Images sorted into ranks once, to measure many weights quickly.

    Ties share a rank.
    """

    rank: npt.NDArray[np.int64]
    present: Rows

    @classmethod
    def of(cls, scores: Scores, labels: Labels) -> _Ranked:
        return cls(np.unique(scores, return_inverse=True)[1], np.asarray(labels == 1))

    def _mass(self, weight: Scores) -> tuple[Scores, Scores]:
        present, absent = (np.bincount(self.rank, weight * rows) for rows in (self.present, ~self.present))
        return np.asarray(present, float), np.asarray(absent, float)

    def auc(self, weight: Scores) -> float:
        present, absent = self._mass(weight)
        total = present.sum() * absent.sum()
        below = np.cumsum(absent) - absent
        return float((present * (below + absent / 2)).sum() / total) if total else float("nan")

    def average_precision(self, weight: Scores) -> float:
        present, absent = (mass[::-1] for mass in self._mass(weight))
        found, called = np.cumsum(present), np.cumsum(present + absent)
        if not found[-1]:
            return float("nan")
        return float((present * found / np.maximum(called, 1e-300)).sum() / found[-1])


def auc(scores: Scores, labels: Labels, weights: Scores | None = None) -> float:
    """Return the area under the ROC curve; ties count half.

    Args:
        scores: float64 [n], higher = more likely.
        labels: int64 [n] in {0, 1}.
        weights: float64 [n], how often each image counts (bootstrap); ``None``: 1 each.

    Returns:
        A value in [0, 1]; NaN if a label is absent.
    """
    return _Ranked.of(scores, labels).auc(np.ones(len(scores)) if weights is None else weights)


def average_precision(scores: Scores, labels: Labels, weights: Scores | None = None) -> float:
    """Return the area under the precision-recall curve, as steps.

    By chance it equals the share of images with the finding.

    Args:
        scores: float64 [n], higher = more likely.
        labels: int64 [n] in {0, 1}.
        weights: float64 [n], how often each image counts (bootstrap); ``None``: 1 each.

    Returns:
        A value in [0, 1]; NaN without any image with the finding.
    """
    return _Ranked.of(scores, labels).average_precision(np.ones(len(scores)) if weights is None else weights)


def matthews_correlation(called: Rows, labels: Labels, weights: Scores | None = None) -> float:
    """Return the Matthews correlation of answers and labels, in [-1, 1].

    Args:
        called: bool [n], at or above the threshold.
        labels: int64 [n] in {0, 1}.
        weights: float64 [n], how often each image counts (bootstrap); ``None``: 1 each.

    Returns:
        The correlation; NaN if labels or answers are all the same.
    """
    weight = np.ones(len(labels)) if weights is None else weights
    yes, present = called.astype(float), (labels == 1).astype(float)
    total = weight.sum()
    if not total:
        return float("nan")
    a, b = yes - (weight @ yes) / total, present - (weight @ present) / total
    scale = math.sqrt((weight @ (a * a)) * (weight @ (b * b)))
    return float(weight @ (a * b) / scale) if scale > 1e-12 else float("nan")


def measure_logits(
    scores: Scores, called: Rows, labels: Labels, groups: Groups, *, draws: int = 2000, seed: int = 0
) -> dict[str, Measure]:
    """Return the measures of out-of-fold logits with 95 % intervals.

    Args:
        scores: float64 [n], higher = more likely.
        called: bool [n], at or above the operating point.
        labels: int64 [n] in {0, 1}.
        groups: str [n], the unit that is drawn (patient, or image if patients are unknown).
        draws: number of bootstrap samples.
        seed: of the samples.

    Returns:
        ``auc``, ``accuracy``, ``sensitivity``, ``specificity``, ``balanced_accuracy`` (mean of the last two),
        ``matthews_correlation`` and ``average_precision``; the last two and accuracy hold for this share of images with
        the finding only.
    """
    present, right = labels == 1, called == (labels == 1)
    ranked = _Ranked.of(scores, labels)

    def balanced(weight: Scores) -> float:
        both = [(weight[rows & right].sum(), weight[rows].sum()) for rows in (present, ~present)]
        return float(sum(hits / of for hits, of in both) / 2) if all(of for _, of in both) else float("nan")

    drawn = bootstrap_measures(
        {
            "auc": ranked.auc,
            "balanced_accuracy": balanced,
            "matthews_correlation": lambda weight: matthews_correlation(called, labels, weight),
            "average_precision": ranked.average_precision,
        },
        groups,
        count=draws,
        seed=seed,
    )
    return {
        "auc": drawn.pop("auc"),
        "accuracy": measure_share(right, groups),
        "sensitivity": measure_share(right[present], groups[present]),
        "specificity": measure_share(right[~present], groups[~present]),
        **drawn,
    }


def measure_auc_difference(
    first: Scores, second: Scores, labels: Labels, groups: Groups, *, count: int = 2000
) -> Measure:
    """Return first minus second AUC on the same images, with interval.

    Args:
        first: float64 [n], scores of the first.
        second: float64 [n], scores of the second.
        labels: int64 [n] in {0, 1}.
        groups: str [n], the unit that is drawn.
        count: number of bootstrap samples.
    """
    a, b = _Ranked.of(first, labels), _Ranked.of(second, labels)
    return bootstrap_measures({"auc": lambda weight: a.auc(weight) - b.auc(weight)}, groups, count=count)["auc"]


def count_answers(answers: npt.NDArray[np.str_], labels: Labels) -> JSONObject:
    """Count each answer on images with and without the finding.

    Args:
        answers: str [n], values of ``Answer``; empty if an image has none.
        labels: int64 [n] in {0, 1}.

    Returns:
        For each answer ``with_finding`` and ``without_finding``.
    """
    return {
        answer.value: {
            "with_finding": int(((answers == answer) & (labels == 1)).sum()),
            "without_finding": int(((answers == answer) & (labels == 0)).sum()),
        }
        for answer in Answer
    }


def measure_subgroups(
    held_out: OutOfFold, called: Rows, subgroups: Mapping[str, Rows], *, count: int = 500
) -> JSONObject:
    """Measure subgroups of held-out images.

    Args:
        held_out: logits of all images.
        called: bool [n], at or above the threshold.
        subgroups: bool [n] by name.
        count: number of bootstrap samples.

    Returns:
        For each subgroup ``films`` (the number of images), ``with_finding``, ``patients``, ``missed`` (with the
        finding, not called), ``called`` (without it, called), ``sensitivity``, ``specificity`` and ``auc``. A subgroup
        of one label has its AUC against all images of the other label. What is undefined is absent.
    """
    right = called == (held_out.labels == 1)
    table: JSONObject = {}
    for name, rows in subgroups.items():
        labels, groups = held_out.labels[rows], held_out.groups[rows]
        if not len(labels):
            continue
        only = labels[0] if (labels == labels[0]).all() else None
        against = rows if only is None else rows | (held_out.labels != only)
        scored = _Ranked.of(held_out.logits[against], held_out.labels[against])
        found = {
            "sensitivity": measure_share(right[rows][labels == 1], groups[labels == 1]),
            "specificity": measure_share(right[rows][labels == 0], groups[labels == 0]),
            "auc": bootstrap_measures({"auc": scored.auc}, held_out.groups[against], count=count)["auc"],
        }
        table[name] = {
            "films": len(labels),
            "with_finding": int(labels.sum()),
            "patients": len(np.unique(groups)),
            "missed": int((~right[rows] & (labels == 1)).sum()),
            "called": int((~right[rows] & (labels == 0)).sum()),
            **{key: value.to_json() for key, value in found.items() if not math.isnan(value.value)},
        }
    return table
