"""Networks as Keras models with three outputs.

Input float32 [batch, rows, columns, 1].

EfficientNet-Lite0 after Tan and Le 2019 (arXiv 1905.11946) in its Lite form: no squeeze-and-excitation, ReLU6. Batch
normalisation is folded into the convolutions when the ImageNet weights are loaded (see DECISIONS.md): fine-tuning with
frozen statistics gives the same answer in training and serving, and costs less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from preread_training.nets.pretrained import StateDict

# The same seed gives the same weights on the same machine. Deterministic kernels alone do not suffice: with several
# operations at a time, sums come in another order. Both must be set before TensorFlow does any work.
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.experimental.enable_op_determinism()
if keras.backend.backend() != "tensorflow":  # TensorFlow then draws the batches only; a GPU is the other's
    tf.config.set_visible_devices([], "GPU")

_BATCH_NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class _Stage:
    expand: int
    kernel: int
    stride: int
    filters: int
    repeats: int


_LITE0 = (
    _Stage(1, 3, 1, 16, 1),
    _Stage(6, 3, 2, 24, 2),
    _Stage(6, 5, 2, 40, 2),
    _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3),
    _Stage(6, 5, 2, 192, 4),
    _Stage(6, 3, 1, 320, 1),
)


def _relu6(x: Any) -> Any:
    return keras.layers.Activation("relu6")(x)


def build_efficientnet_lite0(*, findings: int = 1, dropout: float = 0.2) -> keras.Model:
    """Build EfficientNet-Lite0 with three outputs.

    Input float32 [batch, rows, columns, 1], rows and columns free; one cell of the activation map is 32 pixels of
    input.

    Args:
        findings: number of findings.
        dropout: share dropped before the head, in [0, 1).

    Returns:
        A network with the outputs ``logit`` [batch, findings]; ``activation_map`` [batch, cells, cells, findings],
        whose mean plus the head's bias is the logit (class activation map, Zhou et al. 2016, exact for global average
        pooling and one dense layer); ``embedding`` [batch, 1280], the pooled features.
    """
    conv = keras.layers.Conv2D
    inputs = keras.Input((None, None, 1), name="radiograph")
    x = _relu6(conv(32, 3, strides=2, padding="same", name="stem")(inputs))
    block = 0
    for stage in _LITE0:
        for repeat in range(stage.repeats):
            name, entry, filters_in = f"block{block}", x, x.shape[-1]
            stride = stage.stride if repeat == 0 else 1
            if stage.expand != 1:
                x = _relu6(conv(filters_in * stage.expand, 1, name=f"{name}_expand")(x))
            depthwise = keras.layers.DepthwiseConv2D(
                stage.kernel, strides=stride, padding="same", name=f"{name}_depthwise"
            )
            x = conv(stage.filters, 1, name=f"{name}_project")(_relu6(depthwise(x)))
            if stride == 1 and filters_in == stage.filters:
                x = keras.layers.Add(name=f"{name}_add")([x, entry])
            block += 1
    features = _relu6(conv(1280, 1, name="top")(x))
    embedding = keras.layers.GlobalAveragePooling2D(name="embedding")(features)
    head = keras.layers.Dense(findings, name="logit", kernel_initializer="zeros")
    logit = head(keras.layers.Dropout(dropout, name="dropout")(embedding))
    activation_map = ClassActivationMap(head, name="activation_map")(features)
    return keras.Model(inputs, {"logit": logit, "activation_map": activation_map, "embedding": embedding})


class ClassActivationMap(keras.layers.Layer):  # type: ignore[misc]
    """Weigh the last features by the head's weights.

    Features [batch, cells, cells, features] become maps [batch, cells, cells, findings].
    """

    def __init__(self, head: keras.layers.Dense, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._head = head

    def call(self, features: Any) -> Any:
        """Apply the head to every cell, without its bias."""
        return keras.ops.matmul(features, self._head.kernel)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the maps, one for each finding."""
        return (*shape[:-1], self._head.units)


def load_imagenet_weights(model: keras.Model, state: StateDict) -> None:
    """Load ImageNet weights into everything but the head.

    Batch normalisation is folded in, the first layer summed to grey.

    Args:
        model: from ``build_efficientnet_lite0``.
        state: from ``pretrained.read_imagenet_weights``.
    """

    def fold(layer: str, kernel: str, norm: str, axes: tuple[int, ...], channel_axis: int) -> None:
        weight = np.transpose(state[f"{kernel}.weight"], axes)
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + _BATCH_NORM_EPSILON)
        shape = [1] * weight.ndim
        shape[channel_axis] = -1
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        if layer == "stem":
            weight = weight.sum(axis=2, keepdims=True)
        model.get_layer(layer).set_weights([weight * scale.reshape(shape), bias])

    dense, depthwise = (2, 3, 1, 0), (2, 3, 0, 1)
    fold("stem", "_conv_stem", "_bn0", dense, 3)
    for block in range(sum(stage.repeats for stage in _LITE0)):
        prefix, name = f"_blocks.{block}.", f"block{block}"
        if block:
            fold(f"{name}_expand", f"{prefix}_expand_conv", f"{prefix}_bn0", dense, 3)
        fold(f"{name}_depthwise", f"{prefix}_depthwise_conv", f"{prefix}_bn1", depthwise, 2)
        fold(f"{name}_project", f"{prefix}_project_conv", f"{prefix}_bn2", dense, 3)
    fold("top", "_conv_head", "_bn1", dense, 3)


ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {"efficientnet_lite0": build_efficientnet_lite0}
