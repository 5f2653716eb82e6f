"""A backup of the database as one file, taken while workers write, checked before it gets its name; and the way back.

SQLite: its online backup interface, in one step. Postgres: ``pg_dump`` in the custom format, and ``pg_restore``. Both
hold one moment of the database: rows are counted in the transaction that is copied, and again in the file.

Films are no part of a backup, nor are previews: those are files that never change, and can be drawn again.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote

from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Engine, func, inspect, select, table, text

from preread.core.errors import BackupDamaged, DatabaseUnsuitable, EnvironmentFault, PrereadError, UsageError
from preread.db import audit_key, migrate
from preread.db.engine import database_now, open_engine, read, refuse_place, sqlite_path, write
from preread.db.review_schema import secret
from preread.ledger import claims
from preread.ledger.tombstones import KEY_NAME

_FILE_MODE = 0o600  # patient data: nobody but the owner reads it
_SQLITE, _POSTGRES = b"SQLite format 3\0", b"PGDMP"
_LOCK_WAIT_MS = 60_000
_COPY = re.compile(rb'^COPY (?:"?\w+"?\.)?"?(\w+)"? .*FROM stdin;$')
_REVISIONS = "alembic_version"
_NOT_EMPTY = "Name a database that holds nothing (PREREAD_DATABASE_URL), or move aside what is there."


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds.

    Attributes:
        kind: ``sqlite`` or ``postgresql``.
        revision: its schema's.
        rows: how many each table has.
        purge_key: of what was purged, by which its journal is known; ``None`` before the first purge.
    """

    kind: str
    revision: str
    rows: dict[str, int]
    size_bytes: int
    purge_key: str | None = field(default=None, repr=False)


def back_up(engine: Engine, target: Path, *, replace: bool = False) -> Backup:
    """Write a backup: whole and checked under its name, or not at all. Workers go on meanwhile.

    Args:
        replace: an older file of this name makes way once the new one is checked.

    Raises:
        BackupDamaged: what was written is not what was read.
        DatabaseAway, DatabaseUnsuitable, SchemaOutdated: the database cannot be read.
        EnvironmentFault: the file cannot be written, or ``pg_dump`` is missing or fails.
        UsageError: there is a file of this name.
    """
    target = Path(os.path.abspath(target))
    if os.path.lexists(target) and not replace:
        raise UsageError(f"{target} is there already: name another file, or say --replace")
    with _unfinished(target) as part:
        rows = read(engine, lambda connection: _copy(connection, part))
        made = look_into(part)
        if not rows.items() <= made.rows.items():
            raise BackupDamaged("the backup does not hold the rows that were read; it was not kept")
        _sync(part)
        os.replace(part, target)
        _sync(target.parent)
    return made


def look_into(file: Path) -> Backup:
    """Check a backup from its first byte to its last, and say what it holds.

    Raises:
        BackupDamaged: it is none, or not whole.
        EnvironmentFault: it cannot be read, or ``pg_restore`` is missing.
    """
    try:
        with open(file, "rb") as stream:
            head = stream.read(16)
        size_bytes = os.path.getsize(file)
    except OSError as error:
        raise EnvironmentFault(f"the backup {file} cannot be read: {error.strerror}") from error
    if head == _SQLITE:
        kind, (revision, rows, purge_key) = "sqlite", _look_into_sqlite(file)
    elif head.startswith(_POSTGRES):
        kind, (revision, rows, purge_key) = "postgresql", _look_into_dump(file)
    else:
        raise BackupDamaged(f"{file} is no backup of Preread's")
    if revision is None:
        raise BackupDamaged(f"{file} holds no database of Preread's")
    return Backup(kind, revision, rows, size_bytes, purge_key)


