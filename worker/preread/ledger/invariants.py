"""Consistency checks: each invariant of the ledger as a query.

``preread reconcile`` runs them on a live system; none should find anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, exists, func, or_, select

from preread.core.types import FileState, Outcome
from preread.db import schema
from preread.db.engine import database_now
from preread.db.review_schema import reading
from preread.ledger.registry import worker_may_run

_file, _root, _transition = schema.file.c, schema.root.c, schema.transition.c
_instance, _assessment, _finding = schema.instance.c, schema.assessment.c, schema.finding.c
_ENDED = (FileState.DONE, FileState.QUARANTINED, FileState.VANISHED)
_NEVER_ENDED = (FileState.MISSED, FileState.IGNORED)
_QUEUED = (FileState.READY, FileState.RETRY)
_STRETCH = 20_000


@dataclass(frozen=True, slots=True)
class Difference:
    """A violated invariant, or a difference between ledger and folder.

    Attributes:
        code: its kind; the runbook has a row for each.
        what: description, safe to print.
        root: the folder, safe to print; empty if none is concerned.
        path: below the root; ``None`` if no file is concerned.
        file_id: id of the version; ``None`` without one.
    """

    code: str
    what: str
    root: str = ""
    path: bytes | None = None
    file_id: int | None = None


def check_invariants(
    connection: Connection,
    root_ids: Sequence[int],
    clock: Callable[[Connection], datetime] = database_now,
) -> list[Difference]:
    """Return all violated invariants of watched folders and contents.

    Contents belong to no watched folder, and are all checked.
    """
    return [*_versions(connection, root_ids), *_claims(connection, clock(connection), root_ids), *_contents(connection)]


def _versions(connection: Connection, root_ids: Sequence[int]) -> Iterator[Difference]:
    for stretch in _stretches(connection, _file.id):
        for code, what, breach in _breaches():
            found = _selected(root_ids).where(stretch, breach)
            for row in connection.execute(found):
                yield Difference(code, f"it is {row.state}: {what}", row.root_text, row.path, row.id)


def _stretches(connection: Connection, number: Column[int]) -> Iterator[ColumnElement[bool]]:
    """Yield conditions that together cover a table.

    So that no statement runs for minutes over a million rows.
    """
    last = connection.execute(select(func.max(number))).scalar_one() or 0
    for start in range(0, last, _STRETCH):
        yield (number > start) & (number <= start + _STRETCH)


def _breaches() -> Iterator[tuple[str, str, ColumnElement[bool]]]:
    state, outcome = _file.state, _file.outcome
    ended, never = state.in_(_ENDED), state.in_(_NEVER_ENDED)
    yield "no_outcome", "it has no outcome", ended & (outcome.is_(None) | _file.committed_at.is_(None))
    contradicts = or_(
        (state == FileState.DONE) & (outcome == Outcome.UNREADABLE),
        (state == FileState.QUARANTINED) & (outcome != Outcome.UNREADABLE),
        never & outcome.is_not(None),
    )
    yield "wrong_outcome", "its outcome is not one of that state", contradicts
    unexplained = outcome.in_([Outcome.REFUSED, Outcome.UNREADABLE]) & _file.code.is_(None)
    yield "no_code", "it was refused or quarantined, and has no code", unexplained
    belongs = exists().where(
        _assessment.id == _file.assessment_id,
        _assessment.instance_id == _file.instance_id,
        _assessment.bundle_id == _file.bundle_id,
    )
    yield (
        "no_assessment",
        "it was assessed, and its content has no assessment",
        (outcome == Outcome.ASSESSED) & ~belongs,
    )
    yield "no_retry_time", "it waits for a time that is not set", (state == FileState.RETRY) & _file.retry_at.is_(None)
    outdated = state.in_(_QUEUED) & ~_file.newest
    yield "outdated_owed", "it waits to be read, and a newer version of its path is known", outdated
    other = schema.file.alias("other")
    newest = exists().where(other.c.root_id == _file.root_id, other.c.path_key == _file.path_key, other.c.newest)
    yield "no_newest", "no version of its path is the newest", ~_file.newest & ~newest
    moves = schema.transition.alias("moves")
    last = select(func.max(moves.c.id)).where(moves.c.file_id == _file.id).correlate(schema.file).scalar_subquery()
    told = exists().where(_transition.id == last, _transition.to_state == state)
    yield "history_broken", "its history does not end in that state", ~told


def _selected(root_ids: Sequence[int]) -> Select[*tuple[Any, ...]]:
    return (
        select(_file.id, _file.path, _file.state, _root.path_text.label("root_text"))
        .join(schema.root, _root.id == _file.root_id)
        .where(_file.root_id.in_(root_ids))
        .order_by(_file.id)
    )


def _claims(connection: Connection, now: datetime, root_ids: Sequence[int]) -> Iterator[Difference]:
    claimed = _selected(root_ids).where(_file.state == FileState.CLAIMED)
    rows = connection.execute(claimed.add_columns(_file.owner, _file.claim_token, _file.lease_until)).all()
    owners = {row.owner for row in rows if row.owner is not None}
    workers = connection.execute(select(schema.worker).where(schema.worker.c.id.in_(owners))).all()
    running = {row.id for row in workers if worker_may_run(row)}
    for row in rows:
        if (what := _claim_fault(row, now, running)) is not None:
            yield Difference("claim_without_lease", f"it is claimed, {what}", row.root_text, row.path, row.id)


def _claim_fault(row: Any, now: datetime, running: set[str]) -> str | None:
    if row.owner is None or row.claim_token is None or row.lease_until is None:
        return "and by nobody"
    if row.lease_until < now:
        return f"and its lease ran out at {row.lease_until:%Y-%m-%d %H:%M:%S} UTC"
    return None if row.owner in running else f"by {row.owner}, which does not run"


def _contents(connection: Connection) -> Iterator[Difference]:
    past = schema.past_outcome.c
    # a purge leaves the contents that kept reviews are about
    used = or_(*(exists().where(c.instance_id == _instance.id) for c in (_file, past, reading.c)))
    contents = select(_instance.id, _instance.sha256).where(~used).order_by(_instance.id)
    for stretch in _stretches(connection, _instance.id):
        for row in connection.execute(contents.where(stretch)):
            yield Difference("orphan_content", f"no file has the content {row.sha256}")
    said = exists().where(_finding.assessment_id == _assessment.id)
    silent = select(_assessment.id).where(~said).order_by(_assessment.id)
    for stretch in _stretches(connection, _assessment.id):
        for assessment_id in connection.execute(silent.where(stretch)).scalars():
            yield Difference("no_finding", f"the assessment {assessment_id} is without its findings")
