"""The doctors' worklist: films grouped by study, in the order in which they are to be read, page by page over indexes.

Arrival order is the order of discovery (``file.id``). In priority order a film that is assessed as not flagged stands
behind all others, until it has waited for ``RISE_AFTER_S``: then it has its arrival place again. Refused and unreadable
films never lose theirs. Everything is read-only here.

One index leads to a page, and ``_leading`` says which: the other conditions are written so that no planner can take
theirs (``_checked``), with or without statistics on the tables. So a page costs the same at a million films.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

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

from worker import schema
from worker.domain import Answer, FileState, Outcome
from worker.escaping import clean_identifier
from worker.lookups import name_key
from worker.readings import Shown, read_before, shown_of, unread
from worker.results import ResultRow, selected, typed
from worker.store import database_now, read

RISE_AFTER_S = 1800.0
PAGE = 50
_GROUP_AT_MOST = 50
_SEARCH_AT_MOST = 300
_COUNTED_AT_MOST = 1_000
_FEW = 2_000
_DEVICES_AT_MOST = 200
_file, _past = schema.file.c, schema.past_outcome.c


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


def page(engine: Engine, wanted: WorklistFilter) -> WorklistPage:
    """Return one page of the worklist."""
    return read(engine, lambda connection: _page(connection, wanted))


def displaced(engine: Engine) -> Displaced:
    """Say what priority order costs at this moment."""
    return read(engine, _displaced)


def devices(engine: Engine) -> list[str]:
    """Return the devices that films came from, by name; each found by one step along the index."""

    def body(connection: Connection) -> list[str]:
        found: list[str] = []
        while len(found) < _DEVICES_AT_MOST:
            beyond = _file.device > found[-1] if found else _file.device.is_not(None)
            device = connection.execute(select(func.min(_file.device)).where(beyond)).scalar()
            if device is None:
                break
            found.append(device)
        return found

    return read(engine, body)


def _page(connection: Connection, wanted: WorklistFilter) -> WorklistPage:
    now = database_now(connection)
    leaders: list[tuple[int, int]] = []
    risen = _risen(connection, now) if wanted.order is Order.PRIORITY else 0
    searched, cut = _search(connection, wanted.search) if wanted.search else (None, False)
    start_bucket, start_id = wanted.after or (0, 0)
    leading = _leading(connection, wanted)

    def holds(c: Any, by: str | None = None) -> ColumnElement[bool]:
        return and_(true(), *_conditions(c, wanted, searched, by))

    for bucket in (0, 1) if wanted.order is Order.PRIORITY else (0,):
        left = wanted.limit + 1 - len(leaders)
        if bucket < start_bucket or left <= 0:
            continue
        statement = _leaders(wanted, bucket, risen, holds).where(holds(_file, leading))
        if bucket == start_bucket and wanted.after is not None:
            start = _place(schema.file.c, wanted)
            if wanted.by_date:
                taken = select(_file.acquired_local).where(_file.id == start_id)
                at = literal(connection.execute(taken).scalar() or "")
                after: ColumnElement[Any] = tuple_(at, literal(start_id))
            else:
                after = literal(start_id)
            statement = statement.where(start < after if wanted.order is Order.NEWEST else start > after)
        leaders.extend((bucket, file_id) for file_id in connection.execute(statement.limit(left)).scalars())
    more = len(leaders) > wanted.limit
    leaders = leaders[: wanted.limit]
    return WorklistPage(
        studies=tuple(_groups(connection, leaders, holds, now, risen, wanted.order)),
        next=leaders[-1] if more else None,
        at=now,
        cut=cut,
    )


def _leading(connection: Connection, wanted: WorklistFilter) -> str | None:
    """Return the column whose index leads to the films; ``None`` for that of the unread, of a search, of all."""
    if wanted.unread or wanted.search:
        return None
    equal = {"answer": wanted.answer, "device": wanted.device}
    if wanted.answer is None:
        equal["outcome"] = wanted.outcome
    given = {name: value for name, value in equal.items() if value is not None}
    for name, value in given.items():
        some = select(_file.id).where(schema.file.c[name] == value).limit(_FEW).subquery()
        if connection.execute(select(func.count()).select_from(some)).scalar_one() < _FEW:
            return name
    return "acquired_local" if wanted.by_date else next(iter(given), None)


def _checked(column: ColumnElement[str]) -> ColumnElement[str]:
    """Return the column's value, looked at row by row: no index holds this expression."""
    return column.concat("")


def _place(c: Any, wanted: WorklistFilter) -> ColumnElement[Any]:
    """Return by what films are sorted."""
    return tuple_(c.acquired_local, c.id) if wanted.by_date else c.id


