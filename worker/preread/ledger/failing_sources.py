"""Source folders whose files often end their inference process.

They are claimed after the others.

A source is a folder of a root with all that lies below it. A file counts if it has lately ended its process (a crash,
the memory limit) or held it until the deadline, and has not ended well since; after an hour without one it is forgiven.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, exists, func, or_, select

from preread.core.errors import SlotDeadline
from preread.db import schema
from preread.ledger.transaction import Transaction, query

RECENT = timedelta(hours=1)
FAILURES = 3
"""Fewest failed files in that time that make a source a failing one."""
GOOD_FOR_EACH = 9
"""Number of good files for each failed one from which a source does not count as failing."""
_MOST_FAILURES = 1000
_MOST_FOLDERS = 50
# Among so many of the newest versions one of another source is looked for.
_OTHERS_AMONG = 10_000

_f = schema.file.c


@dataclass(frozen=True, slots=True)
class Source:
    """One folder of a watched folder, by its relative path.

    The path ``b""`` is the whole watched folder.
    """

    root_id: int
    folder: bytes

    def covers(self, root_id: int, path: bytes) -> bool:
        """Return whether a file or folder lies in this source folder."""
        return root_id == self.root_id and (not self.folder or path.startswith(self.folder + b"/"))

    def file_condition(self) -> ColumnElement[bool]:
        """Return the SQL condition that a file lies in this source folder."""
        here = _f.root_id == self.root_id
        if not self.folder:
            return here
        return here & (_f.path >= self.folder + b"/") & (_f.path < self.folder + b"0")  # "0" follows "/"


def claim_lanes(sources: Sequence[Source]) -> Iterator[tuple[list[ColumnElement[bool]], bool]]:
    """Yield SQL conditions for the lanes of pending files, in claiming order.

    With each, whether its files come after others. Files that failed themselves come last, wherever they lie.
    """
    fresh = _f.failed_at.is_(None)
    yield [fresh, *(~other.file_condition() for other in sources)], False
    if sources:
        yield [fresh, or_(*(other.file_condition() for other in sources))], True
    yield [_f.failed_at.is_not(None)], True


def met_deadline_before(connection: Connection, file_id: int, sha256: str | None) -> bool:
    """Return whether a file version or its content met the deadline before."""
    same = _f.id == file_id
    if sha256 is not None:
        same |= _f.failed_sha256 == sha256
    # the index on ``failed_at`` leads to the few that there are
    late = exists().where(_f.failed_at.is_not(None), _f.failed_code == SlotDeadline.code, same)
    return bool(connection.execute(select(late)).scalar_one())


@query
def failing_sources(tx: Transaction, root_ids: Sequence[int]) -> list[Source]:
    """Return source folders whose files recently often failed.

    Failed: ended their inference process, or met its deadline. The list is empty if every folder of these roots that
    files came from is such a folder.
    """
    recent = (_f.failed_at > tx.now - RECENT) & (_f.failed_at <= tx.now)
    failed = tx.connection.execute(
        select(_f.root_id, _f.path)
        .where(recent, _f.root_id.in_(root_ids))
        .order_by(_f.failed_at.desc())
        .limit(_MOST_FAILURES)
    ).all()
    if len(failed) < FAILURES:
        return []
    failures = Counter(Source(row.root_id, folder) for row in failed for folder in _folders(row.path))
    # the innermost folder answers for its files: what it explains is no fault of those around it
    inmost_first = sorted(
        failures, key=lambda source: (-source.folder.count(b"/"), not source.folder, source.root_id, source.folder)
    )
    found: list[Source] = []
    for source in [folder for folder in inmost_first if failures[folder] >= FAILURES][:_MOST_FOLDERS]:
        within = [other for other in found if source.covers(other.root_id, other.folder)]
        count = failures[source] - sum(failures[other] for other in within)
        if count >= FAILURES and _good(tx, source, within, GOOD_FOR_EACH * count) < GOOD_FOR_EACH * count:
            found = [other for other in found if other not in within] + [source]
    # if every source fails, none can go before the others
    return found if found and _has_others(tx.connection, root_ids, found) else []


def _folders(path: bytes) -> Iterator[bytes]:
    """Yield every folder above a file, the root itself included."""
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def _good(tx: Transaction, source: Source, but: Iterable[Source], most: int) -> int:
    """Count the good files of a source, up to ``most``.

    Good: lately had an outcome, and have not failed.
    """
    ended = (_f.committed_at > tx.now - RECENT) & _f.failed_at.is_(None)
    good = select(_f.id).where(ended, source.file_condition(), *(~other.file_condition() for other in but)).limit(most)
    return tx.connection.execute(select(func.count()).select_from(good.subquery())).scalar_one()


def _has_others(connection: Connection, root_ids: Sequence[int], sources: Sequence[Source]) -> bool:
    newest = select(func.max(_f.id)).scalar_subquery()
    others = select(_f.id).where(_f.id > newest - _OTHERS_AMONG, _f.root_id.in_(root_ids))
    return (
        connection.execute(others.where(*(~other.file_condition() for other in sources)).limit(1)).first() is not None
    )
