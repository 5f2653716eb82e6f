"""Database engines, retried transactions, and named database errors.

SQLite: WAL, ``synchronous=FULL`` (a commit survives a power loss), every writing transaction ``BEGIN IMMEDIATE`` (a
read transaction that turns into a write fails at once, whatever the busy timeout), one host only. Postgres: READ
COMMITTED.
"""

from __future__ import annotations

import os
import random
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    DisconnectionError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
)

from preread.core.errors import (
    DatabaseAway,
    DatabaseBusy,
    DatabaseFull,
    DatabaseReadOnly,
    DatabaseUnsuitable,
    SchemaOutdated,
    SettingsError,
)
from preread.core.filesystems import file_system_type, is_network, missing_mount
from preread.db import audit_key

T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 60
MAX_TRIES = 5
RETRY_FOR_S = 20.0
_FIRST_PAUSE_S = 0.05
_NO_DATABASE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_WAITING = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
# By SQLite's primary result code or Postgres's SQLSTATE: what passes by itself and has a name of its own. Managed
# servers turn read-only when their disk is full (25006), and so does one that became a standby.
_NAMED: dict[int | str, type[DatabaseAway]] = {
    sqlite3.SQLITE_FULL: DatabaseFull,
    sqlite3.SQLITE_READONLY: DatabaseReadOnly,
    "53100": DatabaseFull,
    "25006": DatabaseReadOnly,
    "55P03": DatabaseBusy,
}
_SESSION_ENDED = "25P03"  # the server ended a transaction that idled: this process was stopped for a while
_OTHER_FILE = "Restore it from a backup, or name another database (PREREAD_DATABASE_URL)."
_MAKE_UTF8 = (
    "Create one that stores it as UTF-8: `createdb --template template0 --encoding UTF8 --owner preread preread`."
)
_NAME_A_FILE = "Name a file in that folder, such as preread.db (PREREAD_DATABASE_URL)."
GIVE_RIGHTS = "Give the worker's user the right to write it, or name another database (PREREAD_DATABASE_URL)."


def open_engine(database_url: str, audit_key_file: Path | None = None) -> Engine:
    """Return an engine for a database URL, without connecting.

    Args:
        database_url: ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``postgresql://user@host/name``.
        audit_key_file: file of the audit trail's key; ``None`` for ``audit_key.default_audit_key_path``.

    Raises:
        DatabaseUnsuitable: SQLite in memory or on a network file system.
        SettingsError: not a URL of SQLite or Postgres.
    """
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError) as error:
        # without the URL itself, which may hold a password
        raise SettingsError("PREREAD_DATABASE_URL is not a database URL such as sqlite:////srv/preread.db") from error
    backend = url.get_backend_name()
    if backend == "sqlite":
        engine = _open_sqlite(url)
    elif backend in {"postgresql", "postgres"}:
        engine = _open_postgres(url)
    else:
        raise SettingsError(f"PREREAD_DATABASE_URL names {backend}; Preread keeps its results in SQLite or Postgres")
    audit_key.attach_keyring(engine, audit_key_file or audit_key.default_audit_key_path(sqlite_path(engine)))
    return engine


