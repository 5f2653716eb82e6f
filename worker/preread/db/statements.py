"""Building blocks of SQL statements: chunks, keyset pages, inserts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, Table
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from preread.db import schema
from preread.db.engine import read

T = TypeVar("T")
K = TypeVar("K")

CHUNK = 500
"""Rows per statement: far below the limits on bound parameters of either database."""


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Yield consecutive slices of values for SQL statements of bounded size."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def keyset_pages(query: Callable[[K], Sequence[T]], key: Callable[[T], K], after: K) -> Iterator[Sequence[T]]:
    """Yield the pages of a keyset query until one is empty.

    Args:
        query: returns the next rows whose key is greater than its argument, by rising key, at most a page of them.
        key: returns the key of a row.
        after: the key before the first row, e.g. 0.
    """
    while rows := query(after):
        yield rows
        after = key(rows[-1])


def read_pages(
    engine: Engine, query: Callable[[Connection, K], Sequence[T]], key: Callable[[T], K], after: K
) -> Iterator[Sequence[T]]:
    """Yield the pages of a keyset query, each in a transaction of its own.

    See ``pages``.

    Raises:
        DatabaseAway, DatabaseUnsuitable, SchemaOutdated: see ``engine.read``.
    """

    def page(after: K) -> Sequence[T]:
        return read(engine, lambda connection: query(connection, after))

    return keyset_pages(page, key, after)


def insert_new(connection: Connection, table: Any) -> Any:
    """Return an SQL insert that skips rows which violate a unique constraint."""
    return _insert(connection, table).on_conflict_do_nothing()


def insert_or_replace(connection: Connection, table: Table, rows: Sequence[schema.Row]) -> None:
    """Insert rows; where the primary key exists, replace all other columns."""
    keys = [column.name for column in table.primary_key.columns]
    statement = _insert(connection, table)
    replaced = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    if rows:
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=replaced), rows)


def _insert(connection: Connection, table: Any) -> Any:
    # the two dialects' inserts share what is done on a conflict, but not through a common type
    return (sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert)(table)


def insert_or_skip(
    connection: Connection, table: Any, rows: Sequence[schema.Row], *also: ColumnElement[Any]
) -> list[tuple[Any, ...]]:
    """Insert rows, except those that violate a unique constraint.

    Returns:
        ``(id, *also)`` of each row that was inserted.
    """
    statement = insert_new(connection, table)
    inserted: list[tuple[Any, ...]] = []
    for batch in chunks(rows):
        inserted.extend(tuple(row) for row in connection.execute(statement.returning(table.c.id, *also), batch))
    return inserted
