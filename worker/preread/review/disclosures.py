"""Disclosure log of list views: account, image, result.

A result is identified by its image and commit time. Only the first disclosure of each result to each actor is kept, so
that reloading a list writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime

from sqlalchemy import Connection, Engine, func, select

from preread.core.errors import DatabaseFull, DatabaseReadOnly
from preread.db import schema
from preread.db.engine import database_now, read, write
from preread.db.review_schema import account, listing
from preread.db.statements import insert_new
from preread.ledger.transaction import Transaction, query
from preread.review.results import ResultRow

_LOG = logging.getLogger(__name__)
_PAGE = 500
_c = listing.c


def record_list_view(engine: Engine, actor: str, shown: Iterable[ResultRow]) -> None:
    """Record in the database to whom a list shows results.

    Writes nothing if everything is recorded already. If the database is full or read-only, the list is shown
    nevertheless and a warning is logged.

    Args:
        engine: database.
        actor: see ``audit.append_entry``.
        shown: results that the list shows.
    """
    pairs = {(row.result_id, row.committed_at) for row in shown}

    def known(connection: Connection) -> set[tuple[int, datetime]]:
        films = [film for film, _ in pairs]
        condition = schema.column_in(connection, _c.file_id, films)
        rows = connection.execute(select(_c.file_id, _c.committed_at).where(condition, _c.actor == actor)).all()
        return {(row.file_id, row.committed_at) for row in rows}

    new = pairs - read(engine, known) if pairs else pairs
    if not new:
        return

    def body(connection: Connection, _again: bool) -> None:
        now = database_now(connection)
        rows = [
            {"file_id": film, "actor": actor, "committed_at": committed_at, "at": now}
            for film, committed_at in sorted(new)
        ]
        # another window of the same account may have inserted them meanwhile
        connection.execute(insert_new(connection, listing), rows)

    try:
        write(engine, body)
    except (DatabaseFull, DatabaseReadOnly) as error:
        _LOG.warning("listing_not_kept", extra={"code": error.code, "count": len(new)})


def record_while_listing(engine: Engine, actor: str, shown: Iterable[ResultRow]) -> Iterator[ResultRow]:
    """Yield results of any number, recording to whom each is shown."""
    page: list[ResultRow] = []
    for row in shown:
        page.append(row)
        if len(page) == _PAGE:
            record_list_view(engine, actor, page)
            yield from page
            page = []
    record_list_view(engine, actor, page)
    yield from page


@query
def list_views_of_image(tx: Transaction, file_id: int) -> dict[datetime, list[str]]:
    """Return when lists showed an image, and to which accounts.

    Returns:
        Full names in order of time, by commit time of the result shown.
    """
    by_result: dict[datetime, list[str]] = {}
    rows = tx.connection.execute(select(listing).where(_c.file_id == file_id).order_by(_c.at, _c.actor)).all()
    accounts = tx.connection.execute(select(account.c.id, account.c.full_name)).all()
    names = {f"account:{row_.id}": row_.full_name for row_ in accounts}
    for row in rows:
        by_result.setdefault(row.committed_at, []).append(names.get(row.actor, row.actor))
    return by_result


def first_list_view(connection: Connection) -> datetime | None:
    """Return the time of the first recorded list view; ``None`` if none."""
    return connection.execute(select(func.min(_c.at))).scalar()
