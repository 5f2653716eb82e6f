"""The reference systems: their table, notation, augmentation, and the loop that fits them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from preread.core.errors import UsageError
from preread.core.types import PixelArray
from preread.imaging.preprocessing import TRAINING_SPEC, resize_to_input
from preread_training.fit.session import Session
from preread_training.reference.systems import REFERENCES, GeneratorAugmentation, Reference
from tests.support.training_images import brightened_chest

if TYPE_CHECKING:
    import keras

pytestmark = pytest.mark.usefixtures("deterministic_tensorflow")


FILMS = 12
LABELS = np.array([0, 1] * (FILMS // 2))
PATIENTS = np.array([f"patient {film // 4 * 2 + film % 2}" for film in range(FILMS)])  # two films each
PUBLISHED = {
    **dict.fromkeys(("A1",), 6_000_101),
    **dict.fromkeys(("A2", "A3", "A4"), 6_003_141),
    **dict.fromkeys(("A5", "A6", "A7", "A7w"), 445_537),
    "E1": 131_089,
    **dict.fromkeys(("E2", "E3", "E4", "E5"), 12_938_753),
    "E6": 838_177,  # none is published: from its layers
    **dict.fromkeys(("L1", "L2"), 701_825),
    **dict.fromkeys(("L3", "L4", "L5", "L5e"), 3_453_121),
    **dict.fromkeys(("K1", "K2"), 1_187_073),
    "K3": 24_293_185,
}


@pytest.fixture(scope="module")
def pictures() -> PixelArray:
    """Drawn films, those with the finding brighter."""
    return np.stack(
        [resize_to_input(TRAINING_SPEC, brightened_chest(seed, 60 * int(LABELS[seed]))) for seed in range(FILMS)]
    )


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: Any) -> None:
        raise Exception("URL fetch failure")  # noqa: TRY002 - as Keras does

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", refuse)
    monkeypatch.setenv("KERAS_HOME", "/nonexistent")


def small(name: str, **changes: Any) -> Reference:
    """A system cut down to what a test can wait for: small pictures, two films a step, two epochs."""
    recipe = REFERENCES[name]
    candidates = tuple((layers, 1) for layers, _ in recipe.candidates[:1])
    side_px = 32 if "VGG19" in recipe.layers else 64
    return replace(recipe, **{"side_px": side_px, "batch": 2, "epochs": 2, "candidates": candidates, **changes})


# --------------------------------------------------------------------------- the table


def test_every_row_of_the_table_is_there() -> None:
    assert set(REFERENCES) == set(PUBLISHED)
    assert {name for name, recipe in REFERENCES.items() if recipe.void} == {"A2", "E4", "E6", "L1", "L2", "L4"}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_system_has_as_many_parameters_as_its_table_says(name: str) -> None:
    from preread_training.reference.notation import build_reference_network

    recipe = REFERENCES[name]
    assert recipe.parameters == PUBLISHED[name]
    assert build_reference_network(recipe.layers, recipe.side_px, recipe.channels).count_params() == recipe.parameters


def test_every_candidate_of_the_grid_is_a_network_of_its_own() -> None:
    from preread_training.reference.notation import parse_layers

    recipe = REFERENCES["E4"]
    assert len(set(recipe.candidates)) == 12
    assert {epochs for _, epochs in recipe.candidates} == {10, 7}
    read = [parse_layers(layers) for layers, _ in recipe.candidates]
    assert {layer.activation for layers in read for layer in layers if layer.kind == "convolution"} == {
        "relu",
        "tanh",
        "sigmoid",
    }
    assert {layer.kind for layers in read for layer in layers} == {"convolution", "P", "A", "F", "dense"}


def test_layers_are_read_from_their_line() -> None:
    from preread_training.reference.notation import Layer, parse_layers

    assert parse_layers("C32-3 P C64-5t= A F D64g Dr.4 VGG19") == [
        Layer("convolution", 32, 3, "relu"),
        Layer("P"),
        Layer("convolution", 64, 5, "tanh", "same"),
        Layer("A"),
        Layer("F"),
        Layer("dense", 64, activation="sigmoid"),
        Layer("dropout", share=0.4),
        Layer("VGG19"),
    ]


@pytest.mark.parametrize("token", ["C32", "C0-3", "D", "Dr4", "C32-3x", "Q", "VGG16"])
def test_a_token_that_is_no_layer_is_named(token: str) -> None:
    from preread_training.reference.notation import parse_layers

    with pytest.raises(UsageError, match=f"'{token}' is no layer"):
        parse_layers(f"C32-3 {token} F")


# --------------------------------------------------------------------------- pixels and draws


def test_nearest_takes_pixels_and_makes_none() -> None:
    from preread_training.reference.fit import resize_nearest

    picture = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    assert resize_nearest(picture, 2).tolist() == [[[5, 7], [13, 15]]]
    assert np.array_equal(resize_nearest(picture, 4), picture)
    assert resize_nearest(picture, 8)[0, ::2, ::2].tolist() == picture[0].tolist()


def _shifted(how: GeneratorAugmentation, film: np.ndarray, step: int = 0, count: int = 16) -> np.ndarray:
    import tensorflow as tf

    from preread_training.reference.generator import augment_like_generator

    films = np.repeat(film[np.newaxis, :, :, np.newaxis], count, axis=0).astype(np.float32)
    return np.asarray(augment_like_generator(how, tf.constant(films), tf.constant([0, step], tf.int64)))[..., 0]


def test_without_ranges_a_film_stays_as_it_is() -> None:
    film = np.random.default_rng(0).integers(0, 256, (16, 16))
    assert _shifted(GeneratorAugmentation(), film)[0] == pytest.approx(film, abs=1e-3)


def test_brightness_multiplies_and_comes_after_the_shift_of_grey_levels() -> None:
    film = np.array([[0.0, 100.0], [100.0, 200.0]])
    varied = _shifted(GeneratorAugmentation(channel_shift=150, brightness=(0.5, 0.5)), film, count=64)
    assert varied.min() == 0.0
    assert varied.max() == 100.0  # clipped at the film's own 200, then halved; the other way round it would exceed
    assert (varied[:, 0, 0] <= varied[:, 0, 1]).all()
    assert len(np.unique(varied[:, 0, 1])) > 10


def test_a_shift_moves_rows_down_and_columns_across_by_no_more_than_its_share() -> None:
    film = np.zeros((20, 20))
    film[10, 10] = 100.0
    for how, moved, still in ((GeneratorAugmentation(height=0.2), 0, 1), (GeneratorAugmentation(width=0.2), 1, 0)):
        at = np.array([np.argwhere(one == one.max())[0] for one in _shifted(how, film)])
        assert set(at[:, still]) == {10}
        assert 1 < np.abs(at[:, moved] - 10).max() <= 4


def test_the_affine_map_is_rotation_shift_shear_and_zoom_about_the_centre() -> None:
    import tensorflow as tf

    from preread_training.reference import generator

    how, side = GeneratorAugmentation(rotation_degrees=20, width=0.1, height=0.2, shear_degrees=7, zoom=0.4), 20
    largest = generator._maps(how, lambda low, high: tf.constant([high], tf.float32), float(side))
    across, down = np.asarray(largest)[0, :3], np.asarray(largest)[0, 3:6]
    turn, slant, centre = np.radians(20), np.radians(7), np.array([side / 2 - 0.5] * 2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shear_and_zoom = np.array([[1, -np.sin(slant)], [0, np.cos(slant)]]) @ np.diag([1.4, 1.4])
    for row, column in ((0, 0), (3, 17), (19, 5)):
        at = rotation @ (shear_and_zoom @ (np.array([row, column]) - centre) + [0.2 * side, 0.1 * side]) + centre
        assert [down @ [column, row, 1], across @ [column, row, 1]] == pytest.approx(at.tolist(), abs=1e-4)


def test_beyond_the_rim_the_nearest_pixel_is_repeated() -> None:
    film = np.full((20, 20), 50.0)
    how = GeneratorAugmentation(rotation_degrees=30, width=0.3, height=0.3, shear_degrees=10, zoom=0.4)
    assert _shifted(how, film) == pytest.approx(50.0, abs=1e-3)


def test_rotation_and_zoom_keep_the_centre_and_half_of_the_films_are_turned_over() -> None:
    film = np.zeros((21, 21))
    film[9:12, 9:12] = 100.0
    assert _shifted(GeneratorAugmentation(rotation_degrees=90, zoom=0.2), film)[:, 10, 10] == pytest.approx(100.0)
    film[2, 10] = 200.0
    turned = (_shifted(GeneratorAugmentation(vertical_flip=True), film, count=64)[:, 18, 10] > 199).mean()
    assert 0.2 < turned < 0.8


def test_the_draws_are_a_function_of_the_step() -> None:
    film, how = np.random.default_rng(0).integers(0, 256, (16, 16)), GeneratorAugmentation(zoom=0.4)
    assert np.array_equal(_shifted(how, film), _shifted(how, film))
    assert not np.array_equal(_shifted(how, film), _shifted(how, film, step=1))


def test_validation_takes_whole_patients_of_both_labels() -> None:
    from preread_training.reference.fit import choose_validation_rows

    kept = choose_validation_rows(LABELS, PATIENTS, 0.3, seed=0)
    assert 0 < kept.sum() < FILMS
    assert set(LABELS[kept]) == {0, 1}
    assert not set(PATIENTS[kept]) & set(PATIENTS[~kept])


def test_each_pass_takes_every_film_once() -> None:
    from preread_training.reference import fit

    recipe, labels = small("E1", batch=5, side_px=1), np.arange(FILMS)
    films = fit._Images(np.zeros((FILMS, 1, 1), np.uint8), labels % 2)
    tagged = fit._Images(np.arange(FILMS, dtype=np.uint8).reshape(-1, 1, 1), labels % 2)
    batches = [np.asarray(x)[:, 0, 0, 0] * 255 for x, _, _ in fit._batches(recipe, tagged, 0, range(6))]
    assert [len(batch) for batch in batches] == [5, 5, 2, 5, 5, 2]
    passes = [np.concatenate(batches[:3]).round().astype(int), np.concatenate(batches[3:]).round().astype(int)]
    assert [sorted(order.tolist()) for order in passes] == [list(range(FILMS))] * 2
    assert passes[0].tolist() != passes[1].tolist()
    again = [np.asarray(y) for _, y, _ in fit._batches(recipe, films, 0, range(4, 6))]
    whole = [np.asarray(y) for _, y, _ in fit._batches(recipe, films, 0, range(6))]
    assert all(np.array_equal(a, b) for a, b in zip(again, whole[4:], strict=True))


def test_films_without_the_finding_weigh_what_the_system_says() -> None:
    from preread_training.reference import fit

    films = fit._Images(np.zeros((FILMS, 1, 1), np.uint8), LABELS)
    ((_, label, weight),) = fit._batches(small("A7w", batch=FILMS, side_px=1), films, 0, range(1))
    assert np.asarray(weight).tolist() == pytest.approx(np.where(np.asarray(label)[:, 0] == 1, 0.673, 1.945).tolist())


# --------------------------------------------------------------------------- fitting


def _fit(
    recipe: Reference, pictures: PixelArray, folder: Path, *, vgg19_weights: Path | None = None, **options: Any
) -> keras.Model:
    from preread_training.reference.fit import fit_reference_system

    return fit_reference_system(
        recipe, pictures, LABELS, PATIENTS, Session(folder, **{"steps_per_epoch": 1, **options}), vgg19_weights
    )


def _record(folder: Path) -> dict[str, Any]:
    from preread_training.fit.callbacks import FIT_FILE

    record: dict[str, Any] = json.loads((folder / FIT_FILE).read_text())
    return record


@pytest.mark.parametrize("name", REFERENCES)
def test_every_system_can_be_fitted(name: str, pictures: PixelArray, tmp_path: Path) -> None:
    from preread_training.reference.fit import compute_reference_logits

    recipe = small(name, epochs=1)
    model = _fit(recipe, pictures, tmp_path)
    assert np.isfinite(compute_reference_logits(model, recipe, pictures)).all()
    record = _record(tmp_path)
    assert (record["epochs"], record["epochs_meant"], record["ended"]) == (1, 1, "done")
    assert record.get("imagenet") == (False if name == "K3" else None)


def test_a_system_learns_what_can_be_learnt(pictures: PixelArray, tmp_path: Path) -> None:
    from preread_training.reference.fit import compute_reference_logits

    recipe = small("L3", epochs=12, batch=6, layers="C8-3 P F D16", learning_rate=1e-3)
    logits = compute_reference_logits(_fit(recipe, pictures, tmp_path, steps_per_epoch=2), recipe, pictures)
    assert logits[LABELS == 1].min() > logits[LABELS == 0].max()


@pytest.mark.parametrize("name", ["A6", "K2"])
def test_an_interrupted_fit_goes_on_to_the_same_weights(name: str, pictures: PixelArray, tmp_path: Path) -> None:
    recipe = small(name, epochs=3, layers="C4-3 P Dr.4 F D8 Dr.2")

    def weights(folder: str, say: Callable[[str], None] = lambda _: None) -> list[bytes]:
        return [value.tobytes() for value in _fit(recipe, pictures, tmp_path / folder, log=say).get_weights()]

    def interrupt(text: str) -> None:
        if text.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights("broken off", interrupt)
    told: list[str] = []
    resumed = weights("broken off", told.append)
    assert [text.split()[1] for text in told] == ["2", "3"]
    assert resumed == weights("whole")
    assert resumed == weights("whole")  # which is read, not fitted again


def test_the_best_epoch_counts_and_the_fit_ends_when_none_is_better(
    pictures: PixelArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preread_training.reference import fit
    from preread_training.reference.fit import choose_validation_rows

    recipe = small("K1", epochs=9, patience=2, validation=0.3, layers="F D4")
    kept: list[list[bytes]] = []
    losses = iter([0.5, 0.3, 0.4, 0.35])

    def losing(model: keras.Model, *_: object) -> np.ndarray:
        kept.append([value.tobytes() for value in model.get_weights()])
        loss = next(losses)  # a logit that gives this loss whatever the label
        labels = LABELS[choose_validation_rows(LABELS, PATIENTS, 0.3, 0)]
        return np.asarray(np.where(labels == 1, -1, 1) * np.log(np.expm1(loss)))

    monkeypatch.setattr(fit, "compute_reference_logits", losing)
    model = _fit(recipe, pictures, tmp_path)
    record = _record(tmp_path)
    assert (record["epochs"], record["ended"], record["best_epoch"]) == (4, "early", 2)
    assert [value.tobytes() for value in model.get_weights()] == kept[1]
    assert kept[1] != kept[3]


def test_without_best_the_last_weights_count(pictures: PixelArray, tmp_path: Path) -> None:
    _fit(small("L5e", epochs=2, layers="F D4"), pictures, tmp_path)
    assert "best_epoch" not in _record(tmp_path)
    assert not (tmp_path / "best.weights.h5").exists()


def test_when_its_minutes_are_over_a_fit_ends_between_steps_and_says_how_far_it_came(
    pictures: PixelArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr("preread_training.fit.callbacks.time.monotonic", lambda: float(next(ticks)))
    _fit(small("E1", epochs=50), pictures, tmp_path, steps_per_epoch=4, minutes=0.5)
    record = _record(tmp_path)
    assert record["ended"] == "time"
    assert 0 < float(str(record["epochs"])) < 50
    assert (tmp_path / "fitted.weights.h5").exists()


def test_the_grid_search_takes_the_candidate_that_did_best(
    pictures: PixelArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preread_training.reference import fit

    recipe = small("E1", candidates=(("F D8", 1), ("F D8t", 2)), films=FILMS)

    def judged(model: keras.Model, candidate: Reference, films: PixelArray) -> np.ndarray:
        return np.asarray((films.mean(axis=(1, 2)) - 100) * (1 if candidate.layers == "F D8t" else -1))

    monkeypatch.setattr(fit, "compute_reference_logits", judged)
    _fit(recipe, pictures, tmp_path)
    record = _record(tmp_path)
    assert (record["layers"], record["epochs_meant"]) == ("F D8t", 2)
    accuracies = record["cross_validated_accuracies"]
    assert isinstance(accuracies, list)
    assert accuracies[1] > accuracies[0]


# --------------------------------------------------------------------------- VGG19


def test_without_imagenet_weights_it_is_said_and_nothing_is_frozen() -> None:
    from preread_training.reference import fit

    told: list[str] = []
    assert fit._imagenet(small("K3"), None, told.append) is None
    assert "no ImageNet weights" in told[0]
    assert len(fit._compiled(small("K3"), 0).layers[0].trainable_weights) == 32


def test_imagenet_weights_from_a_file_are_taken_and_frozen(pictures: PixelArray, tmp_path: Path) -> None:
    import keras

    body = keras.applications.VGG19(include_top=False, weights=None, input_shape=(32, 32, 3))
    file = tmp_path / "vgg19_notop.h5"
    body.save(file)
    recipe = small("K3", epochs=1)
    model = _fit(recipe, pictures, tmp_path / "run", vgg19_weights=file)
    assert _record(tmp_path / "run")["imagenet"] is True
    fitted = model.layers[0].get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(fitted, body.get_weights(), strict=True))
    assert not model.layers[0].trainable_weights


def test_a_file_without_vgg19_is_named(pictures: PixelArray, tmp_path: Path) -> None:
    file = tmp_path / "other.h5"
    file.write_bytes(b"something else")
    with pytest.raises(UsageError, match=r"other\.h5 holds no weights of VGG19"):
        _fit(small("K3"), pictures, tmp_path / "run", vgg19_weights=file)
