"""A site's own films: other findings than pneumonia, DICOM, its own declaration, calibration without training."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import preread_training
from preread.core.errors import UsageError
from preread.model import bundles
from preread.model.classifier import Classifier
from preread.runner.assess_files import assess_files
from preread_training.cli.app import app
from preread_training.data.dataset import (
    decode_labelled_images,
    list_labelled_images,
    merge_patients_sharing_images,
    read_data_set,
)
from preread_training.data.digests import PUBLISHED_DATA_SET, compute_content_digest
from preread_training.data.phantoms import draw_chest, to_dicom, to_png
from preread_training.publish.declaration import PNEUMONIA_CHILDREN, read_declaration
from preread_training.stats.metrics import OutOfFold
from preread_training.stats.operating_point import NothingLearned, fit_calibration
from tests.support.declarations import declare
from tests.support.training_images import brightened_chest


def _run(*arguments: str | Path | float) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def small_network() -> Iterator[None]:
    """Fit one convolution instead of the real network, which ``fit/test_trainer.py`` fits and publishes."""
    from preread_training.fit import trainer
    from preread_training.nets.architectures import ARCHITECTURES
    from tests.programs.fit_small import small

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "small", small)
        patch.setitem(trainer.RECIPES, "smoke", replace(trainer.RECIPES["smoke"], architecture="small"))
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two findings: "nodule" brightens, "effusion" darkens, some films show both."""
    folder = tmp_path_factory.mktemp("site")
    rows = ["path,label,patient"]
    for number, label in enumerate(["NONE", "Nodule", "Effusion", "Effusion|Nodule"] * 4):
        lift = 50 * ("Nod" in label) - 30 * ("Eff" in label)
        (folder / f"{number}.png").write_bytes(to_png(brightened_chest(number, lift)))
        rows.append(f"{number}.png,{label},p{number}")
    (folder / "films.csv").write_text("\n".join(rows))
    return folder / "films.csv"


@pytest.mark.usefixtures("small_network")
def test_several_findings_are_fitted_and_published_under_the_sites_own_declaration(table: Path, tmp_path: Path) -> None:
    shared = ("--data", table, "--run", tmp_path / "run", "--folds", 2, "--absent", "none")
    _run("fit", *shared, "--recipe", "smoke", "--steps-per-epoch", 2, "--only", 0)
    for file in (tmp_path / "run").glob("fold-*/logits.npz"):  # what a network that learned would say
        index = np.load(file)["index"]
        labels = read_data_set(table, 2, 0, absent="none").labels[index]
        np.savez(file, index=index, logits=labels * 4.0 - 2.0 + np.linspace(-1, 1, labels.size).reshape(labels.shape))
    with pytest.raises(UsageError, match=r"effusion, nodule: fill one in that .* with `--declaration FILE`"):
        _run("publish", *shared, "--version", "1.0.0", "--into", tmp_path)
    mine = declare(tmp_path, "effusion", "nodule")
    _run("publish", *shared, "--version", "1.0.0", "--into", tmp_path, "--name", "ours",
         "--declaration", mine, "--prevalence", 0.1)  # fmt: skip
    bundle = bundles.load_bundle(tmp_path / "ours" / "1.0.0")
    codes = [("effusion", "SCT:60046008"), ("nodule", "SCT:786838002")]
    assert [(spec.finding, spec.code) for spec in bundle.manifest.findings] == codes
    assert {spec.calibration.prevalence for spec in bundle.manifest.findings} == {0.1}
    assert bundle.manifest.intended_use.statement == "For tests of ours."
    assert bundle.manifest.metrics.keys() == {"effusion", "nodule"}
    batch = np.zeros((1, 224, 224, 1), np.float32)
    output = Classifier(bundle).classify(batch)
    assert output.logit.shape == (2,)
    card = (bundle.path / "card.md").read_text()
    assert all(said in card for said in ("synthetic images of this test", "For tests of ours.", "effusion", "nodule"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"codes": {"effusion": "SCT:60046008"}}, "no code for the finding 'nodule'"),
        ({"intended_use": {"modalities": ["CR"]}}, r"mine\.json: intended_use\.\w+ is not valid \(Field required\)"),
        ({"source": None}, r"mine\.json: source is not valid \(Input should be a valid string\)"),
        ({"source": "<whose>"}, r"mine\.json: source is not filled in"),
        ({"codes": {"<finding>": "SCT:1"}}, r"mine\.json: codes is not filled in"),
        (
            {"notes": asdict(PNEUMONIA_CHILDREN.notes)},
            r"mine\.json: notes\.not_for\.0 repeats a note on the published set",
        ),
    ],
)
def test_a_declaration_that_lacks_something_is_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    codes = {"effusion": "SCT:60046008", "nodule": "SCT:786838002"}
    declare(tmp_path, **{"codes": codes, **change})
    with pytest.raises(UsageError, match=message):
        read_declaration(("effusion", "nodule"), tmp_path / "mine.json")


