"""A model bundle without a network, for tests that need no inference."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from preread.core.types import IntendedUse
from preread.imaging.preprocessing import TRAINING_SPEC
from preread.model import bundles
from preread.model.out_of_scope import EDGES, Detector, ScopeSpec, Subspace


def white_detector(spec: ScopeSpec) -> Detector:
    """Refuses what ``programs/stub_slot.py`` finds nearly all white: its embedding is the mean, 16 times."""
    edges = Subspace(np.zeros(EDGES, np.float32), np.eye(1, EDGES, dtype=np.float32), np.ones(1, np.float32), 1.0)
    mean = Subspace(np.zeros(16, np.float32), np.full((1, 16), 0.25, np.float32), np.ones(1, np.float32), 1.0)
    return Detector(edges, mean, np.array([0, 0, 0, 0.75, 0, 0], np.float32), 0.0, spec)


def make_stub_bundle(folder: Path, version: str = "1.0.0") -> bundles.Bundle:
    """Write a bundle without a network, for ``programs/stub_slot.py``: children of 1 to 5 years, frontal films."""
    intended_use = IntendedUse(("CR", "DX"), ("AP", "PA"), 1.0, 6.0, ("CHEST",), "for tests")
    finding = {
        "finding": "pneumonia",
        "code": "SCT:233604007",
        "calibration": {"slope": 1.0, "intercept": 0.0, "prevalence": 0.5},
        "operating_point": {"threshold": 0.5, "uncertain_low": 0.4, "uncertain_high": 0.6, "reason": "for tests"},
    }
    scope = ScopeSpec(score_max=0.9, turned_max=-9.0, turned_gain=0.1, reason="for tests", rates={})
    manifest = {
        "manifest_schema": bundles.MANIFEST_SCHEMA,
        "name": "stub",
        "version": version,
        "licence": "Apache-2.0",
        "intended_use": asdict(intended_use),
        "preprocessing": asdict(TRAINING_SPEC),
        "preprocessing_digest": TRAINING_SPEC.digest,
        "findings": [finding],
        "golden_tolerance": 0.02,
        "training": {},
        "metrics": {},
        "scope": asdict(scope),
    }

    def write(folder: Path) -> None:
        (folder / "golden").mkdir()
        (folder / bundles.DETECTOR_FILE).write_bytes(white_detector(scope).to_npz())
        for name in (bundles.WEIGHTS_FILE, bundles.GOLDEN_FILE, bundles.CARD_FILE):
            (folder / name).write_bytes(b"for tests")

    return bundles.publish_bundle(folder, manifest, write)
