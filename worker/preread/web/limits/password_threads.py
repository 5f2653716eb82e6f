"""Threads for password hashing with a short queue.

A hash takes 64 MiB and a core. Known browsers have a permit of their own, so that attempts of others do not delay them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from preread.web.limits.work_slots import WorkSlots

T = TypeVar("T")

WAITING = 15
WAITING_IN_ALL = 30
_WITHIN_S = 20.0


class PasswordThreads:
    """Hashing threads of one site."""

    def __init__(self) -> None:
        lanes = {
            known: WorkSlots(at_once=1, each=1, waiting=WAITING, waiting_in_all=WAITING_IN_ALL, within_s=_WITHIN_S)
            for known in (False, True)
        }
        self._lanes = lanes
        self._threads = ThreadPoolExecutor(len(lanes), thread_name_prefix="hashing")

    async def run(self, work: Callable[[], T], *, known: bool, source: str) -> T:
        """Run work that hashes a password once a permit is free.

        Args:
            work: function to run.
            known: the browser is known, or somebody is signed in.
            source: address or name that shares permits.

        Raises:
            NoSlotError: the queue is full.
        """
        async with self._lanes[known].slot(source):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def is_full(self, source: str) -> bool:
        """Return whether an unknown client from this source gets no permit."""
        return self._lanes[False].is_full(source)

    def stop(self) -> None:
        """Let the threads end after their current work."""
        self._threads.shutdown(wait=False)
