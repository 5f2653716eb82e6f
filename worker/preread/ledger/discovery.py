"""What was seen in a root: transaction bodies behind ``Ledger``'s verbs of discovery. See there for what each does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, exists, func, select, update

from preread.core.errors import UNREAD_CODES, EmptyFile
from preread.core.text.escaping import display_path
from preread.core.types import FORGOTTEN, OPEN_STATES, FileState, Outcome
from preread.db import schema
from preread.ledger.records import Observation, Version
from preread.ledger.tombstones import load_key
from preread.ledger.transitions import FRESH_START, chunks, keep_outcomes, move, path_key, record

# Not yet read, so that nothing is lost when a newer version of the path takes their place at once.
_NEVER_READ = (FileState.SETTLING, FileState.READY, FileState.RETRY, FileState.MISSED, FileState.IGNORED)
_WAITING = (FileState.SETTLING, FileState.READY)
_CAN_GO = (FileState.SETTLING, FileState.READY, FileState.RETRY, FileState.DONE, FileState.QUARANTINED)

_WITH_OUTCOME = frozenset({FileState.DONE, FileState.QUARANTINED, FileState.VANISHED})
_NO_OUTCOME: dict[str, Any] = {"outcome": None, "code": None, "reason": None, "committed_at": None}


def inserting(connection: Connection, table: Any) -> Any:
    """Return an insert that passes over the rows that a unique constraint forbids."""
    # the two dialects' inserts share on_conflict_do_nothing, but not through a common type
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return sqlite_insert(table).on_conflict_do_nothing()
    from sqlalchemy.dialects.postgresql import insert as postgresql_insert

    return postgresql_insert(table).on_conflict_do_nothing()


def insert_or_skip(
    connection: Connection, table: Any, rows: Sequence[schema.Row], *also: ColumnElement[Any]
) -> list[tuple[Any, ...]]:
    """Insert the rows that no unique constraint forbids; return of those the id, and these columns."""
    statement = inserting(connection, table)
    inserted: list[tuple[Any, ...]] = []
    for batch in chunks(rows):
        inserted.extend(tuple(row) for row in connection.execute(statement.returning(table.c.id, *also), batch))
    return inserted


# ---------------------------------------------------------------------- looking up


def _versions() -> Select[*tuple[Any, ...]]:
    c = schema.file.c
    return select(
        c.id, c.root_id, c.path, c.size_bytes, c.mtime_ns, c.inode, c.state, c.code, c.first_seen_at, c.settled_at,
        c.outcome, c.epoch, c.newest, c.backlog, c.ctime_ns,
    )  # fmt: skip


def _version(path: bytes, row: Row[Any]) -> Version:
    return Version(
        file_id=row.id,
        root_id=row.root_id,
        path=path,
        size_bytes=row.size_bytes,
        mtime_ns=row.mtime_ns,
        inode=row.inode,
        state=FileState(row.state),
        code=row.code,
        first_seen_at=row.first_seen_at,
        settled_at=row.settled_at,
        backlog=row.backlog,
        ctime_ns=row.ctime_ns,
    )


def _newest(
    connection: Connection, root_id: int, paths: Sequence[bytes], *, lock: bool = False
) -> dict[bytes, Row[Any]]:
    c = schema.file.c
    found: dict[bytes, Row[Any]] = {}
    for batch in chunks(paths):
        statement = _versions().where(
            c.root_id == root_id, c.newest, c.path_key.in_([path_key(path) for path in batch])
        )
        if lock:
            statement = statement.order_by(c.id).with_for_update()
        found.update((row.path, row) for row in connection.execute(statement))
    missing = [path for path in paths if path not in found]
    key = load_key(connection) if missing else None
    if key is not None:
        for batch in chunks(missing):
            by_key = {key.path(path): path for path in batch}
            stubs = _versions().add_columns(c.path_key)
            rows = connection.execute(stubs.where(c.root_id == root_id, c.newest, c.path_key.in_(list(by_key))))
            found.update((by_key[row.path_key], row) for row in rows)
    return found


def _is_stub(row: Row[Any]) -> bool:
    """Tell whether the version's film was purged."""
    return bool(row.state == FileState.IGNORED and row.code == FORGOTTEN)


