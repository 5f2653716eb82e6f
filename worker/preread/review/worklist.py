"""The doctors' worklist: films grouped by study, in the order in which they are to be read, page by page over indexes.

Arrival order is the order of discovery (``file.id``). In priority order a film that is assessed as not flagged stands
behind all others, until it has waited for ``RISE_AFTER_S``: then it has its arrival place again. Refused and unreadable
films never lose theirs. Everything is read-only here.

One index leads to a page, and ``_leading`` says which: the other conditions are written so that no planner can take
theirs (``_checked``), with or without statistics on the tables, and the order is one that no other index has
(``_sequence``). So a page costs the same at a million films.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    and_,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
)

from preread.core.text.escaping import clean_identifier
from preread.core.text.search_keys import name_key
from preread.core.types import Answer, FileState, Outcome
from preread.db import schema
from preread.db.engine import database_now, read
from preread.review.results import ResultRow, selected, typed
from preread.review.reviews import Shown, read_before, shown_of, unread

RISE_AFTER_S = 1800.0
PAGE = 50
_GROUP_AT_MOST = 50
_SEARCH_AT_MOST = 300
_COUNTED_AT_MOST = 1_000
_FEW = 2_000
_DEVICES_AT_MOST = 200
_file, _past = schema.file.c, schema.past_outcome.c
_other = schema.file.alias()


class Order(StrEnum):
    """In which order films stand."""

    ARRIVAL = "arrival"
    PRIORITY = "priority"
    NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class WorklistFilter:
    """Which films; every condition that is set must hold.

    Attributes:
        answer: of the film's findings, that of the most urgent one.
        unread: only those whose present result nobody has signed, the backlog apart. A search or an outcome is not
            narrowed by it.
        taken_from: taken on this day or later, on the modality's clock.
        taken_to: taken on this day or earlier.
        search: a Patient ID or Accession Number, whole, or the beginning of a name.
        after: ``WorklistPage.next`` of the page before.
    """

    order: Order = Order.ARRIVAL
    unread: bool = True
    outcome: Outcome | None = None
    answer: Answer | None = None
    device: str | None = None
    taken_from: date | None = None
    taken_to: date | None = None
    search: str = ""
    after: tuple[int, int] | None = None
    limit: int = PAGE

    @property
    def by_date(self) -> bool:
        """Films stand in the order in which they were taken: where days are chosen among all films."""
        return not (self.unread or self.search) and not (self.taken_from is None and self.taken_to is None)


@dataclass(frozen=True, slots=True)
class WorklistFilm:
    """One film of the list.

    Attributes:
        shown: its present result.
        read_at: when that was first signed; ``None`` while nobody has.
        read_before: it was read before its result changed, and is to be read again.
        waited_s: until it was read, since its arrival, or since its result changed where it is to be read again.
        behind: in priority order it stands behind films that came after it.
        changed_at: when its result last took another's place.
    """

    result: ResultRow
    shown: Shown
    read_at: datetime | None
    read_before: bool
    changed_at: datetime | None
    waited_s: float
    behind: bool


@dataclass(frozen=True, slots=True)
class WorklistPage:
    """One page.

    Attributes:
        studies: groups of films that belong together, in order.
        next: what ``WorklistFilter.after`` takes for the next page; ``None`` after the last.
        at: when this was so, by the database's clock.
        cut: more films match the search than its pages hold.
    """

    studies: tuple[tuple[WorklistFilm, ...], ...]
    next: tuple[int, int] | None
    at: datetime
    cut: bool


@dataclass(frozen=True, slots=True)
class Displaced:
    """What priority order costs now: unread films that stand behind ones that came later.

    Attributes:
        films: how many, counted up to 1000.
        longest_s: how long the first of them has waited.
    """

    films: int
    longest_s: float


class _Leader(NamedTuple):
    """The film that stands for its study."""

    bucket: int
    file_id: int
    study_instance_uid: str | None
    patient_id: str | None


def page(engine: Engine, wanted: WorklistFilter) -> WorklistPage:
    """Return one page of the worklist."""
    return read(engine, lambda connection: _page(connection, wanted))


def displaced(engine: Engine) -> Displaced:
    """Say what priority order costs at this moment."""
    return read(engine, _displaced)


def devices(engine: Engine) -> list[str]:
    """Return the devices that films came from, by name; each found by one step along the index."""
    nearest = select(func.min(_file.device).label("device"), literal(1).label("number")).cte(recursive=True)
    beyond = select(func.min(_file.device)).where(_file.device > nearest.c.device).scalar_subquery()
    further = select(beyond, nearest.c.number + 1).where(
        nearest.c.device.is_not(None), nearest.c.number < _DEVICES_AT_MOST
    )
    steps = nearest.union_all(further).c
    found = select(steps.device).where(steps.device.is_not(None)).order_by(steps.number)
    return list(read(engine, lambda connection: connection.execute(found).scalars().all()))


def _page(connection: Connection, wanted: WorklistFilter) -> WorklistPage:
    now = database_now(connection)
    leaders: list[_Leader] = []
    risen = _risen(connection, now) if wanted.order is Order.PRIORITY else 0
    searched, cut = _search(connection, wanted.search) if wanted.search else ([], False)
    start_bucket, _ = wanted.after or (0, 0)
    leading = _leading(connection, wanted)
    sequence = _sequence(wanted, leading)
    newest = wanted.order is Order.NEWEST
    beyond: ColumnElement[bool] = true()
    if wanted.after is not None:
        here, start = tuple_(*sequence), _start(connection, wanted, sequence)
        beyond = here < start if newest else here > start

    def holds(c: Any, by: str | None = None) -> ColumnElement[bool]:
        found = schema.among(connection, c.id, searched) if wanted.search else true()
        return and_(found, *_conditions(c, wanted, by))

    for bucket in (0, 1) if wanted.order is Order.PRIORITY else (0,):
        left = wanted.limit + 1 - len(leaders)
        if bucket < start_bucket or left <= 0:
            continue
        statement = _leaders(wanted, bucket, risen, holds).where(holds(_file, leading))
        statement = statement.order_by(*(column.desc() if newest else column for column in sequence)).limit(left)
        if bucket == start_bucket:
            statement = statement.where(beyond)
        leaders.extend(_Leader(bucket, *row) for row in connection.execute(statement).all())
    more = len(leaders) > wanted.limit
    leaders = leaders[: wanted.limit]
    return WorklistPage(
        studies=tuple(_groups(connection, leaders, holds, now, risen, wanted.order)),
        next=(leaders[-1].bucket, leaders[-1].file_id) if more else None,
        at=now,
        cut=cut,
    )


def _equal(wanted: WorklistFilter) -> dict[str, str]:
    """Return the columns with an index that are to hold one value, and which."""
    asked = {"answer": wanted.answer, "device": wanted.device, "outcome": wanted.outcome}
    return {name: value for name, value in asked.items() if value is not None}


def _leading(connection: Connection, wanted: WorklistFilter) -> str | None:
    """Return the column whose index leads to the films; ``None`` for that of the unread, of a search, of all."""
    if wanted.unread or wanted.search:
        return None
    given = _equal(wanted)
    if wanted.answer is not None:
        given.pop("outcome", None)
    for name, value in given.items():
        some = select(_file.id).where(schema.file.c[name] == value).limit(_FEW).subquery()
        if connection.execute(select(func.count()).select_from(some)).scalar_one() < _FEW:
            return name
    return "acquired_local" if wanted.by_date else next(iter(given), None)


def _sequence(wanted: WorklistFilter, leading: str | None) -> list[ColumnElement[Any]]:
    """Return by what films are sorted: in the leading column they are equal, but only its index has them so."""
    first = "acquired_local" if wanted.by_date else leading
    return [_file.id] if first is None else [schema.file.c[first], _file.id]


def _start(connection: Connection, wanted: WorklistFilter, sequence: list[ColumnElement[Any]]) -> ColumnElement[Any]:
    """Return where in the sequence the page before ended."""
    _, file_id = wanted.after or (0, 0)
    *first, _ = sequence
    if wanted.by_date:
        values = [connection.execute(select(*first).where(_file.id == file_id)).scalar() or ""]
    else:
        values = [_equal(wanted)[column.name] for column in first]
    return tuple_(*map(literal, values), literal(file_id))


def _checked(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return a condition that is looked at row by row: no index serves a truth value, but statistics do."""
    return condition.is_(true())


