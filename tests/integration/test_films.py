"""The shipped bundle on real films; PREREAD_FILMS names the folder that holds chest_xray_224 and chest_xray_full."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model_training.dataset import index, load_pixels
from worker import bundle as bundles
from worker.assess import assess
from worker.classifier import Classifier
from worker.domain import Assessment, Declared
from worker.preprocessing import TRAINING_SPEC

pytestmark = pytest.mark.films


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(bundles.load(bundles.resolve()))


def _probability(path: Path, classifier: Classifier) -> float:
    answer = assess(path.read_bytes(), classifier, Declared(assume_age=True))
    assert isinstance(answer, Assessment)
    return answer.findings[0].probability


def _twins(films: Path) -> list[tuple[Path, Path]]:
    train = films / "chest_xray_224" / "train"
    full = sorted((films / "chest_xray_full").glob("*/*"))
    return [(path, train / path.parent.name / path.name) for path in full]


def test_a_film_at_full_size_gets_nearly_the_answer_of_its_small_twin(films: Path, classifier: Classifier) -> None:
    twins = _twins(films)
    assert len(twins) == 180
    difference = [abs(_probability(full, classifier) - _probability(small, classifier)) for full, small in twins]
    assert np.median(difference) <= 0.02
    assert np.percentile(difference, 95) <= 0.10


def test_a_full_film_shrinks_to_the_published_training_picture(films: Path) -> None:
    """The published twin went through JPEG at quality 75 once more; nothing else may differ."""
    full, small = zip(*_twins(films), strict=True)
    labelled = {film.path: film for name in ("chest_xray_full", "chest_xray_224/train") for film in index(films / name)}
    shrunk, _ = load_pixels([labelled[path] for path in full], TRAINING_SPEC)
    published, _ = load_pixels([labelled[path] for path in small], TRAINING_SPEC)
    off = np.abs(shrunk.astype(int) - published.astype(int)).mean(axis=(1, 2))
    assert np.median(off) < 2.0
    assert off.max() < 3.0


def test_evaluate_and_assess_agree_on_every_film(films: Path, tmp_path: Path) -> None:
    folder = films / "chest_xray_full"
    predictions = tmp_path / "predictions.csv"
    evaluate = [sys.executable, "-m", "model_training", "evaluate", "--data", folder, "--predictions", predictions]
    report = json.loads(subprocess.run([*evaluate, "--json"], check=True, capture_output=True).stdout)
    assert report["counts"]["films"] == report["counts"]["assessed"] == 180
    assert report["counts"]["refused"] == report["counts"]["unreadable"] == 0
    assess_all = [sys.executable, "-m", "worker", "assess", folder, "--json"]
    lines = subprocess.run(assess_all, check=True, capture_output=True, text=True).stdout.splitlines()
    assessed = {Path(row["path"]).name: row["findings"][0] for row in map(json.loads, lines)}
    rows = [line.split(",") for line in predictions.read_text().splitlines()]
    column = {name: number for number, name in enumerate(rows[0])}
    assert len(rows) == 181
    for row in rows[1:]:
        finding = assessed[Path(row[column["path"]]).name]
        assert finding["answer"] == row[column["answer"]]
        assert finding["probability"] == pytest.approx(float(row[column["probability"]]), abs=1e-6)


def test_the_manifest_states_what_the_bundle_was_asked_to_reach(classifier: Classifier) -> None:
    measured = classifier.bundle.manifest.metrics
    assert measured["out_of_fold"]["auc"]["value"] >= 0.995
    assert measured["conflict_normals"]["auc"]["value"] >= 0.95
