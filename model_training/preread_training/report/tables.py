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
from preread_training.stats.baselines import baseline_features, cross_fitted_logits
from preread_training.stats.bootstrap import Measure, Rows, Scores, share
from preread_training.stats.calibration_metrics import calibration_measures
from preread_training.stats.metrics import OutOfFold, measure, subgroup_table
from preread_training.stats.operating_point import NothingLearned, cross_fitted_probabilities, probabilities, specify

_DRAWS = 1000
_DRAWS_OF_SUBGROUP = 300


@dataclass(frozen=True)
class Judged:
    """A network or baseline with its logits and operating point.

    Attributes:
        films: its logits out of fold.
        spec: calibration, operating point and predictive values, as ``publish`` would choose them.
        probability: float64 [n], by ``spec``.
        called: bool [n], at or above the threshold.
    """

    name: str
    films: OutOfFold
    spec: FindingSpec
    probability: Scores
    called: Rows


@dataclass(frozen=True)
class Table:
    """Rows of text: a value with its interval or a remark in each cell."""

    columns: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]


def judge(name: str, films: OutOfFold, finding: str, prevalence: float) -> Judged:
    """Calibrate, choose the operating point and apply it."""
    spec = specify(films, finding, "", prevalence)
    probability = probabilities(films, spec.calibration)
    return Judged(name, films, spec, probability, probability >= spec.operating_point.threshold)


def judge_baselines(
    data: Data, rows: npt.NDArray[np.int64], finding: int, prevalence: float
) -> tuple[list[Judged], list[str]]:
    """Fit and judge the linear baselines, each out of fold.

    Returns:
        Those that learned something, and the names of those whose logits do not rise with the finding.
    """
    labels = data.labels[:, finding]
    judged, useless = [], []
    for key, values in baseline_features(data.pictures).items():
        name = key.replace("_", " ")
        films = data.of(finding, cross_fitted_logits(values, labels, data.folds)[rows], rows)
        try:
            judged.append(judge(name, films, data.findings[finding], prevalence))
        except NothingLearned:
            useless.append(name)
    return judged, useless


def number(value: float | None, digits: int = 3) -> str:
    """Format a number for a table."""
    return "\N{EN DASH}" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Format a share for a table."""
    return "\N{EN DASH}" if value is None or math.isnan(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _auc(of: Measure) -> tuple[str, str]:
    return number(of.value), f"{number(of.low)} to {number(of.high)}"


def _share(of: Measure) -> tuple[str, str]:
    return percent(of.value), f"{percent(of.low)[:-2]} to {percent(of.high)}" if not math.isnan(of.low) else ""


def measured(judged: Judged, rows: Rows | None = None) -> dict[str, Measure]:
    """Call ``metrics.measure`` on all images or some of them."""
    chosen = np.ones(len(judged.called), bool) if rows is None else rows
    films = judged.films.at(chosen)
    return measure(films.logits, judged.called[chosen], films.labels, films.groups, draws=_DRAWS)


def main_table(
    models: Sequence[Judged], everywhere: Sequence[Mapping[str, Measure]], conflict: Sequence[Mapping[str, Measure]]
) -> Table:
    """Return network and baselines, each at its operating point."""
    rows = []
    for judged, all_films, hard in zip(models, everywhere, conflict, strict=True):
        cells = [
            _auc(all_films["auc"]),
            _auc(hard["auc"]),
            _share(all_films["sensitivity"]),
            _share(all_films["specificity"]),
            _share(hard["specificity"]),
            _share(all_films["accuracy"]),
            _auc(all_films["matthews_correlation"]),
        ]
        rows.append((judged.name, cells))
    columns = ["AUC, all films", "AUC, conflict normals", "sensitivity", "specificity", "specificity, conflict normals"]
    return Table([*columns, "accuracy", "Matthews correlation"], rows)


def subgroup_rows(models: Sequence[Judged], groups: Mapping[str, Rows]) -> tuple[Table, JSONObject]:
    """Return counts, answers and AUC of each subgroup.

    Also the network's measures as numbers.
    """
    network, *baselines = (subgroup_table(m.films, m.called, groups, count=_DRAWS_OF_SUBGROUP) for m in models)

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
    columns = ["films", "with it", "patients", "sensitivity", "specificity", "AUC"]
    return Table([*columns, *(f"AUC, {judged.name}" for judged in models[1:])], rows), network


def calibration_records(judged: Judged) -> dict[str, JSONObject]:
    """Return calibration measures, weighed to the prevalence.

    On all images, and with the conflict normals alone.

    The probabilities are cross-fitted (each fold's by a calibration fitted on the others) where there are two folds.
    """
    prevalence = judged.spec.calibration.prevalence
    crossed = cross_fitted_probabilities(judged.films, prevalence)
    probability = judged.probability if crossed is None else crossed
    shares = {"all films": None, "conflict slice": 1.0}
    found = {}
    for name, conflict_share in shares.items():
        rows = np.ones(len(probability), bool) if conflict_share is None else judged.films.conflict_normals_and_present
        films = judged.films.at(rows)
        if len(np.unique(films.labels)) == 2:
            found[name] = calibration_measures(
                probability[rows], films.labels, films.weights(prevalence, conflict_share)
            )
    return found


def calibration_table(models: Sequence[Judged], records: Sequence[Mapping[str, JSONObject]]) -> Table:
    """Return the calibration of network and baselines."""
    keys = ("expected_calibration_error", "brier", "negative_log_likelihood", "slope", "intercept")
    rows = [
        (f"{judged.name}, {part}", [(number(found[key]), "") for key in keys])
        for judged, of in zip(models, records, strict=True)
        for part, found in of.items()
    ]
    return Table(["expected calibration error", "Brier score", "negative log likelihood", "slope", "intercept"], rows)


def answers_table(judged: Judged) -> Table:
    """Return counts of flagged, uncertain and not flagged, by label."""
    point, labels = judged.spec.operating_point, judged.films.labels
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
            cells.append((str(int(of.sum())), _share(share(of, judged.films.groups[labels == label]))[0]))
        rows.append((name, [*cells, (str(int(chosen.sum())), percent(float(chosen.mean())))]))
    return Table([f"with {judged.spec.finding}", f"without {judged.spec.finding}", "all films"], rows)


def predictive_table(models: Sequence[Judged]) -> Table:
    """Return predictive values by prevalence."""
    network = models[0].spec.predictive_values
    columns = [f"{kind} at {of.prevalence:.0%}" for of in network for kind in ("PPV", "NPV")]
    rows = [
        (m.name, [(percent(value), "") for of in m.spec.predictive_values for value in (of.ppv, of.npv)])
        for m in models
    ]
    return Table(columns, rows)
