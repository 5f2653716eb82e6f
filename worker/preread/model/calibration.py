"""Logit to probability to answer; every number comes from the bundle's manifest."""

from __future__ import annotations

import math
from dataclasses import dataclass

from preread.core.types import Answer, Finding, PredictiveValues

# PPV and NPV stand beside every probability at these: a screening site, a clinic, a ward for sick children.
PREDICTIVE_PREVALENCES = (0.05, 0.20, 0.60)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Platt scaling (Platt 1999): probability = 1 / (1 + exp(-(slope * logit + intercept))).

    Attributes:
        prevalence: the share of films with the finding, in (0, 1), for which the probability holds.
    """

    slope: float
    intercept: float
    prevalence: float

    def __post_init__(self) -> None:
        if not (self.slope > 0 and math.isfinite(self.intercept) and 0 < self.prevalence < 1):
            raise ValueError("slope must be above 0, intercept finite and prevalence in (0, 1)")

    def probability(self, logit: float) -> float:
        """Map any finite logit into [0, 1], rising."""
        z = self.slope * logit + self.intercept
        return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold on the probability, the band around it, and why they are there.

    Attributes:
        threshold: at or above it a yes-or-no question is answered with yes; in [uncertain_low, uncertain_high].
        uncertain_low: below it the answer is ``not_flagged``.
        uncertain_high: at or above it the answer is ``flagged``; in between it is ``uncertain``.
        reason: how the three were chosen, in words.
    """

    threshold: float
    uncertain_low: float
    uncertain_high: float
    reason: str

    def __post_init__(self) -> None:
        if not 0 <= self.uncertain_low <= self.threshold <= self.uncertain_high <= 1:
            raise ValueError("0 <= uncertain_low <= threshold <= uncertain_high <= 1 must hold")

    def answer(self, probability: float) -> Answer:
        """Place a probability against the band."""
        if probability >= self.uncertain_high:
            return Answer.FLAGGED
        return Answer.UNCERTAIN if probability >= self.uncertain_low else Answer.NOT_FLAGGED


def predictive_values(flagged: tuple[float, float], not_flagged: tuple[float, float]) -> tuple[PredictiveValues, ...]:
    """Carry rates of answers over to ``PREDICTIVE_PREVALENCES`` (Bayes).

    Args:
        flagged: share of the films with, and of those without the finding that are flagged; each in (0, 1).
        not_flagged: the same for films that are not flagged.
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
    """One finding of a bundle.

    Attributes:
        finding: its name, e.g. ``pneumonia``.
        code: the same coded, ``scheme:value`` (PS3.16), e.g. ``SCT:233604007``.
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
            raise ValueError(f"predictive_values must be given at the prevalences {PREDICTIVE_PREVALENCES}")

    def to_finding(self, logit: float) -> Finding:
        """Turn the network's logit into a finding.

        Raises:
            ArithmeticError: it is no finite number; an answer would be made up.
        """
        if not math.isfinite(logit):
            raise ArithmeticError(f"the network's logit for {self.finding} is {logit}")
        probability = self.calibration.probability(logit)
        return Finding(
            finding=self.finding,
            logit=logit,
            probability=probability,
            prevalence=self.calibration.prevalence,
            answer=self.operating_point.answer(probability),
            predictive_values=self.predictive_values,
        )
