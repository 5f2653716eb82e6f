"""Places in the repository that tests read and programs that they start."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
PROGRAMS = REPOSITORY / "tests" / "programs"
RUN_WORKER = PROGRAMS / "run_worker.py"
RUN_FLEET = PROGRAMS / "run_fleet.py"
STUB_SLOT = PROGRAMS / "stub_slot.py"
