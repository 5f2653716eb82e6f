"""The detector, fitted to drawn chests beside networks that are none: fixed projections of a thumbnail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from preread.core.errors import UsageError
from preread.core.types import FloatArray, PixelArray
from preread.imaging.preprocessing import TRAINING_SPEC
from preread.model.out_of_scope import Detector
from preread_training.data.phantoms import draw_chest, to_jpeg
from preread_training.detector import synthetic_negatives
from preread_training.detector.ood_images import crop_views, load_folder_images, load_package_images

if TYPE_CHECKING:
    from preread_training.detector.detector import Embed

pytestmark = pytest.mark.usefixtures("deterministic_tensorflow")


FILMS = 48
FOREIGN = 12


def network(seed: int) -> Embed:
    weights = np.random.default_rng(seed).normal(size=(14 * 14, 32)) / 14

    def embed(pictures: PixelArray) -> FloatArray:
        cells = pictures.reshape(len(pictures), 14, 16, 14, 16).mean(axis=(2, 4)).reshape(len(pictures), -1)
        return np.asarray(np.maximum(cells / 128 @ weights, 0), np.float32)

    return embed


def checkers(seed: int) -> PixelArray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:224, 0:224] // rng.integers(10, 40)
    return np.where((x + y) % 2, rng.integers(130, 255), rng.integers(0, 100)).astype(np.uint8)


@pytest.fixture(scope="module")
def films() -> PixelArray:
    return np.stack([draw_chest(seed, rows=224, columns=224) for seed in range(FILMS)])


@pytest.fixture(scope="module")
def foreign() -> dict[str, PixelArray]:
    return {"checkers": np.stack([checkers(seed) for seed in range(FOREIGN)])}


def fitted(films: PixelArray, foreign: Any, folds: int = 2) -> Detector:
    from preread_training.detector.detector import DetectorSettings, Network, fit_bundle_detector

    of = np.arange(len(films)) % 2
    beside = [Network(f"fold-{fold}", network(fold), of != fold) for fold in range(folds)]
    final = Network("all", network(9), np.ones(len(films), bool)) if folds > 1 else None
    return fit_bundle_detector(films, beside, final, DetectorSettings(TRAINING_SPEC), foreign=foreign)


@pytest.fixture(scope="module")
def detector(films: PixelArray, foreign: dict[str, PixelArray]) -> Detector:
    return fitted(films, foreign)


def test_films_of_patients_that_no_network_saw_are_accepted(detector: Detector) -> None:
    measured = detector.spec.rates["out_of_fold"]
    assert measured["networks"] == "fold-0, fold-1"
    assert measured["films"]["count"] == FILMS
    assert measured["films"]["share_accepted"] >= 0.99
    assert measured["films_varied"]["count"] == FILMS


def test_every_kind_that_was_made_to_be_refused_is_counted_and_mishaps_are_refused(detector: Detector) -> None:
    made = detector.spec.rates["out_of_fold"]["made"]
    assert set(made) == set(synthetic_negatives.KINDS)
    assert all(row["share_refused"] >= 0.95 for kind, row in made.items() if kind in synthetic_negatives.MISHAPS)


def test_a_film_turned_or_exchanged_is_named_so(detector: Detector) -> None:
    made = detector.spec.rates["out_of_fold"]["made"]
    assert made["inverted"]["inverted"] >= 0.8 * made["inverted"]["count"]
    for kind in ("turned_left", "turned_right", "upside_down"):
        assert made[kind]["orientation"] >= 0.8 * made[kind]["count"]


def test_what_it_never_saw_is_refused_as_no_chest(detector: Detector) -> None:
    row = detector.spec.rates["never_fitted_to"]["checkers"]
    assert row == {"count": FOREIGN, "refused": FOREIGN, "share_refused": 1.0, "not_chest": FOREIGN}


def test_the_rates_are_those_of_the_detector_itself(films: PixelArray, detector: Detector) -> None:
    embed = network(9)
    assert detector.check_scope(checkers(99), embed(checkers(99)[np.newaxis])[0]) is not None
    accepted = [detector.check_scope(film, embed(film[np.newaxis])[0]) is None for film in films]
    assert np.mean(accepted) >= 0.95


def test_foreign_pictures_move_no_threshold(films: PixelArray, detector: Detector) -> None:
    other = fitted(films, {"films_themselves": films})
    assert (other.spec.score_max, other.spec.turned_max) == (detector.spec.score_max, detector.spec.turned_max)
    assert other.to_npz() == detector.to_npz()


def test_a_run_of_one_fold_ships_that_fold_and_its_detector(films: PixelArray) -> None:
    from preread_training.detector.detector import DetectorSettings, fit_detector

    alone = fitted(films, {}, folds=1)
    expected = fit_detector(films[np.arange(FILMS) % 2 != 0], network(0), DetectorSettings(TRAINING_SPEC))
    assert np.array_equal(alone.weights, expected.weights)
    assert alone.spec.rates["out_of_fold"]["films"]["count"] == FILMS // 2
    assert alone.spec.rates["never_fitted_to"] == {}


@pytest.mark.parametrize("kind", synthetic_negatives.KINDS)
def test_a_decoy_is_a_picture_of_the_size_of_a_film_and_another_than_it(films: PixelArray, kind: str) -> None:
    made = synthetic_negatives.make_synthetic_negatives(kind, films[:3], TRAINING_SPEC, seed=4)
    assert made.shape == films[:3].shape
    assert made.dtype == np.uint8
    assert (made != films[:3]).any(axis=(1, 2)).all()
    assert np.array_equal(made, synthetic_negatives.make_synthetic_negatives(kind, films[:3], TRAINING_SPEC, seed=4))


def test_packages_bring_slices_and_photographs() -> None:
    found = load_package_images(TRAINING_SPEC)
    assert {"ct", "mr", "photograph"} <= set(found)
    assert all(pictures.dtype == np.uint8 and pictures.shape[1:] == (224, 224) for pictures in found.values())


def test_views_begin_with_the_whole_picture(films: PixelArray) -> None:
    shown = crop_views(films[0], TRAINING_SPEC, seed=1, count=4)
    assert np.array_equal(shown[0], films[0])
    assert len({view.tobytes() for view in shown}) == 4


def test_a_folder_gives_a_kind_for_each_folder_in_it(tmp_path: Any, films: PixelArray) -> None:
    (tmp_path / "knee").mkdir()
    (tmp_path / "knee" / "1.jpg").write_bytes(to_jpeg(films[0], 100))
    assert {kind: pictures.shape for kind, pictures in load_folder_images(tmp_path).items()} == {"knee": (1, 224, 224)}
    (tmp_path / "knee" / "2.jpg").write_text("no picture")
    with pytest.raises(UsageError, match=r"2\.jpg is unreadable"):
        load_folder_images(tmp_path)
    with pytest.raises(UsageError, match="no folder with images"):
        load_folder_images(tmp_path / "knee")
