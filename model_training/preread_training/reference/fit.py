"""Fit of a reference system: resumable, limited in time, recorded."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from preread.core.errors import UsageError
from preread.core.types import JSONObject, PixelArray
from preread_training.data.atomic_files import write_text_atomically, write_weights_atomically
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
from preread_training.fit.trainer import WEIGHTS_FILE
from preread_training.reference.generator import augment_like_generator
from preread_training.reference.notation import build_reference_network
from preread_training.reference.systems import Reference

_VALIDATION_FILE = "validation.csv"
_BEST_FILE = "best.weights.h5"
_CROSS_VALIDATION = 3
_OF_SEARCH = 0.75  # of the minutes; the rest is for the fit of what was chosen
_LABELS = npt.NDArray[np.int64]
_Say = Callable[[str], None]


def resize_nearest(pixels: PixelArray, side_px: int) -> PixelArray:
    """Resize images by nearest neighbour, as the reference systems do.

    Args:
        pixels: uint8 [n, rows, columns].
        side_px: side of the output.

    Returns:
        uint8 [n, side_px, side_px].
    """
    rows, columns = (((np.arange(side_px) + 0.5) * side / side_px).astype(np.int64) for side in pixels.shape[1:])
    return np.ascontiguousarray(pixels[:, rows[:, np.newaxis], columns])


def choose_validation_rows(
    labels: _LABELS, patients: npt.NDArray[np.str_], share: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Choose a reference system's images for the validation loss.

    About this share of each label, all images of a patient or none, at least one patient.

    Args:
        labels: int64 [n] in {0, 1}.
        patients: str [n].
        share: of the images, in (0, 1).
        seed: of the draw.

    Returns:
        bool [n].
    """
    kept = np.zeros(len(labels), bool)
    generator = np.random.default_rng([seed, 1])
    positive = set(patients[labels == 1].tolist())
    everyone = set(patients.tolist())
    for group in (sorted(everyone - positive), sorted(positive)):
        wanted = share * np.isin(patients, group).sum()
        for patient in generator.permutation(group):
            if wanted <= 0:
                break
            images = patients == patient
            kept |= images
            wanted -= images.sum()
    return kept


