"""The database keeps its promises: pragmas, schema versions, unsuitable places, retries, outages."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, event, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from preread.core.errors import DatabaseAway, DatabaseUnsuitable, SchemaOutdated, SchemaTooNew, SettingsError
from preread.db import migrate, schema
from preread.db.engine import MAX_TRIES, database_now, open_engine, read, sqlite_path, write


def no_pause(_seconds: float) -> None:
    """Stand in for ``time.sleep``."""


def test_checks_of_the_tables_are_in_the_migrations_too(engine: Engine) -> None:
    # alembic does not compare CHECK constraints
    with engine.begin() as connection:
        assessment_id = _any_assessment(connection)
    columns = {"assessment_id": assessment_id, "finding": "pneumonia", "position": 0, "logit": 0.0}
    with engine.begin() as connection, pytest.raises(IntegrityError, match="ck_finding_answer_known"):
        connection.execute(schema.finding.insert(), {**columns, "probability": 0.5, "prevalence": 0.5, "answer": "ill"})


def _any_assessment(connection: Connection) -> int:
    now = database_now(connection)
    bundle = {"name": "b", "version": "1", "digest": "d", "manifest": "{}", "registered_at": now}
    instance = {"sha256": "s", "size_bytes": 1, "format": "PNG", "first_read_at": now}
    assessment = {"decoder": "", "pixel_caveats": "[]", "activation_map": b"", "activation_map_shape": "0"}
    keys = {
        "bundle_id": connection.execute(schema.bundle.insert().returning(schema.bundle.c.id), bundle).scalar_one(),
        "instance_id": connection.execute(
            schema.instance.insert().returning(schema.instance.c.id), instance
        ).scalar_one(),
    }
    statement = schema.assessment.insert().returning(schema.assessment.c.id)
    return connection.execute(statement, {**assessment, **keys, "assessed_at": now}).scalar_one()


def test_migrations_are_one_line_without_branches() -> None:
    scripts = ScriptDirectory.from_config(migrate._config())
    assert len(scripts.get_heads()) == 1
    # told by the files' names, so that no command needs alembic to look at the schema
    assert migrate._revisions() == [script.revision for script in scripts.walk_revisions()]


def test_upgrade_from_nothing_and_twice(empty_database_url: str) -> None:
    engine = open_engine(empty_database_url)
    with pytest.raises(SchemaOutdated):
        migrate.check_schema(engine)
    migrate.upgrade_schema(engine)
    migrate.upgrade_schema(engine)
    migrate.check_schema(engine)
    engine.dispose()


def test_a_database_of_a_newer_program_is_left_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaTooNew):
        migrate.check_schema(engine)
    with pytest.raises(SchemaTooNew):
        migrate.upgrade_schema(engine)


def test_an_existing_database_without_tables_is_outdated(empty_database_url: str) -> None:
    if empty_database_url.startswith("sqlite"):
        Path(empty_database_url.removeprefix("sqlite:///")).touch()
    engine = open_engine(empty_database_url)
    with pytest.raises(SchemaOutdated):
        migrate.check_schema(engine)
    with pytest.raises(SchemaOutdated):
        read(engine, lambda c: c.execute(schema.file.select()).all())
    engine.dispose()


def _upgrade(url: str) -> None:
    engine = open_engine(url)
    migrate.upgrade_schema(engine)
    engine.dispose()


def test_two_programs_may_upgrade_at_once(empty_database_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_upgrade, args=(empty_database_url,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    engine = open_engine(empty_database_url)
    migrate.check_schema(engine)
    engine.dispose()


# ---------------------------------------------------------------------- SQLite


def test_sqlite_pragmas_read_back(migrated_sqlite: Path) -> None:
    engine = open_engine(f"sqlite:///{migrated_sqlite}")
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    engine.dispose()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


def test_sqlite_writes_begin_immediately_and_reads_do_not(migrated_sqlite: Path) -> None:
    engine = open_engine(f"sqlite:///{migrated_sqlite}")
    begun: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("BEGIN"):
            begun.append(statement)

    write(engine, lambda c, _: c.execute(schema.root.select()).all())
    read(engine, lambda c: c.execute(schema.root.select()).all())
    engine.dispose()
    assert begun == ["BEGIN IMMEDIATE", "BEGIN"]


def test_nothing_is_written_to_an_sqlite_file_that_was_deleted(migrated_sqlite: Path, tmp_path: Path) -> None:
    """An open file goes on taking what is written to it, and takes all of it along."""
    path, aside = tmp_path / "preread.db", tmp_path / "aside.db"
    shutil.copy(migrated_sqlite, path)
    engine = open_engine(f"sqlite:///{path}")
    insert = schema.bundle.insert()

    def add(name: str) -> None:
        def body(connection: Connection, _again: bool) -> None:
            row = {"name": name, "version": "1", "digest": name, "manifest": "{}"}
            connection.execute(insert, {**row, "registered_at": database_now(connection)})

        write(engine, body, sleep=no_pause)

    def names() -> list[str]:
        return read(engine, lambda c: list(c.execute(select(schema.bundle.c.name)).scalars()))

    add("before")
    path.rename(aside)
    with pytest.raises(DatabaseAway):
        add("away")
    with pytest.raises(DatabaseAway):
        names()
    assert not path.exists(), "none is made in its place"
    aside.rename(path)
    add("back")
    assert names() == ["before", "back"]
    for file in tmp_path.glob("preread.db*"):
        file.unlink()
    shutil.copy(migrated_sqlite, path)
    add("another")
    assert names() == ["another"]
    engine.dispose()


def test_a_new_sqlite_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "preread.db"
    engine = open_engine(f"sqlite:///{path}")
    migrate.upgrade_schema(engine)
    write(engine, lambda c, _: c.execute(schema.worker.select()).all())
    rights = {stat.S_IMODE(os.stat(one).st_mode) for one in tmp_path.iterdir()}
    engine.dispose()
    assert rights == {0o600}


def test_opening_a_mistyped_sqlite_path_creates_nothing(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'typo.db'}")
    with pytest.raises(SchemaOutdated, match="is its disk mounted"):
        migrate.check_schema(engine)
    with pytest.raises(DatabaseAway, match=r"typo\.db: is its disk mounted"):
        read(engine, database_now)
    engine.dispose()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["with space", "per%cent", "hash#mark", "quest?ion", "ümlaut"])
def test_sqlite_paths_with_odd_characters(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.db"
    engine = open_engine(f"sqlite:///{quote(str(path))}")
    migrate.upgrade_schema(engine)
    assert sqlite_path(engine) == path
    engine.dispose()
    assert path.exists()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x.db?uri=true"])
def test_sqlite_outside_a_plain_file_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUnsuitable):
        open_engine(url)


def test_sqlite_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preread.db.engine.file_system_type", lambda _path: "cifs")
    with pytest.raises(DatabaseUnsuitable, match=r"network file system \(cifs\)"):
        open_engine(f"sqlite:///{tmp_path / 'preread.db'}")


def test_sqlite_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'no' / 'preread.db'}")
    with pytest.raises(DatabaseUnsuitable, match=r"the folder .*/no for the database does not exist") as caught:
        migrate.upgrade_schema(engine)
    assert "Create that folder" in caught.value.hint


@pytest.mark.parametrize("kept_bytes", [None, 50, 4096, 20_000, -4096])
@pytest.mark.parametrize("action", [migrate.check_schema, migrate.upgrade_schema])
def test_a_foreign_or_truncated_sqlite_file_is_named_and_left_as_it_is(
    tmp_path: Path, migrated_sqlite: Path, kept_bytes: int | None, action: Callable[[Engine], None]
) -> None:
    path = tmp_path / "preread.db"
    content = b"# A readme, no database\n" * 100 if kept_bytes is None else migrated_sqlite.read_bytes()[:kept_bytes]
    path.write_bytes(content)
    engine = open_engine(f"sqlite:///{path}")
    with pytest.raises(DatabaseUnsuitable, match=r"preread\.db is not an SQLite database, or is damaged") as caught:
        action(engine)
    engine.dispose()
    assert "backup" in caught.value.hint
    assert path.read_bytes() == content


def test_a_database_that_is_damaged_further_in_is_named_by_reads_and_writes(
    tmp_path: Path, migrated_sqlite: Path
) -> None:
    path = tmp_path / "preread.db"
    content = migrated_sqlite.read_bytes()
    page = int.from_bytes(content[16:18], "big")
    # the table of the schema and its version stay whole: the fault shows only when a film's row is wanted
    engine = open_engine(f"sqlite:///{migrated_sqlite}")
    number = read(
        engine, lambda c: int(c.execute(text("SELECT rootpage FROM sqlite_master WHERE name = 'root'")).scalar_one())
    )
    engine.dispose()
    path.write_bytes(content[: (number - 1) * page] + b"\xff" * page + content[number * page :])
    engine = open_engine(f"sqlite:///{path}")
    migrate.check_schema(engine)
    with pytest.raises(DatabaseUnsuitable, match="damaged"):
        read(engine, lambda c: c.execute(text("SELECT * FROM root")).all())
    with pytest.raises(DatabaseUnsuitable, match="damaged"):
        write(engine, lambda c, _: c.execute(text("DELETE FROM root")), sleep=no_pause)
    engine.dispose()


@pytest.mark.parametrize("action", [migrate.check_schema, migrate.upgrade_schema])
def test_a_folder_in_place_of_the_sqlite_file(tmp_path: Path, action: Callable[[Engine], None]) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}")
    with pytest.raises(DatabaseUnsuitable, match="is a folder, not a database file") as caught:
        action(engine)
    engine.dispose()
    assert str(tmp_path) in str(caught.value)
    assert "Name a file in that folder" in caught.value.hint


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("action", ["check_schema", "upgrade_schema"])
def test_an_sqlite_file_in_a_folder_that_may_not_be_written(
    tmp_path: Path, migrated_sqlite: Path, there: bool, action: str
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    if there:
        shutil.copy(migrated_sqlite, folder / "preread.db")
    folder.chmod(0o555)
    try:
        said = _said_by_a_user_without_privileges(action, folder / "preread.db")
    finally:
        folder.chmod(0o755)
    assert said[0] == "DatabaseUnsuitable"
    assert said[1] == f"{folder} cannot be written"
    assert "right to write" in said[2]


def _said_by_a_user_without_privileges(action: str, path: Path) -> list[str]:
    """Class, message and hint of what ``store``'s function raises where root's privileges do not open every door."""
    program = f"""
