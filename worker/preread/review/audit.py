"""Audit trail: actions by id, each entry chained to the last by its hash.

A changed, removed or inserted entry breaks the chain. The hash is keyed (``audit_key``), and an entry carries a keyed
digest of the row it is about (review, viewing, account), which ``audit_proof`` compares with the database. Truncation
is detected by the head: it goes to the system log every ``TOLD_EVERY`` entries and daily, and ``verify`` accepts known
heads. Entries of version 0.1.0 are chained without a key.
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
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, insert, select

from preread.core.errors import AuditBroken, AuditKeyMissing
from preread.db import audit_key
from preread.db.audit_key import AuditKey, Keyring, columns_with_values
from preread.db.engine import database_now, read
from preread.db.review_schema import account, audit
from preread.db.statements import read_pages

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
    """Actions that the audit trail records; the values are stored."""

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
class AuditHead:
    """Number and hash of the last entry of the audit trail.

    Attributes:
        rows: number of entries, which is the id of the last one.
        hash: hash of the last entry in hexadecimal; zeros if there is none.
        key_id: id of the key of the last entry; ``None`` for an entry without a key.
    """

    rows: int
    hash: str
    key_id: str | None = None

    def __str__(self) -> str:
        return f"{self.rows}:{self.hash}"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry of the audit trail, as shown to people."""

    number: int
    at: datetime
    actor: str
    action: str
    object: str


@dataclass(frozen=True, slots=True)
class AuditedContent:
    """Row that an audit entry is about, as it was in the database then.

    Attributes:
        kind: its table.
        row: its columns.
    """

    kind: str
    row: Mapping[str, Any]

    def digest(self, key: AuditKey) -> str:
        """Return the keyed digest of all columns of the row."""
        return key.digest(self.kind, columns_with_values(self.row))


def account_content(row: Row[Any]) -> AuditedContent:
    """Return the columns of an account that the audit trail protects."""
    kept = {name: value for name, value in row._asdict().items() if name not in _VOLATILE}
    return AuditedContent(account.name, kept)


def append_entry(
    connection: Connection, actor: str, action: Action, subject: str, content: AuditedContent | None = None
) -> None:
    """Append an audit entry in the transaction of the action it records.

    Args:
        connection: transaction.
        actor: ``account:3``, or ``uid:1000`` for a user of the shell.
        action: the action.
        subject: kind and id of the object, such as ``film:17``; never a name.
        content: row that the action created or changed, or ``None``.
    """
    if connection.dialect.name == "postgresql":
        # two transactions must not chain to the same row; SQLite's writers are one at a time anyway
        connection.execute(select(func.pg_advisory_xact_lock(_CHAIN_LOCK)))
    last = select_audit_head(connection)
    _log_head_periodically(connection, last)
    key = audit_key.keyring_of(connection).current(connection)
    if key is not None and last.key_id != key.key_id:
        last = begin_audit_key(connection, actor, key, last)
    _put(connection, key, last, _Event(actor, action, subject, content))


def append_entries(
    connection: Connection, actor: str, action: Action, entries: Iterable[tuple[str, AuditedContent | None]]
) -> None:
    """Append entries of one action to the audit trail.

    Args:
        connection: transaction.
        actor: see ``append``.
        action: the action.
        entries: (subject, content) of each entry.
    """
    for subject, content in entries:
        append_entry(connection, actor, action, subject, content)


def begin_audit_key(
    connection: Connection, actor: str, key: AuditKey, last: AuditHead, *, anew: bool = False
) -> AuditHead:
    """Append the first audit entry made with a new key; return the new head.

    With the first key, existing accounts are recorded as they are.

    Args:
        connection: transaction.
        actor: see ``append``.
        key: the key.
        last: current head.
        anew: accept everything as it is: entries without a key, or with a lost key.
    """
    first = connection.execute(select(audit.c.id).where(audit.c.key_id.is_not(None)).limit(1)).first() is None
    subject = f"key:{key.key_id}" + (f"{ACCEPTS}{last.rows}" if anew else "")
    last = _put(connection, key, last, _Event(actor, Action.KEY, subject))
    for row in connection.execute(select(account).order_by(account.c.id)).all() if first or anew else ():
        event = _Event(actor, Action.USER_KNOWN, f"account:{row.id}", account_content(row))
        last = _put(connection, key, last, event)
    return last


