"""Measure a bundle on labelled images, without TensorFlow.

Each image takes the same path as in ``preread assess``.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from preread.core.errors import UsageError
from preread.core.text.csv_cells import write_rows
from preread.core.types import Answer, Finding, JSONObject, Outcome, PredictiveValues
from preread.model.bundles import Bundle
from preread.model.calibration import FindingSpec, compute_predictive_values
from preread.runner.assess_files import FileResult, InputFile, Processes, assess_input_files
from preread_training.data.dataset import LabelledImage, list_patients, select_labels
from preread_training.stats.bootstrap import Groups, Labels
from preread_training.stats.calibration_metrics import measure_calibration
from preread_training.stats.metrics import Confusion, count_answers, measure_logits

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
class Evaluation:
    """Labelled images with their results, and the measures over them.

    Attributes:
        results: each image with its result, in the order of the data set.
        report: the measures, as ``preread-train evaluate --json`` prints them.
        column: of the finding that was measured, among the bundle's.
    """

    results: list[tuple[LabelledImage, FileResult]]
    report: JSONObject
    column: int = 0


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """Results of labelled images for one finding.

    Attributes:
        findings: the finding of each image; ``None`` of one that was refused or is unreadable.
        labels: int64 [n] in {0, 1}.
        groups: str [n], the unit of the bootstrap.
        by_patient: true if all patients are known, so that the groups are patients.
    """

    findings: list[Finding | None]
    labels: Labels
    groups: Groups
    by_patient: bool

    @property
    def answers(self) -> npt.NDArray[np.str_]:
        """Value of each image's ``Answer``, empty if it has none; str [n]."""
        return np.array([one.answer.value if one else "" for one in self.findings])


def evaluate_bundle(
    images: Sequence[LabelledImage],
    bundle: Bundle,
    progress: Callable[[], None] = lambda: None,
    *,
    finding: str | None = None,
    processes: Processes | None = None,
) -> Evaluation:
    """Assess labelled images with a bundle and measure one finding.

    Yes-or-no measures are at the bundle's own operating point. An image that is refused or unreadable counts as an
    error whatever its label, and takes the worst rank in the AUC; probabilities and answers are measured on the images
    that have one.

    Args:
        images: the labelled images.
        bundle: the bundle.
        progress: called after each image.
        finding: name of the finding; ``None``: the bundle's first.
        processes: inference processes that read the images; ``None``: one for each core.

    Raises:
        UsageError: the bundle has no such finding, or no label names it.
    """
    names = [spec.finding for spec in bundle.manifest.findings]
    if finding is not None and finding not in names:
        raise UsageError(f"{bundle.label} has no finding {finding!r}: choose one of {', '.join(names)}")
    column = names.index(finding) if finding is not None else 0
    labels = select_labels(images, names[column])
    found = (InputFile(str(image.path), named=True) for image in images)
    results = []
    with contextlib.closing(assess_input_files(found, bundle, processes=processes)) as ended:
        for image, result in zip(images, ended, strict=True):
            results.append((image, result))
            progress()
    by_patient = all(image.patient_known for image in images)
    outcomes = _Outcomes(
        [result.findings[column] if result.findings else None for _, result in results],
        labels,
        list_patients(images) if by_patient else np.array([str(row) for row in range(len(images))]),
        by_patient,
    )
    spec = bundle.manifest.findings[column]
    report: JSONObject = {
        "bundle": bundle.label,
        "finding": spec.finding,
        "operating_point": spec.operating_point.threshold,
        "prevalence": spec.calibration.prevalence,
        "assumed": "images without an age are assumed to show children of the intended age",
        "bootstrap_by": "patient" if by_patient else "image",
        "counts": _counts(outcomes, Counter(result.outcome for _, result in results)),
        **_measures(outcomes, spec),
    }
    return Evaluation(results, report, column)


