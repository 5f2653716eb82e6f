"""A run: one network for each fold, then one on all images.

The logits of each fold are stored when it ends.
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
from preread_training.data.atomic_files import keep_arrays, keep_text
from preread_training.data.dataset import Data, summary, to_csv
from preread_training.fit.progress import Pace
from preread_training.fit.session import Session
from preread_training.fit.trainer import WEIGHTS_FILE, Recipe, build, describe, serving
from preread_training.stats.metrics import OutOfFold

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RECORD_FILE = "record.json"
FILMS_FILE = "films.csv"
LOGITS_FILE = "logits.npz"
ALL_FILMS = "all"


def environment() -> JSONObject:
    """Versions that decide the weights."""
    packages = ("tensorflow", "keras", "numpy", "pillow", "preread")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": int(os.environ.get("TF_NUM_INTRAOP_THREADS") or os.cpu_count() or 1),
        "backend": keras.backend.backend(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


class Trainer(Protocol):
    """Fit the networks of a run by one recipe."""

    @property
    def recipe(self) -> DataclassInstance:
        """All that decides a fit but the images; recorded."""

    def check(self, data: Data) -> None:
        """Refuse images from which this recipe cannot learn.

        Raises:
            UsageError: names why.
        """

    def fit(self, data: Data, rows: npt.NDArray[np.bool_], session: Session) -> keras.Model:
        """Fit a network to the images of ``rows``, bool [n].

        Called again after an interruption it continues.

        Raises:
            FittingFailed: the loss is NaN or infinite.
        """

    def logits(self, model: keras.Model, pictures: PixelArray) -> npt.NDArray[np.float64]:
        """Return float64 [n, findings] for uint8 [n, rows, columns]."""


def run(trainer: Trainer, data: Data, session: Session, *, only: str | None = None) -> None:
    """Fit a network to each fold's other images, then one to all images.

    What is finished is not fitted again: call it again after an interruption.

    Args:
        trainer: fits each network.
        data: images, labels, patients and folds.
        session: its folder is the run's; seed, minutes and steps hold for each network.
        only: a fold's number or ``all``; ``None``: every part.

    Raises:
        UsageError: the folder holds a run of another recipe, seed or data set, there is no such part, or the recipe
            cannot learn from these images.
        FittingFailed: the loss is NaN or infinite.
        NotKept: the disk is full.
    """
    trainer.check(data)
    _begin(trainer, data, session)
    folds = int(data.folds.max()) + 1
    parts = [*map(str, range(folds)), ALL_FILMS]
    if only is not None and only not in parts:
        raise UsageError(f"there is no part {only!r} of this run: choose one of {', '.join(parts)}")
    parts = parts if only is None else [only]
    for part in parts:
        if _result_file(session.folder, part).exists():
            continue
        left = sum(not _result_file(session.folder, other).exists() for other in parts)
        if part == ALL_FILMS:
            trainer.fit(data, np.ones(len(data.labels), bool), _session_of(session, ALL_FILMS, folds, left))
            continue
        held = data.folds == int(part)
        model = trainer.fit(data, ~held, _session_of(session, f"fold-{part}", int(part), left))
        logits = trainer.logits(model, data.pictures[held])
        keep_arrays(_result_file(session.folder, part), index=np.flatnonzero(held), logits=logits)


def _begin(trainer: Trainer, data: Data, session: Session) -> None:
    """Record a new run, or compare with the record in the folder."""
    record = {
        "recipe": json.loads(describe(trainer.recipe)),
        "seed": session.seed,
        "steps_per_epoch": session.steps_per_epoch,
        "absent": data.absent,
        "data": summary(data),
        "environment": environment(),
    }
    session.folder.mkdir(parents=True, exist_ok=True)
    file = session.folder / RECORD_FILE
    if not file.exists():
        keep_text(session.folder / FILMS_FILE, to_csv(data))
        keep_text(file, json.dumps(record, indent=2, sort_keys=True) + "\n")
        return
    earlier = json.loads(file.read_text(encoding="utf-8"))
    for key in ("recipe", "seed", "steps_per_epoch", "data"):
        if earlier.get(key) != record[key]:
            raise UsageError(f"{session.folder} holds a run with another {key}: choose another folder")


def _result_file(folder: Path, part: str) -> Path:
    """Return the file that exists once a part is finished."""
    return folder / ALL_FILMS / WEIGHTS_FILE if part == ALL_FILMS else folder / f"fold-{part}" / LOGITS_FILE


def _session_of(session: Session, name: str, number: int, parts_left: int) -> Session:
    """Return the session of one network of the run, and log its name."""
    session.log(name)

    def advance(pace: Pace) -> None:
        session.advance(replace(pace, part=name, parts_left=parts_left))

    return replace(session, folder=session.folder / name, seed=session.seed + number, advance=advance)


def finished_folds(folder: Path) -> list[Path]:
    """The folders of a run's folds that have their logits, in order."""
    return sorted(file.parent for file in folder.glob(f"fold-*/{LOGITS_FILE}"))


def out_of_fold(folder: Path, data: Data, finding: int = 0) -> tuple[OutOfFold, npt.NDArray[np.int64]]:
    """Gather the out-of-fold logits of one finding, and their rows.

    Raises:
        UsageError: the run has no logits, or is of another data set.
    """
    record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    if record["data"]["digest"] != data.digest:
        raise UsageError(f"{folder} was fitted on another data set, or other folds, than the one given")
    parts = [np.load(fold / LOGITS_FILE) for fold in finished_folds(folder)]
    if not parts:
        raise UsageError(f"{folder} has no finished fold")
    rows = np.concatenate([part["index"] for part in parts])
    logits = np.concatenate([part["logits"][:, finding] for part in parts])
    return data.of(finding, logits, rows), rows


def network_of(
    folder: Path, part: str, findings: int, serving_px: int | None = None, batch: int | None = None
) -> keras.Model | None:
    """Return the serving network of a part of a run.

    ``None`` if the part has no weights or is a reference system's.

    Args:
        part: ``fold-0`` ..., or ``all``.
        serving_px: side at which it looks; the recipe's where absent.
        batch: films at a time; any number where absent.
    """
    recipe = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))["recipe"]
    weights = folder / part / WEIGHTS_FILE
    if "serving_px" not in recipe or not weights.exists():
        return None
    ours = Recipe.from_record({**recipe, "serving_px": serving_px or recipe["serving_px"]})
    network = build(ours, findings)
    network.load_weights(weights)
    return serving(network, ours, TRAINING_SPEC, batch)
