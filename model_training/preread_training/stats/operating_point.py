"""Calibration and operating point from out-of-fold logits.

Normals are weighed half on the conflict normals.

A random hold-out looks like the training data, so a threshold chosen on it alone lands where normals that are framed
like pneumonia films get flagged. Here half of the normals' weight lies on the conflict slice (see ``baselines``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from preread.core.errors import PrereadError
from preread.core.types import JSONObject, PredictiveValues
from preread.model.calibration import Calibration, FindingSpec, OperatingPoint, compute_predictive_values
from preread_training.stats.baselines import fit_logistic
from preread_training.stats.bootstrap import Groups, Rows, Scores, effective_count
from preread_training.stats.metrics import CONFLICT_SHARE, OutOfFold

_SENSITIVITY_FLOOR = 0.975
_BAND_MISSED = 0.01
_BAND_CALLED = 0.02


class NothingLearned(PrereadError):
    """The network's logits do not rise with the finding."""

    code = "nothing_learned"
    hint = "Look whether the labels are right; then more films, more epochs or a higher learning rate."


def calibrate(films: OutOfFold, prevalence: float) -> Calibration:
    """Fit Platt scaling for a prevalence in (0, 1).

    Raises:
        NothingLearned: films with the finding do not have the higher logits.
    """
    slope, intercept = fit_logistic(films.logits[:, None], films.labels, films.weights(prevalence), ridge=1e-3)
    if not slope > 0:
        raise NothingLearned(
            f"on {len(films.labels)} films that the network had not seen, its logit does not rise with the finding"
        )
    return Calibration(float(slope), float(intercept), prevalence)


def sensitivity_lower_bound(found: float, of: float, confidence: float = 0.95) -> float:
    """Return a one-sided exact lower bound (Clopper and Pearson 1934).

    Counts may be effective ones.
    """
    return float(beta.ppf(1 - confidence, found, of - found + 1)) if found else 0.0


def lower_bound_by_patient(hit: Rows, groups: Groups) -> float:
    """Return the lower bound by patient (Korn and Graubard 1998)."""
    count = effective_count(hit, groups)
    return sensitivity_lower_bound(float(hit.mean()) * count, count)


@dataclass(frozen=True, slots=True)
class Cut:
    """Counts of a threshold on the images on which it was chosen.

    Attributes:
        sensitivity: share of the films with the finding at or above it.
        sensitivity_bound: one-sided 95 % lower bound of that, by patient.
        specificity_hard: share of the conflict normals below it (of all films without the finding where none conflict).
        films_hard: how many those are.
    """

    logit: float
    sensitivity: float
    sensitivity_bound: float
    specificity_hard: float
    films_hard: int


