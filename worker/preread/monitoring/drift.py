"""Drift of images and results against the bundle's and the site's data.

The live images of the last days are compared with the bundle's reference distribution (images on which its metrics were
measured) and with the site's own first days under this bundle: probability of each finding, share of refusals and image
statistics. Backlog and research folders are excluded. A shift is no statement about a single image: prevalence, another
device, other processing or collimation cause one as well.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, Row, Select, select

from preread.core.types import ImageStatistics, JSONObject, Outcome
from preread.db import schema
from preread.ledger.transaction import Transaction, query
from preread.model.distributions import (
    Distribution,
    Reference,
    compute_chance_level,
    compute_decile_histogram,
    compute_histogram,
    compute_stability_index,
)

RECENT_DAYS = 7
BASELINE_DAYS = 14
LEAST_FILMS = 100
MOST_FILMS = 20_000
SHIFTING, SHIFTED = 0.1, 0.25
REFUSALS = "refusals"
PICTURE = tuple(one.name for one in dataclasses.fields(ImageStatistics))
_file, _assessment, _finding, _bundle = schema.file.c, schema.assessment.c, schema.finding.c, schema.bundle.c
_REFERENCE = TypeAdapter(Reference)


class ReferenceKind(StrEnum):
    """Reference of a comparison."""

    BUNDLE = "bundle"
    SITE = "site"


class Judgement(StrEnum):
    """Degree of a shift."""

    TOO_FEW = "too_few"
    STEADY = "steady"
    SHIFTING = "shifting"
    SHIFTED = "shifted"

    @property
    def is_conclusive(self) -> bool:
        """True if there were enough images to judge."""
        return self is not Judgement.TOO_FEW


@dataclass(frozen=True, slots=True)
class Shift:
    """Shift of one distribution.

    Attributes:
        measure: ``probability of <finding>``, ``refusals``, or a field of ``PictureStatistics``.
        against: reference.
        verdict: judgement.
        psi: population stability index, see ``model.distributions``; at least 0.
        by_chance: value that samples of this size exceed without drift once in 20 times.
        films: number of recent images.
        reference_films: number of images of the reference.
    """

    measure: str
    against: ReferenceKind
    verdict: Judgement
    psi: float
    by_chance: float
    films: int
    reference_films: int

    def to_json(self) -> JSONObject:
        """Return it as a JSON object, without values if inconclusive."""
        record = dataclasses.asdict(self) | {"against": self.against.value, "verdict": self.verdict.value}
        return record if self.verdict.is_conclusive else record | {"psi": None, "by_chance": None}


@dataclass(frozen=True, slots=True)
class Sample:
    """Live images of a period.

    Attributes:
        since: start of the period, inclusive.
        until: end of the period, exclusive.
        assessed: number of assessed images.
        refused: number of refused images.
        values: by measure, the values of the images that have it.
    """

    since: datetime
    until: datetime
    assessed: int = 0
    refused: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)

    @property
    def refusals(self) -> Distribution:
        """Distribution of assessed and refused images."""
        return Distribution((0.5,), (self.assessed, self.refused))

    def mean(self, measure: str) -> float | None:
        """Return the mean of a measure, or ``None`` if no image has it."""
        values = self.values.get(measure)
        return sum(values) / len(values) if values else None

    def to_json(self) -> JSONObject:
        """Return counts and means as a JSON object."""
        return {
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "assessed": self.assessed,
            "refused": self.refused,
            "means": {measure: self.mean(measure) for measure in self.values},
        }


@dataclass(frozen=True, slots=True)
class Drift:
    """Drift report.

    Attributes:
        bundle: ``name/version`` of the newest live image's bundle.
        recent: the last days.
        baseline: the site's first days under this bundle; ``None`` if there are none before the last days.
        reference: description of the bundle's reference images; ``None`` if the bundle has none.
        shifts: shift of each measure.
        days: the last days one by one, the newest first.
    """

    bundle: str
    recent: Sample
    baseline: Sample | None
    reference: str | None
    shifts: tuple[Shift, ...]
    days: tuple[Sample, ...]

    def to_json(self) -> JSONObject:
        """Return it as a JSON object."""
        return {
            "bundle": self.bundle,
            "reference": self.reference,
            "recent": self.recent.to_json(),
            "baseline": None if self.baseline is None else self.baseline.to_json(),
            "shifts": [shift.to_json() for shift in self.shifts],
            "days": [day.to_json() for day in self.days],
        }


def current_shifts(engine: Engine) -> tuple[Shift, ...]:
    """Return the shifts for the metrics page; see ``report``."""
    drift = report(engine, daily=False)
    return () if drift is None else drift.shifts


@query
def report(tx: Transaction, *, days: int = RECENT_DAYS, daily: bool = True) -> Drift | None:
    """Compare the last days with the references.

    Args:
        tx: database, or transaction to take part in.
        days: length of the recent period; of each period the newest ``MOST_FILMS`` images are used.
        daily: also return each day by itself.

    Returns:
        The report, or ``None`` if no live image has an outcome.

    Raises:
        DatabaseAway, SchemaOutdated: the database cannot be read.
    """
    last = tx.connection.execute(_live().order_by(_file.committed_at.desc(), _file.id.desc()).limit(1)).first()
    if last is None:
        return None
    bundle = tx.connection.execute(select(schema.bundle).where(_bundle.id == last.bundle_id)).one()
    since = tx.now - timedelta(days=days)
    recent = _sample(tx.connection, bundle.id, since, tx.now)
    baseline = _baseline(tx.connection, bundle, since)
    reference = _reference(json.loads(bundle.manifest))
    return Drift(
        bundle=f"{bundle.name}/{bundle.version}",
        recent=recent,
        baseline=baseline,
        reference=None if reference is None else reference.films,
        shifts=(*_against_bundle(reference, recent), *_against_site(baseline, recent)),
        days=tuple(_by_day(tx.connection, bundle.id, tx.now, days)) if daily else (),
    )


# ---------------------------------------------------------------------- what is compared


def _live() -> Select[*tuple[Any, ...]]:
    """Return the query of live images with an outcome."""
    ended = _file.outcome.in_((Outcome.ASSESSED, Outcome.REFUSED))
    return select(_file.id, _file.outcome, _file.assessment_id, _file.committed_at, _file.bundle_id).where(
        _file.committed_at.is_not(None), ended, ~_file.backlog, ~_file.research, _file.bundle_id.is_not(None)
    )


def _sample(connection: Connection, bundle_id: int, since: datetime, until: datetime) -> Sample:
    """Return counts and values of a period."""
    within = (_file.committed_at >= since, _file.committed_at < until, _file.bundle_id == bundle_id)
    newest = _live().where(*within).order_by(_file.committed_at.desc(), _file.id.desc()).limit(MOST_FILMS).subquery()
    outcomes = connection.execute(select(newest.c.outcome)).scalars().all()
    assessed = sum(outcome == Outcome.ASSESSED for outcome in outcomes)
    values: dict[str, list[float]] = {}
    findings = select(_finding.finding, _finding.probability).join(
        newest, newest.c.assessment_id == _finding.assessment_id
    )
    for row in connection.execute(findings.order_by(_finding.finding)):
        values.setdefault(f"probability of {row.finding}", []).append(row.probability)
    columns = [_assessment[f"picture_{name}"] for name in PICTURE]
    pictures = select(*columns).join(newest, newest.c.assessment_id == _assessment.id).where(columns[0].is_not(None))
    measured = connection.execute(pictures).all()
    for number, name in enumerate(PICTURE):
        if measured:
            values[name] = [row[number] for row in measured]
    return Sample(since, until, assessed, len(outcomes) - assessed, values)


def _baseline(connection: Connection, bundle: Row[Any], before: datetime) -> Sample | None:
    # from the bundle's registration on, so that results of older bundles are not read
    """Return the site's first days under a bundle, or ``None``."""
    own = _live().where(_file.committed_at >= bundle.registered_at, _file.bundle_id == bundle.id)
    first = connection.execute(own.order_by(_file.committed_at, _file.id).limit(1)).first()
    if first is None or first.committed_at >= before:
        return None
    until = min(before, first.committed_at + timedelta(days=BASELINE_DAYS))
    return _sample(connection, bundle.id, first.committed_at, until)