def _leaders(
    wanted: WorklistFilter, bucket: int, risen: int, holds: Callable[[Any], ColumnElement[bool]]
) -> Select[*tuple[Any, ...]]:
    """Select the films that stand for their studies (id, study, patient): of each study the one that comes first."""
    o = _other.c
    same = (o.study_instance_uid == _file.study_instance_uid) & o.patient_id.is_not_distinct_from(_file.patient_id)
    here_at, there_at = (tuple_(c.acquired_local, c.id) if wanted.by_date else c.id for c in (_file, o))
    first = there_at > here_at if wanted.order is Order.NEWEST else there_at < here_at
    here: ColumnElement[bool] = true()
    if wanted.order is Order.PRIORITY:
        behind = _behind(_file, risen)
        here = behind if bucket else ~behind
        ahead = ~_behind(o, risen)
        first = or_(ahead, first) if bucket else and_(ahead, first)
    earlier = exists().where(same, first, holds(o))
    return select(_file.id, _file.study_instance_uid, _file.patient_id).where(here, ~earlier)


def _behind(c: Any, risen: int) -> ColumnElement[bool]:
    """The film was assessed, nothing in it was flagged or uncertain, and it has not waited long enough to rise."""
    # a film whose answer nobody noted (an older worker's) stays in front
    quiet = c.answer.is_not_distinct_from(Answer.NOT_FLAGGED)
    return and_(c.id > risen, c.outcome == Outcome.ASSESSED, quiet)