def known(connection: Connection, root_id: int, paths: Sequence[bytes]) -> dict[bytes, Version]:
    """See ``Ledger.known``."""
    return {path: _version(path, row) for path, row in _newest(connection, root_id, paths).items()}


def live_paths(connection: Connection, root_id: int, after_file_id: int, limit: int) -> list[tuple[int, bytes]]:
    """See ``Ledger.live_paths``."""
    c = schema.file.c
    gone = (FileState.IGNORED, FileState.MISSED, FileState.VANISHED)
    rows = connection.execute(
        select(c.id, c.path)
        .where(c.root_id == root_id, c.newest, c.id > after_file_id, c.state.not_in(gone))
        .order_by(c.id)
        .limit(limit)
    )
    return [(row.id, row.path) for row in rows]


def unsettled(connection: Connection, root_id: int, after_file_id: int, limit: int) -> list[tuple[int, bytes]]:
    """See ``Ledger.unsettled``."""
    c = schema.file.c
    rows = connection.execute(
        select(c.id, c.path)
        .where(c.state == FileState.SETTLING, c.root_id == root_id, c.newest, c.id > after_file_id)
        .order_by(c.id)
        .limit(limit)
    )
    return [(row.id, row.path) for row in rows]


def counts(
    connection: Connection, root_ids: list[int] | None, states: Collection[FileState] = tuple(FileState)
) -> dict[FileState, int]:
    """See ``Ledger.counts``; ``states``: those to count."""
    c = schema.file.c
    statement = select(c.state, func.count().label("files")).where(c.state.in_(sorted(states))).group_by(c.state)
    if root_ids is not None and connection.execute(select(exists().where(schema.root.c.id.not_in(root_ids)))).scalar():
        # where these are all roots, an index alone has the answer, and a million rows are left alone;
        # as an expression: without statistics SQLite would walk through a root's files rather than those few states
        statement = statement.where((c.root_id + 0).in_(root_ids))
    found = {FileState(row.state): row.files for row in connection.execute(statement)}
    return {state: found.get(state, 0) for state in states}


def owed(connection: Connection, root_ids: list[int] | None) -> int:
    """See ``Ledger.owed``."""
    c = schema.file.c
    statement = select(func.count()).select_from(schema.file).where(c.state.in_(sorted(OPEN_STATES)))
    if root_ids is not None:
        statement = statement.where(c.root_id.in_(root_ids))
    return connection.execute(statement).scalar_one()


# ---------------------------------------------------------------------- observing


def observe(
    connection: Connection, now: datetime, root_id: int, observations: Sequence[Observation], backlog: bool
) -> dict[bytes, Version]:
    """See ``Ledger.observe``."""
    # one order for all workers, so that two of them on one root do not wait for each other in a circle
    seen = sorted({observation.path: observation for observation in observations}.values(), key=lambda one: one.path)
    before = _newest(connection, root_id, [one.path for one in seen], lock=True)
    for one in seen:
        row = before.get(one.path)
        if row is not None and _is_stub(row) and (row.size_bytes, row.mtime_ns) != (one.size_bytes, one.mtime_ns):
            del before[one.path]  # what was purged stands for those very bytes; these are others
    unknown = [one for one in seen if one.path not in before]
    _insert(connection, now, root_id, unknown, FileState.SETTLING, "seen", backlog=backlog)
    for one in seen:
        row = before.get(one.path)
        if row is not None:
            if (row.size_bytes, row.mtime_ns) == (one.size_bytes, one.mtime_ns):
                _seen_again(connection, now, row, one)
                if row.backlog and not backlog and row.state in _WAITING:
                    connection.execute(update(schema.file).where(schema.file.c.id == row.id).values(backlog=False))
            else:
                _changed(connection, now, root_id, row, one)
    return known(connection, root_id, [one.path for one in seen])


