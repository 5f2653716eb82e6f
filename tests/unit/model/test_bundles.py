"""The manifest dictates; a bundle that differs from it is never used."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from preread.core.errors import BundleDamaged, BundleMissing, UsageError
from preread.core.types import IntendedUse
from preread.imaging.preprocessing import TRAINING_SPEC
from preread.model import bundles
from preread.model.classifier import Classifier

USE = IntendedUse(("CR",), ("AP",), 1.0, 6.0, ("CHEST",), "test")


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "manifest_schema": bundles.MANIFEST_SCHEMA,
        "name": "test",
        "version": "1.0.0",
        "licence": "Apache-2.0",
        "intended_use": asdict(USE),
        "preprocessing": asdict(TRAINING_SPEC),
        "preprocessing_digest": TRAINING_SPEC.digest,
        "findings": [
            {
                "finding": "pneumonia",
                "code": "SCT:233604007",
                "calibration": {"slope": 1.0, "intercept": 0.0, "prevalence": 0.5},
                "operating_point": {
                    "threshold": 0.5,
                    "uncertain_low": 0.4,
                    "uncertain_high": 0.6,
                    "reason": "test",
                },
            }
        ],
        "golden_tolerance": 0.02,
        "training": {},
        "metrics": {},
        "scope": {"score_max": 0.5, "turned_max": 1.0, "turned_gain": 0.5, "reason": "test", "rates": {}},
        **changes,
    }


def write(folder: Path) -> None:
    (folder / "golden").mkdir()
    for name in ("weights.tflite", "golden/vectors.npz", "card.md", "detector.npz"):
        (folder / name).write_bytes(name.encode())


def test_a_published_bundle_loads_with_what_was_written(tmp_path: Path) -> None:
    bundle = bundles.publish_bundle(tmp_path, manifest(), write)
    assert bundle.label == "test/1.0.0"
    assert bundle.manifest.intended_use == USE
    assert bundle.manifest.preprocessing == TRAINING_SPEC
    assert bundle.manifest.findings[0].compute_finding(0.0).probability == 0.5
    assert set(bundle.manifest.files) == {"weights.tflite", "golden/vectors.npz", "card.md", "detector.npz"}
    assert bundles.load_bundle(bundle.path) == bundle


def test_a_published_version_never_changes(tmp_path: Path) -> None:
    first = bundles.publish_bundle(tmp_path, manifest(), write)
    with pytest.raises(UsageError, match="exists"):
        bundles.publish_bundle(tmp_path, manifest(licence="other"), write)
    assert bundles.load_bundle(first.path).digest == first.digest


def test_nothing_appears_under_the_name_when_writing_fails(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        bundles.publish_bundle(tmp_path, manifest(), fail)
    assert bundles.list_bundles(tmp_path) == []


@pytest.mark.parametrize("file", ["weights.tflite", "golden/vectors.npz", "card.md"])
def test_a_changed_file_is_named(tmp_path: Path, file: str) -> None:
    bundle = bundles.publish_bundle(tmp_path, manifest(), write)
    (bundle.path / file).write_bytes(b"tampered")
    with pytest.raises(BundleDamaged, match=file):
        bundles.load_bundle(bundle.path)


def test_a_lost_file_is_named(tmp_path: Path) -> None:
    bundle = bundles.publish_bundle(tmp_path, manifest(), write)
    (bundle.path / "card.md").unlink()
    with pytest.raises(BundleDamaged, match=r"card\.md"):
        bundles.load_bundle(bundle.path)


@pytest.mark.parametrize(
    "changes, where",
    [
        ({"manifest_schema": 3}, "manifest_schema is 3"),
        ({"scope": None}, "scope"),
        ({"manifest_schema": 1}, "manifest_schema is 1"),
        ({"scope": {"score_max": "high"}}, "scope.score_max"),
        ({"name": "../up"}, "name is .*version"),
        ({"preprocessing_digest": "0"}, "preprocessing_digest"),
        ({"findings": []}, "findings has 0"),
        ({"golden_tolerance": "wide"}, "golden_tolerance"),
        ({"intended_use": {}}, "intended_use"),
        ({"preprocessing": {**asdict(TRAINING_SPEC), "resample": "nearest"}}, "preprocessing"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], where: str) -> None:
    bundle = bundles.publish_bundle(tmp_path, manifest(), write)
    fields = json.loads(bundle.manifest_json)
    (bundle.path / "manifest.json").write_text(json.dumps({**fields, **changes}))
    with pytest.raises(BundleDamaged, match=where):
        bundles.load_bundle(bundle.path)


def test_a_manifest_may_not_point_outside_its_bundle(tmp_path: Path) -> None:
    bundle = bundles.publish_bundle(tmp_path, manifest(), write)
    fields = json.loads(bundle.manifest_json)
    fields["files"]["../../secret"] = "0"
    (bundle.path / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(BundleDamaged, match="within the bundle"):
        bundles.load_bundle(bundle.path)


SPREAD = {"edges": [0.5], "films": [3, 4]}


@pytest.mark.parametrize(
    "reference, words",
    [
        (
            {"films": "some", "probability": {"effusion": SPREAD}},
            "reference.probability has effusion; findings has pneumonia",
        ),
        ({"films": "some", "picture": {"colour": SPREAD}}, "has colour; the image statistics"),
        ({"films": "some", "picture": {"mean": SPREAD | {"films": [3]}}}, "require 2 counts"),
        ({"picture": {"mean": SPREAD}}, "reference.films"),
    ],
    ids=["finding", "figure", "bins", "films"],
)
def test_a_reference_of_something_else_is_refused(tmp_path: Path, reference: dict[str, Any], words: str) -> None:
    sound = {"films": "some", "probability": {"pneumonia": SPREAD}, "picture": {"mean": SPREAD}}
    assert bundles.publish_bundle(tmp_path, manifest(reference=sound), write).manifest.reference is not None
    with pytest.raises(BundleDamaged, match=words):
        bundles.publish_bundle(tmp_path, manifest(version="2.0.0", reference=reference), write)


def test_text_that_is_no_json_is_named(tmp_path: Path) -> None:
    bundle = bundles.publish_bundle(tmp_path, manifest(), write)
    (bundle.path / "manifest.json").write_text("{")
    with pytest.raises(BundleDamaged, match=r"manifest\.json"):
        bundles.load_bundle(bundle.path)


def test_no_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleMissing, match=str(tmp_path)):
        bundles.load_bundle(tmp_path)


def test_installed_lists_versions_in_rising_order(tmp_path: Path) -> None:
    for version in ("1.10.0", "1.9.0", "1.10.0-rc1", "2.0.0"):
        bundles.publish_bundle(tmp_path, manifest(version=version), write)
    assert [path.name for path in bundles.list_bundles(tmp_path)] == ["1.9.0", "1.10.0-rc1", "1.10.0", "2.0.0"]


def test_resolve_finds_the_default_bundle_a_folder_and_names_what_is_missing(tmp_path: Path) -> None:
    assert bundles.load_bundle(bundles.find_bundle()).manifest.name == "pneumonia-children"
    bundle = bundles.publish_bundle(tmp_path, manifest(), write)
    assert bundles.find_bundle(str(bundle.path)) == bundle.path
    with pytest.raises(BundleMissing, match="nothing/9"):
        bundles.find_bundle("nothing/9")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda m: {"preprocessing": dataclasses.replace(m.preprocessing, rows=128)},
            r"preprocessing requires \[1, 128",
        ),
        (lambda m: {"findings": m.findings * 2}, "1 logits; the 2 findings"),
    ],
)
def test_a_manifest_that_its_network_does_not_fit_is_named(
    change: Callable[[bundles.Manifest], dict[str, Any]], message: str
) -> None:
    bundle = bundles.load_bundle(bundles.find_bundle())
    manifest = copy.copy(bundle.manifest)  # a new one would verify its digest
    for name, value in change(manifest).items():
        object.__setattr__(manifest, name, value)
    with pytest.raises(BundleDamaged, match=message):
        Classifier(dataclasses.replace(bundle, manifest=manifest))
