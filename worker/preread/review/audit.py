"""The audit trail: who did what, by ids alone, each entry chained to the one before by its hash.

An entry that is changed, removed or put in shows in the chain. The hash is keyed (``audit_key``), and the entry carries
a keyed digest of the row that it is about (a reading, a viewing, an account), which ``proof`` compares with what is
there. What remains is cutting entries off the end: against that the head goes to the system log, every ``TOLD_EVERY``
entries and daily, and ``verify`` takes heads to look for. Entries of version 0.1.0 are chained without a key.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from logging.handlers import SysLogHandler
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, insert, select

from preread.core.errors import AuditBroken, AuditKeyMissing
from preread.db import audit_key
from preread.db.audit_key import Key, Keyring, present
from preread.db.engine import database_now, read
from preread.db.review_schema import account, audit

_LOG = logging.getLogger(__name__)
_START = "0" * 64
_CHAIN_LOCK = 0x7072_6561_6422  # any number that no other program locks
_PAGE = 5_000
_SYSTEM_LOG_S = 1.0
TOLD_EVERY = 100
ACCEPTS = ":accepts:"
_TRANSACTION = "preread_audit_transaction"
SYSTEM_LOG = "/dev/log"
# What changes at every sign-in, and says nothing of what an account may do.
_VOLATILE = frozenset({"failures", "not_before"})


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
    KEY = "key"
    USER_KNOWN = "user_known"
    READING_KNOWN = "reading_known"
    FORGOTTEN = "forgotten"
    VOUCHED = "vouched"


@dataclass(frozen=True, slots=True)
class Head:
    """The last row of the chain.

    Attributes:
        rows: how many there are, which is the last one's number.
        hash: of the last one; zeros while there is none.
        key_id: of the key that it was made with.
    """

    rows: int
    hash: str
    key_id: str | None = None

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


@dataclass(frozen=True, slots=True)
class Content:
    """The row that an entry is about, as it is in the database then; ``kind`` is its table."""

    kind: str
    row: Mapping[str, Any]

    def digest(self, key: Key) -> str:
        """Return the keyed digest of all its columns."""
        return key.digest(self.kind, present(self.row))


def of_account(row: Row[Any]) -> Content:
    """Return what an entry about an account covers: all but what sign-ins change."""
    kept = {name: value for name, value in row._asdict().items() if name not in _VOLATILE}
    return Content(account.name, kept)


def append(connection: Connection, actor: str, action: Action, of: str, content: Content | None = None) -> None:
    """Put one event on record, in the transaction of what it records.

    Args:
        actor: ``account:3``, or ``uid:1000`` for a user of the shell.
        of: what it was about, by kind and id: ``film:17``. Never a name.
        content: the row that it made or changed.
    """
    if connection.dialect.name == "postgresql":
        # two transactions must not chain to the same row; SQLite's writers are one at a time anyway
        connection.execute(select(func.pg_advisory_xact_lock(_CHAIN_LOCK)))
    last = head_of(connection)
    _tell_now_and_then(connection, last)
    key = audit_key.of(connection).current(connection)
    if key is not None and last.key_id != key.key_id:
        last = begin_key(connection, actor, key, last)
    _put(connection, key, last, actor, action, of, content)


def append_all(connection: Connection, actor: str, action: Action, of: Iterable[tuple[str, Content | None]]) -> None:
    """Put several events of one kind on record, as ``append`` does."""
    for what, content in of:
        append(connection, actor, action, what, content)


def begin_key(connection: Connection, actor: str, key: Key, last: Head, *, anew: bool = False) -> Head:
    """Chain the first entry of a key to whatever stands before it; return the head.

    With the first key of all, the accounts that are there are taken as they are.

    Args:
        anew: take everything as it is again: what was written without a key, or under one that was lost.
    """
    first = connection.execute(select(audit.c.id).where(audit.c.key_id.is_not(None)).limit(1)).first() is None
    of = f"key:{key.key_id}" + (f"{ACCEPTS}{last.rows}" if anew else "")
    last = _put(connection, key, last, actor, Action.KEY, of)
    for row in connection.execute(select(account).order_by(account.c.id)).all() if first or anew else ():
        last = _put(connection, key, last, actor, Action.USER_KNOWN, f"account:{row.id}", of_account(row))
    return last


def _put(
    connection: Connection,
    key: Key | None,
    last: Head,
    actor: str,
    action: Action,
    of: str,
    content: Content | None = None,
) -> Head:
    row: dict[str, Any] = {
        "id": last.rows + 1,
        "at": database_now(connection),
        "actor": actor,
        "action": action.value,
        "object": of,
        "previous_hash": last.hash,
        "key_id": None if key is None else key.key_id,
        "content": None if key is None or content is None else content.digest(key),
    }
    row["hash"] = _hash(key, row)
    connection.execute(insert(audit), row)
    return Head(row["id"], row["hash"], row["key_id"])


def head(engine: Engine) -> Head:
    """Return the end of the chain."""
    return read(engine, head_of)


@dataclass(slots=True)
class Chain:
    """What following the chain found.

    Attributes:
        head: its end.
        keyed: entries that were made with a key.
        unproven: ranges of entries behind the first of these that were made without a key, or with one that is not
            here, and that nobody has accepted since.
    """

    head: Head
    keyed: int
    unproven: list[tuple[int, int]]


def verify(
    engine: Engine,
    known: Iterable[Head] = (),
    each: Callable[[Row[Any]], None] = lambda _: None,
    *,
    keys: Keyring | None = None,
) -> Chain:
    """Follow the whole chain.

    Args:
        known: heads that were written down before, which the chain must still hold.
        each: called with every entry, in their order.
        keys: those of another database, of which this one is a copy.

    Raises:
        AuditBroken: an entry was changed, removed or put in, or the chain no longer holds a head that is known.
        AuditKeyMissing: there are keyed entries, and no key.
    """
    heads = {one.rows: one.hash for one in known}
    of_chain = (keys or audit_key.of(engine)).keys()
    last, found = Head(0, _START), Chain(Head(0, _START), 0, [])
    accepted = 0
    while rows := read(engine, lambda connection, after=last.rows: _after(connection, after)):  # type: ignore[misc]
        for row in rows:
            if row.id != last.rows + 1:
                raise AuditBroken(f"after row {last.rows} of the audit trail comes row {row.id}")
            key = None if row.key_id is None else of_chain.get(row.key_id)
            if row.key_id is not None and not of_chain:
                raise AuditKeyMissing
            proven = key is not None or (row.key_id is None and found.keyed == 0)
            own = proven or row.key_id is None
            if row.previous_hash != last.hash or (own and row.hash != _hash(key, row._asdict())):
                raise AuditBroken(f"row {row.id} of the audit trail is not what was written")
            last = Head(row.id, row.hash, row.key_id)
            if heads.get(row.id, row.hash) != row.hash:
                raise AuditBroken(f"row {row.id} of the audit trail has not the hash that was written down")
            found.keyed += row.key_id is not None
            if not proven:
                _note(found.unproven, row.id)
            elif key is not None and row.action == Action.KEY and ACCEPTS in row.object:
                accepted = int(row.object.rpartition(":")[2])
            each(row)
    beyond = max(heads, default=0)
    if beyond > last.rows:
        raise AuditBroken(f"the audit trail ends at row {last.rows}, and a head of row {beyond} was written down")
    if of_chain and not found.keyed and read(engine, audit_key.in_use) is not None:
        raise AuditBroken("there is a key of the audit trail, and no row that was made with one")
    found.head = last
    found.unproven = [(max(start, accepted + 1), end) for start, end in found.unproven if end > accepted]
    return found


def _note(ranges: list[tuple[int, int]], number: int) -> None:
    if ranges and ranges[-1][1] == number - 1:
        ranges[-1] = (ranges[-1][0], number)
    else:
        ranges.append((number, number))


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
    _tell(last, system_log)
    return last


def _tell(last: Head, system_log: str) -> None:
    with closing(_SystemLog(system_log, SysLogHandler.LOG_AUTH)) as log:
        if log.socket.fileno() >= 0:  # else there is none, which sending says
            log.socket.settimeout(_SYSTEM_LOG_S)
        key = "" if last.key_id is None else f" key {last.key_id}"
        log.handle(logging.makeLogRecord({"levelname": "NOTICE", "msg": f"audit head {last}{key}"}))


def _tell_now_and_then(connection: Connection, last: Head) -> None:
    """Write the head to the system log when so many entries came since; it must be committed already."""
    transaction = connection.get_transaction()
    began = connection.info.get(_TRANSACTION) is not transaction
    connection.info[_TRANSACTION] = transaction
    keyring = audit_key.of(connection)
    told = last.rows - 1 if keyring.told is None else keyring.told
    if not began or last.rows // TOLD_EVERY == told // TOLD_EVERY:
        return
    keyring.told = last.rows
    try:
        _tell(last, SYSTEM_LOG)
    except OSError as error:
        # where there is none, our own log is what leaves this machine
        _LOG.info("audit_head", extra={"audit_head": str(last), "errno": error.errno})


class _SystemLog(SysLogHandler):
    ident = "preread: "
    socket: socket.socket  # which the base class opens

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  named by logging
        """Let the failure out, which is being handled."""
        raise  # noqa: PLE0704

    def mapPriority(self, levelName: str) -> str:  # noqa: N802, N803  named by logging
        return levelName.lower()


def head_of(connection: Connection) -> Head:
    """Return the end of the chain."""
    c = audit.c
    row = connection.execute(select(c.id, c.hash, c.key_id).order_by(c.id.desc()).limit(1)).one_or_none()
    return Head(0, _START) if row is None else Head(row.id, row.hash, row.key_id)


def _after(connection: Connection, number: int) -> list[Row[Any]]:
    c = audit.c
    return list(connection.execute(select(audit).where(c.id > number).order_by(c.id).limit(_PAGE)))


def _hash(key: Key | None, row: Mapping[str, Any]) -> str:
    at = row["at"].isoformat(timespec="microseconds")
    written = [row["id"], at, row["actor"], row["action"], row["object"], row["previous_hash"]]
    if key is None:
        # as version 0.1.0 wrote it
        return hashlib.sha256(json.dumps(written).encode()).hexdigest()
    return key.digest("entry", [*written, row["content"]])
