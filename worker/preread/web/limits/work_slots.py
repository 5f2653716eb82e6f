"""Limits of concurrent work and of request rates, by source and in total."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class NoSlotError(Exception):
    """All permits are taken and the queue is full, or the wait took too long."""


class WorkSlots:
    """Limited number of concurrent tasks with a bounded queue.

    Args:
        at_once: permits in total.
        each: permits by source.
        waiting: queue length by source.
        waiting_in_all: queue length in total.
        within_s: longest wait in seconds.
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
        """Return whether a new task of this source gets no permit."""
        own = self._sources.get(source)
        return self.taken >= self._at_most or (own is not None and own.taken >= self._each_at_most)

    @asynccontextmanager
    async def slot(self, source: str) -> AsyncIterator[None]:
        """Hold a permit while the block runs.

        Raises:
            NoSlotError: there is none.
        """
        if self.is_full(source):
            raise NoSlotError
        own = self._sources.setdefault(source, _Source(self._each))
        own.taken += 1
        self.taken += 1
        try:
            await self._wait(own)
            try:
                yield
            finally:
                self._free.release()
                own.free.release()
        finally:
            self.taken -= 1
            own.taken -= 1
            if not own.taken:
                del self._sources[source]

    async def _wait(self, own: _Source) -> None:
        try:
            async with asyncio.timeout(self._within_s):
                await own.free.acquire()
                try:
                    await self._free.acquire()
                except BaseException:
                    own.free.release()
                    raise
        except TimeoutError:
            raise NoSlotError from None


class _Source:
    def __init__(self, each: int) -> None:
        self.free = asyncio.Semaphore(each)
        self.taken = 0


class RequestRate:
    """Request rate by source and in total.

    Args:
        each_s: requests a second by source.
        in_all_s: requests a second in total.
        burst_s: seconds of the rate that may come at once.
        longest_s: longest delay in seconds; a request that would wait longer is refused after this time.
        clock: returns monotonic seconds.
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
        """Return the delay of the next request in seconds, and whether it may run."""
        now = self._clock()
        own = max(self._turns.get(source, 0.0), now - self._burst_s)
        total = max(self._all, now - self._burst_s)
        turn = max(own, total)
        if turn - now > self._longest_s:
            return self._longest_s, False
        self._turns.pop(source, None)
        self._turns[source] = turn + self._each_s
        self._all = total + self._in_all_s
        while len(self._turns) > self._SOURCES_AT_MOST:
            self._turns.popitem(last=False)
        return max(0.0, turn - now), True
