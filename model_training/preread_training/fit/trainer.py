"""Fit one network to the films outside one fold; resumable, recorded, with averaged weights."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from preread.core.errors import UsageError
from preread.core.types import JSONObject, PixelArray
from preread.imaging.preprocessing import PreprocessingSpec, normalise
from preread_training.data.atomic_files import keep_text, keep_weights
from preread_training.data.augmentation import Augmentation, augment
from preread_training.fit.callbacks import (
    FIT_FILE,
    HISTORY_FILE,
    Allowance,
    AllowanceOver,
    Checkpoint,
    NotANumber,
    Reseed,
    Told,
    spent_s,
)
from preread_training.fit.progress import Advance, unheard
from preread_training.nets.architectures import ARCHITECTURES, load_imagenet
from preread_training.nets.pretrained import imagenet_state_dict
from preread_training.reference.systems import Reference

WEIGHTS_FILE = "fitted.weights.h5"
# On TensorFlow, XLA would change the sums of what is published and gain nothing on a processor; JAX is nothing without.
_JIT = keras.backend.backend() != "tensorflow"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides a fit but the films.

    Attributes:
        sizes: input side in pixels and number of epochs, in order (small first is cheap, the last adapts).
        serving_px: side to which the finished network shrinks its input before it looks.
        learning_rate: at its peak; half a cosine down to zero over all epochs, after a linear warm-up of one.
        average: share kept of the averaged weights at each step (exponential moving average).
        conflict_weight: how much more often a film is drawn whose border or sharpness alone contradicts its label.
        label_smoothing: share of the target moved to one half.
    """

    name: str
    architecture: str = "efficientnet_lite0"
    sizes: tuple[tuple[int, int], ...] = ((160, 10), (224, 2))
    serving_px: int = 192
    batch: int = 32
    learning_rate: float = 2e-4
    weight_decay: float = 1e-4
    average: float = 0.997
    dropout: float = 0.2
    conflict_weight: float = 2.0
    label_smoothing: float = 0.05
    augmentation: Augmentation = field(default_factory=Augmentation)

    @classmethod
    def from_record(cls, record: JSONObject) -> Recipe:
        """Rebuild a recipe from a run's record.

        Raises:
            UsageError: it is of a reference system, which is there to be compared and not to be served.
        """
        if "layers" in record:
            raise UsageError(f"{record['name']} is a reference system: the product serves its own recipes only")
        sizes = tuple((size, epochs) for size, epochs in record["sizes"])
        return cls(**{**record, "sizes": sizes, "augmentation": Augmentation(**record["augmentation"])})


RECIPES = {
    "default": Recipe("default"),
    "smoke": Recipe("smoke", sizes=((64, 1),), serving_px=96, batch=8, average=0.5),
}


def sampling_weights(
    labels: npt.NDArray[np.int64], patients: npt.NDArray[np.str_], misleading: npt.NDArray[np.bool_], recipe: Recipe
) -> npt.NDArray[np.float64]:
    """How often to draw each film: with a finding or without even, many of one patient damped, misleading ones raised.

    Args:
        labels: int64 [n, findings] in {0, 1}.
        misleading: bool [n, findings], films whose border or sharpness alone says the opposite of their label.

    Returns:
        float64 [n], summing to 1.
    """
    present = labels.any(axis=1)
    _, patient, counts = np.unique(patients, return_inverse=True, return_counts=True)
    weights = np.where(misleading.any(axis=1), recipe.conflict_weight, 1.0) / np.sqrt(counts[patient])
    for rows in (present, ~present):
        weights[rows] /= 2 * weights[rows].sum()
    return weights


class _Schedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear warm-up, then half a cosine to zero."""

    def __init__(self, peak: float, warm_up_steps: int, steps: int) -> None:
        self._peak, self._warm_up, self._steps = peak, warm_up_steps, steps

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rest = (step - self._warm_up) / max(1, self._steps - self._warm_up)
        cosine = 0.5 * (1 + ops.cos(3.14159265 * ops.clip(rest, 0.0, 1.0)))
        return self._peak * ops.minimum((step + 1) / self._warm_up, cosine)


def _batches(
    recipe: Recipe,
    spec: PreprocessingSpec,
    pictures: PixelArray,
    labels: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    size: int,
    seed: int,
    first_step: int,
) -> tf.data.Dataset:
    """Endless (float32 [batch, size, size, 1], float32 [batch, findings]), a function of seed and step alone."""
    held = tf.constant(pictures)
    target = (labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2).astype(np.float32)
    cumulative = tf.constant(np.cumsum(weights), tf.float32)
    answers = tf.constant(target)

    def draw(step: Any) -> Any:
        key = tf.stack([tf.constant(seed, tf.int64), step])
        index = tf.searchsorted(cumulative, tf.random.stateless_uniform([recipe.batch], key))
        index = tf.minimum(index, len(labels) - 1)
        grey = augment(recipe.augmentation, tf.gather(held, index), size, key)
        return (grey - spec.subtract) / spec.divide, tf.gather(answers, index)

    return tf.data.Dataset.counter(first_step).map(draw, num_parallel_calls=1).prefetch(2)


def build(recipe: Recipe, findings: int) -> keras.Model:
    """Build the recipe's network with its initial weights."""
    model = ARCHITECTURES[recipe.architecture](findings=findings, dropout=recipe.dropout)
    if recipe.architecture == "efficientnet_lite0":
        load_imagenet(model, imagenet_state_dict())
    return model


