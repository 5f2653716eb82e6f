"""Perturbation tests of a run's first fold, for manifest and report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from preread.core.types import JSONObject
from preread.imaging.preprocessing import TRAINING_SPEC
from preread_training.analysis.activation_maps import look_with_keras, map_correlation, scramble
from preread_training.analysis.perturbation import look_inside, sample
from preread_training.data.dataset import Data
from preread_training.fit.cross_validation import LOGITS_FILE, finished_folds, network_of
from preread_training.stats.operating_point import calibrate

_FILMS_SCRAMBLED = 64


def examine(run: Path, data: Data, prevalence: float, *, most: int = 400) -> dict[str, JSONObject]:
    """Run the perturbation tests on one network of a run.

    Two minutes for a thousand images; ``None`` if the run has no network.

    Args:
        prevalence: to which this fold's own calibration is fitted, for changes of probability.
        most: so many films at most go through the table of disturbances.

    Returns:
        For each finding what ``probing.look_inside`` says, ``fold``, and ``scrambled_map_correlation``: the median
        correlation of its activation maps with those of the same network, weights shuffled.
    """
    for fold in finished_folds(run):
        served = network_of(run, fold.name, len(data.findings))
        if served is not None:
            break
    else:
        return {}
    kept = np.load(fold / LOGITS_FILE)
    rows, logits = kept["index"], kept["logits"]
    examined: dict[str, JSONObject] = {}
    maps = {}
    for column, finding in enumerate(data.findings):
        look = look_with_keras(served, TRAINING_SPEC, column)
        films = data.of(column, logits[:, column], rows)
        calibration = calibrate(films, prevalence)
        examined[finding] = {
            "fold": fold.name,
            **look_inside(look, data.pictures[rows], films.labels, films.conflict, calibration, most),
        }
        some = rows[sample(films.labels, films.conflict, _FILMS_SCRAMBLED)]
        maps[finding] = (some, look(data.pictures[some]).maps)
    scramble(served)
    for column, (finding, (some, true)) in enumerate(maps.items()):
        shuffled = look_with_keras(served, TRAINING_SPEC, column)(data.pictures[some]).maps
        examined[finding]["scrambled_map_correlation"] = float(np.median(map_correlation(true, shuffled)))
    return examined
