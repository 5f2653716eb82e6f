"""A whole database moved between SQLite and Postgres, both ways: every row is there, equal, or nothing is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    CheckConstraint,
    Connection,
    Engine,
    Table,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
    update,
)

from preread.admin import purge, purge_journal, transfer
from preread.admin.purge import PatientQuery
from preread.cli import main
from preread.core.errors import (
    AuditBroken,
    AuditKeyMissing,
    DatabaseAway,
    DatabaseFull,
    DatabaseReadOnly,
    DatabaseUnsuitable,
    EnvironmentFault,
    SchemaOutdated,
    UpgradeFailed,
    UsageError,
)
from preread.core.types import Answer, Finding, Identity, Population, Presence, RefusalCode, Role, Verdict
from preread.db import audit_key, migrate, schema
from preread.db.engine import database_now, open_engine, read, sqlite_path, write
from preread.ledger.ledger import Ledger
from preread.ledger.records import ContentAssessment, FileFacts, Observation
from preread.review import audit, audit_proof, results, reviews
from preread.review.audit import Action
from preread.review.auth import accounts
from preread.review.history import load_result
from tests.programs import ledger_rows
from tests.support.outcomes import commit_assessed, commit_refused
from tests.support.paths import REPOSITORY
from tests.support.postgres import PostgresServer

IMAGES = 1_000  # several thousand rows: more than two batches of the largest table


@pytest.fixture
def elsewhere(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty place of the other kind."""
    if database_kind == "postgres":
        yield f"sqlite:///{tmp_path / 'moved.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create()
    yield server.url(name)
    server.drop(name)


def images(engine: Engine, count: int, start: int = 0) -> None:
    """Have images read, half of them with a finding; each has a patient of its own."""
    ledger = Ledger(engine, worker_id="one", lease_s=3600)
    root_id = ledger.register_root(b"/srv/inbox")
    bundle_id = ledger.register_bundle(name="films", version="1", digest="d" * 64)
    for first in range(start, start + count, 250):
        numbers = range(first, min(first + 250, start + count))
        seen = ledger.observe(root_id, [Observation(b"%d\xff.dcm" % number, 10, number) for number in numbers])
        ledger.settle(seen.values())
        for claim in ledger.claim([root_id], len(numbers)):
            number = claim.mtime_ns
            name = Identity(patient_id=f"P{number}", patient_name=f"Ünal^{number} \U0001f9d2")
            facts = FileFacts(f"{number:064x}", name, "DICOM", None, 10, 12, Population.UNDECLARED, (), 0.1 * number)
            if number % 2:
                assert commit_refused(ledger, claim, facts, bundle_id, RefusalCode.VIEW, "lateral\\N\t")
                continue
            finding = Finding("pneumonia", 0.1 * number, 1 / (number + 3), 1e-300, Answer.FLAGGED)
            map_ = np.full((2, 2), number, np.float32)
            assert commit_assessed(ledger, claim, facts, bundle_id, ContentAssessment((finding,), (), "numpy", map_))


def review(engine: Engine, count: int) -> None:
    """Have readers sign some of what stands there."""
    if "ada" not in {one.name for one in accounts.list_accounts(engine)}:
        accounts.add_account(
            engine, "uid:0", accounts.NewAccount("ada", "Dr Ada", Role.READER, "correct horse battery staple 9")
        )
    reader = accounts.find_account(engine, "ada")
    for row in results.query_results(engine)[:count]:
        detail = load_result(engine, row.result_id)
        assert detail is not None
        shown = reviews.ShownResult(detail.row.outcome, detail.row.code, detail.assessment_id)
        reviews.record_viewing(engine, reader, row.result_id, shown, answer_visible=True)
        findings = {"pneumonia": Presence.PRESENT} if detail.assessment_id else {}
        draft = reviews.ReviewDraft(
            row.result_id, shown, Verdict.ACCEPTED, f"form-token-{row.result_id:010}", findings, "ja \n"
        )
        reviews.sign_review(engine, reader, draft)


def fill_what_is_empty(engine: Engine) -> None:
    """Give a row to every table that has none yet, whichever tables there are."""

    def body(connection: Connection, _again: bool) -> None:
        for table in schema.metadata.sorted_tables:
            if not connection.execute(select(func.count()).select_from(table)).scalar_one():
                connection.execute(insert(table), [made_up(connection, table, number) for number in range(2)])

    write(engine, body)


