"""Does a probability mean what it says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread_training.stats.calibration_metrics import (
    brier_score,
    compute_reliability_bins,
    expected_calibration_error,
    fit_calibration_line,
    measure_calibration,
    negative_log_likelihood,
)

films = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1), st.integers(1, 5)), min_size=1, max_size=60)


def _drawn(n: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    probability = generator.uniform(0.02, 0.98, n)
    return probability, (generator.random(n) < probability).astype(np.int64)


@given(films)
def test_bins_hold_every_film_once_in_rising_order(rows: list[tuple[float, int, int]]) -> None:
    probability, labels, weights = (np.array(column, float) for column in zip(*rows, strict=True))
    bins = compute_reliability_bins(probability, labels.astype(int), weights)
    assert sum(each.count for each in bins) == len(rows)
    assert sum(each.weight for each in bins) == pytest.approx(1)
    assert len(bins) <= 15
    means = [each.probability for each in bins]
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(means))
    assert 0 <= expected_calibration_error(bins) <= 1


@given(films)
def test_a_weight_counts_like_so_many_films(rows: list[tuple[float, int, int]]) -> None:
    probability, labels, weights = (np.array(column, float) for column in zip(*rows, strict=True))
    labels, times = labels.astype(int), weights.astype(int)
    for of in (brier_score, negative_log_likelihood):
        repeated = of(np.repeat(probability, times), np.repeat(labels, times))
        assert of(probability, labels, weights) == pytest.approx(repeated)


def test_bins_have_equal_mass_and_ties_stay_together() -> None:
    probability, labels = _drawn(1500)
    assert {each.count for each in compute_reliability_bins(probability, labels)} == {100}
    tied = np.repeat([0.1, 0.9], [999, 1])
    assert [each.count for each in compute_reliability_bins(tied, np.zeros(1000, int))] == [999, 1]


def test_a_probability_that_means_what_it_says_has_slope_1_and_no_error() -> None:
    probability, labels = _drawn()
    slope, intercept = fit_calibration_line(probability, labels)
    assert slope == pytest.approx(1, abs=0.05)
    assert intercept == pytest.approx(0, abs=0.05)
    assert expected_calibration_error(compute_reliability_bins(probability, labels)) < 0.02


def test_an_overconfident_probability_has_a_slope_below_1_and_a_larger_error() -> None:
    probability, labels = _drawn()
    odds = (probability / (1 - probability)) ** 3
    overconfident = odds / (1 + odds)
    assert fit_calibration_line(overconfident, labels)[0] == pytest.approx(1 / 3, abs=0.03)
    assert expected_calibration_error(compute_reliability_bins(overconfident, labels)) > 0.1
    assert brier_score(overconfident, labels) > brier_score(probability, labels)
    assert negative_log_likelihood(overconfident, labels) > negative_log_likelihood(probability, labels)


def test_weights_bring_films_to_the_prevalence_that_is_claimed() -> None:
    """At 50 % the probability is right; the films themselves are at 80 %, and only their weights make up for it."""
    generator = np.random.default_rng(1)
    labels = (generator.random(20_000) < 0.8).astype(np.int64)
    logits = generator.normal(np.where(labels == 1, 1.0, -1.0), math.sqrt(2))  # log-likelihood ratio = logit
    probability = 1 / (1 + np.exp(-logits))
    weights = np.where(labels == 1, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    at_prevalence = measure_calibration(probability, labels, weights)
    as_they_are = measure_calibration(probability, labels)
    assert at_prevalence["expected_calibration_error"] < 0.02
    assert at_prevalence["intercept"] == pytest.approx(0, abs=0.06)
    assert as_they_are["expected_calibration_error"] > 0.1
    assert as_they_are["intercept"] == pytest.approx(math.log(0.8 / 0.2), abs=0.1)


def test_one_label_alone_has_no_slope_and_still_a_record() -> None:
    record = measure_calibration(np.array([0.0, 0.2, 1.0]), np.ones(3, int))
    assert record["slope"] is None
    assert math.isfinite(record["negative_log_likelihood"])