def _risen(connection: Connection, now: datetime) -> int:
    """Return the id up to which unread films have waited so long that they have their arrival place again."""
    cut = now - timedelta(seconds=RISE_AFTER_S)
    statement = select(_file.id).where(*unread(), _file.first_seen_at <= cut).order_by(_file.id.desc()).limit(1)
    return connection.execute(statement).scalar() or 0


def _conditions(c: Any, wanted: WorklistFilter, leading: str | None) -> Iterator[ColumnElement[bool]]:
    if wanted.unread and not wanted.search:
        yield from unread(c)
    else:
        yield c.committed_at.is_not(None)
        yield c.state != FileState.SUPERSEDED
    for name, value in _equal(wanted).items():
        # a stretch and no equality, of which planners know that any order by id will do: see _sequence
        yield c[name].between(value, value) if name == leading else _checked(c[name] == value)
    if wanted.answer is not None:
        yield _checked(c.outcome == Outcome.ASSESSED)
    for day in (
        None if wanted.taken_from is None else c.acquired_local >= f"{wanted.taken_from:%Y%m%d}000000",
        None if wanted.taken_to is None else c.acquired_local <= f"{wanted.taken_to:%Y%m%d}235959",
    ):
        if day is not None:
            yield day if leading == "acquired_local" else _checked(day)


def _search(connection: Connection, text: str) -> tuple[list[int], bool]:
    """Return films by Patient ID, Accession Number or the beginning of a name, and whether more of them match."""
    identifier, name = clean_identifier(text), name_key(text)
    conditions: dict[ColumnElement[Any], ColumnElement[bool]] = {}
    if identifier:
        conditions = {column: column == identifier for column in (_file.patient_id, _file.accession_number)}
    if name:
        key = _file.patient_name_key
        conditions[key] = (key >= name) & (key < name + "\U0010ffff")
    found: set[int] = set()
    cut = False
    for column, one in conditions.items():
        # in the index's own order: of all that begin so no more are looked at than are taken
        statement = select(_file.id).where(one, _file.committed_at.is_not(None)).order_by(column)
        ids = connection.execute(statement.limit(_SEARCH_AT_MOST + 1)).scalars().all()
        cut = cut or len(ids) > _SEARCH_AT_MOST
        found.update(ids[:_SEARCH_AT_MOST])
    return sorted(found), cut


def _groups(
    connection: Connection,
    leaders: Sequence[_Leader],
    holds: Callable[[Any], ColumnElement[bool]],
    now: datetime,
    risen: int,
    order: Order,
) -> Iterator[tuple[WorklistFilm, ...]]:
    """Yield, for each film that stands for its study, the study's films that match."""
    members = {one.file_id: [one.file_id] for one in leaders}
    leads = {(one.study_instance_uid, one.patient_id): one.file_id for one in leaders}
    studies = sorted({one.study_instance_uid for one in leaders if one.study_instance_uid is not None})
    if studies:
        of_these = schema.among(connection, _file.study_instance_uid, studies)
        statement = select(_file.id, _file.study_instance_uid, _file.patient_id).where(of_these, holds(_file))
        for row in connection.execute(statement.order_by(_file.id).limit(len(leaders) * _GROUP_AT_MOST)).all():
            lead = leads.get((row.study_instance_uid, row.patient_id))
            if lead not in {None, row.id} and len(members[lead]) < _GROUP_AT_MOST:
                members[lead].append(row.id)
    every = [one for group in members.values() for one in group]
    if not every:
        return
    changed_at = select(func.max(_past.replaced_at)).where(_past.file_id == _file.id).scalar_subquery()
    behind = _behind(_file, risen) if order is Order.PRIORITY else false()
    beside = (_file.read_at, changed_at.label("changed_at"), read_before().label("again"), behind.label("behind"))
    rows = connection.execute(selected(*beside).where(schema.among(connection, _file.id, every))).all()
    films = {
        row.id: WorklistFilm(
            result=result,
            shown=shown_of(row),
            read_at=row.read_at,
            read_before=row.again,
            changed_at=row.changed_at,
            waited_s=max(0.0, ((row.read_at or now) - since).total_seconds()),
            behind=row.behind,
        )
        for row, result in zip(rows, typed(connection, rows), strict=True)
        for since in [(row.again and row.changed_at) or row.first_seen_at]
    }
    for group in members.values():
        if group[0] in films:
            yield tuple(films[one] for one in group if one in films)


def _displaced(connection: Connection) -> Displaced:
    now = database_now(connection)
    risen = _risen(connection, now)
    behind = _behind(_file, risen)
    last = select(func.max(_file.id)).where(*unread(), _file.id > risen, ~behind).scalar_subquery()
    waiting = (
        select(_file.id, _file.first_seen_at)
        .where(*unread(), behind, _file.id < last)
        .order_by(_file.id)
        .limit(_COUNTED_AT_MOST)
        .subquery()
    )
    count, first = connection.execute(select(func.count(), func.min(waiting.c.first_seen_at))).one()
    return Displaced(count, 0.0 if first is None else (now - first).total_seconds())
