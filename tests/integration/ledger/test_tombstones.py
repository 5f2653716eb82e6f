"""What is purged is gone from every table and stays gone through rescans, copies and restored backups."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from preread.admin import patient_export, purge
from preread.admin.purge import PatientQuery
from preread.core.errors import EnvironmentFault, ScanIncomplete, SettingsError, UsageError
from preread.core.study_header import StudyHeader
from preread.core.types import FORGOTTEN, FileState, Identity, Population, Presence, RefusalCode, Role, Verdict
from preread.db.engine import compact_sqlite, database_now, open_engine, read
from preread.db.review_schema import session
from preread.db.schema import file, metadata, root
from preread.fleet import partition
from preread.fleet.queue import FleetQueue
from preread.fleet.shard_runner import ShardJob
from preread.imaging import previews
from preread.imaging.preview_png import encode_preview
from preread.ledger import archives, invariants
from preread.ledger.ledger import Ledger
from preread.ledger.records import ContentAssessment, FileFacts, Observation, Pulse, RootPulse
from preread.review import audit, disclosures, results, reviews
from preread.review.auth import accounts
from preread.review.history import explain_path, load_result
from preread.review.reviews import ReviewDraft, ShownResult
from preread.share.scanner import FileSystem, ScanCounts
from tests.support.ledger import LedgerBench
from tests.support.outcomes import commit_assessed, commit_refused, pending

ACTOR = "uid:0"
NAME, IDENTIFIER, ISSUER = "Mustermann^Erika", "PAT-4711", "KLINIKUM"
PERSON = PatientQuery(IDENTIFIER)


def who(**more: Any) -> dict[str, Any]:
    return {
        "patient_id": IDENTIFIER,
        "issuer_of_patient_id": ISSUER,
        "patient_name": NAME,
        "patient_birth_date": "20210203",
        "accession_number": "ACC-0815",
        "study_instance_uid": "1.2.826.4711",
    } | more


def cells(engine: Engine) -> Iterator[tuple[str, str]]:
    """Every value of every table as text, with the table's name; of the fleet's queue as well."""
    with engine.connect() as connection:
        for name in (
            ("jobs", "events", "workers", "periodic_defers") if archives.applied_queue_migration(connection) else ()
        ):
            for row in connection.execute(text(f"SELECT t::text FROM {archives.SCHEMA}.procrastinate_{name} AS t")):
                yield name, str(row[0])
        for table in metadata.sorted_tables:
            for row in connection.execute(select(table)):
                for value in row:
                    yield table.name, value.decode("latin-1") if isinstance(value, bytes) else str(value)


def tables_with(engine: Engine, *words: str) -> set[str]:
    return {table for table, cell in cells(engine) if any(word.lower() in cell.lower() for word in words)}


def forget_films(bench: LedgerBench, films: list[int], **options: Any) -> purge.PurgeCounts:
    chosen = {"readings": False, "journal": None, "preview_dir": None} | options
    return purge.purge_files(bench.engine, purge.PurgeRequest(ACTOR, "purged: its patient", **chosen), films)


def sound(bench: LedgerBench) -> bool:
    return read(bench.engine, lambda connection: invariants.check_invariants(connection, [bench.root_id])) == []


def sign(bench: LedgerBench, film: int, comment: str = "") -> None:
    if not [one for one in accounts.list_accounts(bench.engine) if one.name == "ada"]:
        accounts.add_account(
            bench.engine, ACTOR, accounts.NewAccount("ada", "Dr Ada", Role.READER, "correct horse battery")
        )
    reader = accounts.find_account(bench.engine, "ada")
    detail = load_result(bench.engine, film)
    assert detail is not None
    shown = ShownResult(detail.row.outcome, detail.row.code, detail.assessment_id)
    reviews.record_viewing(bench.engine, reader, film, shown, answer_visible=True)
    disclosures.record_list_view(bench.engine, reader.actor, [detail.row])
    draft = ReviewDraft(
        film, shown, Verdict.ACCEPTED, f"form-token-{film:010}", {"pneumonia": Presence.PRESENT}, comment
    )
    reviews.sign_review(bench.engine, reader, draft)


@dataclass
class Filled(LedgerBench):
    """A ledger with images of two patients; ``mine`` are those of the first, ``other`` is the second's."""

    mine: list[int] = field(default_factory=list)
    other: int = 0


