"""Fit, resume, publish, measure_image: the whole bench on a handful of drawn films."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from preread.core.errors import BundleMismatch, UsageError
from preread.core.types import Answer
from preread.imaging.preprocessing import TRAINING_SPEC, resize_to_input
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread.imaging.statistics import measure_image
from preread.model import bundles
from preread.model.classifier import Classifier
from preread.model.distributions import compute_decile_histogram
from preread.monitoring import drift
from preread_training.cli.app import app
from preread_training.data.atomic_files import NotKept
from preread_training.fit.session import Session
from tests.support.declarations import declare
from tests.support.paths import REPOSITORY
from tests.support.training_images import write_data_set

pytestmark = pytest.mark.usefixtures("deterministic_tensorflow")

FILMS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("films"), FILMS)


def _run(*arguments: str | Path | float) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    _run("fit", "--data", data, "--run", folder, "--recipe", "smoke", "--folds", 2, "--steps-per-epoch", 3)
    return folder


@pytest.fixture(scope="module")
def published(data: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> bundles.Bundle:
    into = tmp_path_factory.mktemp("bundles")
    _run("publish", "--data", data, "--run", run, "--into", into, "--version", "9.0.0", "--declaration", declare(into))
    return bundles.load_bundle(into / "pneumonia" / "9.0.0")


def test_index_counts_films_and_patients(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "films.csv"
    counted = json.loads(_run("index", "--data", data, "--folds", 2, "--out", out))
    assert counted["films"] == 2 * FILMS
    assert counted["findings"]["pneumonia"]["films"] == FILMS
    assert counted["patients"] == 2 * FILMS
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["fold"] for row in rows} == {"0", "1"}
    assert all(Path(row["path"]).is_file() for row in rows)


def test_the_run_keeps_which_film_was_in_which_fold(run: Path) -> None:
    with (run / "films.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["sha256"] for row in rows}) == 2 * FILMS
    for fold in ("0", "1"):
        held = np.load(run / f"fold-{fold}" / "logits.npz")["index"].tolist()
        assert held == [number for number, row in enumerate(rows) if row["fold"] == fold]


def test_every_film_has_one_logit_out_of_fold(run: Path) -> None:
    parts = [np.load(file) for file in sorted(run.glob("fold-*/logits.npz"))]
    assert sorted(np.concatenate([part["index"] for part in parts]).tolist()) == list(range(2 * FILMS))
    assert np.isfinite(np.concatenate([part["logits"] for part in parts])).all()


def test_runs_are_judged_by_four_measures(data: Path, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    found = json.loads(_run("judge", run, other, "--data", data, "--json"))
    assert found["images"] == 2 * FILMS
    assert found["folds"] == 2
    measured = found["runs"]["other"]["auc"]
    assert measured["disturbed"]["value"] is not None
    assert measured == found["runs"][run.name]["auc"]
    assert found["runs"]["other"]["verdict"] == "undecided"
    # kept for the next time, and for these images alone
    kept = [np.load(file)["index"] for file in sorted(run.glob("fold-*/disturbed.npz"))]
    assert sorted(np.concatenate(kept).tolist()) == list(range(2 * FILMS))
    assert "fit at least 3" in CliRunner().invoke(app, ["judge", str(run), "--data", str(data)]).stderr


def test_a_finished_run_is_not_fitted_again(data: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from preread_training.fit import trainer

    monkeypatch.setattr(trainer, "build_recipe_network", None)  # a new fit would call it
    _run("fit", "--data", data, "--run", run, "--recipe", "smoke", "--folds", 2, "--steps-per-epoch", 3)


def test_a_run_of_another_seed_is_not_mixed_in(data: Path, run: Path) -> None:
    arguments = ["fit", "--data", str(data), "--run", str(run), "--recipe", "smoke", "--folds", "2", "--seed", "1"]
    with pytest.raises(UsageError, match="another seed"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_published_bundle_repeats_its_golden_vectors(published: bundles.Bundle) -> None:
    assert Classifier(published).verify_reference_outputs() <= 0.02


def test_another_network_under_the_same_golden_vectors_is_refused(published: bundles.Bundle) -> None:
    manifest = dataclasses.replace(published.manifest, golden_tolerance=-1.0)
    with pytest.raises(BundleMismatch, match="differs from its reference outputs"):
        Classifier(dataclasses.replace(published, manifest=manifest)).verify_reference_outputs()


def test_the_logit_is_the_mean_of_the_map_whatever_the_film(published: bundles.Bundle) -> None:
    classifier = Classifier(published)
    generator = np.random.default_rng(0)
    outputs = [classifier.classify(generator.normal(size=(1, 224, 224, 1)).astype(np.float32)) for _ in range(3)]
    assert {output.activation_map.shape for output in outputs} == {(3, 3)}  # 96 pixels, 32 a cell
    assert {output.embedding.shape for output in outputs} == {(1280,)}
    bias = [float(output.logit[0] - output.activation_map.mean()) for output in outputs]
    assert bias == pytest.approx([bias[0]] * 3, abs=1e-4)


def test_evaluate_counts_a_film_without_an_answer_as_an_error(
    data: Path, published: bundles.Bundle, tmp_path: Path
) -> None:
    for name in ("broken.png", "other.png"):
        (tmp_path / name).write_text("no picture")
    table = tmp_path / "films.csv"
    rows = [f"{path},{path.parent.name},{path.stem}" for path in sorted(data.glob("*/*"))]
    table.write_text("\n".join(["path,label,patient", *rows, "broken.png,PNEUMONIA,x", "other.png,NORMAL,y"]))
    predictions = tmp_path / "predictions.csv"
    arguments = ("evaluate", "--data", table, "--bundle", published.path, "--predictions", predictions, "--json")
    report = json.loads(_run(*arguments))
    assert report["counts"]["films"] == 2 * FILMS + 2
    assert report["counts"]["unreadable"] == 2
    assert report["bootstrap_by"] == "patient"
    assert report["confusion"]["false_negative"] >= 1
    assert report["confusion"]["false_positive"] >= 1
    assert report["sensitivity"]["value"] == pytest.approx(report["confusion"]["true_positive"] / (FILMS + 1))
    with predictions.open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [row["code"] for row in written if row["outcome"] == "unreadable"] == ["unknown_format"] * 2
    assert {row["answer"] for row in written} <= {"", *Answer}
    answered = [sum(counts.values()) for counts in report["answers"].values()]
    assert sum(answered) == report["counts"]["films"]
    assert report["answers"]["none"] == {
        label: sum(row["outcome"] != "assessed" and row["label"] == name for row in written)
        for label, name in (("with_finding", "PNEUMONIA"), ("without_finding", ""))
    }
    assert [at["prevalence"] for at in report["predictive_values"]["measured"]] == [0.05, 0.2, 0.6]
    assert report["predictive_values"]["stated"] == [
        dataclasses.asdict(values) for values in published.manifest.findings[0].predictive_values
    ]
    printed = _run(*arguments[:-1])
    for figure in ("balanced accuracy", "matthews correlation", "PPV at 5%", "NPV at 60%", "answer: uncertain"):
        assert figure in printed


def test_evaluate_names_the_findings_that_a_bundle_speaks_of(data: Path, published: bundles.Bundle) -> None:
    arguments = ["evaluate", "--data", str(data), "--bundle", str(published.path), "--finding", "effusion"]
    with pytest.raises(UsageError, match="no finding 'effusion': choose one of pneumonia"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_the_card_of_a_published_bundle_is_made_from_its_manifest(published: bundles.Bundle) -> None:
    text = (published.path / "card.md").read_text(encoding="utf-8")
    measured = published.manifest.metrics["pneumonia"]
    assert "## 20. " in text
    assert measured["inside"]["activation_map"]["largest_deviation_of_logit"] < 1e-4
    assert f"{measured['inside']['reframing']['films']} films without the finding, cut at the top" in text


def test_a_published_bundle_says_how_its_films_were_distributed(
    data: Path, run: Path, published: bundles.Bundle
) -> None:
    """By answers of networks that had not seen them, and by the pictures as the worker measures them."""
    reference = published.manifest.reference
    assert reference is not None
    assert "out of fold" in reference.films
    parts = [np.load(fold / "logits.npz") for fold in sorted(run.glob("fold-*"))]
    calibration = published.manifest.findings[0].calibration
    probability = [calibration.compute_probability(one) for part in parts for one in part["logits"][:, 0].tolist()]
    assert len(probability) == 2 * FILMS
    assert reference.probability == {"pneumonia": compute_decile_histogram(probability)}
    films = [decode_radiograph(read_image_header(path.read_bytes())).pixels for path in data.rglob("*.png")]
    means = [measure_image(resize_to_input(TRAINING_SPEC, film)).mean for film in films]
    assert reference.picture.keys() == {"mean", "contrast", "sharpness", "border"}
    assert reference.picture["mean"] == compute_decile_histogram(means)
    assert drift._reference(json.loads(published.manifest_json)) == reference


@pytest.mark.usefixtures("small_network")
def test_a_loss_that_is_no_number_ends_the_fit(tmp_path: Path) -> None:
    from preread_training.fit.callbacks import FittingFailed
    from preread_training.fit.trainer import RECIPES, WEIGHTS_FILE, fit_network

    recipe = dataclasses.replace(RECIPES["smoke"], architecture="small", learning_rate=float("nan"))
    pictures = np.zeros((8, 224, 224), np.uint8)
    labels = np.array([[0], [1]] * 4)
    with pytest.raises(FittingFailed, match="loss became"):
        fit_network(recipe, TRAINING_SPEC, pictures, labels, np.full(8, 1 / 8), Session(tmp_path, steps_per_epoch=3))
    assert not (tmp_path / WEIGHTS_FILE).exists()


def _fit(
    folder: Path, say: Callable[[str], None] = lambda _: None, *, seed: int = 0, architecture: str = "small"
) -> list[bytes]:
    """Fit three epochs in two sizes and return the weights' bytes."""
    from preread_training.fit.trainer import RECIPES, fit_network

    recipe = dataclasses.replace(RECIPES["smoke"], architecture=architecture, sizes=((64, 2), (96, 1)))
    pictures = np.random.default_rng(0).integers(0, 256, (8, 224, 224), dtype=np.uint8)
    labels = np.array([[0], [1]] * 4)
    session = Session(folder, seed=seed, steps_per_epoch=1, log=say)
    model = fit_network(recipe, TRAINING_SPEC, pictures, labels, np.full(8, 1 / 8), session)
    return [weight.tobytes() for weight in model.get_weights()]


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know the architecture that is built in a moment, dropout and all."""
    from preread_training.nets.architectures import ARCHITECTURES
    from tests.programs.fit_small import small

    monkeypatch.setitem(ARCHITECTURES, "small", small)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    first, second = (_fit(tmp_path / name, architecture="efficientnet_lite0") for name in "ab")
    assert first == second


@pytest.mark.usefixtures("small_network")
def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    assert _fit(tmp_path / "a", seed=1) != _fit(tmp_path / "b")


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("epoch", [2, 3])
def test_an_interrupted_fit_goes_on_to_the_same_weights(epoch: int, tmp_path: Path) -> None:
    from preread_training.fit.trainer import WEIGHTS_FILE

    def interrupt(text: str) -> None:
        if text.startswith(f"epoch {epoch}"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "broken off", interrupt)
    (tmp_path / "broken off" / "part.weights.h5").write_bytes(b"broken off while it was written")
    told: list[str] = []
    resumed = _fit(tmp_path / "broken off", told.append)
    assert [int(text.split()[1]) for text in told] == list(range(epoch, 4))
    assert (tmp_path / "broken off" / WEIGHTS_FILE).exists()
    assert resumed == _fit(tmp_path / "whole")


def test_jax_fits_the_same_network_as_tensorflow(tmp_path: Path) -> None:
    fitted = {}
    for backend in ("tensorflow", "jax"):
        kept = tmp_path / f"{backend}.npz"
        subprocess.run(
            [sys.executable, "-m", "tests.programs.fit_small", tmp_path / backend, kept],
            cwd=REPOSITORY,
            env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
            check=True,
        )
        fitted[backend] = np.load(kept)
    for name in ("logits", "conv"):
        np.testing.assert_allclose(fitted["jax"][name], fitted["tensorflow"][name], atol=1e-3)
    assert np.ptp(fitted["jax"]["logits"]) > 0.01, "the network has learned nothing that could differ"
    losses = [(tmp_path / backend / "history.csv").read_text().splitlines()[1:] for backend in fitted]
    for ours, theirs in zip(*losses, strict=True):
        assert float(ours.split(",")[1]) == pytest.approx(float(theirs.split(",")[1]), abs=1e-4)


def test_a_run_is_published_by_tensorflow_alone(data: Path, run: Path, tmp_path: Path) -> None:
    arguments = ("publish", "--data", data, "--run", run, "--into", tmp_path, "--version", "9.0.1", "--folds", "2")
    ended = subprocess.run(
        [Path(sys.executable).with_name("preread-train"), *arguments],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == UsageError.exit_code
    assert "KERAS_BACKEND is jax" in ended.stderr


def test_a_full_disk_at_a_checkpoint_is_named_and_the_fit_goes_on_once_there_is_room(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(NotKept, match=r"checkpoint-1\.weights\.h5 could not be written"):
            _fit(tmp_path, architecture="efficientnet_lite0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob("*.h5"))
    told: list[str] = []
    _fit(tmp_path, told.append, architecture="efficientnet_lite0")
    assert len(told) == 3


def test_a_trial_run_is_not_taken_for_a_whole_one(data: Path, run: Path) -> None:
    arguments = ["fit", "--data", str(data), "--run", str(run), "--recipe", "smoke", "--folds", "2"]
    with pytest.raises(UsageError, match="another steps_per_epoch"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_publish_wants_a_finished_run(data: Path, tmp_path: Path) -> None:
    arguments = ["publish", "--data", str(data), "--run", str(tmp_path), "--version", "1", "--into", str(tmp_path)]
    with pytest.raises(UsageError, match="no network fitted"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
