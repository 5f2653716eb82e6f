"""Calibration and operating point from out-of-fold logits.

A random hold-out looks like the training data: with a threshold chosen on it alone, images without the finding that
are framed like images with it get flagged. Here half of the weight of the images without the finding lies on these, the
hard negatives (see ``baselines``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from preread.core.errors import PrereadError
from preread.core.types import JSONObject, PredictiveValues
from preread.model.calibration import Calibration, FindingSpec, OperatingPoint, compute_predictive_values
from preread_training.stats.baselines import fit_logistic
from preread_training.stats.bootstrap import Groups, Rows, Scores, compute_effective_count
from preread_training.stats.metrics import CONFLICT_SHARE, OutOfFold

_SENSITIVITY_FLOOR = 0.975
_BAND_MISSED = 0.01
_BAND_CALLED = 0.02


class NothingLearned(PrereadError):
    """The network's logits do not rise with the finding."""

    code = "nothing_learned"
    hint = "Check the labels; then fit with more images, more epochs or a higher learning rate."


def fit_calibration(held_out: OutOfFold, prevalence: float) -> Calibration:
    """Fit Platt scaling of out-of-fold logits for a prevalence.

    Args:
        held_out: logits of one finding, both labels present.
        prevalence: in (0, 1).

    Raises:
        NothingLearned: images with the finding do not have the higher logits.
    """
    slope, intercept = fit_logistic(
        held_out.logits[:, None], held_out.labels, held_out.weigh_to_prevalence(prevalence), ridge=1e-3
    )
    if not slope > 0:
        raise NothingLearned(
            f"the network's logit does not rise with the finding on the {len(held_out.labels)} images held out"
        )
    return Calibration(float(slope), float(intercept), prevalence)


def bound_sensitivity(found: float, of: float, confidence: float = 0.95) -> float:
    """Return the one-sided exact lower bound of a sensitivity.

    After Clopper and Pearson 1934.

    Args:
        found: number of images with the finding that were called; may be an effective number.
        of: number of images with the finding.
        confidence: in (0, 1).
    """
    return float(beta.ppf(1 - confidence, found, of - found + 1)) if found else 0.0


def bound_sensitivity_by_patient(hit: Rows, groups: Groups) -> float:
    """Return the lower bound of a sensitivity by patient.

    One-sided, 95 %, after Korn and Graubard 1998.

    Args:
        hit: bool [n], images with the finding that were called.
        groups: str [n], the patients.
    """
    count = compute_effective_count(hit, groups)
    return bound_sensitivity(float(hit.mean()) * count, count)


@dataclass(frozen=True, slots=True)
class ChosenThreshold:
    """A threshold on the logit, with counts on the images of its choice.

    Attributes:
        logit: the threshold.
        sensitivity: share of the images with the finding at or above it.
        sensitivity_bound: one-sided 95 % lower bound of that, by patient.
        specificity_hard: share of the hard negatives below it (of all images without the finding if there are none).
        hard_negatives: number of those.
    """

    logit: float
    sensitivity: float
    sensitivity_bound: float
    specificity_hard: float
    hard_negatives: int


