"""The figures of a manifest and the card that is written from them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preread.imaging.preprocessing import TRAINING_SPEC
from preread.model import bundles
from preread_training.analysis import manifest_metrics
from preread_training.analysis.activation_maps import NetworkOutputs
from preread_training.analysis.perturbation import run_perturbation_tests
from preread_training.data.dataset import Data, LabelledImage, summarise_data_set
from preread_training.publish.card import render_card
from preread_training.publish.declaration import PNEUMONIA_CHILDREN
from preread_training.stats.baselines import compute_thumbnails, find_contradicted_labels, select_border
from preread_training.stats.operating_point import specify_finding

N = 120


def _data() -> Data:
    """Small films, of which half show the finding; two films a patient, five folds."""
    generator = np.random.default_rng(0)
    labels = np.repeat(generator.permutation(N // 2) % 2, 2)[:, None]
    pictures = generator.integers(60, 120, (N, 56, 56), dtype=np.uint8)
    pictures[labels[:, 0] == 1, :10] += 20  # what gives the label away, in most films
    patients = np.array([f"{'virus' if labels[row, 0] else 'IM'}-{row // 2}" for row in range(N)])
    folds = np.arange(N) // 2 % 5
    films = [
        LabelledImage(Path(f"{row}.png"), ("pneumonia",) if labels[row, 0] else (), key, True)
        for row, key in enumerate(patients.tolist())
    ]
    conflict = find_contradicted_labels(select_border(compute_thumbnails(pictures)), labels[:, 0], folds)[:, None]
    conflict[:10] = True
    return Data(films, pictures, [f"{row:064x}" for row in range(N)], ("pneumonia",), labels, patients, folds, conflict)


def _look(pictures: np.ndarray) -> NetworkOutputs:
    means = pictures.mean(axis=(1, 2)) - 90.0
    return NetworkOutputs(means, np.repeat(means, 36).reshape(-1, 6, 6).astype(np.float32))


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    data, rows = _data(), np.arange(N)
    logits = np.random.default_rng(1).normal(np.where(data.labels[:, 0] == 1, 2.5, -2.5), 1.5)
    films = data.make_out_of_fold(0, logits, rows)
    spec = specify_finding(films, "pneumonia", "SCT:233604007", 0.5)
    some = rows[:20]
    looked = run_perturbation_tests(
        _look, data.pixels[some], films.labels[some], films.conflict[some], spec.calibration, 8
    )
    recipe = {
        "name": "default",
        "architecture": "efficientnet_lite0",
        "sizes": [[160, 10], [224, 2]],
        "serving_px": 192,
        "batch": 32,
        "learning_rate": 2e-4,
    }
    made = {
        "manifest_schema": 2,
        "name": "test",
        "version": "1.0.0",
        "licence": "Apache-2.0",
        "intended_use": asdict(PNEUMONIA_CHILDREN.intended_use),
        "preprocessing": asdict(TRAINING_SPEC),
        "preprocessing_digest": TRAINING_SPEC.digest,
        "findings": [asdict(spec)],
        "golden_tolerance": 0.02,
        "training": {
            "recipe": recipe,
            "seed": 0,
            "data": summarise_data_set(data),
            "environment": {"python": "3.11"},
            "fitted_on": "all films",
            "source": PNEUMONIA_CHILDREN.source,
            "films_licence": "CC BY 4.0",
            "labelled_by": "two graders",
            "notes": asdict(PNEUMONIA_CHILDREN.notes),
            "initial_weights": "ImageNet",
            "parameters": 3_350_705,
            "published_on": "2026-03-31",
        },
        "metrics": {"pneumonia": manifest_metrics.measure_finding(films, data, spec, rows, looked)},
    }
    return dict(json.loads(json.dumps(made, allow_nan=False)))


def _section(text: str, number: int) -> str:
    return re.split(r"^## \d+\. ", text, flags=re.MULTILINE)[number]


def test_films_of_unknown_patients_are_counted_on_a_line_of_their_list(manifest: dict[str, Any]) -> None:
    data = {**manifest["training"]["data"], "patients_unknown": 7}
    text = render_card({**manifest, "training": {**manifest["training"], "data": data}})
    assert "Of 7 films the patient is not known; each counts as one." in " ".join(text.split())
    assert re.search(r"^- Labelled by: ", text, flags=re.MULTILINE)


def test_the_card_of_the_shipped_bundle_is_what_its_manifest_gives() -> None:
    """Its manifest is older than notes: they are those of the declaration of its films, and of no others."""
    shipped = bundles.load_bundle(bundles.find_bundle())
    manifest = json.loads(shipped.manifest_json)
    assert render_card(manifest) == (shipped.path / "card.md").read_text(encoding="utf-8")
    other = {**manifest["training"]["data"], "digest": "0" * 64}
    assert "published test split" not in render_card({**manifest, "training": {**manifest["training"], "data": other}})


def test_the_card_has_twenty_sections_in_order_and_none_is_empty(manifest: dict[str, Any]) -> None:
    text = render_card(manifest)
    assert re.findall(r"^## (\d+)\. ", text, flags=re.MULTILINE) == [str(number) for number in range(1, 21)]
    for number in range(1, 21):
        assert len(_section(text, number).split()) > 12
    assert "None" not in text.split()
    assert "Undefined" not in text


def test_the_card_holds_every_figure_that_was_measured(manifest: dict[str, Any]) -> None:
    text, of = render_card(manifest), manifest["metrics"]["pneumonia"]
    for measure in of["out_of_fold"].values():
        assert f"{measure['value']:.4f} ({measure['low']:.4f} to {measure['high']:.4f})" in _section(text, 9)
    for at in manifest["findings"][0]["predictive_values"]:
        assert f"| {at['ppv'] * 100:.1f} % | {at['npv'] * 100:.1f} % |" in _section(text, 9)
    for name in of["subgroups"]:
        assert f"| {name} |" in _section(text, 10)
    for name in of["inside"]["robustness"]["disturbed"]:
        assert f"| {name} |" in _section(text, 11)
    confusion = of["confusion"]
    assert f"| with the finding | {confusion['true_positive']} | {confusion['false_negative']} |" in _section(text, 16)
    assert sum(confusion.values()) == of["count"] == N


def test_the_card_says_what_was_known_beforehand_and_what_is_not_measured(manifest: dict[str, Any]) -> None:
    text = " ".join(render_card(manifest).split())
    assert "Known beforehand: the shift in framing" in text
    assert "Openings for a choice: 0" in text
    assert text.count("not yet measured |") == 5
    assert text.startswith("# test 1.0.0 **No medical device.**")


def test_held_out_figures_take_the_place_kept_for_them(manifest: dict[str, Any]) -> None:
    of = {"auc": {"value": 0.99, "low": 0.98, "high": 1.0}}
    keys = ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity")
    metrics = {**manifest["metrics"]["pneumonia"], "held_out_test_split": dict.fromkeys(keys, of["auc"])}
    text = render_card({**manifest, "metrics": {"pneumonia": metrics}})
    assert "not yet measured |" not in text
    assert "| AUC | 0.9900 (0.9800 to 1.0000) |" in text


def test_films_of_elsewhere_get_no_facts_of_the_published_ones(manifest: dict[str, Any]) -> None:
    text = render_card({**manifest, "training": {**manifest["training"], "notes": {}}})
    for fact in ("Guangzhou", "808 of", "bacterial and 1,345", "Known beforehand", "The 624 films"):
        assert fact in render_card(manifest)
        assert fact not in text


def test_a_network_that_was_not_probed_is_said_to_be_so(manifest: dict[str, Any]) -> None:
    metrics = {**manifest["metrics"]["pneumonia"], "inside": None}
    text = render_card({**manifest, "metrics": {"pneumonia": metrics}})
    assert "Not measured for this version." in _section(text, 11)
    assert "Not measured for this version." in _section(text, 15)


def test_several_findings_have_a_part_each_in_every_section_of_figures(manifest: dict[str, Any]) -> None:
    two = json.loads(json.dumps(manifest))
    two["findings"].append({**manifest["findings"][0], "finding": "effusion", "code": "SCT:60046008"})
    for of in (two["metrics"], two["training"]["data"]["findings"]):
        of["effusion"] = of["pneumonia"]
    text = render_card(two)
    for number in (8, 9, 10, 11, 14, 15, 16):
        assert re.findall(r"^### (\w+)$", _section(text, number), flags=re.MULTILINE) == ["pneumonia", "effusion"]


def test_a_recalibrated_bundle_says_on_whose_films(manifest: dict[str, Any]) -> None:
    again = {
        "from": "test/0.9.0",
        "digest": "0" * 64,
        "films": manifest["training"]["data"],
        "source": "a site",
        "films_licence": "none",
        "labelled_by": "a doctor",
        "notes": {"films": ["All on one device."]},
        "outcomes": {"assessed": 120, "refused": 3},
        "metrics_before": {},
    }
    text = " ".join(render_card({**manifest, "recalibrated": again}).split())
    assert "120 films of a site's own" in text
    assert "assessed 120, refused 3" in text
    assert "- All on one device." in text
    assert "Films of further hospitals" in text
    assert "On films of the site" in _section(render_card({**manifest, "recalibrated": again}), 9)


def test_the_detector_is_described_where_there_is_one(manifest: dict[str, Any]) -> None:
    rates = {
        "knees": {"refused": 299, "accepted": 1},
        "by network": {"fold-0": {"chests": {"share": 0.9951234}}},
        "slices": {},
    }
    text = _section(render_card({**manifest, "scope": {"reason": "Chosen so.", "rates": rates}}), 13)
    assert "Chosen so." in text
    assert "| knees | accepted 1, refused 299 |" in text
    assert "| by network: fold-0: chests | share 0.9951 |" in text
    assert "| slices | none were given |" in text
    assert "no detector" not in text


def test_lines_are_filled_and_tables_are_whole(manifest: dict[str, Any]) -> None:
    for line in render_card(manifest).splitlines():
        assert line == line.rstrip()
        assert line.startswith("|") or len(line) <= 110
    blocks = [block for block in render_card(manifest).split("\n\n") if block.startswith("|")]
    assert len(blocks) >= 12
    for block in blocks:
        rows = block.splitlines()
        assert set(rows[1]) <= set("|- ")
        assert len({row.count("|") for row in rows}) == 1


def test_the_figures_tell_folds_apart(manifest: dict[str, Any]) -> None:
    of = manifest["metrics"]["pneumonia"]
    assert of["by_fold"]["folds"] == 5
    assert of["by_fold"]["auc"]["mean"] == pytest.approx(np.mean(of["by_fold"]["auc"]["each"]))
    assert of["calibration"]["cross_fitted"] is True
    assert of["threshold_from_other_folds"]["sensitivity"] > 0.9
    answered = [sum(counts.values()) for counts in of["answers"].values()]
    assert sum(answered) == N
    assert of["answers"]["not_flagged"]["with_finding"] == of["band"]["missed_with_band"]
