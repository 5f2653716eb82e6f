"""Known browsers, which other clients' failed sign-ins do not lock out.

A browser has one random token; the database holds its hash beside the accounts that signed in there. Each sign-in
replaces the token, so that a planted one is worthless afterwards.
"""

from __future__ import annotations

import secrets
from datetime import timedelta

from sqlalchemy import Connection, Engine, delete, select, update

from preread.db.engine import database_now, read, write
from preread.db.review_schema import device
from preread.db.statements import insert_new
from preread.review.auth.accounts import Account, hash_token

KEPT_S = 180 * 24 * 3600.0
_AN_ACCOUNT = 20
_c = device.c


def is_known_browser(engine: Engine, token: str) -> bool:
    """Return whether a user has signed in with this browser before."""
    statement = select(_c.id).where(_c.token_hash == hash_token(token)).limit(1)
    return read(engine, lambda connection: connection.execute(statement).first() is not None)


def record_browser(engine: Engine, who: Account, token: str | None) -> str:
    """Record a sign-in with a browser and return the browser's new token.

    Args:
        engine: database.
        who: account that signed in.
        token: previous token of the browser, or ``None``.
    """
    new = secrets.token_urlsafe(32)

    def body(connection: Connection, _again: bool) -> None:
        now = database_now(connection)
        connection.execute(delete(device).where(_c.seen_at < now - timedelta(seconds=KEPT_S)))
        if token is not None:
            connection.execute(
                update(device).where(_c.token_hash == hash_token(token)).values(token_hash=hash_token(new))
            )
        row = {"account_id": who.account_id, "token_hash": hash_token(new), "seen_at": now}
        connection.execute(insert_new(connection, device), row)
        own = _c.account_id == who.account_id
        connection.execute(update(device).where(own, _c.token_hash == hash_token(new)).values(seen_at=now))
        newest = select(_c.id).where(own).order_by(_c.seen_at.desc(), _c.id.desc()).limit(_AN_ACCOUNT)
        connection.execute(delete(device).where(own, _c.id.not_in(newest)))

    write(engine, body)
    return new
