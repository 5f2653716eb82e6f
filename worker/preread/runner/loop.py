"""Main loop of service and fleet: inference processes, periodic tasks."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from preread.core.errors import DatabaseAway
from preread.core.signals import Signals, Timer, WakePipe
from preread.core.systemd import SILENT, Notifier
from preread.core.text import vocabulary
from preread.imaging.previews import PreviewStore
from preread.ledger.ledger import Ledger
from preread.ledger.records import Pulse
from preread.model.bundles import Bundle
from preread.runner.child import protocol
from preread.runner.child.protocol import Setup
from preread.runner.claiming import ClaimSource
from preread.runner.dispatcher import Dispatcher, Ticket
from preread.runner.outcomes import RunContext, WatchedRoot
from preread.runner.pool import InferencePool
from preread.runner.shadow import Shadow

if TYPE_CHECKING:
    from preread.runner.counters import Counters

_LOG = logging.getLogger(__name__)
_MIB = 1024 * 1024
_HEARTBEAT_S = 5.0
_RECOVER_S = 10.0
_DRAIN_TURN_S = 0.1
_DRAIN_DATABASE_S = 10.0
_DRAIN_SLACK_S = 30.0

ShadowBundle: TypeAlias = tuple[Bundle, datetime]
"""A bundle in the shadow, and the time from which its results count."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a run, named as the settings.

    Attributes:
        ``slots``: number of inference processes.
        scan_interval_s: seconds between full scans of a root.
        settle_s: seconds for which a file on a local disk must be unchanged (``once``: at most half a second).
        network_settle_s: the same on a network share (``once``: at most two seconds).
        deadline_s: seconds that an inference process may take for one file.
        slot_memory_bytes: address space of one inference process.
        lease_s: seconds for which a claim holds; longer than the deadline.
        max_file_bytes: larger files are not read.
        max_pixels: images with more rows x columns x samples are not decoded.
        preview_dir: where previews are kept; ``None`` keeps none.
        min_free_bytes: what previews leave free on their disk.
        require_confinement: do not run where the kernel lacks what confines inference processes.
        vocabulary_file: words of the site for views and body parts; ``None`` for those that ship with Preread alone.
        once: end when every file that is there has its outcome.
        include_existing: files that lie in a root when it is first watched are live, and no backlog.
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
    vocabulary_file: Path | None = None
    once: bool = False
    include_existing: bool = False


@dataclass(frozen=True, slots=True)
class Environment:
    """Environment of a run, which the program around it provides.

    Attributes:
        command: program of the inference processes; ``None`` for the usual one; tests give another.
        notifier: gets a sign of life in each turn of the main loop; a loop that hangs gives none.
        counters: of this process, or ``None`` where nobody reads them.
    """

    command: Sequence[str] | None = None
    notifier: Notifier = SILENT
    counters: Counters | None = None


