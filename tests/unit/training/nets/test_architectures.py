"""The network, and the ImageNet weights that it starts from."""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest

from preread_training.nets.pretrained import read_imagenet_weights, read_state_dict

if TYPE_CHECKING:
    import keras


pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("deterministic_tensorflow"),
]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    from preread_training.nets.architectures import build_efficientnet_lite0, load_imagenet_weights

    model = build_efficientnet_lite0()
    load_imagenet_weights(model, read_imagenet_weights())
    generator = np.random.default_rng(0)
    model.get_layer("logit").set_weights([generator.normal(0, 0.05, (1280, 1)), np.array([0.3])])
    return model


@pytest.mark.parametrize("size", [160, 224])
def test_the_logit_is_the_mean_of_the_activation_map_plus_the_bias(model: keras.Model, size: int) -> None:
    films = np.random.default_rng(1).normal(size=(2, size, size, 1)).astype(np.float32)
    output = {name: np.asarray(value) for name, value in model(films, training=False).items()}
    assert output["activation_map"].shape == (2, size // 32, size // 32, 1)
    assert output["embedding"].shape == (2, 1280)
    assert output["activation_map"].mean(axis=(1, 2)) + 0.3 == pytest.approx(output["logit"], abs=1e-4)


def test_folded_batch_normalisation_equals_the_plain_one() -> None:
    """The stem as published: convolution over three equal channels, then batch normalisation, then ReLU6."""
    import keras

    from preread_training.nets.architectures import build_efficientnet_lite0, load_imagenet_weights

    state = read_imagenet_weights()
    model = build_efficientnet_lite0()
    load_imagenet_weights(model, state)
    film = np.random.default_rng(2).normal(size=(1, 32, 32, 1)).astype(np.float32)
    plain = keras.layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False)
    three = np.repeat(film, 3, axis=3)
    plain.build(three.shape)
    plain.set_weights([np.transpose(state["_conv_stem.weight"], (2, 3, 1, 0))])
    norm = keras.layers.BatchNormalization(epsilon=1e-3)
    norm.build((None, 16, 16, 32))
    norm.set_weights([state[f"_bn0.{part}"] for part in ("weight", "bias", "running_mean", "running_var")])
    expected = np.asarray(norm(plain(three), training=False))
    assert np.asarray(model.get_layer("stem")(film)) == pytest.approx(expected, abs=1e-4)


def test_every_weight_but_the_head_comes_from_imagenet(model: keras.Model) -> None:
    from preread_training.nets.architectures import build_efficientnet_lite0

    fresh = build_efficientnet_lite0()
    same = [
        layer.name
        for layer, other in zip(model.layers, fresh.layers, strict=True)
        if layer.weights and np.array_equal(layer.get_weights()[0], other.get_weights()[0])
    ]
    assert same == []


def test_the_weights_file_may_not_name_other_classes() -> None:
    hostile = io.BytesIO(pickle.dumps(print))
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        read_state_dict(hostile)


def test_another_pickle_is_no_weights_file() -> None:
    with pytest.raises(pickle.UnpicklingError, match="legacy"):
        read_state_dict(io.BytesIO(pickle.dumps(1)))