def restore(
    engine: Engine,
    file: Path,
    prepare: Callable[[Engine], None] = lambda _: None,
    admit: Callable[[Backup], None] = lambda _: None,
) -> Backup:
    """Put a backup into an empty place: an SQLite path where nothing lies, a Postgres database without tables.

    Args:
        prepare: what to do with the restored database before any program may use it: on SQLite before it gets its
            name, on Postgres while a table says that it is not finished.
        admit: raises where this backup may not be restored; called before anything is changed.

    Raises:
        BackupDamaged: it is not whole, or of the other kind of database.
        DatabaseUnsuitable: the place is not empty, or is none.
        DatabaseAway: the Postgres server does not answer.
        EnvironmentFault: the backup cannot be read, ``pg_restore`` is missing or fails, or the disk is full.
    """
    found = look_into(file)
    path = sqlite_path(engine)
    here = "sqlite" if path is not None else "postgresql"
    if found.kind != here:
        raise BackupDamaged(f"{file} is a backup of {found.kind}, and PREREAD_DATABASE_URL names {here}")
    admit(found)
    if path is not None:
        _restore_file(path, file, found, prepare, audit_key.of(engine).path)
        return found
    if tables := read(engine, lambda connection: len(inspect(connection).get_table_names())):
        raise DatabaseUnsuitable(f"the database is not empty: it holds {tables} tables", _NOT_EMPTY)
    into, environment = _connection_of(engine)
    options = ("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", f"--dbname={into}")
    migrate.set_unfinished(engine, "a restore")
    try:
        with _program("pg_restore", *options, os.fspath(file), environment=environment):
            pass
    except PrereadError:
        migrate.set_unfinished(engine, None)  # one transaction: the database is empty again
        raise
    _compare(engine, found)
    prepare(engine)
    migrate.set_unfinished(engine, None)
    return found


def release(engine: Engine) -> None:
    """Let nobody of the moment of the backup be at work: its workers have ended, their claims are free, nobody is in.

    The schema must be this program's.
    """

    def body(connection: Connection, _again: bool) -> None:
        now = database_now(connection)
        connection.execute(text("UPDATE worker SET stopped_at = heartbeat_at WHERE stopped_at IS NULL"))
        connection.execute(text("DELETE FROM session"))
        claims.recover_interrupted(connection, now)

    write(engine, body)


def rows_of(connection: Connection) -> dict[str, int]:
    """Count the rows of every table."""
    names = sorted(set(inspect(connection).get_table_names()) - {migrate.UNFINISHED})
    return {name: connection.execute(select(func.count()).select_from(table(name))).scalar_one() for name in names}


# ---------------------------------------------------------------------- SQLite


