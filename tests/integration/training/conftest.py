"""Fixtures of the tests of training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def films() -> Path:
    """The folder with the training films; a test that asks for it is marked ``films``."""
    return Path(os.environ["PREREAD_FILMS"])
