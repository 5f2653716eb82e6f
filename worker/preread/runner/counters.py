"""Prometheus counters of this process: outcomes, stages, processes.

Every label's values come from a closed list (outcomes, codes, stages) or from the bundle, none from a file: their
number is bounded, and no patient is in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import Metric

from preread.core.types import Outcome, Stage
from preread.ledger.records import Claim
from preread.runner.child.protocol import Report

COMMIT = "commit"
_STAGE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_WAIT_BUCKETS_S = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_TWENTIETHS = tuple(number / 20 for number in range(1, 21))
# A modification time that lies further before the moment at which the file was found to stand still was not set when
# the file was written: it was copied with its old time, lay there before, or the share has another clock.
_NOTICED_WITHIN_S = 600.0


class Counters:
    """The counters of one worker, or of one process of a fleet.

    Args:
        wall: seconds since the epoch; tests give another.
    """

    def __init__(self, *, wall: Callable[[], float] = time.time) -> None:
        # else each counter and histogram has one more series, which is not needed
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._wall = wall
        self._registry = CollectorRegistry()
        self._films = self._counter("films", "Files that this worker ended", "outcome", "code")
        self._lost = self._counter("attempts_lost", "Attempts that ended with their inference process", "code")
        self._deaths = self._counter("slot_deaths", "Inference processes that died or were killed")
        self._stages = self._histogram("stage_seconds", "Seconds of one file in one stage", _STAGE_BUCKETS_S, "stage")
        self._closed = self._histogram(
            "closed_to_committed_seconds",
            "Seconds from a file's modification time to its committed outcome, where that time is of its writing",
            _WAIT_BUCKETS_S,
        )
        self._probability = self._histogram(
            "probability", "Probability of each finding of newly assessed content", _TWENTIETHS, "finding"
        )
        self._slots = Gauge("preread_slots", "Inference processes that this worker wants", registry=self._registry)
        self._alive = Gauge(
            "preread_slots_alive", "Inference processes that could read a file", registry=self._registry
        )
        self._bundle = Gauge("preread_bundle_info", "The bundle in use", ["bundle", "digest"], registry=self._registry)
        build = Gauge("preread_build_info", "The program", ["version"], registry=self._registry)
        build.labels(_program_version()).set(1)
        self._noted_deaths = 0
        # there from the start, so that the first file is a rise
        self._films.labels(Outcome.ASSESSED.value, "")
        for stage in (*Stage, COMMIT):
            self._stages.labels(str(stage))

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"preread_{name}", help_text, labels, registry=self._registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"preread_{name}", help_text, labels, buckets=buckets, registry=self._registry)

    def note_bundle(self, bundle: str, digest: str) -> None:
        """Set the bundle in use: ``name/version``, and its digest."""
        self._bundle.clear()
        self._bundle.labels(bundle, digest).set(1)

    def file_ended(self, claim: Claim, report: Report, code: str | None, commit_s: float) -> None:
        """Count a file whose outcome was committed.

        Args:
            claim: of the file.
            report: of the inference process.
            code: why it was refused or is unreadable; one of those that have a name.
            commit_s: seconds that writing it took.
        """
        self._films.labels(report.outcome.value, code or "").inc()
        for stage, ms in report.stages_ms.items():
            self._stages.labels(stage.value).observe(ms / 1000)
        self._stages.labels(COMMIT).observe(commit_s)
        closed_ago_s = self._wall() - claim.mtime_ns / 1e9
        if claim.settled_for_s <= closed_ago_s <= claim.settled_for_s + _NOTICED_WITHIN_S:
            self._closed.observe(closed_ago_s)
        for finding in () if report.content is None else report.content.findings:
            self._probability.labels(finding.finding).observe(finding.probability)

    def attempt_lost(self, code: str) -> None:
        """Count an attempt whose process died, ran out of time or of memory."""
        self._lost.labels(code).inc()

    def note_slots(self, wanted: int, alive: int, deaths: int) -> None:
        """Set the state of the inference processes; ``deaths``: of this run."""
        self._slots.set(wanted)
        self._alive.set(alive)
        self._deaths.inc(deaths - self._noted_deaths)
        self._noted_deaths = deaths

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, from any thread."""
        return iter(self._registry.collect())


def _program_version() -> str:
    try:
        return version("preread")
    except PackageNotFoundError:  # run from a folder without being installed
        return "unknown"
