"""Measure a bundle on labelled films, through the walk that ``preread assess`` takes; needs no TensorFlow."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_training.dataset import Film, labels_for, patients_of
from model_training.evaluation import measure
from worker.batch import FileResult, Found, assess_found
from worker.classifier import Classifier
from worker.domain import JSONObject, Outcome


@dataclass(frozen=True, slots=True)
class Judged:
    """Every film with its result, and the figures over them."""

    results: list[tuple[Film, FileResult]]
    report: JSONObject


def judge(films: Sequence[Film], classifier: Classifier, progress: Callable[[], None] = lambda: None) -> Judged:
    """Assess every film and measure the bundle's first finding at its own operating point.

    A refused or unreadable film is an error whatever its label, and takes the worst rank in the AUC.
    """
    results = []
    for film in films:
        results.append((film, assess_found(Found(str(film.path), named=True), classifier)))
        progress()
    spec = classifier.bundle.manifest.findings[0]
    labels = labels_for(films, spec.finding)
    findings = [result.findings[0] if result.findings else None for _, result in results]
    worst = np.where(labels == 1, -np.inf, np.inf)
    scores = np.array([finding.logit if finding else rank for finding, rank in zip(findings, worst, strict=True)])
    threshold = spec.operating_point.threshold
    called = np.array(
        [
            finding.probability >= threshold if finding else not label
            for finding, label in zip(findings, labels, strict=True)
        ]
    )
    by_patient = all(film.patient_known for film in films)
    groups = patients_of(films) if by_patient else np.array([str(row) for row in range(len(films))])
    measured = measure(scores, called, labels, groups)
    outcomes = Counter(result.outcome for _, result in results)
    answers = Counter(finding.answer for finding in findings if finding)
    report: JSONObject = {
        "bundle": classifier.bundle.label,
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
            **{f"answered_{answer}": count for answer, count in sorted(answers.items())},
        },
        **{name: value.to_json() for name, value in measured.items()},
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
        for film, result in judged.results:
            finding = result.findings[0] if result.findings else None
            numbers = [finding.logit, finding.probability, finding.answer] if finding else ["", "", ""]
            label = "|".join(film.present).upper()
            writer.writerow([film.path, label, film.patient, result.outcome, result.code or "", *numbers])
