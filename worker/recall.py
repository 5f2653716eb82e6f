"""The films that a withdrawn bundle spoke of, and who saw them: whoever relied on an answer can be told.

Who saw a film comes from the audit trail: the page, the API and the shell put every film that is opened there by its
number. Lists, searches and exports show answers without naming each film; how often these ran is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, exists, func, or_, select

from worker.audit import Action
from worker.domain import JSONObject
from worker.result_records import iso, result_to_json
from worker.results import ResultRow, selected, typed
from worker.review_schema import account, audit
from worker.schema import assessment, file, past_outcome
from worker.store import read

_PAGE = 500
_TRAIL_PAGE = 5_000
_OPENED = (Action.VIEW, Action.REVEAL, Action.READING)
_LISTED = (Action.SEARCH, Action.EXPORT, Action.EXPORT_PATIENT)
_f, _p, _t = file.c, past_outcome.c, audit.c


@dataclass(frozen=True, slots=True)
class Seen:
    """That somebody opened or signed a film. ``who``: a name and user name, or the user of a shell."""

    who: str
    action: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Recalled:
    """A film that the bundle spoke of.

    Attributes:
        result: what is said of it now.
        replaced: the bundle's result was replaced by a later one.
        seen: who opened or signed it since the bundle's first result, the first first.
    """

    result: ResultRow
    replaced: bool
    seen: tuple[Seen, ...]


def films(engine: Engine, bundle_ids: Sequence[int]) -> Iterator[Recalled]:
    """Yield the films that these bundles spoke of, by rising id."""
    since = read(engine, lambda connection: _since(connection, bundle_ids))
    seen = _seen(engine, since)
    after = 0
    while True:
        rows = read(engine, lambda connection, start=after: _page(connection, bundle_ids, start))  # type: ignore[misc]
        if not rows:
            return
        for result, replaced in rows:
            yield Recalled(result, replaced, tuple(seen.get(result.result_id, ())))
        after = rows[-1][0].result_id


def listed(engine: Engine, bundle_ids: Sequence[int]) -> int:
    """Count the searches and exports since the bundles' first result; the page's own list is on no record."""

    def body(connection: Connection) -> int:
        since = _since(connection, bundle_ids)
        if since is None:
            return 0
        statement = select(func.count()).where(_t.at >= since, _t.action.in_(_LISTED))
        return connection.execute(statement).scalar_one()

    return read(engine, body)


def to_json(one: Recalled) -> JSONObject:
    """Return a film as a record."""
    seen = [{"who": seen.who, "action": seen.action, "at": iso(seen.at)} for seen in one.seen]
    return {**result_to_json(one.result), "replaced": one.replaced, "seen": seen}


def _since(connection: Connection, bundle_ids: Sequence[int]) -> datetime | None:
    starts = [
        connection.execute(select(func.min(column)).where(of.in_(bundle_ids))).scalar()
        for column, of in (
            (assessment.c.assessed_at, assessment.c.bundle_id),
            (_f.committed_at, _f.bundle_id),
            (_p.committed_at, _p.bundle_id),
        )
    ]
    return min((at for at in starts if at is not None), default=None)


def _seen(engine: Engine, since: datetime | None) -> dict[int, list[Seen]]:
    found: dict[int, list[Seen]] = {}
    if since is None:
        return found
    columns = (account.c.id, account.c.full_name, account.c.name)
    people = {
        f"account:{row.id}": f"{row.full_name} ({row.name})"
        for row in read(engine, lambda connection: connection.execute(select(*columns)).all())
    }
    after = 0
    while rows := read(engine, lambda connection, start=after: _opened(connection, since, start)):  # type: ignore[misc]
        for row in rows:
            kind, _, number = row.object.partition(":")
            if kind == "film" and number.isdecimal():
                found.setdefault(int(number), []).append(Seen(people.get(row.actor, row.actor), row.action, row.at))
        after = rows[-1].id
    return found


def _opened(connection: Connection, since: datetime, after: int) -> list[Row[Any]]:
    wanted = select(audit).where(_t.action.in_(_OPENED), _t.at >= since, _t.id > after)
    return list(connection.execute(wanted.order_by(_t.id).limit(_TRAIL_PAGE)))


def _page(connection: Connection, bundle_ids: Sequence[int], after: int) -> list[tuple[ResultRow, bool]]:
    earlier = exists().where(_p.file_id == _f.id, _p.bundle_id.in_(bundle_ids))
    statement = (
        selected()
        .where(_f.id > after, _f.committed_at.is_not(None), or_(_f.bundle_id.in_(bundle_ids), earlier))
        .order_by(_f.id)
        .limit(_PAGE)
    )
    rows = connection.execute(statement).all()
    replaced = [row.bundle_id not in bundle_ids for row in rows]
    return list(zip(typed(connection, rows), replaced, strict=True))
