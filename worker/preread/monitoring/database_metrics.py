"""Prometheus gauges computed from the database, and the metrics page.

The cost of each query is bounded: by open versions, by the newest reviews, by the days that drift compares. Every
worker reports the same values of one database, so that a dashboard takes their maximum over workers, not their sum.

Imported only if metrics are served: ``prometheus_client`` takes a while to load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import exposition
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, Connection, Engine, exists, func, select

from preread.core.errors import PrereadError
from preread.core.types import OPEN_STATES
from preread.db import schema
from preread.db.engine import read
from preread.db.review_schema import reading, reading_finding
from preread.monitoring import health
from preread.monitoring.drift import Shift, current_shifts
from preread.monitoring.health import Health, RootHealth
from preread.monitoring.http_server import ANSWER_WITHIN_S, Prober
from preread.runner.counters import Counters

# Agreement covers the newest reviews only: `preread stats` covers all.
READINGS_AT_MOST = 10_000
_FIGURES_FRESH_S = 15.0
_DRIFT_FRESH_S = 600.0
_DRIFT_KEPT_S = 7200.0
_LANES = {False: "live", True: "backlog"}
_file, _reading = schema.file.c, reading.c


@dataclass(frozen=True, slots=True)
class DatabaseMetrics:
    """Values read from the database at one time.

    Attributes:
        health: health report; an unavailable database has a report and nothing else.
        answered: the database answered.
        waiting: (lane, versions without a result); lanes are ``live`` and ``backlog``.
        readings: (bundle, verdict, count) of the newest reviews.
        said: (bundle, finding, answer of the bundle, presence by the reviewer, count) of these reviews' findings.
    """

    health: Health
    answered: bool = True
    waiting: tuple[tuple[str, int], ...] = ()
    readings: tuple[tuple[str, str, int], ...] = ()
    said: tuple[tuple[str, str, str, str, int], ...] = ()


def unavailable(error: PrereadError) -> DatabaseMetrics:
    """Return the metrics of a database that cannot be queried."""
    return DatabaseMetrics(health.unavailable(error), answered=False)


def read_metrics(engine: Engine, *, roots: Sequence[bytes] | None, scan_interval_s: float) -> DatabaseMetrics:
    """Read the metrics; see ``health.report`` for arguments and errors."""
    report = health.report(engine, roots=roots, scan_interval_s=scan_interval_s, states=OPEN_STATES)

    def body(connection: Connection) -> DatabaseMetrics:
        return DatabaseMetrics(report, True, _waiting(connection), _readings(connection), _said(connection))

    return read(engine, body)


def _waiting(connection: Connection) -> tuple[tuple[str, int], ...]:
    # one range of an index for each open state; ended versions are not read
    open_ones = _file.state.in_(sorted(OPEN_STATES))
    counted = select(_file.backlog, func.count().label("files")).where(open_ones).group_by(_file.backlog)
    by_lane = {row.backlog: row.files for row in connection.execute(counted)}
    return tuple((name, by_lane.get(backlog, 0)) for backlog, name in _LANES.items())


def _newest_that_stand(connection: Connection) -> ColumnElement[bool]:
    """Return the condition of the newest reviews that were not corrected."""
    successor = reading.alias()
    before = (connection.execute(select(func.max(_reading.id))).scalar_one() or 0) - READINGS_AT_MOST
    return (_reading.id > before) & ~exists().where(successor.c.supersedes_id == _reading.id)


def _readings(connection: Connection) -> tuple[tuple[str, str, int], ...]:
    b = schema.bundle.c
    counted = (
        select(b.name, b.version, _reading.verdict, func.count().label("readings"))
        .join(schema.bundle, b.id == _reading.bundle_id)
        .where(_newest_that_stand(connection))
        .group_by(b.name, b.version, _reading.verdict)
    )
    return tuple((f"{row.name}/{row.version}", row.verdict, row.readings) for row in connection.execute(counted))


def _said(connection: Connection) -> tuple[tuple[str, str, str, str, int], ...]:
    b, f, stated = schema.bundle.c, schema.finding.c, reading_finding.c
    grouped = (b.name, b.version, f.finding, f.answer, stated.presence)
    counted = (
        select(*grouped, func.count().label("readings"))
        .select_from(reading)
        .join(reading_finding, stated.reading_id == _reading.id)
        .join(schema.finding, (f.assessment_id == _reading.assessment_id) & (f.finding == stated.finding))
        .join(schema.bundle, b.id == _reading.bundle_id)
        .where(_newest_that_stand(connection))
        .group_by(*grouped)
    )
    return tuple(
        (f"{row.name}/{row.version}", row.finding, row.answer, row.presence, row.readings)
        for row in connection.execute(counted)
    )


# ---------------------------------------------------------------------- as Prometheus reads it


class _All(Collector):
    def __init__(self, *parts: Iterable[Metric]) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        for part in self._parts:
            yield from part


def exposition_text(meters: Counters, figures: DatabaseMetrics, drift: Sequence[Shift]) -> bytes:
    """Return all metrics in Prometheus's text format."""
    return exposition.generate_latest(_All(meters.collect(), _families(figures), _drift(drift)))


def _gauge(name: str, help_text: str, rows: Iterable[tuple[Sequence[str], float | None]], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"preread_{name}", help_text, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, value)
    return family


