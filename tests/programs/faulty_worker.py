"""The worker of ``run_worker.py``, to which something happens at a named point: ``faulty_worker.py KIND POINT ...``.

A point is a statement or commit of one of the ledger's verbs, or a word to or from a slot, before or after. Kinds:
``list`` prints each point when it is first reached; ``exit`` ends the process there, at once; ``error`` lets the
statement fail there (before it: nothing was done; after it: it was done, and its answer was lost); ``ask`` prints the
point and goes on when a line comes in, so that the caller can do something to the database server meanwhile.

Nothing of this is in the worker itself: the points hang on SQLAlchemy's events and on methods that are wrapped here.
"""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import threading
from collections.abc import Callable
from typing import Any

import run_worker
from sqlalchemy import Engine, event
from sqlalchemy.pool import PoolProxiedConnection

from preread.ledger.ledger import Ledger
from preread.runner import dispatcher, outcomes, pool

KIND, POINT = sys.argv[1:3]
ENDED = 9
_reached: set[str] = set()
_lock = threading.Lock()
_place = threading.local()
# the two decorators' functions: of a verb that writes, and of one that reads
_RUNS = {Ledger.commit.__code__, Ledger.newest_versions.__code__}
_OBJECT = re.compile(
    r"^\W*(SELECT|INSERT|UPDATE|DELETE|BEGIN|SET|PRAGMA)\b(?:.*?\b(?:FROM|INTO)\s+([a-z_]+)|\s+([a-z_]+))?", re.DOTALL
)


def reach(point: str, *, database: bool = True) -> None:
    """Something happens here, at the first time that the point is reached."""
    with _lock:
        if point in _reached:
            return
        _reached.add(point)
        if KIND == "list":
            print(point, flush=True)
    if point != POINT:
        return
    if KIND == "exit":
        os._exit(ENDED)
    elif KIND == "error" and database:
        print(point, flush=True)
        raise sqlite3.OperationalError("disk I/O error")
    elif KIND == "ask":
        print(point, flush=True)
        sys.stdin.readline()


def verb() -> str:
    """Return the name of the ledger's verb whose transaction this thread is in."""
    name = "elsewhere"
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code in _RUNS:  # the outermost one has opened the transaction
            name = frame.f_locals["verb"].__name__
        frame = frame.f_back
    return name


def short(statement: str) -> str:
    found = _OBJECT.match(statement)
    words = [word for word in found.groups() if word] if found else [statement[:20]]
    return " ".join(words)


def watch(engine: Engine) -> None:
    """Name every statement by its verb and its number in the transaction."""

    def around(statement: str, execute: Callable[[], None]) -> bool:
        begins = statement.startswith("BEGIN")
        _place.number = 0 if begins else getattr(_place, "number", 0) + 1
        point = f"{verb()} {_place.number} {short(statement)}"
        reach(f"before {point}")
        execute()
        if KIND == "error":
            reach(f"after {point}")  # for all else this is the same moment as before what comes next
        return True

    @event.listens_for(engine, "begin")
    def _begin(_connection: object) -> None:
        _place.number = 0

    @event.listens_for(engine, "do_execute")
    def _one(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        return around(statement, lambda: context.dialect.do_execute(cursor, statement, parameters, context))

    @event.listens_for(engine, "do_executemany")
    def _many(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        return around(statement, lambda: context.dialect.do_executemany(cursor, statement, parameters, context))

    @event.listens_for(engine, "do_execute_no_params")
    def _bare(cursor: Any, statement: str, context: Any) -> bool:
        return around(statement, lambda: context.dialect.do_execute_no_params(cursor, statement, context))

    really_commit = engine.dialect.do_commit

    def commit(dbapi_connection: PoolProxiedConnection) -> None:
        point = f"{verb()} COMMIT"
        reach(f"before {point}")
        really_commit(dbapi_connection)
        reach(f"after {point}")

    engine.dialect.do_commit = commit  # type: ignore[method-assign]


def wrap(owner: type, name: str, word: Callable[..., str]) -> None:
    """Make points of a method's begin and end."""
    really = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        point = word(*arguments)
        reach(f"before {point}", database=False)
        answer = really(*arguments, **named)
        reach(f"after {point}", database=False)
        return answer

    setattr(owner, name, wrapped)


wrap(pool.InferencePool, "submit", lambda *_: "slots: a job")
wrap(pool.InferencePool, "answer", lambda *_: "slots: an answer")
wrap(dispatcher.Dispatcher, "handle", lambda _, event: f"slots: hearing {type(event).__name__}")
wrap(outcomes.OutcomeWriter, "_commit", lambda _, events: f"slots: committing {events[0].report.outcome.value}")

if __name__ == "__main__":
    del sys.argv[1:3]
    sys.exit(run_worker.main(watch))
