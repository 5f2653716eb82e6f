"""Accounts: people with passwords, programs with tokens.

There is no account until an administrator adds one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Row, delete, insert, select, update

from preread.core.errors import NotAllowed, UsageError
from preread.core.text.escaping import clean_text
from preread.core.types import Role
from preread.db.engine import database_now, read, write
from preread.db.review_schema import account, device, session
from preread.ledger.transaction import Transaction, transaction
from preread.review import audit, audit_proof
from preread.review.audit import Action
from preread.review.auth import passwords, rate_limits

if TYPE_CHECKING:
    from argon2 import PasswordHasher

PASSWORD_CHARS = range(12, 1025)
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,63}")
TOKEN_DAYS = 365
HERE = "here"
_c = account.c


@dataclass(frozen=True, slots=True)
class Account:
    """A user account without its password or token.

    Attributes:
        disabled_at: time since which it is disabled, or ``None``.
        read_before_reveal: this reviewer sees an answer only after signing, or on demand.
        token_expires_at: end of validity of a program's token; ``None`` for people.
    """

    account_id: int
    name: str
    full_name: str
    role: Role
    created_at: datetime
    disabled_at: datetime | None
    read_before_reveal: bool
    token_expires_at: datetime | None = None

    @property
    def actor(self) -> str:
        """Name of the account in the audit trail."""
        return f"account:{self.account_id}"


@dataclass(frozen=True, slots=True)
class NewAccount:
    """A user account to be added.

    Attributes:
        name: user name.
        full_name: name shown on the page.
        role: what it may do.
        password: password of a person; ``None`` for a program (role ``service``).
    """

    name: str
    full_name: str
    role: Role
    password: str | None = field(repr=False)


def add_account(engine: Engine, actor: str, new: NewAccount, *, token_days: float = TOKEN_DAYS) -> str | None:
    """Add a user account; return the token of a program's account.

    Args:
        engine: database.
        actor: who adds it, see ``audit.append_entry``.
        new: the account.
        token_days: validity of a program's token in days.

    Returns:
        The token of a program, which cannot be shown again; ``None`` for a person.

    Raises:
        UsageError: the name is taken or invalid, or the password is too short, too long or too easily guessed.
    """
    name = new.name.strip().lower()
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"invalid user name {name!r}: write a to z, then letters, digits, dots, dashes and underscores"
        )
    values: dict[str, Any] = {
        "name": name,
        "full_name": clean_text(new.full_name) or name,
        "role": new.role,
        "disabled_at": None,
        "failures": 0,
        "not_before": None,
        "read_before_reveal": False,
    }
    token, secret = _new_secret(name, values["full_name"], new.role, new.password)

    def body(connection: Connection, is_retry: bool) -> None:
        existing = connection.execute(select(account).where(_c.name == name)).one_or_none()
        if existing is not None:
            if is_retry and (existing.password_hash, existing.token_hash) == (
                secret["password_hash"],
                secret["token_hash"],
            ):
                return
            raise UsageError(f"the user {name} exists already: take another name")
        now = database_now(connection)
        row = values | secret | {"created_at": now, "token_expires_at": _expiry(now, token, token_days)}
        account_id = connection.execute(insert(account).returning(_c.id), row).scalar_one()
        _record(connection, actor, Action.USER_ADDED, account_id)

    write(engine, body)
    return token


def renew_secret(
    engine: Engine, actor: str, name: str, password: str | None, *, token_days: float = TOKEN_DAYS
) -> str | None:
    """Set an account's password or create its token; end all its sessions.

    Args:
        engine: database.
        actor: who does it, see ``audit.append_entry``.
        name: user name.
        password: new password of a person; ``None`` for a program.
        token_days: validity of a program's token in days.

    Returns:
        The new token of a program; ``None`` for a person.

    Raises:
        UsageError: there is no such user, or the password is too short, too long, easily guessed or the current one.
    """
    target = find_account(engine, name)
    token, secret = _new_secret(target.name, target.full_name, target.role, password)
    if password is not None:
        present = select(_c.password_hash).where(_c.id == target.account_id)
        stored: str | None = read(engine, lambda connection: connection.execute(present).scalar_one())
        if stored is not None and _matches(stored, password):
            raise UsageError("the new password equals the present one: take another")

    def body(connection: Connection, _again: bool) -> None:
        expires = _expiry(database_now(connection), token, token_days)
        _set(connection, target.account_id, {**secret, "failures": 0, "not_before": None, "token_expires_at": expires})
        _record(connection, actor, Action.USER_PASSWORD, target.account_id)

    write(engine, body)
    return token


def disable_account(engine: Engine, actor: str, name: str) -> None:
    """Disable a user account; its reviews stay.

    Raises:
        UsageError: there is no such user.
    """
    target = find_account(engine, name)

    def body(connection: Connection, _again: bool) -> None:
        _set(connection, target.account_id, {"disabled_at": database_now(connection)})
        _record(connection, actor, Action.USER_DISABLED, target.account_id)

    write(engine, body)


@transaction
def set_read_before_reveal(tx: Transaction, actor: str, target: Account, value: bool) -> None:
    """Set whether a reviewer sees results only after signing a review.

    Raises:
        UsageError: the account is not a reviewer's.
    """
    if target.role is not Role.READER:
        raise UsageError(f"{target.name} has the role {target.role}: the option needs the role reader")

    tx.connection.execute(update(account).where(_c.id == target.account_id).values(read_before_reveal=value))
    _record(tx.connection, actor, Action.USER_OPTIONS, target.account_id)


def list_accounts(engine: Engine) -> list[Account]:
    """Return all user accounts by name."""
    rows = read(engine, lambda connection: connection.execute(select(account).order_by(_c.name)).all())
    return [account_from_row(row) for row in rows]


def find_account(engine: Engine, name: str) -> Account:
    """Return the user account of this name.

    Raises:
        UsageError: there is none.
    """
    row = read(engine, lambda c: c.execute(select(account).where(_c.name == name.strip().lower())).one_or_none())
    if row is None:
        raise UsageError(f"there is no user {name}: `preread users list` shows them")
    return account_from_row(row)


def find_account_by_token(engine: Engine, token: str) -> Account | None:
    """Return the program's account with this token; ``None`` if none has it.

    Returns:
        ``None`` if there is none, it is disabled, or the token has expired.
    """
    statement = select(account).where(_c.token_hash == hash_token(token), _c.disabled_at.is_(None))
    row, now = read(engine, lambda connection: (connection.execute(statement).one_or_none(), database_now(connection)))
    if row is None or (row.token_expires_at is not None and row.token_expires_at <= now):
        return None
    return account_from_row(row)


def check_password(
    engine: Engine, name: str, password: str, *, source: str = HERE, device_token: str | None = None
) -> Account:
    """Check name and password of a sign-in; return the account.

    Args:
        engine: database.
        name: user name.
        password: password to check.
        source: origin of the attempt: an address, or ``uid:1000``; recorded with a failure.
        device_token: token of a browser that was used to sign in before, or ``None``.

    Raises:
        TooManyTries: too early for another attempt, see ``rate_limits``; the password was not checked.
        NotAllowed: name or password is wrong, or the account is disabled.
    """
    name = name.strip().lower()
    row, known = read(engine, lambda connection: _looked_up(connection, name, device_token))
    reserved = rate_limits.reserve_sign_in(
        engine, name, source, hash_token(device_token) if known and device_token else None
    )
    # an unknown name takes as long as a known one
    right = _matches(row.password_hash if row is not None else _nobodys_hash(), password)
    if row is not None and right and row.disabled_at is None:
        write(engine, lambda connection, _: rate_limits.release_sign_in(connection, reserved))
        return account_from_row(row)
    of_whom = "account:?" if row is None else f"account:{row.id}"
    write(engine, lambda c, _: audit.append_entry(c, f"nobody@{source}"[:64], Action.SIGN_IN_FAILED, of_whom))
    raise NotAllowed("the name or the password is wrong, or the account is disabled")


def _looked_up(connection: Connection, name: str, token: str | None) -> tuple[Row[Any] | None, bool]:
    """Return the person of this name, and whether the browser is theirs."""
    row = connection.execute(select(account).where(_c.name == name, _c.password_hash.is_not(None))).one_or_none()
    # queried also for an unknown name, which must take as long
    account_id = -1 if row is None else row.id
    conditions = (device.c.account_id == account_id, device.c.token_hash == hash_token(token or ""))
    return row, connection.execute(select(device.c.id).where(*conditions)).one_or_none() is not None


def _record(connection: Connection, actor: str, action: Action, account_id: int) -> None:
    """Append an audit entry with the account's new content."""
    audit.append_entry(
        connection, actor, action, f"account:{account_id}", audit_proof.stored_account_content(connection, account_id)
    )


