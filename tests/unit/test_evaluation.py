"""Measures, baselines and thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_training.baselines import balanced_weights, border, cross_fitted_logits, fit_logistic, thumbnails
from model_training.evaluation import OutOfFold, auc, measure
from model_training.thresholds import calibrate, choose, sensitivity_lower_bound

scored = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40)


@given(scored)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in rows], float)
    labels = np.array([int(label) for _, label in rows])
    pairs = [(p, a) for p in scores[labels == 1] for a in scores[labels == 0]]
    value = auc(scores, labels)
    if not pairs:
        assert math.isnan(value)
    else:
        assert value == pytest.approx(sum((p > a) + (p == a) / 2 for p, a in pairs) / len(pairs))


@given(scored, st.integers(0, 99))
def test_a_weight_counts_like_so_many_films(rows: list[tuple[int, bool]], seed: int) -> None:
    scores = np.array([score for score, _ in rows], float)
    labels = np.array([int(label) for _, label in rows])
    times = np.random.default_rng(seed).integers(0, 3, len(rows))
    repeated = auc(np.repeat(scores, times), np.repeat(labels, times))
    assert auc(scores, labels, times.astype(float)) == pytest.approx(repeated, nan_ok=True)


def test_infinite_scores_are_the_worst_ranks() -> None:
    assert auc(np.array([-np.inf, 1.0, 0.0]), np.array([1, 1, 0])) == 0.5


def test_measures_of_a_known_table() -> None:
    labels = np.repeat([1, 0], [40, 60])
    called = np.zeros(100, bool)
    called[:30] = True
    called[40:46] = True
    measured = measure(called.astype(float), called, labels, np.arange(100).astype(str), draws=400)
    assert measured["sensitivity"].value == 0.75
    assert measured["specificity"].value == 0.9
    assert measured["accuracy"].value == pytest.approx(0.84)
    for value in measured.values():
        assert value.low < value.value < value.high


def test_intervals_widen_when_films_come_in_groups() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([1, 0], 200)
    called = (labels == 1) ^ np.repeat(generator.random(40) < 0.2, 10)
    alone = measure(called.astype(float), called, labels, np.arange(400).astype(str), draws=400)["accuracy"]
    grouped = measure(called.astype(float), called, labels, np.repeat(np.arange(40), 10).astype(str), draws=400)
    assert grouped["accuracy"].high - grouped["accuracy"].low > 2 * (alone.high - alone.low)


def test_one_label_alone_leaves_the_rest_undefined() -> None:
    measured = measure(np.zeros(4), np.zeros(4, bool), np.zeros(4, int), np.arange(4).astype(str), draws=10)
    assert math.isnan(measured["sensitivity"].value)
    assert measured["specificity"].value == 1.0


def test_thumbnails_are_cell_means_and_the_border_is_their_rim() -> None:
    picture = np.zeros((1, 28, 28), np.uint8)
    picture[0, 0:2, 0:2] = (10, 20)
    picture[0, 4:24, 4:24] = 200
    thumbs = thumbnails(picture)
    assert thumbs[0, 0, 0] == 15.0
    assert thumbs[0, 2, 2] == 200.0
    assert border(thumbs).shape == (1, 96)
    assert border(thumbs).max() == 15.0


def test_logistic_regression_finds_the_law_that_made_the_labels() -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(4000, 2))
    chance = 1 / (1 + np.exp(-(1.5 * features[:, 0] - 0.8 * features[:, 1] + 0.3)))
    labels = (generator.random(4000) < chance).astype(np.int64)
    found = fit_logistic(features, labels, np.ones(4000), ridge=1e-3)
    assert found == pytest.approx([1.5, -0.8, 0.3], abs=0.15)


def test_cross_fitting_learns_nothing_from_labels_without_a_law() -> None:
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 2, 400)
    logits = cross_fitted_logits(generator.normal(size=(400, 30)), labels, np.arange(400) % 5)
    assert abs(auc(logits, labels) - 0.5) < 0.1
    assert balanced_weights(labels).sum() == pytest.approx(400)


def _out_of_fold(apart: float = 4.0) -> OutOfFold:
    generator = np.random.default_rng(0)
    labels = np.repeat([1, 0], [3000, 1000])
    conflict = np.zeros(4000, bool)
    conflict[3000:3100] = True
    logits = generator.normal(np.where(labels == 1, apart - 1.0, np.where(conflict, -1.0, -3.0)), 1.5)
    return OutOfFold(logits, labels, conflict)


@pytest.mark.parametrize("prevalence", [0.05, 0.5])
def test_calibrated_probability_means_what_it_says_at_its_prevalence(prevalence: float) -> None:
    films = _out_of_fold()
    calibration = calibrate(films, prevalence)
    p = np.array([calibration.probability(logit) for logit in films.logits])
    usual = (films.labels == 0) & ~films.conflict
    absent = (p[usual].mean() + p[films.conflict_normals].mean()) / 2
    mean = prevalence * p[films.labels == 1].mean() + (1 - prevalence) * absent
    assert mean == pytest.approx(prevalence, abs=0.01)


@pytest.mark.parametrize("apart", [4.0, 7.0])
def test_operating_point_balances_sensitivity_and_conflict_normals_above_the_floor(apart: float) -> None:
    films = _out_of_fold(apart)
    calibration = calibrate(films, 0.5)
    point = choose(films, calibration)
    called = np.array([calibration.probability(logit) >= point.threshold for logit in films.logits])
    sensitivity, specificity = called[films.labels == 1].mean(), (~called[films.conflict_normals]).mean()
    assert sensitivity >= 0.97
    if apart > 5:
        assert abs(sensitivity - specificity) < 0.02
    else:  # the balance would miss too much pneumonia: just above the floor
        assert sensitivity < 0.98
        assert specificity < sensitivity
    assert point.uncertain_low <= point.threshold <= point.uncertain_high


def test_exact_bound_of_a_share() -> None:
    assert sensitivity_lower_bound(385, 390) == pytest.approx(0.9732, abs=2e-4)
    assert sensitivity_lower_bound(0, 10) == 0.0


def test_a_data_set_without_conflict_normals_has_a_calibration_and_an_operating_point() -> None:
    films = _out_of_fold(7.0)
    without = OutOfFold(films.logits, films.labels, np.zeros(len(films.labels), bool))
    calibration = calibrate(without, 0.5)
    point = choose(without, calibration)
    called = np.array([calibration.probability(logit) >= point.threshold for logit in without.logits])
    assert called[without.labels == 1].mean() >= 0.97
    assert called[without.labels == 0].mean() <= 0.03
