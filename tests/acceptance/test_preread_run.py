"""``preread run`` as it is installed: the shipped bundle, the real slots, the default way in."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

from preread_training.data import phantoms
from tests.support.paths import REPOSITORY

WITHIN_S = 120.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working folder with an inbox in it."""
    (tmp_path / "inbox").mkdir()
    chest = phantoms.draw_chest(5)
    (tmp_path / "inbox" / "film.jpg").write_bytes(phantoms.to_jpeg(chest))
    (tmp_path / "inbox" / "film.dcm").write_bytes(phantoms.to_dicom(chest))
    (tmp_path / "inbox" / "adult.dcm").write_bytes(
        phantoms.to_dicom(chest, PatientAge="064Y", PatientBirthDate="", SOPInstanceUID="1.2.3.4")
    )
    (tmp_path / "inbox" / "text.dcm").write_bytes(b"a letter")
    return tmp_path


def preread(place: Path, *arguments: str, log: str = "log") -> subprocess.Popen[bytes]:
    with (place / log).open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "preread", *arguments],
            cwd=place,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )


def query(place: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{place / 'preread.db'}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def outcomes(place: Path) -> dict[str, tuple[str, str | None]]:
    """Outcome and code of every file that has one."""
    if not (place / "preread.db").exists():
        return {}
    try:
        rows = query(place, "SELECT path_text, outcome, code FROM file WHERE outcome IS NOT NULL")
    except sqlite3.OperationalError:
        return {}  # the schema is being made
    return {path: (outcome, code) for path, outcome, code in rows}


EXPECTED = {
    "film.jpg": ("assessed", None),
    "film.dcm": ("assessed", None),
    "adult.dcm": ("refused", "age_outside"),
    "text.dcm": ("unreadable", "unknown_format"),
}


def test_a_single_run(place: Path) -> None:
    worker = preread(place, "run", "--once", "--root", "inbox", "--population", "children-1-5y")
    assert worker.wait(WITHIN_S) == 0, (place / "log").read_text()
    assert outcomes(place) == EXPECTED
    answers = query(place, "SELECT answer, probability, prevalence FROM finding")
    assert len(answers) == 2
    assert all(0.0 < probability < 1.0 and 0.0 < prevalence < 1.0 for _, probability, prevalence in answers)


def test_a_root_that_declares_its_population_later_has_its_refused_films_judged_anew(place: Path) -> None:
    refused = EXPECTED | {"film.jpg": ("refused", "age_unknown")}
    declared = ("--population", "children-1-5y")
    for log, arguments, expected in (
        ("first", (), refused),
        ("second", declared, EXPECTED),
        ("third", declared, EXPECTED),
    ):
        worker = preread(place, "run", "--once", "--root", "inbox", *arguments, log=log)
        assert worker.wait(WITHIN_S) == 0, (place / log).read_text()
        assert outcomes(place) == expected
    anew = (
        "SELECT path_text, count(*) FROM transition JOIN file ON file.id = file_id WHERE from_state = 'done' GROUP BY 1"
    )
    # the adult, too, is judged under the new declaration, and refused again: once, not at every start
    assert dict(query(place, anew)) == {"film.jpg": 1, "adult.dcm": 1}


def test_killed_and_started_again_and_stopped(place: Path, eventually: Callable[..., None]) -> None:
    arguments = ("run", "--root", "inbox", "--population", "children-1-5y")
    worker = preread(place, *arguments, log="first")
    eventually(lambda: outcomes(place), WITHIN_S)
    worker.send_signal(signal.SIGKILL)
    worker.wait(WITHIN_S)
    worker = preread(place, *arguments, log="second")
    eventually(lambda: outcomes(place) == EXPECTED, WITHIN_S)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(WITHIN_S) == 0
    assert query(place, "SELECT count(*) FROM assessment") == [(2,)]
    events = [json.loads(line) for line in (place / "second").read_text().splitlines() if line.startswith("{")]
    assert events[-1]["event"] == "worker_stopped"
    assert events[-1]["exit_code"] == 0


def test_a_damaged_bundle_starts_nothing(place: Path, stub_bundle_copy: Path) -> None:
    (stub_bundle_copy / "weights.tflite").write_bytes(b"other bytes")
    (place / "preread.toml").write_text(f'bundle = "{stub_bundle_copy}"\n')
    worker = preread(place, "run", "--once", "--root", "inbox")
    assert worker.wait(WITHIN_S) == 4
    assert "bundle_damaged" in (place / "log").read_text()
    assert outcomes(place) == {}


def test_a_bundle_without_a_network_is_named_by_its_slot(place: Path, stub_bundle_copy: Path) -> None:
    """Its hashes are right; only loading it shows that it cannot be used."""
    (place / "preread.toml").write_text(f'bundle = "{stub_bundle_copy}"\n')
    worker = preread(place, "run", "--once", "--root", "inbox")
    assert worker.wait(WITHIN_S) == 4
    assert "Traceback" not in (place / "log").read_text()
    assert outcomes(place) == {}


def test_every_file_that_pydicom_brings_is_accounted_for(place: Path) -> None:
    """Some 240 files, well-formed, dirty and deliberately broken: each has its row, and no slot is lost."""
    roots = [Path(pydicom.__file__).parent / "data" / "test_files", Path(str(get_testdata_file("RG1_UNCR.dcm"))).parent]
    files = sum(path.is_file() for root in roots for path in root.rglob("*"))
    arguments = [argument for root in roots for argument in ("--root", str(root))]
    worker = preread(place, "run", "--once", *arguments, "--population", "research")
    assert worker.wait(WITHIN_S) == 0, (place / "log").read_text()
    states = dict(query(place, "SELECT state, count(*) FROM file GROUP BY state"))
    assert set(states) <= {"done", "quarantined", "ignored"}
    assert sum(states.values()) == files > 240
    ends = dict(query(place, "SELECT outcome, count(*) FROM file WHERE outcome IS NOT NULL GROUP BY outcome"))
    assert ends["assessed"] == 4  # the one chest film, in four forms
    assert sum(ends.values()) == files - states.get("ignored", 0)
    assert query(place, "SELECT count(*) FROM file WHERE outcome <> 'assessed' AND code IS NULL") == [(0,)]
    stopped = json.loads((place / "log").read_text().splitlines()[-1])
    assert stopped["event"] == "worker_stopped"
    assert stopped["restarts"] == 0
