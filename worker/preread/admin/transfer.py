"""The way of a whole database between SQLite and Postgres: copied in one transaction, compared, and done whole or not.

Whatever stands in the program's tables goes, whichever tables there are; the source is only read, and takes no change
meanwhile. Rows are compared by what the program reads of them, since each database keeps times, bytes and truth values
in its own way.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    RowMapping,
    Table,
    delete,
    func,
    insert,
    inspect,
    literal,
    select,
    text,
    tuple_,
)
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

from preread.admin import backup
from preread.core.errors import DatabaseUnsuitable, UpgradeFailed, UsageError
from preread.db import admin_schema, audit_key, migrate, review_schema, schema
from preread.db.engine import database_now, open_engine, read, sqlite_path, write
from preread.ledger import workers
from preread.review import audit

_BATCH = 1_000
_SILENT_AFTER = timedelta(minutes=2)
_LOCK_WAIT = "5s"
_NOT_EMPTY = "Name a database that holds nothing; nothing is ever written over."
_KINDS = 1 << 256
assert {review_schema.account.metadata, admin_schema.activation.metadata} == {schema.metadata}


@dataclass(frozen=True, slots=True)
class Content:
    """What a table holds.

    Attributes:
        digest: of all rows, whatever their order: SHA-256 of each, added up.
    """

    table: str
    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved, equal in both databases.

    Attributes:
        head: of the audit trail.
        key_file: where its key lies for the target; ``None`` where it has none, or where the target has no place.
    """

    tables: list[Content]
    head: audit.Head
    key_file: Path | None = None

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(one.rows for one in self.tables)


def move(source: Engine, target: Engine, each: Callable[[], None] = lambda: None) -> Moved:
    """Copy everything into an empty place: an SQLite path where nothing lies, a Postgres database without tables.

    Args:
        each: called after each table.

    Raises:
        AuditBroken: the audit trail of the source is not whole; nothing was copied.
        DatabaseAway: one of them does not answer, is full, or takes no changes: the target is as it was.
        DatabaseUnsuitable: the target is not empty, or cannot keep a row.
        EnvironmentFault: the file of the target cannot be written.
        SchemaOutdated, SchemaTooNew: the schema of the source is not this program's.
        UpgradeFailed: what was written is not what was read; it was taken back.
        UsageError: both are the same database, or a worker is at work on the source.
    """
    if _place(source) == _place(target):
        raise UsageError("that is the database which is in use: name another one to move it to")
    migrate.check_schema(source, exactly=True)
    path, keys = sqlite_path(target), audit_key.of(source)
    if path is None:
        _refuse_filled(target)
        head = _verified(source, keys)
        contents = _fill(source, target, each)
        _compare_heads(head, _verified(target, keys))
    else:
        with backup.new_file(path) as part:
            head = _verified(source, keys)
            engine = open_engine(f"sqlite:///{part}", keys.path)
            try:
                contents = _fill(source, engine, each)
                _compare_heads(head, _verified(engine, keys))
            finally:
                engine.dispose()  # the last connection takes the write-ahead log in and removes it
    return Moved(contents, head, keys.hand_on(audit_key.of(target).path))


def tables() -> int:
    """Return how many tables there are to move."""
    return len(_tables())


def _place(engine: Engine) -> tuple[str, ...]:
    path = sqlite_path(engine)
    if path is not None:
        return ("sqlite", os.path.realpath(path))
    url = engine.url
    where = [str(one or "") for one in (url.host or url.query.get("host"), url.port, url.database or url.username)]
    return ("postgresql", *where)


def _refuse_filled(target: Engine) -> None:
    if tables := read(target, lambda connection: len(inspect(connection).get_table_names())):
        raise DatabaseUnsuitable(f"the database is not empty: it holds {tables} tables", _NOT_EMPTY)


def _fill(source: Engine, target: Engine, each: Callable[[], None]) -> list[Content]:
    def from_source(source_connection: Connection, _again: bool) -> list[Content]:
        _hold_still(source_connection)
        _refuse_workers(source_connection)

        def into_target(target_connection: Connection, again: bool) -> list[Content]:
            _be_patient(target_connection)
            if again and inspect(target_connection).has_table(schema.file.name):  # a commit whose answer was lost
                return _compared([_content(source_connection, table) for table in _tables()], target_connection)
            migrate.create(target_connection)
            found = []
            for table in _tables():
                found.append(_copy(source_connection, target_connection, table))
                each()
            _set_sequences(target_connection)
            return _compared(found, target_connection)

        return write(target, into_target)

    return write(source, from_source)


def _tables() -> Sequence[Table]:
    """Return all tables, those first that others refer to."""
    return schema.metadata.sorted_tables