def _insert(
    connection: Connection,
    now: datetime,
    root_id: int,
    observations: Sequence[Observation],
    state: FileState,
    why: str,
    code: str | None = None,
    *,
    backlog: bool = False,
) -> int:
    rows: list[schema.Row] = [
        {
            **FRESH_START,
            **_NO_OUTCOME,
            "root_id": root_id,
            "path": one.path,
            "path_key": path_key(one.path),
            "path_text": display_path(one.path),
            "size_bytes": one.size_bytes,
            "mtime_ns": one.mtime_ns,
            "inode": one.inode,
            "ctime_ns": one.ctime_ns,
            "newest": True,
            "backlog": backlog,
            "state": state,
            "epoch": 0,
            "first_seen_at": now,
            "changed_at": now,
            "code": code,
            "research": False,
            "gate_caveats": "[]",
            "uid_conflict": False,
            "age_conflict": False,
        }
        for one in observations
    ]
    inserted = insert_or_skip(connection, schema.file, rows)
    record(connection, now, [(row[0], 0) for row in inserted], None, state, why)
    return len(inserted)


def _seen_again(connection: Connection, now: datetime, row: Row[Any], one: Observation) -> None:
    state = FileState(row.state)
    seen: dict[str, Any] = {"inode": one.inode, "ctime_ns": one.ctime_ns}
    if _is_stub(row):
        return
    if state in _WITH_OUTCOME and _version(one.path, row).is_another_file(one):
        why = "another file of its size and time took its place"
        move(connection, now, [row.id], state, FileState.SETTLING, why, **FRESH_START, **seen)
    elif state is FileState.VANISHED:
        to_state = FileState.QUARANTINED if row.outcome == Outcome.UNREADABLE else FileState.DONE
        move(connection, now, [row.id], state, to_state, "seen again")
    elif state in {FileState.MISSED, FileState.IGNORED}:
        why = "seen again" if state is FileState.MISSED else "no longer ignored"
        move(connection, now, [row.id], state, FileState.SETTLING, why, code=None, reason=None, **seen)
    elif state is FileState.QUARANTINED and row.code in UNREAD_CODES and row.ctime_ns != one.ctime_ns:
        why = "something about it changed"
        move(connection, now, [row.id], state, FileState.READY, why, **FRESH_START, ctime_ns=one.ctime_ns)
    elif state is FileState.SETTLING and row.inode != one.inode:
        connection.execute(update(schema.file).where(schema.file.c.id == row.id).values(inode=one.inode))


def _changed(connection: Connection, now: datetime, root_id: int, row: Row[Any], one: Observation) -> None:
    c = schema.file.c
    earlier = connection.execute(
        _versions()
        .where(c.root_id == root_id, c.path_key == path_key(one.path))
        .where(c.size_bytes == one.size_bytes, c.mtime_ns == one.mtime_ns)
        .with_for_update()
    ).one_or_none()
    if earlier is None and row.state == FileState.SETTLING and row.outcome is None:
        # still growing: the same row, or a slow writer would leave hundreds
        connection.execute(
            update(schema.file)
            .where(c.id == row.id, c.state == FileState.SETTLING)
            .values(
                {
                    **FRESH_START,
                    "backlog": False,
                    "size_bytes": one.size_bytes,
                    "mtime_ns": one.mtime_ns,
                    "inode": one.inode,
                    "ctime_ns": one.ctime_ns,
                    "changed_at": now,
                }
            )
        )
        return
    connection.execute(update(schema.file).where(c.id == row.id).values(newest=False))
    state = FileState(row.state)
    if state in _NEVER_READ:
        move(connection, now, [row.id], state, FileState.SUPERSEDED, "changed before it was read", retry_at=None)
    if earlier is None:
        _insert(connection, now, root_id, [one], FileState.SETTLING, "changed")
        return
    # the path shows a version that it had before
    connection.execute(update(schema.file).where(c.id == earlier.id).values(newest=True))
    if earlier.state == FileState.SUPERSEDED:
        values: dict[str, Any] = {**FRESH_START, "inode": one.inode, "ctime_ns": one.ctime_ns}
        move(connection, now, [earlier.id], FileState.SUPERSEDED, FileState.SETTLING, "changed back", **values)
    else:
        _seen_again(connection, now, earlier, one)


# ---------------------------------------------------------------------- settling, ignoring, absence


def settle(connection: Connection, now: datetime, versions: Iterable[Version]) -> int:
    """See ``Ledger.settle``."""
    settled = _still_settling(connection, versions)
    moved = move(
        connection, now, [row.id for row in settled], FileState.SETTLING, FileState.READY, "settled", settled_at=now
    )
    _supersede_older(connection, now, settled)
    return len(moved)


