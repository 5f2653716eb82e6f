"""The detector's arithmetic, on pictures and numbers that are made here."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.errors import BundleDamaged
from preread.core.types import PixelArray, RefusalCode
from preread.model import out_of_scope
from preread.model.out_of_scope import (
    CELLS,
    DIRECTIONS,
    EDGES,
    Detector,
    Pose,
    ScopeSpec,
    Subspace,
    compute_edge_features,
)

FEATURES = 12
SPEC = ScopeSpec(score_max=0.5, turned_max=1.5, turned_gain=0.1, reason="for tests", rates={})


def arrow(seed: int, side: int = 224) -> PixelArray:
    """A bright wedge on dark that points up: each turn and each exchange of black and white looks different."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    inside = (np.abs(x - rng.uniform(0.47, 0.53)) < 0.5 * (y - rng.uniform(0.08, 0.15))) & (y < rng.uniform(0.7, 0.75))
    return np.asarray(inside * rng.uniform(120, 200) + 20 + rng.uniform(0, 5, x.shape), dtype=np.uint8)


def components(features: Any, count: int) -> Subspace:
    mean = features.mean(axis=0)
    _, lengths, axes = np.linalg.svd(features - mean, full_matrices=False)
    spread = (lengths / np.sqrt(len(features) - 1)).astype(np.float32)
    return Subspace(mean, axes[:count], spread[:count], float((spread[count:] ** 2).sum()))


@pytest.fixture(scope="module")
def detector() -> Detector:
    rng = np.random.default_rng(0)
    seen = np.stack([compute_edge_features(arrow(seed)) for seed in range(30)])
    learned = rng.normal(size=(30, FEATURES)).astype(np.float32)
    weights = rng.normal(size=3 + 2 + 4 + 2).astype(np.float32)
    return Detector(components(seen, 3), components(learned, 4), weights, -0.25, SPEC)


def directions(found: Any) -> Any:
    return found.reshape(DIRECTIONS, CELLS, CELLS)


def test_edges_have_a_value_for_each_direction_of_each_cell() -> None:
    found = compute_edge_features(arrow(0))
    assert found.shape == (EDGES,)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1