@dataclass(frozen=True, slots=True)
class _Event:
    """Arguments of ``append``."""

    actor: str
    action: Action
    object: str
    content: AuditedContent | None = None


def _put(connection: Connection, key: AuditKey | None, last: AuditHead, event: _Event) -> AuditHead:
    """Insert the entry that follows ``last``, and return the new head."""
    row: dict[str, Any] = {
        "id": last.rows + 1,
        "at": database_now(connection),
        "actor": event.actor,
        "action": event.action.value,
        "object": event.object,
        "previous_hash": last.hash,
        "key_id": None if key is None else key.key_id,
        "content": None if key is None or event.content is None else event.content.digest(key),
    }
    row["hash"] = _hash(key, row)
    connection.execute(insert(audit), row)
    return AuditHead(row["id"], row["hash"], row["key_id"])


def read_audit_head(engine: Engine) -> AuditHead:
    """Return number and hash of the last entry of the audit trail."""
    return read(engine, select_audit_head)


@dataclass(slots=True)
class VerifiedChain:
    """Result of a verification of the audit trail's chain of hashes.

    Attributes:
        head: end of the chain.
        keyed: number of entries with a key.
        unproven: ranges of entry ids, after the first keyed entry, that have no key or a key that is missing and were
            not accepted since.
    """

    head: AuditHead
    keyed: int
    unproven: list[tuple[int, int]]


def verify_audit_chain(
    engine: Engine,
    known: Iterable[AuditHead] = (),
    on_entry: Callable[[Row[Any]], None] = lambda _: None,
    *,
    keys: Keyring | None = None,
) -> VerifiedChain:
    """Verify the chain of hashes of the whole audit trail.

    Args:
        engine: database.
        known: heads recorded earlier, which the chain must contain.
        on_entry: called with each entry in order.
        keys: keys of another database, if this one is a copy of it.

    Returns:
        The verified chain.

    Raises:
        AuditBroken: an entry was changed, removed or inserted, or a known head is missing.
        AuditKeyMissing: there are keyed entries, and no key.
    """
    heads = {head_.rows: head_.hash for head_ in known}
    keys_by_id = (keys or audit_key.keyring_of(engine)).keys()
    last, chain = AuditHead(0, _START), VerifiedChain(AuditHead(0, _START), 0, [])
    accepted = 0
    for rows in read_pages(engine, _after, attrgetter("id"), 0):
        for row in rows:
            if row.id != last.rows + 1:
                raise AuditBroken(f"entry {last.rows + 1} of the audit trail is missing: the next one is {row.id}")
            key = None if row.key_id is None else keys_by_id.get(row.key_id)
            if row.key_id is not None and not keys_by_id:
                raise AuditKeyMissing
            proven = key is not None or (row.key_id is None and chain.keyed == 0)
            verifiable = proven or row.key_id is None
            if row.previous_hash != last.hash or (verifiable and row.hash != _hash(key, row._asdict())):
                raise AuditBroken(f"entry {row.id} of the audit trail was changed after it was written")
            last = AuditHead(row.id, row.hash, row.key_id)
            if heads.get(row.id, row.hash) != row.hash:
                raise AuditBroken(f"entry {row.id} of the audit trail differs from the hash that was recorded earlier")
            chain.keyed += row.key_id is not None
            if not proven:
                _add_to_ranges(chain.unproven, row.id)
            elif key is not None and row.action == Action.KEY and ACCEPTS in row.object:
                accepted = int(row.object.rpartition(":")[2])
            on_entry(row)
    last_known = max(heads, default=0)
    if last_known > last.rows:
        raise AuditBroken(
            f"the audit trail ends at entry {last.rows}, but the hash of entry {last_known} was recorded earlier"
        )
    if keys_by_id and not chain.keyed and read(engine, audit_key.current_audit_key_id) is not None:
        raise AuditBroken("the database has a key of the audit trail, but no entry was made with it")
    chain.head = last
    chain.unproven = [(max(start, accepted + 1), end) for start, end in chain.unproven if end > accepted]
    return chain


