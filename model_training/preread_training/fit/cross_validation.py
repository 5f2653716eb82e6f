"""A run: one network for each fold, then one on all images.

The logits of each fold are stored when its fit ends.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import keras
import numpy as np
import numpy.typing as npt

from preread.core.errors import UsageError
from preread.core.types import JSONObject, PixelArray
from preread.imaging.preprocessing import TRAINING_SPEC
from preread_training.data.atomic_files import write_arrays_atomically, write_text_atomically
from preread_training.data.dataset import Data, format_data_set_csv, summarise_data_set
from preread_training.fit.progress import Pace
from preread_training.fit.session import Session
from preread_training.fit.trainer import (
    WEIGHTS_FILE,
    Recipe,
    build_recipe_network,
    build_serving_network,
    format_recipe,
)
from preread_training.stats.metrics import OutOfFold

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RECORD_FILE = "record.json"
IMAGES_FILE = "films.csv"
LOGITS_FILE = "logits.npz"
ALL_IMAGES = "all"


def describe_environment() -> JSONObject:
    """Return versions, machine and threads, which decide the weights."""
    packages = ("tensorflow", "keras", "numpy", "pillow", "preread")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": int(os.environ.get("TF_NUM_INTRAOP_THREADS") or os.cpu_count() or 1),
        "backend": keras.backend.backend(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


class Trainer(Protocol):
    """Trainer of the networks of a run, by one recipe."""

    @property
    def recipe(self) -> DataclassInstance:
        """All that decides a fit but the images; recorded."""

    def check(self, data: Data) -> None:
        """Check that this recipe can be fitted to the images.

        Args:
            data: the data set.

        Raises:
            UsageError: it cannot; the reason is named.
        """

    def fit(self, data: Data, rows: npt.NDArray[np.bool_], session: Session) -> keras.Model:
        """Fit a network to some images of a data set.

        Called again after an interruption it continues.

        Args:
            data: the data set.
            rows: bool [n], the images.
            session: folder, seed and limits of the fit.

        Raises:
            FittingFailed: the loss is NaN or infinite.
        """

    def logits(self, model: keras.Model, images: PixelArray) -> npt.NDArray[np.float64]:
        """Compute a network's logits for images.

        Args:
            model: of ``fit``.
            images: uint8 [n, rows, columns].

        Returns:
            float64 [n, findings].
        """


def fit_run(trainer: Trainer, data: Data, session: Session, *, only: str | None = None) -> None:
    """Fit a network to each fold's other images, then one to all images.

    Finished parts are not fitted again: call it again after an interruption.

    Args:
        trainer: fits each network.
        data: images, labels, patients and folds.
        session: its folder is the run's; seed, minutes and steps hold for each network.
        only: a fold's number or ``all``; ``None``: every part.

    Raises:
        UsageError: the folder holds a run of another recipe, seed or data set, there is no such part, or the recipe
            cannot be fitted to these images.
        FittingFailed: the loss is NaN or infinite.
        NotKept: the disk is full.
    """
    trainer.check(data)
    _begin(trainer, data, session)
    folds = int(data.folds.max()) + 1
    parts = [*map(str, range(folds)), ALL_IMAGES]
    if only is not None and only not in parts:
        raise UsageError(f"the run has no part {only!r}: choose one of {', '.join(parts)}")
    parts = parts if only is None else [only]
    for part in parts:
        if _result_file(session.folder, part).exists():
            continue
        left = sum(not _result_file(session.folder, other).exists() for other in parts)
        if part == ALL_IMAGES:
            trainer.fit(data, np.ones(len(data.labels), bool), _session_of(session, ALL_IMAGES, folds, left))
            continue
        held = data.folds == int(part)
        model = trainer.fit(data, ~held, _session_of(session, f"fold-{part}", int(part), left))
        logits = trainer.logits(model, data.pixels[held])
        write_arrays_atomically(_result_file(session.folder, part), index=np.flatnonzero(held), logits=logits)


def _begin(trainer: Trainer, data: Data, session: Session) -> None:
    """Record a new run, or compare with the record in the folder."""
    record = {
        "recipe": json.loads(format_recipe(trainer.recipe)),
        "seed": session.seed,
        "steps_per_epoch": session.steps_per_epoch,
        "absent": data.absent,
        "data": summarise_data_set(data),
        "environment": describe_environment(),
    }
    session.folder.mkdir(parents=True, exist_ok=True)
    file = session.folder / RECORD_FILE
    if not file.exists():
        write_text_atomically(session.folder / IMAGES_FILE, format_data_set_csv(data))
        write_text_atomically(file, json.dumps(record, indent=2, sort_keys=True) + "\n")
        return
    earlier = json.loads(file.read_text(encoding="utf-8"))
    for key in ("recipe", "seed", "steps_per_epoch", "data"):
        if earlier.get(key) != record[key]:
            raise UsageError(
                f"{session.folder} holds a run with another {key}: choose another folder, or the options of that run"
            )


def _result_file(folder: Path, part: str) -> Path:
    """Return the file that exists once a part is finished."""
    return folder / ALL_IMAGES / WEIGHTS_FILE if part == ALL_IMAGES else folder / f"fold-{part}" / LOGITS_FILE


def _session_of(session: Session, name: str, number: int, parts_left: int) -> Session:
    """Return the session of one network of the run, and log its name."""
    session.log(name)

    def advance(pace: Pace) -> None:
        session.advance(replace(pace, part=name, parts_left=parts_left))

    return replace(session, folder=session.folder / name, seed=session.seed + number, advance=advance)


def list_finished_folds(folder: Path) -> list[Path]:
    """List the folders of a run's folds that have their logits, in order."""
    return sorted(file.parent for file in folder.glob(f"fold-*/{LOGITS_FILE}"))


def load_out_of_fold(folder: Path, data: Data, finding: int = 0) -> tuple[OutOfFold, npt.NDArray[np.int64]]:
    """Load the out-of-fold logits of one finding of a run, and their rows.

    Args:
        folder: of the run.
        data: the data set on which it was fitted.
        finding: column of the data set's findings.

    Returns:
        The logits with labels and patients; int64 [n], the rows of these images in ``data``.

    Raises:
        UsageError: the run has no logits, or is of another data set.
    """
    record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    if record["data"]["digest"] != data.digest:
        raise UsageError(f"{folder} was fitted on another data set or other folds: correct --data")
    parts = [np.load(fold / LOGITS_FILE) for fold in list_finished_folds(folder)]
    if not parts:
        raise UsageError(f"{folder} has no finished fold: continue it with `preread-train fit`")
    rows = np.concatenate([part["index"] for part in parts])
    logits = np.concatenate([part["logits"][:, finding] for part in parts])
    return data.make_out_of_fold(finding, logits, rows), rows


def load_serving_network(
    folder: Path, part: str, findings: int, serving_px: int | None = None, batch: int | None = None
) -> keras.Model | None:
    """Load the serving network of a part of a run.

    Args:
        folder: of the run.
        part: ``fold-0`` ..., or ``all``.
        findings: number of findings.
        serving_px: side in pixels to which it shrinks its input; ``None``: the recipe's.
        batch: images at a time; ``None``: any number.

    Returns:
        The network; ``None`` if the part has no weights or is a reference system's.
    """
    recipe = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))["recipe"]
    weights = folder / part / WEIGHTS_FILE
    if "serving_px" not in recipe or not weights.exists():
        return None
    ours = Recipe.from_record({**recipe, "serving_px": serving_px or recipe["serving_px"]})
    network = build_recipe_network(ours, findings)
    network.load_weights(weights)
    return build_serving_network(network, ours, TRAINING_SPEC, batch)
