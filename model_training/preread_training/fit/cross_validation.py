"""One run: a recipe on a data set, fold by fold, then on all films; each fold's logits are kept as it ends."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from preread.core.errors import UsageError
from preread.core.types import JSONObject, PixelArray
from preread.imaging.preprocessing import TRAINING_SPEC
from preread_training.data.atomic_files import keep_arrays, keep_text
from preread_training.data.dataset import Data, summary, to_csv
from preread_training.fit.progress import Advance, Pace, unheard
from preread_training.fit.trainer import (
    WEIGHTS_FILE,
    Recipe,
    build,
    describe,
    fit,
    logits_of,
    sampling_weights,
    serving,
)
from preread_training.reference import fit as reference
from preread_training.reference.systems import Reference
from preread_training.stats.metrics import OutOfFold

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


def run(
    recipe: Recipe | Reference,
    data: Data,
    folder: Path,
    *,
    seed: int,
    only: str | None = None,
    steps_per_epoch: int | None = None,
    minutes: float | None = None,
    vgg19_weights: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    advance: Advance = unheard,
) -> None:
    """Fit every fold that has no logits yet, then the network on all films; call again after an interruption.

    Args:
        minutes: for each network; after them its fit ends, and ``fit.json`` says how far it came.
        vgg19_weights: for the reference system that wants them, see ``reference.fit``.

    Raises:
        UsageError: the folder holds a run of another recipe, seed or data set, there is no such fold, or
            a reference system is to learn several findings.
        FittingFailed: see ``fitting.fit``.
        NotKept: the disk is full.
    """
    if isinstance(recipe, Reference) and len(data.findings) != 1:
        raise UsageError(f"{recipe.name} knows one finding, these films have {', '.join(data.findings)}")
    record = {
        "recipe": json.loads(describe(recipe)),
        "seed": seed,
        "steps_per_epoch": steps_per_epoch,
        "absent": data.absent,
        "data": summary(data),
        "environment": environment(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RECORD_FILE
    if file.exists():
        earlier = json.loads(file.read_text(encoding="utf-8"))
        for key in ("recipe", "seed", "steps_per_epoch", "data"):
            if earlier.get(key) != record[key]:
                raise UsageError(f"{folder} holds a run with another {key}: choose another folder")
    else:
        keep_text(folder / FILMS_FILE, to_csv(data))
        keep_text(file, json.dumps(record, indent=2, sort_keys=True) + "\n")
    count = int(data.folds.max()) + 1
    parts = [*map(str, range(count)), ALL_FILMS]
    if only is not None and only not in parts:
        raise UsageError(f"there is no part {only!r} of this run: choose one of {', '.join(parts)}")

    wanted = parts if only is None else [only]

    def kept(part: str) -> Path:
        """The file whose presence says that a part is finished."""
        return folder / ALL_FILMS / WEIGHTS_FILE if part == ALL_FILMS else folder / f"fold-{part}" / LOGITS_FILE

    def network(name: str, rows: npt.NDArray[np.bool_], its_seed: int) -> keras.Model:
        say(name)
        left = sum(not kept(part).exists() for part in wanted)

        def tell(pace: Pace) -> None:
            advance(replace(pace, part=name, parts_left=left))

        pictures, labels, patients = data.pictures[rows], data.labels[rows], data.patients[rows]
        if isinstance(recipe, Reference):
            return reference.fit(
                recipe,
                pictures,
                labels[:, 0],
                patients,
                folder / name,
                seed=its_seed,
                steps_per_epoch=steps_per_epoch,
                minutes=minutes,
                vgg19_weights=vgg19_weights,
                say=say,
                advance=tell,
            )
        return fit(
            recipe,
            TRAINING_SPEC,
            pictures,
            labels,
            sampling_weights(labels, patients, (data.conflict | data.misled_by_sharpness)[rows], recipe),
            folder / name,
            seed=its_seed,
            steps_per_epoch=steps_per_epoch,
            minutes=minutes,
            say=say,
            advance=tell,
        )

    def logits(model: keras.Model, pictures: PixelArray) -> npt.NDArray[np.float64]:
        if isinstance(recipe, Reference):
            return reference.logits_of(model, recipe, pictures)[:, np.newaxis]
        return logits_of(serving(model, recipe, TRAINING_SPEC), TRAINING_SPEC, pictures)

    for part in wanted:
        if kept(part).exists():
            continue
        if part == ALL_FILMS:
            network(ALL_FILMS, np.ones(len(data.labels), bool), seed + count)
            continue
        held = data.folds == int(part)
        model = network(f"fold-{part}", ~held, seed + int(part))
        keep_arrays(kept(part), index=np.flatnonzero(held), logits=logits(model, data.pictures[held]))


def finished_folds(folder: Path) -> list[Path]:
    """The folders of a run's folds that have their logits, in order."""
    return sorted(file.parent for file in folder.glob(f"fold-*/{LOGITS_FILE}"))


def out_of_fold(folder: Path, data: Data, finding: int = 0) -> tuple[OutOfFold, npt.NDArray[np.int64]]:
    """Gather one finding's logits of all folds of a run, and the rows of the data set to which they belong.

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
    """The network of a part of a run as it serves; ``None`` where there is none, or it is a reference system's.

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
