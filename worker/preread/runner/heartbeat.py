"""What every process that claims films does now and then, watching or in a fleet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from preread.core.errors import DatabaseAway
from preread.core.signals import Timer
from preread.ledger.ledger import Ledger
from preread.ledger.records import Pulse
from preread.runner.dispatcher import Dispatcher

_LOG = logging.getLogger(__name__)
_HEARTBEAT_S = 5.0
_RECOVER_S = 10.0


class Housekeeping:
    """Says that the process lives, extends its leases, gives back what dead workers held, each in its time."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._heartbeat = Timer(min(_HEARTBEAT_S, ledger.lease_s / 4))
        self._renew = Timer(ledger.lease_s / 4)
        self._recover = Timer(_RECOVER_S)

    def keep(self, dispatcher: Dispatcher | None, pulse: Callable[[], Pulse | None] = lambda: None) -> None:
        """Do what is due; while the database is away, nothing.

        Args:
            dispatcher: of the films in hand; hears that the database is away. ``None`` between two shards.
            pulse: what the heartbeat says.
        """
        if dispatcher is not None and dispatcher.away_since is not None:
            return
        now = time.monotonic()
        try:
            if self._heartbeat.due(now):
                self._ledger.heartbeat(pulse())
            if dispatcher is not None and self._renew.due(now):
                dispatcher.renew()
            if self._recover.due(now) and (count := self._ledger.recover_interrupted()):
                _LOG.warning("claims_recovered", extra={"count": count})
                if dispatcher is not None:
                    dispatcher.work_appeared()
        except DatabaseAway as error:
            if dispatcher is not None:
                dispatcher.database_failed(error)
            else:
                _LOG.warning("database_away", extra={"code": error.code})
