"""Telling systemd that the program is ready, still at work, and stopping: ``sd_notify(3)`` without its library.

The beat comes from what does the work, never from a thread of its own: what hangs falls silent, and systemd starts it
anew. Where no systemd asked for it, nothing is sent.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

_LOG = logging.getLogger(__name__)
_BEATS_A_PERIOD = 4
_SOCKET, _PERIOD, _PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class Notifier:
    """One line to systemd.

    Args:
        address: of its datagram socket; ``None`` sends nothing.
        watchdog_s: after so many seconds without a beat systemd ends the program; ``None``: it expects none.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self.beat_s = None if watchdog_s is None or address is None else watchdog_s / _BEATS_A_PERIOD
        self._next_beat_at = float("-inf")
        self._is_ready = False

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Take what systemd set out of the environment: child processes have nothing to tell it."""
        address, period, pid = (environ.pop(name, "") for name in (_SOCKET, _PERIOD, _PID))
        expected = period.isdecimal() and pid in {"", str(os.getpid())}
        return cls(address or None, int(period) / 1e6 if expected else None)

    def ready(self) -> None:
        """Say that the program does its work; said once, however often it is called."""
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1")

    def beat(self) -> None:
        """Say that the work went on; called at every turn, sent as often as needed."""
        now = time.monotonic()
        if self.beat_s is not None and now >= self._next_beat_at:
            self._next_beat_at = now + self.beat_s
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the program is about to end."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.settimeout(1.0)
                line.sendto(message.encode(), self._address)
        except OSError as error:
            _LOG.warning("notify_failed", extra={"errno": error.errno})


SILENT = Notifier()
"""For programs that nobody waits for."""
