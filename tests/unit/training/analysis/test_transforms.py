"""Films changed on purpose: each change does what its name says, and nothing else."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from preread_training.analysis import transforms
from preread_training.analysis.transforms import DISTURBANCES
from preread_training.data.phantoms import draw_chest

PICTURES = np.stack([draw_chest(seed, rows=224, columns=224) for seed in range(3)])


@pytest.mark.parametrize("name", DISTURBANCES)
def test_every_disturbance_changes_films_and_keeps_their_form(name: str) -> None:
    before = PICTURES.copy()
    after = DISTURBANCES[name](PICTURES)
    assert after.shape == PICTURES.shape
    assert after.dtype == np.uint8
    assert (after != PICTURES).any()
    assert (before == PICTURES).all()
    assert (after == DISTURBANCES[name](PICTURES)).all()
    assert (DISTURBANCES[name](PICTURES[1:2]) == after[1:2]).all() or "noise" in name


def test_nothing_asked_for_changes_nothing() -> None:
    assert (transforms.crop_margins(PICTURES) == PICTURES).all()
    assert (transforms.apply_gamma(PICTURES, 1.0) == PICTURES).all()
    assert (transforms.scale_contrast(PICTURES, 1.0) == PICTURES).all()
    assert (transforms.rotate_images(PICTURES, 0.0) == PICTURES).all()
    assert np.abs(transforms.apply_jpeg_loss(PICTURES, 100).astype(int) - PICTURES).max() <= 2


@pytest.mark.parametrize("quality", [90, 50, 10])
def test_jpeg_loses_what_libjpeg_loses(quality: int) -> None:
    for picture, ours in zip(PICTURES, transforms.apply_jpeg_loss(PICTURES, quality), strict=True):
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=quality)
        theirs = np.asarray(Image.open(stream))
        assert np.abs(ours.astype(int) - theirs).mean() < 0.3


def test_a_quarter_turn_is_numpys() -> None:
    turned = transforms.rotate_images(PICTURES, 90.0)
    assert any(np.abs(turned.astype(int) - np.rot90(PICTURES, k, (1, 2))).max() <= 1 for k in (1, 3))


def test_a_crop_squashes_what_is_left() -> None:
    rows = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 100, axis=2)
    cut = transforms.crop_margins(rows, top=0.25)
    assert cut.shape == rows.shape
    assert cut[0, 0, 0] == 50
    assert cut[0, -1, 0] == 199


@pytest.mark.parametrize("top, last", [(0.10, 181), (0.25, 199)])
def test_reframing_leaves_the_height_that_the_aspect_allows(top: float, last: int) -> None:
    """Of a film 1.21 as wide as high, 1.21 / 1.5 of the height make one of 1.5; a deep cut leaves less."""
    rows = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 242, axis=2)
    framed = transforms.reframe_like_pneumonia(rows, top)
    assert framed[0, 0, 0] == pytest.approx(200 * top, abs=1)
    assert framed[0, -1, 0] == pytest.approx(last, abs=1)


def test_blur_keeps_the_mean_and_lowers_the_spread() -> None:
    noisy = np.random.default_rng(0).integers(60, 200, (1, 64, 64), dtype=np.uint8)
    smooth = transforms.blur_images(noisy, 2.0)
    assert smooth.mean() == pytest.approx(noisy.mean(), abs=1.5)
    assert smooth.std() < noisy.std() / 4


def test_hiding_paints_the_region_alone() -> None:
    region = np.zeros((224, 224), bool)
    region[10:20, 30:50] = True
    hidden = transforms.fill_region(PICTURES, region)
    assert (hidden[:, ~region] == PICTURES[:, ~region]).all()
    for picture, painted in zip(PICTURES, hidden, strict=True):
        assert set(painted[region].tolist()) == {round(float(picture.mean()))}
