"""The films that a withdrawn bundle spoke of, and who saw them: whoever relied on an answer can be told.

Who opened a film comes from the audit trail: the page, the API and the shell put every film that is opened there by its
number. Whom a list showed the bundle's results comes from ``listing``. Exports of readings hold answers and put no film
on record: how often these ran is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, exists, func, or_, select

from preread.core.types import JSONObject
from preread.db.engine import read
from preread.db.review_schema import account, audit, listing
from preread.db.schema import assessment, file, past_outcome
from preread.review import disclosures
from preread.review.audit import Action
from preread.review.result_json import iso, result_to_json
from preread.review.results import ResultRow, selected, typed

_PAGE = 500
_TRAIL_PAGE = 5_000
_OPENED = (Action.VIEW, Action.REVEAL, Action.READING, Action.EXPORT_PATIENT)
_IN_A_LIST = "listed"
_f, _p, _t, _l = file.c, past_outcome.c, audit.c, listing.c


@dataclass(frozen=True, slots=True)
class Seen:
    """That somebody opened or signed a film, or was shown it in a list (``action`` says which).

    ``who``: a name and user name, or the user of a shell.
    """

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
        listed: whom a list showed the bundle's result, the first first.
    """

    result: ResultRow
    replaced: bool
    seen: tuple[Seen, ...]
    listed: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Unnamed:
    """What showed the bundle's results and names no film.

    Attributes:
        exports: how often readings were exported since its first result.
        lists_since: since when it is on record what lists showed; ``None``: none was shown since that is noted at all.
    """

    exports: int
    lists_since: datetime | None


def films(engine: Engine, bundle_ids: Sequence[int]) -> Iterator[Recalled]:
    """Yield the films that these bundles spoke of, by rising id."""
    since = read(engine, lambda connection: _since(connection, bundle_ids))
    people = _people(engine)
    seen = _seen(engine, since, people)
    after = 0
    while True:
        rows = read(engine, lambda connection, start=after: _page(connection, bundle_ids, start))  # type: ignore[misc]
        if not rows:
            return
        ids = [result.result_id for result, _ in rows]
        listed = read(engine, lambda connection, of=ids: _listed(connection, bundle_ids, of, people))  # type: ignore[misc]
        for result, replaced in rows:
            of_film = (tuple(found.get(result.result_id, ())) for found in (seen, listed))
            yield Recalled(result, replaced, *of_film)
        after = rows[-1][0].result_id


def unnamed(engine: Engine, bundle_ids: Sequence[int]) -> Unnamed:
    """Say what showed these bundles' results without naming films."""

    def body(connection: Connection) -> Unnamed:
        since = _since(connection, bundle_ids)
        exports = 0
        if since is not None:
            counted = select(func.count()).where(_t.at >= since, _t.action == Action.EXPORT)
            exports = connection.execute(counted).scalar_one()
        return Unnamed(exports, disclosures.since(connection))

    return read(engine, body)


def to_json(one: Recalled) -> JSONObject:
    """Return a film as a record."""
    seen, listed = (
        [{"who": seen.who, "action": seen.action, "at": iso(seen.at)} for seen in found]
        for found in (one.seen, one.listed)
    )
    return {**result_to_json(one.result), "replaced": one.replaced, "seen": seen, "listed": listed}


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


def _people(engine: Engine) -> dict[str, str]:
    columns = (account.c.id, account.c.full_name, account.c.name)
    rows = read(engine, lambda connection: connection.execute(select(*columns)).all())
    return {f"account:{row.id}": f"{row.full_name} ({row.name})" for row in rows}


def _seen(engine: Engine, since: datetime | None, people: dict[str, str]) -> dict[int, list[Seen]]:
    found: dict[int, list[Seen]] = {}
    if since is None:
        return found
    after = 0
    while rows := read(engine, lambda connection, start=after: _opened(connection, since, start)):  # type: ignore[misc]
        for row in rows:
            kind, _, number = row.object.partition(":")
            if kind == "film" and number.isdecimal():
                found.setdefault(int(number), []).append(Seen(people.get(row.actor, row.actor), row.action, row.at))
        after = rows[-1].id
    return found


def _listed(
    connection: Connection, bundle_ids: Sequence[int], file_ids: Sequence[int], people: dict[str, str]
) -> dict[int, list[Seen]]:
    def by_them(columns: Any, of: Any) -> ColumnElement[bool]:
        return exists().where(
            of == _l.file_id, columns.committed_at == _l.committed_at, columns.bundle_id.in_(bundle_ids)
        )

    wanted = select(listing).where(_l.file_id.in_(file_ids), by_them(_f, _f.id) | by_them(_p, _p.file_id))
    found: dict[int, list[Seen]] = {}
    for row in connection.execute(wanted.order_by(_l.at, _l.actor)):
        found.setdefault(row.file_id, []).append(Seen(people.get(row.actor, row.actor), _IN_A_LIST, row.at))
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
