"""A slot whose network answers by how bright a film is, so that a test can choose what it says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from preread.core.types import FloatArray, IntendedUse, PixelArray
from preread.imaging.preprocessing import TRAINING_SPEC
from preread.model.bundles import MANIFEST_SCHEMA, Bundle, Manifest
from preread.model.calibration import Calibration, FindingSpec, OperatingPoint, compute_predictive_values
from preread.model.classifier import Classifier, RawOutput
from preread.model.out_of_scope import Detector, ScopeSpec
from preread.runner.child import main
from preread.runner.confine import self_test

USE = IntendedUse(("CR", "DX"), ("AP", "PA"), 1.0, 6.0, ("CHEST",), "films of children, for tests")


class AllInScope(Detector):
    """Detector that refuses nothing."""

    def __init__(self) -> None: ...

    def check_scope(self, pixels: PixelArray, embedding: FloatArray) -> None:
        return None

    def is_typical(self, pixels: PixelArray, embedding: FloatArray) -> bool:
        return False


class BrightnessClassifier(Classifier):
    """Logit = mean of its input, above 0 for films brighter than mid-grey."""

    def __init__(self) -> None:
        manifest = Manifest(
            manifest_schema=MANIFEST_SCHEMA,
            name="brightness",
            version="1.0.0",
            licence="Apache-2.0",
            intended_use=USE,
            preprocessing=TRAINING_SPEC,
            preprocessing_digest=TRAINING_SPEC.digest,
            findings=(
                FindingSpec(
                    "pneumonia",
                    "SCT:233604007",
                    Calibration(slope=8.0, intercept=0.0, prevalence=0.25),
                    OperatingPoint(threshold=0.5, uncertain_low=0.4, uncertain_high=0.6, reason="for tests"),
                    compute_predictive_values((0.9, 0.1), (0.1, 0.9)),
                ),
            ),
            golden_tolerance=0.02,
            training={},
            metrics={},
            files={"weights.tflite": "", "golden/vectors.npz": "", "card.md": "", "detector.npz": ""},
            scope=ScopeSpec(score_max=0.0, turned_max=0.0, turned_gain=0.1, reason="for tests", rates={}),
        )
        self.detector = AllInScope()
        self.bundle = Bundle(Path("brightness/1.0.0"), manifest, "b" * 64)

    def classify(self, batch: Any) -> RawOutput:
        return RawOutput(np.array([batch.mean()], np.float32), np.zeros((7, 7), np.float32), np.zeros(8, np.float32))

    def self_check(self) -> float:
        return 0.0


if __name__ == "__main__":
    self_test.import_image_modules()
    self_test.run_self_test(
        self_test.make_test_images(), None
    )  # as a slot with a network does: what is looked up late is known then
    sys.exit(main.main(lambda _setup: BrightnessClassifier()))
