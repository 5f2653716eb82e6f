"""Tags that are not understood, with the bundle that ships: the pixels decide, in the range of 99 % of chest images."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preread
from preread.core.types import Assessment, Caveat, Declared, Population, Refusal, RefusalCode
from preread.imaging.preprocessing import preprocess_image, resize_to_input
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread.model.assess import assess
from preread.model.out_of_scope import compute_edge_features
from preread_training.data import phantoms

IMAGE = phantoms.draw_chest(4, rows=200, columns=180)
CHILDREN = Declared(Population.CHILDREN_1_5Y)


@pytest.fixture(scope="module")
def classifier() -> preread.Classifier:
    return preread.load_bundle()


def result(classifier: preread.Classifier, **elements: Any) -> Assessment | Refusal:
    return assess(phantoms.to_dicom(IMAGE, **elements), classifier, CHILDREN)


def test_what_is_not_understood_is_answered_by_the_pixels(
    classifier: preread.Classifier,
) -> None:
    found = result(classifier, BodyPartExamined="MELLKAS", ViewPosition="KUVA")
    assert isinstance(found, Assessment)
    assert found.caveats == (
        Caveat.BODY_PART_UNKNOWN,
        Caveat.BODY_PART_NOT_UNDERSTOOD,
        Caveat.VIEW_UNKNOWN,
        Caveat.VIEW_NOT_UNDERSTOOD,
    )
    assert found.tags.body_part.written == "MELLKAS"


@pytest.mark.parametrize(
    "keyword, code", [("BodyPartExamined", RefusalCode.BODY_PART), ("ViewPosition", RefusalCode.VIEW)]
)
def test_outside_the_range_of_chests_they_are_refused(
    classifier: preread.Classifier, monkeypatch: pytest.MonkeyPatch, keyword: str, code: RefusalCode
) -> None:
    spec = replace(classifier.detector.spec, typical_max=-1000.0)
    monkeypatch.setattr(classifier, "detector", replace(classifier.detector, spec=spec))
    elements: dict[str, Any] = {keyword: "ZZZZ"}
    found = result(classifier, **elements)
    assert isinstance(found, Refusal)
    assert found.code is code
    assert "ZZZZ, which is not understood, and the pixels are not clearly those of" in found.reason
    assert found.caveats == (Caveat(f"{code}_not_understood"),)
    assert isinstance(result(classifier), Assessment)


def test_other_pixels_are_refused_whatever_the_tags_say(classifier: preread.Classifier) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 180), dtype=np.uint8)
    for part in ("MELLKAS", "CHEST", None):
        found = assess(phantoms.to_dicom(noise, BodyPartExamined=part), classifier, CHILDREN)
        assert isinstance(found, Refusal)
        assert found.code is RefusalCode.NOT_CHEST


@pytest.mark.films
def test_the_range_of_chests_holds_99_of_100_training_images(classifier: preread.Classifier) -> None:
    films = Path(os.environ["PREREAD_FILMS"])
    limit = classifier.detector.spec.typical_max
    assert limit is not None
    spec = classifier.bundle.manifest.preprocessing
    scores = []
    for path in sorted((films / "chest_xray_224" / "train").rglob("*.jp*g"))[::26]:
        pixels = resize_to_input(spec, decode_radiograph(read_image_header(path.read_bytes())).pixels)
        embedding = classifier.classify(preprocess_image(spec, pixels)).embedding
        scores.append(float(classifier.detector.compute_score(compute_edge_features(pixels), embedding)))
    assert len(scores) > 200
    assert 0.97 <= np.mean(np.array(scores) <= limit) < 1