def quarantine_empty(connection: Connection, now: datetime, versions: Iterable[Version]) -> int:
    """See ``Ledger.quarantine_empty``."""
    empty = [row for row in _still_settling(connection, versions) if row.size_bytes == 0]
    keep_outcomes(connection, now, [row.id for row in empty])
    moved = move(
        connection,
        now,
        [row.id for row in empty],
        FileState.SETTLING,
        FileState.QUARANTINED,
        EmptyFile.code,
        settled_at=now,
        committed_at=now,
        outcome=Outcome.UNREADABLE,
        seal=None,
        code=EmptyFile.code,
        reason=str(EmptyFile()),
    )
    _supersede_older(connection, now, empty)
    return len(moved)


def _still_settling(connection: Connection, versions: Iterable[Version]) -> list[Row[Any]]:
    c = schema.file.c
    expected = {version.file_id: version for version in versions}
    rows: list[Row[Any]] = []
    for batch in chunks(sorted(expected)):
        statement = _versions().where(c.id.in_(batch), c.newest, c.state == FileState.SETTLING).order_by(c.id)
        rows.extend(connection.execute(statement.with_for_update()))
    return [
        row
        for row in rows
        if (row.size_bytes, row.mtime_ns) == (expected[row.id].size_bytes, expected[row.id].mtime_ns)
    ]


def _supersede_older(connection: Connection, now: datetime, newer: Sequence[Row[Any]]) -> None:
    c = schema.file.c
    by_state: dict[FileState, list[int]] = {}
    for batch in chunks(newer):
        roots_and_paths = {(row.root_id, row.path) for row in batch}
        for row in connection.execute(
            select(c.id, c.state, c.root_id, c.path)
            .where(c.root_id.in_({root_id for root_id, _ in roots_and_paths}))
            .where(c.path_key.in_([path_key(path) for _, path in roots_and_paths]))
            .where(~c.newest, c.state != FileState.SUPERSEDED)
        ):
            if (row.root_id, row.path) in roots_and_paths:
                by_state.setdefault(FileState(row.state), []).append(row.id)
    for state, file_ids in by_state.items():
        move(
            connection, now, file_ids, state, FileState.SUPERSEDED, "a newer version settled",
            owner=None, claim_token=None, lease_until=None, retry_at=None,
        )  # fmt: skip


def ignore(connection: Connection, now: datetime, root_id: int, observations: Sequence[Observation], rule: str) -> int:
    """See ``Ledger.ignore``."""
    seen = sorted({observation.path: observation for observation in observations}.values(), key=lambda one: one.path)
    before = _newest(connection, root_id, [one.path for one in seen], lock=True)
    new = [one for one in seen if one.path not in before]
    count = _insert(connection, now, root_id, new, FileState.IGNORED, rule, code=rule)
    for state in (FileState.SETTLING, FileState.READY):
        file_ids = [row.id for row in before.values() if row.state == state]
        keep_outcomes(connection, now, file_ids)
        count += len(move(connection, now, file_ids, state, FileState.IGNORED, rule, **{**_NO_OUTCOME, "code": rule}))
    return count


def absent(connection: Connection, now: datetime, root_id: int, paths: Sequence[bytes]) -> int:
    """See ``Ledger.absent``."""
    c = schema.file.c
    count = 0
    for batch in chunks(sorted(set(paths))):
        rows = connection.execute(
            select(c.id, c.state, c.outcome)
            .where(c.root_id == root_id, c.path_key.in_([path_key(path) for path in batch]))
            .where(c.state.in_(_CAN_GO))
            .order_by(c.id)
            .with_for_update()
        ).all()
        gone: dict[tuple[FileState, FileState], list[int]] = {}
        for row in rows:
            gone.setdefault((FileState(row.state), gone_state(row.outcome)), []).append(row.id)
        for (from_state, to_state), file_ids in gone.items():
            count += len(
                move(connection, now, file_ids, from_state, to_state, "no longer in the folder", retry_at=None)
            )
    return count


def gone_state(outcome: str | None) -> FileState:
    """Return the state of a version that went away: MISSED only where no outcome was ever committed."""
    return FileState.MISSED if outcome is None else FileState.VANISHED
