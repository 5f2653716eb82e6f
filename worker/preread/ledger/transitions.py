"""State transitions: compare-and-set updates with ``transition`` rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, ScalarSelect, func, insert, literal, select, text, update

from preread.core.text.escaping import clean_text
from preread.core.types import FileState
from preread.db import schema
from preread.db.review_schema import reading
from preread.db.statements import chunks
from preread.ledger.records import Claim
from preread.ledger.transaction import Transaction

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
"""Columns of a version that is to be read, for the first time or again; its last outcome stands meanwhile."""

_KEPT = ("outcome", "code", "reason", "population", "gate_caveats", "instance_id", "assessment_id", "bundle_id")
_RESULT = ("outcome", "code", "assessment_id")


def path_key(path: bytes) -> bytes:
    """Return the SHA-256 digest (32 bytes) by which a path is indexed."""
    return hashlib.sha256(path).digest()


def normalise_root_path(path: bytes) -> bytes:
    """Remove trailing and doubled slashes from a watched folder's path."""
    return os.path.normpath(path)


# one after the other and always in one order: else two transactions could wait for each other
_LOCKS = text(
    "SELECT pg_advisory_xact_lock(hashtextextended(name, :kind))"
    ' FROM (SELECT unnest(CAST(:names AS text[])) COLLATE "C" AS name ORDER BY 1) AS ordered'
)


def lock_names(connection: Connection, names: Collection[str], kind: int) -> None:
    """Take an advisory lock on each name until the transaction ends.

    Does nothing on SQLite, which has one writer.

    Args:
        connection: in a transaction.
        names: what to lock, in one order for all transactions.
        kind: number of the namespace; equal names of different kinds are different locks.
    """
    if names and connection.dialect.name == "postgresql":
        connection.execute(_LOCKS, {"names": list(names), "kind": kind})


def record_transitions(
    tx: Transaction,
    moved: Iterable[tuple[int, int]],
    from_state: FileState | None,
    to_state: FileState,
    why: str,
    worker_id: str | None = None,
) -> None:
    """Append a row to the table ``transition`` for each file version.

    Args:
        tx: the transaction.
        moved: ``(file_id, epoch)`` of each version.
        from_state: the state that was left; ``None`` for a new version.
        to_state: the state that was entered.
        why: the reason for the history.
        worker_id: the worker that held the claim; ``None`` if none did.
    """
    rows = [
        {
            "file_id": file_id,
            "epoch": epoch,
            "from_state": from_state,
            "to_state": to_state,
            "at": tx.now,
            "why": clean_text(why) or "",
            "worker_id": worker_id,
        }
        for file_id, epoch in moved
    ]
    if rows:
        tx.connection.execute(insert(schema.transition), rows)


def move_versions(
    tx: Transaction,
    file_ids: Sequence[int],
    from_state: FileState,
    to_state: FileState,
    why: str,
    **values: Any,
) -> list[tuple[int, int]]:
    """Move file versions from one state to another; return those moved.

    Args:
        tx: the transaction.
        file_ids: the versions.
        from_state: the state that is left; versions in another are skipped.
        to_state: the state that is entered.
        why: the reason for the history.
        values: other columns to set.

    Returns:
        ``(file_id, epoch)`` of each version that moved.
    """
    columns = schema.file.c
    moved: list[tuple[int, int]] = []
    if "outcome" in values:
        values["read_at"] = first_review_time(values)
    for batch in chunks(sorted(set(file_ids))):
        result = tx.connection.execute(
            update(schema.file)
            .where(columns.id.in_(batch), columns.state == from_state)
            .values(state=to_state, changed_at=tx.now, **values)
            .returning(columns.id, columns.epoch)
        )
        moved.extend((row.id, row.epoch) for row in result)
    record_transitions(tx, moved, from_state, to_state, why)
    return moved


def is_held_by(claim: Claim) -> ColumnElement[bool]:
    """Return the SQL condition that a file version is CLAIMED by a claim."""
    columns = schema.file.c
    return (columns.id == claim.file_id) & (columns.state == FileState.CLAIMED) & (columns.epoch == claim.epoch)


def end_claim(tx: Transaction, claim: Claim, to_state: FileState, why: str, **values: Any) -> bool:
    """End a claim with a new file state; return ``False`` if it was fenced.

    If it was fenced, nothing is changed.
    """
    columns = schema.file.c
    here = select(columns.owner, columns.outcome).where(is_held_by(claim)).with_for_update()
    owner = tx.connection.execute(here).one_or_none()
    if owner is None:
        return False
    if "outcome" in values and owner.outcome is not None:
        keep_outcomes(tx, [claim.file_id])
        values["read_at"] = first_review_time(values)
    tx.connection.execute(
        update(schema.file)
        .where(is_held_by(claim))
        .values({"state": to_state, "changed_at": tx.now, **SET_FREE, **values})
    )
    record_transitions(tx, [(claim.file_id, claim.epoch)], FileState.CLAIMED, to_state, why, owner.owner)
    return True


def keep_outcomes(tx: Transaction, file_ids: Sequence[int]) -> None:
    """Copy file outcomes that will be replaced to ``past_outcome``.

    Versions without an outcome are skipped.
    """
    columns = schema.file.c
    kept = [columns[name] for name in (*_KEPT, "committed_at")]
    for batch in chunks(sorted(set(file_ids))):
        tx.connection.execute(
            insert(schema.past_outcome).from_select(
                ["file_id", *_KEPT, "committed_at", "replaced_at"],
                select(columns.id, *kept, literal(tx.now, schema.UtcDateTime()))
                .where(columns.id.in_(batch), columns.outcome.is_not(None), columns.committed_at.is_not(None))
                .order_by(columns.id),
            )
        )


def first_review_time(values: Mapping[str, Any]) -> ScalarSelect[datetime]:
    """Return the SQL expression for the time of a result's first review.

    ``NULL`` if it has no review.

    Args:
        values: columns that the version is about to get; others keep their value.
    """
    file, signed = schema.file.c, reading.c
    same = (signed[name].is_not_distinct_from(values.get(name, file[name])) for name in _RESULT)
    return (
        select(func.min(signed.signed_at))
        .where(signed.file_id == file.id, *same)
        .correlate(schema.file)
        .scalar_subquery()
    )


def state_after_claim(connection: Connection, claim: Claim) -> FileState | None:
    """Return the file state in which a claim ended; ``None`` if it has not.

    If the reply to a commit was lost, this shows whether it was committed.
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