def made_up(connection: Connection, table: Table, number: int) -> dict[str, Any]:
    allowed = {}
    for constraint in table.constraints:
        if isinstance(constraint, CheckConstraint) and (
            found := re.match(r"(\w+) IN \('(\w+)'", str(constraint.sqltext))
        ):
            allowed[found[1]] = found[2]
    row: dict[str, Any] = {}
    for column in table.columns:
        if column.foreign_keys:
            other = next(iter(column.foreign_keys)).column
            row[column.name] = connection.execute(select(other).order_by(other.desc()).limit(1).offset(number)).scalar()
            if row[column.name] is None:
                row[column.name] = connection.execute(select(other).limit(1)).scalar_one()
        elif column.name in allowed:
            row[column.name] = allowed[column.name]
        elif isinstance(column.type, schema.UtcDateTime):
            row[column.name] = datetime(2024, 2, 29, 23, 59, 59, 999_999, UTC) + timedelta(days=number)
        elif column.type.python_type is bool:
            row[column.name] = bool(number)
        elif column.type.python_type is bytes:
            row[column.name] = bytes(range(256)) + bytes([number])
        elif column.type.python_type is str:
            row[column.name] = f"ü{number}"
        else:
            row[column.name] = column.type.python_type(2**31 + number if column.name.endswith("id") else number)
    return row


def contents(engine: Engine) -> dict[str, list[str]]:
    """Every row as text, of every table that the database itself has; compared without the code under test."""
    found = {}
    with engine.connect() as connection:
        for name in sorted(set(inspect(connection).get_table_names()) - {"alembic_version"}):
            rows = connection.execute(select(schema.metadata.tables[name])).all()
            found[name] = sorted(
                str([value.isoformat() if isinstance(value, datetime) else value for value in row]) for row in rows
            )
    return found


def test_every_row_of_every_table_goes_and_work_goes_on(engine: Engine, elsewhere: str, tmp_path: Path) -> None:
    ledger_rows.fill(engine)
    images(engine, IMAGES)
    review(engine, 30)
    request = purge.PurgeRequest(
        "uid:0", "purged: its patient", readings=True, journal=tmp_path / "forgotten", preview_dir=None
    )
    purge.purge_files(engine, request, purge.select_patient_files(engine, PatientQuery("P7")))
    Ledger(engine, worker_id="one", lease_s=60).mark_worker_stopped()
    Ledger(engine, worker_id="worker of film", lease_s=60).mark_worker_stopped()
    fill_what_is_empty(engine)
    before = contents(engine)
    assert set(before) == set(schema.metadata.tables)
    assert all(before.values()), "each table's types are tried"
    target = open_engine(elsewhere)
    moved = transfer.copy_database(engine, target)
    assert contents(engine) == before
    assert contents(target) == before
    assert {one.table: one.rows for one in moved.tables} == {name: len(rows) for name, rows in before.items()}
    keys = audit_key.keyring_of(engine)
    assert audit.verify_audit_chain(target, keys=keys).head == audit.verify_audit_chain(engine).head == moved.head
    migrate.check_schema(target, exactly=True)
    # numbers go on behind those that are taken, what was purged is known, what is signed cannot be changed
    key = [row.id for row in read(target, lambda c: c.execute(select(schema.file.c.id)).all())]
    images(target, 2, IMAGES)
    images(target, 1, 7)
    assert not purge.select_patient_files(target, PatientQuery("P7"))
    newest = read(target, lambda c: c.execute(select(func.max(schema.file.c.id))).scalar_one())
    assert newest == max(key) + 2
    audit_row = write(target, lambda c, _: audit.append_entry(c, "uid:0", Action.SEARCH, "film:1"))
    assert audit_row is None
    assert audit.verify_audit_chain(target, keys=keys if keys.keys() else None).head.rows >= moved.head.rows + 1
    with pytest.raises(Exception, match="append-only"), target.begin() as connection:
        connection.execute(text("UPDATE reading SET comment = ''"))
    target.dispose()


