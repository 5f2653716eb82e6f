"""Limits of failed sign-ins by name, address and browser.

An attempt is reserved in the database before its password is checked, so that simultaneous attempts on any number of
processes and hosts are counted before one is answered. A successful one releases its reservation. Existing and unknown
names are counted in the same way.

========================  =========================================================================================
name from one address     5 in a row; then each must wait, 1 s and twice as long each time, up to 5 minutes
name from known browser   the same, and none of the others: see ``devices``
address                   30 in 5 minutes
name from all addresses   100 in an hour, but for known browsers: 2,400 passwords a day from any number of addresses
========================  =========================================================================================

One address uses up at most a quarter of the last limit, so that it cannot lock out somebody who signs in from
elsewhere; five addresses can, but not a known browser.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, delete, select, update

from preread.core.addresses import client_network
from preread.core.errors import TooManyTries
from preread.db.engine import database_now, read, write
from preread.db.review_schema import brake
from preread.db.statements import insert_new

FREE_FAILURES = 5
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 300.0
SOURCE_FAILURES = 30
SOURCE_WINDOW_S = 300.0
NAME_FAILURES = 100
NAME_WINDOW_S = 3600.0
_FORGOTTEN_AFTER_S = 24 * 3600.0
_c = brake.c


@dataclass(frozen=True, slots=True)
class SignInLimit:
    """One limit of failed sign-ins: of a name, an address or a browser.

    Attributes:
        key: key of its row.
        failures: number of free failures.
        window_s: period of these failures in seconds; ``None`` counts failures in a row, with growing delays.
    """

    key: str
    failures: int
    window_s: float | None = None


def reserve_sign_in(engine: Engine, name: str, source: str, device: str | None = None) -> tuple[SignInLimit, ...]:
    """Count a sign-in attempt against its limits before the password check.

    Args:
        engine: database.
        name: user name, known or not.
        source: address, or ``uid:1000``.
        device: digest of the browser's token if it belongs to this name, else ``None``.

    Returns:
        Reservation for ``release`` if the password is right.

    Raises:
        TooManyTries: a limit is reached; nothing was counted. ``wait_s`` is the delay in seconds.
    """
    brakes = _brakes(name, source, device)

    # most attempts of an attack end here, without a write
    wait_s = read(engine, lambda connection: _longest(connection, brakes, database_now(connection)))

    def body(connection: Connection, _again: bool) -> float:
        now = database_now(connection)
        connection.execute(delete(brake).where(_c.at < now - timedelta(seconds=_FORGOTTEN_AFTER_S)))
        for limit in brakes:
            _lock(connection, limit, now)
        longest = _longest(connection, brakes, now)
        if longest <= 0:
            for limit in brakes:
                row = connection.execute(select(brake).where(_c.key == limit.key)).one()
                connection.execute(update(brake).where(_c.key == limit.key).values(**_one_more(limit, row, now)))
        return longest

    if wait_s <= 0:
        wait_s = write(engine, body)
    if wait_s > 0:
        error = TooManyTries(f"too many failed attempts: try again in {max(1.0, wait_s):.0f} s")
        error.wait_s = max(1.0, wait_s)
        raise error
    return brakes


def release_sign_in(connection: Connection, brakes: tuple[SignInLimit, ...]) -> None:
    """Take back the count of a sign-in attempt that succeeded."""
    for limit in brakes:
        if limit.window_s is None:
            connection.execute(delete(brake).where(_c.key == limit.key))
        else:
            decrement = update(brake).where(_c.key == limit.key, _c.failures > 0)
            connection.execute(decrement.values(failures=_c.failures - 1))


def _brakes(name: str, source: str, device: str | None) -> tuple[SignInLimit, ...]:
    if device is not None:
        return (SignInLimit(_key("device", name, device), FREE_FAILURES),)
    counted_by = client_network(source)
    # always in the same order, so that two attempts cannot deadlock
    return (
        SignInLimit(_key("source", counted_by), SOURCE_FAILURES, SOURCE_WINDOW_S),
        SignInLimit(_key("name", name), NAME_FAILURES, NAME_WINDOW_S),
        SignInLimit(_key("pair", name, counted_by), FREE_FAILURES),
    )


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _lock(connection: Connection, limit: SignInLimit, now: datetime) -> None:
    empty = {"key": limit.key, "failures": 0, "since": now, "not_before": None, "at": now}
    connection.execute(insert_new(connection, brake), empty)
    connection.execute(select(_c.key).where(_c.key == limit.key).with_for_update()).one()


def _longest(connection: Connection, brakes: tuple[SignInLimit, ...], now: datetime) -> float:
    """Return the seconds until the next attempt; 0 or less if none."""
    rows = {
        row.key: row for row in connection.execute(select(brake).where(_c.key.in_([limit.key for limit in brakes])))
    }
    return max(_wait_s(limit, rows[limit.key], now) if limit.key in rows else 0.0 for limit in brakes)


def _wait_s(limit: SignInLimit, row: Any, now: datetime) -> float:
    if limit.window_s is None:
        return 0.0 if row.not_before is None else float((row.not_before - now).total_seconds())
    ends = row.since + timedelta(seconds=limit.window_s)
    return float((ends - now).total_seconds()) if row.failures >= limit.failures else 0.0


def _one_more(limit: SignInLimit, row: Any, now: datetime) -> dict[str, Any]:
    if limit.window_s is not None:
        expired = row.since <= now - timedelta(seconds=limit.window_s)
        return {"failures": 1, "since": now, "at": now} if expired else {"failures": row.failures + 1, "at": now}
    failures = row.failures + 1
    wait_s = (
        min(FIRST_WAIT_S * 2.0 ** min(failures - limit.failures, 20), LONGEST_WAIT_S)
        if failures >= limit.failures
        else 0.0
    )
    return {"failures": failures, "at": now, "not_before": now + timedelta(seconds=wait_s) if wait_s else None}
