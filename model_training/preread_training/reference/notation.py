"""Notation of the reference systems' layers in one line.

``C32-3`` is a convolution of 32 filters of 3x3, ``D64`` a dense layer of 64 units, both with ReLU; ``t`` at the end
stands for tanh, ``g`` for sigmoid, ``=`` for padding that keeps the size. ``P`` takes the largest of 2x2, ``A`` their
mean; ``F`` flattens, ``Dr.4`` drops 40 %, ``VGG19`` is that network's convolutions. One unit, the logit, comes last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import keras

from preread.core.errors import UsageError

_Kind = Literal["convolution", "dense", "dropout", "P", "A", "F", "VGG19"]
_WORDS: dict[str, _Kind] = {"P": "P", "A": "A", "F": "F", "VGG19": "VGG19"}
_ACTIVATIONS = {"": "relu", "t": "tanh", "g": "sigmoid"}
_TOKEN = re.compile(
    r"C(?P<filters>[1-9]\d*)-(?P<kernel>[1-9]\d*)(?P<curve>[tg]?)(?P<same>=?)"
    r"|D(?P<units>[1-9]\d*)(?P<bend>[tg]?)|Dr(?P<share>\.\d+)|(?P<word>[PAF]|VGG19)"
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer in the notation of the reference systems.

    Attributes:
        kind: of the layer; single letters as in the notation.
        count: filters or units.
        side: of the kernel.
        activation: name in Keras.
        padding: of a convolution.
        share: dropped, in [0, 1].
    """

    kind: _Kind
    count: int = 0
    side: int = 0
    activation: str = "linear"
    padding: Literal["valid", "same"] = "valid"
    share: float = 0.0


def parse_layers(layers: str) -> list[Layer]:
    """Parse a reference system's line of layers.

    Args:
        layers: tokens separated by blanks, such as ``C32-3 P F D64``.

    Raises:
        UsageError: a token is unknown; it is named.
    """
    read = []
    for token in layers.split():
        found = _TOKEN.fullmatch(token)
        if found is None:
            raise UsageError(f"{layers!r}: {token!r} is no layer: write one such as C32-3, P, F, Dr.4 or D64")
        if found["filters"]:
            padding: Literal["valid", "same"] = "same" if found["same"] else "valid"
            activation = _ACTIVATIONS[found["curve"]]
            read.append(Layer("convolution", int(found["filters"]), int(found["kernel"]), activation, padding))
        elif found["units"]:
            read.append(Layer("dense", int(found["units"]), activation=_ACTIVATIONS[found["bend"]]))
        elif found["share"]:
            read.append(Layer("dropout", share=float(found["share"])))
        else:
            read.append(Layer(_WORDS[found["word"]]))
    return read


def build_reference_network(layers: str, side_px: int, channels: int) -> keras.Model:
    """Build a reference system's network from its line of layers.

    Kernels are Glorot-uniform and biases zero, which is Keras's default.

    Args:
        layers: see ``parse_layers``.
        side_px: side of the input.
        channels: of the input.

    Returns:
        A network of float32 [batch, side_px, side_px, channels] in 0 to 1 with the output logit [batch, 1].

    Raises:
        UsageError: see ``parse_layers``.
    """
    shape = (side_px, side_px, channels)

    def made(layer: Layer) -> keras.layers.Layer:
        match layer.kind:
            case "convolution":
                return keras.layers.Conv2D(layer.count, layer.side, padding=layer.padding, activation=layer.activation)
            case "dense":
                return keras.layers.Dense(layer.count, activation=layer.activation)
            case "dropout":
                return keras.layers.Dropout(layer.share)
            case "P":
                return keras.layers.MaxPooling2D(2)
            case "A":
                return keras.layers.AveragePooling2D(2)
            case "F":
                return keras.layers.Flatten()
            case "VGG19":
                return keras.applications.VGG19(include_top=False, weights=None, input_shape=shape)

    parts = [made(layer) for layer in parse_layers(layers)]
    return keras.Sequential([keras.Input(shape), *parts, keras.layers.Dense(1, name="logit")])
