"""Moves between the states of file versions: guarded by the state they leave, each recorded as a transition row."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, ScalarSelect, func, insert, literal, select, text, update

from preread.core.text.escaping import clean_text
from preread.core.types import FileState
from preread.db import schema
from preread.db.review_schema import reading
from preread.ledger.records import Claim

T = TypeVar("T")

CHUNK = 500
"""Rows per statement: far below the limits on bound parameters of either database."""

SET_FREE: dict[str, Any] = {"owner": None, "claim_token": None, "lease_until": None}
NOT_FAILED: dict[str, Any] = {"failed_at": None, "failed_code": None, "failed_sha256": None}
FRESH_START: dict[str, Any] = {
    "attempts": 0,
    "interruptions": 0,
    "alone": False,
    "retry_at": None,
    "locked_since": None,
    **NOT_FAILED,
}
"""What a version begins with when it is to be read, for the first time or again; its last outcome stands meanwhile."""

_KEPT = ("outcome", "code", "reason", "population", "gate_caveats", "instance_id", "assessment_id", "bundle_id")
_RESULT = ("outcome", "code", "assessment_id")


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Yield the items in order, ``size`` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def path_key(path: bytes) -> bytes:
    """Return what stands for a path in the indexes."""
    return hashlib.sha256(path).digest()


def absolute(path: bytes) -> bytes:
    """Return a root's path in the one form under which it is known: no trailing slash, no doubled one."""
    return os.path.normpath(path)


# one after the other and always in one order: else two transactions could wait for each other
_LOCKS = text(
    "SELECT pg_advisory_xact_lock(hashtextextended(name, :kind))"
    ' FROM (SELECT unnest(CAST(:names AS text[])) COLLATE "C" AS name ORDER BY 1) AS ordered'
)


def lock(connection: Connection, names: Collection[str], kind: int) -> None:
    """Let transactions that name the same wait for each other, until this one ends. SQLite has one writer anyway.

    Args:
        kind: of name; equal names of different kinds are different locks.
    """
    if names and connection.dialect.name == "postgresql":
        connection.execute(_LOCKS, {"names": list(names), "kind": kind})


def record(
    connection: Connection,
    now: datetime,
    moved: Iterable[tuple[int, int]],
    from_state: FileState | None,
    to_state: FileState,
    why: str,
    worker_id: str | None = None,
) -> None:
    """Append a transition row for each ``(file_id, epoch)``."""
    rows = [
        {
            "file_id": file_id,
            "epoch": epoch,
            "from_state": from_state,
            "to_state": to_state,
            "at": now,
            "why": clean_text(why) or "",
            "worker_id": worker_id,
        }
        for file_id, epoch in moved
    ]
    if rows:
        connection.execute(insert(schema.transition), rows)


def move(
    connection: Connection,
    now: datetime,
    file_ids: Sequence[int],
    from_state: FileState,
    to_state: FileState,
    why: str,
    *,
    worker_id: str | None = None,
    **values: Any,
) -> list[tuple[int, int]]:
    """Compare and set: those of the versions that are in ``from_state`` go to ``to_state``, with ``values``.

    Returns:
        ``(file_id, epoch)`` of each that moved.
    """
    columns = schema.file.c
    moved: list[tuple[int, int]] = []
    if "outcome" in values:
        values["read_at"] = read_with(values)
    for batch in chunks(sorted(set(file_ids))):
        result = connection.execute(
            update(schema.file)
            .where(columns.id.in_(batch), columns.state == from_state)
            .values(state=to_state, changed_at=now, **values)
            .returning(columns.id, columns.epoch)
        )
        moved.extend((row.id, row.epoch) for row in result)
    record(connection, now, moved, from_state, to_state, why, worker_id)
    return moved


def held(claim: Claim) -> ColumnElement[bool]:
    """Return the guard: this version is claimed, and by this claim."""
    columns = schema.file.c
    return (columns.id == claim.file_id) & (columns.state == FileState.CLAIMED) & (columns.epoch == claim.epoch)


def leave_claim(
    connection: Connection, now: datetime, claim: Claim, to_state: FileState, why: str, **values: Any
) -> bool:
    """End a claim with this state and these values; ``False`` when it was fenced, and then nothing is written."""
    columns = schema.file.c
    here = select(columns.owner, columns.outcome).where(held(claim)).with_for_update()
    owner = connection.execute(here).one_or_none()
    if owner is None:
        return False
    if "outcome" in values and owner.outcome is not None:
        keep_outcomes(connection, now, [claim.file_id])
        values["read_at"] = read_with(values)
    connection.execute(
        update(schema.file).where(held(claim)).values({"state": to_state, "changed_at": now, **SET_FREE, **values})
    )
    record(connection, now, [(claim.file_id, claim.epoch)], FileState.CLAIMED, to_state, why, owner.owner)
    return True


def keep_outcomes(connection: Connection, now: datetime, file_ids: Sequence[int]) -> None:
    """Note the outcomes that are about to be replaced; a version without one is passed over."""
    columns = schema.file.c
    kept = [columns[name] for name in (*_KEPT, "committed_at")]
    for batch in chunks(sorted(set(file_ids))):
        connection.execute(
            insert(schema.past_outcome).from_select(
                ["file_id", *_KEPT, "committed_at", "replaced_at"],
                select(columns.id, *kept, literal(now, schema.UtcDateTime()))
                .where(columns.id.in_(batch), columns.outcome.is_not(None), columns.committed_at.is_not(None))
                .order_by(columns.id),
            )
        )


def read_with(values: Mapping[str, Any]) -> ScalarSelect[datetime]:
    """Return what becomes of ``read_at`` where the result changes: when somebody first signed the new one, if ever.

    Args:
        values: what the version is about to hold; what is not named stays.
    """
    file, signed = schema.file.c, reading.c
    same = (signed[name].is_not_distinct_from(values.get(name, file[name])) for name in _RESULT)
    return (
        select(func.min(signed.signed_at))
        .where(signed.file_id == file.id, *same)
        .correlate(schema.file)
        .scalar_subquery()
    )


def ended_as(connection: Connection, claim: Claim) -> FileState | None:
    """Return how this very claim ended, ``None`` while it has not.

    After a commit whose answer was lost, this tells whether it arrived.
    """
    columns = schema.transition.c
    state = connection.execute(
        select(columns.to_state)
        .where(
            columns.file_id == claim.file_id,
            columns.epoch == claim.epoch,
            columns.from_state == FileState.CLAIMED,
        )
        .order_by(columns.id)
        .limit(1)
    ).scalar_one_or_none()
    return None if state is None else FileState(state)
