"""Scans of one root: schedule, steps, and state of the share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from itertools import islice

from preread.core.backoff import Backoff
from preread.core.errors import ScanIncomplete, ShareDown
from preread.share.recorder import FileRecorder, needs_status
from preread.share.scanner import (
    EntryStatus,
    ListedEntry,
    ScanCounts,
    ScannedRoot,
    check_root_readable,
    check_share_mounted,
    list_files,
    read_entry_statuses,
)

_LOG = logging.getLogger(__name__)
BATCH = 500
_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 30.0
_ENDED = object()


class ScanSchedule:
    """Schedule of full and quick scans of a root, in monotonic seconds.

    Args:
        interval_s: seconds from the end of one full scan to the next.
        poll_s: seconds between quick scans.

    Attributes:
        requested: a full scan is to begin before its time.
        full_at: when the next full scan is due.
    """

    def __init__(self, interval_s: float, poll_s: float) -> None:
        self.requested = True
        self.full_at = float("-inf")
        self._interval_s = interval_s
        self._poll_s = poll_s
        self._quick_at = float("-inf")
        self._request_from = float("-inf")

    def request_full_scan(self) -> None:
        """Request a full scan, at the earliest one second after the last.

        Safe from another thread.
        """
        self.requested = True

    def begin_full_scan(self, now: float) -> bool:
        """Begin a full scan if one is due; return whether it is."""
        if now >= self.full_at or (self.requested and now >= self._request_from):
            self.requested = False
            return True
        return False

    def is_quick_scan_due(self, now: float) -> bool:
        """Return whether a quick scan of a polled root is due."""
        return now >= self._quick_at

    def plan_after_full_scan(self, now: float, *, at_once: bool) -> None:
        """Plan the next full scan and quick scan after a full scan.

        Args:
            now: monotonic seconds.
            at_once: the next full one is due now.
        """
        self.full_at = now + (0.0 if at_once else self._interval_s)
        self._request_from = now + min(1.0, self._interval_s)
        self.plan_quick_scan(now)

    def plan_quick_scan(self, now: float) -> None:
        """Plan the next quick scan."""
        self._quick_at = now + self._poll_s

    def plan_retry(self, at: float) -> None:
        """Plan the next full scan of a share that is down."""
        self.requested = True
        self.full_at = self._request_from = at

    def next_scan_at(self, *, polled: bool) -> float:
        """Return the time of the next scan, in monotonic seconds."""
        times = [self.full_at]
        if self.requested:
            times.append(self._request_from)
        if polled:
            times.append(self._quick_at)
        return min(times)


class ShareState:
    """State of a share: readable or not, and the identity of its folder.

    Attributes:
        down: why the root cannot be read now; ``None`` while it can.
    """

    def __init__(self, root: ScannedRoot) -> None:
        self.down: ShareDown | None = None
        self._root = root
        self._identity: tuple[int, int] | None = None
        self._replaced = False
        self._retry = Backoff(_FIRST_RETRY_S, _LONGEST_RETRY_S)

    def record_failure(self, error: ShareDown) -> float:
        """Record that a share is down; return the seconds to the next try."""
        if self.down is None:
            _LOG.warning("share_down", extra={"root_id": self._root.root_id, "code": error.code, "why": str(error)})
        self.down = error
        return self._retry.next_s()

    def record_full_scan(self, status: os.stat_result, listing: ScanCounts) -> None:
        """Record a full scan of a share, which is then no longer down.

        Args:
            status: of the root, the same before and after the scan.
            listing: counts of the scan.

        Raises:
            ShareDown: the root is an empty mount point, or an empty folder took its place.
            DatabaseAway: see ``Ledger``.
        """
        self._note_identity((status.st_dev, status.st_ino), listing)
        self._retry.reset()
        if self.down is not None:
            self.down = None
            _LOG.info("share_back", extra={"root_id": self._root.root_id})

    def take_replacement(self) -> bool:
        """Return, once, whether the share was mounted anew or replaced."""
        replaced, self._replaced = self._replaced, False
        return replaced

    def _note_identity(self, identity: tuple[int, int], listing: ScanCounts) -> None:
        root, before = self._root, self._identity
        if identity == before:
            return
        check_share_mounted(root.system, root.path, listing)
        if before is not None and listing.files == 0 and root.ledger.expected_paths(root.root_id, limit=1):
            raise ShareDown("the watched folder was replaced by an empty one: the share is probably not mounted")
        self._identity = identity
        self._replaced = before is not None or self.down is not None


class FolderScans:
    """Scans of one root, one step at a time.

    Args:
        once: what one complete scan missed is judged by the next one at once.
        include_existing: files that lie in the root at its first scan are live, and no backlog.

    Attributes:
        ended: number of full scans that have ended, complete or not.
        complete: number of these that listed every folder.
        incomplete: what the last full scan could not list or look at; ``None`` if it met everything.
    """

    def __init__(
        self,
        root: ScannedRoot,
        recorder: FileRecorder,
        schedule: ScanSchedule,
        share: ShareState,
        *,
        once: bool,
        include_existing: bool,
    ) -> None:
        self.ended = 0
        self.complete = 0
        self.incomplete: ScanIncomplete | None = None
        self._root = root
        self._recorder = recorder
        self._schedule = schedule
        self._share = share
        self._once = once
        self._include_existing = include_existing
        self._folders: dict[bytes, None] = {}
        self._steps: Iterator[None] | None = None
        self._now = 0.0

    @property
    def under_way(self) -> bool:
        """``True`` if a scan goes on or a folder waits for one."""
        return self._steps is not None or bool(self._folders)

    @property
    def pending(self) -> bool:
        """``True`` if a scan goes on or must still confirm absent files."""
        return self.under_way or self._recorder.absence.has_missing_paths

    def request_folder_scan(self, folder: bytes) -> None:
        """Request a scan of one folder, relative to the root."""
        self._folders[folder] = None

    def abandon_scan(self) -> None:
        """End the present scan, and request a full one."""
        self._steps = None
        self._schedule.request_full_scan()

    def run_step(self, now: float, *, polled: bool) -> None:
        """Run one step of the present scan, or begin the scan that is due.

        Args:
            now: monotonic seconds.
            polled: quick scans are made as well.

        Raises:
            ShareDown: the root cannot be read.
            DatabaseAway: see ``Ledger``.
        """
        self._now = now
        if self._steps is None:
            self._steps = self._next(polled=polled)
        if self._steps is not None and next(self._steps, _ENDED) is _ENDED:
            self._steps = None

    def _next(self, *, polled: bool) -> Iterator[None] | None:
        if self._schedule.begin_full_scan(self._now):
            return self._full()
        if self._folders:
            return self._folder(self._folders.popitem()[0])
        if polled and self._schedule.is_quick_scan_due(self._now):
            return self._quick()
        return None

    def _full(self) -> Iterator[None]:
        root, began = self._root, self._now
        before = check_root_readable(root.system, root.path)
        listing = ScanCounts()
        self._recorder.absence.begin_scan()
        first = root.ledger.record_scan_start(root.root_id)
        yield from self._walk(b"", listing, everything=True, backlog=first and not self._include_existing)
        after = check_root_readable(root.system, root.path)
        if (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino):
            self._share.record_full_scan(after, listing)
        else:
            listing.failed_folders += 1
        if first:
            root.ledger.record_backlog_listed(root.root_id)
            _LOG.info("files_counted", extra={"root_id": root.root_id, "backlog": self._recorder.backlog_taken_in})
        if listing.complete:
            yield from self._recorder.absence.record_absent_files()
            root.ledger.record_scan_end(root.root_id, files_seen=listing.files)
            self.complete += 1
        self._end(listing, began)

    def _end(self, listing: ScanCounts, began: float) -> None:
        extra = {"root_id": self._root.root_id, "seen": listing.files, "duration_s": round(self._now - began, 3)}
        if listing.failed_folders or listing.failed_entries:
            count = listing.failed_folders + listing.failed_entries
            _LOG.warning("scan_incomplete", extra=extra | {"count": count, "errno": listing.first_errno})
        else:
            _LOG.debug("scan_complete", extra=extra)
        self.incomplete = listing.build_error()
        self.ended += 1
        # where a run ends, what one complete scan missed is judged by the next one at once
        at_once = self._once and self._recorder.absence.has_missing_paths and listing.complete
        self._schedule.plan_after_full_scan(self._now, at_once=at_once)

    def _folder(self, folder: bytes) -> Iterator[None]:
        try:
            yield from self._walk(folder, ScanCounts(), everything=True, hinted=True)
        except ShareDown:
            # the folder went away, or the share did: the full scan finds out
            self._schedule.request_full_scan()

    def _quick(self) -> Iterator[None]:
        yield from self._walk(b"", ScanCounts(), everything=False)
        self._schedule.plan_quick_scan(self._now)

    def _walk(
        self, folder: bytes, listing: ScanCounts, *, everything: bool, backlog: bool = False, hinted: bool = False
    ) -> Iterator[None]:
        entries = list_files(self._root.system, self._root.path, folder, listing)
        while batch := list(islice(entries, BATCH)):
            looks = self._look_at(batch, listing, everything=everything)
            self._recorder.record_entries(self._now, looks, backlog=backlog, hinted=hinted)
            yield

    def _look_at(self, batch: list[ListedEntry], listing: ScanCounts, *, everything: bool) -> list[EntryStatus]:
        if not everything:
            # a network share answers each stat with a round trip: ask for what is new or not stable only
            known = self._root.ledger.newest_versions(self._root.root_id, [found.path for found in batch])
            batch = [found for found in batch if needs_status(known.get(found.path))]
        return read_entry_statuses(self._root.system, batch, listing, self._recorder.absence.record_present)
