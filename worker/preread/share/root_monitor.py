"""Monitor one root and record its files in the ledger once stable.

Events and scans both end in one look at a path. A version is stable when two looks at it, ``settle_s`` apart on this
process's own monotonic clock, agree in size, modification time and inode; times of the file system are compared for
equality only. Absence is judged from complete scans alone, two in a row, and deletes nothing.

``RootMonitor.run_step`` never sleeps: it does one bounded piece of work and returns when to call it again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from preread.core.errors import ScanIncomplete, ShareDown
from preread.db.statements import chunks
from preread.ledger.ledger import Ledger
from preread.share.absence import AbsenceTracker
from preread.share.events import EventSource
from preread.share.ignore_rules import match_path_rule
from preread.share.recorder import FileRecorder
from preread.share.scanner import GONE_ERRNOS, FileSystem, ScannedRoot, read_path_status
from preread.share.scans import BATCH, FolderScans, ScanSchedule, ShareState
from preread.share.stability import StabilityTracker
from preread.share.watcher import EventHints, Watcher

_LOG = logging.getLogger(__name__)
_IDLE_S = 1.0


@dataclass(frozen=True, slots=True)
class MonitorOptions:
    """Options of one root's monitor: waits, intervals, polling.

    Attributes:
        settle_s: seconds for which a file must be unchanged, on a local disk.
        network_settle_s: the same on a network share.
        scan_interval_s: seconds from the end of one full scan to the next.
        poll_s: seconds between quick scans (they look at new and unstable names only) of a polled root.
        poll: ``None`` decides from the mount table.
        once: empty files are judged as soon as they are stable, and an absent file as soon as two scans agree.
        include_existing: files that lie in the root when it is first monitored are live, and no backlog.
    """

    settle_s: float = 2.0
    network_settle_s: float = 10.0
    scan_interval_s: float = 30.0
    poll_s: float = 5.0
    poll: bool | None = None
    once: bool = False
    include_existing: bool = False


@dataclass(frozen=True, slots=True)
class MonitorHooks:
    """Functions that a root's monitor calls; tests replace them.

    Attributes:
        wake: called from another thread when ``tick`` should be called before its time.
        on_settled: called by ``tick`` when files became READY.
        watch: makes the source of events for a root that is not polled.
        wall: the time of day, only for how long ago the ledger first saw an empty file.
    """

    wake: Callable[[], None] = lambda: None
    on_settled: Callable[[], None] = lambda: None
    watch: Callable[[bytes, Callable[[], None]], EventHints] = Watcher
    wall: Callable[[], datetime] = lambda: datetime.now(UTC)


class RootMonitor:
    """Monitor of one root: records its stable files, in one thread.

    ``look_again`` and ``suspect`` may be called from other threads.

    Args:
        path: absolute path, ``os.fsencode``d.
        system: the calls by which the root is scanned; ``None`` for those of the operating system.
    """

    def __init__(
        self,
        path: bytes,
        root_id: int,
        ledger: Ledger,
        options: MonitorOptions,
        hooks: MonitorHooks | None = None,
        system: FileSystem | None = None,
    ) -> None:
        hooks = hooks or MonitorHooks()
        root = ScannedRoot(path, root_id, ledger, FileSystem() if system is None else system)
        self._root = root
        self._options = options
        self._wake = hooks.wake
        self._events = EventSource(root, options.poll, hooks.watch, hooks.wake)
        self._share = ShareState(root)
        self._schedule = ScanSchedule(options.scan_interval_s, options.poll_s)
        self._recorder = FileRecorder(
            root, AbsenceTracker(root), hooks.on_settled, hooks.wall, judge_empty=options.once
        )
        self._scans = FolderScans(
            root,
            self._recorder,
            self._schedule,
            self._share,
            once=options.once,
            include_existing=options.include_existing,
        )
        self._requested: deque[bytes] = deque()
        self._unstable_after: int | None = None

    @property
    def root_id(self) -> int:
        """Number of the root in the ledger."""
        return self._root.root_id

    @property
    def share_down(self) -> ShareDown | None:
        """Error that keeps the root from being read now, or ``None``."""
        return self._share.down

    @property
    def incomplete(self) -> ScanIncomplete | None:
        """Failures of the last full scan; ``None`` if it met everything."""
        return self._scans.incomplete

    @property
    def scans(self) -> int:
        """Number of full scans that have ended, complete or not."""
        return self._scans.ended

    @property
    def complete_scans(self) -> int:
        """Number of full scans that listed every folder."""
        return self._scans.complete

    def run_step(self, now: float) -> float:
        """Monitor the root for one bounded step: events, rechecks, scan.

        Args:
            now: monotonic seconds.

        Returns:
            Seconds until there is something to do, unless an event comes first; 0 when there is more at once.

        Raises:
            DatabaseAway: the ledger does not answer. What was not recorded is found again by the full scan that the
                next tick begins.
        """
        if self._share.down is not None and now < self._schedule.full_at:
            return self._schedule.full_at - now
        if not self._events.chosen:
            # not before: this calls the share, which may hang
            self._choose_events()
        finished = False
        try:
            if self._share.down is None:
                self._events.keep_watching(now)
            self._take_events(now)
            self._recheck(self._recorder.settling.list_due_paths(now, BATCH), now)
            self._go_on_settling(now)
            self._scans.run_step(now, polled=self._events.polled)
            if self._share.take_replacement():
                self._choose_events()
                self._schedule.request_full_scan()
            finished = True
        except ShareDown as error:
            self._scans.abandon_scan()
            self._schedule.plan_retry(now + self._share.record_failure(error))
            finished = True
        finally:
            if not finished:
                self._scans.abandon_scan()
        return self._delay(now)

    def request_path_check(self, path: bytes) -> None:
        """Request a check of one path, as after a file-system event.

        Safe from another thread.

        Args:
            path: relative to the root.
        """
        self._requested.append(path)
        self._wake()

    def request_full_scan(self) -> None:
        """Request a full scan of the root, which finds out if it is down.

        Safe from another thread.
        """
        self._schedule.request_full_scan()
        self._wake()

    @property
    def unanswered_call(self) -> int | None:
        """Number of the call to the share that has not returned, or ``None``.

        Safe from another thread, which learns from the next values how long the same call takes.
        """
        asked = self._root.system.asked
        return asked if asked != self._root.system.answered else None

    @property
    def watcher_restarts(self) -> int:
        """Number of restarts of the watcher. Safe from another thread."""
        return self._events.restarts

    @property
    def quiet(self) -> bool:
        """``True`` if all files that a full scan found are stable or absent."""
        return (
            self._scans.ended > 0
            and self._share.down is None
            and not (self._schedule.requested or self._scans.pending or self._requested)
            and self._unstable_after is None
            and len(self._recorder.settling) == 0
        )

    def stop_watching(self) -> None:
        """End the threads of the root's event watcher."""
        self._events.stop_watching()

    # ------------------------------------------------------------------ inside

    def _choose_events(self) -> None:
        network = self._events.choose_event_source()
        settle_s = self._options.settle_s if network is None else self._options.network_settle_s
        self._recorder.settling = StabilityTracker(settle_s)

    def _delay(self, now: float) -> float:
        if self._scans.under_way or self._requested or self._goes_on_settling:
            return 0.0
        times = [self._schedule.next_scan_at(polled=self._events.polled and self._share.down is None), now + _IDLE_S]
        if (due := self._recorder.settling.next_recheck_at()) is not None:
            times.append(due)
        return max(0.0, min(times) - now)

    def _take_events(self, now: float) -> None:
        paths, lost = self._events.take_event_paths()
        if lost:
            self._schedule.request_full_scan()
        while self._requested:
            paths.append(self._requested.popleft())
        looks = []
        for path in dict.fromkeys(paths):
            if match_path_rule(path) is not None:
                continue  # the scan counts it
            try:
                look = read_path_status(self._root.system, self._root.path, path)
            except OSError as error:
                if error.errno not in GONE_ERRNOS:
                    self._schedule.request_full_scan()
                continue
            if look is None:
                self._scans.request_folder_scan(path)
            else:
                looks.append(look)
        for batch in chunks(looks, BATCH):
            self._recorder.record_entries(now, batch, hinted=True)

    @property
    def _goes_on_settling(self) -> bool:
        return self._unstable_after is not None and self._recorder.settling.room_for_backlog >= BATCH

    def _go_on_settling(self, now: float) -> None:
        """Recheck files that found no room in memory; the ledger keeps them."""
        settling = self._recorder.settling
        if self._unstable_after is None and settling.has_room_again():
            self._unstable_after = 0
        if not self._goes_on_settling:
            return
        page = self._root.ledger.incomplete_paths(self.root_id, after_file_id=self._unstable_after or 0, limit=BATCH)
        self._unstable_after = page[-1][0] if page else None
        self._recheck((path for _, path in page if path not in settling), now)

    def _recheck(self, paths: Iterable[bytes], now: float) -> None:
        rechecked = self._recorder.recheck_paths(paths, now)
        for folder in rechecked.folders:
            self._scans.request_folder_scan(folder)
        if rechecked.gone and self._options.once:
            self._schedule.request_full_scan()
