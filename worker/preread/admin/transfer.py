"""Copy of a whole database between SQLite and Postgres.

Copies all tables in one transaction and compares both sides; the target is complete or untouched. The source is only
read and locked against changes meanwhile. Rows are compared by their Python values, since each database stores times,
bytes and booleans in its own way.
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
    Tuple,
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
from preread.db.statements import keyset_pages
from preread.ledger.registry import is_worker_silent, worker_may_run
from preread.review import audit

_BATCH = 1_000
_SILENT_AFTER = timedelta(minutes=2)
_LOCK_WAIT = "5s"
_NOT_EMPTY = "Name an empty database; existing data are never overwritten."
_KINDS = 1 << 256
assert {review_schema.account.metadata, admin_schema.activation.metadata} == {schema.metadata}


@dataclass(frozen=True, slots=True)
class TableContent:
    """Number of rows and digest of one table's content.

    Attributes:
        table: its name.
        rows: number of rows.
        digest: sum of the SHA-256 of all rows modulo 2^256 in hexadecimal, independent of their order.
    """

    table: str
    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class TransferResult:
    """Content that was copied and is equal in both databases.

    Attributes:
        tables: content by table.
        head: head of the audit trail.
        key_file: audit key of the target; ``None`` if there is no key, or no place for one.
    """

    tables: list[TableContent]
    head: audit.AuditHead
    key_file: Path | None = None

    @property
    def rows(self) -> int:
        """Total number of rows."""
        return sum(content.rows for content in self.tables)


def copy_database(source: Engine, target: Engine, on_table: Callable[[], None] = lambda: None) -> TransferResult:
    """Copy the whole database into an empty target, and compare them.

    Args:
        source: database in use; no worker may run on it.
        target: a missing SQLite file or a Postgres database without tables.
        on_table: called after each table.

    Raises:
        AuditBroken: the audit trail of the source is broken; nothing was copied.
        DatabaseAway: one of them does not answer, is full or read-only: the target is unchanged.
        DatabaseUnsuitable: the target is not empty, or cannot store a row.
        EnvironmentFault: the file of the target cannot be written.
        SchemaOutdated, SchemaTooNew: the schema of the source is not this program's.
        UpgradeFailed: what was written differs from what was read; it was rolled back.
        UsageError: both are the same database, or a worker runs on the source.
    """
    if _place(source) == _place(target):
        raise UsageError("source and target are the same database: name another target")
    migrate.check_schema(source, exactly=True)
    path, keys = sqlite_path(target), audit_key.keyring_of(source)
    if path is None:
        _refuse_filled(target)
        head = _verified(source, keys)
        contents = _fill(source, target, on_table)
        _compare_heads(head, _verified(target, keys))
    else:
        with backup.create_database_file(path) as part:
            head = _verified(source, keys)
            engine = open_engine(f"sqlite:///{part}", keys.path)
            try:
                contents = _fill(source, engine, on_table)
                _compare_heads(head, _verified(engine, keys))
            finally:
                engine.dispose()  # closing the last connection checkpoints and removes the write-ahead log
    return TransferResult(contents, head, keys.hand_on(audit_key.keyring_of(target).path))


def count_copied_tables() -> int:
    """Return the number of tables that a copy of the database has."""
    return len(_tables())


def _place(engine: Engine) -> tuple[str, ...]:
    """Return what identifies a database, to compare two."""
    path = sqlite_path(engine)
    if path is not None:
        return ("sqlite", os.path.realpath(path))
    url = engine.url
    location = [str(part or "") for part in (url.host or url.query.get("host"), url.port, url.database or url.username)]
    return ("postgresql", *location)


def _refuse_filled(target: Engine) -> None:
    if count_tables := read(target, lambda connection: len(inspect(connection).get_table_names())):
        raise DatabaseUnsuitable(f"the database is not empty: it holds {count_tables} tables", _NOT_EMPTY)


def _fill(source: Engine, target: Engine, on_table: Callable[[], None]) -> list[TableContent]:
    def from_source(source_connection: Connection, _again: bool) -> list[TableContent]:
        _hold_still(source_connection)
        _refuse_workers(source_connection)

        def into_target(target_connection: Connection, is_retry: bool) -> list[TableContent]:
            _be_patient(target_connection)
            if is_retry and inspect(target_connection).has_table(schema.file.name):  # a commit whose answer was lost
                return _compared([_content(source_connection, table) for table in _tables()], target_connection)
            migrate.create_schema(target_connection)
            contents = []
            for table in _tables():
                contents.append(_copy(source_connection, target_connection, table))
                on_table()
            _set_sequences(target_connection)
            return _compared(contents, target_connection)

        return write(target, into_target)

    return write(source, from_source)


def _tables() -> Sequence[Table]:
    """Return all tables in order of their foreign keys."""
    return schema.metadata.sorted_tables


def _be_patient(connection: Connection) -> None:
    """Disable statement and idle timeouts of this transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