@pytest.mark.parametrize("text, message", [("{", "is no JSON"), ("[]", "holds no object")])
def test_a_file_that_is_no_declaration_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_declaration(("nodule",), tmp_path / "mine.json")


def test_the_built_in_declaration_is_for_the_published_set_alone() -> None:
    assert read_declaration(("pneumonia",), None, published=True) is PNEUMONIA_CHILDREN
    for findings, published in ((("pneumonia",), False), (("pneumonia", "effusion"), True)):
        with pytest.raises(UsageError, match="give it with `--declaration FILE`"):
            read_declaration(findings, None, published=published)


def test_what_is_printed_to_fill_in_is_no_declaration_yet(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(_run("declaration"))
    with pytest.raises(UsageError, match="is not filled in"):
        read_declaration(("pneumonia",), tmp_path / "mine.json")
    assert json.loads(_run("declaration", "--shipped")) == json.loads(json.dumps(PNEUMONIA_CHILDREN.to_json()))


def test_a_declaration_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine\.json cannot be read"):
        read_declaration(("nodule",), tmp_path / "mine.json")


def test_films_may_be_dicom_and_their_tags_tell_the_patient(tmp_path: Path) -> None:
    for label in ("NORMAL", "NODULE"):
        (tmp_path / label).mkdir()
        for number in range(3):
            film = to_dicom(draw_chest(number + 10 * len(label)), PatientID=f"{label}-{number // 2}")
            (tmp_path / label / f"{number}.dcm").write_bytes(film)
    films, pictures, _ = decode_labelled_images(list_labelled_images(tmp_path))
    assert pictures.shape == (6, 224, 224)
    assert all(film.patient_known and "NODULE-" not in film.patient for film in films)
    assert [films[0].patient == films[1].patient, films[1].patient == films[2].patient] == [True, False]
    assert read_data_set(tmp_path, folds=2, seed=0).findings == ("nodule",)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, small_network: None) -> tuple[bundles.Bundle, Path]:
    """A bundle fitted on some phantoms, and a site's films: others, and darker by some device."""
    folder = tmp_path_factory.mktemp("recalibrated")
    for name, count, darker in (("ours", 20, 0), ("site", 50, 20)):
        for label, lift in (("NORMAL", 0), ("PNEUMONIA", 60)):
            (folder / name / label).mkdir(parents=True)
            for number in range(count):
                file = folder / name / label / f"{label}-{number}.png"
                file.write_bytes(to_png(brightened_chest(number + 100 * count, lift - darker)))
    shared = ("--data", folder / "ours", "--run", folder / "run", "--folds", 2)
    _run("fit", *shared, "--recipe", "smoke", "--steps-per-epoch", 3, "--only", 0)
    _run("publish", *shared, "--version", "1.0.0", "--into", folder, "--declaration", declare(folder))
    return bundles.load_bundle(folder / "pneumonia" / "1.0.0"), folder / "site"


# Names of what every card measures: subgroups, disturbances, a recipe's numbers, the run's own label.
_MEASURED = {"between", "bright", "detail", "down", "jpeg", "noise", "normal", "quality", "third"}
_TOKEN = re.compile(r"[^\W\d_]{4,}|\d[\d,.]*\d")


