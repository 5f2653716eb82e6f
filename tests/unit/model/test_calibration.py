"""Logit to probability to answer."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.types import Answer, PredictiveValues
from preread.model.calibration import (
    PREDICTIVE_PREVALENCES,
    Calibration,
    FindingSpec,
    OperatingPoint,
    compute_predictive_values,
)

SPEC = FindingSpec("pneumonia", "SCT:233604007", Calibration(1.5, -0.5, 0.5), OperatingPoint(0.5, 0.2, 0.7, "test"))
finite = st.floats(-1e6, 1e6)


@given(finite, finite)
def test_probability_lies_between_0_and_1_and_never_falls(a: float, b: float) -> None:
    low, high = sorted((a, b))
    calibration = SPEC.calibration
    assert 0 <= calibration.compute_probability(low) <= calibration.compute_probability(high) <= 1


def test_probability_is_the_logistic_of_the_scaled_logit() -> None:
    assert SPEC.calibration.compute_probability(1.0) == pytest.approx(1 / (1 + math.exp(-1.0)))


@pytest.mark.parametrize(
    "probability, answer",
    [
        (0.0, Answer.NOT_FLAGGED), (0.1999, Answer.NOT_FLAGGED), (0.2, Answer.UNCERTAIN),
        (0.6999, Answer.UNCERTAIN), (0.7, Answer.FLAGGED), (1.0, Answer.FLAGGED),
    ],
)  # fmt: skip
def test_answer_at_the_edges_of_the_band(probability: float, answer: Answer) -> None:
    assert SPEC.operating_point.compare_probability(probability) is answer


def test_finding_carries_the_prevalence_of_its_probability() -> None:
    finding = SPEC.compute_finding(0.0)
    assert finding.prevalence == 0.5
    assert finding.logit == 0.0
    assert finding.probability == pytest.approx(1 / (1 + math.exp(0.5)))
    assert finding.answer is Answer.UNCERTAIN


@pytest.mark.parametrize("wrong", [(0.0, 0.0, 0.5), (-1.0, 0.0, 0.5), (1.0, math.nan, 0.5), (1.0, 0.0, 1.0)])
def test_calibration_that_cannot_be_meant_is_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="slope"):
        Calibration(*wrong)


@pytest.mark.parametrize("wrong", [(0.5, 0.6, 0.7), (0.5, 0.2, 0.4), (0.5, -0.1, 0.7), (0.5, 0.2, 1.1)])
def test_band_that_leaves_out_its_threshold_is_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="must rise"):
        OperatingPoint(*wrong, "test")


@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_no_number_gets_no_answer(logit: float) -> None:
    with pytest.raises(ArithmeticError, match="pneumonia"):
        SPEC.compute_finding(logit)


rate = st.floats(0.001, 0.999)
rates = st.tuples(rate, rate)


@given(rates, rates)
def test_ppv_rises_and_npv_falls_with_the_prevalence(flagged: tuple[float, float], spared: tuple[float, float]) -> None:
    low, middle, high = compute_predictive_values(flagged, spared)
    assert (low.prevalence, middle.prevalence, high.prevalence) == PREDICTIVE_PREVALENCES
    assert 0 < low.ppv <= middle.ppv <= high.ppv < 1
    assert 1 > low.npv >= middle.npv >= high.npv > 0


@given(rate, rate)
def test_an_answer_that_tells_nothing_leaves_the_prevalence_as_it_was(flagged: float, spared: float) -> None:
    for values in compute_predictive_values((flagged, flagged), (spared, spared)):
        assert values.ppv == pytest.approx(values.prevalence)
        assert values.npv == pytest.approx(1 - values.prevalence)


def test_predictive_values_of_a_known_table() -> None:
    """Of 1,000 films 200 show it; 180 of them and 80 of the others are flagged, 10 and 640 are not."""
    at_20 = compute_predictive_values((0.9, 0.1), (0.05, 0.8))[1]
    assert at_20.ppv == pytest.approx(180 / 260)
    assert at_20.npv == pytest.approx(640 / 650)


def test_a_finding_carries_the_predictive_values_of_its_bundle() -> None:
    stated = compute_predictive_values((0.9, 0.1), (0.05, 0.8))
    assert dataclasses.replace(SPEC, predictive_values=stated).compute_finding(1.0).predictive_values == stated
    assert SPEC.compute_finding(1.0).predictive_values == ()


def test_predictive_values_stand_at_the_three_prevalences_or_not_at_all() -> None:
    with pytest.raises(ValueError, match="prevalences"):
        dataclasses.replace(SPEC, predictive_values=compute_predictive_values((0.9, 0.1), (0.05, 0.8))[:2])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        PredictiveValues(0.05, 1.1, 0.5)
