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
from preread_training.analysis.subgroups import select_subgroups
from preread_training.data.dataset import Data
from preread_training.stats.bootstrap import Rows, measure_share, nan_to_none
from preread_training.stats.calibration_metrics import measure_calibration
from preread_training.stats.metrics import Confusion, OutOfFold, auc, count_answers, measure_logits, measure_subgroups
from preread_training.stats.operating_point import (
    bound_sensitivity_by_patient,
    compute_cross_fitted_probabilities,
    compute_probabilities,
    count_errors_with_band,
    measure_cross_fitted_threshold,
)

NOT_MEASURED = "not yet measured"


def build_reference_distribution(
    which: str, probability: Mapping[str, npt.NDArray[np.float64]], images: PixelArray
) -> JSONObject:
    """Build the manifest's reference distribution, for drift monitoring.

    Args:
        which: description of the images.
        probability: by finding float64 [n], of images that the network had not seen.
        images: uint8 [n, rows, columns], as the network takes them.
    """
    figures = [measure_image(image) for image in images]
    by_statistic = {
        one.name: compute_decile_histogram([getattr(figure, one.name) for figure in figures])
        for one in fields(ImageStatistics)
    }
    return asdict(
        Reference(
            which,
            {name: compute_decile_histogram(values.tolist()) for name, values in probability.items()},
            by_statistic,
        )
    )


def measure_auc_by_fold(held_out: OutOfFold) -> JSONObject:
    """Measure the AUC of each fold, with mean and standard deviation.

    Args:
        held_out: logits of one finding.

    Returns:
        ``folds`` (their number); ``auc`` over all images of a fold and ``auc_conflict_normals`` with the hard negatives
        as the images without the finding, each with ``each``, ``mean`` and ``standard_deviation``; ``None`` if
        undefined.
    """
    folds = np.zeros(len(held_out.labels), np.int64) if held_out.folds is None else held_out.folds
    parts = [held_out.select_rows(folds == fold) for fold in np.unique(folds)]
    every = {
        "auc": [auc(part.logits, part.labels) for part in parts],
        "auc_conflict_normals": [auc(*part.select_hard_negatives()) for part in parts],
    }

    def spread(values: list[float]) -> JSONObject:
        known = np.array(values)[np.isfinite(values)]
        return {
            "each": [nan_to_none(value) for value in values],
            "mean": float(known.mean()) if len(known) else None,
            "standard_deviation": float(known.std(ddof=1)) if len(known) > 1 else None,
        }

    return {"folds": len(parts), **{name: spread(values) for name, values in every.items()}}


def measure_finding_calibration(held_out: OutOfFold, finding: FindingSpec) -> JSONObject:
    """Measure a finding's calibration at the bundle's prevalence.

    Probabilities are cross-fitted if there are at least two folds.

    Args:
        held_out: logits of the finding.
        finding: its calibration in the bundle.

    Returns:
        ``prevalence``, ``cross_fitted`` (true if each image's calibration was fitted on the other folds), and the
        measures on ``out_of_fold`` (all images without the finding alike), ``half_conflict`` (half of their weight on
        the hard negatives, as in the fit) and ``conflict_normals`` (the hard negatives alone).
    """
    prevalence = finding.calibration.prevalence
    held = compute_cross_fitted_probabilities(held_out, prevalence)
    probability = compute_probabilities(held_out, finding.calibration) if held is None else held
    shares = {"out_of_fold": None, "half_conflict": 0.5, "conflict_normals": 1.0}
    return {
        "prevalence": prevalence,
        "cross_fitted": held is not None,
        **{
            name: measure_calibration(probability, held_out.labels, held_out.weigh_to_prevalence(prevalence, conflict))
            for name, conflict in shares.items()
        },
    }


def measure_finding(
    held_out: OutOfFold, data: Data, finding: FindingSpec, rows: npt.NDArray[np.int64], looked: JSONObject | None = None
) -> JSONObject:
    """Measure one finding of a network for the bundle's manifest.

    Intervals are of 95 %, by patient.

    Args:
        held_out: logits of images that the network had not seen.
        data: the data set of these images.
        finding: calibration and operating point of the bundle.
        rows: int64 [n], rows of these images in ``data``.
        looked: record of ``perturbation.run_perturbation_tests``; ``None`` if it was not measured.

    Returns:
        The manifest's ``metrics`` of this finding.
    """
    point, present = finding.operating_point, held_out.labels == 1
    probability = compute_probabilities(held_out, finding.calibration)
    called = probability >= point.threshold
    answers = np.array([point.compare_probability(p).value for p in probability.tolist()])
    band = count_errors_with_band(held_out, finding.calibration, point)
    conflict_present = held_out.conflict & present

    def table(kept: Rows, *only: str) -> JSONObject:
        measured = measure_logits(held_out.logits[kept], called[kept], held_out.labels[kept], held_out.groups[kept])
        return {name: value.to_json() for name, value in measured.items() if not only or name in only}

    def against_absent(kept: Rows) -> JSONObject:
        hit, groups = called[kept], held_out.groups[kept]
        chosen = kept | ~present
        return {
            "count": int(kept.sum()),
            "sensitivity": measure_share(hit, groups).to_json(),
            "auc": nan_to_none(auc(held_out.logits[chosen], held_out.labels[chosen])),
        }

    groups = select_subgroups(data, rows, data.findings.index(finding.finding))
    return {
        "count": len(held_out.labels),
        "with_finding": int(present.sum()),
        "patients": len(np.unique(held_out.groups)),
        "out_of_fold": table(np.ones(len(called), bool)),
        "conflict_normals": {
            "count": int(held_out.hard_negatives.sum()),
            **table(held_out.hard_negatives_and_present, "auc", "specificity"),
        },
        "conflict_with_finding": against_absent(conflict_present),
        "sensitivity_lower_bound": bound_sensitivity_by_patient(called[present], held_out.groups[present]),
        "threshold_from_other_folds": measure_cross_fitted_threshold(held_out),
        "by_fold": measure_auc_by_fold(held_out),
        "confusion": Confusion.count(called, held_out.labels).to_json(),
        "answers": count_answers(answers, held_out.labels),
        "band": band,
        "uncertain_rate": band["uncertain_rate"],
        "missed_among_not_flagged": band["missed_with_band"],
        "accuracy_of_always_saying_the_commoner": float(max(present.mean(), 1 - present.mean())),
        "calibration": measure_finding_calibration(held_out, finding),
        "subgroups": measure_subgroups(held_out, called, groups),
        "inside": looked,
        "held_out_test_split": NOT_MEASURED,
    }
