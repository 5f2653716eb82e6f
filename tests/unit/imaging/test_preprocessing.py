"""The one preprocessing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from preread.imaging.preprocessing import (
    TRAINING_SPEC,
    PreprocessingSpec,
    normalise_grey_levels,
    preprocess_image,
    resize_to_input,
)


@given(st.integers(1, 900), st.integers(1, 900), st.integers(0, 2**32 - 1))
def test_shrink_is_pillows_antialiased_bilinear(rows: int, columns: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR))
    assert np.array_equal(resize_to_input(TRAINING_SPEC, pixels), expected)


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8)
    assert np.array_equal(resize_to_input(TRAINING_SPEC, pixels), pixels)


def test_rows_and_columns_are_not_swapped() -> None:
    spec = PreprocessingSpec(2, 4, "bilinear_antialiased", 0.0, 1.0)
    assert resize_to_input(spec, np.zeros((10, 10), np.uint8)).shape == (2, 4)


def test_shrink_takes_a_view_that_is_not_contiguous() -> None:
    pixels = np.arange(600 * 500, dtype=np.uint32).astype(np.uint8).reshape(600, 500)
    flipped = pixels[:, ::-1]
    assert np.array_equal(resize_to_input(TRAINING_SPEC, flipped), resize_to_input(TRAINING_SPEC, flipped.copy()))


def test_grey_levels_become_the_networks_units() -> None:
    units = normalise_grey_levels(TRAINING_SPEC, np.array([0, 127, 255], np.uint8))
    assert units.dtype == np.float32
    assert units.tolist() == [-127 / 128, 0.0, 1.0]


def test_apply_gives_one_picture_with_one_channel() -> None:
    batch = preprocess_image(TRAINING_SPEC, np.full((300, 200), 255, np.uint8))
    assert batch.shape == (1, 224, 224, 1)
    assert batch.dtype == np.float32
    assert np.all(batch == 1.0)


def test_digest_tells_specs_apart() -> None:
    other = PreprocessingSpec(224, 224, "bilinear_antialiased", 127.0, 127.5)
    assert other.digest != TRAINING_SPEC.digest
    assert PreprocessingSpec(224, 224, "bilinear_antialiased", 127.0, 128.0).digest == TRAINING_SPEC.digest


@pytest.mark.parametrize(
    "wrong", [(224, 224, "nearest", 127.0, 128.0), (0, 224, "bilinear_antialiased", 127.0, 128.0),
              (224, 224, "bilinear_antialiased", 127.0, 0.0)],
)  # fmt: skip
def test_spec_that_this_version_cannot_apply_is_refused(wrong: tuple[int, int, str, float, float]) -> None:
    with pytest.raises(ValueError, match=r"resample|rows"):
        PreprocessingSpec(*wrong)
