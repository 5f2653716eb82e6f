"""What the tests of the commands share: a way to run one in this process, and a classifier without a network.

That classifier answers by how bright a film is, so that a test can choose what it says.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from worker.bundle import MANIFEST_SCHEMA, Bundle, Manifest
from worker.calibration import Calibration, FindingSpec, OperatingPoint, predictive_values
from worker.classifier import RawOutput
from worker.cli import main
from worker.domain import IntendedUse
from worker.preprocessing import TRAINING_SPEC
from worker.scope import ScopeSpec

USE = IntendedUse(("CR", "DX"), ("AP", "PA"), 1.0, 6.0, ("CHEST",), "films of children, for tests")


class BrightnessClassifier:
    """Stands for ``classifier.Classifier``: logit = mean of its input, above 0 for films brighter than mid-grey."""

    def __init__(self):
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
                    predictive_values((0.9, 0.1), (0.1, 0.9)),
                ),
            ),
            golden_tolerance=0.02,
            training={},
            metrics={},
            files={"weights.tflite": "", "golden/vectors.npz": "", "card.md": "", "detector.npz": ""},
            scope=ScopeSpec(score_max=0.0, turned_max=0.0, turned_gain=0.1, reason="for tests", rates={}),
        )
        self.detector = SimpleNamespace(judge=lambda picture, embedding: None)
        self.bundle = Bundle(Path("brightness/1.0.0"), manifest, "b" * 64)
        self.calls = 0

    def classify(self, batch):
        self.calls += 1
        return RawOutput(np.array([batch.mean()], np.float32), np.zeros((7, 7), np.float32), np.zeros(8, np.float32))

    def self_check(self):
        return 0.0


@pytest.fixture
def brightness_classifier():
    return BrightnessClassifier()


@pytest.fixture
def jpeg():
    """Return the bytes of a small grey JPEG of a given mean brightness: no film, and no tags."""

    def make(brightness=200, rows=300, columns=240):
        pixels = np.linspace(-20, 20, rows * columns).reshape(rows, columns) + brightness
        stream = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=95)
        return stream.getvalue()

    return make


@pytest.fixture(autouse=True)
def _process_as_it_was(monkeypatch):
    """A command sets up the log of its process; here the process is the tests'."""
    for target, name in [(sys, "excepthook"), (threading, "excepthook"), (warnings, "showwarning")]:
        monkeypatch.setattr(target, name, getattr(target, name))
    loggers = [logging.getLogger(name) for name in (None, "worker", "model_training")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@dataclass(frozen=True)
class Ran:
    """What one command said; another command changes nothing of it."""

    exit_code: int
    out: str
    err: str

    @property
    def records(self):
        return [json.loads(line) for line in self.out.splitlines()]


class Preread:
    """Runs commands in this process."""

    def __init__(self, capsys, monkeypatch):
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments, stdin=""):
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capsys.readouterr()
        return Ran(main(arguments), *self._capsys.readouterr())


@pytest.fixture
def preread(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return Preread(capsys, monkeypatch)