import ctypes
# root may write everywhere: give up all capabilities (capset, version 3)
ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
from preread.db import migrate
from preread.db.engine import open_engine
engine = open_engine({f"sqlite:///{path}"!r})
try:
    migrate.{action}(engine)
except Exception as error:
    print(type(error).__name__, error, getattr(error, "hint", ""), sep="\\n")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return ran.stdout.splitlines()


@pytest.mark.parametrize("url", ["preread.db", "mysql://u:secret@h/d", "postgres//u:secret@h", ""])
def test_what_is_no_database_url_is_named_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_engine(url)
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------------- retries


def test_a_passing_failure_is_tried_again_and_told_so(engine: Engine) -> None:
    seen: list[bool] = []

    def body(connection: Connection, again: bool) -> str:
        seen.append(again)
        if len(seen) < 3:
            raise OperationalError("statement", {}, Exception("it faltered"))
        return "done"

    assert write(engine, body, sleep=no_pause) == "done"
    assert seen == [False, True, True]


def test_a_lasting_failure_ends_as_database_away(engine: Engine) -> None:
    tries: list[bool] = []

    def body(connection: Connection, again: bool) -> None:
        tries.append(again)
        raise OperationalError("statement", {}, Exception("it is gone\nwith details"))

    with pytest.raises(DatabaseAway, match=r"^the database does not answer: it is gone$"):
        write(engine, body, sleep=no_pause)
    assert len(tries) == MAX_TRIES


