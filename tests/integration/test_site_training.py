"""A site's own films: other findings than pneumonia, DICOM, its own declaration, calibration without training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from model_training.cli import app
from model_training.dataset import index, load_pixels, read
from model_training.declaration import PNEUMONIA_CHILDREN, declaration_for
from model_training.evaluation import OutOfFold
from model_training.phantoms import draw_chest, to_dicom, to_png
from model_training.thresholds import NothingLearned, calibrate
from worker import bundle as bundles
from worker.batch import Found, assess_found
from worker.classifier import Classifier
from worker.errors import UsageError
from worker.preprocessing import TRAINING_SPEC


def _run(*arguments: str | Path | int) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def _phantom(seed: int, lift: int) -> np.ndarray:
    return np.clip(draw_chest(seed).astype(int) + lift, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two findings: "nodule" brightens, "effusion" darkens, some films show both."""
    folder = tmp_path_factory.mktemp("site")
    rows = ["path,label,patient"]
    for number, label in enumerate(["NONE", "Nodule", "Effusion", "Effusion|Nodule"] * 4):
        lift = 50 * ("Nod" in label) - 30 * ("Eff" in label)
        (folder / f"{number}.png").write_bytes(to_png(_phantom(number, lift)))
        rows.append(f"{number}.png,{label},p{number}")
    (folder / "films.csv").write_text("\n".join(rows))
    return folder / "films.csv"


def test_several_findings_are_fitted_and_published_under_the_sites_own_declaration(table: Path, tmp_path: Path) -> None:
    shared = ("--data", table, "--run", tmp_path / "run", "--folds", 2, "--absent", "none")
    _run("fit", *shared, "--recipe", "smoke", "--steps-per-epoch", 2, "--only", 0)
    for file in (tmp_path / "run").glob("fold-*/logits.npz"):  # what a network that learned would say
        index = np.load(file)["index"]
        labels = read(table, 2, 0, absent="none").labels[index]
        np.savez(file, index=index, logits=labels * 4.0 - 2.0 + np.linspace(-1, 1, labels.size).reshape(labels.shape))
    with pytest.raises(UsageError, match=r"effusion, nodule: say with `--declaration"):
        _run("publish", *shared, "--version", "1.0.0", "--into", tmp_path)
    declared = json.loads(_run("declaration"))
    declared["codes"] = {"effusion": "SCT:60046008", "nodule": "SCT:786838002"}
    declared["source"] = "films of this test"
    declared["intended_use"]["statement"] = "For tests."
    (tmp_path / "mine.json").write_text(json.dumps(declared))
    _run("publish", *shared, "--version", "1.0.0", "--into", tmp_path, "--name", "ours",
         "--declaration", tmp_path / "mine.json", "--prevalence", 0.1)  # fmt: skip
    bundle = bundles.load(tmp_path / "ours" / "1.0.0")
    assert [(spec.finding, spec.code) for spec in bundle.manifest.findings] == list(declared["codes"].items())
    assert {spec.calibration.prevalence for spec in bundle.manifest.findings} == {0.1}
    assert bundle.manifest.intended_use.statement == "For tests."
    assert bundle.manifest.metrics.keys() == {"effusion", "nodule"}
    batch = np.zeros((1, 224, 224, 1), np.float32)
    output = Classifier(bundle).classify(batch)
    assert output.logit.shape == (2,)
    card = (bundle.path / "card.md").read_text()
    assert all(said in card for said in ("films of this test", "For tests.", "effusion", "nodule"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"codes": {"effusion": "SCT:60046008"}}, "no code for the finding 'nodule'"),
        ({"intended_use": {"modalities": ["CR"]}}, r"mine\.json: intended_use\.\w+: Field required"),
        ({"source": None}, r"mine\.json: source: Input should be a valid string"),
    ],
)
def test_a_declaration_that_lacks_something_is_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    codes = {"effusion": "SCT:60046008", "nodule": "SCT:786838002"}
    (tmp_path / "mine.json").write_text(json.dumps({**PNEUMONIA_CHILDREN.to_json(), "codes": codes, **change}))
    with pytest.raises(UsageError, match=message):
        declaration_for(("effusion", "nodule"), tmp_path / "mine.json")


def test_a_declaration_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine\.json cannot be read"):
        declaration_for(("nodule",), tmp_path / "mine.json")


