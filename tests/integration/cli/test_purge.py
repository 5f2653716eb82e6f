"""``preread purge`` and ``preread export-patient`` from the shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preread.core.types import Identity, Population, RefusalCode
from preread.db.engine import open_engine
from preread.imaging import previews
from preread.imaging.preview_png import encode_preview
from preread.ledger.ledger import Ledger
from preread.ledger.records import FileFacts, Observation
from tests.support.commands import CommandRunner
from tests.support.outcomes import commit_refused


@pytest.fixture
def here(preread: CommandRunner, tmp_path: Path, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A database with two films of P1, one of which has a preview, and one of P2 and of P3 each."""
    path = tmp_path / "preread.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{path}")
    engine = open_engine(f"sqlite:///{path}")
    ledger = Ledger(engine, worker_id="one", lease_s=60)
    root_id = ledger.register_root(b"/srv/inbox")
    bundle_id = ledger.register_bundle(name="films", version="1", digest="d" * 64)
    films = [("P1", "KLINIKUM", "1.1"), ("P1", "KLINIKUM", "1.2"), ("P2", "KLINIKUM", "1.3"), ("P2", "PRAXIS", "1.4")]
    for number, (patient, issuer, study) in enumerate(films):
        seen = ledger.observe(root_id, [Observation(b"%d.dcm" % number, 10, 1)])
        ledger.settle(seen.values())
        (claim,) = ledger.claim([root_id], 1)
        who = Identity(patient_id=patient, issuer_of_patient_id=issuer, study_instance_uid=study)
        facts = FileFacts(f"{number:064x}", who, "DICOM", None, 1, 1, Population.UNDECLARED, (), 1.0)
        assert commit_refused(ledger, claim, facts, bundle_id, RefusalCode.VIEW, "lateral")
    engine.dispose()
    assert previews.store_preview(
        tmp_path / "preread.db-previews", "0" * 64, encode_preview(np.zeros((9, 9), np.uint8)), 0
    )
    return preread


def patients(ran: Any) -> Any:
    return [record["identity"]["patient_id"] for record in ran.records]


def test_a_patient_is_forgotten_by_what_stands_on_standard_input(here: Any, tmp_path: Path) -> None:
    assert here("purge", "--patient", "P1").exit_code == 2
    assert here("purge", "--patient", "-", stdin="P1\n").exit_code == 2  # nobody to ask
    ran = here("purge", "--patient", "-", "--dry-run", stdin="P1\n")
    assert ran.exit_code == 0, ran.err
    assert "would delete 2 files" in ran.err
    assert patients(here("results", "--json")) == ["P2", "P2", "P1", "P1"]
    ran = here("purge", "--patient", "-", "--yes", stdin="P1\n")
    assert ran.exit_code == 0, ran.err
    assert "2 files, 2 contents, 1 previews, 0 reviews" in ran.err
    assert patients(here("results", "--json")) == ["P2", "P2"]
    assert not list((tmp_path / "preread.db-previews").rglob("*.png"))
    assert (tmp_path / "preread.db-forgotten").is_file()
    assert here("purge", "--patient", "-", "--yes", stdin="P1\n").exit_code == 1
    assert here("purge", "--again").exit_code == 1


def test_what_could_mean_two_people_is_refused(here: Any) -> None:
    ran = here("purge", "--patient", "-", "--yes", stdin="P2\n")
    assert ran.exit_code == 2
    assert "2 issuers" in ran.err
    assert "KLINIKUM" not in ran.err
    assert here("export-patient", "-", stdin="P2\n").exit_code == 2
    assert here("purge", "--patient", "-", "--yes", stdin="P2\nPRAXIS\n").exit_code == 0
    assert patients(here("results", "--json")) == ["P2", "P1", "P1"]
    for wrong in (["--patient", "-", "--study", "1.1"], [], ["--study", " "], ["--patient", "-"]):
        assert here("purge", *wrong, "--yes", stdin="\n").exit_code == 2, wrong
    assert here("purge", "--patient", "-", "--yes", stdin="P1\nKLINIKUM\n\nmore\n").exit_code == 2


def test_films_are_forgotten_by_study_and_by_age(here: Any) -> None:
    assert here("purge", "--study", "-", "--yes", stdin="1.1\n").exit_code == 0
    assert "list of processes" in here("purge", "--study", "1.9", "--yes").err
    assert patients(here("results", "--json")) == ["P2", "P2", "P1"]
    assert here("purge", "--older-than", "1", "--yes").exit_code == 1
    assert here("purge", "--older-than", "0", "--yes").exit_code == 0
    assert here("results", "--json").records == []
    assert here("audit", "verify").exit_code == 0


def test_a_patient_is_told_what_is_held(here: Any, tmp_path: Path) -> None:
    ran = here("export-patient", "-", "--images", str(tmp_path / "out"), stdin="P1\n")
    assert ran.exit_code == 0, ran.err
    films = json.loads(ran.out)["films"]
    assert [(film["patient_id"], film["code"]) for film in films] == [("P1", "view"), ("P1", "view")]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"film-{films[0]['id']}.png"]
    assert here("export-patient", "-", stdin="P9\n").exit_code == 1
    assert here("export-patient", "P1").exit_code == 2