def _words(text: str) -> set[str]:
    """Words of four letters or more and numbers of two digits or more, in lower case."""
    return set(_TOKEN.findall(text.lower()))


def _published_facts() -> set[str]:
    """What only the declaration of the published set says: its names, words and numbers, and its counts.

    Words of the card's own text are taken out, and numbers that any figure may be.
    """
    folder = Path(preread_training.__file__).parent
    said = _words(json.dumps(PNEUMONIA_CHILDREN.to_json()))
    own = _words((folder / "publish" / "card.md.j2").read_text() + (folder / "report" / "report.html.j2").read_text())
    numbers = {word for word in said if word[0].isdigit() and "," in word}
    facts = {word for word in said - own - _MEASURED if not word[0].isdigit()}
    shipped = json.loads(bundles.load_bundle(bundles.find_bundle()).manifest_json)["training"]["data"]
    counts = {str(shipped["films"]), str(shipped["patients"]), str(shipped["findings"]["pneumonia"]["films"])}
    return facts | numbers | {number.replace(",", "") for number in numbers} | counts | {"1341", "624", "643", "cc by"}


def test_what_is_published_of_other_films_states_no_fact_of_the_published_set(
    published: tuple[bundles.Bundle, Path], tmp_path: Path
) -> None:
    """40 synthetic images under the labels of the published set."""
    bundle, site = published
    facts = _published_facts()
    assert facts >= {"guangzhou", "kermany", "mendeley", "bacterial", "viral", "graders", "5216", "2,530"}
    mine = _words(declare(tmp_path).read_text())
    _run("report", site.parent / "run", "--data", site.parent / "ours", "--out", tmp_path / "report", "--share")
    texts = {
        "card": (bundle.path / "card.md").read_text(),
        "manifest": (bundle.path / "manifest.json").read_text(),
        "report": re.sub(
            r"data:[^\"]*|<style>.*?</style>",
            "",
            (tmp_path / "report" / "report-shared.html").read_text(),
            flags=re.DOTALL,
        ),
    }
    for name, text in texts.items():
        found = {word for word in facts - mine if re.search(rf"(?<![\w.,]){re.escape(word)}(?![\w])", text.lower())}
        assert not found, name
    assert "40 films of 40 patients" in " ".join(texts["card"].split())
    assert "synthetic images of this test" in texts["card"]


def test_films_of_which_nothing_is_declared_are_not_published(
    published: tuple[bundles.Bundle, Path], tmp_path: Path
) -> None:
    folder = published[1].parent
    command: list[str | Path] = [Path(sys.executable).with_name("preread-train"), "publish", "--data", folder / "ours",
               "--run", folder / "run", "--version", "2.0.0", "--into", tmp_path]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "no declaration is known for these images, labelled pneumonia" in ended.stderr
    assert ended.stderr.count("\n") == 1, "nothing of a library's"
    assert not list(tmp_path.iterdir())


@pytest.mark.films
def test_the_published_set_is_known_wherever_it_lies_and_however_it_is_dealt(films: Path, tmp_path: Path) -> None:
    found = list_labelled_images(films / "chest_xray_224" / "train")
    hashes = [hashlib.sha256(film.path.read_bytes()).hexdigest() for film in found]
    joined = merge_patients_sharing_images(found, hashes)
    assert compute_content_digest(joined, hashes) == PUBLISHED_DATA_SET
    assert compute_content_digest(joined[::-1], hashes[::-1]) == PUBLISHED_DATA_SET
    assert compute_content_digest(joined[1:], hashes[1:]) != PUBLISHED_DATA_SET


