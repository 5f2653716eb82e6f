"""Measures of a network for its bundle's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields

import numpy as np
import numpy.typing as npt

from preread.core.types import ImageStatistics, JSONObject, PixelArray
from preread.imaging.statistics import measure_image
from preread.model.calibration import FindingSpec
from preread.model.distributions import Reference, compute_decile_histogram
from preread_training.analysis.subgroups import subgroups
from preread_training.data.dataset import Data
from preread_training.stats.bootstrap import Rows, number, share
from preread_training.stats.calibration_metrics import calibration_measures
from preread_training.stats.metrics import Confusion, OutOfFold, answer_counts, auc, measure, subgroup_table
from preread_training.stats.operating_point import (
    cross_fitted_answers,
    cross_fitted_probabilities,
    lower_bound_by_patient,
    probabilities,
    what_the_band_buys,
)

NOT_MEASURED = "not yet measured"


def reference(which: str, probability: Mapping[str, npt.NDArray[np.float64]], pictures: PixelArray) -> JSONObject:
    """Return the manifest's ``reference``, with which drift is compared.

    Args:
        which: films, in words.
        probability: by finding, of films that the network had not seen.
        pictures: uint8 [films, rows, columns], as the network sees them.
    """
    figures = [measure_image(picture) for picture in pictures]
    of_pictures = {
        one.name: compute_decile_histogram([getattr(figure, one.name) for figure in figures])
        for one in fields(ImageStatistics)
    }
    return asdict(
        Reference(
            which,
            {name: compute_decile_histogram(values.tolist()) for name, values in probability.items()},
            of_pictures,
        )
    )


def by_fold(films: OutOfFold) -> JSONObject:
    """Return the AUC of each fold, their mean and standard deviation.

    On all images of the fold, and on its conflict normals.
    """
    folds = np.zeros(len(films.labels), np.int64) if films.folds is None else films.folds
    parts = [films.at(folds == fold) for fold in np.unique(folds)]
    every = {
        "auc": [auc(part.logits, part.labels) for part in parts],
        "auc_conflict_normals": [auc(*part.on_conflict_normals()) for part in parts],
    }

    def spread(values: list[float]) -> JSONObject:
        known = np.array(values)[np.isfinite(values)]
        return {
            "each": [number(value) for value in values],
            "mean": float(known.mean()) if len(known) else None,
            "standard_deviation": float(known.std(ddof=1)) if len(known) > 1 else None,
        }

    return {"folds": len(parts), **{name: spread(values) for name, values in every.items()}}


def calibration_figures(films: OutOfFold, finding: FindingSpec) -> JSONObject:
    """Return calibration measures at the bundle's prevalence.

    Probabilities are cross-fitted if there are at least two folds.

    Returns:
        ``prevalence``, ``cross_fitted`` (whether each film's calibration was fitted on the other folds), and the
        measures on ``out_of_fold`` (all normals alike), ``half_conflict`` (half of the normals' weight on the conflict
        normals: what was fitted to) and ``conflict_normals`` (no others).
    """
    prevalence = finding.calibration.prevalence
    held = cross_fitted_probabilities(films, prevalence)
    probability = probabilities(films, finding.calibration) if held is None else held
    shares = {"out_of_fold": None, "half_conflict": 0.5, "conflict_normals": 1.0}
    return {
        "prevalence": prevalence,
        "cross_fitted": held is not None,
        **{
            name: calibration_measures(probability, films.labels, films.weights(prevalence, conflict))
            for name, conflict in shares.items()
        },
    }


def metrics(
    films: OutOfFold, data: Data, finding: FindingSpec, rows: npt.NDArray[np.int64], looked: JSONObject | None = None
) -> JSONObject:
    """Return all measures of one finding for the manifest.

    Intervals are by patient.

    Args:
        films: logits of films that the network had not seen.
        rows: int64 [films], where these stand in ``data``.
        looked: from ``probing.look_inside``, where there was a network to ask.
    """
    point, present = finding.operating_point, films.labels == 1
    probability = probabilities(films, finding.calibration)
    called = probability >= point.threshold
    answers = np.array([point.compare_probability(p).value for p in probability.tolist()])
    band = what_the_band_buys(films, finding.calibration, point)
    conflict_present = films.conflict & present

    def table(kept: Rows, *only: str) -> JSONObject:
        measured = measure(films.logits[kept], called[kept], films.labels[kept], films.groups[kept])
        return {name: value.to_json() for name, value in measured.items() if not only or name in only}

    def against_absent(kept: Rows) -> JSONObject:
        hit, groups = called[kept], films.groups[kept]
        chosen = kept | ~present
        return {
            "count": int(kept.sum()),
            "sensitivity": share(hit, groups).to_json(),
            "auc": number(auc(films.logits[chosen], films.labels[chosen])),
        }

    groups = subgroups(data, rows, data.findings.index(finding.finding))
    return {
        "count": len(films.labels),
        "with_finding": int(present.sum()),
        "patients": len(np.unique(films.groups)),
        "out_of_fold": table(np.ones(len(called), bool)),
        "conflict_normals": {
            "count": int(films.conflict_normals.sum()),
            **table(films.conflict_normals_and_present, "auc", "specificity"),
        },
        "conflict_with_finding": against_absent(conflict_present),
        "sensitivity_lower_bound": lower_bound_by_patient(called[present], films.groups[present]),
        "threshold_from_other_folds": cross_fitted_answers(films),
        "by_fold": by_fold(films),
        "confusion": Confusion.of(called, films.labels).to_json(),
        "answers": answer_counts(answers, films.labels),
        "band": band,
        "uncertain_rate": band["uncertain_rate"],
        "missed_among_not_flagged": band["missed_with_band"],
        "accuracy_of_always_saying_the_commoner": float(max(present.mean(), 1 - present.mean())),
        "calibration": calibration_figures(films, finding),
        "subgroups": subgroup_table(films, called, groups),
        "inside": looked,
        "held_out_test_split": NOT_MEASURED,
    }
