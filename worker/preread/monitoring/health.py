"""Whether the worker does what it should: one report behind ``preread status`` and the HTTP endpoint.

Everything is read from the database, where a living worker writes every few seconds, so that a worker that died, hangs
or never ran is told of as well. Ages are by the database's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, func, literal_column, or_, select

from preread.core.errors import FileLocked
from preread.core.text.escaping import display_path
from preread.core.text.wording import file_count, format_duration
from preread.core.types import FileState
from preread.db import review_schema, schema
from preread.db.engine import database_now, read
from preread.ledger import archives as batches
from preread.ledger.archives import FleetHealth
from preread.ledger.discovery import counts
from preread.ledger.selection import count_missed, worth_a_look
from preread.ledger.transitions import absolute, path_key
from preread.ledger.workers import is_silent, runs
from preread.monitoring.health_types import Health, Level, Problem, RootHealth, WorkerHealth, unavailable
from preread.runner.confine.confinement import ESSENTIAL, named

__all__ = ["Health", "Level", "Problem", "RootHealth", "WorkerHealth", "report", "unavailable"]
LEAST_PATIENCE_S = 10.0
STUCK_SETTLING = timedelta(minutes=15)
RESTARTED_LATELY = timedelta(minutes=15)
TOKEN_WARNING = timedelta(days=30)
_RESTARTS = 3
_LOOKED_AT = 50
_file, _root, _worker, _transition = schema.file.c, schema.root.c, schema.worker.c, schema.transition.c


def report(
    engine: Engine,
    *,
    roots: Sequence[bytes] | None,
    scan_interval_s: float,
    states: Collection[FileState] = tuple(FileState),
    clock: Callable[[Connection], datetime] = database_now,
) -> Health:
    """Look at what the workers wrote, and judge it.

    Args:
        roots: absolute paths of the folders that should be watched; ``None``: those of living workers and of such as
            did not end in good order, and those that a fleet has shards of; where there are none, all that the
            database knows. One that no worker ever watched is judged by the fleet.
        scan_interval_s: for workers that did not say theirs. What does not move for two of these (and
            ``LEAST_PATIENCE_S``) is critical.
        states: those to count versions of; the open ones are few and quickly counted.
        clock: the database's; tests give another.

    Raises:
        DatabaseAway, DatabaseUnsuitable, SchemaOutdated: see ``engine.read``.
    """
    return read(engine, lambda c: _Look(c, clock(c), roots, scan_interval_s).report(states))


class _Look:
    """One look at the database."""

    def __init__(
        self, connection: Connection, now: datetime, paths: Sequence[bytes] | None, scan_interval_s: float
    ) -> None:
        self._connection = connection
        self._now = now
        self._scan_interval_s = scan_interval_s
        self._problems: list[Problem] = []
        known = connection.execute(select(schema.root).order_by(_root.id)).all()
        watchers = {row.worker_id for row in known if row.worker_id is not None}
        # a worker that was killed leaves its row as it was: of those only the last one and the roots' own matter
        running = _worker.stopped_at.is_(None) & (_worker.heartbeat_at > self._now - timedelta(days=1))
        last = select(_worker.id).order_by(_worker.heartbeat_at.desc()).limit(1).scalar_subquery()
        named = _worker.id.in_(watchers) | (_worker.id == last)
        found = connection.execute(select(schema.worker).where(running | named)).all()
        self._workers = {row.id: row for row in found}
        self._alive = {row.id for row in found if runs(row) and not is_silent(row, self._now, self._patience(row))}
        self._unknown: list[bytes] = []
        self._fleets = batches.look(connection, now)
        self._named = paths is not None
        if paths is None:
            at_fleet = {row.id for row in known if row.worker_id is None and row.id in (self._fleets or ())}
            expected = {row.id for row in known if self._expects(row)}
            self._roots = [row for row in known if row.id in expected | at_fleet] if expected else list(known)
        else:
            keys = {path_key(absolute(path)): path for path in paths}
            self._roots = [row for row in known if row.path_key in keys]
            missing = keys.keys() - {row.path_key for row in self._roots}
            self._unknown = [path for key, path in keys.items() if key in missing]

    def _expects(self, root: Row[Any]) -> bool:
        watcher = self._workers.get(root.worker_id)
        return watcher is not None and (root.worker_id in self._alive or watcher.stopped_at is None)

    def _fleet_at(self, root: Row[Any]) -> FleetHealth | None:
        """Return how the fleet is at a root that no worker ever watched."""
        if root.worker_id is not None or self._fleets is None:
            return None
        # finished jobs are forgotten after a while; who names a folder wants it watched
        return self._fleets.get(root.id, None if self._named else FleetHealth())

    def _patience(self, worker: Row[Any] | None) -> timedelta:
        said = None if worker is None else worker.scan_interval_s
        return timedelta(seconds=max(LEAST_PATIENCE_S, 2 * (said or self._scan_interval_s)))

    def _age_s(self, at: datetime | None) -> float | None:
        return None if at is None else round((self._now - at).total_seconds(), 1)

    def _tell(self, level: Level, code: str, what: str, root: str | None = None, count: int | None = None) -> None:
        self._problems.append(Problem(level, code, what, root, count))

    # ------------------------------------------------------------------ the parts

    def report(self, states: Collection[FileState]) -> Health:
        workers = self._judge_workers()
        roots = tuple(self._judge_root(root) for root in self._roots)
        for name in (display_path(absolute(path)) for path in self._unknown):
            self._tell(Level.CRITICAL, "unwatched", f"no worker ever watched {name}", name)
        found = counts(self._connection, [root.id for root in self._roots], states)
        ready_age_s, progress_age_s = self._judge_progress(found)
        self._judge_tokens()
        written = [self._workers[worker_id].heartbeat_at for worker_id in self._alive]
        return Health(
            at=self._now,
            workers=workers,
            roots=roots,
            counts=found,
            missed=self._judge_missed(),
            locked=self._judge_locked() if found.get(FileState.RETRY) != 0 else 0,
            quarantined=self._judge_quarantined(),
            unsettled_age_s=self._judge_unsettled() if found.get(FileState.SETTLING) != 0 else None,
            ready_age_s=ready_age_s,
            progress_age_s=progress_age_s,
            write_age_s=self._age_s(max(written)) if written else None,
            problems=tuple(sorted(self._problems, key=lambda one: -one.level)),
        )

    def _judge_workers(self) -> tuple[WorkerHealth, ...]:
        by_fleet = bool(self._roots) and all(self._fleet_at(root) for root in self._roots)
        if not (self._alive or by_fleet):
            self._tell_of_no_worker()
        for worker_id in sorted(self._alive):
            row = self._workers[worker_id]
            if (row.watcher_restarts or 0) >= _RESTARTS and row.watcher_restarted_at > self._now - RESTARTED_LATELY:
                what = f"{worker_id} began {row.watcher_restarts} times anew to watch for events: films are found later"
                self._tell(Level.WARNING, "watcher_fails", what)
            if row.previews_dropped_since is not None:
                since = format_duration(self._age_s(row.previews_dropped_since))
                self._tell(Level.WARNING, "previews_dropped", f"{worker_id} keeps no previews, for {since}: disk full?")
            self._judge_confinement(row)
            if row.slots_alive is None or row.started_at > self._now - self._patience(row):
                continue
            if row.slots_alive == 0:
                self._tell(Level.CRITICAL, "no_slots", f"none of the {row.slots} slots of {worker_id} can read a film")
            elif row.slots_alive < row.slots:
                what = f"{row.slots_alive} of the {row.slots} slots of {worker_id} can read films"
                self._tell(Level.WARNING, "slots_missing", what)
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

    def _judge_confinement(self, worker: Row[Any]) -> None:
        lacking = (worker.slots_lack or "").split()
        if not lacking:
            return
        what = f"the slots of {worker.id} are confined in part: its machine has no {', no '.join(map(named, lacking))}"
        if ESSENTIAL.intersection(lacking):
            self._tell(Level.WARNING, "degraded", what)
        else:
            self._tell(Level.OK, "degraded", what)

    def _tell_of_no_worker(self) -> None:
        last = max(self._workers.values(), key=lambda row: row.heartbeat_at, default=None)
        if last is None:
            self._tell(Level.CRITICAL, "no_worker", "no worker runs: `preread run` has not been at work here")
            return
        since = f"{format_duration(self._age_s(last.heartbeat_at))} ago"
        if last.stopped_at is not None:
            self._tell(Level.CRITICAL, "no_worker", f"no worker runs; the last one ended {since}")
        elif not runs(last):
            self._tell(Level.CRITICAL, "no_worker", f"no worker runs; {last.id} died, it wrote last {since}")
        else:
            what = f"{last.id} wrote last {since}: it hangs, was killed, or the database takes no changes"
            self._tell(Level.CRITICAL, "worker_silent", what)

    def _judge_root(self, root: Row[Any]) -> RootHealth:
        watched = root.worker_id in self._alive
        patience = self._patience(self._workers.get(root.worker_id))
        fleet = self._fleet_at(root)
        if watched:
            self._judge_watched(root, patience)
        elif fleet is not None:
            for code, what in fleet.troubles():
                self._tell(Level.WARNING, code, f"{root.path_text}: {what}", root.path_text)
        elif self._alive:
            self._tell(Level.CRITICAL, "unwatched", f"no living worker watches {root.path_text}", root.path_text)
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

    def _judge_watched(self, root: Row[Any], patience: timedelta) -> None:
        name = root.path_text
        if root.fault_code is not None:
            since = format_duration(self._age_s(root.fault_since))
            self._tell(Level.CRITICAL, root.fault_code, f"{name}: {root.fault}, for {since}", name)
            return
        looked_at = root.looked_at or root.registered_at
        if looked_at < self._now - patience:
            since = format_duration(self._age_s(looked_at))
            self._tell(Level.CRITICAL, "scan_stalled", f"{name}: its scan has not gone on for {since}", name)
        elif root.last_scan_completed_at is None:
            if root.registered_at < self._now - patience:
                self._tell(Level.WARNING, "first_scan", f"{name}: its first scan is not complete yet", name)
        elif root.last_scan_completed_at < self._now - patience - timedelta(seconds=2 * (root.last_scan_s or 0.0)):
            since = format_duration(self._age_s(root.last_scan_completed_at))
            self._tell(Level.CRITICAL, "scan_overdue", f"{name}: its last complete scan was {since} ago", name)

    def _here(self) -> ColumnElement[bool]:
        return _file.root_id.in_([root.id for root in self._roots])

    def _judge_progress(self, found: dict[FileState, int]) -> tuple[float | None, float | None]:
        waiting: list[datetime] = []
        of_workers = _file.root_id.in_([root.id for root in self._roots if self._fleet_at(root) is None])
        for alone in (False, True):
            for backlog in (False, True) if found.get(FileState.READY) != 0 else ():
                # each of these is one stretch of an index; the oldest by number is as good as the oldest
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
            what = f"{found[FileState.READY]} files are ready to be read, and none was claimed or ended{since}"
            self._tell(Level.CRITICAL, "stalled", what, count=found[FileState.READY])
        return self._age_s(ready_at), self._age_s(progress_at)

    def _judge_missed(self) -> int:
        missed = count_missed(self._connection, [root.id for root in self._roots])
        if missed:
            what = f"{file_count(missed)} went away before being read: `preread missed list`"
            self._tell(Level.CRITICAL, "missed", what, count=missed)
        return missed

    def _judge_locked(self) -> int:
        waits = (_file.state == FileState.RETRY, _file.locked_since.is_not(None), self._here())
        row = self._connection.execute(select(func.count(), func.min(_file.locked_since)).where(*waits)).one()
        locked: int = row[0]
        if locked:
            since = format_duration(self._age_s(row[1]))
            what = f"{file_count(locked)} cannot be read now, the first for {since}"
            self._tell(Level.WARNING, FileLocked.code, what, count=locked)
        return locked

    def _judge_quarantined(self) -> dict[str, int]:
        # written out: with a value that is bound later no planner knows that the index over these alone will do
        aside = (_file.state == literal_column(f"'{FileState.QUARANTINED}'"), _file.newest, self._here())
        counted = select(_file.code, func.count().label("files")).where(*aside).group_by(_file.code)
        found = {str(row.code): row.files for row in self._connection.execute(counted.order_by(_file.code))}
        whole = {code: number for code, number in found.items() if worth_a_look(code)}
        if whole:
            named = ", ".join(f"{code} {number}" for code, number in whole.items())
            what = f"{file_count(sum(whole.values()))} set aside that may be whole ({named}): `preread quarantine list`"
            self._tell(Level.WARNING, "quarantined", what, count=sum(whole.values()))
        return found

    def _judge_tokens(self) -> None:
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
            self._tell(Level.WARNING, "token_expires", what, count=len(soon))

    def _judge_unsettled(self) -> float | None:
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
            self._tell(Level.WARNING, "stuck_settling", what)
        return self._age_s(oldest)
