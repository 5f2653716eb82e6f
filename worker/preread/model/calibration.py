"""Calibration of logits, operating points, and predictive values.

All parameters are in the bundle's manifest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from preread.core.types import Answer, Finding, PredictiveValues

# Prevalences of PPV and NPV: a screening site, a clinic, a ward for sick children.
PREDICTIVE_PREVALENCES = (0.05, 0.20, 0.60)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration of logits to probabilities by Platt scaling (Platt 1999).

    probability = 1 / (1 + exp(-(slope * logit + intercept)))

    Attributes:
        slope: above 0.
        intercept: finite.
        prevalence: share of images with the finding, in (0, 1), for which the probability is calibrated.
    """

    slope: float
    intercept: float
    prevalence: float

    def __post_init__(self) -> None:
        if not (self.slope > 0 and math.isfinite(self.intercept) and 0 < self.prevalence < 1):
            raise ValueError(
                f"slope is {self.slope}, intercept {self.intercept} and prevalence {self.prevalence}; slope must be "
                "above 0, intercept finite and prevalence between 0 and 1"
            )

    def compute_probability(self, logit: float) -> float:
        """Convert a finite logit to a calibrated probability in [0, 1]."""
        z = self.slope * logit + self.intercept
        return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Operating point: threshold on the probability, and uncertain band.

    Attributes:
        threshold: at or above it a binary decision is positive; in [uncertain_low, uncertain_high].
        uncertain_low: below it the result is ``not_flagged``; in [0, 1].
        uncertain_high: at or above it the result is ``flagged``, else ``uncertain``; in [0, 1].
        reason: how the three were chosen.
    """

    threshold: float
    uncertain_low: float
    uncertain_high: float
    reason: str

    def __post_init__(self) -> None:
        if not 0 <= self.uncertain_low <= self.threshold <= self.uncertain_high <= 1:
            raise ValueError(
                f"uncertain_low is {self.uncertain_low}, threshold {self.threshold} and uncertain_high "
                f"{self.uncertain_high}; they must rise in this order from 0 to 1"
            )

    def compare_probability(self, probability: float) -> Answer:
        """Compare a probability in [0, 1] with the operating point's band.

        Returns:
            ``flagged`` at or above the uncertain band, ``uncertain`` within it, ``not_flagged`` below it.
        """
        if probability >= self.uncertain_high:
            return Answer.FLAGGED
        return Answer.UNCERTAIN if probability >= self.uncertain_low else Answer.NOT_FLAGGED


def compute_predictive_values(
    flagged: tuple[float, float], not_flagged: tuple[float, float]
) -> tuple[PredictiveValues, ...]:
    """Compute predictive values (PPV, NPV) at three prevalences.

    By Bayes' theorem, at ``PREDICTIVE_PREVALENCES``.

    Args:
        flagged: share flagged of the images with the finding, and of those without; each in (0, 1).
        not_flagged: share not flagged of the images with the finding, and of those without; each in (0, 1).
    """
    return tuple(
        PredictiveValues(
            prevalence=share,
            ppv=flagged[0] * share / (flagged[0] * share + flagged[1] * (1 - share)),
            npv=not_flagged[1] * (1 - share) / (not_flagged[1] * (1 - share) + not_flagged[0] * share),
        )
        for share in PREDICTIVE_PREVALENCES
    )


@dataclass(frozen=True, slots=True)
class FindingSpec:
    """One finding of a bundle: code, calibration and operating point.

    Attributes:
        finding: name, e.g. ``pneumonia``.
        code: coded concept, ``scheme:value`` (PS3.16), e.g. ``SCT:233604007``.
        calibration: conversion of logit to probability.
        operating_point: threshold and uncertain band.
        predictive_values: at ``PREDICTIVE_PREVALENCES``, in that order; empty in bundles that state none.
    """

    finding: str
    code: str
    calibration: Calibration
    operating_point: OperatingPoint
    predictive_values: tuple[PredictiveValues, ...] = ()

    def __post_init__(self) -> None:
        stated = tuple(values.prevalence for values in self.predictive_values)
        if stated not in ((), PREDICTIVE_PREVALENCES):
            raise ValueError(
                f"predictive_values are at the prevalences {stated}; they must be at {PREDICTIVE_PREVALENCES}"
            )

    def compute_finding(self, logit: float) -> Finding:
        """Compute a finding, with its probability, from the network's logit.

        Raises:
            ArithmeticError: the logit is not finite.
        """
        if not math.isfinite(logit):
            raise ArithmeticError(f"the network's logit for {self.finding} is {logit}; it must be finite")
        probability = self.calibration.compute_probability(logit)
        return Finding(
            finding=self.finding,
            logit=logit,
            probability=probability,
            prevalence=self.calibration.prevalence,
            answer=self.operating_point.compare_probability(probability),
            predictive_values=self.predictive_values,
        )
