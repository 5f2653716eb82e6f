"""Detect stable files from equal observations some seconds apart.

Only a cache: after a restart it begins empty, and the ledger's SETTLING rows are looked at anew.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from preread.ledger.records import Observation

MAX_YOUNG = 20_000
_SLOWEST_RECHECK_S = 60.0
_SHORTEST_RECHECK_S = 0.001


@dataclass(slots=True)
class _Young:
    """Observation that is not stable yet.

    Attributes:
        since: when this very observation was first made (monotonic seconds).
    """

    observation: Observation
    since: float
    recheck_s: float


class StabilityTracker:
    """Tracker of files that changed lately, until they are stable.

    Args:
        settle_s: two equal observations at least this far apart make a file stable. There is no giving up: a writer may
            pause and go on for as long as it likes.
        capacity: most paths that are kept; see ``room_again``.
    """

    def __init__(self, settle_s: float, *, capacity: int = MAX_YOUNG) -> None:
        self._settle_s = settle_s
        self._capacity = capacity
        self._young: dict[bytes, _Young] = {}
        self._due: list[tuple[float, bytes]] = []
        self._turned_away = False

    def __len__(self) -> int:
        return len(self._young)

    def __contains__(self, path: bytes) -> bool:
        return path in self._young

    @property
    def room_for_backlog(self) -> int:
        """Number of further backlog paths; half of the capacity is for live files."""
        return max(0, self._capacity // 2 - len(self._young))

    def record_observation(
        self, seen: Observation, now: float, *, may_settle: bool = True, backlog: bool = False
    ) -> bool:
        """Record an observation of a file; return whether it is stable.

        Args:
            seen: the observation.
            now: monotonic seconds.
            may_settle: ``False`` looks again and again, at growing intervals (files without bytes).
            backlog: takes no more than half of the room.
        """
        young = self._young.get(seen.path)
        if young is None or young.observation != seen:
            room = self.room_for_backlog if backlog else self._capacity - len(self._young)
            if young is None and room <= 0:
                self._turned_away = True
                return False
            young = self._young[seen.path] = _Young(seen, now, self._settle_s)
            self._look_at(young.since + max(self._settle_s, _SHORTEST_RECHECK_S), seen.path)
        elif may_settle and now > young.since and now - young.since >= self._settle_s:
            del self._young[seen.path]
            return True
        elif not may_settle:
            self.delay_recheck(seen.path, now)
        return False

    def delay_recheck(self, path: bytes, now: float) -> None:
        """Plan the next recheck of a file, after up to a minute."""
        young = self._young.get(path)
        if young is not None:
            young.recheck_s = min(2 * young.recheck_s + 0.1, _SLOWEST_RECHECK_S)
            self._look_at(now + young.recheck_s, path)

    def forget_path(self, path: bytes) -> None:
        """Remove a file that is absent, ignored, or no longer SETTLING."""
        self._young.pop(path, None)

    def list_due_paths(self, now: float, limit: int) -> list[bytes]:
        """Return up to ``limit`` paths whose recheck is due."""
        paths: dict[bytes, None] = {}
        while self._due and self._due[0][0] <= now and len(paths) < limit:
            _, path = heapq.heappop(self._due)
            if path in self._young:
                paths[path] = None
        return list(paths)

    def next_recheck_at(self) -> float | None:
        """Return the time of the next recheck, or ``None``.

        In monotonic seconds.
        """
        return self._due[0][0] if self._due else None

    def has_room_again(self) -> bool:
        """Return, once, whether there is room for paths that were left out."""
        if self._turned_away and len(self._young) <= self._capacity // 2:
            self._turned_away = False
            return True
        return False

    def _look_at(self, at: float, path: bytes) -> None:
        heapq.heappush(self._due, (at, path))
