"""What the tests of the commands share: a way to run one in this process, and a classifier without a network.

That classifier answers by how bright a film is, so that a test can choose what it says.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from preread.runner import pool as slots
from tests.programs import brightness_slot
from tests.programs.brightness_slot import BrightnessClassifier
from tests.support.commands import CommandRunner


@pytest.fixture
def brightness_classifier():
    return BrightnessClassifier()


@pytest.fixture
def brightness_slots(monkeypatch):
    """The inference processes of a command have that classifier."""
    monkeypatch.setattr(slots, "COMMAND", (sys.executable, "-P", brightness_slot.__file__))


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
    loggers = [logging.getLogger(name) for name in (None, "preread", "preread_training")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def preread(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return CommandRunner(capsys, monkeypatch)