def test_exchanging_black_and_white_turns_every_direction_round() -> None:
    film = arrow(1)
    assert np.allclose(
        directions(compute_edge_features(255 - film)),
        np.roll(directions(compute_edge_features(film)), DIRECTIONS // 2, axis=0),
        atol=1e-5,
    )


def test_turning_a_picture_turns_cells_and_directions() -> None:
    film = arrow(2)
    turned = np.rot90(directions(compute_edge_features(film)), axes=(1, 2))
    assert np.allclose(
        directions(compute_edge_features(np.rot90(film))), np.roll(turned, -DIRECTIONS // 4, axis=0), atol=1e-5
    )


def test_brightness_does_not_matter_and_contrast_hardly() -> None:
    film = arrow(3)
    assert np.allclose(compute_edge_features(film), compute_edge_features(film + 30), atol=1e-5)
    flat = (film // 2 + 60).astype(np.uint8)
    changed = np.abs(compute_edge_features(film) - compute_edge_features(flat)).mean()
    assert changed < 0.25 * np.abs(compute_edge_features(film) - compute_edge_features(255 - film)).mean()


def test_a_picture_without_edges_has_none() -> None:
    assert not compute_edge_features(np.full((224, 224), 77, np.uint8)).any()


@pytest.mark.parametrize("shape", [(224, 224), (192, 256), (61, 59), (40, 300)])
def test_edges_are_found_in_a_picture_of_any_size(shape: tuple[int, int]) -> None:
    y, _ = np.mgrid[0 : shape[0], 0 : shape[1]] / np.array([[[shape[0]]], [[shape[1]]]])
    found = directions(compute_edge_features((y * 200).astype(np.uint8)))
    assert found.argmax(axis=0).ravel().tolist() == [DIRECTIONS // 4] * (CELLS * CELLS)  # downwards, everywhere


def test_a_point_is_placed_in_standard_deviations_clipped_at_six() -> None:
    space = Subspace(
        np.array([1, 0, 0], np.float32), np.eye(2, 3, dtype=np.float32), np.array([2, 1], np.float32), rest=4.0
    )
    placed = space.project_features(np.array([[3, 0, 2], [101, 0, 0]], np.float32))
    assert placed[0] == pytest.approx([1 / 3, 0, np.log(0.5), np.log(1.0)], abs=1e-5)
    assert placed[1, :3] == pytest.approx([2, 0, np.log(1250.0)], abs=1e-5)
    assert space.compute_distance(np.array([3, 0, 2], np.float32)) == pytest.approx(np.log(1.5), abs=1e-5)


@given(st.lists(st.floats(-50, 50, width=32), min_size=FEATURES, max_size=FEATURES), st.integers(0, 5))
def test_a_picture_is_refused_if_and_only_if_its_score_is_above_the_threshold(
    detector: Detector, embedding: list[float], seed: int
) -> None:
    picture, learned = arrow(seed), np.array(embedding, np.float32)
    score = float(detector.compute_score(compute_edge_features(picture), learned))
    assert (detector.check_scope(picture, learned) is not None) == (score > SPEC.score_max)
    at_the_threshold = replace(detector, spec=replace(SPEC, score_max=score))
    assert at_the_threshold.check_scope(picture, learned) is None


def test_many_pictures_score_as_each_alone(detector: Detector) -> None:
    seen = np.stack([compute_edge_features(arrow(seed)) for seed in range(4)])
    learned = np.random.default_rng(3).normal(size=(4, FEATURES)).astype(np.float32)
    alone = [float(detector.compute_score(*pair)) for pair in zip(seen, learned, strict=True)]
    assert detector.compute_score(seen, learned) == pytest.approx(alone, abs=1e-4)


def test_an_embedding_that_is_no_number_is_refused(detector: Detector) -> None:
    assert detector.check_scope(arrow(0), np.full(FEATURES, np.nan, np.float32)) is not None


@pytest.mark.parametrize(
    "turns, exchanged, code, words",
    [
        (0, True, RefusalCode.INVERTED, "black and white of the image seem to be exchanged"),
        (1, False, RefusalCode.ORIENTATION, "top points to the left"),
        (2, False, RefusalCode.ORIENTATION, "is upside down"),
        (3, False, RefusalCode.ORIENTATION, "top points to the right"),
        (2, True, RefusalCode.INVERTED, "exchanged, and it is upside down"),
    ],
)
def test_what_is_wrong_with_a_film_is_named(
    detector: Detector, turns: int, exchanged: bool, code: RefusalCode, words: str
) -> None:
    film = np.rot90(arrow(77), turns)  # counter-clockwise: after one turn the top points to the left
    pose = detector.find_nearest_pose(255 - film if exchanged else film)
    assert pose.distance < SPEC.turned_max
    assert pose.gain > SPEC.turned_gain
    found, reason = detector.explain_refusal(pose)
    assert found is code
    assert words in reason


def test_what_looks_like_no_chest_in_any_pose_is_called_so(detector: Detector) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (224, 224)).astype(np.uint8)
    assert detector.explain_refusal(detector.find_nearest_pose(noise))[0] is RefusalCode.NOT_CHEST


@pytest.mark.parametrize(
    "pose", [Pose(True, 1, float("nan"), 1.0), Pose(True, 1, 0.0, float("nan")), Pose(True, 1, 0.0, 0.05)]
)
def test_what_looks_no_more_like_a_chest_turned_than_as_it_is_is_not_called_turned(
    detector: Detector, pose: Pose
) -> None:
    assert detector.explain_refusal(pose)[0] is RefusalCode.NOT_CHEST


def test_a_detector_comes_back_from_its_file_as_it_was(detector: Detector) -> None:
    again = Detector.from_npz(detector.to_npz(), SPEC)
    learned = np.random.default_rng(2).normal(size=FEATURES).astype(np.float32)
    for seed in range(3):
        found = compute_edge_features(arrow(seed))
        assert again.compute_score(found, learned) == pytest.approx(
            float(detector.compute_score(found, learned)), abs=1e-5
        )
        assert again.find_nearest_pose(arrow(seed)) == detector.find_nearest_pose(arrow(seed))


def changed(detector: Detector, name: str, value: Any) -> bytes:
    with np.load(BytesIO(detector.to_npz())) as file:
        arrays = {key: file[key] for key in file.files}
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value(arrays[name])
    stream = BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    "value",
    [None, lambda a: a[..., :-1], lambda a: a.astype(np.float64), lambda a: a * np.nan],
    ids=["absent", "cut", "float64", "nan"],
)
@pytest.mark.parametrize("name", ["edges_mean", "edges_axes", "embedding_scales", "weights"])
def test_a_damaged_field_is_named(detector: Detector, name: str, value: Any) -> None:
    with pytest.raises(BundleDamaged, match=name):
        Detector.from_npz(changed(detector, name, value), SPEC)


@pytest.mark.parametrize("name", ["edges_scales", "embedding_scales", "edges_rest", "embedding_rest"])
def test_a_spread_of_nothing_is_named(detector: Detector, name: str) -> None:
    with pytest.raises(BundleDamaged, match=f"{name} is .*above 0"):
        Detector.from_npz(changed(detector, name, lambda found: found * 0), SPEC)


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 cut off"], ids=["empty", "text", "cut"])
def test_what_is_no_detector_file_is_named(data: bytes) -> None:
    with pytest.raises(BundleDamaged, match=r"detector\.npz cannot be read"):
        Detector.from_npz(data, SPEC)


def test_a_threshold_is_a_finite_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        ScopeSpec(score_max=float("nan"), turned_max=0.0, turned_gain=0.1, reason="", rates={})


def test_an_image_is_typical_up_to_the_score_of_the_manifest(detector: Detector) -> None:
    embedding = np.zeros(FEATURES, np.float32)
    score = float(detector.compute_score(compute_edge_features(arrow(3)), embedding))
    for typical_max, typical in ((None, False), (score - 0.01, False), (score + 0.01, True)):
        spec = replace(SPEC, typical_max=typical_max)
        assert replace(detector, spec=spec).is_typical(arrow(3), embedding) is typical


def test_a_manifest_states_a_finite_score_of_typical_images() -> None:
    with pytest.raises(ValueError, match="typical_max"):
        replace(SPEC, typical_max=float("nan"))


def test_a_published_bundle_without_that_score_has_it_here(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    data = detector.to_npz()
    assert Detector.from_npz(data, SPEC).spec.typical_max is None
    monkeypatch.setitem(out_of_scope._TYPICAL_MAX, hashlib.sha256(data).hexdigest(), -1.5)
    assert Detector.from_npz(data, SPEC).spec.typical_max == -1.5
    assert Detector.from_npz(data, replace(SPEC, typical_max=-2.0)).spec.typical_max == -2.0