def _open_sqlite(url: URL) -> Engine:
    if url.database in {None, "", ":memory:"} or str(url.database).startswith("file:"):
        raise DatabaseUnsuitable("PREREAD_DATABASE_URL names no SQLite file: write it as sqlite:////srv/preread.db")
    path = os.path.abspath(str(url.database))
    fs_type = file_system_type(Path(path))
    if is_network(fs_type):
        raise DatabaseUnsuitable(f"SQLite does not work on a network file system ({fs_type})")
    # mode=rw: only `upgrade` creates a database; a mistyped path must not become an empty one
    located = URL.create("sqlite+pysqlite", database=f"file:{quote(path)}", query={"mode": "rw", "uri": "true"})
    engine = create_engine(
        located,
        hide_parameters=True,  # an error message must not carry a patient's data
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _prepare(dbapi_connection: Any, record: Any) -> None:
        record.info["file"] = _identity(path)
        dbapi_connection.isolation_level = None  # the driver begins nothing by itself; see _begin
        cursor = dbapi_connection.cursor()
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            mode = cursor.fetchone()[0]
            if mode != "wal":
                raise DatabaseUnsuitable(f"SQLite cannot keep a write-ahead log here (journal mode {mode})")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            # overwrite deleted content with zeros, which is not the default of every build of SQLite
            cursor.execute("PRAGMA secure_delete=ON")
            cursor.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
        finally:
            cursor.close()

    @event.listens_for(engine, "checkout")
    def _check_file(_dbapi_connection: object, record: Any, _proxy: object) -> None:
        # rows written to a file that was deleted or replaced would be lost
        if record.info["file"] != _identity(path):
            raise DisconnectionError("the database file was removed or replaced")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reading = connection.get_execution_options().get("preread_reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def _open_postgres(url: URL) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level="READ COMMITTED",
        hide_parameters=True,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "preread",
            "client_encoding": "utf8",
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        },
    )

    @event.listens_for(engine, "connect")
    def _prepare(dbapi_connection: Any, _record: object) -> None:
        encoding = dbapi_connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            # the choice of initdb on a host without a locale
            raise DatabaseUnsuitable(
                f"the database stores text as {encoding}, which lacks characters of some names", _MAKE_UTF8
            )
        dbapi_connection.autocommit = True
        with dbapi_connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = on")
            cursor.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'")
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{STATEMENT_TIMEOUT_S}s'")
        dbapi_connection.autocommit = False

    return engine


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def sqlite_path(engine: Engine) -> Path | None:
    """Return the file of an SQLite engine; ``None`` for Postgres."""
    if engine.dialect.name != "sqlite":
        return None
    return Path(unquote(str(engine.url.database).removeprefix("file:")))


