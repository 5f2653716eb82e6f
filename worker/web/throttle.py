"""A brake on sign-ins by address, beside the one by account: many names tried from one place."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

FAILURES_AT_MOST = 30
WINDOW_S = 300.0
_ADDRESSES_AT_MOST = 10_000


class Throttle:
    """Counts failures by address, in memory and within bounds.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def is_open(self, address: str) -> bool:
        """Tell whether this address may try."""
        with self._lock:
            since, failures = self._failures.get(address, (0.0, 0))
            return failures < FAILURES_AT_MOST or self._clock() - since > WINDOW_S

    def failed(self, address: str) -> None:
        """Note a failure."""
        with self._lock:
            now = self._clock()
            since, failures = self._failures.pop(address, (now, 0))
            self._failures[address] = (now, 1) if now - since > WINDOW_S else (since, failures + 1)
            while len(self._failures) > _ADDRESSES_AT_MOST:
                self._failures.popitem(last=False)