def test_there_and_back_is_what_it_was(engine: Engine, elsewhere: str, tmp_path: Path) -> None:
    images(engine, 20)
    review(engine, 3)
    Ledger(engine, worker_id="one", lease_s=60).mark_worker_stopped()
    before = contents(engine)
    target = open_engine(elsewhere)
    first = transfer.copy_database(engine, target)
    if engine.dialect.name == "sqlite":
        again = open_engine(f"sqlite:///{tmp_path / 'back.db'}")
        with pytest.raises(AuditKeyMissing):
            transfer.copy_database(target, again)
        audit_key.attach_keyring(target, audit_key.keyring_of(engine).path)
        there = transfer.copy_database(target, again)
        assert (there.tables, there.head) == (first.tables, first.head)
        assert audit_proof.verify_audited_rows(again).faults == []
        assert contents(again) == before
        assert os.stat(tmp_path / "back.db").st_mode & 0o077 == 0
        again.dispose()
    target.dispose()


# --------------------------------------------------------------------------- what does not go


def nothing_in(url: str) -> bool:
    engine = open_engine(url)
    try:
        if (path := sqlite_path(engine)) is not None:
            return not [one for one in path.parent.iterdir() if one.name.startswith(("moved", ".moved"))]
        with engine.connect() as connection:
            functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'preread%'"
            return not inspect(connection).get_table_names() and connection.execute(text(functions)).scalar_one() == 0
    finally:
        engine.dispose()


@pytest.fixture
def ended(engine: Engine) -> Engine:
    """A database whose worker has stopped."""
    ledger_rows.fill(engine)
    Ledger(engine, worker_id="worker of film", lease_s=60).mark_worker_stopped()
    return engine


def moving(engine: Engine, url: str, opened: Callable[[str], Engine] = open_engine) -> None:
    target = opened(url)
    try:
        transfer.copy_database(engine, target)
    finally:
        target.dispose()


def test_a_worker_at_work_is_not_moved_from_under(engine: Engine, elsewhere: str) -> None:
    ledger = Ledger(engine, worker_id="one", lease_s=60)
    ledger.heartbeat()
    with pytest.raises(UsageError, match="run on this database"):
        moving(engine, elsewhere)
    assert nothing_in(elsewhere)
    worker = schema.worker
    # one of another host that wrote a minute ago may live; after two minutes it counts as killed
    for silent_s, lives in ((60, True), (180, False)):
        with engine.begin() as connection:
            beat = database_now(connection) - timedelta(seconds=silent_s)
            connection.execute(update(worker).values(host="elsewhere boot pid", heartbeat_at=beat))
        if lives:
            with pytest.raises(UsageError, match="one on elsewhere with process id"):
                moving(engine, elsewhere)
        else:
            moving(engine, elsewhere)


def test_a_place_that_is_not_empty_is_left_alone(
    ended: Engine, database_url: str, elsewhere: str, tmp_path: Path
) -> None:
    for same in (database_url, database_url.replace(str(tmp_path), f"{tmp_path}/../{tmp_path.name}")):
        with pytest.raises(UsageError, match="same database"):
            moving(ended, same)
    moving(ended, elsewhere)
    with pytest.raises(DatabaseUnsuitable, match=r"not empty|exists"):
        moving(ended, elsewhere)
    target = open_engine(elsewhere)
    assert contents(target) == contents(ended)
    target.dispose()


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_other_people_s_tables_are_not_empty(ended: Engine, elsewhere: str) -> None:
    target = open_engine(elsewhere)
    with target.begin() as connection:
        connection.execute(text("CREATE TABLE theirs (id int)"))
    target.dispose()
    with pytest.raises(DatabaseUnsuitable, match="not empty"):
        moving(ended, elsewhere)


