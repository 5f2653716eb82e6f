"""Health report from the database, for ``preread status`` and HTTP.

A living worker writes a heartbeat every few seconds, so that a worker that died, hangs or never ran is detected, too.
Ages are by the database's clock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, func, literal_column, or_, select

from preread.core.errors import FileLocked, PrereadError
from preread.core.text.escaping import display_path
from preread.core.text.wording import file_count, format_duration
from preread.core.types import OPEN_STATES, FileState, JSONObject
from preread.db import review_schema, schema
from preread.db.engine import database_now, read
from preread.ledger import archives
from preread.ledger.archives import FleetHealth
from preread.ledger.discovery import count_versions
from preread.ledger.registry import is_worker_silent, worker_may_run
from preread.ledger.selection import count_missed, may_be_intact
from preread.ledger.transaction import Transaction
from preread.ledger.transitions import normalise_root_path, path_key
from preread.monitoring.devices import DAYS, WINDOW, DeviceChange, find_device_changes
from preread.runner.confine.confinement import ESSENTIAL, describe_lacking_part

LEAST_PATIENCE_S = 10.0
STUCK_SETTLING = timedelta(minutes=15)
RESTARTED_LATELY = timedelta(minutes=15)
TOKEN_WARNING = timedelta(days=30)
_RESTARTS = 3
_LOOKED_AT = 50
_CODES_NAMED = 3
_file, _root, _worker, _transition = schema.file.c, schema.root.c, schema.worker.c, schema.transition.c


class Level(IntEnum):
    """Severity, by the exit codes of Nagios, Icinga and Zabbix plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        level: severity.
        code: stable code with a row in the runbook.
        what: sentence that is safe to print.
        root: the watched folder concerned, or ``None``.
        count: number of images concerned, or ``None``.
    """

    level: Level
    code: str
    what: str
    root: str | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """State of a worker that runs, or that last watched one of the folders.

    Attributes:
        worker_id: its id.
        alive: it runs and its heartbeat is recent.
        silent_s: seconds since its last heartbeat.
        slots: configured inference processes; ``None`` before its first report.
        slots_alive: inference processes that run; ``None`` before its first report.
        watcher_restarts: number of restarts of its file-system watcher.
        watcher_restart_age_s: seconds since the last restart; ``None`` if there was none.
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
    """State of a watched folder.

    Ages are ``None`` if the event never happened.

    Attributes:
        path: its path, safe to print.
        watched: a living worker watches it.
        scan_age_s: seconds since the last complete scan ended.
        scan_s: duration of that scan in seconds.
        files: number of files in that scan.
        look_age_s: seconds since the scan in progress last advanced.
        fault_code: code of the error, or ``None`` if the folder can be listed.
        fault: why the folder, or part of it, cannot be listed.
        fault_age_s: seconds since the error began.
        fleet: state of the fleet for a folder that no worker ever watched; else ``None``.
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
    """Complete health report.

    Attributes:
        at: time of the report by the database's clock.
        problems: the most severe first.
        workers: the most recent heartbeat first.
        roots: watched folders.
        counts: file versions by state, of the requested states.
        missed: images that disappeared before they were read and were not acknowledged.
        locked: files that cannot be read at present: locked, permission denied, or an error of the share.
        quarantined: quarantined file versions by code.
        unsettled_age_s: seconds since the first incomplete file was seen (no backlog, not empty); ``None`` without
            one.
        ready_age_s: seconds for which the oldest READY version has waited; ``None`` without one.
        progress_age_s: seconds since a version was last claimed or ended; ``None`` if there was none.
        write_age_s: seconds since the last heartbeat of a living worker; ``None`` without one.
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
        """Severity of the worst problem."""
        return max((problem.level for problem in self.problems), default=Level.OK)

    @property
    def waiting(self) -> int:
        """Number of file versions without a result."""
        return sum(self.counts.get(state, 0) for state in OPEN_STATES)

    @property
    def scanned_at(self) -> datetime | None:
        """End of the oldest of the folders' last complete scans, or ``None``.

        ``None`` means that a watched folder has no complete scan yet.
        """
        ages = [root.scan_age_s for root in self.roots if root.fleet is None]
        known = [age_s for age_s in ages if age_s is not None]
        return self.at - timedelta(seconds=max(known)) if known and len(known) == len(ages) else None

    def to_json(self) -> JSONObject:
        """Return the report as a JSON object."""
        record = dataclasses.asdict(self)
        record |= {
            "at": self.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "counts": {state.value: count for state, count in self.counts.items()},
            "problems": [
                dataclasses.asdict(problem) | {"level": problem.level.name.lower()} for problem in self.problems
            ],
        }
        return {"status": self.level.name.lower(), "exit_code": int(self.level), **record}