def compact_sqlite(engine: Engine, *, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Rewrite an SQLite file and truncate its log, without deleted content.

    ``secure_delete`` alone leaves copies of rows that SQLite moved from page to page. Postgres is left as it is.

    Args:
        engine: the database.
        sleep: waits for so many seconds between tries; tests give another.

    Returns:
        ``False`` if other connections prevented it at every try, or the disk is full.

    Raises:
        DatabaseAway: the file cannot be rewritten for another reason.
    """
    if engine.dialect.name != "sqlite":
        return True
    return all(
        _run_outside_transaction(engine, statement, sleep)
        for statement in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)")
    )


def _run_outside_transaction(engine: Engine, statement: str, sleep: Callable[[float], None]) -> bool:
    """Run a statement that SQLite refuses in a transaction; see ``compact``."""
    for last in (False, False, True):
        try:
            with closing(engine.raw_connection()) as connection:
                row = connection.cursor().execute(statement).fetchone()
            if row is None or row[0] == 0:
                return True
        except sqlite3.OperationalError as error:
            kind = error.sqlite_errorcode & 0xFF
            if kind == sqlite3.SQLITE_FULL:
                return False
            if kind not in _WAITING:
                raise DatabaseAway(f"the database file cannot be rewritten: {error}") from error
        if not last:
            sleep(random.uniform(0.5, 1.5))  # each try has waited for BUSY_TIMEOUT_S already
    return False


def check_sqlite_place(path: Path) -> None:
    """Raise an error if no SQLite file can be kept at a path.

    A missing file or folder is accepted.

    Raises:
        DatabaseUnsuitable: the path is a folder, or this user may not write the file or its folder.
    """
    if os.path.isdir(path):
        raise DatabaseUnsuitable(f"{path} is a folder, not a database file", _NAME_A_FILE)
    # the write-ahead log lies beside the file, so the folder must be writable as well
    for needed, rights in ((path.parent, os.W_OK | os.X_OK), (path, os.R_OK | os.W_OK)):
        if os.path.exists(needed) and not os.access(needed, rights):
            raise DatabaseUnsuitable(f"{needed} cannot be written", GIVE_RIGHTS)


def describe_missing_sqlite(path: Path) -> str:
    """Return a sentence on a missing SQLite file and the probable cause."""
    if point := missing_mount(path):
        return f"there is no database at {path}: /etc/fstab names {point}, and nothing is mounted there"
    return f"there is no database at {path}: is its disk mounted?"


# ---------------------------------------------------------------------- transactions


def write(engine: Engine, body: Callable[[Connection, bool], T], *, sleep: Callable[[float], None] = time.sleep) -> T:
    """Run a function in a writing transaction, with bounded retries.

    Args:
        engine: the database.
        body: called for each try with the connection and ``is_retry``: ``True`` if the commit of an earlier try may
            have arrived although its answer was lost; it must then read before it writes.
        sleep: waits for so many seconds between tries; tests give another.

    Returns:
        The result of ``body``.

    Raises:
        DatabaseAway: the last try failed; a subclass if the disk is full or the database is read-only.
        DatabaseUnsuitable: not an SQLite database, or damaged.
        SchemaOutdated: a table or column is missing.
    """
    started = time.monotonic()
    for number in range(1, MAX_TRIES + 1):
        try:
            with engine.begin() as connection:
                return body(connection, number > 1)
        except DBAPIError as error:
            away = _away(engine, error)
            if number == MAX_TRIES or time.monotonic() - started > RETRY_FOR_S:
                raise away from error
        sleep(_FIRST_PAUSE_S * 3 ** (number - 1) * random.uniform(0.5, 1.5))
    raise AssertionError("the loop above returns or raises")


def read(engine: Engine, body: Callable[[Connection], T]) -> T:
    """Run a function in a reading transaction of the database.

    Tried twice, as an idle pooled connection may be dead.

    Args:
        engine: the database.
        body: called for each try with the connection.

    Returns:
        The result of ``body``.

    Raises:
        DatabaseAway: the database does not answer.
        DatabaseUnsuitable: not an SQLite database, or damaged.
        SchemaOutdated: a table or column is missing.
    """
    for last in (False, True):
        try:
            with engine.connect() as connection:
                return body(connection.execution_options(preread_reading=True))
        except DBAPIError as error:
            away = _away(engine, error)
            if last:
                raise away from error
    raise AssertionError("the loop above returns or raises")


def _away(engine: Engine, error: DBAPIError) -> DatabaseAway:
    """Return the named error of a temporary failure; raise a permanent one."""
    path = sqlite_path(engine)
    # the low byte of SQLite's extended result code is its kind
    kind = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF if path is not None else 0
    if kind in _NO_DATABASE:
        raise DatabaseUnsuitable(f"{path} is not an SQLite database, or is damaged", _OTHER_FILE) from error
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    message = str(error.orig)
    missing = "no such table" in message or "no such column" in message
    if missing or (isinstance(error, ProgrammingError) and sqlstate in {"42P01", "42703"}):
        raise SchemaOutdated from error
    named = _NAMED.get(kind) or _NAMED.get(sqlstate)
    # SQLITE_ERROR is a wrong statement, though its class is that of an outage
    operational = isinstance(error, OperationalError | InterfaceError) and kind != sqlite3.SQLITE_ERROR
    passing = operational or error.connection_invalidated
    if named is None and not passing and sqlstate != _SESSION_ENDED:
        raise error
    if kind and kind not in _WAITING:
        engine.dispose()  # a file that was opened while its disk was read-only stays so
    lines = message.splitlines() or [""]
    if path is not None and not os.path.exists(path):
        return DatabaseAway(describe_missing_sqlite(path))
    if named is not None:
        return named(f"{(named.__doc__ or '').rstrip('.')}: {lines[0]}")
    return DatabaseAway(f"the database does not answer: {lines[0]}")


def database_now(connection: Connection) -> datetime:
    """Return the time of the database as an aware UTC datetime.

    One clock for all workers.
    """
    if connection.dialect.name == "sqlite":
        written: str = connection.exec_driver_sql("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')").scalar_one()
        return datetime.fromisoformat(written).replace(tzinfo=UTC)
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now.astimezone(UTC)


def new_token() -> str:
    """Return a random token of 32 hex characters."""
    return secrets.token_hex(16)
