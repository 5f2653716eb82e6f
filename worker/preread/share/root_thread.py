"""Thread of one root, so that a share that hangs stops nothing but itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from preread.core.backoff import Backoff
from preread.core.errors import DatabaseAway, ShareDown, ShareStalled
from preread.ledger.ledger import Ledger
from preread.share.root_monitor import MonitorHooks, MonitorOptions, RootMonitor

_LOG = logging.getLogger(__name__)
STALL_S = 15.0
"""A share on which one call takes so many seconds counts as down."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class RootThread(threading.Thread):
    """Thread that monitors one root.

    A daemon thread: one that hangs on a dead share does not keep the process.

    Args:
        notify: called when files became READY, and when the thread failed.

    Attributes:
        failure: what ended the thread, if anything did.
    """

    def __init__(
        self, root: bytes, root_id: int, ledger: Ledger, options: MonitorOptions, notify: Callable[[], None]
    ) -> None:
        super().__init__(name=f"root-{root_id}", daemon=True)
        self.failure: BaseException | None = None
        self._notify = notify
        self._ticks = self._ticks_reported = 0
        self._call: tuple[int, float] | None = None
        self._stalled: ShareStalled | None = None
        self._wake = threading.Event()
        self._ended = threading.Event()
        self.monitor = RootMonitor(root, root_id, ledger, options, MonitorHooks(self._wake.set, notify))

    def run(self) -> None:
        """Monitor the root, step by step, until ``request_stop``."""
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        try:
            while not self._ended.is_set():
                self._wake.clear()
                try:
                    delay_s = self.monitor.run_step(time.monotonic())
                except DatabaseAway:
                    # the main thread logs it; the folder keeps what is in it meanwhile
                    self._ended.wait(backoff.next_s())
                    continue
                backoff.reset()
                self._ticks += 1
                if delay_s > 0:
                    self._wake.wait(delay_s)
            self.monitor.stop_watching()
        except BaseException as error:  # noqa: BLE001  the main thread ends the worker with it
            self.failure = error
            self._notify()

    def check_share(self, now: float) -> ShareDown | None:
        """Return the error that keeps the root from being read, or ``None``.

        For the main thread, at every turn.

        Args:
            now: monotonic seconds.
        """
        number = self.monitor.unanswered_call
        if number is None or self._call is None or self._call[0] != number:
            self._call = None if number is None else (number, now)
            if self._stalled is not None:
                self._stalled = None
                _LOG.info("share_answers", extra={"root_id": self.monitor.root_id})
        elif self._stalled is None and now - self._call[1] >= STALL_S:
            self._stalled = ShareStalled(
                f"the share has not answered for {now - self._call[1]:.0f} s; the limit is {STALL_S:g} s"
            )
            _LOG.warning("share_stalled", extra={"root_id": self.monitor.root_id, "code": self._stalled.code})
        return self._stalled or self.monitor.share_down

    def has_progressed(self) -> bool:
        """Return whether the monitor made a step since the last call."""
        before, self._ticks_reported = self._ticks_reported, self._ticks
        return self._ticks_reported != before

    def request_stop(self) -> None:
        """Request the end of the thread; it may hang in the kernel."""
        self._ended.set()
        self._wake.set()
