"""Fit of one network, which can be resumed, with averaged weights."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from preread.core.errors import UsageError
from preread.core.types import JSONObject, PixelArray
from preread.imaging.preprocessing import TRAINING_SPEC, PreprocessingSpec, normalise_grey_levels
from preread_training.data.atomic_files import write_text_atomically, write_weights_atomically
from preread_training.data.augmentation import Augmentation, augment_images
from preread_training.data.dataset import Data
from preread_training.fit.callbacks import (
    FIT_FILE,
    HISTORY_FILE,
    Checkpoint,
    ProgressLog,
    Reseed,
    StopAtNaN,
    TimeLimit,
    TimeLimitReached,
    sum_epoch_seconds,
)
from preread_training.fit.session import Session
from preread_training.nets.architectures import ARCHITECTURES, load_imagenet_weights
from preread_training.nets.pretrained import read_imagenet_weights

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WEIGHTS_FILE = "fitted.weights.h5"
# On TensorFlow, XLA would change the sums of what is published and gain nothing on a processor; JAX is nothing without.
_JIT = keras.backend.backend() != "tensorflow"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides a fit but the images.

    Attributes:
        name: of the recipe, as in ``--recipe``.
        architecture: a key of ``ARCHITECTURES``.
        sizes: input side in pixels and number of epochs, in order (small first is cheap, the last adapts).
        serving_px: side in pixels to which the finished network shrinks its input.
        batch: images in a batch.
        learning_rate: at its peak; half a cosine down to zero over all epochs, after a linear warm-up of one.
        weight_decay: of AdamW.
        average: share kept of the averaged weights at each step (exponential moving average).
        dropout: share dropped before the head.
        conflict_weight: how much more often an image is drawn whose border or sharpness alone contradicts its label.
        label_smoothing: share of the target moved to one half.
        augmentation: of the training images.
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

        Args:
            record: the recipe as recorded.

        Raises:
            UsageError: it is of a reference system, which is there to be compared and not to be served.
        """
        if "layers" in record:
            raise UsageError(f"{record['name']} is a reference system: choose a run of the product's own recipes")
        sizes = tuple((size, epochs) for size, epochs in record["sizes"])
        return cls(**{**record, "sizes": sizes, "augmentation": Augmentation(**record["augmentation"])})


RECIPES = {
    "default": Recipe("default"),
    "smoke": Recipe("smoke", sizes=((64, 1),), serving_px=96, batch=8, average=0.5),
}


