"""Measures, baselines and thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread_training.stats.baselines import (
    compute_balanced_weights,
    compute_cross_fitted_logits,
    compute_thumbnails,
    fit_logistic,
    select_border,
)
from preread_training.stats.bootstrap import compute_effective_count, measure_share
from preread_training.stats.metrics import (
    Confusion,
    OutOfFold,
    auc,
    average_precision,
    matthews_correlation,
    measure_auc_difference,
    measure_logits,
    measure_subgroups,
)
from preread_training.stats.operating_point import (
    bound_sensitivity,
    bound_sensitivity_by_patient,
    choose_operating_point,
    choose_threshold,
    compute_cross_fitted_probabilities,
    compute_probabilities,
    count_errors_with_band,
    fit_calibration,
    measure_cross_fitted_threshold,
    measure_predictive_values,
    specify_finding,
)

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
    measured = measure_logits(called.astype(float), called, labels, np.arange(100).astype(str), draws=400)
    assert measured["sensitivity"].value == 0.75
    assert measured["specificity"].value == 0.9
    assert measured["accuracy"].value == pytest.approx(0.84)
    for value in measured.values():
        assert value.low < value.value < value.high


def test_intervals_widen_when_films_come_in_groups() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([1, 0], 200)
    called = (labels == 1) ^ np.repeat(generator.random(40) < 0.2, 10)
    alone = measure_logits(called.astype(float), called, labels, np.arange(400).astype(str), draws=400)["accuracy"]
    grouped = measure_logits(called.astype(float), called, labels, np.repeat(np.arange(40), 10).astype(str), draws=400)
    assert grouped["accuracy"].high - grouped["accuracy"].low > 2 * (alone.high - alone.low)


def test_one_label_alone_leaves_the_rest_undefined() -> None:
    measured = measure_logits(np.zeros(4), np.zeros(4, bool), np.zeros(4, int), np.arange(4).astype(str), draws=10)
    assert math.isnan(measured["sensitivity"].value)
    assert measured["specificity"].value == 1.0


def test_thumbnails_are_cell_means_and_the_border_is_their_rim() -> None:
    picture = np.zeros((1, 28, 28), np.uint8)
    picture[0, 0:2, 0:2] = (10, 20)
    picture[0, 4:24, 4:24] = 200
    thumbs = compute_thumbnails(picture)
    assert thumbs[0, 0, 0] == 15.0
    assert thumbs[0, 2, 2] == 200.0
    assert select_border(thumbs).shape == (1, 96)
    assert select_border(thumbs).max() == 15.0


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
    logits = compute_cross_fitted_logits(generator.normal(size=(400, 30)), labels, np.arange(400) % 5)
    assert abs(auc(logits, labels) - 0.5) < 0.1
    assert compute_balanced_weights(labels).sum() == pytest.approx(400)


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
    calibration = fit_calibration(films, prevalence)
    p = np.array([calibration.compute_probability(logit) for logit in films.logits])
    usual = (films.labels == 0) & ~films.conflict
    absent = (p[usual].mean() + p[films.hard_negatives].mean()) / 2
    mean = prevalence * p[films.labels == 1].mean() + (1 - prevalence) * absent
    assert mean == pytest.approx(prevalence, abs=0.01)


@pytest.mark.parametrize("apart", [4.0, 7.0])
def test_operating_point_balances_sensitivity_and_conflict_normals_above_the_floor(apart: float) -> None:
    films = _out_of_fold(apart)
    calibration = fit_calibration(films, 0.5)
    point = choose_operating_point(films, calibration)
    called = np.array([calibration.compute_probability(logit) >= point.threshold for logit in films.logits])
    sensitivity, specificity = called[films.labels == 1].mean(), (~called[films.hard_negatives]).mean()
    assert sensitivity >= 0.975
    if apart > 5:
        assert abs(sensitivity - specificity) < 0.02
    else:  # the balance would miss too much pneumonia: just above the floor
        assert sensitivity < 0.98
        assert specificity < sensitivity
    assert point.uncertain_low <= point.threshold <= point.uncertain_high


def test_exact_bound_of_a_share() -> None:
    assert bound_sensitivity(385, 390) == pytest.approx(0.9732, abs=2e-4)
    assert bound_sensitivity(0, 10) == 0.0


def test_a_data_set_without_conflict_normals_has_a_calibration_and_an_operating_point() -> None:
    films = _out_of_fold(7.0)
    without = OutOfFold(films.logits, films.labels, np.zeros(len(films.labels), bool))
    calibration = fit_calibration(without, 0.5)
    point = choose_operating_point(without, calibration)
    called = np.array([calibration.compute_probability(logit) >= point.threshold for logit in without.logits])
    assert called[without.labels == 1].mean() >= 0.97
    assert called[without.labels == 0].mean() <= 0.03


@given(scored)
def test_average_precision_is_the_mean_precision_at_each_film_with_the_finding(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in rows], float)
    labels = np.array([int(label) for _, label in rows])
    precisions = [labels[scores >= score].mean() for score in scores[labels == 1]]
    value = average_precision(scores, labels)
    assert value == pytest.approx(np.mean(precisions)) if precisions else math.isnan(value)


tables = st.tuples(*[st.integers(0, 30)] * 4)


@given(tables)
def test_matthews_correlation_is_that_of_the_four_counts(counts: tuple[int, int, int, int]) -> None:
    tp, fn, fp, tn = counts
    labels = np.repeat([1, 1, 0, 0], counts)
    called = np.repeat([True, False, True, False], counts)
    assert Confusion.count(called, labels) == Confusion(tp, fn, fp, tn)
    scale = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    value = matthews_correlation(called, labels)
    assert value == pytest.approx((tp * tn - fp * fn) / scale) if scale else math.isnan(value)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=60))
def test_the_interval_of_a_share_holds_it_and_is_never_a_point(rows: list[tuple[bool, int]]) -> None:
    hit = np.array([flag for flag, _ in rows])
    groups = np.array([str(group) for _, group in rows])
    found = measure_share(hit, groups)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.01
    assert 1 <= compute_effective_count(hit, groups) <= len(hit)


def test_wilsons_interval_of_a_known_share() -> None:
    """Of 390 films 379: 0.972 (0.950 to 0.984)."""
    found = measure_share(np.arange(390) < 379, np.arange(390).astype(str))
    assert (found.low, found.high) == pytest.approx((0.9502, 0.9842), abs=2e-3)


def test_films_that_always_agree_within_a_patient_count_once() -> None:
    hit = np.repeat(np.arange(200) % 5 > 0, 6)
    alone, grouped = np.arange(1200).astype(str), np.repeat(np.arange(200), 6).astype(str)
    assert compute_effective_count(hit, alone) == pytest.approx(1200, rel=0.01)
    assert compute_effective_count(hit, grouped) == pytest.approx(200, rel=0.01)
    assert compute_effective_count(np.ones(1200, bool), grouped) == 200
    assert bound_sensitivity_by_patient(hit, grouped) < bound_sensitivity_by_patient(hit, alone) < hit.mean()


def test_two_networks_are_told_apart_on_the_same_films_only_where_they_differ() -> None:
    generator = np.random.default_rng(0)
    labels, groups = np.arange(400) % 2, np.arange(400).astype(str)
    good = generator.normal(labels * 3.0, 1.0)
    bad = generator.normal(labels * 1.0, 1.0)
    better = measure_auc_difference(good, bad, labels, groups, count=300)
    assert better.low > 0
    same = measure_auc_difference(good, good + generator.normal(0, 0.05, 400), labels, groups, count=300)
    assert same.low < 0 < same.high


@given(st.floats(0.01, 0.99), st.sampled_from([None, 0.0, 0.5, 1.0]))
def test_weights_bring_films_to_a_prevalence(prevalence: float, conflict_share: float | None) -> None:
    films = _out_of_fold()
    weight = films.weigh_to_prevalence(prevalence, conflict_share)
    assert weight.sum() == pytest.approx(len(weight))
    assert weight[films.labels == 1].sum() / weight.sum() == pytest.approx(prevalence)
    hard = weight[films.hard_negatives].sum() / weight[films.labels == 0].sum()
    assert hard == pytest.approx(0.1 if conflict_share is None else conflict_share)


def test_subgroups_of_one_label_are_ranked_against_the_other() -> None:
    films = _out_of_fold()
    called = films.logits > 0
    first = np.arange(len(called)) < 1000
    table = measure_subgroups(films, called, {"first": first, "hard": films.hard_negatives, "none": ~first & first})
    assert set(table) == {"first", "hard"}
    assert "specificity" not in table["first"]
    assert table["first"]["missed"] == int((~called[first]).sum())
    assert table["hard"]["auc"]["value"] == pytest.approx(auc(*films.select_hard_negatives()))
    assert table["hard"]["films"] == table["hard"]["patients"] == 100


def test_with_few_films_the_cut_still_misses_none() -> None:
    """Of 12 films with the finding none may be missed to see 97.5 %; the cut goes below them all."""
    logits, labels = np.arange(24.0), np.repeat([1, 0], 12)
    cut = choose_threshold(OutOfFold(logits, labels, np.zeros(24, bool)))
    assert cut.sensitivity == 1.0
    assert cut.logit < 0
    assert cut.sensitivity_bound == pytest.approx(0.05 ** (1 / 12))


def test_the_bound_of_the_sensitivity_counts_patients() -> None:
    films = _out_of_fold(7.0)
    patients = np.array([f"p{row // 10}" for row in range(len(films.labels))])
    ordered = np.argsort(films.logits[:3000])  # films of one patient are alike
    logits = np.concatenate([films.logits[:3000][ordered], films.logits[3000:]])
    alike = OutOfFold(logits, films.labels, films.conflict, patients)
    assert choose_threshold(alike).sensitivity == choose_threshold(films).sensitivity
    assert (
        choose_threshold(alike).sensitivity_bound
        < choose_threshold(films).sensitivity_bound
        < choose_threshold(films).sensitivity
    )


def test_the_band_trades_errors_for_open_answers() -> None:
    films = _out_of_fold()
    spec = specify_finding(films, "pneumonia", "SCT:233604007", 0.5)
    bought = count_errors_with_band(films, spec.calibration, spec.operating_point)
    assert bought["missed_with_band"] <= bought["missed_without_band"]
    assert bought["called_with_band"] <= bought["called_without_band"]
    open_films = bought["uncertain_with_finding"] + bought["uncertain_without_finding"]
    assert bought["uncertain_rate"] == pytest.approx(open_films / len(films.labels))
    assert bought["missed_with_band"] == pytest.approx(0.01 * 3000, abs=1)


def test_predictive_values_are_those_of_the_answers_with_half_the_normals_hard() -> None:
    films = _out_of_fold()
    calibration = fit_calibration(films, 0.5)
    point = choose_operating_point(films, calibration)
    at_20 = measure_predictive_values(films, calibration, point)[1]
    p = compute_probabilities(films, calibration)
    flagged, present = p >= point.uncertain_high, films.labels == 1
    usual = ~present & ~films.conflict
    wrong = (flagged[usual].mean() + flagged[films.hard_negatives].mean()) / 2
    right = flagged[present].mean()
    assert at_20.ppv == pytest.approx(0.2 * right / (0.2 * right + 0.8 * wrong), abs=0.03)
    assert specify_finding(films, "pneumonia", "x:1", 0.5).predictive_values == measure_predictive_values(
        films, calibration, point
    )


def test_no_answer_is_stated_as_certain() -> None:
    labels = np.repeat([1, 0], 50)
    films = OutOfFold(labels * 20.0 - 10 + np.linspace(-1, 1, 100), labels, np.zeros(100, bool))
    for values in specify_finding(films, "pneumonia", "x:1", 0.5).predictive_values:
        assert 0.3 < values.ppv < 1
        assert 0.5 < values.npv < 1


def test_cross_fitting_lets_no_film_choose_its_own_cut() -> None:
    films = _out_of_fold()
    assert measure_cross_fitted_threshold(films) is None
    assert compute_cross_fitted_probabilities(films, 0.5) is None
    folds = np.arange(len(films.labels)) % 4
    dealt = OutOfFold(films.logits, films.labels, films.conflict, folds=folds)
    answers = measure_cross_fitted_threshold(dealt)
    assert answers is not None
    assert answers["sensitivity"] == pytest.approx(0.977, abs=0.006)
    p = compute_cross_fitted_probabilities(dealt, 0.5)
    assert p is not None
    assert p == pytest.approx(compute_probabilities(films, fit_calibration(films, 0.5)), abs=0.05)
