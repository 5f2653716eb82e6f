"""Fit one network to the films outside one fold; resumable, recorded, with averaged weights."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model_training.architectures import ARCHITECTURES, load_imagenet
from model_training.augmentation import Augmentation, augment
from model_training.pretrained import imagenet_state_dict
from worker.domain import JSONObject, PixelArray
from worker.errors import PrereadError
from worker.preprocessing import PreprocessingSpec, normalise

WEIGHTS_FILE = "fitted.weights.h5"


class FittingFailed(PrereadError):
    """The loss is no longer a number."""

    code = "fitting_failed"
    hint = "Lower the learning rate, or look for a film whose picture is constant."


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides a fit but the films.

    Attributes:
        sizes: input side in pixels and number of epochs, in order (small first is cheap, the last adapts).
        serving_px: side to which the finished network shrinks its input before it looks.
        learning_rate: at its peak; half a cosine down to zero over all epochs, after a linear warm-up of one.
        average: share kept of the averaged weights at each step (exponential moving average).
        conflict_weight: how much more often a film is drawn whose border alone contradicts its label.
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
        """Rebuild a recipe from a run's record."""
        sizes = tuple((size, epochs) for size, epochs in record["sizes"])
        return cls(**{**record, "sizes": sizes, "augmentation": Augmentation(**record["augmentation"])})


RECIPES = {
    "default": Recipe("default"),
    "smoke": Recipe("smoke", sizes=((64, 1),), serving_px=96, batch=8, average=0.5),
}


def sampling_weights(
    labels: npt.NDArray[np.int64], patients: npt.NDArray[np.str_], conflict: npt.NDArray[np.bool_], recipe: Recipe
) -> npt.NDArray[np.float64]:
    """How often to draw each film: labels even, many films of one patient damped, conflicts raised; sums to 1."""
    _, patient, counts = np.unique(patients, return_inverse=True, return_counts=True)
    weights = np.where(conflict, recipe.conflict_weight, 1.0) / np.sqrt(counts[patient])
    for label in (0, 1):
        weights[labels == label] /= 2 * weights[labels == label].sum()
    return weights


class _NotANumber(keras.callbacks.Callback):  # type: ignore[misc]
    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if logs and not np.isfinite(logs["loss"]):
            raise FittingFailed(f"the loss became {logs['loss']} at step {batch}")


class _Told(keras.callbacks.Callback):  # type: ignore[misc]
    """Keep and say after each epoch how far the fit is, and how long the rest takes at this pace."""

    def __init__(self, epochs: int, history: Path, say: Callable[[str], None]) -> None:
        super().__init__()
        self._epochs, self._history, self._say = epochs, history, say

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._began_s = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        took_s, loss = time.monotonic() - self._began_s, (logs or {})["loss"]
        with self._history.open("a", encoding="utf-8") as stream:
            stream.write(f"{epoch + 1},{loss:.6f},{took_s:.1f}\n")
        left_min = took_s * (self._epochs - epoch - 1) / 60
        self._say(f"epoch {epoch + 1} of {self._epochs}: loss {loss:.4f}, about {left_min:.0f} min left")


class _Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Keep weights and optimizer after each epoch, the epoch in the name; replaced at once, so never half there."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        earlier = _checkpoints(self._folder)
        part = self._folder / "part.weights.h5"
        self.model.save_weights(part)
        os.replace(part, self._folder / f"checkpoint-{epoch + 1}.weights.h5")
        for path in earlier.values():
            path.unlink()

    @staticmethod
    def restore(model: keras.Model, folder: Path) -> int:
        """Load the newest checkpoint into a compiled model and return its number of epochs; 0 without any."""
        kept = _checkpoints(folder)
        if not kept:
            return 0
        model.optimizer.build(model.trainable_variables)
        model.load_weights(kept[max(kept)])
        return max(kept)


def _checkpoints(folder: Path) -> dict[int, Path]:
    return {int(path.name.split("-")[1].split(".")[0]): path for path in folder.glob("checkpoint-*.weights.h5")}


