"""What ``GET /metrics`` answers: the worker's own counters, and beside them what the database says.

Imported only where it is served: Prometheus's client takes a while to load.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine

from preread.monitoring import database_metrics, drift
from preread.monitoring.database_metrics import Figures
from preread.monitoring.http_server import ANSWER_WITHIN_S, Prober
from preread.runner.counters import Meters

_FIGURES_FRESH_S = 15.0
_DRIFT_FRESH_S = 600.0
_DRIFT_KEPT_S = 7200.0


class Metrics:
    """What ``GET /metrics`` answers: the worker's own counters, and what the database says beside them.

    Args:
        look: reads the figures; see ``figures.look``.
        engine: for drift.
    """

    def __init__(self, meters: Meters, look: Callable[[], Figures], engine: Engine) -> None:
        self._meters = meters
        self._figures = Prober(
            "metrics", look, database_metrics.unavailable, fresh_s=_FIGURES_FRESH_S, within_s=ANSWER_WITHIN_S
        )
        # days of films take a while: whoever asks first gets none yet
        self._drift: Prober[tuple[drift.Shift, ...]] = Prober(
            "drift",
            lambda: drift.shifts(engine),
            lambda _: (),
            fresh_s=_DRIFT_FRESH_S,
            kept_s=_DRIFT_KEPT_S,
            within_s=0.0,
        )

    def start(self) -> None:
        self._figures.start()
        self._drift.start()

    def text(self) -> bytes:
        """Return all metrics, fifteen seconds old at most."""
        return database_metrics.exposed(self._meters, self._figures.ask(), self._drift.ask())

    def end(self) -> None:
        self._figures.end()
        self._drift.end()