def _copy(connection: Connection, part: Path) -> dict[str, int]:
    if connection.dialect.name != "sqlite":
        return _dump(connection, part)
    rows = rows_of(connection)  # the transaction begins, and the copy is of what it sees
    source = connection.connection.driver_connection
    assert isinstance(source, sqlite3.Connection)
    try:
        with closing(sqlite3.connect(part, isolation_level=None)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")  # one file, which can be read where nothing can be written
    except sqlite3.Error as error:
        raise EnvironmentFault(f"the backup {part.parent} cannot be written: {error}") from error
    return rows


def _look_into_sqlite(file: Path) -> tuple[str | None, dict[str, int], str | None]:
    address = f"file:{quote(os.path.abspath(file))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            faults = connection.execute("PRAGMA integrity_check").fetchmany(1)
            strays = connection.execute("PRAGMA foreign_key_check").fetchmany(1)
            if faults != [("ok",)] or strays:
                raise BackupDamaged(f"{file} is damaged")
            names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
            tables = [str(name) for (name,) in connection.execute(names)]
            rows = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}  # noqa: S608
            revisions = connection.execute(f"SELECT version_num FROM {_REVISIONS}") if _REVISIONS in rows else ()  # noqa: S608
            revision = next((str(found) for (found,) in revisions), None)
            of_purges = "SELECT value FROM secret WHERE name = ?"
            keys = connection.execute(of_purges, (KEY_NAME,)) if secret.name in rows else ()
            purge_key = next((str(found) for (found,) in keys), None)
    except sqlite3.Error as error:
        raise BackupDamaged(f"{file} is damaged: {error}") from error
    return revision, rows, purge_key


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a name for a database that is to be made; under its own name it is there whole, or nothing is.

    Raises:
        DatabaseUnsuitable: something lies there already, or nothing can be kept there.
        EnvironmentFault: it cannot be written.
    """
    for ending in ("", "-wal", "-shm", "-journal"):
        if os.path.lexists(f"{path}{ending}"):
            raise DatabaseUnsuitable(f"{path}{ending} is there already", _NOT_EMPTY)
    refuse_place(path)
    with _unfinished(path) as part:
        yield part
        _sync(part)
        os.link(part, path)  # unlike a renaming it replaces nothing
        _sync(path.parent)


def _restore_file(
    path: Path, file: Path, found: Backup, prepare: Callable[[Engine], None], key_file: Path | None
) -> None:
    with new_file(path) as part:
        shutil.copyfile(file, part)
        copy = open_engine(f"sqlite:///{part}", key_file)
        try:
            _compare(copy, found)
            prepare(copy)
        finally:
            copy.dispose()  # the last connection takes the write-ahead log in and removes it


def _compare(engine: Engine, found: Backup) -> None:
    if not read(engine, rows_of).items() <= found.rows.items():
        raise BackupDamaged("the restored database does not hold the rows of its backup")


# ---------------------------------------------------------------------- Postgres


def _dump(connection: Connection, part: Path) -> dict[str, int]:
    connection = connection.execution_options(isolation_level="REPEATABLE READ")
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    snapshot = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
    rows = rows_of(connection)
    source, environment = _connection_of(connection.engine)
    # the fleet's queue is no truth: `preread backfill` makes it anew
    what = ("--format=custom", "--no-owner", "--no-privileges", "--exclude-schema=preread_fleet")
    how = (f"--snapshot={snapshot}", f"--lock-wait-timeout={_LOCK_WAIT_MS}", f"--file={part}", f"--dbname={source}")
    with _program("pg_dump", *what, *how, environment=environment):
        pass
    return rows


def _look_into_dump(file: Path) -> tuple[str | None, dict[str, int], str | None]:
    """Read every row of a dump, as ``pg_restore`` would write it: one row a line."""
    rows: dict[str, int] = {}
    revision = purge_key = None
    name: str | None = None
    with _program("pg_restore", "--data-only", "--file=-", os.fspath(file), failed=BackupDamaged) as lines:
        for line in lines:
            if name is None:
                if (begin := _COPY.match(line.rstrip())) is not None:
                    name = begin[1].decode()
                    rows[name] = 0
            elif line == b"\\.\n":
                name = None
            else:
                rows[name] += 1
                if name == _REVISIONS:
                    revision = line.decode().strip()
                elif name == secret.name and KEY_NAME in (cells := line.decode().strip().split("\t")):
                    purge_key = next(cell for cell in cells if cell != KEY_NAME)
    return revision, dict(sorted(rows.items())), purge_key


def _connection_of(engine: Engine) -> tuple[str, dict[str, str]]:
    """Return what libpq takes, and the environment that holds the password: other users see a program's arguments."""
    arguments = {**engine.url.translate_connect_args(username="user", database="dbname"), **engine.url.query}
    password = arguments.pop("password", None)
    return make_conninfo(**arguments), {} if password is None else {"PGPASSWORD": str(password)}


@contextlib.contextmanager
def _program(
    name: str, *arguments: str, environment: dict[str, str] | None = None, failed: type[PrereadError] = EnvironmentFault
) -> Iterator[IO[bytes]]:
    """Run a program of Postgres's, yield its standard output, and wait for its end.

    Raises:
        EnvironmentFault: it is not there.
        failed: it ended with an error; with the first line of what it said, which quotes no row.
    """
    found = shutil.which(name)
    if found is None:
        raise EnvironmentFault(
            f"{name} is not on the PATH: install Postgres's client programs, not older than the server "
            "(Debian: apt-get install postgresql-client)"
        )
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            [found, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=os.environ | (environment or {}),
        ) as process,
    ):
        assert process.stdout is not None
        yield process.stdout
        if process.wait():
            complaints.seek(0)
            said = complaints.readline().decode(errors="replace").strip()
            raise failed(said or f"{name} ended with {process.returncode}")


# ---------------------------------------------------------------------- files


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path`` that nothing has yet; whatever lies there in the end is removed."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, _FILE_MODE))
        yield part
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be written: {error.strerror}") from error
    finally:
        for ending in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{part}{ending}")


def _sync(path: Path) -> None:
    """Have a file or folder reach the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