@pytest.fixture
def filled(engine: Engine) -> Filled:
    """Images of the patient of every kind, one of somebody else, and all that hangs on them."""
    bench = Filled(engine, read(engine, database_now))
    bench.mine = [
        bench.assess(b"PAT-4711/a.dcm", b"a", **who()),
        bench.assess(b"PAT-4711/copy.dcm", b"a", **who()),
    ]
    claim = bench.claimed(b"PAT-4711/lateral.dcm")
    facts = bench.facts(b"lateral", **who())
    assert commit_refused(bench.ledger, claim, facts, bench.bundle_id, RefusalCode.VIEW, f"lateral of {NAME}")
    bench.mine.append(claim.file_id)
    # one was read twice, and waits to be read again
    bench.ledger.requeue(bench.mine[:1], f"again, {NAME}", states=[FileState.DONE])
    bench.other = bench.assess(b"other.dcm", b"other", **who(patient_id="PAT-1", patient_name="Else^Some"))
    sign(bench, bench.mine[1], f"{NAME} is better")
    sign(bench, bench.other)
    with bench.engine.begin() as connection:
        now = database_now(connection)
        account = {"token_hash": "t" * 64, "account_id": 1, "csrf": "c" * 64, "created_at": now, "seen_at": now}
        connection.execute(insert(session), account | {"search": IDENTIFIER})
    return bench


# --------------------------------------------------------------------------- gone


def test_nothing_that_names_the_patient_is_left_in_any_table(filled: Filled, tmp_path: Path) -> None:
    words = (NAME, "mustermann", IDENTIFIER, "ACC-0815")
    assert tables_with(filled.engine, *words) == {"file", "study_header", "transition", "reading", "session"}
    before = filled.row(filled.other)
    films = purge.select_patient_files(filled.engine, PERSON)
    assert films == sorted(filled.mine)
    drawn = np.zeros((20, 20), np.uint8)
    digest = results.query_results(filled.engine, results.ResultFilter(patient_id=IDENTIFIER))[0].sha256
    assert digest is not None
    assert previews.store_preview(tmp_path, digest, encode_preview(drawn), 0)
    done = forget_films(filled, films, readings=True, preview_dir=tmp_path)
    assert (done.films, done.readings, done.readings_kept, done.contents, done.previews) == (3, 1, 0, 2, 1)
    # somebody else's accession number and study are the same here, and stay
    assert tables_with(filled.engine, *words[:3]) == set()
    assert not list(tmp_path.rglob("*.png"))
    assert filled.row(filled.other) == before
    assert [row.result_id for row in results.query_results(filled.engine)] == [filled.other]
    assert load_result(filled.engine, filled.mine[1]) is None
    assert filled.count("instance") == filled.count("assessment") == filled.count("reading") == 1
    assert filled.count("forgetting") == 0
    assert sound(filled)
    assert audit.latest_audit_entries(filled.engine, 1)[0].object == "films:3"
    audit.verify_audit_chain(filled.engine)


def test_a_purge_by_the_version_before_takes_the_header_too(filled: Filled) -> None:
    """It goes on with this schema during an upgrade, and knows neither the table nor to delete from it."""
    stub = update(file).where(file.c.id == filled.mine[1])
    with filled.engine.begin() as connection:
        connection.execute(stub.values(state=FileState.IGNORED, code="a_rule"))
    assert filled.count("study_header") == 4
    with filled.engine.begin() as connection:
        connection.execute(stub.values(state=FileState.IGNORED, code=FORGOTTEN))
    assert filled.count("study_header") == 3


