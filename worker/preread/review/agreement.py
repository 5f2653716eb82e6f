"""How far readers agree with the bundles: counts by bundle, device and month, from the readings that stand.

A hospital's readings are too many to be looked at one by one for each question. They are never changed, so what a block
of them (by number) adds up to, less what they correct, is written down once (``tally``); the newest are counted when
somebody asks. Tallies are nothing but a shortcut: any of them may be deleted. A film's device is what it was when its
readings were counted; only another program's look at its tags could change it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Select,
    String,
    and_,
    case,
    cast,
    func,
    insert,
    select,
)

from preread.core.errors import DatabaseAway
from preread.core.types import Answer, JSONObject, Presence, Verdict
from preread.db import review_schema, schema
from preread.db.engine import database_now, read, write
from preread.db.review_schema import reading, reading_finding, tally
from preread.ledger.tombstones import lock_contents
from preread.review.reviews import implied

BY = ("bundle", "device", "month")
# No transaction lasts so long: readings signed before that are all there, and in the order of their numbers.
_SETTLED_AFTER = timedelta(hours=1)
_DAY_S, _HOUR_S, _MINUTE_S = 86_400, 3_600, 60
# What a correction takes back. A film has waited as long as it has, also when its reading was corrected.
_OF_READINGS = ("signed", "said")
_reading = reading.c
_AGREES = {(Answer.FLAGGED, Presence.PRESENT), (Answer.NOT_FLAGGED, Presence.ABSENT)}
_DISAGREES = {(Answer.FLAGGED, Presence.ABSENT), (Answer.NOT_FLAGGED, Presence.PRESENT)}
Counts = dict[str, Counter[tuple[Any, ...]]]
"""By what is counted (see ``_questions``): how many readings, findings or films, by what they have in common."""


@dataclass(slots=True)
class Agreement:
    """Readings of one bundle, device and month, as far as these were asked for.

    Attributes:
        group: the values of what was asked for, by name.
        verdicts: how often each was signed.
        table: findings by what the bundle answered and what the reader says of it.
        before_answer: readings that were signed before the answer could be seen.
        waited: films by the seconds from arrival to the first reading, down to whole minutes (hours, after a day).
        overtook: unread films that had come before those films, one film's added to the other's.
    """

    group: dict[str, str]
    readings: int = 0
    verdicts: Counter[Verdict] = field(default_factory=lambda: Counter(dict.fromkeys(Verdict, 0)))
    table: Counter[tuple[Answer, Presence]] = field(default_factory=Counter)
    before_answer: int = 0
    waited: Counter[int] = field(default_factory=Counter, repr=False)
    overtook: int = 0

    @property
    def agree(self) -> int:
        """Findings on which bundle and reader say the same."""
        return sum(count for cell, count in self.table.items() if cell in _AGREES)

    @property
    def disagree(self) -> int:
        """Findings on which they say the opposite."""
        return sum(count for cell, count in self.table.items() if cell in _DISAGREES)

    @property
    def undecided(self) -> int:
        """Findings of which one of the two is not sure."""
        return sum(self.table.values()) - self.agree - self.disagree

    @property
    def share(self) -> float | None:
        """Of the findings on which both are sure, the share on which they agree; ``None`` for none."""
        sure = self.agree + self.disagree
        return self.agree / sure if sure else None

    @property
    def median_waited_s(self) -> float | None:
        """Half of the films were read within this time."""
        left = self.waited.total() / 2
        for seconds, films in sorted(self.waited.items()):
            left -= films
            if left <= 0:
                return float(seconds)
        return None

    @property
    def mean_overtook(self) -> float | None:
        """How many unread films that had come before a film it was read ahead of."""
        films = self.waited.total()
        return self.overtook / films if films else None


def stats(engine: Engine, by: tuple[str, ...] = BY) -> list[Agreement]:
    """Count the readings that stand: that were not corrected. One of a later result corrects none of an earlier.

    Args:
        by: some of ``bundle``, ``device`` and ``month`` (of the signature, UTC).
    """
    with suppress(DatabaseAway):  # what takes no changes can be counted all the same; what is away says so below
        write_down(engine)
    return together(read(engine, lambda connection: _groups(connection, _counted(connection))), by)


def together(groups: Iterable[Agreement], by: tuple[str, ...]) -> list[Agreement]:
    """Add up groups that are the same as far as ``by`` goes."""
    found: dict[tuple[str, ...], Agreement] = {}
    for one in groups:
        group = {name: one.group[name] for name in by}
        into = found.setdefault(tuple(group.values()), Agreement(group))
        into.readings += one.readings
        into.before_answer += one.before_answer
        into.overtook += one.overtook
        into.verdicts.update(one.verdicts)
        into.table.update(one.table)
        into.waited.update(one.waited)
    return [found[key] for key in sorted(found)]


def _groups(connection: Connection, counts: Counts) -> Iterable[Agreement]:
    b = schema.bundle.c
    bundles = {one.id: f"{one.name}/{one.version}" for one in connection.execute(select(b.id, b.name, b.version))}
    found: dict[tuple[str, ...], Agreement] = {}

    def of(key: tuple[Any, ...]) -> Agreement:
        bundle_id, device, month = key[:3]
        values = (bundles.get(bundle_id, ""), device or "", month)
        return found.setdefault(values, Agreement(dict(zip(BY, values, strict=True))))

    for key, count in counts["signed"].items():
        one, verdict, answer_visible = of(key), Verdict(key[3]), key[4]
        one.readings += count
        one.verdicts[verdict] += count
        one.before_answer += 0 if answer_visible else count
    for key, count in counts["said"].items():
        verdict, answer, presence = Verdict(key[3]), Answer(key[4]), key[5]
        meant = Presence(presence) if presence else implied(verdict, answer)
        if meant is not None:
            of(key).table[answer, meant] += count
    for key, count in counts["waited"].items():
        of(key).waited[key[3]] += count
    for key, count in counts["overtook"].items():
        of(key).overtook += count
    return found.values()


# ---------------------------------------------------------------------- counting


def _counted(connection: Connection) -> Counts:
    """Return what the readings that stand add up to: from the tallies, and what those leave out."""
    total: Counts = {}
    after = 0
    for row in connection.execute(select(tally).order_by(tally.c.block)):
        if row.block > after:
            _add(total, _count(connection, after, row.block))
        _add(total, {kind: {tuple(key): n for *key, n in rows} for kind, rows in json.loads(row.counted).items()})
        after = row.block + 1
    _add(total, _count(connection, after))
    return {kind: +counts for kind, counts in total.items()}


def write_down(engine: Engine) -> None:
    """Write down what the blocks add up to that no reading will come into any more."""
    for block in read(engine, _to_write):

        def body(connection: Connection, _again: bool, block: int = block) -> None:
            lock_contents(connection, [review_schema.TALLY_LOCK])
            if connection.execute(select(tally.c.block).where(tally.c.block == block)).first() is None:
                counts = _count(connection, block, block + 1)
                rows = {kind: [[*key, n] for key, n in found.items()] for kind, found in counts.items()}
                connection.execute(insert(tally), {"block": block, "counted": json.dumps(rows)})

        write(engine, body)


def _to_write(connection: Connection) -> list[int]:
    newest = connection.execute(select(func.max(_reading.id))).scalar() or 0
    there = set(connection.execute(select(tally.c.block)).scalars())
    size = review_schema.READINGS_A_BLOCK
    full = [block for block in range(newest // size) if block not in there]
    before = database_now(connection) - _SETTLED_AFTER
    while full:
        beyond = select(_reading.signed_at).where(_reading.id >= (full[-1] + 1) * size).order_by(_reading.id).limit(1)
        if connection.execute(beyond).scalar_one() < before:
            break
        full.pop()
    return full


def _count(connection: Connection, first: int, end: int | None = None) -> Counts:
    """Count the readings of the blocks from ``first`` to before ``end``, and take off those that they correct."""
    size = review_schema.READINGS_A_BLOCK

    def within(number: ColumnElement[int]) -> ColumnElement[bool]:
        return number >= first * size if end is None else and_(number >= first * size, number < end * size)

    before, after = reading.alias(), reading.alias()
    b, a = before.c, after.c
    same = (a[name].is_not_distinct_from(b[name]) for name in ("outcome", "code", "assessment_id"))
    corrected = select(b.id).join(after, a.supersedes_id == b.id).where(within(a.id), *same)
    found: Counts = {}
    for kind, statement in _questions(connection):
        found[kind] = Counter({tuple(key): n for *key, n in connection.execute(statement.where(within(_reading.id)))})
        if kind in _OF_READINGS:
            off = connection.execute(statement.where(_reading.id.in_(corrected)))
            found[kind].subtract({tuple(key): n for *key, n in off})
    return found


def _questions(connection: Connection) -> Iterator[tuple[str, Select[Any]]]:
    """Yield what is counted, and its statement: by bundle, device, month and more, how many.

    ``signed``: readings; ``said``: findings; ``waited``: films that were read, by the wait; ``overtook``: films that
    were overtaken.
    """
    common = (_reading.bundle_id, schema.file.c.device, _month(connection))

    def counted(number: ColumnElement[int], *by: ColumnElement[Any]) -> Select[Any]:
        of = select(*common, *by, number).join_from(reading, schema.file, schema.file.c.id == _reading.file_id)
        return of.group_by(*common, *by)

    f, said = schema.finding.c, reading_finding.c
    yield "signed", counted(func.count(), _reading.verdict, _reading.answer_visible)
    yield (
        "said",
        counted(func.count(), _reading.verdict, f.answer, said.presence)
        .join(schema.finding, f.assessment_id == _reading.assessment_id)
        .outerjoin(reading_finding, (said.reading_id == _reading.id) & (said.finding == f.finding)),
    )
    first = _reading.overtook.is_not(None)
    seconds = cast(_reading.waited_s, BigInteger)
    unit = case((seconds >= _DAY_S, _HOUR_S), else_=_MINUTE_S)
    yield "waited", counted(func.count(), seconds - seconds % unit).where(first)
    yield "overtook", counted(func.sum(_reading.overtook)).where(first)


def _add(total: Counts, more: Mapping[str, Mapping[tuple[Any, ...], int]]) -> None:
    for kind, counts in more.items():
        total.setdefault(kind, Counter()).update(counts)


def _month(connection: Connection) -> ColumnElement[str]:
    if connection.dialect.name == "sqlite":
        return func.strftime("%Y-%m", _reading.signed_at, type_=String)
    return func.to_char(func.timezone("UTC", _reading.signed_at), "YYYY-MM", type_=String)


def to_json(one: Agreement) -> JSONObject:
    """Return the counts as a record."""
    return {
        **one.group,
        "readings": one.readings,
        **{verdict.value: count for verdict, count in one.verdicts.items()},
        "agree": one.agree,
        "disagree": one.disagree,
        "undecided": one.undecided,
        "share": one.share,
        "table": [
            {"answer": answer.value, "presence": presence.value, "findings": count}
            for (answer, presence), count in sorted(one.table.items())
        ],
        "before_answer": one.before_answer,
        "median_waited_s": one.median_waited_s,
        "mean_overtook": one.mean_overtook,
    }
