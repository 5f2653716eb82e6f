"""The service ``preread run``: monitors roots and has new files read.

A thread monitors each root, inference processes read files, and the ledger holds all that is pending.

The main thread never touches a share: one that hangs stops its own root's thread, and no more. SIGTERM, SIGINT and
SIGHUP let the inference processes finish what they have in hand.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from preread.core.errors import UNREAD_CODES, DatabaseAway, EnvironmentFault
from preread.core.signals import Signals, Timer, WakePipe
from preread.core.types import OPEN_STATES, FileState, RootSpec
from preread.ledger.ledger import Ledger
from preread.ledger.records import Pulse, RootPulse
from preread.model.bundles import Bundle
from preread.runner.loop import Environment, ReaderLoop, RunOptions, ShadowBundle
from preread.runner.outcomes import WatchedRoot
from preread.share.root_monitor import MonitorOptions, RootMonitor
from preread.share.root_thread import RootThread

_LOG = logging.getLogger(__name__)
_TURN_S = 1.0
_ONCE_TURN_S = 0.1
_ONCE_SETTLE_S = 0.5
_ONCE_NETWORK_SETTLE_S = 2.0
_ONCE_SCAN_INTERVAL_S = 2.0
_ONCE_PATIENCE_S = 60.0
_ONCE_STUCK_SCANS = 3
_THREADS_END_S = 5.0
_CHOICE_S = 2.0
BUNDLE_CHANGED = -1
"""Result of ``run_service`` when another bundle was chosen, all files in hand committed: call it again."""


@dataclass(frozen=True, slots=True)
class BundleChoice:
    """Bundles of one run.

    Attributes:
        active: verified; the inference processes check it against its reference outputs.
        shadow: a bundle in the shadow; not with ``once``. ``None`` for none.
        is_current: returns whether these bundles are still the chosen ones; called every few seconds.
    """

    active: Bundle
    shadow: ShadowBundle | None = None
    is_current: Callable[[], bool] = lambda: True


def run_service(
    engine: Engine,
    bundles: BundleChoice,
    roots: Sequence[RootSpec],
    options: RunOptions,
    environment: Environment | None = None,
) -> int:
    """Run the worker until SIGTERM or SIGINT, or (``once``) until the end.

    Only on the main thread. With ``once`` the end is that nothing is pending.

    Args:
        engine: from ``open_engine``, its schema up to date.
        bundles: bundles of this run.
        roots: folders to monitor.
        options: how to run.
        environment: notifier, counters and program of the inference processes; ``None`` for the defaults.

    Returns:
        0; ``BUNDLE_CHANGED``; with ``once`` 3 when a share was down, or files were left that did not become stable.

    Raises:
        BundleError: the bundle gives other results on this machine, or was withdrawn.
        SlotCrashed: the inference processes do not start.
        DatabaseAway: at the start, or for a minute with ``once``.
    """
    worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    ledger = Ledger(engine, worker_id=worker_id, lease_s=max(options.lease_s, 2 * options.deadline_s))
    with WakePipe() as wake, Signals(wake.set) as signals:
        loop = ReaderLoop(ledger, options, wake, signals, environment or Environment())
        return _Service(loop, bundles, roots).until_the_end()


class _Service:
    """One run of the worker.

    Raises:
        BundleWithdrawn: one of the bundles was withdrawn.
        DatabaseAway: see ``Ledger``.
    """

    def __init__(self, loop: ReaderLoop, bundles: BundleChoice, roots: Sequence[RootSpec]) -> None:
        ledger, options = loop.ledger, loop.options
        ledger.heartbeat()  # first of all: a claim belongs to a worker that is known
        self._loop = loop
        self._options = options
        self._is_current = bundles.is_current
        self._choice = Timer(_CHOICE_S)
        self._changed = False
        self._threads: dict[int, RootThread] = {}
        watched: dict[int, WatchedRoot] = {}
        for spec in roots:
            path = os.fsencode(os.path.abspath(spec.path))
            root_id = ledger.register_root(path, population=spec.population, path_pattern=spec.path_pattern)
            thread = RootThread(path, root_id, ledger, _monitor_options(spec, options), loop.wake.set)
            self._threads[root_id] = thread
            watched[root_id] = WatchedRoot(
                root_id,
                path,
                spec.population,
                spec.path_pattern,
                thread.monitor.request_path_check,
                thread.monitor.request_full_scan,
            )
        self._once = _OnceEnd(loop, self._threads) if options.once else None
        loop.begin(bundles.active, None if options.once else bundles.shadow, watched, once=options.once)
        extra = {"worker_id": ledger.worker_id, "bundle": bundles.active.label}
        _LOG.info("worker_started", extra=extra | {"roots": len(watched), "slots": options.slots})

    def until_the_end(self) -> int:
        """Run; see ``run_service``."""
        exit_code = 1
        try:
            root_ids = list(self._threads)
            self._loop.ledger.recover_interrupted()
            for code in sorted(UNREAD_CODES):
                self._loop.ledger.requeue_quarantined(root_ids, code, "the worker started")
            for thread in self._threads.values():
                thread.start()
            exit_code = self._run()
        finally:
            self._close()
            done = {outcome.value: count for outcome, count in self._loop.dispatcher.outcomes.done.items()}
            _LOG.info("worker_stopped", extra={"exit_code": exit_code, "counts": done, "restarts": self._loop.deaths})
        return exit_code

    def _run(self) -> int:
        loop = self._loop
        while not (loop.signals.count or self._changed):
            loop.turn(_TURN_S if self._once is None else _ONCE_TURN_S)
            self._raise_failures()
            now = time.monotonic()
            up = [root_id for root_id, thread in self._threads.items() if thread.check_share(now) is None]
            loop.dispatcher.work(up if loop.pool.ever_ready else ())
            loop.keep_up(self._pulse)
            if loop.pool.ever_ready:
                loop.environment.notifier.ready()
            if self._once is None:
                self._check_choice()
            elif (exit_code := self._once.exit_code()) is not None:
                return exit_code
        exit_code = self._drain()
        return BUNDLE_CHANGED if self._changed and not (loop.signals.count or exit_code) else exit_code

    def _check_choice(self) -> None:
        dispatcher = self._loop.dispatcher
        if dispatcher.database.away_since is not None or not self._choice.due(time.monotonic()):
            return
        try:
            self._changed = not self._is_current()
        except DatabaseAway as error:
            dispatcher.database_failed(error)

    def _pulse(self) -> Pulse:
        now = time.monotonic()
        pool = self._loop.pool
        return Pulse(
            self._options.scan_interval_s,
            self._options.slots,
            pool.alive,
            tuple(
                RootPulse(root_id, thread.has_progressed(), thread.check_share(now) or thread.monitor.incomplete)
                for root_id, thread in self._threads.items()
            ),
            sum(thread.monitor.watcher_restarts for thread in self._threads.values()),
            self._loop.dispatcher.outcomes.previews_dropped,
            pool.lacking,
        )

    def _raise_failures(self) -> None:
        for thread in self._threads.values():
            if thread.failure is not None:
                raise thread.failure

    def _drain(self) -> int:
        """Let the inference processes finish; return the exit code."""
        loop = self._loop
        if loop.signals.count:
            loop.environment.notifier.stopping()
        in_flight = len(loop.pool.in_flight)
        _LOG.info("worker_stopping", extra={"signal_name": loop.signals.name, "count": in_flight})
        try:
            return 0 if loop.drain(self._pulse) else DatabaseAway.exit_code
        except DatabaseAway:
            return DatabaseAway.exit_code

    def _close(self) -> None:
        for thread in self._threads.values():
            thread.request_stop()
        give_up_at = time.monotonic() + _THREADS_END_S
        for thread in self._threads.values():
            if thread.is_alive():
                thread.join(max(0.0, give_up_at - time.monotonic()))
        self._loop.close()
        try:
            self._loop.ledger.mark_worker_stopped()
        except DatabaseAway as error:
            _LOG.warning("database_away", extra={"code": error.code})


class _OnceEnd:
    """Decides when a run with ``once`` has ended."""

    def __init__(self, loop: ReaderLoop, threads: Mapping[int, RootThread]) -> None:
        self._loop = loop
        self._threads = threads
        self._stuck_at: dict[int, int] = {}

    def exit_code(self) -> int | None:
        """Return the exit code when nothing more can be done, ``None`` before.

        Raises:
            DatabaseAway: the database has been away for a minute.
        """
        now = time.monotonic()
        away_since = self._loop.dispatcher.database.away_since
        if away_since is not None and now - away_since > _ONCE_PATIENCE_S:
            raise DatabaseAway
        up = {root_id: thread.monitor for root_id, thread in self._threads.items() if thread.check_share(now) is None}
        idle = self._loop.pool.ever_ready and self._loop.dispatcher.is_idle()
        if not (idle and all(monitor.quiet for monitor in up.values())):
            return None
        try:
            counts = self._loop.ledger.count_versions(list(up))
        except DatabaseAway:
            return None
        if not any(counts[state] for state in OPEN_STATES):
            return 0 if len(up) == len(self._threads) else EnvironmentFault.exit_code
        if any(counts[state] for state in OPEN_STATES - {FileState.SETTLING}):
            self._stuck_at.clear()
            return None
        return self._unstable_left(up, counts[FileState.SETTLING])

    def _unstable_left(self, up: Mapping[int, RootMonitor], count: int) -> int | None:
        """Give up on files that are SETTLING in the ledger alone.

        They lie where the share cannot be listed.
        """
        stuck = [monitor.scans - self._stuck_at.setdefault(root_id, monitor.scans) for root_id, monitor in up.items()]
        if min(stuck) >= _ONCE_STUCK_SCANS:
            _LOG.warning("files_left_unsettled", extra={"count": count})
            return EnvironmentFault.exit_code
        for monitor in up.values():
            monitor.request_full_scan()
        return None


def _monitor_options(spec: RootSpec, options: RunOptions) -> MonitorOptions:
    if not options.once:
        return MonitorOptions(
            settle_s=options.settle_s,
            network_settle_s=options.network_settle_s,
            scan_interval_s=options.scan_interval_s,
            poll=spec.poll,
            include_existing=options.include_existing,
        )
    # no less sure: two looks must still agree; but nobody waits here for the next file
    return MonitorOptions(
        settle_s=min(options.settle_s, _ONCE_SETTLE_S),
        network_settle_s=min(options.network_settle_s, _ONCE_NETWORK_SETTLE_S),
        scan_interval_s=min(options.scan_interval_s, _ONCE_SCAN_INTERVAL_S),
        poll=spec.poll,
        once=True,
        include_existing=options.include_existing,
    )
