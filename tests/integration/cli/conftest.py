"""What the tests of the commands share: a way to run one in this process, and a classifier without a network.

That classifier answers by how bright a film is, so that a test can choose what it says.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from preread.runner import pool
from tests.programs import brightness_slot
from tests.programs.brightness_slot import BrightnessClassifier
from tests.support.commands import CommandRunner


@pytest.fixture
def brightness_classifier() -> Any:
    return BrightnessClassifier()


@pytest.fixture
def brightness_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inference processes of a command have that classifier."""
    monkeypatch.setattr(pool, "COMMAND", (sys.executable, "-P", brightness_slot.__file__))


@pytest.fixture
def jpeg() -> Any:
    """Return the bytes of a small grey JPEG of a given mean brightness: no film, and no tags."""

    def make(brightness: Any = 200, rows: Any = 300, columns: Any = 240) -> Any:
        pixels = np.linspace(-70, 70, rows * columns).reshape(rows, columns) + brightness
        stream = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=95)
        return stream.getvalue()

    return make


@pytest.fixture(autouse=True)
def _process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A command sets up the log of its process; here the process is the tests'."""
    for target, name in [(sys, "excepthook"), (threading, "excepthook"), (warnings, "showwarning")]:
        monkeypatch.setattr(target, name, getattr(target, name))
    loggers = [logging.getLogger(name) for name in (None, "preread", "preread_training")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def preread(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    return CommandRunner(capsys, monkeypatch)