def _leaders(
    wanted: WorklistFilter, bucket: int, risen: int, holds: Callable[[Any], ColumnElement[bool]]
) -> Select[Any]:
    """Select the ids of the films that stand for their studies: of each study the one that comes first."""
    other = schema.file.alias()
    o = other.c
    same = (o.study_instance_uid == _file.study_instance_uid) & o.patient_id.is_not_distinct_from(_file.patient_id)
    here_at, there_at = _place(schema.file.c, wanted), _place(o, wanted)
    sequence: list[ColumnElement[Any]] = [_file.acquired_local, _file.id] if wanted.by_date else [_file.id]
    if wanted.order is Order.NEWEST:
        first, sequence = there_at > here_at, [column.desc() for column in sequence]
    else:
        first = there_at < here_at
    here: ColumnElement[bool] = true()
    if wanted.order is Order.PRIORITY:
        behind = _behind(_file, risen)
        here = behind if bucket else ~behind
        ahead = ~_behind(o, risen)
        first = or_(ahead, first) if bucket else and_(ahead, first)
    earlier = exists().where(same, first, holds(o))
    return select(_file.id).where(here, ~earlier).order_by(*sequence)


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


def _conditions(
    c: Any, wanted: WorklistFilter, searched: Sequence[int] | None, leading: str | None
) -> Iterator[ColumnElement[bool]]:
    def value(name: str) -> ColumnElement[str]:
        column: ColumnElement[str] = c[name]
        return column if name == leading else _checked(column)

    if searched is not None:
        yield c.id.in_(searched) if searched else false()
    if wanted.unread and searched is None:
        yield from unread(c)
    else:
        yield c.committed_at.is_not(None)
        yield c.state != FileState.SUPERSEDED
    if wanted.outcome is not None:
        yield value("outcome") == wanted.outcome
    if wanted.answer is not None:
        yield value("answer") == wanted.answer
        yield _checked(c.outcome) == Outcome.ASSESSED
    if wanted.device is not None:
        yield value("device") == wanted.device
    if wanted.taken_from is not None:
        yield value("acquired_local") >= f"{wanted.taken_from:%Y%m%d}000000"
    if wanted.taken_to is not None:
        yield value("acquired_local") <= f"{wanted.taken_to:%Y%m%d}235959"


def _search(connection: Connection, text: str) -> tuple[list[int], bool]:
    """Return films by Patient ID, Accession Number or the beginning of a name, and whether more of them match."""
    identifier, name = clean_identifier(text), name_key(text)
    conditions: list[ColumnElement[bool]] = []
    if identifier:
        conditions += [_file.patient_id == identifier, _file.accession_number == identifier]
    if name:
        conditions.append((_file.patient_name_key >= name) & (_file.patient_name_key < name + "\U0010ffff"))
    found: set[int] = set()
    cut = False
    for one in conditions:
        statement = select(_file.id).where(one, _file.committed_at.is_not(None)).limit(_SEARCH_AT_MOST + 1)
        ids = connection.execute(statement).scalars().all()
        cut = cut or len(ids) > _SEARCH_AT_MOST
        found.update(ids[:_SEARCH_AT_MOST])
    return sorted(found), cut


def _groups(
    connection: Connection,
    leaders: Sequence[tuple[int, int]],
    holds: Callable[[Any], ColumnElement[bool]],
    now: datetime,
    risen: int,
    order: Order,
) -> Iterator[tuple[WorklistFilm, ...]]:
    """Yield, for each film that stands for its study, the study's films that match."""
    ids = [file_id for _, file_id in leaders]
    if not ids:
        return
    heads = {
        row.id: row
        for row in connection.execute(
            select(_file.id, _file.study_instance_uid, _file.patient_id).where(_file.id.in_(ids))
        )
    }
    members: dict[int, list[int]] = {file_id: [file_id] for file_id in ids}
    leads = {
        (row.study_instance_uid, row.patient_id): row.id for row in heads.values() if row.study_instance_uid is not None
    }
    if leads:
        studies = sorted({uid for uid, _ in leads})
        statement = select(_file.id, _file.study_instance_uid, _file.patient_id).where(
            _file.study_instance_uid.in_(studies), holds(_file), _file.id.not_in(ids)
        )
        for row in connection.execute(statement.order_by(_file.id).limit(len(ids) * _GROUP_AT_MOST)):
            lead = leads.get((row.study_instance_uid, row.patient_id))
            if lead is not None and len(members[lead]) < _GROUP_AT_MOST:
                members[lead].append(row.id)
    every = sorted({one for group in members.values() for one in group})
    behind = set()
    if order is Order.PRIORITY:
        behind = set(connection.execute(select(_file.id).where(_file.id.in_(every), _behind(_file, risen))).scalars())
    replaced = select(_past.file_id, func.max(_past.replaced_at)).where(_past.file_id.in_(every))
    changed = {row[0]: row[1] for row in connection.execute(replaced.group_by(_past.file_id))}
    again = read_before(connection, every)
    rows = connection.execute(selected().where(_file.id.in_(every))).all()
    films = {
        row.id: WorklistFilm(
            result=result,
            shown=shown_of(row),
            read_at=row.read_at,
            read_before=row.id in again,
            changed_at=changed.get(row.id),
            waited_s=max(0.0, ((row.read_at or now) - since).total_seconds()),
            behind=row.id in behind,
        )
        for row, result in zip(rows, typed(connection, rows), strict=True)
        for since in [changed.get(row.id, row.first_seen_at) if row.id in again else row.first_seen_at]
    }
    for file_id in ids:
        if file_id in films:
            yield tuple(films[one] for one in members[file_id] if one in films)


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