def unavailable(error: PrereadError) -> Health:
    """Return the report of a database that cannot be queried."""
    return Health(datetime.now(UTC), (Problem(Level.CRITICAL, error.code, str(error)),))


def report(
    engine: Engine,
    *,
    roots: Sequence[bytes] | None,
    scan_interval_s: float,
    states: Collection[FileState] = tuple(FileState),
    clock: Callable[[Connection], datetime] = database_now,
) -> Health:
    """Return the health report.

    Args:
        engine: database.
        roots: absolute paths of the folders to report; ``None`` selects those of living workers, of workers that did
            not stop in good order and of fleets, or all known folders if there are none. A folder that no worker ever
            watched is judged by its fleet.
        scan_interval_s: for workers that did not report theirs, in seconds. No progress for twice this time (at least
            ``LEAST_PATIENCE_S``) is critical.
        states: states whose versions are counted; counting open states is cheap.
        clock: returns the database's time.

    Returns:
        The report.

    Raises:
        DatabaseAway, DatabaseUnsuitable, SchemaOutdated: the database cannot be read.
    """
    return read(engine, lambda c: _HealthCheck(c, clock(c), roots, scan_interval_s).report(states))


class _HealthCheck:
    """One evaluation of the database's state."""

    def __init__(
        self, connection: Connection, now: datetime, paths: Sequence[bytes] | None, scan_interval_s: float
    ) -> None:
        self._connection = connection
        self._now = now
        self._scan_interval_s = scan_interval_s
        self._problems: list[Problem] = []
        known = connection.execute(select(schema.root).order_by(_root.id)).all()
        watchers = {row.worker_id for row in known if row.worker_id is not None}
        # a killed worker leaves its row unchanged: only the most recent one and the folders' own are relevant
        running = _worker.stopped_at.is_(None) & (_worker.heartbeat_at > self._now - timedelta(days=1))
        last = select(_worker.id).order_by(_worker.heartbeat_at.desc()).limit(1).scalar_subquery()
        named = _worker.id.in_(watchers) | (_worker.id == last)
        workers = connection.execute(select(schema.worker).where(running | named)).all()
        self._workers = {row.id: row for row in workers}
        self._alive = {
            row.id
            for row in workers
            if worker_may_run(row) and not is_worker_silent(row, self._now, self._patience(row))
        }
        self._unknown: list[bytes] = []
        self._fleets = archives.fleet_health(connection, now)
        self._named = paths is not None
        if paths is None:
            at_fleet = {row.id for row in known if row.worker_id is None and row.id in (self._fleets or ())}
            expected = {row.id for row in known if self._expects(row)}
            self._roots = [row for row in known if row.id in expected | at_fleet] if expected else list(known)
        else:
            keys = {path_key(normalise_root_path(path)): path for path in paths}
            self._roots = [row for row in known if row.path_key in keys]
            missing = keys.keys() - {row.path_key for row in self._roots}
            self._unknown = [path for key, path in keys.items() if key in missing]

    def _expects(self, root: Row[Any]) -> bool:
        """Return whether a worker should be watching this folder."""
        watcher = self._workers.get(root.worker_id)
        return watcher is not None and (root.worker_id in self._alive or watcher.stopped_at is None)

    def _fleet_at(self, root: Row[Any]) -> FleetHealth | None:
        """Return the fleet's state at a folder that no worker ever watched."""
        if root.worker_id is not None or self._fleets is None:
            return None
        # finished jobs are deleted after a while; a folder that is named explicitly should be watched
        return self._fleets.get(root.id, None if self._named else FleetHealth())

    def _patience(self, worker: Row[Any] | None) -> timedelta:
        """Return the time without progress that is still normal."""
        reported = None if worker is None else worker.scan_interval_s
        return timedelta(seconds=max(LEAST_PATIENCE_S, 2 * (reported or self._scan_interval_s)))

    def _age_s(self, at: datetime | None) -> float | None:
        return None if at is None else round((self._now - at).total_seconds(), 1)

    def _add_problem(
        self, level: Level, code: str, what: str, root: str | None = None, count: int | None = None
    ) -> None:
        self._problems.append(Problem(level, code, what, root, count))

    # ------------------------------------------------------------------ the parts

    def report(self, states: Collection[FileState]) -> Health:
        workers = self._check_workers()
        roots = tuple(self._check_root(root) for root in self._roots)
        for name in (display_path(normalise_root_path(path)) for path in self._unknown):
            self._add_problem(Level.CRITICAL, "unwatched", f"no worker ever watched {name}", name)
        counted = count_versions(Transaction(self._connection), [root.id for root in self._roots], states)
        ready_age_s, progress_age_s = self._check_progress(counted)
        self._check_tokens()
        self._check_devices()
        written = [self._workers[worker_id].heartbeat_at for worker_id in self._alive]
        return Health(
            at=self._now,
            workers=workers,
            roots=roots,
            counts=counted,
            missed=self._check_missed(),
            locked=self._check_locked() if counted.get(FileState.RETRY) != 0 else 0,
            quarantined=self._check_quarantined(),
            unsettled_age_s=self._check_unsettled() if counted.get(FileState.SETTLING) != 0 else None,
            ready_age_s=ready_age_s,
            progress_age_s=progress_age_s,
            write_age_s=self._age_s(max(written)) if written else None,
            problems=tuple(sorted(self._problems, key=lambda problem: -problem.level)),
        )

    def _check_workers(self) -> tuple[WorkerHealth, ...]:
        by_fleet = bool(self._roots) and all(self._fleet_at(root) for root in self._roots)
        if not (self._alive or by_fleet):
            self._check_no_worker()
        for worker_id in sorted(self._alive):
            row = self._workers[worker_id]
            if (row.watcher_restarts or 0) >= _RESTARTS and row.watcher_restarted_at > self._now - RESTARTED_LATELY:
                what = f"{worker_id} restarted its file watcher {row.watcher_restarts} times: files are found later"
                self._add_problem(Level.WARNING, "watcher_fails", what)
            if row.previews_dropped_since is not None:
                since = format_duration(self._age_s(row.previews_dropped_since))
                self._add_problem(
                    Level.WARNING, "previews_dropped", f"{worker_id} keeps no previews, for {since}: disk full?"
                )
            self._check_confinement(row)
            if row.slots_alive is None or row.started_at > self._now - self._patience(row):
                continue
            if row.slots_alive == 0:
                self._add_problem(
                    Level.CRITICAL,
                    "no_slots",
                    f"none of the {row.slots} inference processes of {worker_id} can read a file",
                )
            elif row.slots_alive < row.slots:
                what = f"{row.slots_alive} of the {row.slots} inference processes of {worker_id} can read files"
                self._add_problem(Level.WARNING, "slots_missing", what)
        shown = self._alive | {root.worker_id for root in self._roots}
        return tuple(
            WorkerHealth(
                worker_id=row.id,
                alive=row.id in self._alive,
                silent_s=self._age_s(row.heartbeat_at) or 0.0,
                slots=row.slots,
                slots_alive=row.slots_alive,
                watcher_restarts=row.watcher_restarts or 0,
                watcher_restart_age_s=self._age_s(row.watcher_restarted_at),
            )
            for row in sorted(self._workers.values(), key=lambda row: row.heartbeat_at, reverse=True)
            if row.id in shown
        )

    def _check_confinement(self, worker: Row[Any]) -> None:
        lacking = (worker.slots_lack or "").split()
        if not lacking:
            return
        missing = ", no ".join(map(describe_lacking_part, lacking))
        what = f"the inference processes of {worker.id} are partly confined: its machine has no {missing}"
        if ESSENTIAL.intersection(lacking):
            self._add_problem(Level.WARNING, "degraded", what)
        else:
            self._add_problem(Level.OK, "degraded", what)

    def _check_no_worker(self) -> None:
        last = max(self._workers.values(), key=lambda row: row.heartbeat_at, default=None)
        if last is None:
            self._add_problem(Level.CRITICAL, "no_worker", "no worker runs: `preread run` has not been at work here")
            return
        since = f"{format_duration(self._age_s(last.heartbeat_at))} ago"
        if last.stopped_at is not None:
            self._add_problem(Level.CRITICAL, "no_worker", f"no worker runs; the last one ended {since}")
        elif not worker_may_run(last):
            self._add_problem(Level.CRITICAL, "no_worker", f"no worker runs; {last.id} died, it wrote last {since}")
        else:
            what = f"{last.id} wrote last {since}: it hangs, was killed, or the database takes no changes"
            self._add_problem(Level.CRITICAL, "worker_silent", what)

    def _check_root(self, root: Row[Any]) -> RootHealth:
        watched = root.worker_id in self._alive
        patience = self._patience(self._workers.get(root.worker_id))
        fleet = self._fleet_at(root)
        if watched:
            self._check_watched(root, patience)
        elif fleet is not None:
            for code, what in fleet.problems():
                self._add_problem(Level.WARNING, code, f"{root.path_text}: {what}", root.path_text)
        elif self._alive:
            self._add_problem(Level.CRITICAL, "unwatched", f"no living worker watches {root.path_text}", root.path_text)
        return RootHealth(
            path=root.path_text,
            watched=watched,
            scan_age_s=self._age_s(root.last_scan_completed_at),
            scan_s=root.last_scan_s,
            files=root.last_scan_files,
            look_age_s=self._age_s(root.looked_at),
            fault_code=root.fault_code,
            fault=root.fault,
            fault_age_s=self._age_s(root.fault_since),
            fleet=fleet,
        )

    def _check_watched(self, root: Row[Any], patience: timedelta) -> None:
        name = root.path_text
        if root.fault_code is not None:
            since = format_duration(self._age_s(root.fault_since))
            self._add_problem(Level.CRITICAL, root.fault_code, f"{name}: {root.fault}, for {since}", name)
            return
        looked_at = root.looked_at or root.registered_at
        if looked_at < self._now - patience:
            since = format_duration(self._age_s(looked_at))
            self._add_problem(Level.CRITICAL, "scan_stalled", f"{name}: its scan has not gone on for {since}", name)
        elif root.last_scan_completed_at is None:
            if root.registered_at < self._now - patience:
                self._add_problem(Level.WARNING, "first_scan", f"{name}: its first scan is not complete yet", name)
        elif root.last_scan_completed_at < self._now - patience - timedelta(seconds=2 * (root.last_scan_s or 0.0)):
            since = format_duration(self._age_s(root.last_scan_completed_at))
            self._add_problem(Level.CRITICAL, "scan_overdue", f"{name}: its last complete scan was {since} ago", name)

    def _here(self) -> ColumnElement[bool]:
        return _file.root_id.in_([root.id for root in self._roots])

    def _check_progress(self, counted: dict[FileState, int]) -> tuple[float | None, float | None]:
        waiting: list[datetime] = []
        of_workers = _file.root_id.in_([root.id for root in self._roots if self._fleet_at(root) is None])
        for alone in (False, True):
            for backlog in (False, True) if counted.get(FileState.READY) != 0 else ():
                # each of these is one range of an index; the oldest by id approximates the oldest
                lane = (_file.state == FileState.READY, _file.alone.is_(alone), _file.backlog.is_(backlog))
                oldest = select(_file.changed_at).where(*lane, of_workers).order_by(_file.id).limit(_LOOKED_AT)
                waiting.extend(self._connection.execute(oldest).scalars())
        moved = or_(_transition.from_state == FileState.CLAIMED, _transition.to_state == FileState.CLAIMED)
        last = select(_transition.at).where(moved).order_by(_transition.id.desc()).limit(1)
        progress_at = self._connection.execute(last).scalar_one_or_none()
        ready_at = min(waiting, default=None)
        patiences = [self._patience(self._workers[worker_id]) for worker_id in self._alive]
        limit = self._now - max(patiences, default=self._patience(None))
        if ready_at is not None and ready_at < limit and (progress_at is None or progress_at < limit):
            since = "" if progress_at is None else f" since {format_duration(self._age_s(progress_at))}"
            what = f"{counted[FileState.READY]} files are ready to be read, and none was claimed or ended{since}"
            self._add_problem(Level.CRITICAL, "stalled", what, count=counted[FileState.READY])
        return self._age_s(ready_at), self._age_s(progress_at)

    def _check_missed(self) -> int:
        missed = count_missed(self._connection, [root.id for root in self._roots])
        if missed:
            what = f"{file_count(missed)} went away before being read: `preread missed list`"
            self._add_problem(Level.CRITICAL, "missed", what, count=missed)
        return missed

    def _check_locked(self) -> int:
        waits = (_file.state == FileState.RETRY, _file.locked_since.is_not(None), self._here())
        row = self._connection.execute(select(func.count(), func.min(_file.locked_since)).where(*waits)).one()
        locked: int = row[0]
        if locked:
            since = format_duration(self._age_s(row[1]))
            what = f"{file_count(locked)} cannot be read now, the first for {since}"
            self._add_problem(Level.WARNING, FileLocked.code, what, count=locked)
        return locked

    def _check_quarantined(self) -> dict[str, int]:
        # a literal: with a bound parameter the planner cannot use the partial index
        quarantined = (_file.state == literal_column(f"'{FileState.QUARANTINED}'"), _file.newest, self._here())
        counted = select(_file.code, func.count().label("files")).where(*quarantined).group_by(_file.code)
        found_codes = {str(row.code): row.files for row in self._connection.execute(counted.order_by(_file.code))}
        recoverable = {code: number for code, number in found_codes.items() if may_be_intact(code)}
        if recoverable:
            by_code = ", ".join(f"{code} {number}" for code, number in recoverable.items())
            count = sum(recoverable.values())
            what = f"{file_count(count)} quarantined, may be intact ({by_code}): `preread quarantine list`"
            self._add_problem(Level.WARNING, "quarantined", what, count=count)
        return found_codes

    def _check_tokens(self) -> None:
        c = review_schema.account.c
        ends = (c.token_expires_at < self._now + TOKEN_WARNING, c.token_hash.is_not(None), c.disabled_at.is_(None))
        soon = self._connection.execute(
            select(c.name, c.token_expires_at).where(*ends).order_by(c.token_expires_at)
        ).all()
        if soon:
            name, at = soon[0]
            others = f", and those of {len(soon) - 1} others end soon" if len(soon) > 1 else ""
            state = "expired" if at <= self._now else "expires"
            what = f"the token of {name} {state} on {at:%Y-%m-%d}{others}: `preread users passwd {name}` makes another"
            self._add_problem(Level.WARNING, "token_expires", what, count=len(soon))

    def _check_devices(self) -> None:
        by_device: dict[str, list[DeviceChange]] = {}
        for change in find_device_changes(self._connection, self._now):
            by_device.setdefault(change.device, []).append(change)
        for device, changes in by_device.items():
            codes = ", ".join(
                f"{change.code} {change.images} (before: {change.share:.1%} of {change.earlier})"
                for change in changes[:_CODES_NAMED]
            )
            more = f" and {len(changes) - _CODES_NAMED} other codes" if len(changes) > _CODES_NAMED else ""
            what = f"{device} sends other images than in the last {DAYS} days; of the last {WINDOW}: {codes}{more}"
            self._add_problem(Level.WARNING, "device_changed", what, count=WINDOW)

    def _check_unsettled(self) -> float | None:
        lane = (_file.state == FileState.SETTLING, _file.alone.is_(False), _file.backlog.is_(False))
        young = select(_file.id).where(*lane, _file.size_bytes > 0, self._here()).order_by(_file.id).limit(_LOOKED_AT)
        since = (
            select(func.max(_transition.at).label("at"))
            .where(_transition.file_id.in_(young), _transition.to_state == FileState.SETTLING)
            .group_by(_transition.file_id)
            .order_by("at")
            .limit(1)
        )
        oldest = self._connection.execute(since).scalar_one_or_none()
        if oldest is not None and oldest < self._now - STUCK_SETTLING:
            what = f"a file has not stopped changing for {format_duration(self._age_s(oldest))}: is its writer stuck?"
            self._add_problem(Level.WARNING, "stuck_settling", what)
        return self._age_s(oldest)