def forms_of(*words: str) -> set[bytes]:
    """A word as it may lie in bytes: in any case, folded, in UTF-8 and both orders of UTF-16."""
    cases = {form for word in words for form in (word, word.lower(), word.upper(), word.casefold(), word.title())}
    return {form.encode(code) for form in cases for code in ("utf-8", "utf-16-le", "utf-16-be")}


def places_with(folder: Path, *words: str) -> dict[str, set[bytes]]:
    """The files below a folder whose name or content holds a word, in whatever form."""
    found = {}
    for path in folder.rglob("*"):
        content = os.fsencode(path) + (path.read_bytes() if path.is_file() else b"")
        if held := {form for form in forms_of(*words) if form in content}:
            found[path.name] = held
    return found


@pytest.fixture
def overwrites_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite as most build it: what is deleted stays until something else is written there."""

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = sqlite3.Connection(*arguments, **options)
        connection.execute("PRAGMA secure_delete=OFF")
        return connection

    monkeypatch.setattr("sqlite3.dbapi2.connect", connect)


@pytest.mark.usefixtures("overwrites_nothing")
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_no_byte_of_the_patient_is_left_in_any_file(
    filled: Filled, database_url: str, content: ContentAssessment
) -> None:
    database = Path(database_url.removeprefix("sqlite:///"))
    folder = database.parent
    words = (NAME, "mustermann", IDENTIFIER, "remarkable comment")
    kept = folder / "previews"
    # many at once, read in any order, so that SQLite moves rows between its pages and leaves copies of them behind
    paths = [f"{IDENTIFIER if number % 3 == 0 else 'other'}/{number}.dcm".encode() for number in range(90)]
    filled.ready(*paths)
    while claims := filled.claim(limit=7):
        for claim in reversed(claims):
            number = paths.index(claim.path) if claim.path in paths else 0
            more = {"patient_name": NAME + "x" * (number % 40)}
            if number % 3:
                more = {"patient_id": f"P{number}", "patient_name": f"Other{number}"}
            facts = filled.facts(b"%d" % number, **who(**more))
            assert commit_assessed(filled.ledger, claim, facts, filled.bundle_id, content)
            if number % 30 == 0:
                sign(filled, claim.file_id, "a remarkable comment")
    digest = filled.facts(b"0").sha256
    assert previews.store_preview(kept, digest, encode_preview(np.zeros((20, 20), np.uint8)), 0)
    other = open_engine(database_url)  # the page, which stays open
    read(other, database_now)
    assert f"{database.name}-wal" in places_with(folder, *words)
    done = forget_films(filled, purge.select_patient_files(filled.engine, PERSON), readings=True, preview_dir=kept)
    assert (done.films, done.previews, done.uncleaned) == (33, 1, 0)
    assert places_with(folder, *words) == {}
    assert f"{database.name}-wal" in {path.name for path in folder.iterdir()}
    filled.engine.dispose()
    other.dispose()
    assert places_with(folder, *words) == {}
    assert read(filled.engine, lambda c: c.execute(text("PRAGMA secure_delete")).scalar()) == 1


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_file_that_another_program_reads_is_told_and_cleaned_later(
    filled: Filled, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preread.db.engine.BUSY_TIMEOUT_S", 0.01)
    pauses: list[float] = []
    monkeypatch.setattr(purge, "compact_sqlite", partial(compact_sqlite, sleep=pauses.append))
    filled.engine.dispose()
    log = Path(f"{database_url.removeprefix('sqlite:///')}-wal")
    other = open_engine(database_url)
    with other.connect() as connection:
        reading = connection.execution_options(preread_reading=True)
        reading.execute(text("SELECT count(*) FROM file")).all()
        assert forget_films(filled, filled.mine, clean=False).uncleaned == 0
        assert not pauses
        assert forget_films(filled, [filled.other]).uncleaned == 1
        assert len(pauses) == 2
        assert log.stat().st_size > 0
    assert compact_sqlite(filled.engine)
    assert log.stat().st_size == 0
    other.dispose()


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_an_older_version_left_in_free_pages_goes_when_the_file_is_written_anew(
    filled: Filled, database_url: str
) -> None:
    folder = Path(database_url.removeprefix("sqlite:///")).parent
    raw = filled.engine.raw_connection()
    raw.cursor().execute("PRAGMA secure_delete=OFF")
    raw.cursor().execute("CREATE TABLE old AS SELECT 'Zwetschgenbaum ' || value AS name FROM json_each('[1, 2, 3]')")
    raw.cursor().execute("DROP TABLE old")
    raw.close()
    filled.engine.dispose()
    assert places_with(folder, "zwetschgenbaum")
    assert compact_sqlite(filled.engine)
    assert places_with(folder, "zwetschgenbaum") == {}


def test_readings_stay_unless_they_are_named_and_say_no_patient(filled: Filled) -> None:
    done = forget_films(filled, purge.select_patient_files(filled.engine, PERSON))
    assert (done.readings, done.readings_kept) == (0, 1)
    # what a reader wrote is kept as it was written
    assert tables_with(filled.engine, NAME, "mustermann", IDENTIFIER) == {"reading"}
    kept = reviews.list_reviews(filled.engine, [filled.mine[1]])[filled.mine[1]]
    assert [(one.verdict, dict(one.answers)) for one in kept] == [(Verdict.ACCEPTED, {"pneumonia": "flagged"})]
    assert sound(filled)


def test_what_is_signed_goes_with_a_purge_and_in_no_other_way(filled: Filled) -> None:
    for statement in ("DELETE FROM reading", "DELETE FROM reading_finding", "DELETE FROM viewing",
                      "DELETE FROM listing", "UPDATE listing SET actor = ''",
                      "UPDATE reading SET comment = ''"):  # fmt: skip
        with pytest.raises(DBAPIError, match="append-only"), filled.engine.begin() as connection:
            connection.execute(text(statement))
    forget_films(filled, filled.mine, readings=True)
    assert filled.count("viewing") == filled.count("listing") == 1
    with pytest.raises(DBAPIError, match="append-only"), filled.engine.begin() as connection:
        connection.execute(text("DELETE FROM reading"))


TEXT = st.characters(codec="utf-8", exclude_characters="\x00/")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(TEXT, min_size=4, max_size=30).filter(lambda text: len(text.strip(" ^=")) >= 4), data=st.data())
def test_no_table_holds_a_patient_that_was_purged(engine: Engine, name: str, data: st.DataObject) -> None:
    """The law: whatever a film says of its patient, in its tags or in its path, after the purge no column says it."""
    number = secrets.token_hex(4)
    patient, sha256, mark = f"ID-{number}", number * 8, "Zqxwkq" + name  # keyed hashes hold no such word by chance
    folder = data.draw(st.sampled_from(["flat", patient, mark])).encode()
    path = b"%s/film %s" % (folder, mark.encode())
    ledger = Ledger(engine, worker_id="one", lease_s=60)
    root_id = ledger.register_root(b"/srv/" + number.encode())
    bundle_id = ledger.register_bundle(name="b", version="1", digest="d" * 64)
    texts = [one.name for one in dataclasses.fields(Identity) if one.type == "str | None" and one.name != "patient_id"]
    chosen = data.draw(st.sets(st.sampled_from(texts)))
    before = {cell for _, cell in cells(engine)}
    texts_of_film: dict[str, Any] = dict.fromkeys(chosen, mark)
    identity = Identity(patient_id=patient, **texts_of_film)
    ledger.settle(ledger.observe(root_id, [Observation(path, 10, 1)]).values())
    (claim,) = ledger.claim([root_id], 1)
    header = StudyHeader.of({"PatientID": {"vr": "LO", "Value": [patient]}, "StudyID": {"vr": "SH", "Value": [mark]}})
    facts = FileFacts(sha256, identity, "DICOM", None, 1, 1, Population.UNDECLARED, (), 1.0, header)
    assert commit_refused(ledger, claim, facts, bundle_id, RefusalCode.VIEW, mark)
    fault = EnvironmentFault(f"{os.fsdecode(path)} cannot be listed")
    ledger.heartbeat(Pulse(30.0, 1, 1, (RootPulse(root_id, True, fault),)))
    films = purge.select_patient_files(engine, PatientQuery(patient))
    purge.purge_files(engine, purge.PurgeRequest(ACTOR, "purged", readings=True, journal=None, preview_dir=None), films)
    left = {cell for _, cell in cells(engine)} - before
    assert films == [claim.file_id]
    assert not [cell for cell in left if any(word in cell.casefold() for word in ("zqxwkq", f"id-{number}", sha256))]


def hand_over(engine: Engine, root: Path, root_id: int, files: int = 1) -> tuple[int, int, int]:
    """Have a fleet's queue hold a folder."""
    queue = FleetQueue(engine)
    queue.install()
    cut = partition.cut_shards(FileSystem(), bytes(root), files, ScanCounts(), archives.shard_order_key(engine))
    return queue.submit(ShardJob(root_id, "d" * 64, False, shard) for shard in cut)


