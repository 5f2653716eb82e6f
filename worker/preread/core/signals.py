"""What the main thread waits for: other threads, signals, and times at which something is due."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Self


class WakePipe:
    """Lets other threads and signals interrupt the main thread's waiting, through a pipe that it selects on."""

    def __enter__(self) -> Self:
        self.fd, self._writer = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._writer, False)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        os.close(self._writer)

    def set(self) -> None:
        """Wake it."""
        with contextlib.suppress(OSError):  # full: it wakes anyway; closed: the run is over
            os.write(self._writer, b"!")

    def clear(self) -> bool:
        """Return whether it was woken since the last call."""
        woken = False
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                woken = True
        return woken


class Signals:
    """SIGTERM, SIGINT and, unless it is ignored (nohup), SIGHUP: the first asks to finish, the second to hurry."""

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
    """Says when something is due that is done every so often."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._at = float("-inf")

    def due(self, now: float) -> bool:
        """Return whether it is time (monotonic seconds); then the next period begins."""
        if now < self._at:
            return False
        self._at = now + self._period_s
        return True