def _be_patient(connection: Connection) -> None:
    """Let a transaction last, and idle while the other database is at work."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


def _hold_still(connection: Connection) -> None:
    """Keep others from writing, so that nothing is written behind the copy; SQLite has one writer, which this is."""
    _be_patient(connection)
    if connection.dialect.name == "postgresql":
        names = ", ".join(connection.dialect.identifier_preparer.format_table(table) for table in _tables())
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'"))
        connection.execute(text(f"LOCK TABLE {names} IN SHARE MODE"))


def _refuse_workers(connection: Connection) -> None:
    now = database_now(connection)
    rows = connection.execute(select(schema.worker).where(schema.worker.c.stopped_at.is_(None))).all()
    # of another host nobody can tell but by its silence
    alive = [row for row in rows if workers.runs(row) and not workers.is_silent(row, now, _SILENT_AFTER)]
    if alive:
        host = str(alive[0].host).split()[0]
        raise UsageError(
            f"{len(alive)} workers are at work on this database, one on {host} with process number {alive[0].pid}: "
            "stop worker, page and fleet first (one that was killed elsewhere counts as ended after two minutes)"
        )


# ---------------------------------------------------------------------- rows


def _copy(source_connection: Connection, target_connection: Connection, table: Table) -> Content:
    if target_connection.execute(select(func.count()).select_from(table)).scalar_one():
        target_connection.execute(delete(table))  # a migration put a row of its own there
    content = _Adding(table)
    for rows in _batches(source_connection, table):
        content.add(rows)
        try:
            target_connection.execute(insert(table), [dict(row) for row in rows])
        except (DataError, IntegrityError, ProgrammingError, UnicodeError) as error:
            # never the row: it may be a patient's
            cause = type(getattr(error, "orig", None) or error).__name__
            raise DatabaseUnsuitable(
                f"the target cannot keep a row of {table.name} ({cause}): nothing was moved",
                "Report it with this line.",
            ) from error
    return content.sum()


def _content(connection: Connection, table: Table) -> Content:
    content = _Adding(table)
    for rows in _batches(connection, table):
        content.add(rows)
    return content.sum()


def _batches(connection: Connection, table: Table) -> Iterator[Sequence[RowMapping]]:
    """Yield all rows by rising key, some at a time."""
    keys = list(table.primary_key.columns)
    statement = select(table).order_by(*keys).limit(_BATCH)
    rows = connection.execute(statement).mappings().all()
    while rows:
        yield rows
        last = tuple_(*(literal(rows[-1][key.name], key.type) for key in keys))
        rows = connection.execute(statement.where(tuple_(*keys) > last)).mappings().all()


class _Adding:
    """The content of a table, row by row."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rows = 0
        self._sum = 0

    def add(self, rows: Sequence[RowMapping]) -> None:
        for row in rows:
            written = repr([plain(row[column.name]) for column in self._table.columns])
            digest = hashlib.sha256(written.encode("utf-8", "surrogatepass")).digest()
            self._sum = (self._sum + int.from_bytes(digest)) % _KINDS
        self._rows += len(rows)

    def sum(self) -> Content:
        return Content(self._table.name, self._rows, f"{self._sum:064x}")


def plain(value: Any) -> object:
    """Return what a value is in whichever database."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return bytes(value) if isinstance(value, memoryview | bytearray) else value


def _compared(found: list[Content], target_connection: Connection) -> list[Content]:
    for one in found:
        there = _content(target_connection, schema.metadata.tables[one.table])
        if there != one:
            raise _failed(f"the table {one.table} differs in the target, which has {there.rows} of {one.rows} rows")
    return found


def _failed(what: str) -> UpgradeFailed:
    error = UpgradeFailed(f"{what}: do not use the target")
    error.hint = "Go on with the database in use, and report this line."
    return error


def _verified(engine: Engine, keys: audit_key.Keyring) -> audit.Head:
    return audit.verify(engine, keys=keys).head


def _compare_heads(before: audit.Head, after: audit.Head) -> None:
    if before != after:
        raise _failed(f"the audit trail ends at {before} in the source, and at {after} in the target")


def _set_sequences(connection: Connection) -> None:
    """Let the next number of each table be one that is free; SQLite takes the largest and one by itself."""
    if connection.dialect.name == "sqlite":
        return
    for table in _tables():
        column = table.autoincrement_column
        if column is None:
            continue
        name = connection.dialect.identifier_preparer.format_table(table)
        sequence = connection.execute(select(func.pg_get_serial_sequence(name, column.name))).scalar()
        largest = connection.execute(select(func.max(column))).scalar()
        if sequence is not None and largest is not None:
            connection.execute(select(func.setval(sequence, largest)))
