"""Tables of a report: network and baselines, measured alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preread.core.types import JSONObject
from preread.model.calibration import FindingSpec
from preread_training.data.dataset import Data
from preread_training.stats.baselines import compute_baseline_features, compute_cross_fitted_logits
from preread_training.stats.bootstrap import Measure, Rows, Scores, measure_share
from preread_training.stats.calibration_metrics import measure_calibration
from preread_training.stats.metrics import OutOfFold, measure_logits, measure_subgroups
from preread_training.stats.operating_point import (
    NothingLearned,
    compute_cross_fitted_probabilities,
    compute_probabilities,
    specify_finding,
)

_DRAWS = 1000
_DRAWS_OF_SUBGROUP = 300


@dataclass(frozen=True)
class MeasuredModel:
    """A network or baseline with its logits and operating point.

    Attributes:
        name: for readers.
        held_out: its logits out of fold.
        spec: calibration, operating point and predictive values, as ``publish`` would choose them.
        probability: float64 [n], by ``spec``.
        called: bool [n], true at or above the threshold.
    """

    name: str
    held_out: OutOfFold
    spec: FindingSpec
    probability: Scores
    called: Rows


@dataclass(frozen=True)
class Table:
    """Rows of text: a value with its interval or a remark in each cell.

    Attributes:
        columns: heads of the columns.
        rows: head of the row, and pairs of value and remark.
    """

    columns: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]


def apply_operating_point(name: str, held_out: OutOfFold, finding: str, prevalence: float) -> MeasuredModel:
    """Calibrate a model, choose its operating point and apply it.

    Args:
        name: for readers.
        held_out: its logits out of fold.
        finding: its name.
        prevalence: to which it is calibrated, in (0, 1).

    Raises:
        NothingLearned: its logits do not rise with the finding.
    """
    spec = specify_finding(held_out, finding, "", prevalence)
    probability = compute_probabilities(held_out, spec.calibration)
    return MeasuredModel(name, held_out, spec, probability, probability >= spec.operating_point.threshold)


def fit_baselines(
    data: Data, rows: npt.NDArray[np.int64], finding: int, prevalence: float
) -> tuple[list[MeasuredModel], list[str]]:
    """Fit the linear baselines out of fold, and choose their thresholds.

    Args:
        data: the data set.
        rows: int64 [n], the held-out images of the network.
        finding: column of the data set's findings.
        prevalence: to which they are calibrated, in (0, 1).

    Returns:
        Those that learned something, and the names of those whose logits do not rise with the finding.
    """
    labels = data.labels[:, finding]
    judged, useless = [], []
    for key, values in compute_baseline_features(data.pixels).items():
        name = key.replace("_", " ")
        held_out = data.make_out_of_fold(finding, compute_cross_fitted_logits(values, labels, data.folds)[rows], rows)
        try:
            judged.append(apply_operating_point(name, held_out, data.findings[finding], prevalence))
        except NothingLearned:
            useless.append(name)
    return judged, useless


def format_number(value: float | None, digits: int = 3) -> str:
    """Format a number for the report, a dash for ``None`` or NaN."""
    return "\N{EN DASH}" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def format_percent(value: float | None) -> str:
    """Format a share for the report in per cent, a dash for ``None`` or NaN."""
    return "\N{EN DASH}" if value is None or math.isnan(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _auc(of: Measure) -> tuple[str, str]:
    return format_number(of.value), f"{format_number(of.low)} to {format_number(of.high)}"


def _share(of: Measure) -> tuple[str, str]:
    return format_percent(of.value), f"{format_percent(of.low)[:-2]} to {format_percent(of.high)}" if not math.isnan(
        of.low
    ) else ""


def measure_model(judged: MeasuredModel, rows: Rows | None = None) -> dict[str, Measure]:
    """Measure a network or baseline on held-out images, or on some of them.

    Args:
        judged: the network or baseline.
        rows: bool [n], the images; ``None``: all of them.

    Returns:
        See ``metrics.measure_logits``.
    """
    chosen = np.ones(len(judged.called), bool) if rows is None else rows
    held_out = judged.held_out.select_rows(chosen)
    return measure_logits(held_out.logits, judged.called[chosen], held_out.labels, held_out.groups, draws=_DRAWS)


def build_main_table(
    models: Sequence[MeasuredModel],
    everywhere: Sequence[Mapping[str, Measure]],
    conflict: Sequence[Mapping[str, Measure]],
) -> Table:
    """Build the report's table of network and baselines at their thresholds.

    Args:
        models: the network, then its baselines.
        everywhere: measures of each on all images.
        conflict: measures of each with the hard negatives as the images without the finding.
    """
    rows = []
    for judged, all_images, hard in zip(models, everywhere, conflict, strict=True):
        cells = [
            _auc(all_images["auc"]),
            _auc(hard["auc"]),
            _share(all_images["sensitivity"]),
            _share(all_images["specificity"]),
            _share(hard["specificity"]),
            _share(all_images["accuracy"]),
            _auc(all_images["matthews_correlation"]),
        ]
        rows.append((judged.name, cells))
    columns = ["AUC, all images", "AUC, hard negatives", "sensitivity", "specificity", "specificity, hard negatives"]
    return Table([*columns, "accuracy", "Matthews correlation"], rows)


def build_subgroup_table(models: Sequence[MeasuredModel], groups: Mapping[str, Rows]) -> tuple[Table, JSONObject]:
    """Build the report's table of subgroups: counts, answers and AUC.

    Args:
        models: the network, then its baselines.
        groups: bool [n] by name.

    Returns:
        The table, and the network's measures as numbers, see ``metrics.measure_subgroups``.
    """
    network, *baselines = (measure_subgroups(m.held_out, m.called, groups, count=_DRAWS_OF_SUBGROUP) for m in models)

    def figure(found: JSONObject, key: str) -> tuple[str, str]:
        if key not in found:
            return "", ""
        value = Measure(*(math.nan if found[key][end] is None else found[key][end] for end in ("value", "low", "high")))
        return _auc(value) if key == "auc" else _share(value)

    rows = []
    for name, found in network.items():
        counts = [(str(found["films"]), ""), (str(found["with_finding"]), ""), (str(found["patients"]), "")]
        answers = [figure(found, "sensitivity"), figure(found, "specificity"), figure(found, "auc")]
        others = [(figure(table[name], "auc")[0], "") for table in baselines]
        rows.append((name, [*counts, *answers, *others]))
    columns = ["images", "with it", "patients", "sensitivity", "specificity", "AUC"]
    return Table([*columns, *(f"AUC, {judged.name}" for judged in models[1:])], rows), network


def measure_model_calibration(judged: MeasuredModel) -> dict[str, JSONObject]:
    """Measure a model's calibration, with images weighed to the prevalence.

    The probabilities are cross-fitted (each fold's by a calibration fitted on the others) if there are two folds.

    Args:
        judged: the network or baseline.

    Returns:
        Measures on ``all images`` and on the ``conflict slice``, whose images without the finding are the hard
        negatives alone; one is absent if it has one label only.
    """
    prevalence = judged.spec.calibration.prevalence
    crossed = compute_cross_fitted_probabilities(judged.held_out, prevalence)
    probability = judged.probability if crossed is None else crossed
    shares = {"all images": None, "conflict slice": 1.0}
    found = {}
    for name, conflict_share in shares.items():
        rows = np.ones(len(probability), bool) if conflict_share is None else judged.held_out.hard_negatives_and_present
        held_out = judged.held_out.select_rows(rows)
        if len(np.unique(held_out.labels)) == 2:
            found[name] = measure_calibration(
                probability[rows], held_out.labels, held_out.weigh_to_prevalence(prevalence, conflict_share)
            )
    return found


def build_calibration_table(models: Sequence[MeasuredModel], records: Sequence[Mapping[str, JSONObject]]) -> Table:
    """Build the report's table of calibration of network and baselines.

    Args:
        models: the network, then its baselines.
        records: of ``measure_model_calibration``, one for each.
    """
    keys = ("expected_calibration_error", "brier", "negative_log_likelihood", "slope", "intercept")
    rows = [
        (f"{judged.name}, {part}", [(format_number(found[key]), "") for key in keys])
        for judged, of in zip(models, records, strict=True)
        for part, found in of.items()
    ]
    return Table(["expected calibration error", "Brier score", "negative log likelihood", "slope", "intercept"], rows)


def build_answers_table(judged: MeasuredModel) -> Table:
    """Build the report's table of answers (flagged, uncertain, ...) by label."""
    point, labels = judged.spec.operating_point, judged.held_out.labels
    parts = {
        "flagged": judged.probability >= point.uncertain_high,
        "uncertain": (judged.probability >= point.uncertain_low) & (judged.probability < point.uncertain_high),
        "not flagged": judged.probability < point.uncertain_low,
    }
    rows = []
    for name, chosen in parts.items():
        cells = []
        for label in (1, 0):
            of = chosen[labels == label]
            cells.append((str(int(of.sum())), _share(measure_share(of, judged.held_out.groups[labels == label]))[0]))
        rows.append((name, [*cells, (str(int(chosen.sum())), format_percent(float(chosen.mean())))]))
    return Table([f"with {judged.spec.finding}", f"without {judged.spec.finding}", "all images"], rows)


def build_predictive_table(models: Sequence[MeasuredModel]) -> Table:
    """Build the report's table of predictive values by prevalence."""
    network = models[0].spec.predictive_values
    columns = [f"{kind} at {of.prevalence:.0%}" for of in network for kind in ("PPV", "NPV")]
    rows = [
        (m.name, [(format_percent(value), "") for of in m.spec.predictive_values for value in (of.ppv, of.npv)])
        for m in models
    ]
    return Table(columns, rows)
