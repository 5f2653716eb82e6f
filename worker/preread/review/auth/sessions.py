"""Signed-in browsers. The cookie holds a random token, the database its hash; what was searched for stays here."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, delete, insert, select, update

from preread.db.engine import database_now, read, write
from preread.db.review_schema import account, session
from preread.review import audit
from preread.review.audit import Action
from preread.review.auth.accounts import Account, digest, typed

LONGEST_S = 12 * 3600.0
_TOUCH_S = 30.0
_c = session.c


@dataclass(frozen=True, slots=True)
class Session:
    """One signed-in browser.

    Attributes:
        csrf: what every form of this session must carry.
        search: what its reader looks for; empty for nothing.
    """

    session_id: int
    account: Account
    csrf: str
    search: str


@dataclass(frozen=True, slots=True)
class Browser:
    """A session, as its owner and administrators may see it.

    Attributes:
        seen_at: of its last request, within half a minute.
        address: from where it signed in.
    """

    session_id: int
    created_at: datetime
    seen_at: datetime
    address: str | None


def begin(engine: Engine, who: Account, *, address: str | None = None, replaces: str | None = None) -> str:
    """Begin a session and return the cookie's token.

    Args:
        address: from where.
        replaces: the token that this browser had; its session ends.
    """
    token = secrets.token_urlsafe(32)

    def body(connection: Connection, again: bool) -> None:
        if again and connection.execute(select(_c.id).where(_c.token_hash == digest(token))).first():
            return
        now = database_now(connection)
        connection.execute(delete(session).where(_c.created_at < now - timedelta(seconds=LONGEST_S)))
        if replaces is not None:
            connection.execute(delete(session).where(_c.token_hash == digest(replaces)))
        row = {
            "token_hash": digest(token),
            "account_id": who.account_id,
            "csrf": secrets.token_urlsafe(32),
            "created_at": now,
            "seen_at": now,
            "search": None,
            "address": None if address is None else address[:64],
        }
        connection.execute(insert(session), row)
        audit.append(connection, who.actor, Action.SIGN_IN, who.actor)

    write(engine, body)
    return token


def find(engine: Engine, token: str, idle_s: float, *, touch: bool) -> Session | None:
    """Return the session of this cookie; ``None`` when it ended, was idle for too long, or its account is disabled.

    Args:
        touch: this request is a person's doing, not the page's own asking for news: the session lives on.
    """
    statement = (
        select(account, _c.id.label("session_id"), _c.csrf, _c.search, _c.seen_at, _c.created_at.label("begun_at"))
        .join(account, account.c.id == _c.account_id)
        .where(_c.token_hash == digest(token), account.c.disabled_at.is_(None))
    )
    row, now = read(engine, lambda connection: (connection.execute(statement).one_or_none(), database_now(connection)))
    if row is None or row.seen_at < now - timedelta(seconds=idle_s):
        return None
    if row.begun_at < now - timedelta(seconds=LONGEST_S):
        return None
    if touch and row.seen_at < now - timedelta(seconds=_TOUCH_S):
        # once in a while is enough, so that looking at a list writes nothing
        write(engine, lambda c, _: c.execute(update(session).where(_c.id == row.session_id).values(seen_at=now)))
    return Session(row.session_id, typed(row), row.csrf, row.search or "")


def end(engine: Engine, ended: Session) -> None:
    """End a session."""

    def body(connection: Connection, _again: bool) -> None:
        connection.execute(delete(session).where(_c.id == ended.session_id))
        audit.append(connection, ended.account.actor, Action.SIGN_OUT, ended.account.actor)

    write(engine, body)


def of_account(engine: Engine, account_id: int, idle_s: float) -> list[Browser]:
    """Return the sessions of an account that have not ended, the last used first."""

    def body(connection: Connection) -> list[Browser]:
        now = database_now(connection)
        lives = (_c.seen_at >= now - timedelta(seconds=idle_s), _c.created_at >= now - timedelta(seconds=LONGEST_S))
        columns = select(_c.id, _c.created_at, _c.seen_at, _c.address)
        found = columns.where(_c.account_id == account_id, *lives).order_by(_c.seen_at.desc(), _c.id.desc())
        return [Browser(*row) for row in connection.execute(found)]

    return read(engine, body)


def end_others(engine: Engine, actor: str, of: Account, *, only: int | None = None, but: int | None = None) -> int:
    """End sessions of an account and return how many.

    Args:
        only: this one alone; nothing happens where it is another account's.
        but: all others than this one.
    """

    def body(connection: Connection, _again: bool) -> int:
        which = [_c.account_id == of.account_id]
        which += [] if only is None else [_c.id == only]
        which += [] if but is None else [_c.id != but]
        ended = connection.execute(delete(session).where(*which)).rowcount
        if ended:
            audit.append(connection, actor, Action.SESSIONS_ENDED, of.actor)
        return ended

    return write(engine, body)


def search_for(engine: Engine, searching: Session, text: str) -> None:
    """Keep what a reader looks for with the session; an empty text leaves the search."""

    def body(connection: Connection, _again: bool) -> None:
        connection.execute(update(session).where(_c.id == searching.session_id).values(search=text or None))
        if text:
            audit.append(connection, searching.account.actor, Action.SEARCH, "worklist")

    write(engine, body)
