"""Which results a list showed to whom: the page's lists, the API's searches, the lists of the shell.

A result is named by its film and by when it was committed. Of each actor and result the first time is kept, so that a
list that is loaded again writes nothing, and the table grows no faster than people come to see results.
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
from preread.review.results import ResultRow

_LOG = logging.getLogger(__name__)
_PAGE = 500
_c = listing.c


def note(engine: Engine, actor: str, shown: Iterable[ResultRow]) -> None:
    """Put on record that a list is about to show these results; one transaction, and none where nothing is new.

    A database that is full or takes no changes keeps no list from a reader who waits for results; the log says so.

    Args:
        actor: as in ``audit.append``.
        shown: the results of which the list says something.
    """
    wanted = {(row.result_id, row.committed_at) for row in shown}

    def known(connection: Connection) -> set[tuple[int, datetime]]:
        films = [film for film, _ in wanted]
        these = schema.among(connection, _c.file_id, films)
        rows = connection.execute(select(_c.file_id, _c.committed_at).where(these, _c.actor == actor)).all()
        return {(row.file_id, row.committed_at) for row in rows}

    fresh = wanted - read(engine, known) if wanted else wanted
    if not fresh:
        return

    def body(connection: Connection, _again: bool) -> None:
        now = database_now(connection)
        rows = [{"file_id": film, "actor": actor, "committed_at": of, "at": now} for film, of in sorted(fresh)]
        # a second window of the same reader may have been quicker
        connection.execute(insert_new(connection, listing), rows)

    try:
        write(engine, body)
    except (DatabaseFull, DatabaseReadOnly) as error:
        _LOG.warning("listing_not_kept", extra={"code": error.code, "count": len(fresh)})


def noted(engine: Engine, actor: str, shown: Iterable[ResultRow]) -> Iterator[ResultRow]:
    """Yield results of any number, each put on record before."""
    page: list[ResultRow] = []
    for row in shown:
        page.append(row)
        if len(page) == _PAGE:
            note(engine, actor, page)
            yield from page
            page = []
    note(engine, actor, page)
    yield from page


def of_film(engine: Engine, file_id: int) -> dict[datetime, list[str]]:
    """Return who was shown a film in a list, by when the result that stood there was committed; the first first."""

    def body(connection: Connection) -> dict[datetime, list[str]]:
        found: dict[datetime, list[str]] = {}
        rows = connection.execute(select(listing).where(_c.file_id == file_id).order_by(_c.at, _c.actor)).all()
        names = connection.execute(select(account.c.id, account.c.full_name)).all()
        people = {f"account:{one.id}": one.full_name for one in names}
        for row in rows:
            found.setdefault(row.committed_at, []).append(people.get(row.actor, row.actor))
        return found

    return read(engine, body)


def since(connection: Connection) -> datetime | None:
    """Return when the first list was put on record."""
    return connection.execute(select(func.min(_c.at))).scalar()
