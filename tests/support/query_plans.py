"""What is asked of a database, and how it would find the answer, were its tables too large to walk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event


def asked_by(engine: Engine, act: Callable[[], object]) -> list[tuple[str, Any]]:
    """Return the statements that something asks the database, each with its values."""
    asked: list[tuple[str, Any]] = []

    def keep(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        asked.append((statement, values))

    event.listen(engine, "before_cursor_execute", keep)
    try:
        act()
    finally:
        event.remove(engine, "before_cursor_execute", keep)
    return asked


def explained(engine: Engine, statement: str, values: Any) -> str:
    """Return how the database would answer a statement from indexes alone."""
    sqlite = engine.dialect.name == "sqlite"
    with engine.connect() as connection:
        if not sqlite:
            for way in ("seqscan", "sort", "bitmapscan"):
                connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
        return " ".join(str(row) for row in connection.exec_driver_sql(f"{explain} {statement}", values).all())
