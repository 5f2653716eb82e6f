"""Who may read what: transaction bodies behind ``Ledger``'s verbs of claiming. See there for what each does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select, update

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
from preread.core.types import FileState, Outcome, Population, RefusalCode
from preread.db import schema
from preread.ledger import tombstones as forgetting
from preread.ledger.discovery import gone_state
from preread.ledger.failing_sources import Source, lanes, was_late
from preread.ledger.records import Claim
from preread.ledger.transitions import (
    FRESH_START,
    SET_FREE,
    absolute,
    chunks,
    ended_as,
    held,
    keep_outcomes,
    leave_claim,
    move,
    path_key,
    read_with,
    record,
)
from preread.ledger.workers import dead_owners

ACKNOWLEDGED = "acknowledged"
MAX_ATTEMPTS = 3
MAX_INTERRUPTIONS = 3
LOCKED_FOR = timedelta(hours=24)
# No version waits for so long: what is due later was put off before the database's clock was set back.
LONGEST_RETRY = timedelta(minutes=30)
# How long a file that must run alone lets others go before it; then nothing new is claimed until it had its turn.
ALONE_PATIENCE = timedelta(seconds=60)

# Refusals that another declaration of the root may turn: the gate asks the declaration for these and for no other.
_REFUSED_BY_DECLARATION = (RefusalCode.AGE_UNKNOWN, RefusalCode.AGE_OUTSIDE, RefusalCode.VIEW)
_f = schema.file.c
_OF_CLAIM = (
    _f.id, _f.root_id, _f.path, _f.size_bytes, _f.mtime_ns, _f.epoch, _f.attempts, _f.interruptions, _f.alone,
    _f.settled_at, _f.failed_at, forgetting.key_value().is_not(None).label("forgets"),
)  # fmt: skip

DECLARED_ANEW = "the root declares another population"

DIED_ALONE = "the worker died three times while it read this file and nothing else"


# ---------------------------------------------------------------------- claiming


def claim(
    connection: Connection,
    now: datetime,
    worker_id: str,
    lease_s: float,
    root_ids: Sequence[int],
    limit: int,
    sources: Sequence[Source],
    behind_limit: int | None,
    token: str,
    again: bool,
) -> list[Claim]:
    """See ``Ledger.claim``. ``token``: of this call, to find a claim whose answer was lost."""
    if limit < 1 or not root_ids:
        return []
    c = schema.file.c
    if again and (taken := taken_before(connection, now, token)):
        return taken
    wake_due(connection, now, c.root_id.in_(root_ids))
    ready = [c.state == FileState.READY, c.root_id.in_(root_ids)]
    in_flight = lone_in_flight(connection, worker_id)
    if any(in_flight):
        return []
    # in the index's own order: by id alone, SQLite walks through all that is done to find that nothing is there
    first_alone = select(c.id, c.changed_at).where(*ready, c.alone).order_by(c.backlog, c.id).limit(1)
    lonely = connection.execute(first_alone).one_or_none()
    patience_ends = lonely is not None and lonely.changed_at <= now - ALONE_PATIENCE
    if patience_ends and in_flight:
        return []
    file_ids: list[int] = []
    if not patience_ends:
        behind_left = limit if behind_limit is None else behind_limit
        # today's patients wait behind no archive
        for backlog in (~c.backlog, c.backlog):
            for lane, is_behind in lanes(sources):
                room = min(limit - len(file_ids), behind_left if is_behind else limit)
                if room > 0:
                    newest_first = select(c.id).where(*ready, ~c.alone, backlog, *lane).order_by(c.id.desc())
                    found = (
                        connection.execute(newest_first.limit(room).with_for_update(skip_locked=True)).scalars().all()
                    )
                    file_ids += found
                    behind_left -= len(found) if is_behind else 0
    if not file_ids and lonely is not None and not in_flight:
        only = select(c.id).where(*ready, c.alone, c.id == lonely.id)
        file_ids += connection.execute(only.with_for_update(skip_locked=True)).scalars()
    return take(connection, now, worker_id, lease_s, file_ids, token)


def taken_before(connection: Connection, now: datetime, token: str) -> list[Claim]:
    """Return the claims of a call whose answer was lost."""
    c = schema.file.c
    found = select(*_OF_CLAIM).where(c.state == FileState.CLAIMED, c.claim_token == token).order_by(c.id.desc())
    return _claims(now, connection.execute(found))


def lone_in_flight(connection: Connection, worker_id: str) -> Sequence[bool]:
    """Return of each claim that this worker holds whether it is to run alone."""
    c = schema.file.c
    return connection.execute(select(c.alone).where(c.state == FileState.CLAIMED, c.owner == worker_id)).scalars().all()


def take(
    connection: Connection, now: datetime, worker_id: str, lease_s: float, file_ids: Sequence[int], token: str
) -> list[Claim]:
    """Claim READY versions that this transaction has locked; the claims come in their order."""
    if not file_ids:
        return []
    c = schema.file.c
    taken = (
        update(schema.file)
        .where(schema.among(connection, c.id, file_ids), c.state == FileState.READY)
        .values(
            state=FileState.CLAIMED,
            changed_at=now,
            attempts=c.attempts + 1,
            epoch=c.epoch + 1,
            owner=worker_id,
            claim_token=token,
            lease_until=now + timedelta(seconds=lease_s),
            retry_at=None,
        )
        .returning(*_OF_CLAIM)
    )
    found = sorted(_claims(now, connection.execute(taken)), key=lambda one: file_ids.index(one.file_id))
    moved = [(one.file_id, one.epoch) for one in found]
    record(connection, now, moved, FileState.READY, FileState.CLAIMED, "claimed", worker_id)
    return found


def wake_due(connection: Connection, now: datetime, which: ColumnElement[bool]) -> None:
    """Make READY those of the RETRY versions whose time has come."""
    c = schema.file.c
    over = (c.retry_at <= now) | (c.retry_at > now + LONGEST_RETRY)
    due = select(c.id).where(c.state == FileState.RETRY, over, which).limit(1000)
    file_ids = connection.execute(due.with_for_update(skip_locked=True)).scalars().all()
    move(connection, now, file_ids, FileState.RETRY, FileState.READY, "due again", retry_at=None)


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


def renew(connection: Connection, now: datetime, lease_s: float, batch: Collection[Claim]) -> set[int]:
    """See ``Ledger.renew``."""
    until = now + timedelta(seconds=lease_s)
    return {
        one.file_id
        for one in sorted(batch, key=lambda one: one.file_id)
        if connection.execute(update(schema.file).where(held(one)).values(lease_until=until)).rowcount
    }


# ---------------------------------------------------------------------- giving back


def _held_row(connection: Connection, one: Claim) -> Row[*tuple[Any, ...]] | None:
    c = schema.file.c
    statement = select(c.attempts, c.locked_since, c.newest, c.outcome).where(held(one)).with_for_update()
    return connection.execute(statement).one_or_none()


def give_back(
    connection: Connection,
    now: datetime,
    one: Claim,
    why: EnvironmentFault | str,
    retry_in_s: float,
    was_read: bool,
    held_slot: bool,
    again: bool,
) -> FileState | None:
    """See ``Ledger.give_back``."""
    row = _held_row(connection, one)
    if row is None:
        return ended_as(connection, one) if again else None
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
            values["locked_since"] = row.locked_since or now
            values |= {"failed_at": now} if held_slot else {}
            if now - values["locked_since"] >= LOCKED_FOR:
                return _set_aside(connection, now, one, why, values)
        to_state = FileState.READY
        if retry_in_s > 0:
            to_state = FileState.RETRY
            values["retry_at"] = now + timedelta(seconds=retry_in_s)
    leave_claim(connection, now, one, to_state, reason, **values)
    return to_state


def fail(
    connection: Connection,
    now: datetime,
    one: Claim,
    error: SlotError,
    retry_in_s: float,
    sha256: str | None,
    final: bool,
    again: bool,
) -> FileState | None:
    """See ``Ledger.fail``."""
    row = _held_row(connection, one)
    if row is None:
        return ended_as(connection, one) if again else None
    if not row.newest:
        leave_claim(connection, now, one, FileState.SUPERSEDED, f"{error.code}: {error}")
        return FileState.SUPERSEDED
    values: dict[str, Any] = {"failed_at": now, "failed_code": error.code, "failed_sha256": sha256}
    if isinstance(error, SlotDeadline) and was_late(connection, one.file_id, sha256):
        return _set_aside(connection, now, one, SlotDeadline(f"{error}; it is the second time for these bytes"), values)
    if final or row.attempts >= MAX_ATTEMPTS:
        return _set_aside(connection, now, one, error, values)
    values |= {"retry_at": now + timedelta(seconds=retry_in_s), "locked_since": None}
    leave_claim(connection, now, one, FileState.RETRY, f"{error.code}: {error}", **values)
    return FileState.RETRY


def quarantine(connection: Connection, now: datetime, one: Claim, error: PrereadError, again: bool) -> bool:
    """See ``Ledger.quarantine``."""
    if _held_row(connection, one) is None:
        return again and ended_as(connection, one) is FileState.QUARANTINED
    _set_aside(connection, now, one, error, {})
    return True


def set_aside_values(now: datetime, code: str, reason: str) -> dict[str, Any]:
    """Return what a quarantined version holds besides its state."""
    return {
        "outcome": Outcome.UNREADABLE,
        "code": code,
        "reason": clean_text(reason),
        "committed_at": now,
        "seal": None,
        "retry_at": None,
    }


def _set_aside(
    connection: Connection, now: datetime, one: Claim, error: PrereadError, values: dict[str, Any]
) -> FileState:
    values = {**values, **set_aside_values(now, error.code, str(error))}
    leave_claim(connection, now, one, FileState.QUARANTINED, f"{error.code}: {error}", **values)
    return FileState.QUARANTINED


def recover_interrupted(connection: Connection, now: datetime) -> int:
    """See ``Ledger.recover_interrupted``."""
    c = schema.file.c
    lost = c.lease_until < now
    dead = dead_owners(connection)
    if dead:
        lost = lost | c.owner.in_(dead)
    rows = connection.execute(
        select(c.id, c.epoch, c.owner, c.attempts, c.interruptions, c.alone, c.newest)
        .where(c.state == FileState.CLAIMED, lost)
        .order_by(c.id)
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
            keep_outcomes(connection, now, [row.id])
            values.update(set_aside_values(now, SlotCrashed.code, DIED_ALONE))
            values["read_at"] = read_with(values)
        connection.execute(
            update(schema.file)
            .where(c.id == row.id, c.state == FileState.CLAIMED, c.epoch == row.epoch)
            .values({"state": to_state, "changed_at": now, **SET_FREE, **values})
        )
        record(connection, now, [(row.id, row.epoch)], FileState.CLAIMED, to_state, why, row.owner)
    return len(rows)


# ---------------------------------------------------------------------- reopening


def reopen(
    connection: Connection,
    now: datetime,
    file_ids: Sequence[int],
    why: str,
    states: Collection[FileState] = (FileState.QUARANTINED,),
) -> int:
    """See ``Ledger.reopen``."""
    c = schema.file.c
    count = 0
    for batch in chunks(sorted(set(file_ids))):
        rows = connection.execute(
            select(c.id, c.state).where(c.id.in_(batch), c.newest, c.state.in_(states)).order_by(c.id).with_for_update()
        ).all()
        for state in states:
            found = [row.id for row in rows if row.state == state]
            count += len(move(connection, now, found, state, FileState.READY, why, **FRESH_START))
    return count


def acknowledge_missed(connection: Connection, now: datetime, file_ids: Sequence[int], why: str) -> int:
    """See ``Ledger.acknowledge_missed``."""
    c = schema.file.c
    unknown = connection.execute(
        select(c.id).where(c.id.in_(file_ids), c.state == FileState.MISSED, c.code.is_(None)).order_by(c.id)
    ).scalars().all()  # fmt: skip
    return len(move(connection, now, unknown, FileState.MISSED, FileState.MISSED, why, code=ACKNOWLEDGED))


def reopen_code(connection: Connection, now: datetime, root_ids: Sequence[int], code: str, why: str) -> int:
    """See ``Ledger.reopen_code``."""
    c = schema.file.c
    file_ids = connection.execute(
        select(c.id)
        .where(c.state == FileState.QUARANTINED, c.code == code, c.newest, c.root_id.in_(root_ids))
        .order_by(c.id)
    ).scalars().all()  # fmt: skip
    return reopen(connection, now, file_ids, why)


def reopen_refused(
    connection: Connection, now: datetime, root_path: bytes, population: Population, path_pattern: str | None
) -> int:
    """Make READY what the root's earlier declaration refused; call it before the new one is stored.

    The population under which a version was judged stands in its own row, so that a worker that starts again with the
    same declaration finds nothing here.
    """
    roots, c = schema.root.c, schema.file.c
    root = connection.execute(
        select(roots.id, roots.path_pattern).where(roots.path_key == path_key(absolute(root_path)))
    ).one_or_none()
    if root is None:
        return 0
    refused = (
        select(c.id)
        .where(c.root_id == root.id, c.state == FileState.DONE, c.newest)
        .where(c.outcome == Outcome.REFUSED, c.code.in_(_REFUSED_BY_DECLARATION))
        .order_by(c.id)
    )
    if root.path_pattern == path_pattern:
        refused = refused.where(c.population != population)
    file_ids = connection.execute(refused).scalars().all()
    return len(move(connection, now, file_ids, FileState.DONE, FileState.READY, DECLARED_ANEW, **FRESH_START))