def choose_threshold(held_out: OutOfFold) -> ChosenThreshold:
    """Choose the threshold on out-of-fold logits.

    It maximises the smaller of sensitivity and specificity on the hard negatives, above a floor of sensitivity.

    A finding missed is the costly error, so thresholds with an observed sensitivity below 0.975 are not considered: on
    some 4,000 images that shows 0.97 with 95 % confidence. The floor is on what was observed and not on its bound by
    patient, which the result has too: on the hard negatives every tenth of a per cent beyond costs much specificity. If
    several thresholds are equal the middle one is taken.

    Args:
        held_out: logits of one finding, both labels present.
    """
    with_it = held_out.labels == 1
    present, absent = np.sort(held_out.logits[with_it]), np.sort(held_out.logits[held_out.hard_negatives_or_all])
    candidates = np.unique(held_out.logits)
    cuts = np.concatenate([[candidates[0] - 1.0], (candidates[1:] + candidates[:-1]) / 2])  # the first calls all images
    sensitivity = 1 - np.searchsorted(present, cuts) / len(present)
    specificity = np.searchsorted(absent, cuts) / len(absent)
    smaller = np.where(sensitivity >= _SENSITIVITY_FLOOR, np.minimum(sensitivity, specificity), -1.0)
    best = np.flatnonzero(smaller >= smaller.max() - 1e-12)
    at = int(best[len(best) // 2])
    return ChosenThreshold(
        logit=float(cuts[at]),
        sensitivity=float(sensitivity[at]),
        sensitivity_bound=bound_sensitivity_by_patient(held_out.logits[with_it] >= cuts[at], held_out.groups[with_it]),
        specificity_hard=float(specificity[at]),
        hard_negatives=len(absent),
    )


def choose_operating_point(held_out: OutOfFold, calibration: Calibration) -> OperatingPoint:
    """Choose the operating point: threshold, uncertain band, and reason.

    Args:
        held_out: logits of one finding.
        calibration: from logits to probabilities.
    """
    cut = choose_threshold(held_out)
    low = min(cut.logit, float(np.quantile(held_out.logits[held_out.labels == 1], _BAND_MISSED)))
    high = max(cut.logit, float(np.quantile(held_out.logits[held_out.hard_negatives_or_all], 1 - _BAND_CALLED)))
    kind = "images without the finding" + (" in the conflict slice" if held_out.hard_negatives.any() else "")
    point = OperatingPoint(
        threshold=calibration.compute_probability(cut.logit),
        uncertain_low=calibration.compute_probability(low),
        uncertain_high=calibration.compute_probability(high),
        reason=(
            f"threshold: of the cuts with an out-of-fold sensitivity of at least {_SENSITIVITY_FLOOR}, the one "
            f"where the smaller of sensitivity ({cut.sensitivity:.4f}, one-sided 95 % lower bound by patient "
            f"{cut.sensitivity_bound:.4f}) and specificity on the {cut.hard_negatives} {kind} "
            f"({cut.specificity_hard:.4f}) is largest; band: from the lowest {_BAND_MISSED:.0%} of images with the "
            f"finding to the highest {_BAND_CALLED:.0%} of {kind}"
        ),
    )
    bought = count_errors_with_band(held_out, calibration, point)
    return OperatingPoint(
        point.threshold,
        point.uncertain_low,
        point.uncertain_high,
        f"{point.reason}, {bought['uncertain_rate']:.1%} of out-of-fold images",
    )


def count_errors_with_band(held_out: OutOfFold, calibration: Calibration, point: OperatingPoint) -> JSONObject:
    """Count errors with the uncertain band (no errors in it) and without it.

    Args:
        held_out: logits of one finding.
        calibration: from logits to probabilities.
        point: threshold and band.

    Returns:
        ``uncertain_rate`` of all images, ``uncertain_with_finding``, ``uncertain_without_finding`` (images), and the
        images ``missed_`` (with the finding, not flagged) and ``called_`` (without it, flagged) ``with_band`` and
        ``without_band``; ``accuracy_of_answered``, the share of right answers among flagged and not flagged.
    """
    p = compute_probabilities(held_out, calibration)
    present = held_out.labels == 1
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


def compute_probabilities(held_out: OutOfFold, calibration: Calibration) -> Scores:
    """Return calibrated probabilities of out-of-fold logits.

    Args:
        held_out: logits of one finding.
        calibration: from logits to probabilities.

    Returns:
        float64 [n].
    """
    return np.array([calibration.compute_probability(logit) for logit in held_out.logits.tolist()])


def measure_predictive_values(
    held_out: OutOfFold, calibration: Calibration, point: OperatingPoint
) -> tuple[PredictiveValues, ...]:
    """Return PPV of ``flagged`` and NPV of ``not_flagged`` by prevalence.

    Half of the weight of the images without the finding lies on the hard negatives. Half an image is added to every
    count, so that answers never seen wrong on these images are not taken for certain.

    Args:
        held_out: logits of one finding.
        calibration: from logits to probabilities.
        point: threshold and band.
    """
    p = compute_probabilities(held_out, calibration)
    hard, rest = held_out.hard_negatives_or_all, (held_out.labels == 0) & ~held_out.hard_negatives_or_all

    def rates(answered: Rows) -> tuple[float, float]:
        def rate(rows: Rows) -> float:
            return float((answered[rows].sum() + 0.5) / (rows.sum() + 1))

        absent = CONFLICT_SHARE * rate(hard) + (1 - CONFLICT_SHARE) * rate(rest if rest.any() else hard)
        return rate(held_out.labels == 1), absent

    return compute_predictive_values(rates(p >= point.uncertain_high), rates(p < point.uncertain_low))


def specify_finding(held_out: OutOfFold, finding: str, code: str, prevalence: float) -> FindingSpec:
    """Calibrate one finding and choose its operating point.

    Args:
        held_out: logits of images that the network had not seen.
        finding: its name.
        code: of the finding, scheme first.
        prevalence: to which it is calibrated, in (0, 1).

    Returns:
        The finding as the manifest holds it.

    Raises:
        NothingLearned: images with the finding do not have the higher logits.
    """
    calibration = fit_calibration(held_out, prevalence)
    point = choose_operating_point(held_out, calibration)
    return FindingSpec(finding, code, calibration, point, measure_predictive_values(held_out, calibration, point))


def measure_cross_fitted_threshold(held_out: OutOfFold) -> JSONObject | None:
    """Measure answers at thresholds that were chosen on the other folds.

    Args:
        held_out: logits of one finding.

    Returns:
        ``sensitivity``, ``specificity``, ``specificity_conflict_normals`` as numbers; ``None`` of fewer than two folds.
    """
    if held_out.folds is None or len(np.unique(held_out.folds)) < 2:
        return None
    called = np.zeros(len(held_out.labels), bool)
    for fold in np.unique(held_out.folds):
        held = held_out.folds == fold
        called[held] = held_out.logits[held] >= choose_threshold(held_out.select_rows(~held)).logit
    return {
        "sensitivity": float(called[held_out.labels == 1].mean()),
        "specificity": float((~called[held_out.labels == 0]).mean()),
        "specificity_conflict_normals": float((~called[held_out.hard_negatives_or_all]).mean()),
    }


def compute_cross_fitted_probabilities(held_out: OutOfFold, prevalence: float) -> Scores | None:
    """Return probabilities calibrated on the other folds.

    Args:
        held_out: logits of one finding.
        prevalence: to which they are calibrated, in (0, 1).

    Returns:
        float64 [n]; ``None`` of fewer than two folds.
    """
    if held_out.folds is None or len(np.unique(held_out.folds)) < 2:
        return None
    found = np.empty(len(held_out.labels))
    for fold in np.unique(held_out.folds):
        held = held_out.folds == fold
        found[held] = compute_probabilities(
            held_out.select_rows(held), fit_calibration(held_out.select_rows(~held), prevalence)
        )
    return found