def test_films_may_be_dicom_and_their_tags_tell_the_patient(tmp_path: Path) -> None:
    for label in ("NORMAL", "NODULE"):
        (tmp_path / label).mkdir()
        for number in range(3):
            film = to_dicom(draw_chest(number + 10 * len(label)), PatientID=f"{label}-{number // 2}")
            (tmp_path / label / f"{number}.dcm").write_bytes(film)
    films, pictures, _ = load_pixels(index(tmp_path), TRAINING_SPEC)
    assert pictures.shape == (6, 224, 224)
    assert all(film.patient_known and "NODULE-" not in film.patient for film in films)
    assert [films[0].patient == films[1].patient, films[1].patient == films[2].patient] == [True, False]
    assert read(tmp_path, folds=2, seed=0).findings == ("nodule",)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[bundles.Bundle, Path]:
    """A bundle fitted on some phantoms, and a site's films: others, and darker by some device."""
    folder = tmp_path_factory.mktemp("recalibrated")
    for name, count, darker in (("ours", 12, 0), ("site", 50, 20)):
        for label, lift in (("NORMAL", 0), ("PNEUMONIA", 60)):
            (folder / name / label).mkdir(parents=True)
            for number in range(count):
                file = folder / name / label / f"{label}-{number}.png"
                file.write_bytes(to_png(_phantom(number + 100 * count, lift - darker)))
    shared = ("--data", folder / "ours", "--run", folder / "run", "--folds", 2)
    _run("fit", *shared, "--recipe", "smoke", "--steps-per-epoch", 3, "--only", 0)
    _run("publish", *shared, "--version", "1.0.0", "--into", folder)
    return bundles.load(folder / "pneumonia-children" / "1.0.0"), folder / "site"


def test_recalibrating_keeps_the_network_and_fits_the_rest_to_the_sites_films(
    published: tuple[bundles.Bundle, Path], tmp_path: Path
) -> None:
    bundle, site = published
    _run("recalibrate", "--data", site, "--bundle", bundle.path, "--version", "1.0.0-site", "--into", tmp_path,
         "--prevalence", 0.2)  # fmt: skip
    made = bundles.load(tmp_path / "pneumonia-children" / "1.0.0-site")
    assert made.manifest.files["weights.tflite"] == bundle.manifest.files["weights.tflite"]
    (before,), (after,) = bundle.manifest.findings, made.manifest.findings
    assert after.calibration.prevalence == 0.2
    assert after.calibration != before.calibration
    raw = json.loads(made.manifest_json)["recalibrated"]
    assert raw["from"] == "pneumonia-children/1.0.0"
    assert raw["films"]["films"] == 100
    assert raw["outcomes"]["assessed"] == made.manifest.metrics["pneumonia"]["count"]
    reference = made.manifest.reference
    assert reference is not None
    assert "site's own" in reference.films
    assert reference.probability["pneumonia"].total == reference.picture["border"].total == raw["outcomes"]["assessed"]
    film = str(next((site / "PNEUMONIA").iterdir()))
    answers = [assess_found(Found(film, named=True), Classifier(which)).findings[0] for which in (bundle, made)]
    assert answers[0].logit == answers[1].logit
    assert answers[1].prevalence == 0.2
    card = " ".join((made.path / "card.md").read_text().split())
    assert "100 films of a site's own" in card
    assert "The network itself is that of pneumonia-children/1.0.0" in card


def test_too_few_films_of_a_site_are_no_ground_for_an_operating_point(
    published: tuple[bundles.Bundle, Path], tmp_path: Path
) -> None:
    bundle, site = published
    rows = [f"{file},{file.parent.name}" for file in sorted(site.glob("*/*"))]
    (tmp_path / "films.csv").write_text("\n".join(["path,label", *rows[1:]]))
    with pytest.raises(UsageError, match="49 films without pneumonia were assessed; at least 50"):
        _run("recalibrate", "--data", tmp_path / "films.csv", "--bundle", bundle.path, "--version", "2",
             "--into", tmp_path)  # fmt: skip
    assert not (tmp_path / "pneumonia-children").exists()


def test_films_of_another_finding_are_no_ground_for_a_bundle(
    published: tuple[bundles.Bundle, Path], tmp_path: Path
) -> None:
    bundle, site = published
    rows = [f"{file},{file.parent.name.replace('PNEUMONIA', 'NODULE')}" for file in sorted(site.glob("*/*"))]
    (tmp_path / "films.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(UsageError, match="speaks of pneumonia, and no film is labelled so"):
        _run("recalibrate", "--data", tmp_path / "films.csv", "--bundle", bundle.path, "--version", "2",
             "--into", tmp_path)  # fmt: skip
    assert not (tmp_path / "pneumonia-children").exists()


def test_a_network_that_learned_nothing_is_not_published() -> None:
    logits, labels = np.linspace(1, -1, 20), np.repeat([0, 1], 10)
    with pytest.raises(NothingLearned, match="20 films"):
        calibrate(OutOfFold(logits, labels, labels == 2), 0.5)
