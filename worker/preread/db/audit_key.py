"""Key of the audit trail, in a file outside the database.

Write access to one of the two forges nothing.

A line of the file is one key of 32 bytes in hex, the last one in use; older keys stay, to verify entries written under
them. The database holds the identifier of the key in use, which does not reveal the key. If the file is missing, cannot
be read or belongs to another database, entries are written without a key: the log and ``preread check`` report it, and
``preread audit verify`` lists the entries.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from preread.core.errors import SettingsError
from preread.db.review_schema import secret

_LOG = logging.getLogger(__name__)
_OPTION = "preread_audit_key"
_NAME = "audit_key"
_KEY_BYTES = 32
_ID_CHARS = 16


@dataclass(frozen=True, slots=True)
class AuditKey:
    """One key of the audit trail, of 32 bytes."""

    value: bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        """Identifier of the key: first 16 hex characters of its SHA-256."""
        return hashlib.sha256(self.value).hexdigest()[:_ID_CHARS]

    def digest(self, kind: str, content: Any) -> str:
        """Return the HMAC-SHA-256 of a content, in hex.

        Args:
            kind: separates digests of different kinds of content.
            content: JSON values and datetimes.
        """
        written = json.dumps([kind, content], sort_keys=True, default=_plain)
        return hmac.new(self.value, written.encode(), hashlib.sha256).hexdigest()


def columns_with_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that are not ``None``.

    A column that is added later then changes no digest.
    """
    return {name: value for name, value in row.items() if value is not None}