def test_a_target_that_is_away_or_takes_nothing_is_named(
    ended: Engine, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    before = contents(ended)
    for url, error in (
        ("postgresql://preread@/preread?host=/nowhere", DatabaseAway),
        (f"sqlite:///{tmp_path}/no/such/folder/moved.db", EnvironmentFault),
        (f"sqlite:///{tmp_path}", DatabaseUnsuitable),
        ("sqlite:////proc/moved.db", EnvironmentFault),
    ):
        with pytest.raises(error):
            moving(ended, url)
    read_only = postgres_server.create()
    postgres_server.execute(f"ALTER DATABASE {read_only} SET default_transaction_read_only = on")
    with pytest.raises(DatabaseReadOnly):
        moving(ended, postgres_server.url(read_only))
    postgres_server.drop(read_only)
    assert contents(ended) == before


def test_a_disk_that_fills_leaves_nothing(ended: Engine, elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Late: when nearly all of it has been copied."""
    images(ended, 50)
    Ledger(ended, worker_id="one", lease_s=60).mark_worker_stopped()
    before, opened = contents(ended), open_engine

    def full(url: str, key_file: Path | None = None) -> Engine:
        engine = opened(url, key_file)

        @event.listens_for(engine, "before_cursor_execute")
        def _fill(_connection: Any, cursor: Any, statement: str, *_more: Any) -> None:
            if not statement.startswith("INSERT INTO transition"):
                return
            if engine.dialect.name == "sqlite":
                pages = cursor.execute("PRAGMA page_count").fetchone()[0]
                cursor.execute(f"PRAGMA max_page_count = {pages}")
            else:
                cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = '53100'; END $$")

        return engine

    monkeypatch.setattr("preread.db.engine.open_engine", full)
    monkeypatch.setattr(transfer, "open_engine", full)
    monkeypatch.setattr("preread.db.engine.MAX_TRIES", 2)
    with pytest.raises(DatabaseFull):
        moving(ended, elsewhere, full)
    monkeypatch.undo()
    assert nothing_in(elsewhere)
    assert contents(ended) == before
    moving(ended, elsewhere)


def test_what_arrives_otherwise_than_it_was_sent_is_taken_back(
    ended: Engine, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = transfer._set_sequences

    def spoilt(connection: Connection) -> None:
        copied(connection)
        connection.execute(text("UPDATE file SET patient_name = patient_name || '.' WHERE patient_name IS NOT NULL"))

    monkeypatch.setattr(transfer, "_set_sequences", spoilt)
    with pytest.raises(UpgradeFailed, match="the table file differs"):
        moving(ended, elsewhere)
    assert nothing_in(elsewhere)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("value", ["a\x00b", "x" * 65])
def test_what_the_other_database_cannot_keep_is_named_without_the_value(
    ended: Engine, elsewhere: str, value: str
) -> None:
    """SQLite keeps any length, and a NUL; Postgres neither."""
    with ended.begin() as connection:
        connection.execute(update(schema.file).values(code=value))
    with pytest.raises(DatabaseUnsuitable, match=r"a row of file \(") as refused:
        moving(ended, elsewhere)
    assert value not in str(refused.value)
    assert nothing_in(elsewhere)


def test_a_trail_that_is_broken_is_not_moved(ended: Engine, elsewhere: str) -> None:
    with ended.begin() as connection:
        if ended.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE audit DISABLE TRIGGER ALL"))
        else:
            for (name,) in connection.execute(
                text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit'")
            ).all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(text("UPDATE audit SET actor = 'uid:7' WHERE id = 1"))
    with pytest.raises(AuditBroken):
        moving(ended, elsewhere)
    assert nothing_in(elsewhere)


def test_an_older_schema_is_upgraded_first(engine: Engine, elsewhere: str) -> None:
    migrate.downgrade_schema(engine)
    with pytest.raises(SchemaOutdated):
        moving(engine, elsewhere)
    assert nothing_in(elsewhere)


def test_nobody_writes_behind_the_copy(ended: Engine, elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that was forgotten waits, and what it would have written is not lost without a word."""
    other = open_engine(ended.url.render_as_string(hide_password=False)) if ended.dialect.name != "sqlite" else None
    tried: list[str] = []

    def meanwhile() -> None:
        if tried:
            return
        try:
            if other is None:
                program = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('DELETE FROM session')"
                path = str(sqlite_path(ended))
                subprocess.run([sys.executable, "-c", program, path], check=True, capture_output=True)
            else:
                with other.begin() as connection:
                    connection.execute(text("SET LOCAL lock_timeout = '50ms'"))
                    connection.execute(text("DELETE FROM session"))
        except Exception as error:  # noqa: BLE001  whichever the driver has for it
            tried.append(str(getattr(error, "stderr", b"") or error))

    target = open_engine(elsewhere)
    transfer.copy_database(ended, target, meanwhile)
    assert len(tried) == 1
    assert "lock" in tried[0]
    target.dispose()
    if other is not None:
        other.dispose()


@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
def test_a_move_that_is_killed_leaves_nothing_under_the_name(ended: Engine, database_url: str, tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom preread.db.engine import open_engine\nfrom preread.admin import transfer\n"
        "transfer._set_sequences = lambda connection: os.kill(os.getpid(), 9)\n"
        "transfer.copy_database(open_engine(sys.argv[1]), open_engine(sys.argv[2]))\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, database_url, f"sqlite:///{tmp_path / 'moved.db'}"],
        check=False, capture_output=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "moved.db").exists()
    moving(ended, f"sqlite:///{tmp_path / 'moved.db'}")


# --------------------------------------------------------------------------- the command


def test_the_command_says_what_was_moved_and_what_to_write_into_the_settings(
    ended: Engine, database_url: str, elsewhere: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREREAD_DATABASE_URL", database_url)
    audit_proof.accept_unproven_rows(ended, "uid:0")
    assert main(["db", "move", elsewhere]) == 0
    said = capsys.readouterr()
    for table in schema.metadata.tables:
        assert re.search(rf"^ ?{table} +\d+ +[0-9a-f]{{16}}", said.out, re.MULTILINE), table
    assert str(audit.read_audit_head(ended)) in said.err
    lines = [line for line in said.out.splitlines() if " = " in line]
    settings = dict(line.split(" = ") for line in lines)
    assert make_url(json.loads(settings["database_url"])) == make_url(elsewhere)
    if ended.dialect.name == "sqlite":
        path = tmp_path / "preread.db"
        assert {name: json.loads(value) for name, value in settings.items() if name != "database_url"} == {
            "preview_dir": f"{path}-previews", "bundle_dir": f"{path}-bundles", "forgotten_file": f"{path}-forgotten",
            "audit_key_file": f"{path}-audit-key",
        }  # fmt: skip
    assert main(["db", "move", elsewhere]) == 2
    assert main(["db", "move", database_url]) == 2
    for wrong in ("postgresql://preread:geheim@server/preread", "mysql://server/preread", "no URL"):
        assert main(["db", "move", wrong]) == 2
        assert "geheim" not in capsys.readouterr().err
    (tmp_path / "preread.toml").write_text("\n".join(line for line in lines))
    monkeypatch.delenv("PREREAD_DATABASE_URL")
    assert main(["db", "check"]) == 0
    assert main(["audit", "verify"]) == 0


def test_what_was_purged_stays_away_after_a_move_too(
    ended: Engine, database_url: str, elsewhere: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    postgres_programs: None, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The key goes along, so that the file of hashes still belongs to the database."""
    monkeypatch.chdir(tmp_path)
    journal = tmp_path / "preread.db-forgotten"
    purged = purge.select_patient_files(ended, PatientQuery("P1"))
    assert purged
    purge.purge_files(ended, purge.PurgeRequest("uid:0", "purged", True, journal, None), purged)
    moving(ended, elsewhere)
    target = open_engine(elsewhere)
    purge.prepare_purge_journal(target, journal)
    assert purge.replay_purges(target, "uid:0", journal, None).films == 0
    key = read(target, lambda c: c.execute(text("SELECT value FROM secret WHERE name = 'forgotten'")).scalar_one())
    assert key == purge_journal.read_journal_key(journal)
    target.dispose()


@given(st.binary(max_size=80), st.floats(allow_nan=False), st.datetimes(timezones=st.just(UTC)))
def test_a_value_is_the_same_whichever_driver_brings_it(data: bytes, number: float, at: datetime) -> None:
    east = at.astimezone(UTC) if at.year in {1, 9999} else (at + timedelta(0)).astimezone()
    assert transfer.canonical_value(memoryview(data)) == transfer.canonical_value(bytearray(data)) == data
    assert transfer.canonical_value(at) == transfer.canonical_value(east)
    assert transfer.canonical_value(number) == number


def test_the_digest_sees_every_change_and_no_order() -> None:
    table = schema.metadata.tables["secret"]

    def digest(*rows: tuple[str, str]) -> transfer.TableContent:
        adding = transfer._TableDigest(table)
        for name, value in rows:
            adding.add([{"name": name, "value": value}])  # type: ignore[list-item]
        return adding.sum()

    whole = digest(("a", "1"), ("b", "2"))
    assert whole == digest(("b", "2"), ("a", "1"))
    for other in (
        [("a", "2"), ("b", "1")],
        [("a", "1")],
        [("a", "1"), ("b", "2"), ("b", "2")],
        [("a", "1b"), ("", "2")],
    ):
        assert digest(*other) != whole