ON_POSTGRES = pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)


@ON_POSTGRES
def test_a_fleet_s_queue_names_nobody_whatever_became_of_a_shard(bench: LedgerBench, tmp_path: Path) -> None:
    """Nor in words that no tag has: there is nothing in it for a purge to take back."""
    for name in ("PAT-4711/a.dcm", "Frau Mustermann, Erika/b", "Q/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert hand_over(bench.engine, tmp_path, bench.root_id) == (3, 0, 3)
    assert hand_over(bench.engine, tmp_path, bench.root_id) == (3, 3, 3), "it is cut in the same way again"
    with bench.engine.begin() as connection:
        connection.execute(text(f"SET LOCAL search_path = {archives.SCHEMA}"))
        for number, status in enumerate(("doing", "succeeded"), start=1):
            connection.execute(text(f"UPDATE procrastinate_jobs SET status = '{status}' WHERE id = {number}"))
    assert tables_with(bench.engine, "PAT-4711", "mustermann", "erika", "dcm") == set()
    # what versions before named by paths is gone with the next start
    old = {"root_id": bench.root_id, "digest": "d", "again": False, "after": None, "until": "PAT-4711/a", "files": 1}
    with bench.engine.begin() as connection:
        connection.execute(text(f"SET LOCAL search_path = {archives.SCHEMA}"))
        connection.execute(
            text("UPDATE procrastinate_jobs SET args = CAST(:args AS jsonb) WHERE id = 3"), {"args": json.dumps(old)}
        )
    FleetQueue(bench.engine).install()
    (batch,) = FleetQueue(bench.engine).batches()
    assert batch.shards == {"doing": 1, "succeeded": 1}


def test_why_a_folder_cannot_be_listed_names_no_film(filled: Filled) -> None:
    fault = ScanIncomplete("PAT-4711/a.dcm cannot be looked at")
    elsewhere = filled.ledger.register_root(b"/srv/other")
    filled.ledger.heartbeat(
        Pulse(30.0, 1, 1, (RootPulse(filled.root_id, True, fault), RootPulse(elsewhere, True, ScanIncomplete("x"))))
    )
    forget_films(filled, filled.mine)
    with filled.engine.connect() as connection:
        told = connection.execute(select(root.c.fault_code, root.c.fault).order_by(root.c.id)).all()
    assert [tuple(one) for one in told] == [
        ("scan_incomplete", "it, or a part of it, cannot be listed"),
        ("scan_incomplete", "x"),
    ]


@pytest.mark.parametrize("second", [b"same bytes", b"other bytes"])
def test_a_purge_deletes_past_outcomes_with_their_contents_and_previews(
    bench: LedgerBench, tmp_path: Path, second: bytes
) -> None:
    film = bench.assess(b"film.dcm", b"same bytes")
    bench.ledger.requeue([film], "to be read again", states=[FileState.DONE])
    (claim,) = bench.claim()
    assert claim.file_id == film
    facts = bench.facts(second)
    assert commit_refused(bench.ledger, claim, facts, bench.bundle_id, RefusalCode.VIEW, "lateral")
    digests = {bench.facts(b"same bytes").sha256, facts.sha256}
    for digest in digests:
        assert previews.store_preview(tmp_path, digest, encode_preview(np.zeros((20, 20), np.uint8)), 0)
    tables = ("past_outcome", "instance", "assessment", "finding")
    assert [bench.count(table) for table in tables] == [1, len(digests), 1, 1]
    done = forget_films(bench, [film], preview_dir=tmp_path)
    assert (done.films, done.contents, done.previews) == (1, len(digests), len(digests))
    assert [bench.count(table) for table in tables] == [0, 0, 0, 0]
    assert not list(tmp_path.rglob("*.png"))
    assert sound(bench)


# --------------------------------------------------------------------------- and it stays gone


def seen_again(bench: LedgerBench, path: bytes, size_bytes: int = 100, mtime_ns: int = 1) -> FileState:
    version = bench.see(path, size_bytes, mtime_ns)
    assert version.path == path
    return FileState(version.state)


def test_a_scan_that_meets_the_file_again_knows_it_and_nobody_reads_it(filled: Filled) -> None:
    forget_films(filled, filled.mine)
    for _ in range(2):
        assert seen_again(filled, b"PAT-4711/a.dcm") is FileState.IGNORED
    assert filled.ledger.newest_versions(filled.root_id, [b"PAT-4711/a.dcm"])[b"PAT-4711/a.dcm"].code == FORGOTTEN
    assert filled.ledger.record_absent(filled.root_id, [b"PAT-4711/a.dcm"]) == 0
    assert pending(filled.ledger) == 0
    (told,) = explain_path(filled.engine, b"/srv/inbox/PAT-4711/a.dcm")
    assert "purged" in told.sentence
    assert tables_with(filled.engine, IDENTIFIER) == set()
    assert sound(filled)


def test_other_bytes_under_the_same_path_are_a_new_film_and_the_old_ones_are_not(filled: Filled) -> None:
    forget_films(filled, filled.mine)
    path = b"PAT-4711/a.dcm"
    assert seen_again(filled, path, mtime_ns=2) is FileState.SETTLING
    filled.ready(path, mtime_ns=2)
    (claim,) = filled.claim()
    # touched, and still the bytes that were purged: known once they are read
    assert filled.ledger.content_status(filled.facts(b"a").sha256, "d" * 64)[1]
    assert not filled.ledger.discard_purged(claim, filled.facts(b"new").sha256)
    assert filled.ledger.discard_purged(claim, filled.facts(b"a").sha256)
    assert filled.state(path) is FileState.IGNORED
    assert seen_again(filled, path, mtime_ns=2) is FileState.IGNORED
    new = filled.assess(path, b"new", mtime_ns=3, **who())
    assert [row.result_id for row in results.query_results(filled.engine)] == [new, filled.other]
    assert sound(filled)
    # back to its first time stamp, as a restored share has it
    assert seen_again(filled, path) is FileState.SETTLING
    filled.ready(path)
    (claim,) = filled.claim()
    assert filled.ledger.discard_purged(claim, filled.facts(b"a").sha256)
    assert seen_again(filled, path) is FileState.IGNORED
    assert sound(filled)


def test_a_slot_that_reads_a_film_while_it_is_purged_brings_nothing_back(filled: Filled) -> None:
    (claim,) = filled.claim()
    assert claim.file_id == filled.mine[0]
    copy = filled.claimed(b"PAT-4711/late copy.dcm")
    forget_films(filled, filled.mine)
    facts = filled.facts(b"a", **who())
    for one in (claim, copy):
        assert not commit_refused(filled.ledger, one, facts, filled.bundle_id, RefusalCode.VIEW, NAME)
    assert filled.state(b"PAT-4711/late copy.dcm") is FileState.IGNORED
    assert tables_with(filled.engine, IDENTIFIER, NAME) == {"reading"}
    assert sound(filled)


def test_a_content_that_another_film_holds_is_not_forgotten(bench: LedgerBench, tmp_path: Path) -> None:
    film = bench.assess(b"a.dcm", b"same", **who())
    other = bench.assess(b"b.dcm", b"same", **who(patient_id="PAT-1"))
    done = forget_films(bench, purge.select_patient_files(bench.engine, PERSON), journal=tmp_path / "forgotten")
    assert (done.films, done.contents) == (1, 0)
    with bench.engine.begin() as connection:
        connection.execute(text("DELETE FROM tombstone"))  # as in a restored backup
    assert purge.replay_purges(bench.engine, ACTOR, tmp_path / "forgotten", None).films == 0
    detail = load_result(bench.engine, other)
    assert detail is not None
    assert detail.row.findings
    assert not bench.ledger.content_status(bench.facts(b"same").sha256, "d" * 64)[1]
    assert bench.row(film)["instance_id"] is None
    assert sound(bench)


def test_an_older_version_goes_without_the_newer_one(bench: LedgerBench) -> None:
    old = bench.assess(b"film.dcm", b"old", **who())
    new = bench.assess(b"film.dcm", b"new", mtime_ns=2, **who(patient_id="PAT-1"))
    forget_films(bench, [old])
    assert bench.newest(b"film.dcm").file_id == new
    assert sound(bench)
    forget_films(bench, [new])
    assert bench.newest(b"film.dcm").code == FORGOTTEN
    assert forget_films(bench, [old, new]).films == 0
    assert sound(bench)


# --------------------------------------------------------------------------- a restored backup


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_a_restored_backup_brings_back_is_forgotten_again(
    filled: Filled, database_url: str, tmp_path: Path
) -> None:
    database = Path(database_url.removeprefix("sqlite:///"))
    journal = tmp_path / "forgotten"
    backup = tmp_path / "backup.db"
    with sqlite3.connect(database) as source, sqlite3.connect(backup) as target:
        source.backup(target)
    source.close()
    target.close()
    forget_films(filled, purge.select_patient_files(filled.engine, PERSON), readings=True, journal=journal)
    assert purge.replay_purges(filled.engine, ACTOR, journal, None).films == 0
    assert not [word for word in (IDENTIFIER, NAME, "PAT") if word in journal.read_text()]
    assert journal.stat().st_mode & 0o077 == 0
    filled.engine.dispose()
    for name in (f"{database}-wal", f"{database}-shm"):
        Path(name).unlink(missing_ok=True)
    shutil.copy(backup, database)
    assert tables_with(filled.engine, IDENTIFIER) != set()
    # a power cut left the last line unfinished
    with journal.open("a") as stream:
        stream.write('{"purge": "12')
    done = purge.replay_purges(filled.engine, ACTOR, journal, None)
    assert (done.films, done.readings) == (3, 1)
    assert tables_with(filled.engine, IDENTIFIER, NAME) == set()
    assert filled.ledger.content_status(filled.facts(b"a").sha256, "d" * 64)[1]
    assert purge.replay_purges(filled.engine, ACTOR, journal, None).films == 0
    assert forget_films(filled, [filled.other], journal=journal).films == 1
    assert [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]


def test_a_journal_of_another_database_is_refused(bench: LedgerBench, tmp_path: Path) -> None:
    film = bench.assess(b"film.dcm", **who())
    forget_films(bench, [film], journal=tmp_path / "own")
    (tmp_path / "foreign").write_text(json.dumps({"key": "00" * 32}) + "\n")
    with pytest.raises(SettingsError, match="another database"):
        forget_films(bench, [film], journal=tmp_path / "foreign")


# --------------------------------------------------------------------------- which films


def test_who_is_meant_must_be_clear(bench: LedgerBench) -> None:
    first = bench.assess(b"a.dcm", b"a", **who())
    assert purge.select_patient_files(bench.engine, PERSON) == [first]
    bench.assess(b"b.dcm", b"b", **who(issuer_of_patient_id="OTHER"))
    with pytest.raises(UsageError, match="2 issuers"):
        purge.select_patient_files(bench.engine, PERSON)
    assert purge.select_patient_files(bench.engine, PatientQuery(IDENTIFIER, ISSUER)) == [first]
    bench.assess(b"c.dcm", b"c", **who(patient_birth_date="19500101"))
    with pytest.raises(UsageError, match="birth dates"):
        purge.select_patient_files(bench.engine, PatientQuery(IDENTIFIER, ISSUER))
    assert purge.select_patient_files(bench.engine, PatientQuery(IDENTIFIER, ISSUER, "20210203")) == [first]
    assert purge.select_patient_files(bench.engine, PatientQuery("PAT-471")) == []
    assert purge.select_patient_files(bench.engine, PatientQuery("PAT-%")) == []
    assert len(purge.select_study_files(bench.engine, "1.2.826.4711")) == 3
    bench.assess(b"d.dcm", b"d", **who(patient_id="PAT-1"))
    with pytest.raises(UsageError, match="2 patients"):
        purge.select_study_files(bench.engine, "1.2.826.4711")


def test_age_counts_from_the_last_result_and_spares_what_waits(bench: LedgerBench) -> None:
    bench.wait(-100 * 86_400)
    old = bench.assess(b"old.dcm", b"old")
    again = bench.assess(b"again.dcm", b"again")
    gone = bench.see(b"gone.dcm").file_id
    bench.ledger.record_absent(bench.root_id, [b"gone.dcm"])
    bench.ledger.requeue([again], "again", states=[FileState.DONE])
    bench.wait(100 * 86_400)
    bench.assess(b"new.dcm", b"new")
    assert purge.select_old_files(bench.engine, 99) == [old, gone]
    assert purge.select_old_files(bench.engine, 101) == []
    forget_films(bench, [old, gone])
    assert purge.select_old_files(bench.engine, 99) == []


# --------------------------------------------------------------------------- access


def test_a_patient_gets_everything_that_is_held(filled: Filled) -> None:
    films = purge.select_patient_files(filled.engine, PERSON)
    record = json.loads(
        patient_export.format_exported_data(patient_export.export_patient_data(filled.engine, ACTOR, films))
    )
    assert [film["id"] for film in record["films"]] == films
    first, second, refused = record["films"]
    assert second["patient_name"] == NAME
    assert second["readings"][0]["comment"] == f"{NAME} is better"
    assert second["readings"][0]["who"] == second["viewings"][0]["who"] == second["listings"][0]["who"] == "ada"
    assert second["readings"][0]["findings"][0]["presence"] == "present"
    assert second["assessments"][0]["findings"][0]["answer"] == "flagged"
    assert second["assessments"][0]["bundle"] == "films/1"
    assert refused["code"] == "view"
    assert [event["action"] for event in second["audit"]] == ["view", "reading", "export_patient"]
    assert first["transitions"]
    # nothing that a table holds of a film is missing
    held = {column.name for column in metadata.tables["file"].columns}
    assert held <= set(first)
    assert second["study_header"]["header"]["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": NAME}]}
    assert second["study_header"]["left_out"] == []
    assert "Else^Some" not in patient_export.format_exported_data(record)