def compute_sampling_weights(
    labels: npt.NDArray[np.int64], patients: npt.NDArray[np.str_], misleading: npt.NDArray[np.bool_], recipe: Recipe
) -> npt.NDArray[np.float64]:
    """Return how often to draw each image in training.

    Both labels count the same, patients with many images less, misleading images more.

    Args:
        labels: int64 [n, findings] in {0, 1}.
        patients: str [n].
        misleading: bool [n, findings], images whose border or sharpness alone contradicts their label.
        recipe: gives the weight of misleading images.

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
    images: tuple[PixelArray, npt.NDArray[np.int64], npt.NDArray[np.float64]],
    size: int,
    seed: int,
    first_step: int,
) -> tf.data.Dataset:
    """Return endless batches, a function of seed and step alone.

    Args:
        recipe: gives the size of a batch and the augmentation.
        spec: preprocessing of the bundle to come.
        images: uint8 [n, rows, columns], their labels int64 [n, findings], and how often to draw each, float64 [n].
        size: side in pixels.
        seed: of all draws.
        first_step: step with which the batches begin.

    Returns:
        float32 [batch, size, size, 1] and float32 [batch, findings] at a time.
    """
    pixels, labels, weights = images
    held = tf.constant(pixels)
    target = (labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2).astype(np.float32)
    cumulative = tf.constant(np.cumsum(weights), tf.float32)
    answers = tf.constant(target)

    def draw(step: Any) -> Any:
        key = tf.stack([tf.constant(seed, tf.int64), step])
        index = tf.searchsorted(cumulative, tf.random.stateless_uniform([recipe.batch], key))
        index = tf.minimum(index, len(labels) - 1)
        grey = augment_images(recipe.augmentation, tf.gather(held, index), size, key)
        return (grey - spec.subtract) / spec.divide, tf.gather(answers, index)

    return tf.data.Dataset.counter(first_step).map(draw, num_parallel_calls=1).prefetch(2)


def build_recipe_network(recipe: Recipe, findings: int) -> keras.Model:
    """Build a recipe's network with its initial weights.

    Args:
        recipe: architecture and dropout.
        findings: number of findings.
    """
    model = ARCHITECTURES[recipe.architecture](findings=findings, dropout=recipe.dropout)
    if recipe.architecture == "efficientnet_lite0":
        load_imagenet_weights(model, read_imagenet_weights())
    return model


def fit_network(
    recipe: Recipe,
    spec: PreprocessingSpec,
    pixels: PixelArray,
    labels: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    session: Session,
) -> keras.Model:
    """Fit a network of the product's own and return it with averaged weights.

    Called again after an interruption it continues after the last whole epoch.

    Args:
        recipe: all that decides the fit but the images.
        spec: preprocessing of the bundle to come.
        pixels: uint8 [n, rows, columns] after ``preprocessing.resize_to_input``.
        labels: int64 [n, findings] in {0, 1}.
        weights: float64 [n] summing to 1, see ``compute_sampling_weights``.
        session: its folder gets ``history.csv`` (epoch, loss, seconds), checkpoints, and at the end
            ``fitted.weights.h5`` and ``fit.json`` (epochs reached and meant, seconds, how the fit ended, parameters).

    Raises:
        FittingFailed: the loss is NaN or infinite.
    """
    folder, seed = session.folder, session.seed
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(seed)
    model = build_recipe_network(recipe, labels.shape[1])
    steps = session.steps_per_epoch or max(1, len(labels) // recipe.batch)
    epochs = sum(count for _, count in recipe.sizes)
    _compile(model, recipe, steps, epochs)
    restored = Checkpoint.restore(model, folder)
    before_s, began_s = sum_epoch_seconds(folder, restored), time.monotonic()
    callbacks = [
        StopAtNaN(),
        Reseed(seed),
        TimeLimit(session.minutes, before_s),
        ProgressLog(epochs, folder / HISTORY_FILE, session.log, session.advance),
        Checkpoint(folder),
    ]
    ended, reached = "done", float(epochs)
    try:
        for size, first, until, averaged in _stages(recipe, restored):
            if averaged:
                # Each size begins with the averages of the one before, as Keras leaves them; a checkpoint has not seen
                # that yet. The copy is for JAX, which would be given one buffer for a weight and its average.
                model.optimizer.finalize_variable_values(model.trainable_variables)
                model.set_weights(model.get_weights())
                model.train_function = None  # traced anew: one graph for two sizes would add in another order
            model.fit(
                _batches(recipe, spec, (pixels, labels, weights), size, seed, first * steps),
                steps_per_epoch=steps,
                initial_epoch=first,
                epochs=until,
                verbose=0,
                shuffle=False,
                callbacks=callbacks,
            )
    except TimeLimitReached as over:
        ended, reached = "time", over.epochs
    record = {
        "epochs": reached,
        "epochs_meant": epochs,
        "seconds": before_s + time.monotonic() - began_s,
        "ended": ended,
        "parameters": model.count_params(),
    }
    model.optimizer.finalize_variable_values(model.trainable_variables)
    write_weights_atomically(model, folder / WEIGHTS_FILE)
    write_text_atomically(folder / FIT_FILE, json.dumps(record, indent=2) + "\n")
    return model


def _compile(model: keras.Model, recipe: Recipe, steps: int, epochs: int) -> None:
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


def _stages(recipe: Recipe, restored: int) -> Iterator[tuple[int, int, int, bool]]:
    """Yield side, first epoch, end, and whether averages are taken over.

    The side is in pixels; ``restored`` epochs are done already.
    """
    done = 0
    for size, count in recipe.sizes:
        begin, first, done = done, max(done, restored), done + count
        if first < done:
            yield size, first, done, first == begin > 0


def build_serving_network(
    model: keras.Model, recipe: Recipe, spec: PreprocessingSpec, batch: int | None = None
) -> keras.Model:
    """Build the network that serves from a fitted one.

    Args:
        model: of ``fit_network``.
        recipe: gives the side to which the input is resized inside.
        spec: preprocessing of the inputs.
        batch: images at a time; ``None``: any number.

    Returns:
        A network of float32 [batch, spec.rows, spec.columns, 1].
    """
    inputs = keras.Input(batch_shape=(batch, spec.rows, spec.columns, 1), name="radiograph")
    side = recipe.serving_px
    return keras.Model(inputs, model(keras.layers.Resizing(side, side, interpolation="bilinear")(inputs)))


def compute_logits(
    served: keras.Model, spec: PreprocessingSpec, pixels: PixelArray, batch: int = 64
) -> npt.NDArray[np.float64]:
    """Compute the logits of a serving network for images.

    Args:
        served: of ``build_serving_network``.
        spec: preprocessing of the inputs.
        pixels: uint8 [n, rows, columns].
        batch: images at a time.

    Returns:
        float64 [n, findings].
    """
    served.compile(jit_compile=_JIT)
    parts: Sequence[Any] = [
        served.predict_on_batch(normalise_grey_levels(spec, pixels[start : start + batch])[..., np.newaxis])["logit"]
        for start in range(0, len(pixels), batch)
    ]
    return np.concatenate(parts).astype(np.float64)


def format_recipe(recipe: DataclassInstance) -> str:
    """Format a recipe as canonical JSON, for records and digests."""
    return json.dumps(dataclasses.asdict(recipe), sort_keys=True)


@dataclass(frozen=True, slots=True)
class RecipeTrainer:
    """Trainer of the product's own recipes, see ``cross_validation.Trainer``."""

    recipe: Recipe

    def check(self, _data: Data) -> None:
        """Accept any images."""

    def fit(self, data: Data, rows: npt.NDArray[np.bool_], session: Session) -> keras.Model:
        """Fit a network to the images of ``rows``, bool [n]."""
        labels = data.labels[rows]
        misleading = (data.conflict | data.misled_by_sharpness)[rows]
        weights = compute_sampling_weights(labels, data.patients[rows], misleading, self.recipe)
        return fit_network(self.recipe, TRAINING_SPEC, data.pixels[rows], labels, weights, session)

    def logits(self, model: keras.Model, pixels: PixelArray) -> npt.NDArray[np.float64]:
        """Compute logits, float64 [n, findings], for uint8 [n, rows, columns]."""
        return compute_logits(build_serving_network(model, self.recipe, TRAINING_SPEC), TRAINING_SPEC, pixels)
