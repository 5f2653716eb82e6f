"""Each root has a thread of its own, so that a share that hangs stops nothing but itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from preread.core.errors import DatabaseAway, ShareDown, ShareStalled
from preread.ledger.ledger import Ledger
from preread.share.root_monitor import Inbox, InboxOptions

_LOG = logging.getLogger(__name__)
STALL_S = 15.0
"""A share that leaves one question unanswered for so long counts as down."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class RootThread(threading.Thread):
    """Ticks one inbox. A daemon thread: one that hangs on a dead share does not keep the process.

    Args:
        notify: called when files became READY, and when the thread failed.

    Attributes:
        failure: what ended the thread, if anything did.
    """

    def __init__(
        self, root: bytes, root_id: int, ledger: Ledger, options: InboxOptions, notify: Callable[[], None]
    ) -> None:
        super().__init__(name=f"root-{root_id}", daemon=True)
        self.failure: BaseException | None = None
        self._notify = notify
        self._ticks = self._ticks_told = 0
        self._question: tuple[int, float] | None = None
        self._stalled: ShareStalled | None = None
        self._wake = threading.Event()
        self._ended = threading.Event()
        self.inbox = Inbox(root, root_id, ledger, options, wake=self._wake.set, on_settled=notify)

    def run(self) -> None:
        """Tick until ``stop``."""
        pause_s = _FIRST_PAUSE_S
        try:
            while not self._ended.is_set():
                self._wake.clear()
                try:
                    delay_s = self.inbox.tick(time.monotonic())
                except DatabaseAway:
                    # the main thread tells of it; the folder keeps what is in it meanwhile
                    self._ended.wait(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                    continue
                pause_s = _FIRST_PAUSE_S
                self._ticks += 1
                if delay_s > 0:
                    self._wake.wait(delay_s)
            self.inbox.stop()
        except BaseException as error:  # noqa: BLE001  the main thread ends the worker with it
            self.failure = error
            self._notify()

    def down(self, now: float) -> ShareDown | None:
        """Say why the root cannot be read now; ``None`` when it can. For the main thread, at every turn.

        Args:
            now: monotonic seconds.
        """
        number = self.inbox.unanswered
        if number is None or self._question is None or self._question[0] != number:
            self._question = None if number is None else (number, now)
            if self._stalled is not None:
                self._stalled = None
                _LOG.info("share_answers", extra={"root_id": self.inbox.root_id})
        elif self._stalled is None and now - self._question[1] >= STALL_S:
            self._stalled = ShareStalled(f"the share has not answered for {STALL_S:g} s")
            _LOG.warning("share_stalled", extra={"root_id": self.inbox.root_id, "code": self._stalled.code})
        return self._stalled or self.inbox.share_down

    def moved(self) -> bool:
        """Say whether the look at the root went on since the last call. For the main thread."""
        before, self._ticks_told = self._ticks_told, self._ticks
        return self._ticks_told != before

    def stop(self) -> None:
        """Ask the thread to end; it may hang in the kernel and not do so."""
        self._ended.set()
        self._wake.set()
