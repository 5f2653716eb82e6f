"""Results of a withdrawn bundle and the accounts that saw them.

Openings of an image come from the audit trail: page, API and shell record each opened image by its id. Images shown in
a list come from table ``listing``. Exports of reviews contain answers but record no image: they are only counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, exists, func, or_, select

from preread.core.types import JSONObject
from preread.db.engine import read
from preread.db.review_schema import account, audit, listing
from preread.db.schema import assessment, file, past_outcome
from preread.db.statements import read_pages
from preread.ledger.transaction import Transaction, query
from preread.review import disclosures
from preread.review.audit import Action
from preread.review.results import ResultRow, format_utc, result_to_json, results_from_rows, select_results

_PAGE = 500
_TRAIL_PAGE = 5_000
_OPENED = (Action.VIEW, Action.REVEAL, Action.READING, Action.EXPORT_PATIENT)
_IN_A_LIST = "listed"
_f, _p, _t, _l = file.c, past_outcome.c, audit.c, listing.c


@dataclass(frozen=True, slots=True)
class Viewing:
    """Access of one account to one image's result.

    Attributes:
        who: full name and user name, or the operating-system user of a shell.
        action: audit action, or ``listed`` if a list showed the image.
        at: time of the access.
    """

    who: str
    action: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RecalledImage:
    """An image with an outcome of a withdrawn bundle.

    Attributes:
        result: its current result.
        replaced: the withdrawn bundle's result was replaced by a later one.
        seen: accounts that opened or reviewed it since the bundle's first result, by time.
        listed: accounts to which a list showed the bundle's result, by time.
    """

    result: ResultRow
    replaced: bool
    seen: tuple[Viewing, ...]
    listed: tuple[Viewing, ...]


@dataclass(frozen=True, slots=True)
class UnattributedAccess:
    """Accesses to a withdrawn bundle's results that name no image.

    Attributes:
        exports: number of review exports since the bundle's first result.
        lists_since: start of the record of lists; ``None`` if no list was recorded yet.
    """

    exports: int
    lists_since: datetime | None


def recalled_images(engine: Engine, bundle_ids: Sequence[int]) -> Iterator[RecalledImage]:
    """Yield the images with an outcome of withdrawn bundles, by file id.

    Raises:
        DatabaseAway, SchemaOutdated: the database cannot be read.
    """
    since = read(engine, lambda connection: _since(connection, bundle_ids))
    people = _people(engine)
    seen = _seen(engine, since, people)
    page = partial(_page, bundle_ids=bundle_ids)
    for rows in read_pages(engine, page, lambda row: row[0].result_id, 0):
        ids = [result.result_id for result, _ in rows]
        listed = read(engine, partial(_listed, bundle_ids=bundle_ids, file_ids=ids, people=people))
        for result, replaced in rows:
            accesses = (tuple(by_file.get(result.result_id, ())) for by_file in (seen, listed))
            yield RecalledImage(result, replaced, *accesses)


@query
def unattributed_access(tx: Transaction, bundle_ids: Sequence[int]) -> UnattributedAccess:
    """Return the accesses to withdrawn bundles' results that name no image.

    Raises:
        DatabaseAway, SchemaOutdated: the database cannot be read.
    """
    since = _since(tx.connection, bundle_ids)
    exports = 0
    if since is not None:
        count_exports = select(func.count()).where(_t.at >= since, _t.action == Action.EXPORT)
        exports = tx.connection.execute(count_exports).scalar_one()
    return UnattributedAccess(exports, disclosures.first_list_view(tx.connection))


def recalled_image_to_json(image: RecalledImage) -> JSONObject:
    """Return an image of a withdrawn bundle as a JSON object."""
    viewings, listed = (
        [{"who": viewings.who, "action": viewings.action, "at": format_utc(viewings.at)} for viewings in accesses]
        for accesses in (image.seen, image.listed)
    )
    return {**result_to_json(image.result), "replaced": image.replaced, "seen": viewings, "listed": listed}


def _since(connection: Connection, bundle_ids: Sequence[int]) -> datetime | None:
    """Return the time of the bundles' first outcome, or ``None``."""
    starts = [
        connection.execute(select(func.min(column)).where(bundle_id.in_(bundle_ids))).scalar()
        for column, bundle_id in (
            (assessment.c.assessed_at, assessment.c.bundle_id),
            (_f.committed_at, _f.bundle_id),
            (_p.committed_at, _p.bundle_id),
        )
    ]
    return min((at for at in starts if at is not None), default=None)


def _people(engine: Engine) -> dict[str, str]:
    """Return full name and user name by audit actor (``account:ID``)."""
    columns = (account.c.id, account.c.full_name, account.c.name)
    rows = read(engine, lambda connection: connection.execute(select(*columns)).all())
    return {f"account:{row.id}": f"{row.full_name} ({row.name})" for row in rows}


def _seen(engine: Engine, since: datetime | None, people: dict[str, str]) -> dict[int, list[Viewing]]:
    """Return the recorded openings since a time, by file id."""
    viewings: dict[int, list[Viewing]] = {}
    if since is None:
        return viewings
    for rows in read_pages(engine, partial(_opened, since=since), attrgetter("id"), 0):
        for row in rows:
            kind, _, number = row.object.partition(":")
            if kind == "film" and number.isdecimal():
                viewings.setdefault(int(number), []).append(
                    Viewing(people.get(row.actor, row.actor), row.action, row.at)
                )
    return viewings


def _listed(
    connection: Connection, bundle_ids: Sequence[int], file_ids: Sequence[int], people: dict[str, str]
) -> dict[int, list[Viewing]]:
    """Return the recorded list views of these bundles' results, by file id."""

    def has_bundle(columns: Any, file_id: Any) -> ColumnElement[bool]:
        return exists().where(
            file_id == _l.file_id, columns.committed_at == _l.committed_at, columns.bundle_id.in_(bundle_ids)
        )

    query = select(listing).where(_l.file_id.in_(file_ids), has_bundle(_f, _f.id) | has_bundle(_p, _p.file_id))
    viewings: dict[int, list[Viewing]] = {}
    for row in connection.execute(query.order_by(_l.at, _l.actor)):
        viewings.setdefault(row.file_id, []).append(Viewing(people.get(row.actor, row.actor), _IN_A_LIST, row.at))
    return viewings


def _opened(connection: Connection, after: int, *, since: datetime) -> list[Row[Any]]:
    """Return the next page of audit entries that record an opened image."""
    query = select(audit).where(_t.action.in_(_OPENED), _t.at >= since, _t.id > after)
    return list(connection.execute(query.order_by(_t.id).limit(_TRAIL_PAGE)))


def _page(connection: Connection, after: int, *, bundle_ids: Sequence[int]) -> list[tuple[ResultRow, bool]]:
    """Return the next page of results, each with whether it was replaced."""
    earlier = exists().where(_p.file_id == _f.id, _p.bundle_id.in_(bundle_ids))
    statement = (
        select_results()
        .where(_f.id > after, _f.committed_at.is_not(None), or_(_f.bundle_id.in_(bundle_ids), earlier))
        .order_by(_f.id)
        .limit(_PAGE)
    )
    rows = connection.execute(statement).all()
    replaced = [row.bundle_id not in bundle_ids for row in rows]
    return list(zip(results_from_rows(connection, rows), replaced, strict=True))
