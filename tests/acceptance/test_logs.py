"""Whatever a film says of its patient, and however it ends: nothing of it stands in the log or in the metrics."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from sqlalchemy import select

from preread.db import schema
from preread.db.engine import open_engine
from preread.model.bundles import Bundle
from preread.monitoring import database_metrics, drift
from preread.runner.counters import Counters
from preread_training.data import phantoms
from tests.support.paths import REPOSITORY, RUN_WORKER

MARK = "SENTINEL"
TEXTS = {
    "PatientName", "PatientID", "IssuerOfPatientID", "OtherPatientNames", "PatientAddress", "PatientComments",
    "PatientMotherBirthName", "AdditionalPatientHistory", "AccessionNumber", "StudyID", "StudyDescription",
    "SeriesDescription", "ProtocolName", "RequestedProcedureDescription", "ReferringPhysicianName", "OperatorsName",
    "PerformingPhysicianName", "InstitutionName", "InstitutionAddress", "StationName", "Manufacturer",
    "ManufacturerModelName", "DeviceSerialNumber", "ImageComments", "DerivationDescription", "PatientOrientation",
}  # fmt: skip
NASTY = ("", "\n{}", "=cmd|", "\x1b[2J")


def film(number: int, **elements: Any) -> bytes:
    """A DICOM film that says its own mark wherever text may stand; its numbers are marks as well."""
    values: dict[str, Any] = {}
    for keyword in TEXTS:
        length = 16 if dictionary_VR(tag_for_keyword(keyword) or 0) in {"SH", "CS"} else 60
        values[keyword] = f"{MARK}{number}{NASTY[number % len(NASTY)]}{keyword}"[:length]
    values |= {"StudyInstanceUID": f"1.2.{31_415_926 + number}.1", "PatientBirthDate": "20230917"}
    values |= {"PatientAge": "003Y", "StudyDate": "20260917"}
    return phantoms.to_dicom(phantoms.draw_chest(number, rows=96, columns=96), seed=number, **(values | elements))


def films() -> dict[str, bytes]:
    """A film for each way through the worker, by what is done to it."""
    whole = film(5)
    return {
        "assessed": film(0),
        "refused by its age": film(1, PatientAge="077Y", PatientBirthDate="19490917"),
        "refused by its view": film(2, ViewPosition="LL"),
        "no pixels": film(3)[:2000],
        "truncated": film(4)[:-4000],
        "broken header": whole[:132] + b"\xff" * 400 + whole[132:],
        "strange numbers": film(6, WindowWidth=["1", "2"], WindowCenter=["1", "2"], PatientSex=MARK),
        "its slot dies": film(7) + b"CRASH",
        "its slot fails": film(8) + b"RAISE",
    }


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning", "ignore:The value length:UserWarning")
def test_no_word_of_a_film_reaches_log_or_metrics(tmp_path: Path, migrated_sqlite: Path, stub_bundle: Bundle) -> None:
    database = tmp_path / "preread.db"
    shutil.copy(migrated_sqlite, database)
    inbox = tmp_path / "inbox" / f"{MARK}folder"
    inbox.mkdir(parents=True)
    made = films()
    for name, data in made.items():
        (inbox / f"{MARK} {name}.dcm").write_bytes(data)
    options = {"once": True, "slots": 2, "preview_dir": str(tmp_path / "previews"), "include_existing": True}
    arguments: list[str | Path] = [
        f"sqlite:///{database}",
        stub_bundle.path,
        tmp_path / "inferences",
        json.dumps(options),
        inbox.parent,
    ]
    ran = subprocess.run(
        [sys.executable, RUN_WORKER, *arguments], check=False, capture_output=True, text=True, cwd=REPOSITORY
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    engine = open_engine(f"sqlite:///{database}")
    try:
        with engine.connect() as connection:
            rows = connection.execute(select(schema.file)).all()
        look = database_metrics.read_metrics(engine, roots=None, scan_interval_s=30.0)
        exposed = database_metrics.exposition_text(Counters(), look, drift.current_shifts(engine))
    finally:
        engine.dispose()
    # the marks were read, and kept where they belong; each way was taken
    assert {row.outcome for row in rows} == {"assessed", "refused", "unreadable"}
    assert sum(MARK in (row.patient_name or "") for row in rows) >= 4
    assert {"slot_crashed"} <= {row.code for row in rows}

    events = [json.loads(line) for line in ran.stderr.splitlines()]
    assert sum(event["event"] == "file_done" for event in events) == len(made) - 2
    assert not [event for event in events if "left_out" in event]
    said = ran.stdout + ran.stderr + exposed.decode()
    for word in (MARK, MARK.lower(), "31415926", "20230917", "19490917", "2023-09-17"):
        assert word not in said, [line for line in said.splitlines() if word in line][:3]
