"""Decorators that turn functions into verbs of the ledger.

A verb is written once, where its SQL is, as a function of a ``Transaction``. Called with a ledger or an engine, it runs
in a transaction of its own; called with a ``Transaction``, it takes part in that one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Concatenate, ParamSpec, Protocol, Self, TypeVar

from sqlalchemy import Connection, Engine

from preread.db import engine as db_engine
from preread.db.engine import database_now, new_token

P = ParamSpec("P")
T = TypeVar("T")


class Worker(Protocol):
    """Worker for which a verb of the ledger runs, and its database.

    See ``Ledger`` for the attributes.
    """

    engine: Engine
    worker_id: str
    lease_s: float
    clock: Callable[[Connection], datetime]


@dataclass(frozen=True)
class Transaction:
    """One try at a transaction of the ledger, with time, worker and lease.

    Attributes:
        connection: in the transaction.
        clock: returns the time as an aware UTC datetime.
        worker_id: owner of the claims that are taken; empty without a ledger, and then nothing can be claimed.
        lease_s: seconds for which a claim holds.
        token: 32 hex characters of this call, the same at each try.
        is_retry: an earlier try may have been committed although its answer was lost: look before writing.
    """

    connection: Connection
    clock: Callable[[Connection], datetime] = database_now
    worker_id: str = ""
    lease_s: float = 0.0
    token: str = ""
    is_retry: bool = False

    @functools.cached_property
    def now(self) -> datetime:
        """Time by the database's clock, read once per transaction."""
        return self.clock(self.connection)

    @classmethod
    def of(cls, source: Worker | Engine, connection: Connection, token: str = "", *, is_retry: bool = False) -> Self:
        """Return the ledger's transaction on a connection.

        On behalf of a worker if ``source`` is one.
        """
        if isinstance(source, Engine):
            return cls(connection, token=token, is_retry=is_retry)
        return cls(connection, source.clock, source.worker_id, source.lease_s, token, is_retry)


Source = Worker | Engine | Transaction


def transaction(verb: Callable[Concatenate[Transaction, P], T]) -> Callable[Concatenate[Source, P], T]:
    """Decorate a verb of the ledger to write in a transaction, with retries.

    The time is read first, before any lock is awaited. Each try uses the arguments, so none may be an iterator.

    Raises:
        DatabaseAway, DatabaseUnsuitable, SchemaOutdated: see ``engine.write``.
    """

    @functools.wraps(verb)
    def run(source: Source, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if isinstance(source, Transaction):
            return verb(source, *args, **kwargs)
        token = new_token()

        def attempt(connection: Connection, is_retry: bool) -> T:
            tx = Transaction.of(source, connection, token, is_retry=is_retry)
            _ = tx.now
            return verb(tx, *args, **kwargs)

        return db_engine.write(_engine(source), attempt)

    return run


def query(verb: Callable[Concatenate[Transaction, P], T]) -> Callable[Concatenate[Source, P], T]:
    """Decorate a verb of the ledger to read in a transaction of its own.

    Raises:
        DatabaseAway, DatabaseUnsuitable, SchemaOutdated: see ``engine.read``.
    """

    @functools.wraps(verb)
    def run(source: Source, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if isinstance(source, Transaction):
            return verb(source, *args, **kwargs)
        attempt = functools.partial(Transaction.of, source)
        return db_engine.read(_engine(source), lambda connection: verb(attempt(connection), *args, **kwargs))

    return run


def _engine(source: Worker | Engine) -> Engine:
    return source if isinstance(source, Engine) else source.engine