def test_a_wrong_statement_is_no_outage(engine: Engine) -> None:
    tries: list[bool] = []

    def body(connection: Connection, again: bool) -> None:
        tries.append(again)
        connection.execute(schema.bundle.insert(), [{"name": "a", "version": "1", "digest": None}])

    with pytest.raises(Exception, match="digest"):
        write(engine, body, sleep=no_pause)
    assert len(tries) == 1


def test_a_statement_that_cannot_be_meant_is_no_outage(engine: Engine) -> None:
    with pytest.raises(DBAPIError):
        write(engine, lambda c, _: c.execute(text("SELEKT 1")), sleep=no_pause)
    with pytest.raises(DBAPIError):
        read(engine, lambda c: c.execute(text("SELECT max(max(id)) FROM root")))


def test_connections_killed_by_the_server_are_replaced(postgres_server: object, migrated_postgres: str) -> None:
    server = postgres_server
    name = server.create(migrated_postgres)  # type: ignore[attr-defined]
    engine = open_engine(server.url(name))  # type: ignore[attr-defined]
    killed: list[bool] = []

    def kill_others() -> None:
        with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:  # type: ignore[attr-defined]
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    def body(connection: Connection, again: bool) -> int:
        if not again:
            kill_others()
            killed.append(True)
        return int(connection.execute(text("SELECT count(*) FROM root")).scalar_one())

    assert write(engine, body, sleep=no_pause) == 0
    kill_others()
    assert read(engine, lambda c: c.execute(text("SELECT 1")).scalar_one()) == 1
    assert killed == [True]
    engine.dispose()
    server.drop(name)  # type: ignore[attr-defined]


def test_a_server_that_is_not_there_is_away(tmp_path: Path) -> None:
    engine = open_engine(f"postgresql://preread@/preread?host={tmp_path}")
    with pytest.raises(DatabaseAway):
        read(engine, database_now)
    with pytest.raises(DatabaseAway):
        write(engine, lambda c, _: database_now(c), sleep=no_pause)
    engine.dispose()


def test_the_database_clock_is_utc(engine: Engine) -> None:
    now = read(engine, database_now)
    assert now.utcoffset() is not None
    assert str(now.tzinfo) == "UTC"


def test_times_without_an_offset_never_reach_the_database() -> None:
    from datetime import datetime

    from sqlalchemy.dialects import sqlite

    with pytest.raises(ValueError, match="offset"):
        schema.UtcDateTime().process_bind_param(datetime(2026, 1, 1), sqlite.dialect())  # noqa: DTZ001
