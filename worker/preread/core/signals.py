"""Wake-up pipe, signal handling and interval timer of the main loop."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Self


class WakePipe:
    """Pipe that wakes the main thread from other threads and signal handlers.

    Attributes:
        fd: descriptor to select on.
    """

    def __enter__(self) -> Self:
        self.fd, self._writer = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._writer, False)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        os.close(self._writer)

    def set(self) -> None:
        """Wake the main thread through its pipe."""
        with contextlib.suppress(OSError):  # full: it wakes anyway; closed: the run has ended
            os.write(self._writer, b"!")

    def clear(self) -> bool:
        """Return whether the main thread was woken since the last call."""
        woken = False
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                woken = True
        return woken


class Signals:
    """Handler of SIGTERM, SIGINT and, if not ignored (nohup), SIGHUP.

    The first signal requests an orderly end, the second an immediate one.

    Args:
        wake: called after each signal.

    Attributes:
        count: number of signals received.
        name: the last one, e.g. ``SIGTERM``; empty if there was none.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.count = 0
        self.name = ""
        self._wake = wake
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal itself returned

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.name = signal.Signals(number).name
        self._wake()


class Timer:
    """Interval timer of the main loop.

    Args:
        period_s: seconds between two times at which it is due; the first is at once.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._at = float("-inf")

    def due(self, now: float) -> bool:
        """Return whether the timer's period has elapsed; start the next one.

        Args:
            now: monotonic time in seconds.
        """
        if now < self._at:
            return False
        self._at = now + self._period_s
        return True
