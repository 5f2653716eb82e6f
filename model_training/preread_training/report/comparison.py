"""Comparison of systems under one protocol: fit, measure, rows.

Fold 0 is held out, patients are apart, one seed.

Each system has its own folder under that of the comparison, with its run in it and, once it is measured, ``row.json``:
several processes may fit disjoint systems into one comparison, and the table is written from the rows alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from preread.core.errors import UsageError
from preread.core.types import JSONObject
from preread_training.data.atomic_files import write_text_atomically
from preread_training.data.dataset import Data
from preread_training.fit.session import Session
from preread_training.reference.systems import REFERENCES
from preread_training.stats.baselines import compute_baseline_features, compute_cross_fitted_logits
from preread_training.stats.bootstrap import bootstrap_measures
from preread_training.stats.metrics import OutOfFold, auc, measure_logits

HELD_OUT = 0
PRODUCT = "product"
ROW_FILE = "row.json"
BASELINES = {
    "linear_14x14": "linear model on 14x14 thumbnails",
    "border_only": "linear model on the border of the thumbnails alone",
    "sharpness_only": "linear model on the sharpness of the image alone",
    "always": "calls every image pneumonia",
}
_ORDER = (*REFERENCES, "default", PRODUCT, *BASELINES)


def _protocol(data: Data, seed: int) -> JSONObject:
    """Return what all rows of one table have in common."""
    held = data.folds == HELD_OUT
    labels = data.labels[:, 0]
    return {
        "digest": data.digest,
        "seed": seed,
        "folds": int(data.folds.max()) + 1,
        "films_fitted": int((~held).sum()),
        "patients_fitted": len(set(data.patients[~held].tolist())),
        "films_held_out": int(held.sum()),
        "with_finding_held_out": int(labels[held].sum()),
        "patients_held_out": len(set(data.patients[held].tolist())),
        "conflict_normals_held_out": int((data.conflict[held, 0] & (labels[held] == 0)).sum()),
    }


def measure_system(logits: npt.NDArray[np.float64], data: Data, rows: npt.NDArray[np.int64]) -> JSONObject:
    """Measure a system on held-out images at a probability of one half.

    Args:
        logits: float64 [n], of images that the system had not seen.
        data: the data set.
        rows: int64 [n], rows of these images in it.

    Returns:
        ``auc``, ``accuracy``, ``sensitivity``, ``specificity`` and ``auc_conflict_normals`` (hard negatives against all
        images with the finding), each with its 95 % interval by patient.
    """
    held_out = OutOfFold(logits, data.labels[rows, 0], data.conflict[rows, 0], data.patients[rows])
    figures = measure_logits(held_out.logits, held_out.logits > 0, held_out.labels, held_out.groups)
    hard = held_out.select_rows(held_out.hard_negatives_and_present)
    figures["auc_conflict_normals"] = bootstrap_measures(
        {"auc": lambda w: auc(hard.logits, hard.labels, w)}, hard.groups
    )["auc"]
    names = ("auc", "accuracy", "sensitivity", "specificity", "auc_conflict_normals")
    return {name: figures[name].to_json() for name in names}


def _keep_row(folder: Path, row: JSONObject) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / ROW_FILE, json.dumps(row, indent=2) + "\n")


def measure_baselines(data: Data, runs: Path, seed: int) -> None:
    """Measure linear baselines and a constant answer, and store their rows.

    Baselines that have rows are not measured again.

    Args:
        data: the data set.
        runs: folder of the comparison.
        seed: of the folds.
    """
    if all((runs / name / ROW_FILE).exists() for name in BASELINES):
        return
    held = np.flatnonzero(data.folds == HELD_OUT)
    parts = np.where(data.folds == HELD_OUT, 0, 1)
    features = compute_baseline_features(data.pixels)
    logits = {
        name: compute_cross_fitted_logits(values, data.labels[:, 0], parts)[held] for name, values in features.items()
    } | {"always": np.ones(len(held))}
    parameters = {name: values.shape[1] + 1 for name, values in features.items()} | {"always": 0}
    for name, system in BASELINES.items():
        _keep_row(
            runs / name,
            {
                "name": name,
                "system": system,
                "protocol": _protocol(data, seed),
                "parameters": parameters[name],
                "measured": measure_system(logits[name], data, held),
            },
        )


def _fitted(part: Path, recipe: JSONObject) -> JSONObject:
    """Return epochs, seconds for each epoch, and parameters of a fit."""
    from preread_training.fit.callbacks import FIT_FILE, read_history

    history = read_history(part)
    seconds = [took_s for _, _, took_s in history]
    if (part / FIT_FILE).exists():
        fit: JSONObject = json.loads((part / FIT_FILE).read_text(encoding="utf-8"))
        if not seconds and fit["epochs"]:  # broken off within its first epoch
            seconds = [fit["seconds"] / fit["epochs"]]
    else:  # a run of a version that did not keep it
        from preread_training.nets.architectures import ARCHITECTURES

        fit = {
            "epochs": len(history),
            "epochs_meant": sum(epochs for _, epochs in recipe["sizes"]),
            "seconds": sum(seconds),
            "ended": "done",
            "parameters": ARCHITECTURES[recipe["architecture"]](findings=1).count_params(),
        }
    return {**fit, "seconds_per_epoch": float(np.median(seconds)) if seconds else None}


def measure_run(name: str, run: Path, into: Path, data: Data, *, seed: int, minutes: float | None) -> None:
    """Measure a run's network on the held-out fold and store its row.

    Args:
        name: of the system.
        run: folder of its run.
        into: folder of the comparison.
        data: the data set.
        seed: of the run.
        minutes: that its fit was allowed; ``None``: no limit.

    Raises:
        UsageError: the run is of another data set, or has no logits of that fold.
    """
    from preread_training.fit.cross_validation import RECORD_FILE

    record: JSONObject = json.loads((run / RECORD_FILE).read_text(encoding="utf-8"))
    if record["data"]["digest"] != data.digest:
        raise UsageError(f"{run} was fitted on another data set or other folds: correct --data, --folds or --seed")
    part = run / f"fold-{HELD_OUT}"
    if not (part / "logits.npz").exists():
        raise UsageError(f"{run} has no logits of fold {HELD_OUT} yet: finish that fold with `preread-train fit`")
    kept = np.load(part / "logits.npz")
    if name in REFERENCES:
        system = asdict(REFERENCES[name])
    else:
        system = {"system": "the product's own network, EfficientNet-Lite0", "recipe": record["recipe"]}
    _keep_row(
        into / name,
        {
            **system,
            "name": name,
            "protocol": _protocol(data, seed),
            "environment": record["environment"],
            "minutes_allowed": minutes,
            **_fitted(part, record["recipe"]),
            "measured": measure_system(kept["logits"][:, 0], data, kept["index"]),
        },
    )


def fit_systems(
    names: Sequence[str],
    data: Data,
    session: Session,
    void_minutes: float,
    vgg19_weights: Path | None = None,
) -> None:
    """Fit and measure each system of a comparison that has no row yet.

    Call it again after an interruption. If the loss of a fit is NaN or infinite, the row records that the fit failed.

    Args:
        names: of recipes and reference systems.
        data: images, labels, patients and folds.
        session: its folder has a folder for each system; its minutes hold for each fit.
        void_minutes: the same for systems whose reported number states nothing about them.
        vgg19_weights: see ``reference.fit``.
    """
    import keras
    import tensorflow as tf

    from preread_training.fit.callbacks import FittingFailed
    from preread_training.fit.cross_validation import fit_run
    from preread_training.fit.trainer import RECIPES, RecipeTrainer
    from preread_training.reference.fit import ReferenceTrainer

    tf.get_logger().setLevel(logging.ERROR)  # many networks in one process: TensorFlow would warn of each
    runs, seed = session.folder, session.seed
    for position, name in enumerate(names, 1):
        if (runs / name / ROW_FILE).exists():
            continue
        reference = REFERENCES.get(name)
        trainer = ReferenceTrainer(reference, vgg19_weights) if reference else RecipeTrainer(RECIPES[name])
        minutes = void_minutes if reference and reference.void else session.minutes
        session.log(f"{name}, {position} of {len(names)}: at most {minutes:g} min")
        try:
            fit_run(trainer, data, replace(session, folder=runs / name, minutes=minutes), only=str(HELD_OUT))
            measure_run(name, runs / name, runs, data, seed=seed, minutes=minutes)
        except FittingFailed as error:
            session.log(f"{name}: {error}")
            row = {"name": name, **asdict(trainer.recipe), "protocol": _protocol(data, seed), "failed": str(error)}
            _keep_row(runs / name, {**row, "minutes_allowed": minutes, "measured": None})
        keras.utils.clear_session()


def read_rows(runs: Path) -> list[JSONObject]:
    """Read all rows of a comparison, in the order of the table.

    Args:
        runs: folder of the comparison.

    Raises:
        UsageError: there is none, or two are of different images, folds or seeds.
    """
    rows: list[JSONObject] = [
        json.loads(file.read_text(encoding="utf-8")) for file in sorted(runs.glob(f"*/{ROW_FILE}"))
    ]
    if not rows:
        raise UsageError(f"{runs} holds no finished row of a comparison: name data to fit systems with --data")
    if differing := [row["name"] for row in rows if row["protocol"] != rows[0]["protocol"]]:
        raise UsageError(
            f"{runs}: {', '.join(differing)} and {rows[0]['name']} were measured on different images, folds or seeds: "
            "put them into folders of their own"
        )
    place = {name: position for position, name in enumerate(_ORDER)}
    return sorted(rows, key=lambda row: (place.get(row["name"], len(place)), row["name"]))
