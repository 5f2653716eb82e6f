"""Keras callbacks of each fit: checkpoints, time limit, progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from preread.core.errors import PrereadError
from preread_training.data.atomic_files import write_text_atomically, write_weights_atomically
from preread_training.fit.progress import Advance, Pace, ignore_progress

HISTORY_FILE = "history.csv"
_HISTORY_HEADER = "epoch,loss,seconds"
FIT_FILE = "fit.json"


class FittingFailed(PrereadError):
    """The loss of a fit became NaN or infinite."""

    code = "fitting_failed"
    hint = "Lower the learning rate, or look for an image whose pixels are all alike."


class StopAtNaN(keras.callbacks.Callback):  # type: ignore[misc]
    """Keras callback that ends a fit if its loss is NaN or infinite."""

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if logs and not np.isfinite(logs["loss"]):
            raise FittingFailed(f"the loss became {logs['loss']} at step {batch + 1}")


class Reseed(keras.callbacks.Callback):  # type: ignore[misc]
    """Keras callback that seeds dropout at each epoch.

    No checkpoint has the generators' state, and a resumed fit must be the same.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        dropouts = [layer for layer in self.model.layers if isinstance(layer, keras.layers.Dropout) and layer.rate]
        for position, layer in enumerate(dropouts):  # layers of one network draw apart
            layer.seed_generator.state.assign([self._seed + 7919 * position, epoch])


class TimeLimitReached(Exception):
    """The minutes allowed for a fit are over.

    Attributes:
        epochs: reached, the last one broken off.
    """

    def __init__(self, epochs: float) -> None:
        super().__init__(f"the minutes allowed for the fit were over after {epochs:.2f} epochs")
        self.epochs = epochs


class TimeLimit(keras.callbacks.Callback):  # type: ignore[misc]
    """Keras callback that ends a fit after some minutes, between two steps."""

    def __init__(self, minutes: float | None, spent_s: float = 0.0) -> None:
        super().__init__()
        self._until_s = None if minutes is None else time.monotonic() + minutes * 60 - spent_s
        self._epoch = 0

    @property
    def over(self) -> bool:
        """Return whether the time has passed; always false without a limit."""
        return self._until_s is not None and time.monotonic() >= self._until_s

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch
        if self.over:
            raise TimeLimitReached(epoch)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        steps = self.params["steps"]
        if self.over and batch + 1 < steps:  # an epoch that is complete is kept as one
            raise TimeLimitReached(self._epoch + (batch + 1) / steps)


class ProgressLog(keras.callbacks.Callback):  # type: ignore[misc]
    """Keras callback that records each epoch, logs it, and reports each step.

    If a fit was broken off after its history and before its checkpoint, that epoch is done again and its row replaced.
    """

    def __init__(
        self, epochs: int, history: Path, say: Callable[[str], None], advance: Advance = ignore_progress
    ) -> None:
        super().__init__()
        self._epochs, self._history, self._say, self._advance = epochs, history, say, advance
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._began_s, self._epoch = time.monotonic(), epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._advance(Pace(self._epoch, self._epochs, batch + 1, self.params["steps"]))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        took_s, loss = time.monotonic() - self._began_s, (logs or {})["loss"]
        lines = self._history.read_text(encoding="utf-8").splitlines() if self._history.exists() else []
        kept = [line for line in lines if line[:1].isdigit() and int(line.split(",")[0]) <= epoch]
        write_text_atomically(
            self._history, "\n".join([_HISTORY_HEADER, *kept, f"{epoch + 1},{loss:.6f},{took_s:.3f}"]) + "\n"
        )
        left_min = took_s * (self._epochs - epoch - 1) / 60
        self._say(f"epoch {epoch + 1} of {self._epochs}: loss {loss:.4f}, about {left_min:.0f} min left")


class Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Keras callback that saves weights and optimizer after each epoch.

    The file name has the epoch; files are replaced in one step.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        earlier = _checkpoints(self._folder)
        write_weights_atomically(self.model, self._folder / f"checkpoint-{epoch + 1}.weights.h5")
        for path in earlier.values():
            path.unlink()

    @staticmethod
    def count_epochs(folder: Path) -> int:
        """Return the number of epochs of the newest checkpoint; 0 without any."""
        return max(_checkpoints(folder), default=0)

    @staticmethod
    def restore(model: keras.Model, folder: Path) -> int:
        """Load the newest checkpoint of a folder into a compiled model.

        Args:
            model: the compiled model.
            folder: of the fit.

        Returns:
            Its number of epochs; 0 without any.
        """
        kept = _checkpoints(folder)
        if not kept:
            return 0
        model.optimizer.build(model.trainable_variables)
        model.load_weights(kept[max(kept)])
        return max(kept)


def _checkpoints(folder: Path) -> dict[int, Path]:
    return {int(path.name.split("-")[1].split(".")[0]): path for path in folder.glob("checkpoint-*.weights.h5")}


def sum_epoch_seconds(folder: Path, epochs: int) -> float:
    """Return the seconds that the first epochs of a fit took.

    Args:
        folder: of the fit.
        epochs: how many epochs count.

    Returns:
        Their sum by the fit's history; 0 without a history.
    """
    return sum(took_s for epoch, _, took_s in read_history(folder) if epoch <= epochs)


def read_history(folder: Path) -> list[tuple[int, float, float]]:
    """Read the history of a fit: epoch (from 1), loss and seconds of each.

    Files of 0.1.0 have no header.
    """
    file = folder / HISTORY_FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = [line.split(",") for line in lines if line[:1].isdigit()]
    return [(int(row[0]), float(row[1]), float(row[2])) for row in rows if len(row) == 3]
