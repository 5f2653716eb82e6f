"""Watched folders: transaction bodies behind ``Ledger``'s verbs about roots. See there for what each does."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, case, select, update

from preread.core.text.escaping import clean_text, display_path
from preread.core.types import Population
from preread.db import schema
from preread.ledger.discovery import insert_or_skip
from preread.ledger.records import RootPulse
from preread.ledger.transitions import absolute, path_key


def register_root(
    connection: Connection, now: datetime, path: bytes, population: Population, path_pattern: str | None
) -> int:
    """See ``Ledger.register_root``."""
    path = absolute(path)
    columns = schema.root.c
    insert_or_skip(
        connection,
        schema.root,
        [
            {
                "path": path,
                "path_key": path_key(path),
                "path_text": display_path(path),
                "population": population,
                "path_pattern": path_pattern,
                "registered_at": now,
            }
        ],
    )
    return connection.execute(
        update(schema.root)
        .where(columns.path_key == path_key(path))
        .values(population=population, path_pattern=path_pattern)
        .returning(columns.id)
    ).scalar_one()


def scan_started(connection: Connection, now: datetime, root_id: int) -> bool:
    """See ``Ledger.scan_started``."""
    c = schema.root.c
    started = update(schema.root).where(c.id == root_id).values(last_scan_started_at=now)
    return connection.execute(started.returning(c.counted_at)).scalar_one() is None


def existing_counted(connection: Connection, now: datetime, root_id: int) -> None:
    """See ``Ledger.existing_counted``."""
    connection.execute(update(schema.root).where(schema.root.c.id == root_id).values(counted_at=now))


def scan_completed(connection: Connection, now: datetime, root_id: int, files_seen: int) -> None:
    """See ``Ledger.scan_completed``."""
    c = schema.root.c
    started_at: datetime | None = connection.execute(select(c.last_scan_started_at).where(c.id == root_id)).scalar_one()
    connection.execute(
        update(schema.root)
        .where(c.id == root_id)
        .values(
            last_scan_completed_at=now,
            last_scan_files=files_seen,
            last_scan_s=None if started_at is None else (now - started_at).total_seconds(),
        )
    )


def note_pulse(connection: Connection, now: datetime, worker_id: str, root: RootPulse) -> None:
    """Write down how a worker finds one of its roots."""
    c = schema.root.c
    values: dict[str, Any] = {"worker_id": worker_id}
    if root.moves:
        values["looked_at"] = now
    if root.fault is None:
        values |= {"fault_code": None, "fault": None, "fault_since": None}
    else:
        same = c.fault_code == root.fault.code
        values |= {
            "fault_code": root.fault.code,
            "fault": clean_text(str(root.fault)),
            "fault_since": case((same, c.fault_since), else_=now),
        }
    connection.execute(update(schema.root).where(c.id == root.root_id).values(**values))