class ReaderLoop:
    """Turns of the main loop that keeps the inference processes busy.

    Only on the main thread.

    Args:
        ledger: of this process.
        signals: the first one lets files in hand finish, the second one gives them back.
    """

    def __init__(
        self, ledger: Ledger, options: RunOptions, wake: WakePipe, signals: Signals, environment: Environment
    ) -> None:
        self.ledger = ledger
        self.options = options
        self.signals = signals
        self.environment = environment
        self.wake = wake
        self._pool: InferencePool[Ticket] | None = None
        self._setup: Setup | None = None
        self._dispatcher: Dispatcher | None = None
        self._earlier_deaths = 0
        self._tasks = PeriodicTasks(ledger)

    @property
    def pool(self) -> InferencePool[Ticket]:
        """Inference processes; only after ``begin``."""
        assert self._pool is not None
        return self._pool

    @property
    def dispatcher(self) -> Dispatcher:
        """Claims, jobs and outcomes; only after ``begin``."""
        assert self._dispatcher is not None
        return self._dispatcher

    @property
    def deaths(self) -> int:
        """Number of inference processes that died or were killed."""
        return self._earlier_deaths + (0 if self._pool is None else self._pool.deaths)

    def begin(
        self,
        bundle: Bundle,
        shadow: ShadowBundle | None,
        roots: Mapping[int, WatchedRoot],
        *,
        once: bool,
        source: ClaimSource | None = None,
        shadow_files: Collection[int] | None = None,
    ) -> Shadow | None:
        """Begin to read files with a bundle.

        Inference processes that serve it already are kept.

        Args:
            bundle: the bundle in use.
            shadow: a bundle in the shadow; ``None`` for none.
            roots: the folders, by their number in the ledger.
            once: see ``RunContext``.
            source: where claims come from; ``None``: newest files of the roots first.
            shadow_files: numbers of the files that the bundle in the shadow may assess; ``None``: all.

        Returns:
            The work for the bundle in the shadow, ``None`` if there is none.

        Raises:
            BundleWithdrawn: one of the two bundles was withdrawn.
            DatabaseAway: see ``Ledger``.
        """
        bundle_id = self.ledger.register_bundle(**bundle.registration)
        work = None
        if shadow is not None:
            shadow_id = self.ledger.register_bundle(**shadow[0].registration)
            work = Shadow(self.ledger.engine, bundle_id, shadow_id, shadow[1], within=shadow_files)
        counters, preview_dir = self.environment.counters, self.options.preview_dir
        context = RunContext(
            self.ledger, bundle, bundle_id, roots, once=once, counters=counters, preview_dir=preview_dir
        )
        self._use(bundle, None if shadow is None else shadow[0])
        self._dispatcher = Dispatcher(context, self.pool, shadow=work, source=source)
        return work

    def _use(self, bundle: Bundle, shadow: Bundle | None) -> None:
        setup = build_setup(bundle, self.options, shadow)
        if self._pool is not None and self._setup == setup:
            return
        self.close()
        self._setup = setup
        self._pool = InferencePool(
            setup,
            count=self.options.slots,
            deadline_s=self.options.deadline_s,
            command=self.environment.command,
            place=locate_preview_store(self.options),
        )
        self._pool.wake_on(self.wake.fd)
        if self.environment.counters is not None:
            self.environment.counters.note_bundle(bundle.label, bundle.digest)

    def turn(self, longest_s: float) -> None:
        """Wait up to ``longest_s`` seconds for events, and handle them."""
        self.environment.notifier.beat()
        wait_s = min(longest_s, max(0.0, self.dispatcher.next_at() - time.monotonic()))
        for event in self.pool.poll(wait_s):
            self.dispatcher.handle(event)
        if self.wake.clear():
            self.dispatcher.claim_soon()

    def keep_up(self, pulse: Callable[[], Pulse | None] = lambda: None) -> None:
        """Do the periodic tasks that are due.

        Args:
            pulse: returns what the heartbeat records.
        """
        self._count_processes()
        self._tasks.run(self.dispatcher, pulse)

    def rest(self, seconds: float = 0.0) -> None:
        """Wait while no file is claimed, and do the periodic tasks."""
        if self._pool is not None:
            self._pool.poll(seconds)
        self.wake.clear()
        self._count_processes()
        self._tasks.run(None)

    def drain(self, pulse: Callable[[], Pulse | None] = lambda: None) -> bool:
        """Let the inference processes finish, and write their outcomes.

        Files that are not finished are given back.

        Ends early at a second signal, and when the database is away for ten seconds.

        Returns:
            Whether every outcome is written.

        Raises:
            DatabaseAway: files in hand could not be given back; their leases end by themselves.
        """
        dispatcher = self.dispatcher
        give_up_at = time.monotonic() + self.options.deadline_s + _DRAIN_SLACK_S
        while not dispatcher.is_idle() and self.signals.count < 2 and time.monotonic() < give_up_at:
            away_since = dispatcher.database.away_since
            if away_since is not None and time.monotonic() - away_since > _DRAIN_DATABASE_S:
                break
            self.turn(_DRAIN_TURN_S)
            dispatcher.work(())
            self.keep_up(pulse)
        if not dispatcher.is_idle():
            # the next worker finds these claims without an owner, and gives the files out again
            dispatcher.release(self.pool.abandon())
        return dispatcher.is_idle()

    def close(self) -> None:
        """End the inference processes."""
        if self._pool is not None:
            self._earlier_deaths += self._pool.deaths
            self._pool.close()
            self._pool = None

    def _count_processes(self) -> None:
        if self.environment.counters is not None and self._pool is not None:
            self.environment.counters.note_slots(self.options.slots, self._pool.alive, self.deaths)


class PeriodicTasks:
    """Heartbeat, lease renewal and recovery of dead workers' claims."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._heartbeat = Timer(min(_HEARTBEAT_S, ledger.lease_s / 4))
        self._renew = Timer(ledger.lease_s / 4)
        self._recover = Timer(_RECOVER_S)

    def run(self, dispatcher: Dispatcher | None, pulse: Callable[[], Pulse | None] = lambda: None) -> None:
        """Do what is due; nothing while the database is away.

        Args:
            dispatcher: of the files in hand; records that the database is away. ``None`` between two shards.
            pulse: returns what the heartbeat records.
        """
        if dispatcher is not None and dispatcher.database.away_since is not None:
            return
        now = time.monotonic()
        try:
            if self._heartbeat.due(now):
                self._ledger.heartbeat(pulse())
            if dispatcher is not None and self._renew.due(now):
                dispatcher.renew()
            if self._recover.due(now) and (count := self._ledger.recover_interrupted()):
                _LOG.warning("claims_recovered", extra={"count": count})
                if dispatcher is not None:
                    dispatcher.claim_soon()
        except DatabaseAway as error:
            if dispatcher is not None:
                dispatcher.database_failed(error)
            else:
                _LOG.warning("database_away", extra={"code": error.code})


def build_setup(bundle: Bundle, options: RunOptions, shadow: Bundle | None = None) -> Setup:
    """Build the first message to each inference process of a run.

    Raises:
        SettingsError: the vocabulary file cannot be read, or is invalid.
    """
    return Setup(
        bundle=protocol.path_to_text(os.fsencode(bundle.path.resolve())),
        digest=bundle.digest,
        memory_bytes=options.slot_memory_bytes,
        max_file_bytes=options.max_file_bytes,
        max_pixels=options.max_pixels,
        parent_pid=os.getpid(),
        shadow=None if shadow is None else protocol.path_to_text(os.fsencode(shadow.path.resolve())),
        shadow_digest="" if shadow is None else shadow.digest,
        require_confinement=options.require_confinement,
        vocabulary=vocabulary.read_file(options.vocabulary_file),
    )


def locate_preview_store(options: RunOptions) -> PreviewStore | None:
    """Return where previews of such a run are kept; ``None`` if none are."""
    return None if options.preview_dir is None else PreviewStore(options.preview_dir, options.min_free_bytes)
