"""Probes tell a reader of lungs from a reader of borders; here both are made of means, and known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.model.calibration import Calibration
from preread_training.analysis import activation_maps, perturbation
from preread_training.analysis.activation_maps import NetworkOutputs
from preread_training.analysis.perturbation import make_border_mask, make_lung_mask, run_perturbation_tests
from preread_training.analysis.transforms import DISTURBANCES

CALIBRATION = Calibration(1.0, 0.0, 0.5)
N = 40


def _films(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lungs and border both brighter with the finding: either gives the label away."""
    generator = np.random.default_rng(seed)
    labels = np.arange(N) % 2
    pictures = generator.integers(90, 110, (N, 224, 224))
    pictures += labels[:, None, None] * 60
    return pictures.astype(np.uint8), labels


def _reader(region: np.ndarray, middle: float = 130.0) -> activation_maps.RunNetwork:
    def look(pictures: np.ndarray) -> NetworkOutputs:
        logits = (pictures[:, region].mean(axis=1) - middle) / 5
        return NetworkOutputs(logits, np.repeat(logits, 36).reshape(-1, 6, 6).astype(np.float32))

    return look


def test_a_reader_of_lungs_follows_them_and_does_not_mind_the_border() -> None:
    pictures, labels = _films()
    pictures[:, ~make_lung_mask(224, 224)] = 60
    look = _reader(make_lung_mask(224, 224))
    found = perturbation.measure_occlusion(look, pictures, labels, CALIBRATION, look(pictures))
    assert found["border"]["unmoved"] == 1.0
    assert found["border"]["auc_change"] == 0
    assert found["lungs"]["unmoved"] == 0.5  # those without it were dark before, too
    assert found["lungs"]["mean_probability_with_finding"] < 0.1
    assert perturbation.measure_lung_exchange(look, pictures, labels)["auc"] == 1.0


def test_a_reader_of_borders_is_found_out() -> None:
    pictures, labels = _films()
    look = _reader(make_border_mask(224, 224))
    found = perturbation.measure_occlusion(look, pictures, labels, CALIBRATION, look(pictures))
    assert found["border"]["unmoved"] < 0.6
    assert found["border"]["auc"] == 0.5
    assert found["lungs"]["unmoved"] == 1.0
    assert perturbation.measure_lung_exchange(look, pictures, labels)["auc"] == 0.0


def test_reframing_counts_films_whose_probability_moves() -> None:
    pictures = np.full((10, 224, 224), 100, np.uint8)
    pictures[:5, :20] = 255  # half of them have something at the top
    look = _reader(np.ones((224, 224), bool), middle=110.0)
    found = perturbation.measure_reframing(look, pictures, CALIBRATION, look(pictures))
    assert found["films"] == 10
    assert found["unmoved"] == 0.5
    assert found["risen"] == 0.0
    assert found["percentile_95"] > found["median"]


def test_everything_in_one_record_without_a_nan() -> None:
    pictures, labels = _films()
    look = _reader(make_lung_mask(224, 224))
    found = run_perturbation_tests(look, pictures, labels, labels == 0, CALIBRATION, most=8)
    assert found["robustness"]["films"] == 8
    assert set(found["robustness"]["disturbed"]) == set(DISTURBANCES)
    assert found["activation_map"]["border_energy"] == pytest.approx(20 / 36)
    assert found["activation_map"]["largest_deviation_of_logit"] < 1e-5
    assert found["reframing"]["films"] == N // 2


@given(st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_the_sample_holds_conflict_normals_first_and_no_film_twice(seed: int, most: int) -> None:
    generator = np.random.default_rng(seed)
    labels, conflict = generator.integers(0, 2, 40), generator.random(40) < 0.2
    rows = perturbation.choose_perturbed_rows(labels, conflict, most)
    assert len(rows) == len(set(rows.tolist())) == min(most, 40)
    hard = set(np.flatnonzero(conflict & (labels == 0)).tolist())
    assert len(hard & set(rows.tolist())) >= min(len(hard), most // 2)


def test_regions_lie_where_they_are_said_to() -> None:
    border, lungs = make_border_mask(224, 224), make_lung_mask(224, 224)
    assert border.mean() == pytest.approx(1 - (12 / 14) ** 2, abs=0.01)
    assert border[0].all()
    assert not border[112, 16:208].any()
    assert not (make_border_mask(224, 224, 1 / 14) & lungs).any()


def test_the_share_of_energy_is_that_of_absolute_values() -> None:
    maps = np.zeros((2, 6, 6), np.float32)
    maps[0, 0, 0], maps[0, 3, 3] = -3.0, 1.0
    assert activation_maps.measure_map_energy_share(maps, activation_maps.make_border_cell_mask(6)).tolist() == [
        0.75,
        0.0,
    ]


def test_the_head_is_the_difference_of_logit_and_mean_of_the_map() -> None:
    maps = np.random.default_rng(0).normal(size=(5, 6, 6)).astype(np.float32)
    logits = maps.mean(axis=(1, 2), dtype=np.float64) + 0.25
    assert activation_maps.estimate_head_bias(NetworkOutputs(logits, maps)) == pytest.approx((0.25, 0.0), abs=1e-9)
    logits[3] += 0.1
    assert activation_maps.estimate_head_bias(NetworkOutputs(logits, maps))[1] == pytest.approx(0.1)


def test_maps_of_the_same_film_correlate_and_flat_ones_do_not() -> None:
    maps = np.random.default_rng(0).normal(size=(4, 6, 6)).astype(np.float32)
    assert activation_maps.correlate_maps(maps, 2 * maps + 1) == pytest.approx(1)
    assert activation_maps.correlate_maps(maps, np.ones_like(maps)).tolist() == [0.0] * 4


def test_an_overlay_is_red_where_the_map_speaks_for_and_blue_where_against() -> None:
    picture = np.full((60, 60), 128, np.uint8)
    activation_map = np.zeros((6, 6), np.float32)
    activation_map[0, 0], activation_map[5, 5] = 2.0, -2.0
    drawn = activation_maps.draw_map_over_image(picture, activation_map).astype(int)
    assert drawn.shape == (60, 60, 3)
    assert drawn[2, 2, 0] > drawn[2, 2, 2] + 50
    assert drawn[57, 57, 2] > drawn[57, 57, 0] + 50
    assert (drawn[30, 30] == 128).all()
    assert (activation_maps.draw_map_over_image(picture, np.zeros((6, 6), np.float32)) == 128).all()


def test_scrambling_keeps_every_value_and_no_place() -> None:
    class Model:
        def __init__(self) -> None:
            self.weights = [np.arange(100.0).reshape(10, 10), np.arange(5.0)]

        def get_weights(self) -> list[np.ndarray]:
            return self.weights

        def set_weights(self, weights: list[np.ndarray]) -> None:
            self.weights = weights

    model = Model()
    activation_maps.shuffle_weights(model)
    assert sorted(model.weights[0].ravel()) == list(range(100))
    assert (model.weights[0] != np.arange(100.0).reshape(10, 10)).any()
