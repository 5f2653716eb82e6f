"""Agreement of reviewers with the bundles, by bundle, device and month.

Counts current reviews. Reviews never change, so the sums of each block of them (by id), less what they correct, are
stored once in table ``tally``; only the newest are counted on request. Tallies are a cache: any of them may be deleted.
An image's device is that at the time its reviews were counted.
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
from preread.review.reviews import implied_presence

BY = ("bundle", "device", "month")
# Longer than any transaction: earlier reviews are all committed, in the order of their ids.
_SETTLED_AFTER = timedelta(hours=1)
_DAY_S, _HOUR_S, _MINUTE_S = 86_400, 3_600, 60
# Counts that a correction reverts. Waiting times stay, also if the review was corrected.
_OF_READINGS = ("signed", "said")
_reading = reading.c
_AGREES = {(Answer.FLAGGED, Presence.PRESENT), (Answer.NOT_FLAGGED, Presence.ABSENT)}
_DISAGREES = {(Answer.FLAGGED, Presence.ABSENT), (Answer.NOT_FLAGGED, Presence.PRESENT)}
Counts = dict[str, Counter[tuple[Any, ...]]]
"""Counter by key for each name of ``_questions``."""


@dataclass(slots=True)
class Agreement:
    """Counts of reviews that agree or disagree with a bundle, of one group.

    Attributes:
        group: values of bundle, device and month as requested, by name.
        readings: number of reviews.
        verdicts: number of reviews by verdict.
        table: number of findings by (answer of the bundle, presence by the reviewer).
        before_answer: reviews signed before the answer was visible.
        waited: number of images by seconds from arrival to the first review, in whole minutes (hours after a day).
        overtook: sum, over these images, of unread images that had arrived earlier.
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
        """Number of findings on which bundle and reviewer agree."""
        return sum(count for cell, count in self.table.items() if cell in _AGREES)

    @property
    def disagree(self) -> int:
        """Number of findings on which bundle and reviewer contradict each other."""
        return sum(count for cell, count in self.table.items() if cell in _DISAGREES)

    @property
    def undecided(self) -> int:
        """Number of findings on which bundle or reviewer is uncertain."""
        return sum(self.table.values()) - self.agree - self.disagree

    @property
    def share(self) -> float | None:
        """Share of agreement where both are certain, in [0, 1]; ``None`` if none."""
        sure = self.agree + self.disagree
        return self.agree / sure if sure else None

    @property
    def median_waited_s(self) -> float | None:
        """Median time to an image's first review, in seconds; ``None`` if none."""
        remaining = self.waited.total() / 2
        for seconds, films in sorted(self.waited.items()):
            remaining -= films
            if remaining <= 0:
                return float(seconds)
        return None

    @property
    def mean_overtook(self) -> float | None:
        """Mean number of earlier unreviewed images; ``None`` without images."""
        films = self.waited.total()
        return self.overtook / films if films else None


def count_agreement(engine: Engine, by: tuple[str, ...] = BY) -> list[Agreement]:
    """Count the current reviews and their agreement with bundles, by group.

    A review of a newer result does not correct one of an older result.

    Args:
        engine: database.
        by: subset of ``bundle``, ``device`` and ``month`` (of the signature, UTC).

    Returns:
        Groups in sorted order.

    Raises:
        DatabaseAway, SchemaOutdated: the database cannot be read.
    """
    with suppress(DatabaseAway):  # a read-only database can be counted all the same; one that is away fails below
        store_tallies(engine)
    return sum_agreements(read(engine, lambda connection: _groups(connection, _counted(connection))), by)


def sum_agreements(groups: Iterable[Agreement], by: tuple[str, ...]) -> list[Agreement]:
    """Add up counts of reviews with the same bundle, device or month."""
    by_values: dict[tuple[str, ...], Agreement] = {}
    for part in groups:
        group = {name: part.group[name] for name in by}
        total = by_values.setdefault(tuple(group.values()), Agreement(group))
        total.readings += part.readings
        total.before_answer += part.before_answer
        total.overtook += part.overtook
        total.verdicts.update(part.verdicts)
        total.table.update(part.table)
        total.waited.update(part.waited)
    return [by_values[key] for key in sorted(by_values)]


def _groups(connection: Connection, counts: Counts) -> Iterable[Agreement]:
    b = schema.bundle.c
    bundles = {
        group.id: f"{group.name}/{group.version}" for group in connection.execute(select(b.id, b.name, b.version))
    }
    groups: dict[tuple[str, ...], Agreement] = {}

    def group_of(key: tuple[Any, ...]) -> Agreement:
        bundle_id, device, month = key[:3]
        values = (bundles.get(bundle_id, ""), device or "", month)
        return groups.setdefault(values, Agreement(dict(zip(BY, values, strict=True))))

    for key, count in counts["signed"].items():
        group, verdict, answer_visible = group_of(key), Verdict(key[3]), key[4]
        group.readings += count
        group.verdicts[verdict] += count
        group.before_answer += 0 if answer_visible else count
    for key, count in counts["said"].items():
        verdict, answer, presence = Verdict(key[3]), Answer(key[4]), key[5]
        meant = Presence(presence) if presence else implied_presence(verdict, answer)
        if meant is not None:
            group_of(key).table[answer, meant] += count
    for key, count in counts["waited"].items():
        group_of(key).waited[key[3]] += count
    for key, count in counts["overtook"].items():
        group_of(key).overtook += count
    return groups.values()


