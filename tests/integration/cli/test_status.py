"""`requeue`, `quarantine`, `missed`, `reconcile` and `status` as an operator meets them, with wrong input too."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from preread.cli.status import _headline
from preread.core.errors import FileLocked, SlotCrashed, TruncatedPixels
from preread.core.types import Answer, FileState, Finding, Identity, RefusalCode
from preread.db import schema
from preread.db.engine import open_engine
from preread.ledger.ledger import Ledger
from preread.ledger.records import ContentAssessment, FileFacts, Observation, Pulse, RootPulse
from preread.monitoring.health import Health
from tests.support.commands import CommandRunner
from tests.support.outcomes import commit_assessed, commit_refused, commit_unreadable

SAID = ContentAssessment(
    (Finding("pneumonia", 1.5, 0.87, 0.25, Answer.FLAGGED),), (), "test 1", np.zeros((7, 7), np.float32)
)
NAMES = [b"2026/flagged.dcm", b"2026/knee.dcm", b"2026-old.dcm", b"broken\x1b[2J.dcm", b"crashing.dcm", b"locked.dcm"]


class Place:
    """One of each: assessed, refused, unreadable, crashing, locked, missed; and what the database says of them."""

    def __init__(self, url: Any, folder: Any) -> None:
        self.url = url
        self.folder = folder
        self.engine = open_engine(url)
        self.ledger = Ledger(self.engine, worker_id="one", lease_s=600)
        self.ledger.heartbeat()
        self.root_id = self.ledger.register_root(bytes(folder))
        self.bundle_id = self.ledger.register_bundle(name="test", version="1.0.0", digest="d" * 64)
        self.ids: dict[bytes, int] = {}

    def observe(self, *names: Any) -> Any:
        for name in names:
            path = self.folder / name.decode()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"bytes")
            status = path.stat()
            seen = self.ledger.observe(
                self.root_id, [Observation(name, status.st_size, status.st_mtime_ns, status.st_ino)]
            )
            self.ids[name] = seen[name].file_id
            self.ledger.settle(seen.values())
        return {claim.path: claim for claim in self.ledger.claim([self.root_id], 99)}

    def fill(self) -> None:
        claims = self.observe(*NAMES)
        flagged, knee, old, broken, crashing, locked = (claims[name] for name in NAMES)
        assert commit_assessed(self.ledger, flagged, facts(1), self.bundle_id, SAID)
        assert commit_refused(self.ledger, knee, facts(2), self.bundle_id, RefusalCode.BODY_PART, "it shows KNEE")
        assert commit_refused(self.ledger, old, facts(3), self.bundle_id, RefusalCode.AGE_OUTSIDE, "it is 64 old")
        assert commit_unreadable(self.ledger, broken, TruncatedPixels(), facts(4))
        assert self.ledger.quarantine(crashing, SlotCrashed("signal 11"))
        assert self.ledger.quarantine(locked, FileLocked())

    def states(self) -> Any:
        columns = schema.file.c
        with self.engine.connect() as connection:
            rows = connection.execute(select(columns.path, columns.state).where(columns.newest))
            return {row.path: row.state for row in rows}

    def ready(self) -> Any:
        return {path for path, state in self.states().items() if state == FileState.READY}


def facts(number: Any) -> Any:
    return FileFacts(f"{number:064x}", Identity(patient_id="PAT-1"), "DICOM", ms=1.0)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str) -> Iterator[Any]:
    monkeypatch.setenv("PREREAD_DATABASE_URL", database_url)
    place = Place(database_url, tmp_path / "inbox")
    place.fill()
    yield place
    place.engine.dispose()


# ---------------------------------------------------------------------- requeue


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["{inbox}/2026"], {NAMES[0], NAMES[1]}),
        (["{inbox}/2026/knee.dcm"], {NAMES[1]}),
        (["{inbox}"], set(NAMES)),
        (["--state", "done", "--code", "age_outside"], {NAMES[2]}),
        (["--state", "quarantined"], set(NAMES[3:])),
        (["--outcome", "assessed"], {NAMES[0]}),
        (["--code", "locked"], {NAMES[5]}),
        (["--root", "{inbox}", "--state", "done", "--state", "quarantined"], set(NAMES)),
    ],
)
def test_what_is_meant_is_read_again_and_nothing_else(
    preread: CommandRunner, place: Any, arguments: Any, expected: Any
) -> None:
    ran = preread("requeue", *(one.format(inbox=place.folder) for one in arguments), "--yes")
    assert ran.exit_code == 0, ran.err
    assert place.ready() == expected
    word = "1 file" if len(expected) == 1 else f"{len(expected)} files"
    assert f"{word} ready to be assessed again" in ran.err
    assert "\x1b" not in ran.out + ran.err


def test_by_id(preread: CommandRunner, place: Any) -> None:
    ran = preread("requeue", "--id", str(place.ids[NAMES[0]]), "--id", str(place.ids[NAMES[5]]), "-y")
    assert (ran.exit_code, place.ready()) == (0, {NAMES[0], NAMES[5]})


def test_an_earlier_result_stands_until_the_next_and_is_kept(preread: CommandRunner, place: Any) -> None:
    result_id = str(place.ids[NAMES[0]])
    assert preread("requeue", "--id", result_id, "--yes").exit_code == 0
    (record,) = preread("results", "--answer", "flagged", "--json").records
    assert (record["id"], record["state"]) == (int(result_id), "ready")
    said = preread("explain", str(place.folder / "2026/flagged.dcm")).out
    assert "no newer result yet" in said
    assert "Until then: It was assessed" in said
    (claim,) = place.ledger.claim([place.root_id], 1)
    assert commit_refused(place.ledger, claim, facts(1), place.bundle_id, RefusalCode.NOT_CHEST, "a knee after all")
    (record,) = preread("results", "show", result_id, "--json").records
    assert record["outcome"] == "refused"
    (past,) = record["history"]["past"]
    assert (past["outcome"], past["bundle"], past["findings"][0]["answer"]) == ("assessed", "test/1.0.0", "flagged")
    shown = " ".join(preread("results", "show", result_id).out.split())
    assert "assessed, test/1.0.0: pneumonia flagged (87 % at prevalence 25 %)" in shown


def test_a_dry_run_counts_and_changes_nothing(preread: CommandRunner, place: Any) -> None:
    ran = preread("requeue", "--root", str(place.folder), "--dry-run")
    assert ran.exit_code == 0
    assert "6 files would be assessed again" in ran.err
    assert "slot_crashed" in ran.out
    assert place.ready() == set()


def test_what_cannot_be_read_again_is_said(preread: CommandRunner, place: Any) -> None:
    preread("requeue", "--id", str(place.ids[NAMES[0]]), "--yes")
    place.ledger.record_absent(place.root_id, [NAMES[1]])
    ran = preread("requeue", str(place.folder / "2026"), "--yes")
    assert ran.exit_code == 1
    assert "1 file left unchanged: already waiting to be assessed" in ran.err
    assert "no longer in the folder" in ran.err
    assert "no file matches that can be assessed again" in ran.err


@pytest.mark.parametrize(
    "arguments, exit_code, says",
    [
        ([], 2, "select files with"),
        (["--yes"], 2, "select files with"),
        (["--state", "ready"], 2, "ready"),
        (["--id", "0"], 2, "greater than or equal to 1"),
        (["--id", "x"], 2, "valid integer"),
        (["--root", "/nowhere", "--yes"], 2, "no watched folder /nowhere"),
        (["/nowhere/film.dcm", "--yes"], 1, "no watched folder of this database knows /nowhere/film.dcm"),
        (["--code", "nonsense", "--yes"], 1, "no file matches"),
        (["--state", "quarantined"], 2, "confirm with --yes"),
    ],
)
def test_wrong_input_changes_nothing_and_is_named(
    preread: CommandRunner, place: Any, arguments: Any, exit_code: Any, says: Any
) -> None:
    before = place.states()
    ran = preread("requeue", *arguments)
    assert (ran.exit_code, place.states()) == (exit_code, before)
    assert says in ran.err
    assert "Traceback" not in ran.err


def test_one_path_of_two_is_unknown(preread: CommandRunner, place: Any) -> None:
    ran = preread("requeue", str(place.folder / "locked.dcm"), "/nowhere", "--yes")
    assert (ran.exit_code, place.ready()) == (1, {b"locked.dcm"})


@pytest.mark.parametrize("says, exit_code", [("y", 0), ("n", 1), ("", 1)])
def test_somebody_at_a_terminal_is_asked(
    preread: CommandRunner, place: Any, monkeypatch: pytest.MonkeyPatch, says: Any, exit_code: Any
) -> None:
    monkeypatch.setattr("preread.cli.invoking_user.is_interactive", lambda: True)
    ran = preread("requeue", "--code", "locked", stdin=f"{says}\n")
    assert (ran.exit_code, len(place.ready())) == (exit_code, 1 - exit_code)
    assert "assess 1 file again?" in ran.err
    assert ("nothing was changed" in ran.err) == bool(exit_code)


# ---------------------------------------------------------------------- quarantine


def test_the_quarantine_is_listed_with_its_reasons(preread: CommandRunner, place: Any) -> None:
    records = preread("quarantine", "list", "--json").records
    assert [record["code"] for record in records] == ["truncated", "slot_crashed", "locked"]
    assert records[0]["path"] == "broken\x1b[2J.dcm"
    assert [record["code"] for record in preread("quarantine", "list", "--json", "--code", "locked").records] == [
        "locked"
    ]
    shown = preread("quarantine", "list")
    assert "3 files" in shown.err
    assert "\x1b" not in shown.out
    preread("quarantine", "release", "--all", "--yes")
    assert "no file is quarantined" in preread("quarantine", "list").err


def test_one_quarantined_file_in_full(preread: CommandRunner, place: Any) -> None:
    crashing = str(place.ids[b"crashing.dcm"])
    shown = preread("quarantine", "show", crashing)
    assert shown.exit_code == 0
    assert SlotCrashed.hint in " ".join(shown.out.split())
    (record,) = preread("quarantine", "show", crashing, "--json").records
    assert (record["code"], record["remedy"]) == ("slot_crashed", SlotCrashed.hint)
    for stranger in (str(place.ids[NAMES[0]]), "999999"):
        ran = preread("quarantine", "show", stranger)
        assert ran.exit_code == 2
        assert "preread quarantine list" in ran.err


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--code", "slot_crashed"], {b"crashing.dcm"}),
        (["--all"], set(NAMES[3:])),
        (["--root", "{inbox}"], set(NAMES[3:])),
    ],
)
def test_release(preread: CommandRunner, place: Any, arguments: Any, expected: Any) -> None:
    ran = preread("quarantine", "release", *(one.format(inbox=place.folder) for one in arguments), "--yes")
    assert (ran.exit_code, place.ready()) == (0, expected)
    again = preread("quarantine", "release", *(one.format(inbox=place.folder) for one in arguments), "--yes")
    assert again.exit_code == 1, "nothing is left of them"


def test_release_by_id_names_what_is_not_quarantined(preread: CommandRunner, place: Any) -> None:
    ran = preread("quarantine", "release", str(place.ids[b"locked.dcm"]), str(place.ids[NAMES[0]]), "--yes")
    assert (ran.exit_code, place.ready()) == (1, {b"locked.dcm"})
    assert f"{place.ids[NAMES[0]]} is not among the selected quarantined files" in ran.err
    assert preread("quarantine", "release", "--yes").exit_code == 2
    (story,) = preread("explain", str(place.folder / "locked.dcm"), "--json").records
    assert story["versions"][-1]["transitions"][-1]["why"].startswith("released from quarantine by ")


# ---------------------------------------------------------------------- missed


def test_missed_films_are_listed_until_acknowledged(preread: CommandRunner, place: Any) -> None:
    assert "no file was missed" in preread("missed", "list").err
    place.ledger.heartbeat(Pulse(30.0, 1, 1, (RootPulse(place.root_id, moves=True),)))
    place.ledger.observe(place.root_id, [Observation(name, 5, 5) for name in (b"m1\x1b.dcm", b"m2.dcm")])
    place.ledger.record_absent(place.root_id, [b"m1\x1b.dcm", b"m2.dcm"])
    records = preread("missed", "list", "--json").records
    assert [record["path"] for record in records] == ["m1\x1b.dcm", "m2.dcm"]
    assert "\x1b" not in preread("missed", "list").out
    status = preread("status")
    assert status.exit_code == 2
    assert "2 files went away before being read" in status.out
    ran = preread("missed", "acknowledge", str(records[0]["id"]), str(place.ids[NAMES[0]]), "--yes")
    assert ran.exit_code == 1
    assert "is not among the selected missed files" in ran.err
    assert [record["path"] for record in preread("missed", "list", "--json").records] == ["m2.dcm"]
    assert preread("missed", "acknowledge", "--all").exit_code == 2, "nobody could be asked"
    assert preread("missed", "acknowledge", "--all", "--yes").exit_code == 0
    assert preread("missed", "acknowledge", "--all", "--yes").exit_code == 1
    assert len(preread("missed", "list", "--json", "--all").records) == 2
    assert "missed" not in {problem["code"] for problem in preread("status", "--json").records[0]["problems"]}
    assert "An operator acknowledged that." in preread("explain", str(place.folder / "m2.dcm")).out


# ---------------------------------------------------------------------- reconcile


def test_reconcile_prints_what_differs(preread: CommandRunner, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preread.cli.reconcile._PROGRESS_EVERY_S", 0.0)
    clean = preread("reconcile")
    assert (clean.exit_code, clean.out) == (0, "")
    assert f"{place.folder}: 6 files compared" in clean.err
    assert "6 files in the folders; pending: none" in clean.err
    assert "nothing differs" in clean.err
    (place.folder / "new\x1b.dcm").write_bytes(b"new")
    (place.folder / "locked.dcm").unlink()
    ran = preread("reconcile")
    assert ran.exit_code == 1
    assert "\x1b" not in ran.out
    assert "2 differences: not_in_ledger 1, not_on_share 1" in ran.err
    records = preread("reconcile", "--json", "--root", str(place.folder)).records
    assert {(one["code"], one["path"]) for one in records} == {
        ("not_in_ledger", "new\x1b.dcm"),
        ("not_on_share", "locked.dcm"),
    }


def test_reconcile_reads_the_files_too(preread: CommandRunner, place: Any) -> None:
    ran = preread("reconcile", "--read", "--json")
    assert ran.exit_code == 1, "these films have made-up hashes"
    assert {one["code"] for one in ran.records} == {"other_content"}


def test_reconcile_of_what_cannot_be_looked_at(
    preread: CommandRunner, place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = preread("reconcile", "--root", str(tmp_path / "nowhere"))
    assert ran.exit_code == 3
    assert "share_down" in ran.err
    assert preread("reconcile", "--wait", "-1").exit_code == 2


# ---------------------------------------------------------------------- status


def test_status_of_a_worker_that_is_well(preread: CommandRunner, place: Any) -> None:
    preread("requeue", "--state", "quarantined", "--code", "locked", "--yes")
    for claim in place.ledger.claim([place.root_id], 9):
        assert commit_unreadable(place.ledger, claim, TruncatedPixels(), facts(9))
    preread("quarantine", "release", "--code", "slot_crashed", "--yes")
    for claim in place.ledger.claim([place.root_id], 9):
        assert commit_unreadable(place.ledger, claim, TruncatedPixels(), facts(9))
    place.ledger.heartbeat(Pulse(30.0, 1, 1, (RootPulse(place.root_id, moves=True),)))
    place.ledger.record_scan_start(place.root_id)
    place.ledger.record_scan_end(place.root_id, files_seen=6)
    ran = preread("status")
    assert (ran.exit_code, ran.out.splitlines()[0].split(" | ")[0]) == (0, "PREREAD OK - nothing is wrong")
    assert "missed_unacknowledged=0" in ran.out.splitlines()[0]
    (record,) = preread("status", "--json").records
    assert (record["status"], record["exit_code"], record["problems"]) == ("ok", 0, [])
    assert record["counts"]["quarantined"] == 3
    assert record["roots"][0]["path"] == str(place.folder)


def test_status_counts_a_million_films_to_the_last_one() -> None:
    found = Health(datetime.now(UTC), (), counts={FileState.DONE: 1_234_567})
    assert "done=1234567 " in _headline(found)


def test_status_warns_of_whole_films_in_quarantine(preread: CommandRunner, place: Any) -> None:
    place.ledger.heartbeat(Pulse(30.0, 1, 1, (RootPulse(place.root_id, moves=True),)))
    place.ledger.record_scan_start(place.root_id)
    place.ledger.record_scan_end(place.root_id, files_seen=6)
    ran = preread("status")
    assert ran.exit_code == 1
    assert ran.out.startswith("PREREAD WARNING - 2 files quarantined, may be intact (locked 1, slot_crashed 1)")


def test_status_is_red_where_nothing_runs(
    preread: CommandRunner, place: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place.ledger.mark_worker_stopped()
    for arguments in ([], ["--root", str(place.folder)], ["--root", str(tmp_path / "other")]):
        ran = preread("status", *arguments)
        assert ran.exit_code == 2
        assert ran.out.startswith("PREREAD CRITICAL - no worker runs; the last one ended ")
    assert "no worker ever watched" in ran.out


@pytest.mark.parametrize(
    "url, code",
    [
        ("sqlite:///there-is-none.db", "schema_outdated"),
        ("sqlite:///folder", "database_unsuitable"),
        ("nonsense", "settings"),
        ("postgresql://preread:geheim@/preread?host=/nowhere", "database_away"),
    ],
)
def test_status_is_red_where_the_database_cannot_be_used(
    preread: CommandRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: Any, code: Any
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("PREREAD_DATABASE_URL", url)
    ran = preread("status")
    assert ran.exit_code == 2
    assert ran.out.startswith("PREREAD CRITICAL - ")
    assert "geheim" not in ran.out + ran.err
    (record,) = preread("status", "--json").records
    assert (record["status"], record["problems"][0]["code"]) == ("critical", code)


def test_a_wrong_setting_is_red_as_well(preread: CommandRunner, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREREAD_SLOTS", "many")
    ran = preread("status")
    assert (ran.exit_code, ran.out.split(" - ")[0]) == (2, "PREREAD CRITICAL")
