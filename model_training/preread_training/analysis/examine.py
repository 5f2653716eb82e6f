"""Perturbation tests of a run's first fold, for manifest and report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from preread.core.types import JSONObject
from preread.imaging.preprocessing import TRAINING_SPEC
from preread_training.analysis.activation_maps import correlate_maps, make_keras_runner, shuffle_weights
from preread_training.analysis.perturbation import choose_perturbed_rows, run_perturbation_tests
from preread_training.data.dataset import Data
from preread_training.fit.cross_validation import LOGITS_FILE, list_finished_folds, load_serving_network
from preread_training.stats.operating_point import fit_calibration

_IMAGES_SHUFFLED = 64


def perturb_first_fold(run: Path, data: Data, prevalence: float, *, most: int = 400) -> dict[str, JSONObject]:
    """Run the perturbation tests on the network of a run's first fold.

    It takes about two minutes for a thousand images.

    Args:
        run: folder of the run.
        data: the data set on which it was fitted.
        prevalence: to which this fold's own calibration is fitted, for changes of probability, in (0, 1).
        most: at most this many images go through the table of disturbances.

    Returns:
        For each finding the record of ``perturbation.run_perturbation_tests``, ``fold``, and
        ``scrambled_map_correlation``: the median correlation of its activation maps with those of the same network with
        shuffled weights. Empty if the run has no network.
    """
    for fold in list_finished_folds(run):
        served = load_serving_network(run, fold.name, len(data.findings))
        if served is not None:
            break
    else:
        return {}
    kept = np.load(fold / LOGITS_FILE)
    rows, logits = kept["index"], kept["logits"]
    examined: dict[str, JSONObject] = {}
    maps = {}
    for column, finding in enumerate(data.findings):
        look = make_keras_runner(served, TRAINING_SPEC, column)
        held_out = data.make_out_of_fold(column, logits[:, column], rows)
        calibration = fit_calibration(held_out, prevalence)
        examined[finding] = {
            "fold": fold.name,
            **run_perturbation_tests(look, data.pixels[rows], held_out.labels, held_out.conflict, calibration, most),
        }
        some = rows[choose_perturbed_rows(held_out.labels, held_out.conflict, _IMAGES_SHUFFLED)]
        maps[finding] = (some, look(data.pixels[some]).maps)
    shuffle_weights(served)
    for column, (finding, (some, true)) in enumerate(maps.items()):
        shuffled = make_keras_runner(served, TRAINING_SPEC, column)(data.pixels[some]).maps
        examined[finding]["scrambled_map_correlation"] = float(np.median(correlate_maps(true, shuffled)))
    return examined
