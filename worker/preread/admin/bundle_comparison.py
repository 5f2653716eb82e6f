"""Two bundles on the same films: how often they answer alike, how far probabilities move, which films change sides.

Whatever a bundle said of a content counts: as the bundle in use, earlier, or in the shadow. Only contents of which both
spoke are compared, page by page, so that a million are no matter.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import Connection, Engine, exists, or_, select
from sqlalchemy.sql.selectable import Exists

from preread.core.types import JSONObject, Outcome
from preread.db.admin_schema import shadow, shadow_finding
from preread.db.engine import read
from preread.db.schema import assessment, file, finding, instance, past_outcome

_PAGE = 500
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_i, _f = instance.c, file.c


@dataclass(frozen=True, slots=True)
class Change:
    """A content that the bundles answer differently.

    Attributes:
        file_ids: the films that hold it.
        before, after: the answers, or ``refused: CODE``.
        probabilities: of both, ``None`` where one is refused.
    """

    file_ids: tuple[int, ...]
    finding: str
    before: str
    after: str
    probabilities: tuple[float, float] | None


@dataclass(slots=True)
class OfFinding:
    """One finding. ``table``: contents by both answers. ``shifts``: second probability minus first."""

    table: Counter[tuple[str, str]] = field(default_factory=Counter)
    shifts: array[float] = field(default_factory=lambda: array("d"))

    @property
    def agreement(self) -> float:
        """Share of the contents with the same answer."""
        return sum(count for (first, second), count in self.table.items() if first == second) / self.table.total()

    def quantiles(self) -> tuple[float, ...]:
        """The shift of the probability at ``QUANTILES``; empty where both never gave one."""
        return tuple(map(float, np.quantile(self.shifts, QUANTILES))) if self.shifts else ()


@dataclass(slots=True)
class Comparison:
    """What was found. ``contents``: how many both spoke of."""

    contents: int = 0
    findings: dict[str, OfFinding] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)


def compare(engine: Engine, first: Sequence[int], second: Sequence[int]) -> Comparison:
    """Compare two bundles, each given by its ids."""
    found = Comparison()
    after = 0
    while True:
        said = read(engine, lambda connection, start=after: _page(connection, first, second, start))  # type: ignore[misc]
        if not said:
            return found
        after = max(said)
        for one, other, file_ids in said.values():
            found.contents += 1
            _add(found, one, other, file_ids)


_Answers = dict[str, tuple[str, float | None]]
"""By finding: the answer and its probability; for a refused content under the empty name why."""


def _add(found: Comparison, one: _Answers, other: _Answers, file_ids: tuple[int, ...]) -> None:
    # a refused content has no findings of its own: it stands against each of the other's
    for name in sorted({*one, *other} - {""}) or [""]:
        before, p = one.get(name) or one.get("", ("-", None))
        after, q = other.get(name) or other.get("", ("-", None))
        of = found.findings.setdefault(name, OfFinding())
        of.table[before, after] += 1
        both = None if p is None or q is None else (p, q)
        if both is not None:
            of.shifts.append(both[1] - both[0])
        if before != after:
            found.changes.append(Change(file_ids, name, before, after, both))


def _page(
    connection: Connection, first: Sequence[int], second: Sequence[int], after: int
) -> dict[int, tuple[_Answers, _Answers, tuple[int, ...]]]:
    both = or_(*_spoke(first)), or_(*_spoke(second))
    statement = select(_i.id).where(_i.id > after, *both).order_by(_i.id).limit(_PAGE)
    ids = list(connection.execute(statement).scalars())
    films: dict[int, list[int]] = {one: [] for one in ids}
    for row in connection.execute(select(_f.id, _f.instance_id).where(_f.instance_id.in_(ids)).order_by(_f.id)):
        films[row.instance_id].append(row.id)
    one, other = (_answers(connection, bundle_ids, ids) for bundle_ids in (first, second))
    return {number: (one[number], other[number], tuple(films[number])) for number in ids}


def _spoke(bundle_ids: Sequence[int]) -> Iterator[Exists]:
    a, s, p = assessment.c, shadow.c, past_outcome.c
    yield exists().where(a.instance_id == _i.id, a.bundle_id.in_(bundle_ids))
    yield exists().where(s.instance_id == _i.id, s.bundle_id.in_(bundle_ids), s.outcome != Outcome.UNREADABLE)
    for c in (_f, p):
        yield exists().where(c.instance_id == _i.id, c.bundle_id.in_(bundle_ids), c.outcome == Outcome.REFUSED)


def _answers(connection: Connection, bundle_ids: Sequence[int], ids: Sequence[int]) -> dict[int, _Answers]:
    a, s, f, g, p = assessment.c, shadow.c, finding.c, shadow_finding.c, past_outcome.c
    found: dict[int, _Answers] = {one: {} for one in ids}
    # what comes later wins: an assessment over a refusal, which hung on what its file declared
    for c in (s, p, _f):
        refused = select(c.instance_id, c.code).where(c.instance_id.in_(ids), c.bundle_id.in_(bundle_ids))
        for row in connection.execute(refused.where(c.outcome == Outcome.REFUSED)):
            found[row.instance_id] = {"": (f"refused: {row.code}", None)}
    by_shadow = (
        select(s.instance_id, g.finding, g.answer, g.probability)
        .join(shadow_finding, g.shadow_id == s.id)
        .where(s.instance_id.in_(ids), s.bundle_id.in_(bundle_ids))
    )
    shown = (
        select(a.instance_id, f.finding, f.answer, f.probability)
        .join(finding, f.assessment_id == a.id)
        .where(a.instance_id.in_(ids), a.bundle_id.in_(bundle_ids))
    )
    for statement in (by_shadow, shown):
        for row in connection.execute(statement):
            found[row.instance_id].pop("", None)
            found[row.instance_id][row.finding] = (row.answer, row.probability)
    return found


def to_json(found: Comparison) -> JSONObject:
    """Return the comparison as a record, without its changes."""
    return {
        "contents": found.contents,
        "changes": len(found.changes),
        "findings": {
            name: {
                "agreement": of.agreement,
                "answers": [{"first": a, "second": b, "contents": n} for (a, b), n in sorted(of.table.items())],
                "shift": dict(zip(map(str, QUANTILES), of.quantiles(), strict=False)),
            }
            for name, of in found.findings.items()
        },
    }


def change_to_json(change: Change) -> JSONObject:
    """Return one content that changes sides as a record."""
    return {
        "films": list(change.file_ids),
        "finding": change.finding,
        "first": change.before,
        "second": change.after,
        "probabilities": change.probabilities,
    }
