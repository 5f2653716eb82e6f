"""What a picture is like, in figures that mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.types import Stage
from preread.imaging.statistics import measure_image


def test_a_picture_of_one_grey_has_neither_contrast_nor_edges() -> None:
    found = measure_image(np.full((224, 224), 40, np.uint8))
    assert (found.mean, found.contrast, found.sharpness, found.border) == (40, 0, 0, 40)


def test_a_dark_frame_shows_at_the_border_alone() -> None:
    picture = np.zeros((224, 224), np.uint8)
    picture[28:-28, 28:-28] = 200
    found = measure_image(picture)
    assert found.border == 0
    assert found.mean == pytest.approx(200 * 0.75**2)


def test_neighbours_that_differ_make_it_sharp() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (16, 8))
    assert measure_image(stripes).sharpness == pytest.approx(255 / 2)  # across all differ, down none


@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_more_light_moves_mean_and_border_and_nothing_else(seed: int, light: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 190, (64, 48), dtype=np.uint8)
    before, after = measure_image(picture), measure_image(picture + np.uint8(light))
    assert after.mean - before.mean == pytest.approx(light)
    assert after.border - before.border == pytest.approx(light)
    assert after.contrast == pytest.approx(before.contrast)
    assert after.sharpness == pytest.approx(before.sharpness)


def test_stages_are_words_of_a_metric() -> None:
    assert all(stage.isalpha() and stage.islower() for stage in Stage)