def choose_cut(films: OutOfFold) -> Cut:
    """Choose the threshold on the logit.

    It maximises the smaller of sensitivity and specificity on the conflict normals, above a floor of sensitivity.

    A finding missed is the costly error, so cuts with an observed sensitivity below 0.975 are not considered: on some
    4,000 films that shows 0.97 with 95 % confidence. The floor is on what was observed and not on its bound by patient,
    which comes with the cut: normals that are framed like films with the finding pay dearly for every tenth of a per
    cent beyond. Where several cuts are equal the middle one is taken.
    """
    with_it = films.labels == 1
    present, absent = np.sort(films.logits[with_it]), np.sort(films.logits[films.hard_normals])
    candidates = np.unique(films.logits)
    cuts = np.concatenate([[candidates[0] - 1.0], (candidates[1:] + candidates[:-1]) / 2])  # the first calls all films
    sensitivity = 1 - np.searchsorted(present, cuts) / len(present)
    specificity = np.searchsorted(absent, cuts) / len(absent)
    smaller = np.where(sensitivity >= _SENSITIVITY_FLOOR, np.minimum(sensitivity, specificity), -1.0)
    best = np.flatnonzero(smaller >= smaller.max() - 1e-12)
    at = int(best[len(best) // 2])
    return Cut(
        logit=float(cuts[at]),
        sensitivity=float(sensitivity[at]),
        sensitivity_bound=lower_bound_by_patient(films.logits[with_it] >= cuts[at], films.groups[with_it]),
        specificity_hard=float(specificity[at]),
        films_hard=len(absent),
    )


def choose(films: OutOfFold, calibration: Calibration) -> OperatingPoint:
    """Choose the threshold as ``choose_cut`` does, and its band."""
    cut = choose_cut(films)
    low = min(cut.logit, float(np.quantile(films.logits[films.labels == 1], _BAND_MISSED)))
    high = max(cut.logit, float(np.quantile(films.logits[films.hard_normals], 1 - _BAND_CALLED)))
    kind = "films without the finding" + (" in the conflict slice" if films.conflict_normals.any() else "")
    point = OperatingPoint(
        threshold=calibration.compute_probability(cut.logit),
        uncertain_low=calibration.compute_probability(low),
        uncertain_high=calibration.compute_probability(high),
        reason=(
            f"threshold: of the cuts with an out-of-fold sensitivity of at least {_SENSITIVITY_FLOOR}, the one "
            f"where the smaller of sensitivity ({cut.sensitivity:.4f}, one-sided 95 % lower bound by patient "
            f"{cut.sensitivity_bound:.4f}) and specificity on the {cut.films_hard} {kind} "
            f"({cut.specificity_hard:.4f}) is largest; band: from the lowest {_BAND_MISSED:.0%} of films with the "
            f"finding to the highest {_BAND_CALLED:.0%} of {kind}"
        ),
    )
    bought = what_the_band_buys(films, calibration, point)
    return OperatingPoint(
        point.threshold,
        point.uncertain_low,
        point.uncertain_high,
        f"{point.reason}, {bought['uncertain_rate']:.1%} of out-of-fold films",
    )


def what_the_band_buys(films: OutOfFold, calibration: Calibration, point: OperatingPoint) -> JSONObject:
    """Count errors with the band (uncertain is no error) and without it.

    Returns:
        ``uncertain_rate`` of all films, ``uncertain_with_finding``, ``uncertain_without_finding`` (films), and the
        films ``missed_`` (with the finding, not flagged) and ``called_`` (without it, flagged) ``with_band`` and
        ``without_band``; ``accuracy_of_answered``, the share of right answers among flagged and not flagged.
    """
    p = probabilities(films, calibration)
    present = films.labels == 1
    flagged, spared = p >= point.uncertain_high, p < point.uncertain_low
    answered = flagged | spared
    return {
        "uncertain_rate": float((~answered).mean()),
        "uncertain_with_finding": int((~answered & present).sum()),
        "uncertain_without_finding": int((~answered & ~present).sum()),
        "missed_with_band": int((spared & present).sum()),
        "missed_without_band": int(((p < point.threshold) & present).sum()),
        "called_with_band": int((flagged & ~present).sum()),
        "called_without_band": int(((p >= point.threshold) & ~present).sum()),
        "accuracy_of_answered": float((flagged == present)[answered].mean()) if answered.any() else None,
    }


def probabilities(films: OutOfFold, calibration: Calibration) -> Scores:
    """Return probabilities, float64 [n]."""
    return np.array([calibration.compute_probability(logit) for logit in films.logits.tolist()])


def predict(films: OutOfFold, calibration: Calibration, point: OperatingPoint) -> tuple[PredictiveValues, ...]:
    """Return PPV of ``flagged`` and NPV of ``not_flagged``.

    Normals are weighed half on the conflict normals.

    Half a film is added to every count, so that answers never seen wrong on these films are not taken for certain.
    """
    p = probabilities(films, calibration)
    hard, rest = films.hard_normals, (films.labels == 0) & ~films.hard_normals

    def rates(answered: Rows) -> tuple[float, float]:
        def rate(rows: Rows) -> float:
            return float((answered[rows].sum() + 0.5) / (rows.sum() + 1))

        absent = CONFLICT_SHARE * rate(hard) + (1 - CONFLICT_SHARE) * rate(rest if rest.any() else hard)
        return rate(films.labels == 1), absent

    return compute_predictive_values(rates(p >= point.uncertain_high), rates(p < point.uncertain_low))


def specify(films: OutOfFold, finding: str, code: str, prevalence: float) -> FindingSpec:
    """Calibrate one finding and choose its operating point.

    From logits of images that the network had not seen.
    """
    calibration = calibrate(films, prevalence)
    point = choose(films, calibration)
    return FindingSpec(finding, code, calibration, point, predict(films, calibration, point))


def cross_fitted_answers(films: OutOfFold) -> JSONObject | None:
    """Return sensitivity and specificity with cross-fitted cuts.

    Each fold's cut is chosen on the other folds.

    Returns:
        ``sensitivity``, ``specificity``, ``specificity_conflict_normals`` as numbers; ``None`` of fewer than two folds.
    """
    if films.folds is None or len(np.unique(films.folds)) < 2:
        return None
    called = np.zeros(len(films.labels), bool)
    for fold in np.unique(films.folds):
        held = films.folds == fold
        called[held] = films.logits[held] >= choose_cut(films.at(~held)).logit
    return {
        "sensitivity": float(called[films.labels == 1].mean()),
        "specificity": float((~called[films.labels == 0]).mean()),
        "specificity_conflict_normals": float((~called[films.hard_normals]).mean()),
    }


def cross_fitted_probabilities(films: OutOfFold, prevalence: float) -> Scores | None:
    """Return probabilities calibrated on the other folds, float64 [n].

    ``None`` with fewer than two folds.
    """
    if films.folds is None or len(np.unique(films.folds)) < 2:
        return None
    found = np.empty(len(films.labels))
    for fold in np.unique(films.folds):
        held = films.folds == fold
        found[held] = probabilities(films.at(held), calibrate(films.at(~held), prevalence))
    return found
