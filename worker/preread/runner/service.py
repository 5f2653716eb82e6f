"""The worker: each root watched by a thread of its own, films read by slots, all that is owed kept in the ledger.

The main thread never touches a share: one that hangs stops its own root's thread, and no more. SIGTERM, SIGINT and
SIGHUP let the slots finish what they have in hand.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from preread.core.errors import UNREAD_CODES, DatabaseAway, EnvironmentFault
from preread.core.signals import Signals, Timer, WakePipe
from preread.core.systemd import SILENT, Notifier
from preread.core.types import OPEN_STATES, FileState, RootSpec
from preread.imaging.previews import PreviewStore
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim, Pulse, RootPulse
from preread.model.bundles import Bundle
from preread.monitoring.endpoint import monitored
from preread.runner import pool as slots
from preread.runner.child import protocol as slot_messages
from preread.runner.child.protocol import Setup
from preread.runner.dispatcher import Dispatcher
from preread.runner.heartbeat import Housekeeping
from preread.runner.outcomes import WatchedRoot
from preread.runner.pool import SlotPool
from preread.runner.shadow import Shadow, ShadowFilm
from preread.share.root_monitor import InboxOptions
from preread.share.root_thread import RootThread

if TYPE_CHECKING:
    from preread.runner.counters import Meters

_LOG = logging.getLogger(__name__)
_MIB = 1024 * 1024
_LOOK_UP_S = 1.0
_ONCE_LOOK_UP_S = 0.1
_ONCE_SETTLE_S = 0.5
_ONCE_NETWORK_SETTLE_S = 2.0
_ONCE_SCAN_INTERVAL_S = 2.0
_ONCE_PATIENCE_S = 60.0
_ONCE_STUCK_SCANS = 3
_DRAIN_DATABASE_S = 10.0
_DRAIN_SLACK_S = 30.0
_THREADS_END_S = 5.0
_CHOICE_S = 2.0
BUNDLE_CHANGED = -1
"""What ``run`` returns, all films in hand committed, when another bundle was chosen: call it again with that one."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run. The names are those of the settings.

    Attributes:
        slots: child processes that read films.
        scan_interval_s: seconds between full scans of a root.
        settle_s: seconds for which a file on a local disk must stand still (``once``: at most half a second).
        network_settle_s: the same on a network share (``once``: at most two seconds).
        deadline_s: seconds that a slot may take for one film.
        slot_memory_bytes: address space of one slot.
        lease_s: seconds for which a claim holds; longer than the deadline.
        max_file_bytes: larger files are not read.
        max_pixels: films with more rows x columns x samples are not decoded.
        preview_dir: where previews are kept; ``None`` keeps none.
        min_free_bytes: what previews leave free on their disk.
        require_confinement: do not run where the kernel lacks what confines the slots.
        health_listen: ``host:port`` for ``GET /health`` and ``GET /metrics``; ``None``, or with ``once``: nowhere.
        health_hosts: as ``monitored`` takes them.
        once: end when everything that is there has its outcome.
        include_existing: what lies in a root when it is first watched is as live as what comes later, and no backlog.
    """

    slots: int = 2
    scan_interval_s: float = 30.0
    settle_s: float = 2.0
    network_settle_s: float = 10.0
    deadline_s: float = 60.0
    slot_memory_bytes: int = 2048 * _MIB
    lease_s: float = 120.0
    max_file_bytes: int = 200 * _MIB
    max_pixels: int = 64_000_000
    preview_dir: Path | None = None
    min_free_bytes: int = 0
    require_confinement: bool = False
    health_listen: str | None = None
    health_hosts: str | None = None
    once: bool = False
    include_existing: bool = False


def run(
    engine: Engine,
    bundle: Bundle,
    roots: Sequence[RootSpec],
    options: RunOptions,
    *,
    slot_command: Sequence[str] = slots.COMMAND,
    notifier: Notifier = SILENT,
    shadow: tuple[Bundle, datetime] | None = None,
    still: Callable[[], bool] = lambda: True,
) -> int:
    """Watch the roots until SIGTERM or SIGINT, or (``once``) until nothing is owed. Only on the main thread.

    Args:
        engine: from ``engine.open_engine``, its schema up to date.
        bundle: verified; the slots check it against its golden vectors.
        slot_command: the slots' program; tests give another.
        notifier: tells systemd that the main loop goes round; a loop that hangs falls silent.
        shadow: a bundle that works in the shadow, and since when; not with ``once``.
        still: tells whether these bundles are still the chosen ones; asked every few seconds.

    Returns:
        0; with ``once`` 3 when a share was down, or when files were left that no one could settle; ``BUNDLE_CHANGED``.

    Raises:
        BundleError: the bundle gives other results on this machine, or was withdrawn.
        SlotCrashed: the slots do not start.
        DatabaseAway: at the start, or for a minute with ``once``.
        EnvironmentFault: the address for ``/health`` cannot be used.
    """
    worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    ledger = Ledger(engine, worker_id=worker_id, lease_s=max(options.lease_s, 2 * options.deadline_s))
    paths = [os.fsencode(os.path.abspath(spec.path)) for spec in roots]
    listen = None if options.once else options.health_listen
    monitor = monitored(
        listen, engine, roots=paths, scan_interval_s=options.scan_interval_s, hosts=options.health_hosts
    )
    with monitor as meters, WakePipe() as wake, Signals(wake.set) as signals:
        run = _Run(ledger, bundle, roots, options, wake, signals, slot_command, notifier, shadow, still, meters)
        return run.until_the_end()


class _Run:
    """One run of the worker."""

    def __init__(
        self,
        ledger: Ledger,
        bundle: Bundle,
        roots: Sequence[RootSpec],
        options: RunOptions,
        wake: WakePipe,
        signals: Signals,
        slot_command: Sequence[str],
        notifier: Notifier,
        shadow: tuple[Bundle, datetime] | None,
        still: Callable[[], bool],
        meters: Meters | None,
    ) -> None:
        self._still = still
        self._meters = meters
        if meters is not None:
            meters.note_bundle(bundle.label, bundle.digest)
        self._choice = Timer(_CHOICE_S)
        self._changed = False
        self._ledger = ledger
        self._options = options
        self._wake = wake
        self._signals = signals
        self._notifier = notifier
        self._house = Housekeeping(ledger)
        self._stuck_at: dict[int, int] = {}
        ledger.heartbeat()  # first of all: what is claimed belongs to a worker that is known
        bundle_id = ledger.register_bundle(**bundle.registration)
        in_shadow = None
        if shadow is not None and not options.once:
            shadow_id = ledger.register_bundle(**shadow[0].registration)
            in_shadow = Shadow(ledger.engine, bundle_id, shadow_id, shadow[1])
        self._threads: dict[int, RootThread] = {}
        watched: dict[int, WatchedRoot] = {}
        for spec in roots:
            path = os.fsencode(os.path.abspath(spec.path))
            root_id = ledger.register_root(path, population=spec.population, path_pattern=spec.path_pattern)
            thread = RootThread(path, root_id, ledger, _inbox_options(spec, options), wake.set)
            self._threads[root_id] = thread
            watched[root_id] = WatchedRoot(
                root_id, path, spec.population, spec.path_pattern, thread.inbox.look_again, thread.inbox.suspect
            )
        self._pool: SlotPool[Claim | ShadowFilm] = SlotPool(
            slot_setup(bundle, options, shadow[0] if shadow else None),
            count=options.slots,
            deadline_s=options.deadline_s,
            command=slot_command,
            place=preview_place(options),
        )
        self._pool.wake_on(wake.fd)
        self._dispatcher = Dispatcher(
            ledger,
            self._pool,
            bundle,
            bundle_id,
            watched,
            once=options.once,
            clock=time.monotonic,
            shadow=in_shadow,
            meters=meters,
            preview_dir=options.preview_dir,
        )
        extra = {"worker_id": ledger.worker_id, "bundle": bundle.label, "roots": len(watched), "slots": options.slots}
        _LOG.info("worker_started", extra=extra)

    def until_the_end(self) -> int:
        """Run; see ``run``."""
        exit_code = 1
        try:
            root_ids = list(self._threads)
            self._ledger.recover_interrupted()
            for code in sorted(UNREAD_CODES):
                self._ledger.reopen_code(root_ids, code, "the worker started")
            for thread in self._threads.values():
                thread.start()
            exit_code = self._loop()
        finally:
            self._close()
            done = {outcome.value: count for outcome, count in self._dispatcher.endings.done.items()}
            _LOG.info("worker_stopped", extra={"exit_code": exit_code, "counts": done, "restarts": self._pool.deaths})
        return exit_code

    # ------------------------------------------------------------------ the loop

    def _loop(self) -> int:
        look_up_s = _ONCE_LOOK_UP_S if self._options.once else _LOOK_UP_S
        while not (self._signals.count or self._changed):
            self._turn(look_up_s)
            self._raise_failures()
            now = time.monotonic()
            up = [root_id for root_id, thread in self._threads.items() if thread.down(now) is None]
            self._dispatcher.work(up if self._pool.ever_ready else ())
            self._housekeeping()
            if self._pool.ever_ready:
                self._notifier.ready()
            if self._options.once and (exit_code := self._once_over()) is not None:
                return exit_code
        exit_code = self._drain()
        return BUNDLE_CHANGED if self._changed and not (self._signals.count or exit_code) else exit_code

    def _turn(self, longest_s: float) -> None:
        self._notifier.beat()
        wait_s = min(longest_s, max(0.0, self._dispatcher.next_at() - time.monotonic()))
        for event in self._pool.poll(wait_s):
            self._dispatcher.hear(event)
        if self._wake.clear():
            self._dispatcher.work_appeared()

    def _housekeeping(self) -> None:
        if self._meters is not None:
            self._meters.note_slots(self._options.slots, self._pool.alive, self._pool.deaths)
        self._house.keep(self._dispatcher, self._pulse)
        if self._options.once or self._dispatcher.away_since is not None or not self._choice.due(time.monotonic()):
            return
        try:
            if not self._still():
                self._changed = True
        except DatabaseAway as error:
            self._dispatcher.database_failed(error)

    def _pulse(self) -> Pulse:
        now = time.monotonic()
        return Pulse(
            self._options.scan_interval_s,
            self._options.slots,
            self._pool.alive,
            tuple(
                RootPulse(root_id, thread.moved(), thread.down(now) or thread.inbox.incomplete)
                for root_id, thread in self._threads.items()
            ),
            sum(thread.inbox.watcher_restarts for thread in self._threads.values()),
            self._dispatcher.endings.previews_dropped,
            self._pool.lacking,
        )

    def _raise_failures(self) -> None:
        for thread in self._threads.values():
            if thread.failure is not None:
                raise thread.failure

    # ------------------------------------------------------------------ the end

    def _once_over(self) -> int | None:
        """Return the exit code when nothing more can be done, ``None`` before."""
        away_since = self._dispatcher.away_since
        if away_since is not None and time.monotonic() - away_since > _ONCE_PATIENCE_S:
            raise DatabaseAway
        now = time.monotonic()
        up = {root_id: thread.inbox for root_id, thread in self._threads.items() if thread.down(now) is None}
        if not (self._pool.ever_ready and self._dispatcher.is_idle() and all(inbox.quiet for inbox in up.values())):
            return None
        try:
            counts = self._ledger.counts(list(up))
        except DatabaseAway:
            return None
        if not any(counts[state] for state in OPEN_STATES):
            return 0 if len(up) == len(self._threads) else EnvironmentFault.exit_code
        if any(counts[state] for state in OPEN_STATES - {FileState.SETTLING}):
            self._stuck_at.clear()
            return None
        # the inbox does not see what the ledger has as SETTLING: it lies where the share cannot be listed
        stuck = [inbox.scans - self._stuck_at.setdefault(root_id, inbox.scans) for root_id, inbox in up.items()]
        if min(stuck) >= _ONCE_STUCK_SCANS:
            _LOG.warning("files_left_unsettled", extra={"count": counts[FileState.SETTLING]})
            return EnvironmentFault.exit_code
        for inbox in up.values():
            inbox.suspect()
        return None

    def _drain(self) -> int:
        """Let the slots finish, and write what they found."""
        if self._signals.count:
            self._notifier.stopping()
        in_flight = len(self._pool.in_flight)
        _LOG.info("worker_stopping", extra={"signal_name": self._signals.name, "count": in_flight})
        give_up_at = time.monotonic() + self._options.deadline_s + _DRAIN_SLACK_S
        while not self._dispatcher.is_idle() and self._signals.count < 2 and time.monotonic() < give_up_at:
            away_since = self._dispatcher.away_since
            if away_since is not None and time.monotonic() - away_since > _DRAIN_DATABASE_S:
                break
            self._turn(_ONCE_LOOK_UP_S)
            self._dispatcher.work(())
            self._housekeeping()
        if self._dispatcher.is_idle():
            return 0
        # the next worker finds these claims without an owner, and gives the files out again
        abandoned = self._pool.abandon()
        try:
            self._dispatcher.release(abandoned)
        except DatabaseAway:
            return DatabaseAway.exit_code
        return 0 if self._dispatcher.is_idle() else DatabaseAway.exit_code

    def _close(self) -> None:
        for thread in self._threads.values():
            thread.stop()
        give_up_at = time.monotonic() + _THREADS_END_S
        for thread in self._threads.values():
            if thread.is_alive():
                thread.join(max(0.0, give_up_at - time.monotonic()))
        self._pool.close()
        try:
            self._ledger.stop()
        except DatabaseAway as error:
            _LOG.warning("database_away", extra={"code": error.code})


def slot_setup(bundle: Bundle, options: RunOptions, shadow: Bundle | None = None) -> Setup:
    """Return what each slot of such a run gets first."""
    return Setup(
        bundle=slot_messages.to_text(os.fsencode(bundle.path.resolve())),
        digest=bundle.digest,
        memory_bytes=options.slot_memory_bytes,
        max_file_bytes=options.max_file_bytes,
        max_pixels=options.max_pixels,
        parent_pid=os.getpid(),
        shadow=None if shadow is None else slot_messages.to_text(os.fsencode(shadow.path.resolve())),
        shadow_digest="" if shadow is None else shadow.digest,
        require_confinement=options.require_confinement,
    )


def preview_place(options: RunOptions) -> PreviewStore | None:
    """Return where previews of such a run are kept."""
    return None if options.preview_dir is None else PreviewStore(options.preview_dir, options.min_free_bytes)


def _inbox_options(spec: RootSpec, options: RunOptions) -> InboxOptions:
    if not options.once:
        return InboxOptions(
            settle_s=options.settle_s,
            network_settle_s=options.network_settle_s,
            scan_interval_s=options.scan_interval_s,
            poll=spec.poll,
            include_existing=options.include_existing,
        )
    # no less sure: two looks must still agree; but nobody waits here for the next film
    return InboxOptions(
        settle_s=min(options.settle_s, _ONCE_SETTLE_S),
        network_settle_s=min(options.network_settle_s, _ONCE_NETWORK_SETTLE_S),
        scan_interval_s=min(options.scan_interval_s, _ONCE_SCAN_INTERVAL_S),
        poll=spec.poll,
        once=True,
        include_existing=options.include_existing,
    )
