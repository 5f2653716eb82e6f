"""Where passwords are looked at: threads of their own, few places, and a short queue.

A hash costs 64 MiB and a core. Browsers that somebody signed in with before have a place of their own, so that a crowd
of strangers does not keep them waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from preread.web.limits.work_slots import Places

T = TypeVar("T")

WAITING = 15
WAITING_IN_ALL = 30
_WITHIN_S = 20.0


class Hashing:
    """The threads of one site."""

    def __init__(self) -> None:
        lanes = {
            known: Places(at_once=1, each=1, waiting=WAITING, waiting_in_all=WAITING_IN_ALL, within_s=_WITHIN_S)
            for known in (False, True)
        }
        self._lanes = lanes
        self._threads = ThreadPoolExecutor(len(lanes), thread_name_prefix="hashing")

    async def run(self, work: Callable[[], T], *, known: bool, source: str) -> T:
        """Do work that hashes a password, once there is a place.

        Args:
            known: the browser is known, or somebody is signed in.
            source: among which places are shared: an address, or a name.

        Raises:
            NoPlaceError: too many wait.
        """
        async with self._lanes[known].place(source):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def is_full(self, source: str) -> bool:
        """Tell whether a stranger from there finds no place."""
        return self._lanes[False].is_full(source)

    def end(self) -> None:
        """Let the threads go when they have done what they do."""
        self._threads.shutdown(wait=False)
