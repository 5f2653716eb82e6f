"""The audit trail: who did what, by ids alone, each row chained to the one before by its hash.

A row that is changed, removed or put in shows in the chain. Whoever can rewrite the whole table could forge a new one;
against that its head goes to the system log daily (``log_head``), and ``verify`` takes a head to look for.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from logging.handlers import SysLogHandler
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, insert, select

from worker.errors import AuditBroken
from worker.review_schema import audit
from worker.store import database_now, read

_START = "0" * 64
_CHAIN_LOCK = 0x7072_6561_6422  # any number that no other program locks
_PAGE = 5_000
SYSTEM_LOG = "/dev/log"


class Action(StrEnum):
    """What is put on record."""

    SIGN_IN = "sign_in"
    SIGN_IN_FAILED = "sign_in_failed"
    SIGN_OUT = "sign_out"
    SESSIONS_ENDED = "sessions_ended"
    SEARCH = "search"
    VIEW = "view"
    REVEAL = "reveal"
    READING = "reading"
    EXPORT = "export"
    USER_ADDED = "user_added"
    USER_PASSWORD = "user_password"  # noqa: S105  the event's name
    USER_DISABLED = "user_disabled"
    USER_OPTIONS = "user_options"
    BUNDLE_CHOSEN = "bundle_chosen"
    BUNDLE_WITHDRAWN = "bundle_withdrawn"
    PURGE = "purge"
    EXPORT_PATIENT = "export_patient"


@dataclass(frozen=True, slots=True)
class Head:
    """The last row of the chain.

    Attributes:
        rows: how many there are, which is the last one's number.
        hash: of the last one; zeros while there is none.
    """

    rows: int
    hash: str

    def __str__(self) -> str:
        return f"{self.rows}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, as people may see it."""

    number: int
    at: datetime
    actor: str
    action: str
    object: str


def append(connection: Connection, actor: str, action: Action, of: str) -> None:
    """Put one event on record, in the transaction of what it records.

    Args:
        actor: ``account:3``, or ``uid:1000`` for a user of the shell.
        of: what it was about, by kind and id: ``film:17``. Never a name.
    """
    if connection.dialect.name == "postgresql":
        # two transactions must not chain to the same row; SQLite's writers are one at a time anyway
        connection.execute(select(func.pg_advisory_xact_lock(_CHAIN_LOCK)))
    last = _head(connection)
    row: dict[str, Any] = {
        "id": last.rows + 1,
        "at": database_now(connection),
        "actor": actor,
        "action": action.value,
        "object": of,
        "previous_hash": last.hash,
    }
    connection.execute(insert(audit), row | {"hash": _hash(**row)})


def head(engine: Engine) -> Head:
    """Return the end of the chain."""
    return read(engine, _head)


def verify(engine: Engine, known: Head | None = None) -> Head:
    """Follow the whole chain.

    Args:
        known: a head that was written down before, which the chain must still hold.

    Returns:
        The head.

    Raises:
        AuditBroken: a row was changed, removed or put in, or the chain no longer holds the head that is known.
    """
    last = Head(0, _START)
    while rows := read(engine, lambda connection, after=last.rows: _after(connection, after)):  # type: ignore[misc]
        for row in rows:
            values = {name: getattr(row, name) for name in ("id", "at", "actor", "action", "object", "previous_hash")}
            if row.id != last.rows + 1:
                raise AuditBroken(f"after row {last.rows} of the audit trail comes row {row.id}")
            if row.previous_hash != last.hash or row.hash != _hash(**values):
                raise AuditBroken(f"row {row.id} of the audit trail is not what was written")
            last = Head(row.id, row.hash)
            if known is not None and known.rows == row.id and known.hash != row.hash:
                raise AuditBroken(f"row {row.id} of the audit trail has not the hash that was written down")
    if known is not None and known.rows > last.rows:
        raise AuditBroken(f"the audit trail ends at row {last.rows}, and a head of row {known.rows} was written down")
    return last


def latest(engine: Engine, limit: int, before: int | None = None) -> list[Entry]:
    """Return events, the last first; ``before`` is the number of the last one of the page before."""
    c = audit.c
    statement = select(audit).order_by(c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(c.id < before)
    rows = read(engine, lambda connection: connection.execute(statement).all())
    return [Entry(row.id, row.at, row.actor, row.action, row.object) for row in rows]


def log_head(engine: Engine, system_log: str = SYSTEM_LOG) -> Head:
    """Write the head of the chain to the system log, where whoever rewrites the table does not reach it.

    Args:
        system_log: the socket on which it listens.

    Raises:
        OSError: there is none.
    """
    last = head(engine)
    with closing(_SystemLog(system_log, SysLogHandler.LOG_AUTH)) as log:
        log.handle(logging.makeLogRecord({"levelname": "NOTICE", "msg": f"audit head {last}"}))
    return last


class _SystemLog(SysLogHandler):
    ident = "preread: "

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  named by logging
        """Let the failure out, which is being handled."""
        raise  # noqa: PLE0704

    def mapPriority(self, levelName: str) -> str:  # noqa: N802, N803  named by logging
        return levelName.lower()


def _head(connection: Connection) -> Head:
    c = audit.c
    row = connection.execute(select(c.id, c.hash).order_by(c.id.desc()).limit(1)).one_or_none()
    return Head(0, _START) if row is None else Head(row.id, row.hash)


def _after(connection: Connection, number: int) -> list[Row[Any]]:
    c = audit.c
    return list(connection.execute(select(audit).where(c.id > number).order_by(c.id).limit(_PAGE)))


def _hash(*, id: int, at: datetime, actor: str, action: str, object: str, previous_hash: str) -> str:  # noqa: A002
    written = json.dumps([id, at.isoformat(timespec="microseconds"), actor, action, object, previous_hash])
    return hashlib.sha256(written.encode()).hexdigest()
