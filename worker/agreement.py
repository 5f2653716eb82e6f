"""How far readers agree with the bundles: counts by bundle, device and month, from the readings that stand."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import Engine

from worker import readings
from worker.domain import Answer, JSONObject, Presence, Verdict
from worker.readings import Reading

BY = ("bundle", "device", "month")
_PAGE = 1_000
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
    found: dict[tuple[str, ...], Agreement] = {}
    for one in _standing(engine):
        values = {"bundle": one.bundle or "", "device": one.device or "", "month": f"{one.signed_at:%Y-%m}"}
        group = {name: values[name] for name in by}
        _count(found.setdefault(tuple(group.values()), Agreement(group)), one)
    return [found[key] for key in sorted(found)]


def _standing(engine: Engine) -> Iterator[Reading]:
    after = 0
    while batch := readings.page(engine, after, _PAGE):
        yield from (one for one in batch if not one.superseded)
        after = batch[-1].reading_id


def _count(into: Agreement, one: Reading) -> None:
    into.readings += 1
    into.verdicts[one.verdict] += 1
    into.before_answer += not one.answer_visible
    for finding, presence in one.presences().items():
        if finding in one.answers:
            cell = (one.answers[finding], presence)
            into.table[cell] = into.table.get(cell, 0) + 1
    if one.overtook is not None:
        into.waited_s.append(one.waited_s)
        into.overtook.append(one.overtook)


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
