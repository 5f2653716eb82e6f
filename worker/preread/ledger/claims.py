"""Claims on file versions: taken, renewed, given back, failed, recovered."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, false, select, update

from preread.core.errors import (
    EnvironmentFault,
    FileChanged,
    FileVanished,
    PrereadError,
    ShareDown,
    SlotCrashed,
    SlotDeadline,
    SlotError,
)
from preread.core.text.escaping import clean_text
from preread.core.types import FileState, Outcome
from preread.db import schema
from preread.db.statements import chunks
from preread.ledger import tombstones
from preread.ledger.discovery import gone_state
from preread.ledger.failing_sources import Source, claim_lanes, met_deadline_before
from preread.ledger.records import Claim
from preread.ledger.registry import dead_owners
from preread.ledger.transaction import Transaction, query, transaction
from preread.ledger.transitions import (
    FRESH_START,
    SET_FREE,
    end_claim,
    first_review_time,
    is_held_by,
    keep_outcomes,
    move_versions,
    record_transitions,
    state_after_claim,
)

ACKNOWLEDGED = "acknowledged"
MAX_ATTEMPTS = 3
MAX_INTERRUPTIONS = 3
LOCKED_FOR = timedelta(hours=24)
# No version waits for so long: a later time was set before the database's clock was set back.
LONGEST_RETRY = timedelta(minutes=30)
# How long a file that must run alone lets others go before it; then nothing is claimed until it had its turn.
ALONE_PATIENCE = timedelta(seconds=60)

_f = schema.file.c
_OF_CLAIM = (
    _f.id, _f.root_id, _f.path, _f.size_bytes, _f.mtime_ns, _f.epoch, _f.attempts, _f.interruptions, _f.alone,
    _f.settled_at, _f.failed_at, tombstones.stored_key_query().is_not(None).label("forgets"),
)  # fmt: skip

DIED_ALONE = "the worker died three times while it read this file alone"


# ---------------------------------------------------------------------- claiming


@transaction
def claim(
    tx: Transaction,
    root_ids: Sequence[int],
    limit: int,
    *,
    sources: Sequence[Source] = (),
    behind_limit: int | None = None,
) -> list[Claim]:
    """Claim READY file versions, live before backlog, newest first.

    Each gets attempts + 1, epoch + 1 and a lease. RETRY versions that are due become READY first. No two claims of one
    version are live at once, in whatever process or on whatever machine. See ``Claim.alone``.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        root_ids: the watched folders to claim from.
        limit: most versions to claim; none below 1.
        sources: folders whose files come after the others of their lane; after those come files that failed themselves.
        behind_limit: most versions to claim of those that come after others; ``None`` for ``limit``.

    Returns:
        The claims, committed before they are returned.
    """
    if limit < 1 or not root_ids:
        return []
    if tx.is_retry and (taken := _taken_before(tx)):
        return taken
    _wake_due(tx, _f.root_id.in_(root_ids))
    ready = [_f.state == FileState.READY, _f.root_id.in_(root_ids)]
    in_flight = _alone_in_flight(tx)
    if any(in_flight):
        return []
    # in the index's own order: by id alone, SQLite walks through all that is done to find that nothing is there
    first_alone = select(_f.id, _f.changed_at).where(*ready, _f.alone).order_by(_f.backlog, _f.id).limit(1)
    lonely = tx.connection.execute(first_alone).one_or_none()
    patience_ends = lonely is not None and lonely.changed_at <= tx.now - ALONE_PATIENCE
    if patience_ends and in_flight:
        return []
    file_ids: list[int] = []
    if not patience_ends:
        behind_left = limit if behind_limit is None else behind_limit
        # today's patients wait behind no archive
        for backlog in (~_f.backlog, _f.backlog):
            for lane, is_behind in claim_lanes(list(sources)):
                room = min(limit - len(file_ids), behind_left if is_behind else limit)
                if room > 0:
                    lane_ids = select(_f.id).where(*ready, ~_f.alone, backlog, *lane)
                    newest_first = lane_ids.order_by(_f.id.desc()).limit(room)
                    found = tx.connection.execute(newest_first.with_for_update(skip_locked=True)).scalars().all()
                    file_ids += found
                    behind_left -= len(found) if is_behind else 0
    if not file_ids and lonely is not None and not in_flight:
        only = select(_f.id).where(*ready, _f.alone, _f.id == lonely.id)
        file_ids += tx.connection.execute(only.with_for_update(skip_locked=True)).scalars()
    return _take(tx, file_ids)


@transaction
def claim_by_id(tx: Transaction, file_ids: Sequence[int], bundle_id: int | None = None) -> list[Claim]:
    """Claim those of the given file versions that are READY or due.

    Whatever their lane; see ``claim``.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        file_ids: the versions.
        bundle_id: also claim versions that are DONE under another bundle; their outcome stands until the next is
            committed. ``None`` for none of them.
    """
    if tx.is_retry and (taken := _taken_before(tx)):
        return taken
    in_flight = _alone_in_flight(tx)
    if any(in_flight):
        return []
    _wake_due(tx, _f.id.in_(file_ids))
    other = _of_another_bundle(bundle_id)
    locked = select(_f.id, _f.alone, _f.state).where(_f.id.in_(file_ids), (_f.state == FileState.READY) | other)
    rows = tx.connection.execute(locked.order_by(_f.id).with_for_update(skip_locked=True)).all()
    chosen = [row for row in rows if not row.alone] or ([] if in_flight else rows[:1])
    # in one transaction with the claim: a worker with another bundle never sees these as READY
    done = [row.id for row in chosen if row.state == FileState.DONE]
    move_versions(tx, done, FileState.DONE, FileState.READY, "to be read with another bundle", **FRESH_START)
    return _take(tx, [row.id for row in chosen])


@query
def find_pending(tx: Transaction, file_ids: Collection[int], bundle_id: int | None = None) -> set[int]:
    """Return the ids of those of the given file versions that are pending.

    Pending: READY, CLAIMED, RETRY, or to be claimed for this bundle; see ``claim_by_id``.
    """
    waits = (FileState.READY, FileState.CLAIMED, FileState.RETRY)
    pending = _f.state.in_(waits) | _of_another_bundle(bundle_id)
    return {
        file_id
        for batch in chunks(sorted(file_ids))
        for file_id in tx.connection.execute(select(_f.id).where(_f.id.in_(batch), pending)).scalars()
    }


def _of_another_bundle(bundle_id: int | None) -> ColumnElement[bool]:
    if bundle_id is None:
        return false()
    return (_f.state == FileState.DONE) & _f.newest & (_f.bundle_id != bundle_id)


def _taken_before(tx: Transaction) -> list[Claim]:
    """Return the claims of an earlier try of this call."""
    found = select(*_OF_CLAIM).where(_f.state == FileState.CLAIMED, _f.claim_token == tx.token).order_by(_f.id.desc())
    return _claims(tx.now, tx.connection.execute(found))


def _alone_in_flight(tx: Transaction) -> Sequence[bool]:
    """Return the column ``alone`` of each claim that this worker holds."""
    claimed = select(_f.alone).where(_f.state == FileState.CLAIMED, _f.owner == tx.worker_id)
    return tx.connection.execute(claimed).scalars().all()


def _take(tx: Transaction, file_ids: Sequence[int]) -> list[Claim]:
    """Claim READY versions that this transaction has locked.

    The claims are in the order of the ids.
    """
    if not file_ids:
        return []
    taken = (
        update(schema.file)
        .where(schema.column_in(tx.connection, _f.id, file_ids), _f.state == FileState.READY)
        .values(
            state=FileState.CLAIMED,
            changed_at=tx.now,
            attempts=_f.attempts + 1,
            epoch=_f.epoch + 1,
            owner=tx.worker_id,
            claim_token=tx.token,
            lease_until=tx.now + timedelta(seconds=tx.lease_s),
            retry_at=None,
        )
        .returning(*_OF_CLAIM)
    )
    claims = sorted(_claims(tx.now, tx.connection.execute(taken)), key=lambda claim: file_ids.index(claim.file_id))
    moved = [(claim.file_id, claim.epoch) for claim in claims]
    record_transitions(tx, moved, FileState.READY, FileState.CLAIMED, "claimed", tx.worker_id)
    return claims


def _wake_due(tx: Transaction, condition: ColumnElement[bool]) -> None:
    """Move due RETRY versions to READY."""
    over = (_f.retry_at <= tx.now) | (_f.retry_at > tx.now + LONGEST_RETRY)
    due = select(_f.id).where(_f.state == FileState.RETRY, over, condition).limit(1000)
    file_ids = tx.connection.execute(due.with_for_update(skip_locked=True)).scalars().all()
    move_versions(tx, file_ids, FileState.RETRY, FileState.READY, "due again", retry_at=None)


def _claims(now: datetime, rows: Iterable[Row[Any]]) -> list[Claim]:
    return [
        Claim(
            file_id=row.id,
            root_id=row.root_id,
            path=row.path,
            size_bytes=row.size_bytes,
            mtime_ns=row.mtime_ns,
            epoch=row.epoch,
            attempts=row.attempts,
            interruptions=row.interruptions,
            alone=row.alone,
            settled_for_s=(now - row.settled_at).total_seconds(),
            forgets=bool(row.forgets),
            failed=row.failed_at is not None,
        )
        for row in rows
    ]


@transaction
def renew(tx: Transaction, batch: Collection[Claim]) -> set[int]:
    """Extend the leases of claims; return the file ids still held.

    Returns:
        The file ids whose claims still hold; the others are fenced, and what they read must be dropped.
    """
    until = tx.now + timedelta(seconds=tx.lease_s)
    return {
        claim.file_id
        for claim in sorted(batch, key=lambda claim: claim.file_id)
        if tx.connection.execute(update(schema.file).where(is_held_by(claim)).values(lease_until=until)).rowcount
    }


# ---------------------------------------------------------------------- giving back


def _held_row(connection: Connection, claim: Claim) -> Row[*tuple[Any, ...]] | None:
    statement = select(_f.attempts, _f.locked_since, _f.newest, _f.outcome).where(is_held_by(claim)).with_for_update()
    return connection.execute(statement).one_or_none()


@transaction
def give_back(
    tx: Transaction,
    claim: Claim,
    why: EnvironmentFault | str,
    *,
    retry_in_s: float = 0.0,
    was_read: bool = False,
    held_slot: bool = False,
) -> FileState | None:
    """Give up a claim without fault of its file; refund its attempt.

    The new state: READY, or RETRY if ``retry_in_s`` is above 0; without it, ``FileChanged`` gives SETTLING and
    ``FileVanished`` MISSED or VANISHED. A version that has met nothing but such errors for 24 h is QUARANTINED with the
    last one's code. Whatever the error, SUPERSEDED if a newer version of the path is known.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        claim: the claim.
        why: the error, or a reason that is no fault of the file, e.g. ``"the worker stops"``.
        retry_in_s: seconds until the version is due again; 0 for at once.
        was_read: the file's bytes were read: the 24 h begin anew, as for ``ShareDown``.
        held_slot: the file held its inference process until the deadline: the version comes after others from now on.

    Returns:
        The new state; ``None`` if the claim was fenced.
    """
    row = _held_row(tx.connection, claim)
    if row is None:
        return state_after_claim(tx.connection, claim) if tx.is_retry else None
    values: dict[str, Any] = {"attempts": max(0, row.attempts - 1), "retry_at": None, "locked_since": row.locked_since}
    reason = why if isinstance(why, str) else f"{why.code}: {why}"
    if not row.newest:
        to_state = FileState.SUPERSEDED
    elif isinstance(why, FileChanged) and not retry_in_s:
        to_state = FileState.SETTLING
    elif isinstance(why, FileVanished) and not retry_in_s:
        to_state = gone_state(row.outcome)
    else:
        if was_read or isinstance(why, ShareDown):
            values["locked_since"] = None  # it was read, or no file of that root can be
        elif isinstance(why, EnvironmentFault):
            values["locked_since"] = row.locked_since or tx.now
            values |= {"failed_at": tx.now} if held_slot else {}
            if tx.now - values["locked_since"] >= LOCKED_FOR:
                return _quarantine(tx, claim, why, values)
        to_state = FileState.READY
        if retry_in_s > 0:
            to_state = FileState.RETRY
            values["retry_at"] = tx.now + timedelta(seconds=retry_in_s)
    end_claim(tx, claim, to_state, reason, **values)
    return to_state


@transaction
def record_failure(
    tx: Transaction,
    claim: Claim,
    error: SlotError,
    *,
    retry_in_s: float = 1.0,
    sha256: str | None = None,
    final: bool = False,
) -> FileState | None:
    """Record that a claim's inference process died; its attempt counts.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        claim: the claim.
        error: how the process ended.
        retry_in_s: seconds until the next attempt.
        sha256: of the bytes that it read; ``None`` if unknown.
        final: another try would end alike.

    Returns:
        RETRY; QUARANTINED if ``final``, at the third attempt, and at the second deadline of the version or of the
        content; SUPERSEDED if a newer version is known; ``None`` if the claim was fenced.
    """
    row = _held_row(tx.connection, claim)
    if row is None:
        return state_after_claim(tx.connection, claim) if tx.is_retry else None
    if not row.newest:
        end_claim(tx, claim, FileState.SUPERSEDED, f"{error.code}: {error}")
        return FileState.SUPERSEDED
    values: dict[str, Any] = {"failed_at": tx.now, "failed_code": error.code, "failed_sha256": sha256}
    if isinstance(error, SlotDeadline) and met_deadline_before(tx.connection, claim.file_id, sha256):
        return _quarantine(tx, claim, SlotDeadline(f"{error}; it is the second time for these bytes"), values)
    if final or row.attempts >= MAX_ATTEMPTS:
        return _quarantine(tx, claim, error, values)
    values |= {"retry_at": tx.now + timedelta(seconds=retry_in_s), "locked_since": None}
    end_claim(tx, claim, FileState.RETRY, f"{error.code}: {error}", **values)
    return FileState.RETRY


@transaction
def quarantine(tx: Transaction, claim: Claim, error: PrereadError) -> bool:
    """Quarantine a claimed file version with an error's code.

    For an error after which a later try is due, if no later try will come: a locked file when ``--once`` ends.

    Returns:
        ``False`` if the claim was fenced.
    """
    if _held_row(tx.connection, claim) is None:
        return tx.is_retry and state_after_claim(tx.connection, claim) is FileState.QUARANTINED
    _quarantine(tx, claim, error, {})
    return True


def quarantine_values(now: datetime, code: str, reason: str) -> dict[str, Any]:
    """Return the column values of a quarantined file version."""
    return {
        "outcome": Outcome.UNREADABLE,
        "code": code,
        "reason": clean_text(reason),
        "committed_at": now,
        "seal": None,
        "retry_at": None,
    }


def _quarantine(tx: Transaction, claim: Claim, error: PrereadError, values: dict[str, Any]) -> FileState:
    values = {**values, **quarantine_values(tx.now, error.code, str(error))}
    end_claim(tx, claim, FileState.QUARANTINED, f"{error.code}: {error}", **values)
    return FileState.QUARANTINED


@transaction
def recover_interrupted(tx: Transaction) -> int:
    """Return file versions of dead workers and expired leases to the queue.

    The versions become READY with interruptions + 1, their attempt refunded. After three interruptions a version runs
    alone, and then its attempts stay counted: the third such death quarantines it as ``slot_crashed``. To be called at
    start and every few seconds.

    Returns:
        The number of claims that were given back.
    """
    lost = _f.lease_until < tx.now
    dead = dead_owners(tx.connection)
    if dead:
        lost = lost | _f.owner.in_(dead)
    rows = tx.connection.execute(
        select(_f.id, _f.epoch, _f.owner, _f.attempts, _f.interruptions, _f.alone, _f.newest)
        .where(_f.state == FileState.CLAIMED, lost)
        .order_by(_f.id)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        interruptions = row.interruptions + 1
        values: dict[str, Any] = {"interruptions": interruptions, "alone": interruptions >= MAX_INTERRUPTIONS}
        to_state, why = FileState.READY, "the worker died or its lease ran out"
        if not row.newest:
            to_state, why = FileState.SUPERSEDED, "the worker died; a newer version is known"
        elif not row.alone:
            values["attempts"] = max(0, row.attempts - 1)
        elif row.attempts >= MAX_ATTEMPTS:
            to_state, why = FileState.QUARANTINED, DIED_ALONE
            keep_outcomes(tx, [row.id])
            values.update(quarantine_values(tx.now, SlotCrashed.code, DIED_ALONE))
            values["read_at"] = first_review_time(values)
        tx.connection.execute(
            update(schema.file)
            .where(_f.id == row.id, _f.state == FileState.CLAIMED, _f.epoch == row.epoch)
            .values({"state": to_state, "changed_at": tx.now, **SET_FREE, **values})
        )
        record_transitions(tx, [(row.id, row.epoch)], FileState.CLAIMED, to_state, why, row.owner)
    return len(rows)


# ---------------------------------------------------------------------- requeueing


@transaction
def requeue(
    tx: Transaction,
    file_ids: Collection[int],
    why: str,
    *,
    states: Collection[FileState] = (FileState.QUARANTINED,),
) -> int:
    """Move newest file versions to READY, with their attempts reset.

    An outcome stands until the next one is committed, and becomes a past outcome then.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        file_ids: the versions.
        why: the reason for the history.
        states: those from which versions are moved.

    Returns:
        The number of versions that moved.
    """
    count = 0
    for batch in chunks(sorted(set(file_ids))):
        newest = select(_f.id, _f.state).where(_f.id.in_(batch), _f.newest, _f.state.in_(tuple(states)))
        rows = tx.connection.execute(newest.order_by(_f.id).with_for_update()).all()
        for state in states:
            found = [row.id for row in rows if row.state == state]
            count += len(move_versions(tx, found, state, FileState.READY, why, **FRESH_START))
    return count


@transaction
def acknowledge_missed(tx: Transaction, file_ids: Collection[int], why: str) -> int:
    """Mark MISSED file versions as acknowledged; return their number.

    They stay listed, without an alarm.
    """
    missed = select(_f.id).where(_f.id.in_(list(file_ids)), _f.state == FileState.MISSED, _f.code.is_(None))
    unknown = tx.connection.execute(missed.order_by(_f.id)).scalars().all()
    return len(move_versions(tx, unknown, FileState.MISSED, FileState.MISSED, why, code=ACKNOWLEDGED))


@transaction
def requeue_quarantined(tx: Transaction, root_ids: Sequence[int], code: str, why: str) -> int:
    """Move file versions QUARANTINED with a code to READY; return the count.

    E.g. those with the code ``locked`` when a worker starts; see ``requeue``.
    """
    quarantined = select(_f.id).where(
        _f.state == FileState.QUARANTINED, _f.code == code, _f.newest, _f.root_id.in_(list(root_ids))
    )
    return requeue(tx, tx.connection.execute(quarantined.order_by(_f.id)).scalars().all(), why)
