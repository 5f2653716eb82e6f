"""``reconcile``: clean where folder and ledger agree, and every kind of difference is found. On both databases."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select, update

from preread.admin import reconcile
from preread.core.errors import FileLocked, UnknownFormat
from preread.core.types import FileState, Outcome, RefusalCode
from preread.db import schema
from preread.ledger import invariants
from preread.ledger.records import Observation
from preread.share.scanner import FileSystem
from tests.support.ledger import LedgerBench
from tests.support.outcomes import commit_assessed, commit_refused, commit_unreadable

file = schema.file.c


class Place:
    """A folder of films and a ledger that knows all of them."""

    def __init__(self, bench: LedgerBench, folder: Path) -> None:
        self.bench = bench
        self.folder = folder
        folder.mkdir()
        bench.ledger.heartbeat()
        bench.root_id = bench.ledger.register_root(os.fsencode(folder))

    def write(self, name: bytes, content: bytes = b"film") -> Observation:
        path = os.path.join(os.fsencode(self.folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(content)
        status = os.stat(path)
        return Observation(name, status.st_size, status.st_mtime_ns, status.st_ino)

    def film(self, name: bytes, content: bytes = b"film") -> int:
        """Write one and take it the whole way; return its id."""
        self.observe(self.write(name, content))
        (claim,) = self.bench.claim()
        from tests.support.ledger import content_of

        facts = self.bench.facts(content)
        assert commit_assessed(self.bench.ledger, claim, facts, self.bench.bundle_id, content_of())
        return int(claim.file_id)

    def observe(self, *seen: Observation) -> None:
        self.bench.ledger.settle(self.bench.ledger.observe(self.bench.root_id, seen).values())

    def compare(self, **options: Any) -> reconcile.Reconciliation:
        chosen = reconcile.ReconcileOptions(clock=self.bench._clock, **options)
        return reconcile.compare_with_ledger(self.bench.engine, [os.fsencode(self.folder)], chosen)

    def found(self, **options: Any) -> list[tuple[str, bytes | None]]:
        return [(one.code, one.path) for one in self.compare(**options).differences]


@pytest.fixture
def place(bench: LedgerBench, tmp_path: Path) -> Place:
    return Place(bench, tmp_path / "inbox")


def test_nothing_differs_whatever_the_state(place: Place) -> None:
    bench = place.bench
    place.film(b"2026/a.dcm")
    place.observe(place.write(b"refused"), place.write(b"broken"), place.write(b"locked"), place.write(b"claimed"))
    bench.ledger.observe(bench.root_id, [place.write(b"young")])
    claims = {claim.path: claim for claim in bench.claim(9)}
    assert commit_refused(
        bench.ledger, claims[b"refused"], bench.facts(b"film"), bench.bundle_id, RefusalCode.VIEW, "lateral"
    )
    assert commit_unreadable(bench.ledger, claims[b"broken"], UnknownFormat())
    bench.ledger.give_back(claims[b"locked"], FileLocked(), retry_in_s=60)
    again = place.film(b"again")
    bench.ledger.requeue([again], "again", states=[FileState.DONE])
    place.write(b".hidden")
    os.symlink("a.dcm", place.folder / "link")
    os.mkfifo(place.folder / "pipe")
    found = place.compare(read_up_to_bytes=1000)
    assert found.differences == []
    assert found.unproven == []
    assert found.files == 7
    owed = {FileState.CLAIMED: 1, FileState.RETRY: 1, FileState.SETTLING: 1, FileState.READY: 1}
    assert found.owed == owed
    assert found.contents == 2, "what is read again has no result to compare with yet"


def test_what_the_folder_has_and_the_ledger_does_not(place: Place) -> None:
    place.film(b"gone.dcm")
    os.remove(place.folder / "gone.dcm")
    place.film(b"changed.dcm")
    place.write(b"changed.dcm", b"other bytes")
    place.film(b"back.dcm")
    place.bench.ledger.record_absent(place.bench.root_id, [b"back.dcm"])
    seen = place.write(b"left-out.dcm")
    place.bench.ledger.record_ignored(place.bench.root_id, [seen], "temporary_name")
    place.write(b"new\xff\n.dcm")
    place.observe(place.write(b"half.part"))
    assert sorted(place.found()) == [
        ("not_in_ledger", b"new\xff\n.dcm"),
        ("not_on_share", b"gone.dcm"),
        ("not_owed", b"left-out.dcm"),
        ("other_version", b"changed.dcm"),
        ("owed_wrongly", b"half.part"),
        ("thought_gone", b"back.dcm"),
    ]


def test_a_folder_that_nobody_registered_is_owed_whole(place: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "film").write_bytes(b"x")
    found = reconcile.compare_with_ledger(place.bench.engine, [os.fsencode(tmp_path / "other")])
    assert [(one.code, one.path) for one in found.differences] == [("not_in_ledger", b"film")]


def test_time_to_catch_up(place: Place) -> None:
    seen = place.write(b"film.dcm")
    naps: list[float] = []

    def worker_catches_up(seconds: float) -> None:
        naps.append(seconds)
        place.observe(seen)

    assert place.found(wait_s=0.0, sleep=worker_catches_up) == [("not_in_ledger", b"film.dcm")]
    assert naps == []
    assert place.found(wait_s=3600.0, sleep=worker_catches_up) == []
    assert len(naps) == 1


def test_what_changed_while_the_folder_was_listed_is_no_difference(place: Place) -> None:
    class Late(FileSystem):
        """A film that the worker finds between our listing and our second look."""

        def read_link_status(self, path: bytes) -> os.stat_result:
            place.observe(seen)
            return super().read_link_status(path)

    seen = place.write(b"film.dcm")
    assert place.found(system=Late()) == []


def test_bytes_that_changed_under_an_equal_size_and_time(place: Place) -> None:
    place.film(b"film.dcm", b"film")
    status = os.stat(place.folder / "film.dcm")
    (place.folder / "film.dcm").write_bytes(b"FILM")
    os.utime(place.folder / "film.dcm", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert place.found() == []
    assert place.found(read_up_to_bytes=1000) == [("other_content", b"film.dcm")]
    found = place.compare(read_up_to_bytes=3)
    assert [fault.code for fault in found.unproven] == ["environment"]


def test_a_share_that_is_away_proves_nothing(place: Place) -> None:
    place.film(b"film.dcm")
    os.rename(place.folder, place.folder.with_name("elsewhere"))
    found = place.compare()
    assert found.differences == []
    assert [fault.code for fault in found.unproven] == ["share_down"]
    assert str(place.folder) in str(found.unproven[0])
    place.folder.mkdir()

    class Unmounted(FileSystem):
        def find_missing_mount(self, root: bytes) -> str:
            return os.fsdecode(root)

    found = place.compare(system=Unmounted())
    assert found.differences == []
    assert [fault.code for fault in found.unproven] == ["share_down"]


def test_a_folder_that_cannot_be_listed_hides_no_absence(place: Place) -> None:
    class Broken(FileSystem):
        def list_entries(self, path: bytes) -> Any:
            if path.endswith(b"/closed"):
                raise PermissionError(13, "Permission denied")
            return super().list_entries(path)

    place.film(b"closed/film.dcm")
    found = place.compare(system=Broken())
    assert found.differences == []
    assert [fault.code for fault in found.unproven] == ["scan_incomplete"]


# ---------------------------------------------------------------------- the ledger alone


def _set(**values: Any) -> Callable[[Connection, int], None]:
    def spoil(connection: Connection, file_id: int) -> None:
        connection.execute(update(schema.file).where(file.id == file_id).values(**values))

    return spoil


def _without_assessment(connection: Connection, file_id: int) -> None:
    _set(assessment_id=None)(connection, file_id)


def _of_other_content(connection: Connection, file_id: int) -> None:
    row = {"sha256": "0" * 64, "size_bytes": 4, "format": "DICOM", "first_read_at": _now(connection)}
    other = connection.execute(insert(schema.instance).values(**row).returning(schema.instance.c.id)).scalar_one()
    _set(instance_id=other)(connection, file_id)


def _unused_content(connection: Connection, _file_id: int) -> None:
    row = {"sha256": "0" * 64, "size_bytes": 4, "format": "DICOM", "first_read_at": _now(connection)}
    connection.execute(insert(schema.instance).values(**row))


def _without_findings(connection: Connection, _file_id: int) -> None:
    connection.execute(delete(schema.finding))


def _without_history(connection: Connection, file_id: int) -> None:
    connection.execute(delete(schema.transition).where(schema.transition.c.file_id == file_id))


def _moved_silently(connection: Connection, file_id: int) -> None:
    _set(state=FileState.VANISHED)(connection, file_id)


def _now(connection: Connection) -> Any:
    return connection.execute(select(file.first_seen_at).limit(1)).scalar_one()


@pytest.mark.parametrize(
    "spoil, expected",
    [
        (_set(outcome=None), {"no_outcome"}),
        (_set(committed_at=None), {"no_outcome"}),
        (_set(outcome=Outcome.UNREADABLE, code="x"), {"wrong_outcome"}),
        (_set(outcome=Outcome.REFUSED), {"no_code"}),
        (_without_assessment, {"no_assessment"}),
        (_of_other_content, {"no_assessment", "orphan_content"}),
        (_unused_content, {"orphan_content"}),
        (_without_findings, {"no_finding"}),
        (_without_history, {"history_broken"}),
        (_moved_silently, {"history_broken", "thought_gone"}),
        (_set(newest=False), {"no_newest", "not_in_ledger"}),
        (_set(state=FileState.RETRY), {"history_broken", "no_retry_time"}),
        (_set(state=FileState.CLAIMED), {"history_broken", "claim_without_lease"}),
    ],
)
def test_a_ledger_that_contradicts_itself(
    place: Place, spoil: Callable[[Connection, int], None], expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invariants, "_STRETCH", 1)
    place.film(b"other.dcm", b"other")
    file_id = place.film(b"film.dcm")
    assert place.found() == []
    with place.bench.engine.begin() as connection:
        spoil(connection, file_id)
    assert {code for code, _ in place.found()} == expected


def test_an_outdated_version_that_waits(place: Place) -> None:
    file_id = place.film(b"film.dcm")
    place.observe(place.write(b"film.dcm", b"a newer version"))
    assert place.found() == []
    with place.bench.engine.begin() as connection:
        _set(state=FileState.READY)(connection, file_id)
    assert {code for code, _ in place.found()} == {"history_broken", "outdated_owed"}


def test_a_claim_whose_worker_is_gone(place: Place) -> None:
    place.observe(place.write(b"film.dcm"))
    place.bench.claim()
    assert place.found() == []
    place.bench.ledger.mark_worker_stopped()
    (difference,) = place.compare().differences
    assert difference.code == "claim_without_lease"
    assert "which does not run" in difference.what
