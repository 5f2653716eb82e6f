"""Places for work: so many at once, a bounded queue before them, and a bounded share of it for each source.

A pace beside it: so many in a second from one source and in all; what comes faster waits for its turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class NoPlaceError(Exception):
    """All places are taken and the queue is full, or it took too long."""


class Places:
    """So many at once.

    Args:
        at_once: in all.
        each: from one source.
        waiting: from one source, beside those that have a place.
        waiting_in_all: from all sources.
        within_s: how long one waits.
    """

    def __init__(self, *, at_once: int, each: int, waiting: int, waiting_in_all: int, within_s: float) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._at_most = at_once + waiting_in_all
        self._each = each
        self._each_at_most = each + waiting
        self._within_s = within_s
        self._sources: dict[str, _Source] = {}
        self.taken = 0

    def is_full(self, source: str) -> bool:
        """Tell whether who comes now from there finds no place."""
        mine = self._sources.get(source)
        return self.taken >= self._at_most or (mine is not None and mine.taken >= self._each_at_most)

    @asynccontextmanager
    async def place(self, source: str) -> AsyncIterator[None]:
        """Hold a place while the block runs. ``NoPlaceError``: there is none."""
        if self.is_full(source):
            raise NoPlaceError
        mine = self._sources.setdefault(source, _Source(self._each))
        mine.taken += 1
        self.taken += 1
        try:
            await self._wait(mine)
            try:
                yield
            finally:
                self._free.release()
                mine.free.release()
        finally:
            self.taken -= 1
            mine.taken -= 1
            if not mine.taken:
                del self._sources[source]

    async def _wait(self, mine: _Source) -> None:
        try:
            async with asyncio.timeout(self._within_s):
                await mine.free.acquire()
                try:
                    await self._free.acquire()
                except BaseException:
                    mine.free.release()
                    raise
        except TimeoutError:
            raise NoPlaceError from None


class _Source:
    def __init__(self, each: int) -> None:
        self.free = asyncio.Semaphore(each)
        self.taken = 0


class Pace:
    """So many in a second, by source and in all.

    Args:
        each_s: from one source.
        in_all_s: from all.
        burst_s: seconds' worth that may come at once.
        longest_s: what would have to wait for longer is refused, after so long.
        clock: monotonic seconds.
    """

    _SOURCES_AT_MOST = 10_000

    def __init__(
        self,
        *,
        each_s: float,
        in_all_s: float,
        burst_s: float,
        longest_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._each_s = 1 / each_s
        self._in_all_s = 1 / in_all_s
        self._burst_s = burst_s
        self._longest_s = longest_s
        self._clock = clock
        self._all = 0.0
        self._turns: OrderedDict[str, float] = OrderedDict()

    def delay_s(self, source: str) -> tuple[float, bool]:
        """Return how long the next one from there waits, and whether it may go on then."""
        now = self._clock()
        mine = max(self._turns.get(source, 0.0), now - self._burst_s)
        every = max(self._all, now - self._burst_s)
        turn = max(mine, every)
        if turn - now > self._longest_s:
            return self._longest_s, False
        self._turns.pop(source, None)
        self._turns[source] = turn + self._each_s
        self._all = every + self._in_all_s
        while len(self._turns) > self._SOURCES_AT_MOST:
            self._turns.popitem(last=False)
        return max(0.0, turn - now), True
