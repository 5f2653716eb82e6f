"""Web sessions of signed-in browsers.

The cookie holds a random token, the database its hash. A search text stays in the session.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, delete, insert, select, update

from preread.db.engine import database_now, read, write
from preread.db.review_schema import account, session
from preread.ledger.transaction import Transaction, query, transaction
from preread.review import audit
from preread.review.audit import Action
from preread.review.auth.accounts import Account, account_from_row, hash_token

LONGEST_S = 12 * 3600.0
_TOUCH_S = 30.0
_c = session.c


@dataclass(frozen=True, slots=True)
class Session:
    """One web session.

    Attributes:
        session_id: its id.
        account: account that signed in.
        csrf: token that each form must contain.
        search: current search text, or empty.
    """

    session_id: int
    account: Account
    csrf: str
    search: str


@dataclass(frozen=True, slots=True)
class Browser:
    """A web session as shown to its owner and to administrators.

    Attributes:
        session_id: its id.
        created_at: time of the sign-in.
        seen_at: time of the last request, accurate to half a minute.
        address: address of the sign-in, or ``None``.
    """

    session_id: int
    created_at: datetime
    seen_at: datetime
    address: str | None


def start_session(engine: Engine, who: Account, *, address: str | None = None, replaces: str | None = None) -> str:
    """Start a web session and return the token for its cookie.

    Args:
        engine: database.
        who: account that signed in.
        address: address of the browser, or ``None``.
        replaces: previous token of this browser, whose session ends, or ``None``.
    """
    token = secrets.token_urlsafe(32)

    def body(connection: Connection, is_retry: bool) -> None:
        if is_retry and connection.execute(select(_c.id).where(_c.token_hash == hash_token(token))).first():
            return
        now = database_now(connection)
        connection.execute(delete(session).where(_c.created_at < now - timedelta(seconds=LONGEST_S)))
        if replaces is not None:
            connection.execute(delete(session).where(_c.token_hash == hash_token(replaces)))
        row = {
            "token_hash": hash_token(token),
            "account_id": who.account_id,
            "csrf": secrets.token_urlsafe(32),
            "created_at": now,
            "seen_at": now,
            "search": None,
            "address": None if address is None else address[:64],
        }
        connection.execute(insert(session), row)
        audit.append_entry(connection, who.actor, Action.SIGN_IN, who.actor)

    write(engine, body)
    return token


def find_session(engine: Engine, token: str, idle_s: float, *, touch: bool) -> Session | None:
    """Return the web session of a cookie's token; ``None`` if it has ended.

    Args:
        engine: database.
        token: value of the cookie.
        idle_s: seconds without a request after which a session ends.
        touch: the request is a person's, not a poll of the page: extend the session.

    Returns:
        ``None`` if the session ended, was idle for too long, or its account is disabled.
    """
    statement = (
        select(account, _c.id.label("session_id"), _c.csrf, _c.search, _c.seen_at, _c.created_at.label("begun_at"))
        .join(account, account.c.id == _c.account_id)
        .where(_c.token_hash == hash_token(token), account.c.disabled_at.is_(None))
    )
    row, now = read(engine, lambda connection: (connection.execute(statement).one_or_none(), database_now(connection)))
    if row is None or row.seen_at < now - timedelta(seconds=idle_s):
        return None
    if row.begun_at < now - timedelta(seconds=LONGEST_S):
        return None
    if touch and row.seen_at < now - timedelta(seconds=_TOUCH_S):
        # at intervals, so that most requests write nothing
        write(engine, lambda c, _: c.execute(update(session).where(_c.id == row.session_id).values(seen_at=now)))
    return Session(row.session_id, account_from_row(row), row.csrf, row.search or "")


@transaction
def end_session(tx: Transaction, session_: Session) -> None:
    """End a web session."""
    tx.connection.execute(delete(session).where(_c.id == session_.session_id))
    audit.append_entry(tx.connection, session_.account.actor, Action.SIGN_OUT, session_.account.actor)


@query
def list_sessions(tx: Transaction, account_id: int, idle_s: float) -> list[Browser]:
    """Return an account's active web sessions, the last used first."""
    active = (_c.seen_at >= tx.now - timedelta(seconds=idle_s), _c.created_at >= tx.now - timedelta(seconds=LONGEST_S))
    columns = select(_c.id, _c.created_at, _c.seen_at, _c.address)
    statement = columns.where(_c.account_id == account_id, *active).order_by(_c.seen_at.desc(), _c.id.desc())
    return [Browser(*row) for row in tx.connection.execute(statement)]


@transaction
def end_sessions(tx: Transaction, actor: str, of: Account, *, only: int | None = None, but: int | None = None) -> int:
    """End web sessions of an account and return their number.

    Args:
        tx: database, or transaction to take part in.
        actor: who ends them, see ``audit.append_entry``.
        of: the account.
        only: end this session alone; another account's is left unchanged.
        but: end all sessions except this one.
    """
    conditions = [_c.account_id == of.account_id]
    conditions += [] if only is None else [_c.id == only]
    conditions += [] if but is None else [_c.id != but]
    ended = tx.connection.execute(delete(session).where(*conditions)).rowcount
    if ended:
        audit.append_entry(tx.connection, actor, Action.SESSIONS_ENDED, of.actor)
    return ended


@transaction
def set_search(tx: Transaction, session_: Session, text: str) -> None:
    """Store the search text of a web session; an empty text ends the search."""
    tx.connection.execute(update(session).where(_c.id == session_.session_id).values(search=text or None))
    if text:
        audit.append_entry(tx.connection, session_.account.actor, Action.SEARCH, "worklist")