def test_recalibrating_keeps_the_network_and_fits_the_rest_to_the_sites_films(
    published: tuple[bundles.Bundle, Path], tmp_path: Path
) -> None:
    bundle, site = published
    arguments = ("recalibrate", "--data", site, "--bundle", bundle.path, "--version", "1.0.0-site", "--into", tmp_path,
                 "--prevalence", 0.2)  # fmt: skip
    with pytest.raises(UsageError, match="no declaration is known for these images"):
        _run(*arguments)
    theirs = {"source": "a site's films", "films_licence": "theirs", "labelled_by": "two doctors of the site"}
    (tmp_path / "theirs.json").write_text(json.dumps({**theirs, "codes": {"pneumonia": "SCT:1"}}))
    with pytest.raises(UsageError, match=r"codes differs from that of pneumonia/1\.0\.0"):
        _run(*arguments, "--declaration", tmp_path / "theirs.json")
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    _run(*arguments, "--declaration", tmp_path / "theirs.json")
    made = bundles.load_bundle(tmp_path / "pneumonia" / "1.0.0-site")
    assert made.manifest.files["weights.tflite"] == bundle.manifest.files["weights.tflite"]
    (before,), (after,) = bundle.manifest.findings, made.manifest.findings
    assert after.calibration.prevalence == 0.2
    assert after.calibration != before.calibration
    raw = json.loads(made.manifest_json)["recalibrated"]
    assert raw["from"] == "pneumonia/1.0.0"
    assert raw.items() >= theirs.items()
    assert raw["films"]["films"] == 100
    assert raw["outcomes"]["assessed"] == made.manifest.metrics["pneumonia"]["count"]
    reference = made.manifest.reference
    assert reference is not None
    assert "site's own" in reference.films
    assert reference.probability["pneumonia"].total == reference.picture["border"].total == raw["outcomes"]["assessed"]
    film = str(next((site / "PNEUMONIA").iterdir()))
    answers = [next(assess_files([film], which)).findings[0] for which in (bundle, made)]
    assert answers[0].logit == answers[1].logit
    assert answers[1].prevalence == 0.2
    card = " ".join((made.path / "card.md").read_text().split())
    assert "100 films of a site's own" in card
    assert "those of the network, which is that of pneumonia/1.0.0" in card
    assert "Source of these: a site's films. Licence: theirs. Labelled by: two doctors of the site." in card


def test_a_bundle_is_not_calibrated_on_the_films_of_its_network(
    published: tuple[bundles.Bundle, Path], tmp_path: Path
) -> None:
    bundle, site = published
    with pytest.raises(UsageError, match="was fitted to these very images"):
        _run("recalibrate", "--data", site.parent / "ours", "--bundle", bundle.path, "--version", "2",
             "--into", tmp_path, "--declaration", declare(tmp_path))  # fmt: skip


def test_too_few_films_of_a_site_are_no_ground_for_an_operating_point(
    published: tuple[bundles.Bundle, Path], tmp_path: Path
) -> None:
    bundle, site = published
    rows = [f"{file},{file.parent.name}" for file in sorted(site.glob("*/*"))]
    (tmp_path / "films.csv").write_text("\n".join(["path,label", *rows[1:]]))
    with pytest.raises(UsageError, match=r"49 images without pneumonia were assessed, .* at least 50"):
        _run("recalibrate", "--data", tmp_path / "films.csv", "--bundle", bundle.path, "--version", "2",
             "--into", tmp_path, "--declaration", declare(tmp_path))  # fmt: skip
    assert not (tmp_path / "pneumonia").exists()


def test_films_of_another_finding_are_no_ground_for_a_bundle(
    published: tuple[bundles.Bundle, Path], tmp_path: Path
) -> None:
    bundle, site = published
    rows = [f"{file},{file.parent.name.replace('PNEUMONIA', 'NODULE')}" for file in sorted(site.glob("*/*"))]
    (tmp_path / "films.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(UsageError, match="no image is labelled with the bundle's finding pneumonia"):
        _run("recalibrate", "--data", tmp_path / "films.csv", "--bundle", bundle.path, "--version", "2",
             "--into", tmp_path, "--declaration", declare(tmp_path))  # fmt: skip
    assert not (tmp_path / "pneumonia").exists()


def test_a_network_that_learned_nothing_is_not_published() -> None:
    logits, labels = np.linspace(1, -1, 20), np.repeat([0, 1], 10)
    with pytest.raises(NothingLearned, match="20 images"):
        fit_calibration(OutOfFold(logits, labels, labels == 2), 0.5)
