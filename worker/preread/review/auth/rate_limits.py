"""The brakes on sign-ins: how many passwords may be tried, by whom, for which name.

A try is reserved in the database before its password is looked at, so that tries at the same time, on however many
processes and hosts, are counted before any of them is answered. What succeeds gives its reservation back. Each brake
counts names that exist and names that do not in the same way.

========================  =========================================================================================
name from one address     5 in a row; then each must wait, 1 s and twice as long each time, up to 5 minutes
name from known browser   the same, and none of the others: see ``devices``
address                   30 in 5 minutes
name from all addresses   100 in an hour, but for known browsers: 2,400 passwords a day, whoever guesses from wherever
========================  =========================================================================================

One address uses up a quarter of the last one at most, so it alone cannot keep out who knows the password and comes from
elsewhere; five addresses can, but not from a known browser.
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
class Brake:
    """One count.

    Attributes:
        key: of its row.
        failures: so many are free.
        window_s: in this time; ``None``: in a row, and each further one waits for longer.
    """

    key: str
    failures: int
    window_s: float | None = None


def reserve(engine: Engine, name: str, source: str, device: str | None = None) -> tuple[Brake, ...]:
    """Count a try before its password is looked at.

    Args:
        source: the address, or ``uid:1000``.
        device: digest of the browser's token, if it is known to belong to this name.

    Returns:
        What to give back where the password is right.

    Raises:
        TooManyTries: nothing was counted.
    """
    brakes = _brakes(name, source, device)

    # most tries of a crowd end here, and cost no write
    wait_s = read(engine, lambda connection: _longest(connection, brakes, database_now(connection)))

    def body(connection: Connection, _again: bool) -> float:
        now = database_now(connection)
        connection.execute(delete(brake).where(_c.at < now - timedelta(seconds=_FORGOTTEN_AFTER_S)))
        for one in brakes:
            _lock(connection, one, now)
        longest = _longest(connection, brakes, now)
        if longest <= 0:
            for one in brakes:
                row = connection.execute(select(brake).where(_c.key == one.key)).one()
                connection.execute(update(brake).where(_c.key == one.key).values(**_one_more(one, row, now)))
        return longest

    if wait_s <= 0:
        wait_s = write(engine, body)
    if wait_s > 0:
        error = TooManyTries(f"too many failed attempts: try again in {max(1.0, wait_s):.0f} s")
        error.wait_s = max(1.0, wait_s)
        raise error
    return brakes


def release(connection: Connection, brakes: tuple[Brake, ...]) -> None:
    """Give a reservation back: the password was right."""
    for one in brakes:
        if one.window_s is None:
            connection.execute(delete(brake).where(_c.key == one.key))
        else:
            less = update(brake).where(_c.key == one.key, _c.failures > 0)
            connection.execute(less.values(failures=_c.failures - 1))


def _brakes(name: str, source: str, device: str | None) -> tuple[Brake, ...]:
    if device is not None:
        return (Brake(_key("device", name, device), FREE_FAILURES),)
    counted_by = client_network(source)
    # in one order everywhere, so that two tries do not wait for each other
    return (
        Brake(_key("source", counted_by), SOURCE_FAILURES, SOURCE_WINDOW_S),
        Brake(_key("name", name), NAME_FAILURES, NAME_WINDOW_S),
        Brake(_key("pair", name, counted_by), FREE_FAILURES),
    )


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _lock(connection: Connection, one: Brake, now: datetime) -> None:
    empty = {"key": one.key, "failures": 0, "since": now, "not_before": None, "at": now}
    connection.execute(insert_new(connection, brake), empty)
    connection.execute(select(_c.key).where(_c.key == one.key).with_for_update()).one()


def _longest(connection: Connection, brakes: tuple[Brake, ...], now: datetime) -> float:
    """Return for how long the next try must wait; 0 or less: it need not."""
    rows = {row.key: row for row in connection.execute(select(brake).where(_c.key.in_([one.key for one in brakes])))}
    return max(_wait_s(one, rows[one.key], now) if one.key in rows else 0.0 for one in brakes)


def _wait_s(one: Brake, row: Any, now: datetime) -> float:
    if one.window_s is None:
        return 0.0 if row.not_before is None else float((row.not_before - now).total_seconds())
    ends = row.since + timedelta(seconds=one.window_s)
    return float((ends - now).total_seconds()) if row.failures >= one.failures else 0.0


def _one_more(one: Brake, row: Any, now: datetime) -> dict[str, Any]:
    if one.window_s is not None:
        over = row.since <= now - timedelta(seconds=one.window_s)
        return {"failures": 1, "since": now, "at": now} if over else {"failures": row.failures + 1, "at": now}
    failures = row.failures + 1
    wait_s = (
        min(FIRST_WAIT_S * 2.0 ** min(failures - one.failures, 20), LONGEST_WAIT_S) if failures >= one.failures else 0.0
    )
    return {"failures": failures, "at": now, "not_before": now + timedelta(seconds=wait_s) if wait_s else None}
