"""Work list: images grouped by study, in reading order, in indexed pages.

Arrival order is the order of discovery (``file.id``). In priority order an image assessed as not flagged comes after
all others until it has waited for ``RISE_AFTER_S``; then it returns to its arrival place. Refused and unreadable images
never lose theirs. Everything is read-only.

One index leads to a page, chosen by ``_leading``: the other conditions are written so that no planner can use their
index (``_checked``), with or without statistics, and the order is one that no other index has (``_sequence``). So a
page costs the same with a million images.
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
from preread.review.results import ResultRow, results_from_rows, select_results
from preread.review.reviews import ShownResult, review_outdated_condition, shown_result, unread_conditions

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
    """Order of the work list."""

    ARRIVAL = "arrival"
    PRIORITY = "priority"
    NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class WorklistFilter:
    """Conditions on images of the work list, which must all hold.

    Attributes:
        order: order of the list.
        unread: only images whose current result nobody has reviewed, without backlog; ignored by a search or an
            outcome.
        outcome: kind of outcome.
        answer: answer of the image's most severe finding.
        device: device label.
        taken_from: acquired on this day or later, on the modality's clock.
        taken_to: acquired on this day or earlier.
        search: whole Patient ID or Accession Number, or beginning of a name.
        after: ``WorklistPage.next`` of the previous page.
        limit: studies per page.
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
        """True if images are in order of acquisition (days among all images)."""
        return not (self.unread or self.search) and not (self.taken_from is None and self.taken_to is None)


@dataclass(frozen=True, slots=True)
class WorklistImage:
    """One image of the work list.

    Attributes:
        result: its result.
        shown: identifies that result.
        read_at: time of the first review of it; ``None`` if there is none.
        read_before: it was reviewed before its result changed, and is to be reviewed again.
        changed_at: time at which its result replaced another; ``None`` if it did not.
        waited_s: seconds from arrival, or from the change of its result, to the review or now.
        behind: in priority order it comes after images that arrived later.
    """

    result: ResultRow
    shown: ShownResult
    read_at: datetime | None
    read_before: bool
    changed_at: datetime | None
    waited_s: float
    behind: bool


@dataclass(frozen=True, slots=True)
class WorklistPage:
    """One page of the work list.

    Attributes:
        studies: groups of images of one study, in order.
        next: ``WorklistFilter.after`` of the next page; ``None`` after the last.
        at: time of the query by the database's clock.
        cut: more images match the search than its pages hold.
    """

    studies: tuple[tuple[WorklistImage, ...], ...]
    next: tuple[int, int] | None
    at: datetime
    cut: bool


@dataclass(frozen=True, slots=True)
class DisplacedImages:
    """Images of the work list that priority order moves back, and how long.

    Attributes:
        films: number of unread images that come after later ones, at most ``_COUNTED_AT_MOST``.
        longest_s: seconds for which the first of them has waited.
    """

    films: int
    longest_s: float


class _Leader(NamedTuple):
    """First image of a study, which determines the study's place."""

    bucket: int
    file_id: int
    study_instance_uid: str | None
    patient_id: str | None


def list_worklist_page(engine: Engine, conditions: WorklistFilter) -> WorklistPage:
    """Return one page of the work list: images grouped by study.

    Raises:
        DatabaseAway, SchemaOutdated: the database cannot be read.
    """
    return read(engine, lambda connection: _page(connection, conditions))


def count_displaced(engine: Engine) -> DisplacedImages:
    """Count the images of the work list that priority order moves back."""
    return read(engine, _displaced)


def list_devices(engine: Engine) -> list[str]:
    """Return the device labels of images on the work list, sorted."""
    nearest = select(func.min(_file.device).label("device"), literal(1).label("number")).cte(recursive=True)
    beyond = select(func.min(_file.device)).where(_file.device > nearest.c.device).scalar_subquery()
    further = select(beyond, nearest.c.number + 1).where(
        nearest.c.device.is_not(None), nearest.c.number < _DEVICES_AT_MOST
    )
    steps = nearest.union_all(further).c
    query = select(steps.device).where(steps.device.is_not(None)).order_by(steps.number)
    return list(read(engine, lambda connection: connection.execute(query).scalars().all()))


