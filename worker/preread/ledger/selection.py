"""Queries for quarantined, missed and requeueable file versions.

Queries only; states are changed by the verbs of the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, exists, false, func, or_, select

from preread.core.errors import UNREAD_CODES, SlotError
from preread.core.types import FileState, Outcome
from preread.db import schema
from preread.db.engine import read
from preread.db.statements import CHUNK, read_pages
from preread.ledger.transitions import normalise_root_path, path_key

REQUEUED_FROM = (FileState.DONE, FileState.QUARANTINED, FileState.RETRY)
"""The states from which a version can be put back into the queue."""

_file, _root = schema.file.c, schema.root.c
_other = schema.file.alias("other").c
_MAY_BE_WHOLE = UNREAD_CODES | {SlotError.code, *(kind.code for kind in SlotError.__subclasses__())}


@dataclass(frozen=True, slots=True)
class Selection:
    """Conditions on newest file versions, which must all hold.

    Attributes:
        file_ids: ids of versions.
        paths: absolute, as ``os.fsencode`` gives them: these files, and all files below these folders.
        states: states of versions.
        code: code of a quarantine or refusal.
        outcome: outcome of versions.
        root_ids: ids of watched folders.
        unknown_only: MISSED versions alone that are neither acknowledged nor known under a new name.
    """

    file_ids: tuple[int, ...] | None = None
    paths: tuple[bytes, ...] | None = None
    states: tuple[FileState, ...] | None = None
    code: str | None = None
    outcome: Outcome | None = None
    root_ids: tuple[int, ...] | None = None
    unknown_only: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One file version of a selection; texts are safe to print.

    ``since``: time of its last transition.
    """

    file_id: int
    root_text: str
    path: bytes
    path_text: str
    size_bytes: int
    state: FileState
    outcome: Outcome | None
    code: str | None
    reason: str | None
    attempts: int
    since: datetime


@dataclass(frozen=True, slots=True)
class OutcomeCount:
    """Number of file versions with the same state, outcome and code."""

    state: FileState
    outcome: Outcome | None
    code: str | None
    files: int


def may_be_intact(code: str) -> bool:
    """Return whether a file quarantined with this code may be intact.

    It may be if the fault lay outside the file.
    """
    return code in _MAY_BE_WHOLE


def find_root_id(engine: Engine, path: bytes) -> int | None:
    """Return the id of a watched folder; ``None`` if it is unknown."""
    wanted = select(_root.id).where(_root.path_key == path_key(normalise_root_path(path)))
    return read(engine, lambda connection: connection.execute(wanted).scalar_one_or_none())


def count_by_outcome(engine: Engine, selection: Selection) -> list[OutcomeCount]:
    """Count the file versions of a selection by state, outcome and code."""
    grouped = (_file.state, _file.outcome, _file.code)

    def body(connection: Connection) -> list[OutcomeCount]:
        statement = select(*grouped, func.count().label("files")).where(_which(connection, selection))
        return [
            OutcomeCount(
                FileState(row.state), None if row.outcome is None else Outcome(row.outcome), row.code, row.files
            )
            for row in connection.execute(statement.group_by(*grouped).order_by(*grouped))
        ]

    return read(engine, body)


def read_entry_pages(engine: Engine, selection: Selection) -> Iterator[Sequence[Entry]]:
    """Yield the file versions of a selection by rising id, in pages.

    Raises:
        DatabaseAway, DatabaseUnsuitable, SchemaOutdated: see ``engine.read``.
    """
    return read_pages(engine, partial(_entries, selection=selection), attrgetter("file_id"), 0)


def _entries(connection: Connection, after: int, *, selection: Selection) -> list[Entry]:
    statement = _selected().where(_which(connection, selection), _file.id > after)
    return [
        Entry(
            file_id=row.id,
            root_text=row.root_text,
            path=row.path,
            path_text=row.path_text,
            size_bytes=row.size_bytes,
            state=FileState(row.state),
            outcome=None if row.outcome is None else Outcome(row.outcome),
            code=row.code,
            reason=row.reason,
            attempts=row.attempts,
            since=row.changed_at,
        )
        for row in connection.execute(statement.order_by(_file.id).limit(CHUNK))
    ]


def count_missed(connection: Connection, root_ids: Collection[int]) -> int:
    """Count the MISSED file versions that nobody acknowledged.

    A version whose inode, size and time lie under another name was renamed, not missed.
    """
    which = (_file.state == FileState.MISSED, _unexplained(), _file.root_id.in_(list(root_ids)))
    return connection.execute(select(func.count()).select_from(schema.file).where(*which)).scalar_one()


def _unexplained() -> ColumnElement[bool]:
    same = (
        (_other.root_id == _file.root_id)
        & (_other.inode == _file.inode)
        & (_other.size_bytes == _file.size_bytes)
        & (_other.mtime_ns == _file.mtime_ns)
        & (_other.state != FileState.MISSED)
    )
    renamed = exists().where(same, _file.inode != 0)
    return and_(_file.code.is_(None), _file.newest, ~renamed)


def _selected() -> Select[*tuple[Any, ...]]:
    return select(
        _file.id, _file.path, _file.path_text, _file.size_bytes, _file.state, _file.outcome, _file.code, _file.reason,
        _file.attempts, _file.changed_at, _root.path_text.label("root_text"),
    ).join(schema.root, _root.id == _file.root_id)  # fmt: skip


def _which(connection: Connection, wanted: Selection) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = [_file.newest]
    if wanted.file_ids is not None:
        conditions.append(_file.id.in_(wanted.file_ids))
    if wanted.paths is not None:
        conditions.append(or_(false(), *_below(connection, wanted.paths)))
    if wanted.states is not None:
        conditions.append(_file.state.in_(wanted.states))
    if wanted.code is not None:
        conditions.append(_file.code == wanted.code)
    if wanted.outcome is not None:
        conditions.append(_file.outcome == wanted.outcome)
    if wanted.root_ids is not None:
        conditions.append(_file.root_id.in_(wanted.root_ids))
    if wanted.unknown_only:
        conditions.append(_unexplained())
    return and_(*conditions)


def _below(connection: Connection, paths: Sequence[bytes]) -> list[ColumnElement[bool]]:
    conditions = []
    for root in connection.execute(select(_root.id, _root.path)).all():
        prefix = os.path.join(root.path, b"")
        for path in map(normalise_root_path, paths):
            if os.path.join(path, b"") == prefix or prefix.startswith(os.path.join(path, b"")):
                conditions.append(_file.root_id == root.id)
            elif path.startswith(prefix):
                inside = path[len(prefix) :]
                # "0" is the byte after "/": everything from "folder/" up to, not including, "folder0" lies below
                below = (_file.path >= inside + b"/") & (_file.path < inside + b"0")
                conditions.append((_file.root_id == root.id) & ((_file.path_key == path_key(inside)) | below))
    return conditions