# ---------------------------------------------------------------------- counting


def _counted(connection: Connection) -> Counts:
    """Return the counts of all current reviews from tallies and the rest."""
    total: Counts = {}
    after = 0
    for row in connection.execute(select(tally).order_by(tally.c.block)):
        if row.block > after:
            _add(total, _count(connection, after, row.block))
        _add(total, {kind: {tuple(key): n for *key, n in rows} for kind, rows in json.loads(row.counted).items()})
        after = row.block + 1
    _add(total, _count(connection, after))
    return {kind: +counts for kind, counts in total.items()}


def store_tallies(engine: Engine) -> None:
    """Store the sums of reviews for blocks that no review will enter any more.

    Raises:
        DatabaseAway: the database does not answer or is read-only.
    """
    for block in read(engine, _to_write):

        def body(connection: Connection, _again: bool, block: int = block) -> None:
            lock_contents(connection, [review_schema.TALLY_LOCK])
            if connection.execute(select(tally.c.block).where(tally.c.block == block)).first() is None:
                counts = _count(connection, block, block + 1)
                rows = {kind: [[*key, n] for key, n in count.items()] for kind, count in counts.items()}
                connection.execute(insert(tally), {"block": block, "counted": json.dumps(rows)})

        write(engine, body)


def _to_write(connection: Connection) -> list[int]:
    """Return the blocks that are complete and have no tally."""
    newest = connection.execute(select(func.max(_reading.id))).scalar() or 0
    stored = set(connection.execute(select(tally.c.block)).scalars())
    size = review_schema.READINGS_A_BLOCK
    complete = [block for block in range(newest // size) if block not in stored]
    before = database_now(connection) - _SETTLED_AFTER
    while complete:
        first_after = (
            select(_reading.signed_at).where(_reading.id >= (complete[-1] + 1) * size).order_by(_reading.id).limit(1)
        )
        if connection.execute(first_after).scalar_one() < before:
            break
        complete.pop()
    return complete


def _count(connection: Connection, first: int, end: int | None = None) -> Counts:
    """Count the reviews of blocks [first, end), less those they correct."""
    size = review_schema.READINGS_A_BLOCK

    def within(number: ColumnElement[int]) -> ColumnElement[bool]:
        return number >= first * size if end is None else and_(number >= first * size, number < end * size)

    before, after = reading.alias(), reading.alias()
    b, a = before.c, after.c
    same = (a[name].is_not_distinct_from(b[name]) for name in ("outcome", "code", "assessment_id"))
    corrected = select(b.id).join(after, a.supersedes_id == b.id).where(within(a.id), *same)
    counts: Counts = {}
    for kind, statement in _questions(connection):
        counts[kind] = Counter({tuple(key): n for *key, n in connection.execute(statement.where(within(_reading.id)))})
        if kind in _OF_READINGS:
            corrections = connection.execute(statement.where(_reading.id.in_(corrected)))
            counts[kind].subtract({tuple(key): n for *key, n in corrections})
    return counts


def _questions(connection: Connection) -> Iterator[tuple[str, Select[Any]]]:
    """Yield the name and the query of each count.

    ``signed``: reviews; ``said``: findings; ``waited``: reviewed images by waiting time; ``overtook``: overtaken
    images.
    """
    common = (_reading.bundle_id, schema.file.c.device, _month(connection))

    def counted(number: ColumnElement[int], *by: ColumnElement[Any]) -> Select[Any]:
        query = select(*common, *by, number).join_from(reading, schema.file, schema.file.c.id == _reading.file_id)
        return query.group_by(*common, *by)

    f, stated = schema.finding.c, reading_finding.c
    yield "signed", counted(func.count(), _reading.verdict, _reading.answer_visible)
    yield (
        "said",
        counted(func.count(), _reading.verdict, f.answer, stated.presence)
        .join(schema.finding, f.assessment_id == _reading.assessment_id)
        .outerjoin(reading_finding, (stated.reading_id == _reading.id) & (stated.finding == f.finding)),
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


def agreement_to_json(agreement: Agreement) -> JSONObject:
    """Return counts of reviews and their agreement as a JSON object."""
    return {
        **agreement.group,
        "readings": agreement.readings,
        **{verdict.value: count for verdict, count in agreement.verdicts.items()},
        "agree": agreement.agree,
        "disagree": agreement.disagree,
        "undecided": agreement.undecided,
        "share": agreement.share,
        "table": [
            {"answer": answer.value, "presence": presence.value, "findings": count}
            for (answer, presence), count in sorted(agreement.table.items())
        ],
        "before_answer": agreement.before_answer,
        "median_waited_s": agreement.median_waited_s,
        "mean_overtook": agreement.mean_overtook,
    }