def _families(figures: DatabaseMetrics) -> Iterator[Metric]:
    report = figures.health
    yield _gauge("database_up", "1 while the database answers", [((), figures.answered)])
    yield _gauge("status", "0 ok, 1 warning, 2 critical, as preread status says", [((), report.level)])
    problems = {(problem.code, problem.level.name.lower()): 1.0 for problem in report.problems}
    yield _gauge("problem", "1 for each kind of problem that is there", problems.items(), "code", "level")
    if not figures.answered:
        return  # unknown values are absent, not 0
    yield _gauge("workers_alive", "Workers that write to the database", [((), sum(w.alive for w in report.workers))])
    waiting = [((lane,), float(files)) for lane, files in figures.waiting]
    yield _gauge("waiting", "File versions without a result, by lane", waiting, "lane")
    states = [((state.value,), float(files)) for state, files in report.counts.items() if state in OPEN_STATES]
    yield _gauge("versions", "File versions of the watched folders that are open, by state", states, "state")
    yield _gauge("missed", "Images that disappeared unread and were not acknowledged", [((), report.missed)])
    yield _gauge("locked", "Files that wait because they cannot be read now", [((), report.locked)])
    quarantined = [((code,), float(files)) for code, files in report.quarantined.items()]
    yield _gauge("quarantined", "Quarantined file versions, by code", quarantined, "code")
    for name, help_text, age_s in (
        ("oldest_unsettled_seconds", "Since the first file that still settles was seen", report.unsettled_age_s),
        ("oldest_ready_seconds", "For which the oldest ready version has waited", report.ready_age_s),
        ("last_progress_seconds", "Since a version was last claimed or ended", report.progress_age_s),
    ):
        yield _gauge(name, help_text, [((), age_s)])
    yield from _roots(report.roots)
    yield _gauge(
        "recent_readings",
        f"Readings that stand, of the newest {READINGS_AT_MOST}",
        [((bundle, verdict), float(count)) for bundle, verdict, count in figures.readings],
        "bundle",
        "verdict",
    )
    yield _gauge(
        "recent_reading_findings",
        "Findings of these readings by what the bundle answered and what the reader says",
        [((*labels,), float(count)) for *labels, count in figures.said],
        "bundle",
        "finding",
        "answer",
        "presence",
    )


def _roots(roots: Sequence[RootHealth]) -> Iterator[Metric]:
    def rows(of: str) -> list[tuple[Sequence[str], float | None]]:
        return [((root.path,), getattr(root, of)) for root in roots]

    watched = [root for root in roots if root.fleet is None]
    up = [((root.path,), float(root.watched and root.fault_code is None)) for root in watched]
    yield _gauge("share_up", "1 while a living worker can list the folder", up, "root")
    yield _gauge("last_complete_scan_seconds", "Since the last complete scan ended", rows("scan_age_s"), "root")
    yield _gauge("scan_seconds", "That the last complete scan took", rows("scan_s"), "root")
    yield _gauge("scanned_files", "Files that it met", rows("files"), "root")
    fleets = [(root.path, root.fleet) for root in roots if root.fleet is not None]
    shards = [((path, status), float(count)) for path, fleet in fleets for status, count in fleet.shards.items()]
    yield _gauge("fleet_shards", "Shards of an archive, by what became of them", shards, "root", "status")
    processes = [((), float(max(fleet.processes for _, fleet in fleets)))] if fleets else []
    yield _gauge("fleet_processes", "Processes of the fleet that live", processes)


def _drift(drift: Sequence[Shift]) -> Iterator[Metric]:
    labels = ("measure", "against")
    judged = [shift for shift in drift if shift.verdict.is_conclusive]
    shifts = [((shift.measure, shift.against.value), shift.psi) for shift in judged]
    yield _gauge("drift_psi", "Population stability index of the last days; none for too few images", shifts, *labels)
    chance = [((shift.measure, shift.against.value), shift.by_chance) for shift in judged]
    yield _gauge("drift_psi_by_chance", "Exceeded without drift once in 20 times for so few images", chance, *labels)
    films = [((shift.measure, shift.against.value), float(shift.films)) for shift in drift]
    yield _gauge("drift_films", "Images that were compared", films, *labels)


# ---------------------------------------------------------------------- the page


class MetricsPage:
    """Content of ``GET /metrics``: the process's counters and database gauges.

    Args:
        meters: counters of this process.
        look: reads the database metrics; see ``read_metrics``.
        engine: database, for drift.
    """

    def __init__(self, meters: Counters, look: Callable[[], DatabaseMetrics], engine: Engine) -> None:
        self._meters = meters
        self._figures = Prober("metrics", look, unavailable, fresh_s=_FIGURES_FRESH_S, within_s=ANSWER_WITHIN_S)
        # days of films take a while: whoever asks first gets none yet
        self._drift: Prober[tuple[Shift, ...]] = Prober(
            "drift",
            lambda: current_shifts(engine),
            lambda _: (),
            fresh_s=_DRIFT_FRESH_S,
            kept_s=_DRIFT_KEPT_S,
            within_s=0.0,
        )

    def start(self) -> None:
        self._figures.start()
        self._drift.start()

    def text(self) -> bytes:
        """Return all metrics, at most fifteen seconds old."""
        return exposition_text(self._meters, self._figures.get(), self._drift.get())

    def stop(self) -> None:
        self._figures.stop()
        self._drift.stop()