def _page(connection: Connection, conditions: WorklistFilter) -> WorklistPage:
    now = database_now(connection)
    leaders: list[_Leader] = []
    risen = _risen(connection, now) if conditions.order is Order.PRIORITY else 0
    searched, cut = _search(connection, conditions.search) if conditions.search else ([], False)
    start_bucket, _ = conditions.after or (0, 0)
    leading = _leading(connection, conditions)
    sequence = _sequence(conditions, leading)
    newest = conditions.order is Order.NEWEST
    beyond: ColumnElement[bool] = true()
    if conditions.after is not None:
        here, start = tuple_(*sequence), _start(connection, conditions, sequence)
        beyond = here < start if newest else here > start

    def holds(c: Any, leading_: str | None = None) -> ColumnElement[bool]:
        in_search = schema.column_in(connection, c.id, searched) if conditions.search else true()
        return and_(in_search, *_conditions(c, conditions, leading_))

    for bucket in (0, 1) if conditions.order is Order.PRIORITY else (0,):
        remaining = conditions.limit + 1 - len(leaders)
        if bucket < start_bucket or remaining <= 0:
            continue
        statement = _leaders(conditions, bucket, risen, holds).where(holds(_file, leading))
        statement = statement.order_by(*(column.desc() if newest else column for column in sequence)).limit(remaining)
        if bucket == start_bucket:
            statement = statement.where(beyond)
        leaders.extend(_Leader(bucket, *row) for row in connection.execute(statement).all())
    more = len(leaders) > conditions.limit
    leaders = leaders[: conditions.limit]
    return WorklistPage(
        studies=tuple(_groups(connection, leaders, holds, now, risen, conditions.order)),
        next=(leaders[-1].bucket, leaders[-1].file_id) if more else None,
        at=now,
        cut=cut,
    )


def _equal(conditions: WorklistFilter) -> dict[str, str]:
    """Return the indexed columns that must have one value, with the value."""
    values = {"answer": conditions.answer, "device": conditions.device, "outcome": conditions.outcome}
    return {name: value for name, value in values.items() if value is not None}


def _leading(connection: Connection, conditions: WorklistFilter) -> str | None:
    """Return the column whose index leads to the images.

    ``None`` selects the index of unread images, of a search, or of all.
    """
    if conditions.unread or conditions.search:
        return None
    given = _equal(conditions)
    if conditions.answer is not None:
        given.pop("outcome", None)
    for name, value in given.items():
        sample = select(_file.id).where(schema.file.c[name] == value).limit(_FEW).subquery()
        if connection.execute(select(func.count()).select_from(sample)).scalar_one() < _FEW:
            return name
    return "acquired_local" if conditions.by_date else next(iter(given), None)


def _sequence(conditions: WorklistFilter, leading: str | None) -> list[ColumnElement[Any]]:
    """Return the columns to sort by.

    All rows have the same value in the leading column, but only its index is sorted this way.
    """
    first = "acquired_local" if conditions.by_date else leading
    return [_file.id] if first is None else [schema.file.c[first], _file.id]


def _start(
    connection: Connection, conditions: WorklistFilter, sequence: list[ColumnElement[Any]]
) -> ColumnElement[Any]:
    """Return the position at which the previous page ended."""
    _, file_id = conditions.after or (0, 0)
    *first, _ = sequence
    if conditions.by_date:
        values = [connection.execute(select(*first).where(_file.id == file_id)).scalar() or ""]
    else:
        values = [_equal(conditions)[column.name] for column in first]
    return tuple_(*map(literal, values), literal(file_id))