def fit(
    recipe: Recipe,
    spec: PreprocessingSpec,
    pictures: PixelArray,
    labels: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    folder: Path,
    *,
    seed: int = 0,
    steps_per_epoch: int | None = None,
    minutes: float | None = None,
    say: Callable[[str], None] = lambda _: None,
    advance: Advance = unheard,
) -> keras.Model:
    """Fit a network and return it with its averaged weights; called again after an interruption it goes on.

    Args:
        pictures: uint8 [n, rows, columns] after ``preprocessing.shrink``.
        labels: int64 [n, findings] in {0, 1}.
        weights: float64 [n] summing to 1, see ``sampling_weights``.
        folder: gets ``history.csv`` (epoch, loss, seconds), checkpoints, and at the end ``fitted.weights.h5`` and
            ``fit.json`` (epochs reached and meant, seconds, how the fit ended, parameters).
        minutes: after them the fit ends with the step in progress, and what it reached is recorded.

    Raises:
        FittingFailed: the loss is NaN or infinite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(seed)
    model = build(recipe, labels.shape[1])
    steps = steps_per_epoch or max(1, len(labels) // recipe.batch)
    epochs = sum(count for _, count in recipe.sizes)
    # Averaging is part of the optimizer's state, so one optimizer serves all sizes and its checkpoint resumes both.
    model.compile(
        optimizer=keras.optimizers.AdamW(
            _Schedule(recipe.learning_rate, steps, steps * epochs),
            weight_decay=recipe.weight_decay,
            use_ema=True,
            ema_momentum=recipe.average,
            ema_overwrite_frequency=None,
            global_clipnorm=1.0,
        ),
        loss={"logit": keras.losses.BinaryCrossentropy(from_logits=True), "activation_map": None, "embedding": None},
        jit_compile=_JIT,
    )
    restored = Checkpoint.restore(model, folder)
    before_s, began_s = spent_s(folder, restored), time.monotonic()
    callbacks = [
        NotANumber(),
        Reseed(seed),
        Allowance(minutes, before_s),
        Told(epochs, folder / HISTORY_FILE, say, advance),
        Checkpoint(folder),
    ]
    done, ended, reached = 0, "done", float(epochs)
    try:
        for size, count in recipe.sizes:
            begin, first, done = done, max(done, restored), done + count
            if first >= done:
                continue
            if first == begin > 0:
                # Each size begins with the averages of the one before, as Keras leaves them; a checkpoint has not seen
                # that yet. The copy is for JAX, which would be given one buffer for a weight and its average.
                model.optimizer.finalize_variable_values(model.trainable_variables)
                model.set_weights(model.get_weights())
                model.train_function = None  # traced anew: one graph for two sizes would add in another order
            model.fit(
                _batches(recipe, spec, pictures, labels, weights, size, seed, first * steps),
                steps_per_epoch=steps,
                initial_epoch=first,
                epochs=done,
                verbose=0,
                shuffle=False,
                callbacks=callbacks,
            )
    except AllowanceOver as over:
        ended, reached = "time", over.epochs
    record = {
        "epochs": reached,
        "epochs_meant": epochs,
        "seconds": before_s + time.monotonic() - began_s,
        "ended": ended,
        "parameters": model.count_params(),
    }
    model.optimizer.finalize_variable_values(model.trainable_variables)
    keep_weights(model, folder / WEIGHTS_FILE)
    keep_text(folder / FIT_FILE, json.dumps(record, indent=2) + "\n")
    return model


def serving(model: keras.Model, recipe: Recipe, spec: PreprocessingSpec, batch: int | None = None) -> keras.Model:
    """The network as it serves: float32 [batch, spec.rows, spec.columns, 1] in, shrunk to ``serving_px`` inside."""
    inputs = keras.Input(batch_shape=(batch, spec.rows, spec.columns, 1), name="radiograph")
    side = recipe.serving_px
    return keras.Model(inputs, model(keras.layers.Resizing(side, side, interpolation="bilinear")(inputs)))


def logits_of(
    served: keras.Model, spec: PreprocessingSpec, pictures: PixelArray, batch: int = 64
) -> npt.NDArray[np.float64]:
    """float64 [n, findings], the logits of a network from ``serving`` for uint8 [n, rows, columns]."""
    served.compile(jit_compile=_JIT)
    parts: Sequence[Any] = [
        served.predict_on_batch(normalise(spec, pictures[start : start + batch])[..., np.newaxis])["logit"]
        for start in range(0, len(pictures), batch)
    ]
    return np.concatenate(parts).astype(np.float64)


def describe(recipe: Recipe | Reference) -> str:
    """The recipe as canonical JSON, for records and digests."""
    return json.dumps(dataclasses.asdict(recipe), sort_keys=True)
