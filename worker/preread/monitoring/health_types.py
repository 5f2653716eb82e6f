"""What a report on the worker holds: how bad, what is wrong, how workers and folders are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from preread.core.errors import PrereadError
from preread.core.types import OPEN_STATES, FileState, JSONObject
from preread.ledger.archives import FleetHealth


class Level(IntEnum):
    """How bad; the values are the exit codes that Nagios, Icinga and Zabbix expect."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be. ``code`` has a row in the runbook; ``what`` is safe to print.

    ``root``: the one folder that it is about; ``count``: of how many films.
    """

    level: Level
    code: str
    what: str
    root: str | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """One worker that runs, or that was the last to watch a root.

    Attributes:
        alive: it runs and has written lately.
        silent_s: seconds since it last wrote to the database.
        slots: how many it wants, of which ``slots_alive`` could read a film; ``None`` before it said so.
        watcher_restarts: how often its watching for events began anew, the last time ``watcher_restart_age_s`` ago.
    """

    worker_id: str
    alive: bool
    silent_s: float
    slots: int | None
    slots_alive: int | None
    watcher_restarts: int
    watcher_restart_age_s: float | None


@dataclass(frozen=True, slots=True)
class RootHealth:
    """One watched folder. Ages are ``None`` for what never was.

    Attributes:
        scan_age_s: seconds since the last scan that listed every folder was complete.
        scan_s: seconds that it took.
        look_age_s: seconds since its worker's look at the folder last went on.
        fault: why it, or a part of it, cannot be listed now.
        fleet: of a folder that no worker ever watched, what the fleet does there; else ``None``.
    """

    path: str
    watched: bool
    scan_age_s: float | None
    scan_s: float | None
    files: int | None
    look_age_s: float | None
    fault_code: str | None
    fault: str | None
    fault_age_s: float | None
    fleet: FleetHealth | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The whole report.

    Attributes:
        counts: versions by state, of the states that were asked for.
        missed: films that went away before they were read, and of which no person said that they know.
        locked: files that wait because they cannot be read now: locked, refused, not handed out by the share.
        quarantined: versions set aside, by code.
        unsettled_age_s: seconds since the first of those that still settle (no backlog, not empty) was seen.
        ready_age_s: seconds for which the oldest READY version has waited.
        progress_age_s: seconds since a version was last claimed or ended.
        write_age_s: seconds since a living worker last wrote to the database.
    """

    at: datetime
    problems: tuple[Problem, ...]
    workers: tuple[WorkerHealth, ...] = ()
    roots: tuple[RootHealth, ...] = ()
    counts: dict[FileState, int] = field(default_factory=dict)
    missed: int = 0
    locked: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    unsettled_age_s: float | None = None
    ready_age_s: float | None = None
    progress_age_s: float | None = None
    write_age_s: float | None = None

    @property
    def level(self) -> Level:
        """That of the worst problem."""
        return max((problem.level for problem in self.problems), default=Level.OK)

    @property
    def waiting(self) -> int:
        """Films without a result yet."""
        return sum(self.counts.get(state, 0) for state in OPEN_STATES)

    @property
    def scanned_at(self) -> datetime | None:
        """When the least recent of the watched folders' last complete scans ended; ``None`` while one has none."""
        ages = [root.scan_age_s for root in self.roots if root.fleet is None]
        known = [age_s for age_s in ages if age_s is not None]
        return self.at - timedelta(seconds=max(known)) if known and len(known) == len(ages) else None

    def to_json(self) -> JSONObject:
        """Return the report as a record."""
        record = dataclasses.asdict(self)
        record |= {
            "at": self.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "counts": {state.value: count for state, count in self.counts.items()},
            "problems": [dataclasses.asdict(one) | {"level": one.level.name.lower()} for one in self.problems],
        }
        return {"status": self.level.name.lower(), "exit_code": int(self.level), **record}


def unavailable(error: PrereadError) -> Health:
    """Return the report of a database that cannot be asked."""
    return Health(datetime.now(UTC), (Problem(Level.CRITICAL, error.code, str(error)),))
