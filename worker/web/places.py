"""Places for work: so many at once, a bounded queue before them, and a bounded share of it for each source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
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

    @asynccontextmanager
    async def place(self, source: str) -> AsyncIterator[None]:
        """Hold a place while the block runs. ``NoPlaceError``: there is none."""
        mine = self._sources.setdefault(source, _Source(self._each))
        if self.taken >= self._at_most or mine.taken >= self._each_at_most:
            if not mine.taken:
                del self._sources[source]
            raise NoPlaceError
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