class Keyring:
    """Keys of one database's audit trail, in a file outside it.

    Attributes:
        path: the file; ``None`` if none is set, as for Postgres by default.
        told: id of the last entry whose hash was written to the system log; ``None`` before the first.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.told: int | None = None
        self._read: tuple[tuple[int, int], dict[str, AuditKey]] | None = None
        self._in_use: AuditKey | None = None
        self._warned = False

    def keys(self) -> dict[str, AuditKey]:
        """Return the audit keys by identifier, the newest last.

        Empty if the file is missing or unusable.
        """
        if self.path is None:
            return {}
        try:
            status = os.stat(self.path)
            stamp = (status.st_mtime_ns, status.st_size)
            if self._read is None or self._read[0] != stamp:
                values = [bytes.fromhex(line) for line in self.path.read_text(encoding="ascii").split()]
                found = {key.key_id: key for key in map(AuditKey, values) if len(key.value) == _KEY_BYTES}
                self._read, self._in_use = (stamp, found), None
        except (OSError, ValueError):
            self._read = self._in_use = None
            return {}
        return self._read[1]

    def for_seals(self, connection: Connection) -> AuditKey | None:
        """Return the audit key for seals on results; ``None`` if there is none.

        ``None`` if the database has no key, or it is not in the file.
        """
        keys = self.keys()
        if keys and self._in_use is None and current_audit_key_id(connection) in keys:
            self._in_use = list(keys.values())[-1]
        return self._in_use if keys else None

    def current(self, connection: Connection) -> AuditKey | None:
        """Return the audit key for new entries; ``None`` if none is usable.

        A key is created if the database has none yet.

        The caller holds the lock on the chain.
        """
        if self.path is None:
            return None
        keys, named = self.keys(), current_audit_key_id(connection)
        if not keys and named is None and not os.path.lexists(self.path):
            with contextlib.suppress(SettingsError):  # reported below; signing in must stay possible
                keys = {key.key_id: key for key in [self.add(connection)]}
        if not keys or (named is not None and named not in keys):
            if not self._warned:
                _LOG.warning("audit_key_missing")
                self._warned = True
            return None
        key = list(keys.values())[-1]
        if named is None:
            connection.execute(insert(secret), {"name": _NAME, "value": key.key_id})
        elif named != key.key_id:
            connection.execute(update(secret).where(secret.c.name == _NAME).values(value=key.key_id))
        self._warned = False
        return key

    def add(self, connection: Connection) -> AuditKey:
        """Append a new audit key to the file, and return it.

        A missing file is created with mode 0600.

        Raises:
            SettingsError: no file is set, or it cannot be written.
        """
        if self.path is None:
            raise SettingsError(
                "the audit trail has no key file: set PREREAD_AUDIT_KEY_FILE to a path outside the database"
            )
        key = AuditKey(secrets.token_bytes(_KEY_BYTES))
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(descriptor, "r+b", buffering=0) as stream:
                if os.geteuid() == 0:
                    _hand_over(descriptor, connection)
                stream.write(key.value.hex().encode() + b"\n")
                os.fsync(descriptor)
        except OSError as error:
            raise SettingsError(f"{self.path} cannot be written: {error.strerror}") from error
        self._read = self._in_use = None
        return key

    def hand_on(self, path: Path | None) -> Path | None:
        """Copy the audit keys for a copy of the database.

        Args:
            path: the file in which the copy looks for its keys; ``None`` if it has none.

        Returns:
            The file that holds the keys; ``None`` if there are no keys to copy.

        Raises:
            SettingsError: the file cannot be written, or holds other keys.
        """
        keys = self.keys()
        if not keys or path is None or path == self.path:
            return path if keys else None
        if Keyring(path).keys() == keys:
            return path
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb", buffering=0) as stream:
                stream.write(b"".join(key.value.hex().encode() + b"\n" for key in keys.values()))
                os.fsync(descriptor)
        except OSError as error:
            raise SettingsError(f"{path} cannot be written: {error.strerror}") from error
        return path

    def fault(self, connection: Connection) -> str | None:
        """Return why audit entries are written without a key, or ``None``."""
        if self.path is None:
            return "the audit trail has no key file: set PREREAD_AUDIT_KEY_FILE to a path outside the database"
        keys, named = self.keys(), current_audit_key_id(connection)
        if named is None:
            return None if keys or not os.path.lexists(self.path) else f"{self.path} holds no key, or cannot be read"
        if not keys:
            return f"the key file of the audit trail, {self.path}, is missing or cannot be read"
        return None if named in keys else f"{self.path} holds no key of this database"


def attach_keyring(engine: Engine, path: Path | None) -> None:
    """Attach the audit keys to a database engine and its connections."""
    engine.update_execution_options(**{_OPTION: Keyring(path)})


def keyring_of(database: Connection | Engine) -> Keyring:
    """Return the audit keys attached to a database engine; none by default."""
    found = database.get_execution_options().get(_OPTION)
    return found if isinstance(found, Keyring) else Keyring(None)


def renew_audit_key(connection: Connection) -> None:
    """Append a new key of the audit trail to its file, and use it from now on.

    Raises:
        SettingsError: no file is set, or it cannot be written.
    """
    keyring = keyring_of(connection)
    key = keyring.add(connection)
    if current_audit_key_id(connection) is None:
        connection.execute(insert(secret), {"name": _NAME, "value": key.key_id})
    else:
        connection.execute(update(secret).where(secret.c.name == _NAME).values(value=key.key_id))


def default_audit_key_path(database: Path | None) -> Path | None:
    """Return the default path of the file with the audit trail's keys.

    Args:
        database: the SQLite file, beside which it lies; ``None`` for Postgres.

    Returns:
        For Postgres, a file in the unit's state folder; ``None`` without one (``STATE_DIRECTORY`` of systemd).
    """
    if database is not None:
        return Path(f"{os.path.abspath(database)}-audit-key")
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(state) / "audit-key" if state else None


def current_audit_key_id(connection: Connection) -> str | None:
    """Return the identifier of the audit key in use, as the database holds it.

    As the database holds it; ``None`` if there never was a key.
    """
    return connection.execute(select(secret.c.value).where(secret.c.name == _NAME)).scalar_one_or_none()


def _hand_over(descriptor: int, connection: Connection) -> None:
    """Give a file to the owner of the SQLite database, the worker's user."""
    if connection.dialect.name == "sqlite":
        named = connection.exec_driver_sql("PRAGMA database_list").all()
        owner = os.stat(next(path for _, name, path in named if name == "main"))
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    raise TypeError(f"a {type(value).__name__} cannot be part of a digest")
