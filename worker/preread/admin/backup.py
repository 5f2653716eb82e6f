"""Online backup and restore of the database as one checked file.

SQLite: the online backup interface, in one step. Postgres: ``pg_dump`` in the custom format and ``pg_restore``. Both
copy one consistent snapshot: rows are counted in the transaction that is copied and again in the written file.

Images and previews are not part of a backup: images never change, and previews can be generated again.
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
from preread.db.engine import check_sqlite_place, open_engine, read, sqlite_path
from preread.db.review_schema import secret
from preread.ledger import claims
from preread.ledger.tombstones import KEY_NAME
from preread.ledger.transaction import Transaction, transaction

_FILE_MODE = 0o600  # patient data: readable by the owner only
_SQLITE, _POSTGRES = b"SQLite format 3\0", b"PGDMP"
_LOCK_WAIT_MS = 60_000
_COPY = re.compile(rb'^COPY (?:"?\w+"?\.)?"?(\w+)"? .*FROM stdin;$')
_REVISIONS = "alembic_version"
_NOT_EMPTY = "Name an empty database (PREREAD_DATABASE_URL), or move the existing one away."


@dataclass(frozen=True, slots=True)
class Backup:
    """Contents of a backup file of the database.

    Attributes:
        kind: ``sqlite`` or ``postgresql``.
        revision: Alembic revision of its schema.
        rows: number of rows by table name.
        size_bytes: size of the file.
        purge_key: hexadecimal key that links the database to its purge journal; ``None`` before the first purge.
    """

    kind: str
    revision: str
    rows: dict[str, int]
    size_bytes: int
    purge_key: str | None = field(default=None, repr=False)


def back_up(engine: Engine, target: Path, *, replace: bool = False) -> Backup:
    """Write a checked backup file of the database while workers write.

    The file appears under its name only when it is complete and checked.

    Args:
        engine: database to copy.
        target: file to write.
        replace: replace an existing file of this name after the new one was checked.

    Returns:
        Contents of the written backup.

    Raises:
        BackupDamaged: the written file does not hold the rows that were read.
        DatabaseAway, DatabaseUnsuitable, SchemaOutdated: the database cannot be read.
        EnvironmentFault: the file cannot be written, or ``pg_dump`` is missing or fails.
        UsageError: ``target`` exists and ``replace`` is false.
    """
    target = Path(os.path.abspath(target))
    if os.path.lexists(target) and not replace:
        raise UsageError(f"{target} exists: name another file, or use --replace")
    with _unfinished(target) as part:
        rows = read(engine, lambda connection: _copy(connection, part))
        written = check_backup(part)
        if not rows.items() <= written.rows.items():
            raise BackupDamaged("the backup does not hold all rows of the database, and was deleted")
        _sync(part)
        os.replace(part, target)
        _sync(target.parent)
    return written


def check_backup(file: Path) -> Backup:
    """Read a backup file of the database completely; return its contents.

    Args:
        file: backup made by ``back_up``.

    Raises:
        BackupDamaged: it is not a backup, or it is incomplete.
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
        raise BackupDamaged(f"{file} is not a backup of Preread")
    if revision is None:
        raise BackupDamaged(f"{file} holds no database of Preread")
    return Backup(kind, revision, rows, size_bytes, purge_key)


def restore(
    engine: Engine,
    file: Path,
    prepare: Callable[[Engine], None] = lambda _: None,
    admit: Callable[[Backup], None] = lambda _: None,
) -> Backup:
    """Restore a backup into a missing SQLite file or empty Postgres database.

    Args:
        engine: target database.
        file: backup made by ``back_up``.
        prepare: called with the restored database before other programs may use it: on SQLite before the file gets its
            name, on Postgres while a table marks the database as unfinished.
        admit: called with the backup's contents before anything is changed; raises if it must not be restored.

    Returns:
        Contents of the restored backup.

    Raises:
        BackupDamaged: the file is incomplete, or of the other kind of database.
        DatabaseUnsuitable: the target is not empty, or cannot hold a database.
        DatabaseAway: the Postgres server does not answer.
        EnvironmentFault: the backup cannot be read, ``pg_restore`` is missing or fails, or the disk is full.
    """
    contents = check_backup(file)
    path = sqlite_path(engine)
    backend = "sqlite" if path is not None else "postgresql"
    if contents.kind != backend:
        raise BackupDamaged(f"{file} is a backup of {contents.kind}, but PREREAD_DATABASE_URL names {backend}")
    admit(contents)
    if path is not None:
        _restore_file(path, file, contents, prepare, audit_key.keyring_of(engine).path)
        return contents
    if tables := read(engine, lambda connection: len(inspect(connection).get_table_names())):
        raise DatabaseUnsuitable(f"the database is not empty: it holds {tables} tables", _NOT_EMPTY)
    into, environment = _connection_of(engine)
    options = ("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", f"--dbname={into}")
    migrate.mark_unfinished(engine, "a restore")
    try:
        with _program("pg_restore", *options, os.fspath(file), environment=environment):
            pass
    except PrereadError:
        migrate.mark_unfinished(engine, None)  # one transaction: the database is empty again
        raise
    _compare(engine, contents)
    prepare(engine)
    migrate.mark_unfinished(engine, None)
    return contents


@transaction
def reset_restored_state(tx: Transaction) -> None:
    """Reset workers, claims and sessions of a restored database.

    For a restored database, whose workers and sessions belong to the time of the backup. The schema must be current.
    """
    tx.connection.execute(text("UPDATE worker SET stopped_at = heartbeat_at WHERE stopped_at IS NULL"))
    tx.connection.execute(text("DELETE FROM session"))
    claims.recover_interrupted(tx)