def _checked(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return a condition that no index serves, only statistics."""
    return condition.is_(true())


def _leaders(
    conditions: WorklistFilter, bucket: int, risen: int, holds: Callable[[Any], ColumnElement[bool]]
) -> Select[*tuple[Any, ...]]:
    """Return the query of each study's first image (id, study, patient)."""
    o = _other.c
    same = (o.study_instance_uid == _file.study_instance_uid) & o.patient_id.is_not_distinct_from(_file.patient_id)
    here_at, there_at = (tuple_(c.acquired_local, c.id) if conditions.by_date else c.id for c in (_file, o))
    first = there_at > here_at if conditions.order is Order.NEWEST else there_at < here_at
    here: ColumnElement[bool] = true()
    if conditions.order is Order.PRIORITY:
        behind = _behind(_file, risen)
        here = behind if bucket else ~behind
        ahead = ~_behind(o, risen)
        first = or_(ahead, first) if bucket else and_(ahead, first)
    earlier = exists().where(same, first, holds(o))
    return select(_file.id, _file.study_instance_uid, _file.patient_id).where(here, ~earlier)


def _behind(c: Any, risen: int) -> ColumnElement[bool]:
    """Return the condition of not flagged images that have not risen yet."""
    # an image without a stored answer (of an older worker) stays in front
    not_flagged = c.answer.is_not_distinct_from(Answer.NOT_FLAGGED)
    return and_(c.id > risen, c.outcome == Outcome.ASSESSED, not_flagged)


def _risen(connection: Connection, now: datetime) -> int:
    """Return the id up to which unread images are back at their arrival place."""
    cut = now - timedelta(seconds=RISE_AFTER_S)
    statement = (
        select(_file.id).where(*unread_conditions(), _file.first_seen_at <= cut).order_by(_file.id.desc()).limit(1)
    )
    return connection.execute(statement).scalar() or 0


def _conditions(c: Any, conditions: WorklistFilter, leading: str | None) -> Iterator[ColumnElement[bool]]:
    if conditions.unread and not conditions.search:
        yield from unread_conditions(c)
    else:
        yield c.committed_at.is_not(None)
        yield c.state != FileState.SUPERSEDED
    for name, value in _equal(conditions).items():
        # a range, since for an equality a planner would accept any order by id: see _sequence
        yield c[name].between(value, value) if name == leading else _checked(c[name] == value)
    if conditions.answer is not None:
        yield _checked(c.outcome == Outcome.ASSESSED)
    for day in (
        None if conditions.taken_from is None else c.acquired_local >= f"{conditions.taken_from:%Y%m%d}000000",
        None if conditions.taken_to is None else c.acquired_local <= f"{conditions.taken_to:%Y%m%d}235959",
    ):
        if day is not None:
            yield day if leading == "acquired_local" else _checked(day)


def _search(connection: Connection, text: str) -> tuple[list[int], bool]:
    """Return matching image ids, and whether more match.

    Matches a Patient ID, an Accession Number, or the beginning of a name.
    """
    identifier, name = clean_identifier(text), name_key(text)
    conditions: dict[ColumnElement[Any], ColumnElement[bool]] = {}
    if identifier:
        conditions = {column: column == identifier for column in (_file.patient_id, _file.accession_number)}
    if name:
        key = _file.patient_name_key
        conditions[key] = (key >= name) & (key < name + "\U0010ffff")
    ids_: set[int] = set()
    cut = False
    for column, condition in conditions.items():
        # in the order of the index, so that no more rows are read than taken
        statement = select(_file.id).where(condition, _file.committed_at.is_not(None)).order_by(column)
        ids = connection.execute(statement.limit(_SEARCH_AT_MOST + 1)).scalars().all()
        cut = cut or len(ids) > _SEARCH_AT_MOST
        ids_.update(ids[:_SEARCH_AT_MOST])
    return sorted(ids_), cut


def _groups(
    connection: Connection,
    leaders: Sequence[_Leader],
    holds: Callable[[Any], ColumnElement[bool]],
    now: datetime,
    risen: int,
    order: Order,
) -> Iterator[tuple[WorklistImage, ...]]:
    """Yield the matching images of each leader's study."""
    members = {leader.file_id: [leader.file_id] for leader in leaders}
    leads = {(leader.study_instance_uid, leader.patient_id): leader.file_id for leader in leaders}
    studies = sorted({leader.study_instance_uid for leader in leaders if leader.study_instance_uid is not None})
    if studies:
        of_these = schema.column_in(connection, _file.study_instance_uid, studies)
        statement = select(_file.id, _file.study_instance_uid, _file.patient_id).where(of_these, holds(_file))
        for row in connection.execute(statement.order_by(_file.id).limit(len(leaders) * _GROUP_AT_MOST)).all():
            lead = leads.get((row.study_instance_uid, row.patient_id))
            if lead not in {None, row.id} and len(members[lead]) < _GROUP_AT_MOST:
                members[lead].append(row.id)
    every = [leader for group in members.values() for leader in group]
    if not every:
        return
    changed_at = select(func.max(_past.replaced_at)).where(_past.file_id == _file.id).scalar_subquery()
    behind = _behind(_file, risen) if order is Order.PRIORITY else false()
    further = (
        _file.read_at,
        changed_at.label("changed_at"),
        review_outdated_condition().label("again"),
        behind.label("behind"),
    )
    rows = connection.execute(select_results(*further).where(schema.column_in(connection, _file.id, every))).all()
    films = {
        row.id: WorklistImage(
            result=result,
            shown=shown_result(row),
            read_at=row.read_at,
            read_before=row.again,
            changed_at=row.changed_at,
            waited_s=max(0.0, ((row.read_at or now) - since).total_seconds()),
            behind=row.behind,
        )
        for row, result in zip(rows, results_from_rows(connection, rows), strict=True)
        for since in [(row.again and row.changed_at) or row.first_seen_at]
    }
    for group in members.values():
        if group[0] in films:
            yield tuple(films[leader] for leader in group if leader in films)


def _displaced(connection: Connection) -> DisplacedImages:
    now = database_now(connection)
    risen = _risen(connection, now)
    behind = _behind(_file, risen)
    last = select(func.max(_file.id)).where(*unread_conditions(), _file.id > risen, ~behind).scalar_subquery()
    waiting = (
        select(_file.id, _file.first_seen_at)
        .where(*unread_conditions(), behind, _file.id < last)
        .order_by(_file.id)
        .limit(_COUNTED_AT_MOST)
        .subquery()
    )
    count, first = connection.execute(select(func.count(), func.min(waiting.c.first_seen_at))).one()
    return DisplacedImages(count, 0.0 if first is None else (now - first).total_seconds())
