"""Curves with bands, and the subgroups of films."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from preread_training.analysis.subgroups import assign_tertiles, measure_chin_contrast, select_subgroups
from preread_training.data import dataset, digests
from preread_training.data.dataset import Data, LabelledImage, build_label_matrix, list_patients
from preread_training.report.galleries import draw_gallery_map, draw_sample_rows, list_image_kinds
from preread_training.stats import curves
from preread_training.stats.metrics import auc, average_precision


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], [150, 250])
    scores = labels * 1.5 + generator.normal(size=400)
    return scores, labels, np.repeat(np.arange(200), 2).astype(str)


def test_the_area_under_the_roc_is_the_auc(scored: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    band = curves.compute_roc_curve(*scored, draws=20)
    assert np.trapezoid(band.y, band.x) == pytest.approx(auc(scored[0], scored[1]), abs=0.003)
    assert (band.x[0], band.x[-1], band.y[-1]) == (0, 1, 1)
    assert (np.diff(band.y) >= 0).all()


def test_the_area_under_precision_and_recall_is_the_average_precision(
    scored: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    band = curves.compute_precision_recall_curve(*scored, draws=20)
    assert np.trapezoid(band.y, band.x) == pytest.approx(average_precision(scored[0], scored[1]), abs=0.01)
    assert band.y[-1] >= (scored[1] == 1).mean()


def test_ties_are_one_step() -> None:
    labels = np.array([1, 0, 1, 0])
    band = curves.compute_roc_curve(np.zeros(4), labels, np.arange(4).astype(str), draws=5)
    np.testing.assert_allclose(band.y, band.x)


def test_bands_hold_the_curve_and_widen_when_films_come_in_groups(
    scored: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    scores, labels, _ = scored
    scores, labels = np.repeat(scores[::10], 10), np.repeat(labels[::10], 10)  # ten films alike of each patient
    alone = curves.compute_roc_curve(scores, labels, np.arange(400).astype(str), draws=200)
    grouped = curves.compute_roc_curve(scores, labels, np.repeat(np.arange(40), 10).astype(str), draws=200)
    middle = (alone.x > 0.05) & (alone.x < 0.5)
    assert (alone.low <= alone.y)[middle].all()
    assert (alone.y <= alone.high)[middle].all()
    assert (grouped.high - grouped.low)[middle].mean() > 2 * (alone.high - alone.low)[middle].mean()


def test_a_curve_needs_both_labels() -> None:
    with pytest.raises(ValueError, match="both labels"):
        curves.compute_roc_curve(np.arange(3.0), np.ones(3, np.int64), np.arange(3).astype(str))


def _data() -> Data:
    names = ["person1_bacteria_1", "person1_bacteria_2", "person1_virus_3", "IM-0001-0001", "NORMAL2-IM-0002-0001"]
    patients = ["bacteria-1", "bacteria-1", "virus-1", "IM-1", "NORMAL2-IM-2"]
    films = [
        LabelledImage(Path(f"{name}.jpeg"), ("pneumonia",) if "person" in name else (), patient, patient_known=True)
        for name, patient in zip(names, patients, strict=True)
    ]
    pictures = np.random.default_rng(0).integers(0, 200, (5, 224, 224), dtype=np.uint8)
    pictures[3, :16, 96:128] = 255  # a chin
    labels = build_label_matrix(films, ["pneumonia"])
    conflict = np.array([[False], [True], [False], [False], [True]])
    return Data(
        films, pictures, [""] * 5, ("pneumonia",), labels, list_patients(films), np.array([0, 0, 1, 0, 1]), conflict
    )


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the films of ``_data`` for the published set."""
    monkeypatch.setattr(dataset, "PUBLISHED_DATA_SET", digests.compute_content_digest(_data().images, _data().hashes))


def test_other_films_get_no_kind_of_the_published_ones() -> None:
    """Whatever their patients are called."""
    assert [name for name, _ in list_image_kinds(_data(), 0)] == ["without pneumonia", "pneumonia"]
    names = " ".join(select_subgroups(_data(), np.arange(5), 0))
    assert not re.search("bacterial|viral|IM|chin", names)
    assert "top centre bright: most" in names


@pytest.mark.usefixtures("published")
def test_subgroups_follow_names_framing_and_patients() -> None:
    found = {name: rows.tolist() for name, rows in select_subgroups(_data(), np.arange(5), 0).items()}
    assert found["bacterial"] == [True, True, False, False, False]
    assert found["viral"] == [False, False, True, False, False]
    assert found["named IM, without"] == [False, False, False, True, False]
    assert found["named NORMAL2-IM, without"] == [False, False, False, False, True]
    assert found["conflict slice, without"] == [False, False, False, False, True]
    assert found["conflict slice, with"] == [False, True, False, False, False]
    assert found["chin in view: most"][3]
    assert found["patients with one film"] == [False, False, True, True, True]
    assert found["patients with 2 to 4 films"] == [True, True, False, False, False]
    assert "patients with 5 films or more" not in found


def test_the_patient_s_films_are_counted_over_all_folds() -> None:
    found = select_subgroups(_data(), np.array([0, 3]), 0)
    assert found["patients with 2 to 4 films"].tolist() == [True, False]


def test_chin_contrast_rises_with_a_bright_middle_of_the_top_edge() -> None:
    dark = np.full((1, 224, 224), 50, np.uint8)
    chin = dark.copy()
    chin[:, :16, 96:128] = 150
    assert measure_chin_contrast(dark)[0] == 0
    assert measure_chin_contrast(chin)[0] == 100


def test_tertiles_are_thirds() -> None:
    assert np.bincount(assign_tertiles(np.random.default_rng(0).normal(size=300))).tolist() == [100, 100, 100]


@pytest.mark.usefixtures("published")
def test_kinds_take_the_names_where_they_tell() -> None:
    found = {name: rows.tolist() for name, rows in list_image_kinds(_data(), 0)}
    assert found == {
        "without pneumonia": [3, 4],
        "pneumonia, bacterial": [0, 1],
        "pneumonia, viral": [2],
    }


def test_a_sample_is_of_different_patients_and_always_the_same() -> None:
    data = _data()
    drawn = draw_sample_rows(data, np.arange(5), 4)
    assert len(set(data.patients[drawn].tolist())) == 4
    assert drawn.tolist() == draw_sample_rows(data, np.arange(5), 4).tolist()
    assert len(draw_sample_rows(data, np.array([0, 1]), 4)) == 1


def test_a_map_that_says_little_is_faint() -> None:
    film = np.full((64, 64), 100, np.uint8)
    cells = np.zeros((4, 4), np.float32)
    cells[0, 0], cells[3, 3] = 2.0, -2.0
    strong, faint = (draw_gallery_map(film, cells * scale, 2.0).astype(int) for scale in (1.0, 0.1))
    assert strong[4, 4, 0] > strong[4, 4, 2]  # red speaks for
    assert strong[60, 60, 2] > strong[60, 60, 0]  # blue against
    assert np.abs(faint - 100).max() < np.abs(strong - 100).max() / 4
