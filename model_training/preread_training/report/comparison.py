"""Compare systems under one protocol.

Fold 0 is held out, patients are apart, one seed.

Each system has its own folder under that of the comparison, with its run in it and, once it is measured, ``row.json``:
several processes may fit disjoint systems into one comparison, and the table comes from the rows alone.
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
from preread_training.data.atomic_files import keep_text
from preread_training.data.dataset import Data
from preread_training.fit.session import Session
from preread_training.reference.systems import REFERENCES
from preread_training.stats.baselines import baseline_features, cross_fitted_logits
from preread_training.stats.bootstrap import bootstrap
from preread_training.stats.metrics import OutOfFold, auc, measure

HELD_OUT = 0
PRODUCT = "product"
ROW_FILE = "row.json"
BASELINES = {
    "linear_14x14": "linear model on 14x14 thumbnails",
    "border_only": "linear model on the border of the thumbnails alone",
    "sharpness_only": "linear model on the sharpness of the film alone",
    "always": "calls every film pneumonia",
}
_ORDER = (*REFERENCES, "default", PRODUCT, *BASELINES)


def _protocol(data: Data, seed: int) -> JSONObject:
    """What all rows of one table share."""
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


def measured(logits: npt.NDArray[np.float64], data: Data, rows: npt.NDArray[np.int64]) -> JSONObject:
    """Return the measures of a system at a probability of one half.

    AUC, accuracy, sensitivity, specificity, and AUC on conflict normals.
    """
    films = OutOfFold(logits, data.labels[rows, 0], data.conflict[rows, 0], data.patients[rows])
    figures = measure(films.logits, films.logits > 0, films.labels, films.groups)
    hard = films.at(films.conflict_normals_and_present)
    figures["auc_conflict_normals"] = bootstrap({"auc": lambda w: auc(hard.logits, hard.labels, w)}, hard.groups)["auc"]
    names = ("auc", "accuracy", "sensitivity", "specificity", "auc_conflict_normals")
    return {name: figures[name].to_json() for name in names}


def _keep_row(folder: Path, row: JSONObject) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    keep_text(folder / ROW_FILE, json.dumps(row, indent=2) + "\n")


def keep_baselines(data: Data, runs: Path, seed: int) -> None:
    """Measure linear models and constant answers, once for a comparison."""
    if all((runs / name / ROW_FILE).exists() for name in BASELINES):
        return
    held = np.flatnonzero(data.folds == HELD_OUT)
    parts = np.where(data.folds == HELD_OUT, 0, 1)
    features = baseline_features(data.pictures)
    logits = {
        name: cross_fitted_logits(values, data.labels[:, 0], parts)[held] for name, values in features.items()
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
                "measured": measured(logits[name], data, held),
            },
        )


def _fitted(part: Path, recipe: JSONObject) -> JSONObject:
    """Return epochs, seconds for each epoch, and parameters of a fit."""
    from preread_training.fit.callbacks import FIT_FILE, history_of

    history = history_of(part)
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


def keep_run(name: str, run: Path, into: Path, data: Data, *, seed: int, minutes: float | None) -> None:
    """Measure a run's network on the held-out fold and store the row.

    Args:
        minutes: that its fit was allowed, None without a bound.

    Raises:
        UsageError: the run is of another data set, or has no logits of that fold.
    """
    from preread_training.fit.cross_validation import RECORD_FILE

    record: JSONObject = json.loads((run / RECORD_FILE).read_text(encoding="utf-8"))
    if record["data"]["digest"] != data.digest:
        raise UsageError(f"{run} was fitted on another data set, or other folds, than the one given")
    part = run / f"fold-{HELD_OUT}"
    if not (part / "logits.npz").exists():
        raise UsageError(f"{run} has no logits of fold {HELD_OUT} yet")
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
            "measured": measured(kept["logits"][:, 0], data, kept["index"]),
        },
    )


def fit_all(
    names: Sequence[str],
    data: Data,
    session: Session,
    void_minutes: float,
    vgg19_weights: Path | None = None,
) -> None:
    """Fit and measure each system that has no row yet.

    Call it again after an interruption. A fit whose loss is not a number is a result too: its row records it.

    A fit whose loss is not a number is a result too: its row records it.

    Args:
        names: of recipes and reference systems.
        data: images, labels, patients and folds.
        session: its folder has a folder for each system; its minutes hold for each fit.
        void_minutes: the same for systems whose reported number says nothing of them.
        vgg19_weights: see ``reference.fit``.
    """
    import keras
    import tensorflow as tf

    from preread_training.fit.callbacks import FittingFailed
    from preread_training.fit.cross_validation import run
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
            run(trainer, data, replace(session, folder=runs / name, minutes=minutes), only=str(HELD_OUT))
            keep_run(name, runs / name, runs, data, seed=seed, minutes=minutes)
        except FittingFailed as error:
            session.log(f"{name}: {error}")
            row = {"name": name, **asdict(trainer.recipe), "protocol": _protocol(data, seed), "failed": str(error)}
            _keep_row(runs / name, {**row, "minutes_allowed": minutes, "measured": None})
        keras.utils.clear_session()


def gather(runs: Path) -> list[JSONObject]:
    """Return all rows of a comparison in the order of the table.

    Raises:
        UsageError: there is none, or two are of different films, folds or seeds.
    """
    rows: list[JSONObject] = [
        json.loads(file.read_text(encoding="utf-8")) for file in sorted(runs.glob(f"*/{ROW_FILE}"))
    ]
    if not rows:
        raise UsageError(f"{runs} holds no finished row of a comparison")
    if differing := [row["name"] for row in rows if row["protocol"] != rows[0]["protocol"]]:
        raise UsageError(
            f"{runs}: {', '.join(differing)} and {rows[0]['name']} were held to different films, folds or seeds"
        )
    place = {name: position for position, name in enumerate(_ORDER)}
    return sorted(rows, key=lambda row: (place.get(row["name"], len(place)), row["name"]))