def _counts(outcomes: _Outcomes, ended: Mapping[Outcome, int]) -> JSONObject:
    """Return the report's ``counts``: images, labels, patients, outcomes, answers."""
    answers = Counter(answer for answer in outcomes.answers.tolist() if answer)
    return {
        "films": len(outcomes.labels),
        "with_finding": int(outcomes.labels.sum()),
        "without_finding": int((outcomes.labels == 0).sum()),
        "patients": len(set(outcomes.groups.tolist())) if outcomes.by_patient else None,
        **{str(outcome): ended.get(outcome, 0) for outcome in Outcome},
        **{f"answered_{answer}": count for answer, count in sorted(answers.items())},
    }


def _measures(outcomes: _Outcomes, spec: FindingSpec) -> JSONObject:
    """Return the report's measures, from ``auc`` to ``calibration``."""
    findings, labels, answers = outcomes.findings, outcomes.labels, outcomes.answers
    threshold = spec.operating_point.threshold
    worst = np.where(labels == 1, -np.inf, np.inf)
    scores = np.array([one.logit if one else rank for one, rank in zip(findings, worst, strict=True)])
    called = np.array(
        [one.probability >= threshold if one else not label for one, label in zip(findings, labels, strict=True)]
    )
    return {
        **{name: value.to_json() for name, value in measure_logits(scores, called, labels, outcomes.groups).items()},
        "confusion": Confusion.count(called, labels).to_json(),
        "answers": {
            **count_answers(answers, labels),
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
        "as_they_are": measure_calibration(probability, of),
        "at_prevalence": measure_calibration(probability, of, weights),
    }


def format_report_lines(report: JSONObject) -> list[tuple[str, str, str]]:
    """Format an evaluation's report for a table on the terminal.

    Args:
        report: of ``evaluate_bundle``.

    Returns:
        Lines of name, value, and interval or remark.
    """
    lines = []
    for name in _MEASURES:
        figure = report[name]
        lines.append(
            (
                name.replace("_", " "),
                format_figure(figure["value"]),
                f"{format_figure(figure['low'])} to {format_figure(figure['high'])}",
            )
        )
    if (calibration := report["calibration"]) is not None:
        for key in ("brier", "negative_log_likelihood", "expected_calibration_error", "slope", "intercept"):
            at = format_figure(calibration["at_prevalence"][key])
            lines.append((key.replace("_", " "), at, f"{format_figure(calibration['as_they_are'][key])} as they are"))
    stated = {values["prevalence"]: values for values in report["predictive_values"]["stated"]}
    for values in report["predictive_values"]["measured"]:
        for key in ("ppv", "npv"):
            share = values["prevalence"]
            beside = f"{format_figure(stated[share][key])} stated" if share in stated else ""
            lines.append((f"{key.upper()} at {share:.0%}", format_figure(values[key]), beside))
    for name, count in report["confusion"].items():
        lines.append((name.replace("_", " "), str(count), ""))
    for answer, counts in report["answers"].items():
        both = f"{counts['with_finding']} with, {counts['without_finding']} without"
        lines.append((f"answer: {answer.replace('_', ' ')}", str(sum(counts.values())), both))
    counts = report["counts"].items()
    lines += [(name.replace("_", " "), str(count), "") for name, count in counts if not name.startswith("answered_")]
    return lines


def format_figure(value: float | None) -> str:
    """Format a number of an evaluation, ``None`` as ``undefined``."""
    return "undefined" if value is None else f"{value:.4f}"


def write_results_csv(path: Path, judged: Evaluation) -> None:
    """Write an evaluation's results as CSV, one row for each image.

    Columns: path, label, patient, outcome, code, logit, probability, answer.

    Args:
        path: the file, replaced if it exists.
        judged: an evaluation.
    """
    columns = ("path", "label", "patient", "outcome", "code", "logit", "probability", "answer")
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        write_rows(stream, columns, (_prediction(image, result, judged.column) for image, result in judged.results))


def _prediction(image: LabelledImage, result: FileResult, column: int) -> tuple[object, ...]:
    finding = result.findings[column] if result.findings else None
    numbers = (finding.logit, finding.probability, finding.answer) if finding else (None, None, None)
    return (image.path, "|".join(image.present).upper(), image.patient, result.outcome, result.code, *numbers)
