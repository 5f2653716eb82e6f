"""Probe the network of a run's first fold on the films that it has not seen, for the manifest and the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model_training.dataset import Data
from model_training.fitting import WEIGHTS_FILE, Recipe, build, serving
from model_training.inside import look_with_keras, map_correlation, scramble
from model_training.probing import look_inside, sample
from model_training.thresholds import calibrate
from worker.domain import JSONObject
from worker.preprocessing import TRAINING_SPEC

_FILMS_SCRAMBLED = 64


def examine(run: Path, recipe: Recipe, data: Data, prevalence: float, *, most: int = 400) -> dict[str, JSONObject]:
    """Look inside one network of a run, some two minutes for a thousand films; nothing where no fold is finished.

    Args:
        prevalence: to which this fold's own calibration is fitted, for changes of probability.
        most: so many films at most go through the table of disturbances.

    Returns:
        For each finding what ``probing.look_inside`` says, ``fold``, and ``scrambled_map_correlation``: the median
        correlation of its activation maps with those of the same network, weights shuffled.
    """
    folds = sorted(file.parent for file in run.glob("fold-*/logits.npz") if (file.parent / WEIGHTS_FILE).exists())
    if not folds:
        return {}
    kept = np.load(folds[0] / "logits.npz")
    rows, logits = kept["index"], kept["logits"]
    network = build(recipe, len(data.findings))
    network.load_weights(folds[0] / WEIGHTS_FILE)
    served = serving(network, recipe, TRAINING_SPEC)
    examined: dict[str, JSONObject] = {}
    maps = {}
    for column, finding in enumerate(data.findings):
        look = look_with_keras(served, TRAINING_SPEC, column)
        films = data.of(column, logits[:, column], rows)
        calibration = calibrate(films, prevalence)
        examined[finding] = {
            "fold": folds[0].name,
            **look_inside(look, data.pictures[rows], films.labels, films.conflict, calibration, most),
        }
        some = rows[sample(films.labels, films.conflict, _FILMS_SCRAMBLED)]
        maps[finding] = (some, look(data.pictures[some]).maps)
    scramble(network)
    for column, (finding, (some, true)) in enumerate(maps.items()):
        shuffled = look_with_keras(served, TRAINING_SPEC, column)(data.pictures[some]).maps
        examined[finding]["scrambled_map_correlation"] = float(np.median(map_correlation(true, shuffled)))
    return examined