class _Schedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear warm-up, then half a cosine to zero."""

    def __init__(self, peak: float, warm_up_steps: int, steps: int) -> None:
        self._peak, self._warm_up, self._steps = peak, warm_up_steps, steps

    def __call__(self, step: Any) -> Any:
        step = tf.cast(step, tf.float32)
        rest = (step - self._warm_up) / max(1, self._steps - self._warm_up)
        cosine = 0.5 * (1 + tf.cos(3.14159265 * tf.clip_by_value(rest, 0.0, 1.0)))
        return self._peak * tf.minimum((step + 1) / self._warm_up, cosine)


def _batches(
    recipe: Recipe,
    spec: PreprocessingSpec,
    pictures: PixelArray,
    labels: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    size: int,
    seed: int,
) -> tf.data.Dataset:
    """An endless stream of (float32 [batch, size, size, 1], float32 [batch, 1]); each epoch draws anew."""
    held = tf.constant(pictures)
    target = (labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2).astype(np.float32)
    cumulative = tf.constant(np.cumsum(weights), tf.float32)
    answers = tf.constant(target)

    def draw(_: Any) -> Any:
        index = tf.minimum(tf.searchsorted(cumulative, tf.random.uniform([recipe.batch])), len(labels) - 1)
        grey = augment(recipe.augmentation, tf.gather(held, index), size)
        return (grey - spec.subtract) / spec.divide, tf.gather(answers, index)[:, tf.newaxis]

    tf.random.set_seed(seed)
    return tf.data.Dataset.counter().map(draw, num_parallel_calls=1).prefetch(2)


def build(recipe: Recipe) -> keras.Model:
    """Build the recipe's network with its initial weights."""
    model = ARCHITECTURES[recipe.architecture](dropout=recipe.dropout)
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
    say: Callable[[str], None] = lambda _: None,
) -> keras.Model:
    """Fit a network and return it with its averaged weights; called again after an interruption it goes on.

    Args:
        pictures: uint8 [n, rows, columns] after ``preprocessing.shrink``.
        labels: int64 [n] in {0, 1}.
        weights: float64 [n] summing to 1, see ``sampling_weights``.
        folder: gets ``history.csv`` (epoch, loss, seconds), checkpoints, and at the end ``fitted.weights.h5``.

    Raises:
        FittingFailed: the loss is NaN or infinite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(seed)
    model = build(recipe)
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
        jit_compile=False,
    )
    restored = _Checkpoint.restore(model, folder)
    done = 0
    for size, count in recipe.sizes:
        if restored >= done + count:
            done += count
            continue
        model.fit(
            _batches(recipe, spec, pictures, labels, weights, size, seed + done),
            steps_per_epoch=steps,
            initial_epoch=max(done, restored),
            epochs=done + count,
            verbose=0,
            shuffle=False,
            callbacks=[
                _NotANumber(),
                _Told(epochs, folder / "history.csv", say),
                _Checkpoint(folder),
            ],
        )
        done += count
    model.optimizer.finalize_variable_values(model.trainable_variables)
    temporary = folder / "part.weights.h5"
    model.save_weights(temporary)
    os.replace(temporary, folder / WEIGHTS_FILE)
    return model


def serving(model: keras.Model, recipe: Recipe, spec: PreprocessingSpec, batch: int | None = None) -> keras.Model:
    """The network as it serves: float32 [batch, spec.rows, spec.columns, 1] in, shrunk to ``serving_px`` inside."""
    inputs = keras.Input(batch_shape=(batch, spec.rows, spec.columns, 1), name="radiograph")
    side = recipe.serving_px
    return keras.Model(inputs, model(keras.layers.Resizing(side, side, interpolation="bilinear")(inputs)))


def logits_of(
    served: keras.Model, spec: PreprocessingSpec, pictures: PixelArray, batch: int = 64
) -> npt.NDArray[np.float64]:
    """float64 [n], the logit of a network from ``serving`` for uint8 [n, rows, columns]."""
    run = tf.function(lambda x: served(x, training=False)["logit"])
    parts: Sequence[Any] = [
        run(normalise(spec, pictures[start : start + batch])[..., np.newaxis]).numpy()[:, 0]
        for start in range(0, len(pictures), batch)
    ]
    return np.concatenate(parts).astype(np.float64)


def describe(recipe: Recipe) -> str:
    """The recipe as canonical JSON, for records and digests."""
    return json.dumps(dataclasses.asdict(recipe), sort_keys=True)