def _by_day(connection: Connection, bundle_id: int, now: datetime, days: int) -> Iterator[Sample]:
    """Yield the samples of the last days (UTC), the newest first."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for number in range(days):
        start = midnight - timedelta(days=number)
        yield _sample(connection, bundle_id, start, min(now, start + timedelta(days=1)))


def _reference(manifest: JSONObject) -> Reference | None:
    """Return the reference distributions of a manifest, or ``None``.

    Older manifests have none: their out-of-fold answers are used, in three bins.
    """
    if manifest.get("reference") is not None:
        return _REFERENCE.validate_python(manifest["reference"])
    by_finding: dict[str, Distribution] = {}
    for spec in manifest.get("findings", ()):
        answers = manifest.get("metrics", {}).get(spec["finding"], {}).get("answers")
        point = spec.get("operating_point", {})
        edges = (point.get("uncertain_low"), point.get("uncertain_high"))
        if answers and None not in edges and edges[0] < edges[1]:
            films = tuple(sum(answers[name].values()) for name in ("not_flagged", "uncertain", "flagged"))
            by_finding[spec["finding"]] = Distribution(edges, films)
    return (
        Reference("those it was fitted to, out of fold, in three bins: its answers", by_finding) if by_finding else None
    )


# ---------------------------------------------------------------------- how far they are apart


def _against_bundle(reference: Reference | None, recent: Sample) -> Iterator[Shift]:
    if reference is None:
        return
    by_measure = {f"probability of {finding}": distribution for finding, distribution in reference.probability.items()}
    for measure, expected in (by_measure | reference.picture).items():
        yield _shift(
            measure, ReferenceKind.BUNDLE, expected, compute_histogram(recent.values.get(measure, ()), expected.edges)
        )


def _against_site(baseline: Sample | None, recent: Sample) -> Iterator[Shift]:
    if baseline is None:
        return
    for measure, values in baseline.values.items():
        expected = compute_decile_histogram(values)
        yield _shift(
            measure, ReferenceKind.SITE, expected, compute_histogram(recent.values.get(measure, ()), expected.edges)
        )
    yield _shift(REFUSALS, ReferenceKind.SITE, baseline.refusals, recent.refusals)


def _shift(measure: str, against: ReferenceKind, expected: Distribution, recent: Distribution) -> Shift:
    psi, chance = compute_stability_index(expected, recent), compute_chance_level(expected, recent)
    return Shift(measure, against, _judge(expected, recent, psi, chance), psi, chance, recent.total, expected.total)


def _judge(expected: Distribution, recent: Distribution, psi: float, chance: float) -> Judgement:
    if min(expected.total, recent.total) < LEAST_FILMS:
        return Judgement.TOO_FEW
    if psi < max(SHIFTING, chance):
        return Judgement.STEADY
    return Judgement.SHIFTING if psi < SHIFTED else Judgement.SHIFTED


_WORDS: dict[Judgement, str] = {
    Judgement.TOO_FEW: f"too few images to judge (fewer than {LEAST_FILMS})",
    Judgement.STEADY: "as it was",
    Judgement.SHIFTING: "differs somewhat: look again in some days",
    Judgement.SHIFTED: "differs: find out why (device, its processing, patients)",
}


def describe(verdict: Judgement) -> str:
    """Return a judgement in words."""
    return _WORDS[verdict]


def measures(samples: Sequence[Sample]) -> list[str]:
    """Return the measures with values in these samples, probabilities first."""
    names = dict.fromkeys(measure for sample in samples for measure in sample.values)
    return sorted(names, key=lambda measure: (measure in PICTURE, measure))
