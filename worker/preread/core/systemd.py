"""Client of ``sd_notify(3)``: ready, watchdog and stopping notifications.

The watchdog notification is sent by the thread that does the work and not by one of its own, so that systemd restarts a
program that hangs. Without systemd nothing is sent.
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
    """Sender of notifications to systemd.

    Args:
        address: of systemd's datagram socket; ``None`` sends nothing.
        watchdog_s: seconds without a watchdog notification after which systemd restarts the program; ``None`` if it
            expects none.

    Attributes:
        beat_s: seconds between two watchdog notifications; ``None`` if none are sent.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self.beat_s = None if watchdog_s is None or address is None else watchdog_s / _BEATS_A_PERIOD
        self._next_beat_at = float("-inf")
        self._is_ready = False

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Create a notifier from the variables of systemd, and remove them.

        Args:
            environ: the environment; without the variables, child processes do not notify systemd.
        """
        address, period, pid = (environ.pop(name, "") for name in (_SOCKET, _PERIOD, _PID))
        expected = period.isdecimal() and pid in {"", str(os.getpid())}
        return cls(address or None, int(period) / 1e6 if expected else None)

    def ready(self) -> None:
        """Notify systemd that the program is ready; sent once."""
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1")

    def beat(self) -> None:
        """Notify systemd's watchdog; sent at most four times in its period."""
        now = time.monotonic()
        if self.beat_s is not None and now >= self._next_beat_at:
            self._next_beat_at = now + self.beat_s
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Notify systemd that the program is stopping."""
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
"""A notifier that sends nothing."""
