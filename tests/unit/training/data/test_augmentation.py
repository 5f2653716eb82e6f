"""Augmentation: what is exchanged between films tells nothing of the label any more, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from preread_training.analysis.transforms import blur_images
from preread_training.stats.baselines import measure_sharpness
from preread_training.stats.metrics import auc

if TYPE_CHECKING:
    from preread_training.data.augmentation import Augmentation

pytestmark = pytest.mark.usefixtures("deterministic_tensorflow")

SIDE = 112


def _films() -> tuple[np.ndarray, np.ndarray]:
    """Uint8 [64, SIDE, SIDE] of like structures, every other one softened."""
    generator = np.random.default_rng(0)
    grain = generator.normal(0, 25, (64, SIDE, SIDE)) * generator.uniform(0.7, 1.3, (64, 1, 1))
    films = np.clip(128 + grain, 0, 255).astype(np.uint8)
    soft = np.arange(64) % 2
    films[soft == 1] = blur_images(films[soft == 1], 0.8)
    order = generator.permutation(64)
    return films[order], soft[order]


def _still() -> Augmentation:
    """Return an augmentation that changes nothing."""
    from preread_training.data.augmentation import Augmentation

    return Augmentation(0.999999, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def _usual() -> Augmentation:
    from preread_training.data.augmentation import Augmentation

    return Augmentation()


def _augmented(how: Augmentation, films: np.ndarray, key: tuple[int, int] = (3, 5)) -> np.ndarray:
    """Return float32 [N, SIDE, SIDE] of uint8 [N, SIDE, SIDE]; the same for the same key."""
    import tensorflow as tf

    from preread_training.data.augmentation import augment_images

    return np.asarray(augment_images(how, tf.constant(films), SIDE, tf.constant(key, tf.int64)))[..., 0]


def test_exchanged_detail_tells_nothing_of_the_label() -> None:
    films, soft = _films()
    kept = _augmented(_still(), films)
    exchanged = _augmented(replace(_still(), detail=1.0), films)
    for step in range(3):
        assert auc(-measure_sharpness(kept.astype(np.uint8))[:, step], soft) > 0.95
        assert 0.2 < auc(-measure_sharpness(exchanged.astype(np.uint8))[:, step], soft) < 0.8
    assert np.abs(exchanged.mean(axis=(1, 2)) - kept.mean(axis=(1, 2))).max() < 2  # only detail changes


def test_without_any_range_a_film_stays_as_it_is() -> None:
    films, _ = _films()
    assert np.abs(_augmented(_still(), films)[:, 2:-2, 2:-2] - films[:, 2:-2, 2:-2]).max() < 1


def test_the_same_key_gives_the_same_pictures_and_another_key_others() -> None:
    films, _ = _films()
    first = _augmented(_usual(), films)
    assert np.array_equal(first, _augmented(_usual(), films))
    other = _augmented(_usual(), films, key=(3, 6))
    assert np.abs(first - other).mean() > 1
    assert first.min() >= 0
    assert first.max() <= 255


def test_sharpness_is_low_in_a_softened_film() -> None:
    films, soft = _films()
    measured = measure_sharpness(films)
    assert (measured[soft == 1].mean(axis=0) < measured[soft == 0].mean(axis=0)).all()
    assert np.allclose(measure_sharpness(np.full((1, 56, 56), 7, np.uint8)), np.log(0.1))
