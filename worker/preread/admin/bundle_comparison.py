"""Comparison of two bundles on the images that both assessed.

Every outcome of a bundle for a content counts: as active bundle, earlier, or as shadow. Contents are read page by page,
so that memory stays bounded for a million of them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter

import numpy as np
from sqlalchemy import Connection, Engine, exists, or_, select
from sqlalchemy.sql.selectable import Exists

from preread.core.types import JSONObject, Outcome
from preread.db.admin_schema import shadow, shadow_finding
from preread.db.schema import assessment, file, finding, instance, past_outcome
from preread.db.statements import read_pages

_PAGE = 500
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_i, _f = instance.c, file.c


@dataclass(frozen=True, slots=True)
class ChangedResult:
    """An image's content for which two bundles give different results.

    Attributes:
        file_ids: file versions that hold the content.
        finding: name of the finding; empty if both bundles refused.
        before, after: answer of the first and second bundle, or ``refused: CODE``.
        probabilities: of first and second bundle, in [0, 1]; ``None`` if one refused.
    """

    file_ids: tuple[int, ...]
    finding: str
    before: str
    after: str
    probabilities: tuple[float, float] | None


@dataclass(slots=True)
class FindingComparison:
    """Agreement of two bundles on one finding.

    Attributes:
        table: number of contents by (first answer, second answer).
        shifts: second probability minus first, of contents with both, in [-1, 1].
    """

    table: Counter[tuple[str, str]] = field(default_factory=Counter)
    shifts: array[float] = field(default_factory=lambda: array("d"))

    @property
    def agreement(self) -> float:
        """Share of contents with the same answer, in [0, 1]."""
        return sum(count for (first, second), count in self.table.items() if first == second) / self.table.total()

    def quantiles(self) -> tuple[float, ...]:
        """Quantiles of the probability shift at ``QUANTILES``; empty without one."""
        return tuple(map(float, np.quantile(self.shifts, QUANTILES))) if self.shifts else ()


@dataclass(slots=True)
class Comparison:
    """Result of a comparison of two bundles.

    Attributes:
        contents: number of contents with outcomes of both bundles.
        findings: agreement by finding name.
        changes: contents with different answers.
    """

    contents: int = 0
    findings: dict[str, FindingComparison] = field(default_factory=dict)
    changes: list[ChangedResult] = field(default_factory=list)


def compare_bundles(engine: Engine, first: Sequence[int], second: Sequence[int]) -> Comparison:
    """Compare the results of two bundles on the images that both assessed.

    Args:
        engine: database.
        first: ids of the first bundle; a label may have several.
    second: ids of the second bundle.

    Raises:
        DatabaseAway, SchemaOutdated: the database cannot be read.
    """
    result = Comparison()
    for page in read_pages(engine, partial(_page, first=first, second=second), itemgetter(0), 0):
        for _, before, after, file_ids in page:
            result.contents += 1
            _add(result, before, after, file_ids)
    return result


_Answers = dict[str, tuple[str, float | None]]
"""(answer, probability) by finding; for a refused content the refusal under the empty name."""


def _add(result: Comparison, first: _Answers, second: _Answers, file_ids: tuple[int, ...]) -> None:
    # a refused content has no findings: compare its refusal with each finding of the other bundle
    """Add one content to the result."""
    for name in sorted({*first, *second} - {""}) or [""]:
        before, p = first.get(name) or first.get("", ("-", None))
        after, q = second.get(name) or second.get("", ("-", None))
        comparison = result.findings.setdefault(name, FindingComparison())
        comparison.table[before, after] += 1
        both = None if p is None or q is None else (p, q)
        if both is not None:
            comparison.shifts.append(both[1] - both[0])
        if before != after:
            result.changes.append(ChangedResult(file_ids, name, before, after, both))


def _page(
    connection: Connection, after: int, *, first: Sequence[int], second: Sequence[int]
) -> list[tuple[int, _Answers, _Answers, tuple[int, ...]]]:
    """Return the next contents by rising id: id, both bundles' answers, and file ids."""
    both = or_(*_has_outcome(first)), or_(*_has_outcome(second))
    statement = select(_i.id).where(_i.id > after, *both).order_by(_i.id).limit(_PAGE)
    ids = list(connection.execute(statement).scalars())
    films: dict[int, list[int]] = {first_answers: [] for first_answers in ids}
    for row in connection.execute(select(_f.id, _f.instance_id).where(_f.instance_id.in_(ids)).order_by(_f.id)):
        films[row.instance_id].append(row.id)
    first_answers, second_answers = (_answers(connection, bundle_ids, ids) for bundle_ids in (first, second))
    return [(number, first_answers[number], second_answers[number], tuple(films[number])) for number in ids]


def _has_outcome(bundle_ids: Sequence[int]) -> Iterator[Exists]:
    """Yield conditions that are true if one of these bundles has an outcome."""
    a, s, p = assessment.c, shadow.c, past_outcome.c
    yield exists().where(a.instance_id == _i.id, a.bundle_id.in_(bundle_ids))
    yield exists().where(s.instance_id == _i.id, s.bundle_id.in_(bundle_ids), s.outcome != Outcome.UNREADABLE)
    for c in (_f, p):
        yield exists().where(c.instance_id == _i.id, c.bundle_id.in_(bundle_ids), c.outcome == Outcome.REFUSED)


def _answers(connection: Connection, bundle_ids: Sequence[int], ids: Sequence[int]) -> dict[int, _Answers]:
    """Return each content's answers by one bundle, by content id."""
    a, s, f, g, p = assessment.c, shadow.c, finding.c, shadow_finding.c, past_outcome.c
    answers: dict[int, _Answers] = {one: {} for one in ids}
    # later statements override earlier ones: an assessment replaces a refusal, which depended on the file's declaration
    for c in (s, p, _f):
        refused = select(c.instance_id, c.code).where(c.instance_id.in_(ids), c.bundle_id.in_(bundle_ids))
        for row in connection.execute(refused.where(c.outcome == Outcome.REFUSED)):
            answers[row.instance_id] = {"": (f"refused: {row.code}", None)}
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
            answers[row.instance_id].pop("", None)
            answers[row.instance_id][row.finding] = (row.answer, row.probability)
    return answers


def comparison_to_json(comparison: Comparison) -> JSONObject:
    """Return the comparison of two bundles as a JSON object."""
    return {
        "contents": comparison.contents,
        "changes": len(comparison.changes),
        "findings": {
            name: {
                "agreement": finding.agreement,
                "answers": [{"first": a, "second": b, "contents": n} for (a, b), n in sorted(finding.table.items())],
                "shift": dict(zip(map(str, QUANTILES), finding.quantiles(), strict=False)),
            }
            for name, finding in comparison.findings.items()
        },
    }


def changed_result_to_json(change: ChangedResult) -> JSONObject:
    """Return an image's different results of two bundles as a JSON object."""
    return {
        "films": list(change.file_ids),
        "finding": change.finding,
        "first": change.before,
        "second": change.after,
        "probabilities": change.probabilities,
    }
