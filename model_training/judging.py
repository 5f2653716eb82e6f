"""Measure a bundle on labelled films through ``worker.assess``; needs no TensorFlow."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from model_training.dataset import Film, labels_of, patients_of
from model_training.evaluation import measure
from worker.assess import assess
from worker.classifier import Classifier
from worker.domain import Declared, Finding, JSONObject, Outcome, Refusal
from worker.errors import UnreadableError


@dataclass(frozen=True, slots=True)
class FilmResult:
    """How one film ended: a finding, or why there is none."""

    film: Film
    outcome: Outcome
    code: str | None
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class Judged:
    """Every film's result, and the figures over them."""

    results: list[FilmResult]
    report: JSONObject


def _result(film: Film, classifier: Classifier) -> FilmResult:
    try:
        answer = assess(film.path.read_bytes(), classifier, Declared(assume_age=True))
    except UnreadableError as error:
        return FilmResult(film, Outcome.UNREADABLE, error.code, None)
    if isinstance(answer, Refusal):
        return FilmResult(film, Outcome.REFUSED, str(answer.code), None)
    return FilmResult(film, Outcome.ASSESSED, None, answer.findings[0])


def judge(films: Sequence[Film], classifier: Classifier, progress: Callable[[], None] = lambda: None) -> Judged:
    """Assess every film and measure the bundle's first finding at its own operating point.

    A refused or unreadable film is an error whatever its label, and takes the worst rank in the AUC.
    """
    results = []
    for film in films:
        results.append(_result(film, classifier))
        progress()
    labels = labels_of(films)
    spec = classifier.bundle.manifest.findings[0]
    worst = np.where(labels == 1, -np.inf, np.inf)
    scores = np.array([r.finding.logit if r.finding else w for r, w in zip(results, worst, strict=True)])
    called = np.array(
        [r.finding.probability >= spec.operating_point.threshold if r.finding else not r.film.label for r in results]
    )
    by_patient = all(film.patient_known for film in films)
    groups = patients_of(films) if by_patient else np.array([str(row) for row in range(len(films))])
    measured = measure(scores, called, labels, groups)
    outcomes = Counter(result.outcome for result in results)
    answers = Counter(result.finding.answer for result in results if result.finding)
    report: JSONObject = {
        "bundle": classifier.bundle.label,
        "finding": spec.finding,
        "operating_point": spec.operating_point.threshold,
        "prevalence": spec.calibration.prevalence,
        "assumed": "films that say no age are assumed to show children of the intended age",
        "bootstrap_by": "patient" if by_patient else "image",
        "counts": {
            "films": len(films),
            "with_finding": int(labels.sum()),
            "without_finding": int((labels == 0).sum()),
            "patients": len(set(groups.tolist())) if by_patient else None,
            **{str(outcome): outcomes[outcome] for outcome in Outcome},
            **{f"answered_{answer}": count for answer, count in sorted(answers.items())},
        },
        **{
            name: {key: None if math.isnan(number) else number for key, number in asdict(value).items()}
            for name, value in measured.items()
        },
        "confusion": {
            "true_positive": int((called & (labels == 1)).sum()),
            "false_negative": int((~called & (labels == 1)).sum()),
            "false_positive": int((called & (labels == 0)).sum()),
            "true_negative": int((~called & (labels == 0)).sum()),
        },
    }
    return Judged(results, report)


def write_predictions(path: Path, judged: Judged) -> None:
    """Write a CSV with path, label, patient, outcome, code, logit, probability and answer of every film."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "patient", "outcome", "code", "logit", "probability", "answer"])
        for result in judged.results:
            film, finding = result.film, result.finding
            numbers = [finding.logit, finding.probability, finding.answer] if finding else ["", "", ""]
            label = "PNEUMONIA" if film.label else "NORMAL"
            writer.writerow([film.path, label, film.patient, result.outcome, result.code or "", *numbers])
