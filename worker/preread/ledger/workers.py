"""Which workers there are and whether they live: transaction bodies behind ``Ledger.heartbeat`` and ``Ledger.stop``.

A worker writes into its row, and into those of its roots, every few seconds; what nobody has written for a while is
what ``preread.monitoring.health`` tells of.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from preread.core.types import FileState
from preread.db import schema
from preread.ledger.discovery import insert_or_skip
from preread.ledger.processes import process_token, this_host
from preread.ledger.records import Pulse
from preread.ledger.registry import note_pulse


def heartbeat(connection: Connection, now: datetime, worker_id: str, pulse: Pulse | None) -> None:
    """See ``Ledger.heartbeat``."""
    c = schema.worker.c
    said: schema.Row = {"heartbeat_at": now, "stopped_at": None}
    if pulse is not None:
        said |= {
            "scan_interval_s": pulse.scan_interval_s,
            "slots": pulse.slots,
            "slots_alive": pulse.slots_alive,
            "watcher_restarts": pulse.watcher_restarts,
            "slots_lack": " ".join(pulse.slots_lack) or None,
        }
        more = func.coalesce(c.watcher_restarts, 0) < pulse.watcher_restarts
        connection.execute(update(schema.worker).where(c.id == worker_id, more).values(watcher_restarted_at=now))
        if pulse.previews_dropped:
            first = c.previews_dropped_since.is_(None)
            connection.execute(update(schema.worker).where(c.id == worker_id, first).values(previews_dropped_since=now))
        else:
            said["previews_dropped_since"] = None
    if not connection.execute(update(schema.worker).where(c.id == worker_id).values(**said)).rowcount:
        row: schema.Row = {
            "id": worker_id,
            "host": this_host(),
            "pid": os.getpid(),
            "process_token": process_token(os.getpid()) or "",
            "program_version": _program_version(),
            "started_at": now,
        }
        insert_or_skip(connection, schema.worker, [row | said])
    for root in () if pulse is None else pulse.roots:
        note_pulse(connection, now, worker_id, root)


def _program_version() -> str:
    try:
        return version("preread")
    except PackageNotFoundError:  # run from a folder without being installed
        return "unknown"


def stop(connection: Connection, now: datetime, worker_id: str) -> None:
    """See ``Ledger.stop``."""
    connection.execute(update(schema.worker).where(schema.worker.c.id == worker_id).values(stopped_at=now))


def runs(row: Row[Any]) -> bool:
    """Tell of a row of ``worker`` whether it may still run: not stopped and, if it is of this host, a live process."""
    if row.stopped_at is not None:
        return False
    elsewhere: bool = row.host != this_host()
    return elsewhere or process_token(row.pid) == row.process_token


def is_silent(row: Row[Any], now: datetime, patience: timedelta) -> bool:
    """Tell whether a worker wrote nothing for longer than ``patience``."""
    return bool(row.heartbeat_at < now - patience)


def dead_owners(connection: Connection) -> list[str]:
    """Return the workers that hold claims although they stopped or, on this host, no longer run."""
    holders = select(schema.file.c.owner).where(schema.file.c.state == FileState.CLAIMED).distinct()
    found = connection.execute(select(schema.worker).where(schema.worker.c.id.in_(holders)))
    return [row.id for row in found if not runs(row)]