def _set(connection: Connection, account_id: int, values: dict[str, Any]) -> None:
    connection.execute(update(account).where(_c.id == account_id).values(**values))
    connection.execute(delete(session).where(session.c.account_id == account_id))
    connection.execute(delete(device).where(device.c.account_id == account_id))


def _expiry(now: datetime, token: str | None, days: float) -> datetime | None:
    return None if token is None else now + timedelta(days=days)


def account_from_row(row: Row[Any]) -> Account:
    """Return a row of ``account`` as an account."""
    return Account(
        row.id,
        row.name,
        row.full_name,
        Role(row.role),
        row.created_at,
        row.disabled_at,
        row.read_before_reveal,
        row.token_expires_at,
    )


# ---------------------------------------------------------------------- secrets


def hash_token(token: str) -> str:
    """Return the hash under which a random token is stored."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _new_secret(
    name: str, full_name: str, role: Role, password: str | None
) -> tuple[str | None, dict[str, str | None]]:
    """Return the token to show (programs only) and the columns to store."""
    if role is Role.SERVICE:
        if password is not None:
            raise UsageError("a program (role service) has no password: its token is created with the account")
        token = f"preread_{secrets.token_urlsafe(32)}"
        return token, {"password_hash": None, "token_hash": hash_token(token)}
    if password is None:
        raise UsageError(f"an account with the role {role} needs a password")
    if len(password) not in PASSWORD_CHARS or password.strip().lower() == name:
        low, high = PASSWORD_CHARS.start, PASSWORD_CHARS.stop - 1
        raise UsageError(
            f"the password has {len(password)} characters or equals the name: take {low} to {high} characters"
        )
    weak = passwords.find_password_weakness(password, (name, full_name, "preread", socket.gethostname()))
    if weak is not None:
        raise UsageError(f"this password is too easily guessed: {weak}; take a longer one, or words of your own")
    return None, {"password_hash": _hasher().hash(_encoded(password)), "token_hash": None}


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()


@cache
def _nobodys_hash() -> str:
    return _hasher().hash(secrets.token_bytes(16))


def _matches(stored: str, password: str) -> bool:
    from argon2.exceptions import VerificationError

    if len(password) >= PASSWORD_CHARS.stop:
        return False
    try:
        return _hasher().verify(stored, _encoded(password))
    except VerificationError:
        return False


def _encoded(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")
