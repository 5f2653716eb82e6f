"""Fit a network that is built in a moment: ``KERAS_BACKEND=jax python -m tests.programs.fit_small FOLDER OUT.npz``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from preread.imaging.preprocessing import TRAINING_SPEC
from preread_training.fit import trainer
from preread_training.fit.session import Session
from preread_training.nets.architectures import ARCHITECTURES


def small(*, findings: int, dropout: float) -> keras.Model:
    """One convolution; its weights are drawn by numpy, since each backend of Keras draws others."""
    inputs = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(8, 5, strides=4, activation="relu6", name="conv")(inputs)
    embedding = keras.layers.GlobalAveragePooling2D()(x)
    head = keras.layers.Dense(findings, kernel_initializer="zeros")
    logit = head(keras.layers.Dropout(dropout)(embedding))
    model = keras.Model(inputs, {"logit": logit, "activation_map": x, "embedding": embedding})
    model.get_layer("conv").set_weights([np.random.default_rng(1).normal(0, 0.3, (5, 5, 1, 8)), np.zeros(8)])
    return model


def main(folder: Path, out: Path) -> None:
    """Fit three epochs in two sizes; keep logits and a kernel."""
    ARCHITECTURES["small"] = small
    how: dict[str, Any] = {"architecture": "small", "dropout": 0.0, "sizes": ((64, 2), (96, 1)), "learning_rate": 0.01}
    recipe = dataclasses.replace(trainer.RECIPES["smoke"], **how)
    pictures = np.random.default_rng(0).integers(0, 256, (8, 224, 224), dtype=np.uint8)
    pictures[::2] //= 2
    labels = np.array([[0], [1]] * 4)
    model = trainer.fit_network(
        recipe, TRAINING_SPEC, pictures, labels, np.full(8, 1 / 8), Session(folder, steps_per_epoch=5)
    )
    logits = trainer.compute_logits(
        trainer.build_serving_network(model, recipe, TRAINING_SPEC), TRAINING_SPEC, pictures
    )
    np.savez(out, logits=logits, conv=keras.ops.convert_to_numpy(model.get_layer("conv").kernel))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
