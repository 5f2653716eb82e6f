"""How far readers agree with the bundles: counts by bundle, device and month, from the readings that stand."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, String, exists, func, select

from worker import schema
from worker.domain import Answer, JSONObject, Presence, Verdict
from worker.readings import implied
from worker.review_schema import reading, reading_finding
from worker.store import read

BY = ("bundle", "device", "month")
_reading = reading.c
_AGREES = {(Answer.FLAGGED, Presence.PRESENT), (Answer.NOT_FLAGGED, Presence.ABSENT)}
_DISAGREES = {(Answer.FLAGGED, Presence.ABSENT), (Answer.NOT_FLAGGED, Presence.PRESENT)}


@dataclass(slots=True)
class Agreement:
    """Readings of one bundle, device and month, as far as these were asked for.

    Attributes:
        group: the values of what was asked for, by name.
        verdicts: how often each was signed.
        table: findings by what the bundle answered and what the reader says of it.
        before_answer: readings that were signed before the answer could be seen.
        waited_s: from arrival to the first reading, one a film.
        overtook: unread films that had come before, one a film.
    """

    group: dict[str, str]
    readings: int = 0
    verdicts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    table: dict[tuple[Answer, Presence], int] = field(default_factory=dict)
    before_answer: int = 0
    waited_s: list[float] = field(default_factory=list, repr=False)
    overtook: list[int] = field(default_factory=list, repr=False)

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
        return statistics.median(self.waited_s) if self.waited_s else None

    @property
    def mean_overtook(self) -> float | None:
        """How many unread films that had come before a film it was read ahead of."""
        return statistics.fmean(self.overtook) if self.overtook else None


def stats(engine: Engine, by: tuple[str, ...] = BY) -> list[Agreement]:
    """Count the readings that stand (not corrected since).

    Args:
        by: some of ``bundle``, ``device`` and ``month`` (of the signature, UTC).
    """
    return together(read(engine, _counted), by)


def together(groups: Iterable[Agreement], by: tuple[str, ...]) -> list[Agreement]:
    """Add up groups that are the same as far as ``by`` goes."""
    found: dict[tuple[str, ...], Agreement] = {}
    for one in groups:
        group = {name: one.group[name] for name in by}
        into = found.setdefault(tuple(group.values()), Agreement(group))
        into.readings += one.readings
        into.before_answer += one.before_answer
        into.waited_s += one.waited_s
        into.overtook += one.overtook
        for verdict, count in one.verdicts.items():
            into.verdicts[verdict] += count
        for cell, count in one.table.items():
            into.table[cell] = into.table.get(cell, 0) + count
    return [found[key] for key in sorted(found)]


def _counted(connection: Connection) -> Iterable[Agreement]:
    """Let the database count: a hospital's readings are too many to be looked at one by one."""
    successor, month = reading.alias(), _month(connection)
    group = (schema.bundle.c.name, schema.bundle.c.version, schema.file.c.device, month)
    standing = (
        select(*group)
        .select_from(reading)
        .join(schema.file, schema.file.c.id == _reading.file_id)
        .outerjoin(schema.bundle, schema.bundle.c.id == _reading.bundle_id)
        .where(~exists().where(successor.c.supersedes_id == _reading.id))
    )
    found: dict[tuple[str, ...], Agreement] = {}

    def of(row: Any) -> Agreement:
        name, version, device, month = row[:4]
        values = ("" if name is None else f"{name}/{version}", device or "", month)
        return found.setdefault(values, Agreement(dict(zip(BY, values, strict=True))))

    signed = (_reading.verdict, _reading.answer_visible)
    for row in connection.execute(standing.add_columns(*signed, func.count()).group_by(*group, *signed)):
        verdict, answer_visible, count = tuple(row)[-3:]
        of(row).readings += count
        of(row).verdicts[Verdict(verdict)] += count
        of(row).before_answer += 0 if answer_visible else count
    f, said = schema.finding.c, reading_finding.c
    cell = (_reading.verdict, f.answer, said.presence)
    findings = (
        standing.add_columns(*cell, func.count())
        .join(schema.finding, f.assessment_id == _reading.assessment_id)
        .outerjoin(reading_finding, (said.reading_id == _reading.id) & (said.finding == f.finding))
    )
    for row in connection.execute(findings.group_by(*group, *cell)):
        verdict, answer, presence, count = tuple(row)[-4:]
        meant = Presence(presence) if presence else implied(Verdict(verdict), Answer(answer))
        if meant is not None:
            at = (Answer(answer), meant)
            of(row).table[at] = of(row).table.get(at, 0) + count
    first = standing.add_columns(_reading.waited_s, _reading.overtook).where(_reading.overtook.is_not(None))
    for row in connection.execute(first):
        of(row).waited_s.append(row.waited_s)
        of(row).overtook.append(row.overtook)
    return found.values()


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
