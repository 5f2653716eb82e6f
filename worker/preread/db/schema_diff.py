"""Differences between a database's tables and those of this program.

Revisions are numbered, and one that only adds (tables, indexes, columns that may stay empty or have a default) takes
the next number: a program goes on with the schema that is one number ahead of its own. A revision that an older
program cannot live with skips a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, MetaData, func, inspect, select, table

from preread.db import admin_schema, review_schema
from preread.db.schema import metadata as _own

# sessions end during a migration
_PASSING = frozenset({"session"})
assert {review_schema.account.metadata, admin_schema.activation.metadata} == {_own}, "all tables belong to one schema"


def schema_differences(connection: Connection) -> list[str]:
    """Return what the database schema lacks or has in incompatible form.

    Additions that hinder nothing (an index, a nullable column, other tables) are left out.
    """
    return [
        _describe(change) for change in _changes(connection, _own) if change[0] == "add_index" or _hinders(change, _own)
    ]


def newer_schema_obstacles(connection: Connection, tables: MetaData = _own) -> list[str]:
    """Return what prevents a program from using a newer database schema.

    Args:
        connection: to the newer database.
        tables: those of the program.
    """
    return [_describe(change) for change in _changes(connection, tables) if _hinders(change, tables)]


def count_kept_rows(connection: Connection) -> dict[str, int]:
    """Return the number of rows of each table that a migration must keep."""
    names = inspect(connection).get_table_names()
    counted = [name for name in names if name in _own.tables and name not in _PASSING]
    return {name: connection.execute(select(func.count()).select_from(table(name))).scalar_one() for name in counted}


def find_losses(connection: Connection, kept: dict[str, int]) -> list[str]:
    """Return descriptions of rows and references lost by a migration.

    Args:
        connection: after the migration.
        kept: ``rows_kept`` before it.
    """
    names = set(inspect(connection).get_table_names())
    now = count_kept_rows(connection)
    found = [
        f"{name} has {now[name]} of {count} rows" for name, count in kept.items() if name in names and now[name] < count
    ]
    if connection.dialect.name == "sqlite" and (strays := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
        found.append(f"{len(strays)} rows refer to what is gone")  # Postgres checks this itself
    return found


def is_next_revision(revision: str, own: str) -> bool:
    """Return whether a schema revision directly follows this program's own."""
    return revision.isdecimal() and own.isdecimal() and int(revision) == int(own) + 1


def _changes(connection: Connection, tables: MetaData) -> Iterator[tuple[Any, ...]]:
    """Yield Alembic's changes from the database to these tables.

    ``remove_*`` stands for what only the database has.
    """

    def known(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "table" or name in tables.tables

    options = {"compare_type": True, "compare_server_default": True, "include_name": known}
    context = MigrationContext.configure(connection, opts=options)
    for change in compare_metadata(context, tables):
        # changes of one column come as a list
        yield from change if isinstance(change, list) else [change]


def _hinders(change: tuple[Any, ...], tables: MetaData) -> bool:
    what, subject = change[0], change[-1]
    match what:
        case "remove_column":
            return not (subject.nullable or subject.server_default is not None)
        case "add_index" | "remove_index":
            return bool(subject.unique)  # any other serves speed alone
        case "remove_fk":
            return any(column.name in tables.tables[subject.table.name].c for column in subject.columns)
        case _:
            return True


def _describe(change: tuple[Any, ...]) -> str:
    names = [str(getattr(part, "name", part)) for part in change[1:] if part is not None and not isinstance(part, dict)]
    return f"{change[0]} {' '.join(names[:3])}"
