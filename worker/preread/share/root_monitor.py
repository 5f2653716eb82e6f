"""One root: what is in it, told to the ledger once it stands still.

Events and scans both end in one look at a path. A version settles when two looks at it, ``settle_s`` apart on this
process's own monotonic clock, agree in size, modification time and inode; times of the file system are compared for
equality only. Absence is judged from complete scans alone, two in a row, and deletes nothing.

``tick`` never sleeps: it does one bounded piece of work and says when it wants to be called again.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from preread.core import filesystems
from preread.core.errors import ScanIncomplete, ShareDown
from preread.ledger.ledger import Ledger
from preread.share.absence import Absence
from preread.share.ignore_rules import path_rule
from preread.share.recorder import Teller, wants_a_look
from preread.share.scanner import (
    GONE_ERRNOS,
    FileSystem,
    Found,
    Listing,
    Look,
    check_mounted,
    check_root,
    look_at_entries,
    look_at_path,
    walk,
)
from preread.share.stability import Settling
from preread.share.watcher import Hints, NoHints, Watcher

_LOG = logging.getLogger(__name__)
BATCH = 500
_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 30.0
_IDLE_S = 1.0
_ENDED = object()


@dataclass(frozen=True, slots=True)
class InboxOptions:
    """How one root is watched.

    Attributes:
        settle_s: seconds for which a file must stand still, on a local disk.
        network_settle_s: the same on a network share.
        scan_interval_s: seconds from the end of one full scan to the next.
        poll_s: seconds between quick scans (they look at new and unsettled names only) of a polled root.
        poll: ``None`` decides from the mount table.
        once: empty files are judged as soon as they settled, and an absent file as soon as two scans say so.
        include_existing: what lies in the root when it is first watched is as live as what comes later.
    """

    settle_s: float = 2.0
    network_settle_s: float = 10.0
    scan_interval_s: float = 30.0
    poll_s: float = 5.0
    poll: bool | None = None
    once: bool = False
    include_existing: bool = False


class Inbox:
    """Watches one root. Not safe to share between threads, but for ``look_again`` and ``suspect``.

    Args:
        root: absolute path, ``os.fsencode``d.
        wake: called from another thread when ``tick`` should be called before its time.
        on_settled: called by ``tick`` when files became READY.
        watch: makes the source of events for a root that is not polled.
        system: the calls by which the root is looked at.
        wall: the time of day, only to tell how long ago the ledger first saw an empty file.

    Attributes:
        share_down: why the root cannot be read now; ``None`` when it can.
        incomplete: what the last full scan could not list or look at; ``None`` when it met everything.
        scans: full scans ended, complete or not.
        complete_scans: of these, those that listed every folder.
    """

    def __init__(
        self,
        root: bytes,
        root_id: int,
        ledger: Ledger,
        options: InboxOptions,
        *,
        wake: Callable[[], None] = lambda: None,
        on_settled: Callable[[], None] = lambda: None,
        watch: Callable[[bytes, Callable[[], None]], Hints] = Watcher,
        system: FileSystem | None = None,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.root_id = root_id
        self.share_down: ShareDown | None = None
        self.incomplete: ScanIncomplete | None = None
        self.scans = 0
        self.complete_scans = 0
        self._root = root
        self._ledger = ledger
        self._options = options
        self._wake = wake
        self._watch = watch
        self._system = system if system is not None else FileSystem()
        self._now = 0.0
        self._hints: Hints = NoHints()
        self._earlier_restarts = 0
        self._polled = True
        self._folders: dict[bytes, None] = {}
        self._asked: deque[bytes] = deque()
        self._steps: Iterator[None] | None = None
        self._rescan = True
        self._unsettled_after: int | None = None
        self._scan_at = self._quick_at = self._rescan_from = float("-inf")
        self._retry_s = _FIRST_RETRY_S
        self._identity: tuple[int, int] | None = None
        self._absence = Absence(self._system, root, root_id, ledger)
        self._teller = Teller(root_id, ledger, self._absence, on_settled, wall, judge_empty=options.once)
        self._chosen = False

    def tick(self, now: float) -> float:
        """Do one bounded piece of work.

        Args:
            now: monotonic seconds.

        Returns:
            Seconds until there is something to do, unless a hint comes first; 0 when there is more at once.

        Raises:
            DatabaseAway: the ledger does not answer. What was not told to it is found again by the full scan that the
                next tick begins.
        """
        self._now = now
        if self.share_down is not None and now < self._scan_at:
            return self._scan_at - now
        if not self._chosen:
            # not before: this asks the share, which may hang
            self._choose_hints(self._system.network(self._root))
        finished = False
        try:
            if self.share_down is None:
                self._hints.supervise(now)
            self._take_hints()
            self._recheck_due()
            self._go_on_settling()
            self._scan_on()
            finished = True
        except ShareDown as error:
            self._share_failed(error)
            finished = True
        finally:
            if not finished:
                self._steps, self._rescan = None, True
        return self._delay()

    def look_again(self, path: bytes) -> None:
        """Ask for a look at one path (relative to the root), as an event does. Safe from another thread."""
        self._asked.append(path)
        self._wake()

    def suspect(self) -> None:
        """Ask for a full scan, which tells whether the share answers. Safe from another thread."""
        self._rescan = True
        self._wake()

    @property
    def unanswered(self) -> int | None:
        """The number of the question to the share that waits for its answer now; ``None`` while none does.

        Safe from another thread, which learns by asking again how long the same one waits.
        """
        asked = self._system.asked
        return asked if asked != self._system.answered else None

    @property
    def watcher_restarts(self) -> int:
        """How often watching for the kernel's events had to begin anew. Safe from another thread."""
        return self._earlier_restarts + self._hints.restarts

    @property
    def quiet(self) -> bool:
        """Whether a full scan was made, and everything that it met has settled or is judged absent."""
        return (
            self.scans > 0
            and self.share_down is None
            and not (self._rescan or self._steps or self._folders or self._asked or self._absence.suspected)
            and self._unsettled_after is None
            and len(self._teller.settling) == 0
        )

    def stop(self) -> None:
        """End the watcher's threads."""
        self._hints.stop()

    def _choose_hints(self, network: str | None) -> None:
        self._hints.stop()
        self._earlier_restarts += self._hints.restarts
        self._chosen = True
        self._polled = network is not None if self._options.poll is None else self._options.poll
        self._teller.settling = Settling(self._options.settle_s if network is None else self._options.network_settle_s)
        self._hints = NoHints() if self._polled else self._watch(self._root, self._wake)
        if self._options.poll is not None:
            why = "as set"
        else:
            why = "a local disk" if network is None else "events of other hosts do not arrive"
        mode, fs_type = "polling" if self._polled else "events", network or filesystems.file_system_type(self._root)
        extra = {"root_id": self.root_id, "mode": mode, "why": why, "fs_type": fs_type}
        _LOG.info("root_watched", extra=extra)

    def _delay(self) -> float:
        if self._steps is not None or self._folders or self._asked or self._settles_on:
            return 0.0
        times = [self._scan_at, self._now + _IDLE_S]
        if self._rescan:
            times.append(self._rescan_from)
        if self._polled and self.share_down is None:
            times.append(self._quick_at)
        if (due := self._teller.settling.next_at()) is not None:
            times.append(due)
        return max(0.0, min(times) - self._now)

    # ------------------------------------------------------------------ hints

    def _take_hints(self) -> None:
        hinted, lost = self._hints.take()
        self._rescan = self._rescan or lost
        while self._asked:
            hinted.append(self._asked.popleft())
        looks = []
        for path in dict.fromkeys(hinted):
            if path_rule(path) is not None:
                continue  # the scan counts it
            try:
                look = look_at_path(self._system, self._root, path)
            except OSError as error:
                self._rescan = self._rescan or error.errno not in GONE_ERRNOS
                continue
            if look is None:
                self._folders[path] = None
            else:
                looks.append(look)
        for start in range(0, len(looks), BATCH):
            self._teller.tell(self._now, looks[start : start + BATCH], hinted=True)

    def _recheck_due(self) -> None:
        self._recheck(self._teller.settling.due(self._now, BATCH))

    @property
    def _settles_on(self) -> bool:
        return self._unsettled_after is not None and self._teller.settling.room_for_backlog >= BATCH

    def _go_on_settling(self) -> None:
        """Look at what was seen before and found no room: the ledger keeps a backlog, memory does not."""
        if self._unsettled_after is None and self._teller.settling.room_again():
            self._unsettled_after = 0
        if not self._settles_on:
            return
        page = self._ledger.unsettled(self.root_id, after_file_id=self._unsettled_after or 0, limit=BATCH)
        self._unsettled_after = page[-1][0] if page else None
        self._recheck(path for _, path in page if path not in self._teller.settling)

    def _recheck(self, paths: Iterable[bytes]) -> None:
        looks = []
        for path in paths:
            try:
                look = look_at_path(self._system, self._root, path)
            except OSError as error:
                if error.errno in GONE_ERRNOS:
                    self._teller.settling.forget(path)
                    self._absence.suspect(path)
                    self._rescan = self._rescan or self._options.once
                else:
                    check_root(self._system, self._root)
                    self._teller.settling.put_off(path, self._now)
                continue
            if look is None:
                self._teller.settling.forget(path)
                self._folders[path] = None
            else:
                looks.append(look)
        if looks:
            self._teller.tell(self._now, looks)

    # ------------------------------------------------------------------ scans

    def _scan_on(self) -> None:
        if self._steps is None:
            self._steps = self._next_scan()
        if self._steps is not None and next(self._steps, _ENDED) is _ENDED:
            self._steps = None

    def _next_scan(self) -> Iterator[None] | None:
        if self._now >= self._scan_at or (self._rescan and self._now >= self._rescan_from):
            self._rescan = False
            return self._full_scan()
        if self._folders:
            return self._folder_scan(self._folders.popitem()[0])
        if self._polled and self._now >= self._quick_at:
            return self._quick_scan()
        return None

    def _full_scan(self) -> Iterator[None]:
        began = self._now
        before = check_root(self._system, self._root)
        listing = Listing()
        self._absence.start()
        first = self._ledger.scan_started(self.root_id)
        yield from self._walk(b"", listing, everything=True, backlog=first and not self._options.include_existing)
        after = check_root(self._system, self._root)
        if (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino):
            self._note_identity(after, listing)
            self._share_answers()
        else:
            listing.failed_folders += 1
        if first:
            self._ledger.existing_counted(self.root_id)
            _LOG.info("files_counted", extra={"root_id": self.root_id, "backlog": self._teller.backlog_taken_in})
        if listing.complete:
            yield from self._absence.judge()
            self._ledger.scan_completed(self.root_id, files_seen=listing.files)
            self.complete_scans += 1
        extra = {"root_id": self.root_id, "seen": listing.files, "duration_s": round(self._now - began, 3)}
        if listing.failed_folders or listing.failed_entries:
            count = listing.failed_folders + listing.failed_entries
            _LOG.warning("scan_incomplete", extra=extra | {"count": count, "errno": listing.first_errno})
        else:
            _LOG.debug("scan_complete", extra=extra)
        self.incomplete = listing.fault()
        self.scans += 1
        # where a run ends, what one complete scan missed is judged by the next one at once
        soon = self._options.once and self._absence.suspected and listing.complete
        self._scan_at = self._now + (0.0 if soon else self._options.scan_interval_s)
        self._quick_at = self._now + self._options.poll_s
        self._rescan_from = self._now + min(1.0, self._options.scan_interval_s)

    def _folder_scan(self, folder: bytes) -> Iterator[None]:
        try:
            yield from self._walk(folder, Listing(), everything=True, hinted=True)
        except ShareDown:
            # the folder went away, or the share did: the full scan tells which
            self._rescan = True

    def _quick_scan(self) -> Iterator[None]:
        yield from self._walk(b"", Listing(), everything=False)
        self._quick_at = self._now + self._options.poll_s

    def _walk(
        self, folder: bytes, listing: Listing, *, everything: bool, backlog: bool = False, hinted: bool = False
    ) -> Iterator[None]:
        entries = walk(self._system, self._root, folder, listing)
        while batch := list(islice(entries, BATCH)):
            looks = self._look_at(batch, listing, everything=everything)
            self._teller.tell(self._now, looks, backlog=backlog, hinted=hinted)
            yield

    def _look_at(self, batch: list[Found], listing: Listing, *, everything: bool) -> list[Look]:
        if not everything:
            # a network share answers each stat with a round trip: ask for what is new or unsettled only
            known = self._ledger.known(self.root_id, [found.path for found in batch])
            batch = [found for found in batch if wants_a_look(known.get(found.path))]
        return look_at_entries(self._system, batch, listing, self._absence.met)

    # ------------------------------------------------------------------ the share as a whole

    def _note_identity(self, status: os.stat_result, listing: Listing) -> None:
        """See that the root is still the file system that it was: an empty mount point is no empty share."""
        identity = (status.st_dev, status.st_ino)
        if identity == self._identity:
            return
        check_mounted(self._system, self._root, listing)
        if self._identity is not None or self.share_down is not None:
            if self._identity is not None and listing.files == 0 and self._ledger.live_paths(self.root_id, limit=1):
                raise ShareDown("another, empty folder lies where the share was: it is probably not mounted")
            self._choose_hints(self._system.network(self._root))
            self._rescan = True
        self._identity = identity

    def _share_failed(self, error: ShareDown) -> None:
        if self.share_down is None:
            _LOG.warning("share_down", extra={"root_id": self.root_id, "code": error.code, "why": str(error)})
        self.share_down = error
        self._steps, self._rescan = None, True
        self._scan_at = self._rescan_from = self._now + self._retry_s
        self._retry_s = min(2 * self._retry_s, _LONGEST_RETRY_S)

    def _share_answers(self) -> None:
        self._retry_s = _FIRST_RETRY_S
        if self.share_down is not None:
            self.share_down = None
            _LOG.info("share_back", extra={"root_id": self.root_id})
