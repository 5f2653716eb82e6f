"""Measure a bundle on labelled images, without TensorFlow.

Each image takes the same path as in ``preread assess``.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from preread.core.errors import UsageError
from preread.core.text.csv_cells import write_rows
from preread.core.types import Answer, Finding, JSONObject, Outcome, PredictiveValues
from preread.model.bundles import Bundle
from preread.model.calibration import compute_predictive_values
from preread.runner.assess_files import FileResult, InputFile, Processes, assess_found
from preread_training.data.dataset import Film, labels_for, patients_of
from preread_training.stats.bootstrap import Labels
from preread_training.stats.calibration_metrics import calibration_measures
from preread_training.stats.metrics import Confusion, answer_counts, measure

_MEASURES = (
    "auc",
    "accuracy",
    "sensitivity",
    "specificity",
    "balanced_accuracy",
    "matthews_correlation",
    "average_precision",
)


@dataclass(frozen=True, slots=True)
class Judged:
    """Labelled images with their results, and the measures over them.

    Attributes:
        column: of the finding that was measured, among the bundle's.
    """

    results: list[tuple[Film, FileResult]]
    report: JSONObject
    column: int = 0


def judge(
    films: Sequence[Film],
    bundle: Bundle,
    progress: Callable[[], None] = lambda: None,
    *,
    finding: str | None = None,
    processes: Processes | None = None,
) -> Judged:
    """Assess labelled images and measure one finding of a bundle.

    The bundle's own operating point is used.

    A refused or unreadable film is an error whatever its label, and takes the worst rank in the AUC. What is said of
    probabilities and answers is said of the films that have one.

    Args:
        finding: its name; the bundle's first where absent.
        processes: in which the films are read; by default one for each core.

    Raises:
        UsageError: the bundle does not speak of the finding, or no label names it.
    """
    specs = bundle.manifest.findings
    names = [spec.finding for spec in specs]
    if finding is not None and finding not in names:
        raise UsageError(f"{bundle.label} speaks of {', '.join(names)}, not of {finding}")
    column = names.index(finding) if finding is not None else 0
    spec = specs[column]
    labels = labels_for(films, spec.finding)
    found = (InputFile(str(film.path), named=True) for film in films)
    results = []
    with contextlib.closing(assess_found(found, bundle, processes=processes)) as ended:
        for film, result in zip(films, ended, strict=True):
            results.append((film, result))
            progress()
    findings = [result.findings[column] if result.findings else None for _, result in results]
    worst = np.where(labels == 1, -np.inf, np.inf)
    scores = np.array([one.logit if one else rank for one, rank in zip(findings, worst, strict=True)])
    threshold = spec.operating_point.threshold
    called = np.array(
        [one.probability >= threshold if one else not label for one, label in zip(findings, labels, strict=True)]
    )
    by_patient = all(film.patient_known for film in films)
    groups = patients_of(films) if by_patient else np.array([str(row) for row in range(len(films))])
    answers = np.array([one.answer.value if one else "" for one in findings])
    outcomes = Counter(result.outcome for _, result in results)
    report: JSONObject = {
        "bundle": bundle.label,
        "finding": spec.finding,
        "operating_point": threshold,
        "prevalence": spec.calibration.prevalence,
        "assumed": "films that say no age are assumed to show children of the intended age",
        "bootstrap_by": "patient" if by_patient else "image",
        "counts": {
            "films": len(films),
            "with_finding": int(labels.sum()),
            "without_finding": int((labels == 0).sum()),
            "patients": len(set(groups.tolist())) if by_patient else None,
            **{str(outcome): outcomes[outcome] for outcome in Outcome},
            **{
                f"answered_{answer}": count
                for answer, count in sorted(Counter(answers[answers != ""].tolist()).items())
            },
        },
        **{name: value.to_json() for name, value in measure(scores, called, labels, groups).items()},
        "confusion": Confusion.of(called, labels).to_json(),
        "answers": {
            **answer_counts(answers, labels),
            "none": {
                "with_finding": int(((answers == "") & (labels == 1)).sum()),
                "without_finding": int(((answers == "") & (labels == 0)).sum()),
            },
        },
        "predictive_values": {
            "measured": [asdict(values) for values in _predictive_values(answers, labels)],
            "stated": [asdict(values) for values in spec.predictive_values],
        },
        "calibration": _calibration(findings, labels, spec.calibration.prevalence),
    }
    return Judged(results, report, column)


def _predictive_values(answers: npt.NDArray[np.str_], labels: Labels) -> tuple[PredictiveValues, ...]:
    """Return PPV and NPV of the answers on these images.

    Half an image is added to each count, so that no value is certain. Empty if there is one label only.
    """
    if len(np.unique(labels)) < 2:
        return ()

    def rates(answer: Answer) -> tuple[float, float]:
        hit = answers == answer.value
        with_it, without = (
            float((hit[labels == label].sum() + 0.5) / ((labels == label).sum() + 1)) for label in (1, 0)
        )
        return with_it, without

    return compute_predictive_values(rates(Answer.FLAGGED), rates(Answer.NOT_FLAGGED))


def _calibration(findings: Sequence[Finding | None], labels: Labels, prevalence: float) -> JSONObject | None:
    """Return calibration measures, as found and at the bundle's prevalence."""
    known = np.array([one is not None for one in findings])
    probability = np.array([one.probability for one in findings if one is not None])
    of = labels[known]
    if len(np.unique(of)) < 2:
        return None
    weights = np.where(of == 1, prevalence / of.mean(), (1 - prevalence) / (1 - of.mean()))
    return {
        "as_they_are": calibration_measures(probability, of),
        "at_prevalence": calibration_measures(probability, of, weights),
    }