@dataclass(frozen=True)
class _Images:
    """Images, uint8 [n, side, side], and their labels, int64 [n]."""

    pixels: PixelArray
    labels: _LABELS

    def __getitem__(self, rows: Any) -> _Images:
        return _Images(self.pixels[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)


def _input(recipe: Reference, grey: Any) -> Any:
    """Scale grey levels 0 to 255 [n, side, side, 1] to the network's input."""
    scaled = tf.cast(grey, tf.float32) / 255
    return scaled if recipe.channels == 1 else tf.repeat(scaled, recipe.channels, axis=-1)


def _batches(recipe: Reference, images: _Images, seed: int, steps: range) -> tf.data.Dataset:
    """Return batches: passes over the images, each in its own order.

    The last batch of a pass may be short; the order is given by seed and step.
    """
    n = len(images)
    in_pass = math.ceil(n / recipe.batch)
    passes = math.ceil(steps.stop / in_pass)
    order = tf.constant(np.concatenate([np.random.default_rng([seed, at]).permutation(n) for at in range(passes)]))
    held, labels = tf.constant(images.pixels), tf.constant(images.labels.astype(np.float32))
    weights = tf.constant(recipe.class_weights, tf.float32)

    def draw(step: Any) -> Any:
        within = step // in_pass * n
        first = step % in_pass * recipe.batch
        rows = order[within + first : within + tf.minimum(first + recipe.batch, n)]
        label = tf.gather(labels, rows)
        grey = tf.cast(tf.gather(held, rows), tf.float32)[..., tf.newaxis]
        if recipe.shifts is not None:
            grey = augment_like_generator(recipe.shifts, grey, tf.stack([tf.constant(seed, tf.int64), step]))
        return _input(recipe, grey), label[:, tf.newaxis], tf.gather(weights, tf.cast(label, tf.int32))

    return tf.data.Dataset.range(steps.start, steps.stop).map(draw, num_parallel_calls=1).prefetch(2)


def _compiled(recipe: Reference, seed: int, *, frozen: bool = False) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = build_reference_network(recipe.layers, recipe.side_px, recipe.channels)
    for body in _bodies(model):
        body.trainable = not frozen
    optimizers = {"sgd": keras.optimizers.SGD, "rmsprop": keras.optimizers.RMSprop}
    model.compile(
        optimizer=optimizers[recipe.optimizer](recipe.learning_rate),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def _bodies(model: keras.Model) -> list[keras.Model]:
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]


def _imagenet(recipe: Reference, file: Path | None, say: _Say) -> list[npt.NDArray[np.float32]] | None:
    """Return ImageNet weights of VGG19, or ``None`` if there are none.

    From a file, else from Keras, which may fetch them.
    """
    body = keras.applications.VGG19(
        include_top=False, weights=None, input_shape=(recipe.side_px, recipe.side_px, recipe.channels)
    )
    if file is not None:
        try:
            body.load_weights(file)
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{file} holds no weights of VGG19 without its top ({error}): name another file") from None
        return list(body.get_weights())
    try:
        with contextlib.redirect_stdout(sys.stderr):  # on which Keras shows its progress
            loaded = keras.applications.VGG19(include_top=False, weights="imagenet", input_shape=body.input_shape[1:])
    except Exception as error:  # noqa: BLE001 - Keras raises Exception itself where it cannot fetch a file
        say(f"{recipe.name}: no ImageNet weights ({error}); VGG19 starts from random weights and is not frozen")
        return None
    return list(loaded.get_weights())


def compute_reference_logits(
    model: keras.Model, recipe: Reference, pixels: PixelArray, batch: int = 64
) -> npt.NDArray[np.float64]:
    """Compute a reference system's logits for images.

    Args:
        model: of ``fit_reference_system``.
        recipe: the system.
        pixels: uint8 [n, rows, columns] of any size.
        batch: images at a time.

    Returns:
        float64 [n].
    """
    small = resize_nearest(pixels, recipe.side_px)[..., np.newaxis]
    parts = [
        model.predict_on_batch(_input(recipe, small[start : start + batch])) for start in range(0, len(small), batch)
    ]
    return np.concatenate(parts)[:, 0].astype(np.float64)


class _Validated(keras.callbacks.Callback):  # type: ignore[misc]
    """Record the validation loss, keep the best epoch, stop early."""

    def __init__(self, recipe: Reference, images: _Images, folder: Path, done: int) -> None:
        super().__init__()
        self._recipe, self._images, self._folder = recipe, images, folder
        file = folder / _VALIDATION_FILE
        lines = file.read_text(encoding="utf-8").splitlines() if done else []
        self.losses = [float(line.split(",")[1]) for line in lines[:done]]

    @property
    def best(self) -> int:
        """Position of the best epoch."""
        return int(np.argmin(self.losses))

    @property
    def is_over(self) -> bool:
        """Return whether as many epochs as the patience brought no better loss."""
        patience = max(self._recipe.patience or 0, 1)
        return bool(self.losses) and len(self.losses) - 1 - self.best >= patience

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logits = compute_reference_logits(self.model, self._recipe, self._images.pixels)
        self.losses.append(float(np.logaddexp(0.0, np.where(self._images.labels == 1, -logits, logits)).mean()))
        lines = [f"{position + 1},{loss:.9g}\n" for position, loss in enumerate(self.losses)]
        write_text_atomically(self._folder / _VALIDATION_FILE, "".join(lines))
        if self._recipe.best and self.best == epoch:
            write_weights_atomically(self.model, self._folder / _BEST_FILE)
        if self.is_over:
            self.model.stop_training = True


def _choose(recipe: Reference, images: _Images, groups: _LABELS, allowance: TimeLimit, seed: int) -> JSONObject:
    """Choose among candidates by cross-validation, as time allows.

    Args:
        recipe: the system, with its candidates.
        images: to choose with.
        groups: int64 [n], the part in which each image is held out.
        allowance: after which no further fit begins.
        seed: of each fit.

    Returns:
        ``layers`` and ``epochs_meant`` of the chosen candidate, and the accuracies of those that were measured.
    """
    accuracies: list[float] = []
    for layers, epochs in recipe.candidates:
        candidate, right = replace(recipe, layers=layers, epochs=epochs), 0
        for group in range(_CROSS_VALIDATION):
            if allowance.over:
                break
            held = groups == group
            model, fitted = _compiled(candidate, seed), images[~held]
            steps = math.ceil(len(fitted) / recipe.batch)
            batches = _batches(candidate, fitted, seed, range(steps * epochs))
            model.fit(batches, steps_per_epoch=steps, epochs=epochs, verbose=0, shuffle=False, callbacks=[StopAtNaN()])
            called = compute_reference_logits(model, candidate, images.pixels[held]) > 0
            right += int((called == (images.labels[held] == 1)).sum())
        else:
            accuracies.append(right / len(images))
    layers, epochs = recipe.candidates[int(np.argmax(accuracies)) if accuracies else 0]
    return {"layers": layers, "epochs_meant": epochs, "cross_validated_accuracies": accuracies}


def _split(
    recipe: Reference, images: _Images, patients: npt.NDArray[np.str_], seed: int
) -> tuple[_Images, npt.NDArray[np.str_], _Images]:
    """Return images to fit to, their patients, and validation images."""
    held = np.zeros(len(images), bool)
    if recipe.patience is not None:
        held = choose_validation_rows(images.labels, patients, recipe.validation, seed)
    if recipe.films is None:
        return images[~held], patients[~held], images[held]
    drawn = np.random.default_rng([seed, 2]).permutation(np.flatnonzero(~held))[: recipe.films]
    return images[drawn], patients[drawn], images[held]


def _epochs_meant(recipe: Reference, fitted: _Images, patients: npt.NDArray[np.str_], session: Session) -> JSONObject:
    """Return epochs and, for a system with candidates, the chosen layers."""
    meant: JSONObject = {"epochs_meant": recipe.epochs}
    if recipe.candidates:
        _, patient = np.unique(patients, return_inverse=True)
        search = TimeLimit(None if session.minutes is None else session.minutes * _OF_SEARCH)
        meant |= _choose(recipe, fitted, patient % _CROSS_VALIDATION, search, session.seed)
    return meant


def fit_reference_system(
    recipe: Reference,
    pixels: PixelArray,
    labels: _LABELS,
    patients: npt.NDArray[np.str_],
    session: Session,
    vgg19_weights: Path | None = None,
) -> keras.Model:
    """Fit a reference system and return its network.

    Called again after an interruption it continues after the last whole epoch.

    Args:
        recipe: the system.
        pixels: uint8 [n, rows, columns] after ``preprocessing.resize_to_input``.
        labels: int64 [n] in {0, 1}.
        patients: str [n]; those kept for the validation loss, if a system has one, are not fitted to.
        session: its folder gets ``history.csv`` (epoch, loss, seconds), checkpoints, ``fit.json`` (epochs reached and
            meant, seconds, how the fit ended, parameters, ImageNet weights or none) and ``fitted.weights.h5``.
        vgg19_weights: file of ImageNet weights without top; ``None``: Keras fetches them.

    Raises:
        FittingFailed: the loss is NaN or infinite.
        UsageError: the file of weights has none of VGG19.
    """
    folder = session.folder
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FIT_FILE
    state: JSONObject = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    began_s = time.monotonic()
    images = _Images(resize_nearest(pixels, recipe.side_px), labels)
    fitted, fitted_patients, held = _split(recipe, images, patients, session.seed)
    imagenet = None
    if not state.get("ended") and not Checkpoint.count_epochs(folder) and "VGG19" in recipe.layers:
        imagenet = _imagenet(recipe, vgg19_weights, session.log)
        state["imagenet"] = imagenet is not None
    if "epochs_meant" not in state:
        state |= _epochs_meant(recipe, fitted, fitted_patients, session)
    recipe = replace(recipe, layers=state.get("layers", recipe.layers), epochs=state["epochs_meant"])
    model = _compiled(recipe, session.seed, frozen=state.get("imagenet", False))
    if imagenet is not None:
        for body in _bodies(model):
            body.set_weights(imagenet)
    if state.get("ended"):
        model.optimizer.build(model.trainable_variables)
        model.load_weights(folder / WEIGHTS_FILE)
        return model
    state["parameters"] = model.count_params()
    write_text_atomically(file, json.dumps(state, indent=2) + "\n")
    state |= _fit_epochs(recipe, model, fitted, held, session, began_s)
    write_weights_atomically(model, folder / WEIGHTS_FILE)
    write_text_atomically(file, json.dumps(state, indent=2) + "\n")
    return model


def _fit_epochs(
    recipe: Reference, model: keras.Model, fitted: _Images, held: _Images, session: Session, began_s: float
) -> JSONObject:
    """Fit the remaining epochs and return their record.

    Loads the best epoch's weights if the system asks for them.

    Args:
        recipe: the system, with the layers and epochs that were chosen.
        model: compiled.
        fitted: images to fit to.
        held: images for the validation loss; none for most systems.
        session: see ``fit_reference_system``.
        began_s: ``time.monotonic()`` when this fit began.
    """
    folder = session.folder
    done = Checkpoint.restore(model, folder)
    before_s = sum_epoch_seconds(folder, done)
    steps = session.steps_per_epoch or recipe.steps_per_epoch or math.ceil(len(fitted) / recipe.batch)
    limit = TimeLimit(session.minutes, before_s + time.monotonic() - began_s)
    progress = ProgressLog(recipe.epochs, folder / HISTORY_FILE, session.log, session.advance)
    validated = _Validated(recipe, held, folder, done) if len(held) else None
    callbacks = [StopAtNaN(), Reseed(session.seed), limit, progress]
    callbacks += [validated, Checkpoint(folder)] if validated else [Checkpoint(folder)]
    record: JSONObject = {"epochs": float(done), "ended": "done"}
    if done < recipe.epochs and not (validated and validated.is_over):
        try:
            history = model.fit(
                _batches(recipe, fitted, session.seed, range(done * steps, recipe.epochs * steps)),
                steps_per_epoch=steps,
                initial_epoch=done,
                epochs=recipe.epochs,
                verbose=0,
                shuffle=False,
                callbacks=callbacks,
            )
            record["epochs"] += len(history.epoch)
        except TimeLimitReached as over:
            record |= {"ended": "time", "epochs": over.epochs}
    if validated and validated.is_over and record["epochs"] < recipe.epochs:
        record["ended"] = "early"
    if validated and recipe.best and validated.losses:
        model.load_weights(folder / _BEST_FILE)
        record["best_epoch"] = validated.best + 1
    record["seconds"] = before_s + time.monotonic() - began_s
    return record


@dataclass(frozen=True, slots=True)
class ReferenceTrainer:
    """Trainer of a reference system, see ``cross_validation.Trainer``.

    Attributes:
        recipe: the system.
        vgg19_weights: see ``fit_reference_system``.
    """

    recipe: Reference
    vgg19_weights: Path | None = None

    def check(self, data: Data) -> None:
        """Check that the data set has one finding.

        Args:
            data: the data set.

        Raises:
            UsageError: it has several; they are named.
        """
        if len(data.findings) != 1:
            raise UsageError(
                f"{self.recipe.name} is for one finding, but the labels name {', '.join(data.findings)}: label one only"
            )

    def fit(self, data: Data, rows: npt.NDArray[np.bool_], session: Session) -> keras.Model:
        """Fit the system's network to the images of ``rows``, bool [n]."""
        labels, patients = data.labels[rows, 0], data.patients[rows]
        return fit_reference_system(self.recipe, data.pixels[rows], labels, patients, session, self.vgg19_weights)

    def logits(self, model: keras.Model, pixels: PixelArray) -> npt.NDArray[np.float64]:
        """Compute logits, float64 [n, 1], for uint8 [n, rows, columns]."""
        return compute_reference_logits(model, self.recipe, pixels)[:, np.newaxis]
