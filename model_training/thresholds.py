"""Calibration and operating point from out-of-fold logits, with the normals weighed as if framed otherwise.

A random hold-out looks like the training data, so a threshold chosen on it alone lands where normals that are framed
like pneumonia films get flagged. Here half of the normals' weight lies on the conflict slice (see ``baselines``).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import beta

from model_training.baselines import fit_logistic
from model_training.evaluation import OutOfFold
from worker.calibration import Calibration, FindingSpec, OperatingPoint

_CONFLICT_SHARE = 0.5
_SENSITIVITY_FLOOR = 0.97
_BAND_MISSED = 0.01
_BAND_CALLED = 0.02


def calibrate(films: OutOfFold, prevalence: float) -> Calibration:
    """Fit Platt scaling for a prevalence in (0, 1)."""
    hard = films.hard_normals
    rest = (films.labels == 0) & ~hard
    weight = np.zeros(len(films.labels))
    for rows, share in (
        (films.labels == 1, prevalence),
        (hard, (1 - prevalence) * _CONFLICT_SHARE),
        (rest if rest.any() else hard, (1 - prevalence) * (1 - _CONFLICT_SHARE)),
    ):
        weight[rows] += share / rows.sum()
    weight *= len(weight)
    slope, intercept = fit_logistic(films.logits[:, None], films.labels, weight, ridge=1e-3)
    return Calibration(float(slope), float(intercept), prevalence)


def sensitivity_lower_bound(found: int, of: int, confidence: float = 0.95) -> float:
    """One-sided exact lower bound of a share (Clopper and Pearson 1934)."""
    return float(beta.ppf(1 - confidence, found, of - found + 1)) if found else 0.0


def choose(films: OutOfFold, calibration: Calibration) -> OperatingPoint:
    """Maximise the smaller of sensitivity and specificity on the conflict normals; set the band around it.

    Pneumonia missed is the costly error, so a cut with a sensitivity below 0.97 is not considered.
    """
    present, absent = films.logits[films.labels == 1], films.logits[films.hard_normals]
    kind = "films without the finding" + (" in the conflict slice" if films.conflict_normals.any() else "")
    candidates = np.unique(films.logits)
    cuts = (candidates[1:] + candidates[:-1]) / 2
    sensitivity = (present[None, :] >= cuts[:, None]).mean(axis=1)
    specificity = (absent[None, :] < cuts[:, None]).mean(axis=1)
    smaller = np.where(sensitivity >= _SENSITIVITY_FLOOR, np.minimum(sensitivity, specificity), -1.0)
    best = np.flatnonzero(smaller >= smaller.max() - 1e-12)
    chosen = best[len(best) // 2]
    cut = float(cuts[chosen])
    low = min(cut, float(np.quantile(present, _BAND_MISSED)))
    high = max(cut, float(np.quantile(absent, 1 - _BAND_CALLED)))
    found = int((present >= cut).sum())
    in_band = ((films.logits >= low) & (films.logits < high)).mean()
    return OperatingPoint(
        threshold=calibration.probability(cut),
        uncertain_low=calibration.probability(low),
        uncertain_high=calibration.probability(high),
        reason=(
            f"threshold: of the cuts with an out-of-fold sensitivity of at least {_SENSITIVITY_FLOOR}, the one where "
            f"the smaller of sensitivity ({sensitivity[chosen]:.4f}, one-sided 95 % lower bound by film "
            f"{sensitivity_lower_bound(found, len(present)):.4f}) and specificity on the {len(absent)} {kind} "
            f"({specificity[chosen]:.4f}) is largest; band: from the lowest {_BAND_MISSED:.0%} of "
            f"pneumonia films to the highest {_BAND_CALLED:.0%} of {kind}, {in_band:.1%} of out-of-fold films"
        ),
    )


def specify(films: OutOfFold, finding: str, code: str, prevalence: float) -> FindingSpec:
    """Calibrate one finding and choose its operating point from logits of films that the network had not seen."""
    calibration = calibrate(films, prevalence)
    return FindingSpec(finding, code, calibration, choose(films, calibration))