def report_lines(report: JSONObject) -> list[tuple[str, str, str]]:
    """Return the report as lines of name, value and interval or remark."""
    lines = []
    for name in _MEASURES:
        figure = report[name]
        lines.append(
            (name.replace("_", " "), said(figure["value"]), f"{said(figure['low'])} to {said(figure['high'])}")
        )
    if (calibration := report["calibration"]) is not None:
        for key in ("brier", "negative_log_likelihood", "expected_calibration_error", "slope", "intercept"):
            at = said(calibration["at_prevalence"][key])
            lines.append((key.replace("_", " "), at, f"{said(calibration['as_they_are'][key])} as they are"))
    stated = {values["prevalence"]: values for values in report["predictive_values"]["stated"]}
    for values in report["predictive_values"]["measured"]:
        for key in ("ppv", "npv"):
            share = values["prevalence"]
            beside = f"{said(stated[share][key])} stated" if share in stated else ""
            lines.append((f"{key.upper()} at {share:.0%}", said(values[key]), beside))
    for name, count in report["confusion"].items():
        lines.append((name.replace("_", " "), str(count), ""))
    for answer, counts in report["answers"].items():
        both = f"{counts['with_finding']} with, {counts['without_finding']} without"
        lines.append((f"answer: {answer.replace('_', ' ')}", str(sum(counts.values())), both))
    counts = report["counts"].items()
    lines += [(name.replace("_", " "), str(count), "") for name, count in counts if not name.startswith("answered_")]
    return lines


def said(value: float | None) -> str:
    """Format a number for people."""
    return "undefined" if value is None else f"{value:.4f}"


def write_predictions(path: Path, judged: Judged) -> None:
    """Write one CSV row for each image.

    Columns: path, label, patient, outcome, code, logit, probability, answer.
    """
    columns = ("path", "label", "patient", "outcome", "code", "logit", "probability", "answer")
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        write_rows(stream, columns, (_prediction(film, result, judged.column) for film, result in judged.results))


def _prediction(film: Film, result: FileResult, column: int) -> tuple[object, ...]:
    finding = result.findings[column] if result.findings else None
    numbers = (finding.logit, finding.probability, finding.answer) if finding else (None, None, None)
    return (film.path, "|".join(film.present).upper(), film.patient, result.outcome, result.code, *numbers)