def count_rows(connection: Connection) -> dict[str, int]:
    """Return the number of rows by table name."""
    names = sorted(set(inspect(connection).get_table_names()) - {migrate.UNFINISHED})
    return {name: connection.execute(select(func.count()).select_from(table(name))).scalar_one() for name in names}


# ---------------------------------------------------------------------- SQLite


def _copy(connection: Connection, part: Path) -> dict[str, int]:
    if connection.dialect.name != "sqlite":
        return _dump(connection, part)
    rows = count_rows(connection)  # the transaction begins, and the copy is of what it sees
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
    """Return schema revision, rows by table and purge key of an SQLite backup."""
    address = f"file:{quote(os.path.abspath(file))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            faults = connection.execute("PRAGMA integrity_check").fetchmany(1)
            violations = connection.execute("PRAGMA foreign_key_check").fetchmany(1)
            if faults != [("ok",)] or violations:
                raise BackupDamaged(f"{file} is damaged")
            names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
            tables = [str(name) for (name,) in connection.execute(names)]
            rows = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}  # noqa: S608
            revisions = connection.execute(f"SELECT version_num FROM {_REVISIONS}") if _REVISIONS in rows else ()  # noqa: S608
            revision = next((str(value) for (value,) in revisions), None)
            key_query = "SELECT value FROM secret WHERE name = ?"
            keys = connection.execute(key_query, (KEY_NAME,)) if secret.name in rows else ()
            purge_key = next((str(value) for (value,) in keys), None)
    except sqlite3.Error as error:
        raise BackupDamaged(f"{file} is damaged: {error}") from error
    return revision, rows, purge_key


@contextlib.contextmanager
def create_database_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a new SQLite file; rename it at the end.

    Args:
        path: final name. The file appears there complete, or not at all.

    Raises:
        DatabaseUnsuitable: a file exists there, or a database cannot be kept there.
        EnvironmentFault: it cannot be written.
    """
    for ending in ("", "-wal", "-shm", "-journal"):
        if os.path.lexists(f"{path}{ending}"):
            raise DatabaseUnsuitable(f"{path}{ending} exists", _NOT_EMPTY)
    check_sqlite_place(path)
    with _unfinished(path) as part:
        yield part
        _sync(part)
        os.link(part, path)  # unlike rename(2), link(2) never replaces a file
        _sync(path.parent)


def _restore_file(
    path: Path, file: Path, contents: Backup, prepare: Callable[[Engine], None], key_file: Path | None
) -> None:
    with create_database_file(path) as part:
        shutil.copyfile(file, part)
        copy = open_engine(f"sqlite:///{part}", key_file)
        try:
            _compare(copy, contents)
            prepare(copy)
        finally:
            copy.dispose()  # closing the last connection checkpoints and removes the write-ahead log


def _compare(engine: Engine, contents: Backup) -> None:
    if not read(engine, count_rows).items() <= contents.rows.items():
        raise BackupDamaged("the restored database does not hold the rows of its backup")


# ---------------------------------------------------------------------- Postgres


def _dump(connection: Connection, part: Path) -> dict[str, int]:
    connection = connection.execution_options(isolation_level="REPEATABLE READ")
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    snapshot = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
    rows = count_rows(connection)
    source, environment = _connection_of(connection.engine)
    # the fleet's queue can be rebuilt from the ledger by `preread backfill`
    content_options = ("--format=custom", "--no-owner", "--no-privileges", "--exclude-schema=preread_fleet")
    output_options = (
        f"--snapshot={snapshot}",
        f"--lock-wait-timeout={_LOCK_WAIT_MS}",
        f"--file={part}",
        f"--dbname={source}",
    )
    with _program("pg_dump", *content_options, *output_options, environment=environment):
        pass
    return rows


def _look_into_dump(file: Path) -> tuple[str | None, dict[str, int], str | None]:
    """Return schema revision, rows by table and purge key of a dump.

    Reads every row as ``pg_restore`` would write it: one row a line.
    """
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
    """Return a libpq connection string and the environment with the password.

    The password is not an argument since other users can see a program's arguments.
    """
    arguments = {**engine.url.translate_connect_args(username="user", database="dbname"), **engine.url.query}
    password = arguments.pop("password", None)
    return make_conninfo(**arguments), {} if password is None else {"PGPASSWORD": str(password)}


@contextlib.contextmanager
def _program(
    name: str, *arguments: str, environment: dict[str, str] | None = None, failed: type[PrereadError] = EnvironmentFault
) -> Iterator[IO[bytes]]:
    """Run a Postgres client program and yield its standard output.

    Args:
        name: program to find on PATH.
        arguments: its command line.
        environment: variables added to this process's own.
        failed: exception class for an unsuccessful end.

    Raises:
        EnvironmentFault: the program is not on PATH.
        failed: it ended with an error; the message is the first line of its standard error, which quotes no row.
    """
    executable = shutil.which(name)
    if executable is None:
        raise EnvironmentFault(
            f"{name} is not on the PATH: install Postgres's client programs, not older than the server "
            "(Debian: apt-get install postgresql-client)"
        )
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | (environment or {}),
        ) as process,
    ):
        assert process.stdout is not None
        yield process.stdout
        if process.wait():
            errors.seek(0)
            first_line = errors.readline().decode(errors="replace").strip()
            raise failed(first_line or f"{name} ended with {process.returncode}")


# ---------------------------------------------------------------------- files


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; delete leftovers at the end."""
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
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