def _add_to_ranges(ranges: list[tuple[int, int]], number: int) -> None:
    if ranges and ranges[-1][1] == number - 1:
        ranges[-1] = (ranges[-1][0], number)
    else:
        ranges.append((number, number))


def latest_audit_entries(engine: Engine, limit: int, before: int | None = None) -> list[AuditEntry]:
    """Return entries of the audit trail, the last first.

    Args:
        engine: database.
        limit: at most this many.
        before: id of the last entry of the previous page, or ``None``.
    """
    c = audit.c
    statement = select(audit).order_by(c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(c.id < before)
    rows = read(engine, lambda connection: connection.execute(statement).all())
    return [AuditEntry(row.id, row.at, row.actor, row.action, row.object) for row in rows]


def log_audit_head(engine: Engine, system_log: str = SYSTEM_LOG) -> AuditHead:
    """Write the audit trail's head to the system log, outside the database.

    Args:
        engine: database.
        system_log: path of its socket.

    Returns:
        The head.

    Raises:
        OSError: the socket does not exist or does not accept the message.
    """
    last = read_audit_head(engine)
    _send_to_system_log(last, system_log)
    return last


def _send_to_system_log(last: AuditHead, system_log: str) -> None:
    """Send a head to the system log."""
    with closing(_SystemLog(system_log, SysLogHandler.LOG_AUTH)) as log:
        if log.socket.fileno() >= 0:  # else there is no socket, and sending fails
            log.socket.settimeout(_SYSTEM_LOG_S)
        key = "" if last.key_id is None else f" key {last.key_id}"
        log.handle(logging.makeLogRecord({"levelname": "NOTICE", "msg": f"audit head {last}{key}"}))


def _log_head_periodically(connection: Connection, last: AuditHead) -> None:
    """Write the committed head to the system log every ``TOLD_EVERY`` entries."""
    transaction = connection.get_transaction()
    began = connection.info.get(_TRANSACTION) is not transaction
    connection.info[_TRANSACTION] = transaction
    keyring = audit_key.keyring_of(connection)
    told = last.rows - 1 if keyring.told is None else keyring.told
    if not began or last.rows // TOLD_EVERY == told // TOLD_EVERY:
        return
    keyring.told = last.rows
    try:
        _send_to_system_log(last, SYSTEM_LOG)
    except OSError as error:
        # without a system log, our own log is what leaves this machine
        _LOG.info("audit_head", extra={"audit_head": str(last), "errno": error.errno})


class _SystemLog(SysLogHandler):
    ident = "preread: "
    socket: socket.socket  # which the base class opens

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  named by logging
        """Re-raise the exception being handled."""
        raise  # noqa: PLE0704

    def mapPriority(self, levelName: str) -> str:  # noqa: N802, N803  named by logging
        return levelName.lower()


def select_audit_head(connection: Connection) -> AuditHead:
    """Return the audit trail's last number and hash, in a transaction."""
    c = audit.c
    row = connection.execute(select(c.id, c.hash, c.key_id).order_by(c.id.desc()).limit(1)).one_or_none()
    return AuditHead(0, _START) if row is None else AuditHead(row.id, row.hash, row.key_id)


def _after(connection: Connection, number: int) -> list[Row[Any]]:
    c = audit.c
    return list(connection.execute(select(audit).where(c.id > number).order_by(c.id).limit(_PAGE)))


def _hash(key: AuditKey | None, row: Mapping[str, Any]) -> str:
    at = row["at"].isoformat(timespec="microseconds")
    written = [row["id"], at, row["actor"], row["action"], row["object"], row["previous_hash"]]
    if key is None:
        # as version 0.1.0 wrote it
        return hashlib.sha256(json.dumps(written).encode()).hexdigest()
    return key.digest("entry", [*written, row["content"]])
