"""How current the database is, for people who rely on it: the last complete scan, what waits, whether Preread runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, func, select

from worker import schema
from worker.domain import OPEN_STATES
from worker.store import database_now, read

_SILENT_AFTER_S = 30.0
_root, _worker, _file = schema.root.c, schema.worker.c, schema.file.c


@dataclass(frozen=True, slots=True)
class Freshness:
    """What a page says of itself.

    Attributes:
        scanned_at: when the least recent last scan of the watched folders was complete; ``None`` before the first.
        waiting: films without a result yet.
        running: some worker gave a sign of life lately.
        late: no worker runs, or the last complete scan is older than two scan intervals: do not rely on the list.
    """

    at: datetime
    scanned_at: datetime | None
    waiting: int
    running: bool
    late: bool


def look(engine: Engine, scan_interval_s: float) -> Freshness:
    """Look how current the database is; ``scan_interval_s`` is the worker's setting."""
    return read(engine, lambda connection: _look(connection, scan_interval_s))


def _look(connection: Connection, scan_interval_s: float) -> Freshness:
    now = database_now(connection)
    patience = timedelta(seconds=2 * scan_interval_s)
    silent = timedelta(seconds=max(_SILENT_AFTER_S, 2 * scan_interval_s))
    started_at = connection.execute(
        select(func.min(_worker.started_at)).where(_worker.stopped_at.is_(None), _worker.heartbeat_at >= now - silent)
    ).scalar()
    scans = select(_root.last_scan_completed_at).where(_root.last_scan_started_at.is_not(None))
    if started_at is not None:
        # a folder that no running worker has begun to scan is watched no longer
        scans = scans.where(_root.last_scan_started_at >= started_at)
    completed: list[datetime | None] = list(connection.execute(scans).scalars())
    complete = [at for at in completed if at is not None]
    scanned_at = min(complete) if complete and len(complete) == len(completed) else None
    open_films = select(func.count()).where(_file.state.in_(list(OPEN_STATES)))
    return Freshness(
        at=now,
        scanned_at=scanned_at,
        waiting=connection.execute(open_films).scalar_one(),
        running=started_at is not None,
        late=started_at is None or scanned_at is None or scanned_at < now - patience,
    )
