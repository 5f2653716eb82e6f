"""Files of one shard: recorded in the ledger, rechecked until stable."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from preread.core.errors import ScanIncomplete
from preread.core.types import FileState
from preread.fleet import partition
from preread.fleet.partition import Shard
from preread.ledger.records import Version
from preread.share.absence import AbsenceTracker
from preread.share.recorder import FileRecorder
from preread.share.scanner import ScanCounts, ScannedRoot, read_entry_statuses
from preread.share.stability import StabilityTracker

_BATCH = 500
_LONGEST_PAUSE_S = 0.25


@dataclass(frozen=True, slots=True)
class StablePeriods:
    """Seconds for which a file must be unchanged.

    Attributes:
        local_s: on a local disk.
        network_s: on a network share.
    """

    local_s: float
    network_s: float


class ShardFolder:
    """Files of one shard in their root.

    Args:
        order_key: see ``partition.place_path``.
        backlog: new files lay there before a worker first looked; else they are live.
        pause: called between two steps with the seconds to wait; may raise to end the work.
    """

    def __init__(
        self,
        root: ScannedRoot,
        shard: Shard,
        order_key: bytes,
        periods: StablePeriods,
        pause: Callable[[float], None],
        *,
        backlog: bool,
    ) -> None:
        self._root = root
        self._shard = shard
        self._order_key = order_key
        self._periods = periods
        self._pause = pause
        self._backlog = backlog
        self._recorder = FileRecorder(
            root, AbsenceTracker(root), lambda: None, lambda: datetime.now(UTC), judge_empty=True
        )
        self._listing = ScanCounts()
        self._paths: list[bytes] = []

    @property
    def unstable(self) -> int:
        """Number of files that are still to be read."""
        return len(self._paths)

    def fault(self) -> ScanIncomplete | None:
        """Return failures to list or look at entries; ``None`` if there are none."""
        return self._listing.build_error()

    def take_in(self) -> None:
        """Record every entry of the shard.

        Raises:
            ShareDown: the root cannot be read.
            DatabaseAway: see ``Ledger``.
        """
        root = self._root
        network = root.system.find_network_type(root.path)
        settle_s = self._periods.local_s if network is None else self._periods.network_s
        self._recorder.settling = StabilityTracker(settle_s, capacity=4 * partition.MAX_FILES)
        self._listing, self._paths = ScanCounts(), []
        entries = partition.list_shard_files(root.system, root.path, self._shard, self._listing, self._order_key)
        while batch := list(islice(entries, _BATCH)):
            looks = read_entry_statuses(root.system, batch, self._listing)
            self._recorder.record_entries(time.monotonic(), looks, backlog=self._backlog)
            self._paths += [look.observation.path for look in looks if look.rule is None]
            self._pause(0.0)

    def settle(self) -> None:
        """Recheck new files until they are stable, or for a limited time.

        Raises:
            ShareDown: the root cannot be read.
            DatabaseAway: see ``Ledger``.
        """
        settling = self._recorder.settling
        give_up_at = time.monotonic() + 2 * self._periods.network_s + 1.0
        unstable = {path for path, version in self._versions().items() if version.state is FileState.SETTLING}
        self._recheck([path for path in unstable if path not in settling])
        while (at := settling.next_recheck_at()) is not None and time.monotonic() < give_up_at:
            wait_s = at - time.monotonic()
            if wait_s <= 0:
                self._recheck(settling.list_due_paths(time.monotonic(), _BATCH))
            self._pause(max(0.0, min(wait_s, _LONGEST_PAUSE_S)))

    def file_ids(self) -> list[int]:
        """Return the numbers of the shard's files in the ledger."""
        return [version.file_id for version in self._versions().values()]

    def keep_unstable(self) -> None:
        """Forget every file that is no longer SETTLING: it was read, or is gone."""
        self._paths = [path for path, version in self._versions().items() if version.state is FileState.SETTLING]

    def _versions(self) -> dict[bytes, Version]:
        return self._root.ledger.newest_versions(self._root.root_id, self._paths)

    def _recheck(self, paths: list[bytes]) -> None:
        self._recorder.recheck_paths(paths, time.monotonic(), backlog=self._backlog)
