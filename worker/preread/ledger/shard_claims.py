"""Who may read a shard's films: transaction bodies behind ``Ledger``'s verbs for chosen versions; see there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, false, select

from preread.core.types import FileState
from preread.db import schema
from preread.ledger.claims import lone_in_flight, take, taken_before, wake_due
from preread.ledger.records import Claim
from preread.ledger.transitions import FRESH_START, chunks, move


def claim_these(
    connection: Connection,
    now: datetime,
    worker_id: str,
    lease_s: float,
    file_ids: Sequence[int],
    bundle_id: int | None,
    token: str,
    again: bool,
) -> list[Claim]:
    """See ``Ledger.claim_these``."""
    c = schema.file.c
    if again and (taken := taken_before(connection, now, token)):
        return taken
    in_flight = lone_in_flight(connection, worker_id)
    if any(in_flight):
        return []
    wake_due(connection, now, c.id.in_(file_ids))
    other = _of_another_bundle(bundle_id)
    locked = select(c.id, c.alone, c.state).where(c.id.in_(file_ids), (c.state == FileState.READY) | other)
    rows = connection.execute(locked.order_by(c.id).with_for_update(skip_locked=True)).all()
    chosen = [row for row in rows if not row.alone] or ([] if in_flight else rows[:1])
    # in one transaction with the claim: a worker with another bundle never sees these as READY
    done = [row.id for row in chosen if row.state == FileState.DONE]
    move(connection, now, done, FileState.DONE, FileState.READY, "to be read with another bundle", **FRESH_START)
    return take(connection, now, worker_id, lease_s, [row.id for row in chosen], token)


def owed_of(connection: Connection, file_ids: Sequence[int], bundle_id: int | None) -> set[int]:
    """See ``Ledger.owed_of``."""
    c = schema.file.c
    waits = (FileState.READY, FileState.CLAIMED, FileState.RETRY)
    owed = c.state.in_(waits) | _of_another_bundle(bundle_id)
    return {
        file_id
        for batch in chunks(file_ids)
        for file_id in connection.execute(select(c.id).where(c.id.in_(batch), owed)).scalars()
    }


def _of_another_bundle(bundle_id: int | None) -> ColumnElement[bool]:
    if bundle_id is None:
        return false()
    c = schema.file.c
    return (c.state == FileState.DONE) & c.newest & (c.bundle_id != bundle_id)