def _hold_still(connection: Connection) -> None:
    """Lock the source against writers; SQLite has one writer anyway."""
    _be_patient(connection)
    if connection.dialect.name == "postgresql":
        names = ", ".join(connection.dialect.identifier_preparer.format_table(table) for table in _tables())
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'"))
        connection.execute(text(f"LOCK TABLE {names} IN SHARE MODE"))


def _refuse_workers(connection: Connection) -> None:
    """Raise ``UsageError`` if a worker runs on the source."""
    now = database_now(connection)
    rows = connection.execute(select(schema.worker).where(schema.worker.c.stopped_at.is_(None))).all()
    # a worker on another host is judged by its heartbeat alone
    alive = [row for row in rows if worker_may_run(row) and not is_worker_silent(row, now, _SILENT_AFTER)]
    if alive:
        host = str(alive[0].host).split()[0]
        raise UsageError(
            f"{len(alive)} workers run on this database, one on {host} with process id {alive[0].pid}: "
            "stop worker, page and fleet. A worker killed on another host counts as ended after two minutes."
        )


# ---------------------------------------------------------------------- rows


def _copy(source_connection: Connection, target_connection: Connection, table: Table) -> TableContent:
    """Copy a table and return the content that was read."""
    if target_connection.execute(select(func.count()).select_from(table)).scalar_one():
        target_connection.execute(delete(table))  # a migration put a row of its own there
    content = _TableDigest(table)
    for rows in _batches(source_connection, table):
        content.add(rows)
        try:
            target_connection.execute(insert(table), [dict(row) for row in rows])
        except (DataError, IntegrityError, ProgrammingError, UnicodeError) as error:
            # never quote the row: it may hold patient data
            cause = type(getattr(error, "orig", None) or error).__name__
            raise DatabaseUnsuitable(
                f"the target cannot store a row of {table.name} ({cause}): nothing was copied",
                "Report it with this line.",
            ) from error
    return content.sum()


def _content(connection: Connection, table: Table) -> TableContent:
    """Return the content of a table."""
    content = _TableDigest(table)
    for rows in _batches(connection, table):
        content.add(rows)
    return content.sum()


def _batches(connection: Connection, table: Table) -> Iterator[Sequence[RowMapping]]:
    """Yield all rows by rising primary key, ``_BATCH`` at a time."""
    keys = list(table.primary_key.columns)
    statement = select(table).order_by(*keys).limit(_BATCH)

    def page(last: Tuple | None) -> Sequence[RowMapping]:
        after = statement if last is None else statement.where(tuple_(*keys) > last)
        return connection.execute(after).mappings().all()

    def key_of(row: RowMapping) -> Tuple | None:
        return tuple_(*(literal(row[key.name], key.type) for key in keys))

    return keyset_pages(page, key_of, None)


class _TableDigest:
    """Incremental digest of a table's rows."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rows = 0
        self._sum = 0

    def add(self, rows: Sequence[RowMapping]) -> None:
        for row in rows:
            written = repr([canonical_value(row[column.name]) for column in self._table.columns])
            digest = hashlib.sha256(written.encode("utf-8", "surrogatepass")).digest()
            self._sum = (self._sum + int.from_bytes(digest)) % _KINDS
        self._rows += len(rows)

    def sum(self) -> TableContent:
        return TableContent(self._table.name, self._rows, f"{self._sum:064x}")


def canonical_value(value: Any) -> object:
    """Return a column's value in the form that SQLite and Postgres share."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return bytes(value) if isinstance(value, memoryview | bytearray) else value


def _compared(contents: list[TableContent], target_connection: Connection) -> list[TableContent]:
    """Return the contents; raise ``UpgradeFailed`` if the target differs."""
    for content in contents:
        written = _content(target_connection, schema.metadata.tables[content.table])
        if written != content:
            raise _failed(
                f"the table {content.table} differs in the target, which has {written.rows} of {content.rows} rows"
            )
    return contents


def _failed(what: str) -> UpgradeFailed:
    error = UpgradeFailed(f"{what}: do not use the target")
    error.hint = "Go on with the database in use, and report this line."
    return error


def _verified(engine: Engine, keys: audit_key.Keyring) -> audit.AuditHead:
    return audit.verify_audit_chain(engine, keys=keys).head


def _compare_heads(before: audit.AuditHead, after: audit.AuditHead) -> None:
    if before != after:
        raise _failed(f"the audit trail ends at {before} in the source, but at {after} in the target")


def _set_sequences(connection: Connection) -> None:
    """Set Postgres sequences beyond the largest key; SQLite needs nothing."""
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
