"""Discovery of file versions: observed, complete, ignored and absent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, exists, func, select, update

from preread.core.errors import UNREAD_CODES, EmptyFile
from preread.core.text.escaping import display_path
from preread.core.types import FORGOTTEN, FileState, Outcome
from preread.db import schema
from preread.db.statements import chunks, insert_or_skip
from preread.ledger.records import Observation, Version
from preread.ledger.tombstones import load_tombstone_key
from preread.ledger.transaction import Transaction, query, transaction
from preread.ledger.transitions import FRESH_START, keep_outcomes, move_versions, path_key, record_transitions

# Not yet read, so that nothing is lost when a newer version of the path takes their place at once.
_NEVER_READ = (FileState.SETTLING, FileState.READY, FileState.RETRY, FileState.MISSED, FileState.IGNORED)
_WAITING = (FileState.SETTLING, FileState.READY)
_CAN_GO = (FileState.SETTLING, FileState.READY, FileState.RETRY, FileState.DONE, FileState.QUARANTINED)

_file = schema.file.c
_WITH_OUTCOME = frozenset({FileState.DONE, FileState.QUARANTINED, FileState.VANISHED})
_NO_OUTCOME: dict[str, Any] = {"outcome": None, "code": None, "reason": None, "committed_at": None}


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
    key = load_tombstone_key(connection) if missing else None
    if key is not None:
        for batch in chunks(missing):
            by_key = {key.path(path): path for path in batch}
            stubs = _versions().add_columns(c.path_key)
            rows = connection.execute(stubs.where(c.root_id == root_id, c.newest, c.path_key.in_(list(by_key))))
            found.update((by_key[row.path_key], row) for row in rows)
    return found


def _is_stub(row: Row[Any]) -> bool:
    """Return whether the version was purged."""
    return bool(row.state == FileState.IGNORED and row.code == FORGOTTEN)


@query
def newest_versions(tx: Transaction, root_id: int, paths: Collection[bytes]) -> dict[bytes, Version]:
    """Return the newest file version of each path; others are left out."""
    return {path: _version(path, row) for path, row in _newest(tx.connection, root_id, list(paths)).items()}


@query
def expected_paths(
    tx: Transaction, root_id: int, *, after_file_id: int = 0, limit: int = 1000
) -> list[tuple[int, bytes]]:
    """Return a page of paths that a complete scan should find.

    Those of newest versions that are not IGNORED, MISSED or VANISHED.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        root_id: the watched folder.
        after_file_id: the last id of the page before; 0 for the first page.
        limit: most entries of a page; the page after the last one is empty.
    """
    gone = (FileState.IGNORED, FileState.MISSED, FileState.VANISHED)
    return _page(tx, root_id, _file.state.not_in(gone), after_file_id, limit)


@query
def incomplete_paths(
    tx: Transaction, root_id: int, *, after_file_id: int = 0, limit: int = 500
) -> list[tuple[int, bytes]]:
    """Return a page of paths of SETTLING file versions, by rising id."""
    return _page(tx, root_id, _file.state == FileState.SETTLING, after_file_id, limit)


def _page(
    tx: Transaction, root_id: int, condition: ColumnElement[bool], after_file_id: int, limit: int
) -> list[tuple[int, bytes]]:
    versions = select(_file.id, _file.path).where(condition, _file.root_id == root_id, _file.newest)
    rows = tx.connection.execute(versions.where(_file.id > after_file_id).order_by(_file.id).limit(limit))
    return [(row.id, row.path) for row in rows]


@query
def count_versions(
    tx: Transaction, root_ids: Sequence[int] | None = None, states: Collection[FileState] = tuple(FileState)
) -> dict[FileState, int]:
    """Count the file versions of watched folders by state.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        root_ids: the watched folders; ``None`` for all.
        states: those to count; each is a key of the result.
    """
    statement = select(_file.state, func.count().label("files")).where(_file.state.in_(sorted(states)))
    others = None if root_ids is None else select(exists().where(schema.root.c.id.not_in(list(root_ids))))
    if root_ids is not None and others is not None and tx.connection.execute(others).scalar():
        # where these are all roots, an index alone has the answer, and a million rows are left alone;
        # as an expression: without statistics SQLite would walk through a root's files rather than those few states
        statement = statement.where((_file.root_id + 0).in_(list(root_ids)))
    found = {FileState(row.state): row.files for row in tx.connection.execute(statement.group_by(_file.state))}
    return {state: found.get(state, 0) for state in states}


# ---------------------------------------------------------------------- observing


@transaction
def observe(
    tx: Transaction, root_id: int, observations: Collection[Observation], *, backlog: bool = False
) -> dict[bytes, Version]:
    """Record directory entries as file versions; return the newest versions.

    A path with a new size or mtime gets a new version, SETTLING (a version that was itself still SETTLING is changed in
    place, so that a growing file is one row). MISSED and IGNORED versions seen again become SETTLING again; a VANISHED
    one gets back the state of its outcome.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        root_id: the watched folder.
        observations: the entries.
        backlog: the root's first scan met them: new paths lay there before, and are claimed after live files. ``False``
            makes backlog that still waits (SETTLING, READY) live.

    Returns:
        The newest version of each path afterwards.
    """
    # one order for all workers, so that two of them on one root do not wait for each other in a circle
    seen = sorted(
        {observation.path: observation for observation in observations}.values(), key=lambda entry: entry.path
    )
    before = _newest(tx.connection, root_id, [entry.path for entry in seen], lock=True)
    for entry in seen:
        row = before.get(entry.path)
        if row is not None and _is_stub(row) and (row.size_bytes, row.mtime_ns) != (entry.size_bytes, entry.mtime_ns):
            del before[entry.path]  # what was purged stands for those very bytes; these are others
    unknown = [entry for entry in seen if entry.path not in before]
    _insert(tx, root_id, unknown, FileState.SETTLING, "seen", backlog=backlog)
    for entry in seen:
        row = before.get(entry.path)
        if row is not None:
            if (row.size_bytes, row.mtime_ns) == (entry.size_bytes, entry.mtime_ns):
                _seen_again(tx, row, entry)
                if row.backlog and not backlog and row.state in _WAITING:
                    tx.connection.execute(update(schema.file).where(_file.id == row.id).values(backlog=False))
            else:
                _changed(tx, root_id, row, entry)
    return newest_versions(tx, root_id, [entry.path for entry in seen])


def _by_path(observations: Collection[Observation]) -> list[Observation]:
    """Return the last observation of each path, sorted by path."""
    return sorted({entry.path: entry for entry in observations}.values(), key=lambda entry: entry.path)


def _insert(
    tx: Transaction,
    root_id: int,
    observations: Sequence[Observation],
    state: FileState,
    why: str,
    *,
    backlog: bool = False,
) -> int:
    """Insert a version for each entry; return the number of new rows.

    Rows that another transaction has inserted are skipped.

    Args:
        tx: the transaction.
        root_id: the watched folder.
        observations: the entries.
        state: SETTLING or IGNORED.
        why: the reason for the history; the rule if the state is IGNORED.
        backlog: see ``observe``.
    """
    rows: list[schema.Row] = [
        {
            **FRESH_START,
            **_NO_OUTCOME,
            "root_id": root_id,
            "path": entry.path,
            "path_key": path_key(entry.path),
            "path_text": display_path(entry.path),
            "size_bytes": entry.size_bytes,
            "mtime_ns": entry.mtime_ns,
            "inode": entry.inode,
            "ctime_ns": entry.ctime_ns,
            "newest": True,
            "backlog": backlog,
            "state": state,
            "epoch": 0,
            "first_seen_at": tx.now,
            "changed_at": tx.now,
            "code": why if state is FileState.IGNORED else None,
            "research": False,
            "gate_caveats": "[]",
            "uid_conflict": False,
            "age_conflict": False,
        }
        for entry in observations
    ]
    inserted = insert_or_skip(tx.connection, schema.file, rows)
    record_transitions(tx, [(row[0], 0) for row in inserted], None, state, why)
    return len(inserted)


def _seen_again(tx: Transaction, row: Row[Any], entry: Observation) -> None:
    state = FileState(row.state)
    seen: dict[str, Any] = {"inode": entry.inode, "ctime_ns": entry.ctime_ns}
    if _is_stub(row):
        return
    if state in _WITH_OUTCOME and _version(entry.path, row).is_another_file(entry):
        why = "another file of its size and time took its place"
        move_versions(tx, [row.id], state, FileState.SETTLING, why, **FRESH_START, **seen)
    elif state is FileState.VANISHED:
        to_state = FileState.QUARANTINED if row.outcome == Outcome.UNREADABLE else FileState.DONE
        move_versions(tx, [row.id], state, to_state, "seen again")
    elif state in {FileState.MISSED, FileState.IGNORED}:
        why = "seen again" if state is FileState.MISSED else "no longer ignored"
        move_versions(tx, [row.id], state, FileState.SETTLING, why, code=None, reason=None, **seen)
    elif state is FileState.QUARANTINED and row.code in UNREAD_CODES and row.ctime_ns != entry.ctime_ns:
        why = "something about it changed"
        move_versions(tx, [row.id], state, FileState.READY, why, **FRESH_START, ctime_ns=entry.ctime_ns)
    elif state is FileState.SETTLING and row.inode != entry.inode:
        tx.connection.execute(update(schema.file).where(_file.id == row.id).values(inode=entry.inode))


def _changed(tx: Transaction, root_id: int, row: Row[Any], entry: Observation) -> None:
    c = schema.file.c
    earlier = tx.connection.execute(
        _versions()
        .where(c.root_id == root_id, c.path_key == path_key(entry.path))
        .where(c.size_bytes == entry.size_bytes, c.mtime_ns == entry.mtime_ns)
        .with_for_update()
    ).one_or_none()
    if earlier is None and row.state == FileState.SETTLING and row.outcome is None:
        # still growing: the same row, or a slow writer would leave hundreds
        tx.connection.execute(
            update(schema.file)
            .where(c.id == row.id, c.state == FileState.SETTLING)
            .values(
                {
                    **FRESH_START,
                    "backlog": False,
                    "size_bytes": entry.size_bytes,
                    "mtime_ns": entry.mtime_ns,
                    "inode": entry.inode,
                    "ctime_ns": entry.ctime_ns,
                    "changed_at": tx.now,
                }
            )
        )
        return
    tx.connection.execute(update(schema.file).where(c.id == row.id).values(newest=False))
    state = FileState(row.state)
    if state in _NEVER_READ:
        move_versions(tx, [row.id], state, FileState.SUPERSEDED, "changed before it was read", retry_at=None)
    if earlier is None:
        _insert(tx, root_id, [entry], FileState.SETTLING, "changed")
        return
    # the path shows a version that it had before
    tx.connection.execute(update(schema.file).where(c.id == earlier.id).values(newest=True))
    if earlier.state == FileState.SUPERSEDED:
        values: dict[str, Any] = {**FRESH_START, "inode": entry.inode, "ctime_ns": entry.ctime_ns}
        move_versions(tx, [earlier.id], FileState.SUPERSEDED, FileState.SETTLING, "changed back", **values)
    else:
        _seen_again(tx, earlier, entry)


# ---------------------------------------------------------------------- settling, ignoring, absence


@transaction
def settle(tx: Transaction, versions: Collection[Version]) -> int:
    """Move SETTLING file versions that are complete to READY; count them.

    Complete: size and mtime are still those of the argument. Every other version of those paths becomes SUPERSEDED; an
    inference process that still reads one is fenced.
    """
    settled = _still_settling(tx.connection, versions)
    moved = move_versions(
        tx, [row.id for row in settled], FileState.SETTLING, FileState.READY, "settled", settled_at=tx.now
    )
    _supersede_older(tx, settled)
    return len(moved)


@transaction
def quarantine_empty(tx: Transaction, versions: Collection[Version]) -> int:
    """Quarantine SETTLING file versions without bytes; count them.

    Their code is ``empty``. The caller decides when: after 24 h, or at once if a run ends (``--once``).
    """
    empty = [row for row in _still_settling(tx.connection, versions) if row.size_bytes == 0]
    keep_outcomes(tx, [row.id for row in empty])
    moved = move_versions(
        tx,
        [row.id for row in empty],
        FileState.SETTLING,
        FileState.QUARANTINED,
        EmptyFile.code,
        settled_at=tx.now,
        committed_at=tx.now,
        outcome=Outcome.UNREADABLE,
        seal=None,
        code=EmptyFile.code,
        reason=str(EmptyFile()),
    )
    _supersede_older(tx, empty)
    return len(moved)


def _still_settling(connection: Connection, versions: Collection[Version]) -> list[Row[Any]]:
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


def _supersede_older(tx: Transaction, newer: Sequence[Row[Any]]) -> None:
    c = schema.file.c
    by_state: dict[FileState, list[int]] = {}
    for batch in chunks(newer):
        roots_and_paths = {(row.root_id, row.path) for row in batch}
        for row in tx.connection.execute(
            select(c.id, c.state, c.root_id, c.path)
            .where(c.root_id.in_({root_id for root_id, _ in roots_and_paths}))
            .where(c.path_key.in_([path_key(path) for _, path in roots_and_paths]))
            .where(~c.newest, c.state != FileState.SUPERSEDED)
        ):
            if (row.root_id, row.path) in roots_and_paths:
                by_state.setdefault(FileState(row.state), []).append(row.id)
    for state, file_ids in by_state.items():
        move_versions(
            tx, file_ids, state, FileState.SUPERSEDED, "a newer version is complete",
            owner=None, claim_token=None, lease_until=None, retry_at=None,
        )  # fmt: skip


@transaction
def record_ignored(tx: Transaction, root_id: int, observations: Collection[Observation], rule: str) -> int:
    """Record directory entries that a rule ignores; count those now IGNORED.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        root_id: the watched folder.
        observations: the entries.
        rule: code of the rule, e.g. ``not_regular``.
    """
    seen = sorted(
        {observation.path: observation for observation in observations}.values(), key=lambda entry: entry.path
    )
    before = _newest(tx.connection, root_id, [entry.path for entry in seen], lock=True)
    new = [entry for entry in seen if entry.path not in before]
    count = _insert(tx, root_id, new, FileState.IGNORED, rule)
    for state in (FileState.SETTLING, FileState.READY):
        file_ids = [row.id for row in before.values() if row.state == state]
        keep_outcomes(tx, file_ids)
        count += len(move_versions(tx, file_ids, state, FileState.IGNORED, rule, **{**_NO_OUTCOME, "code": rule}))
    return count


@transaction
def record_absent(tx: Transaction, root_id: int, paths: Collection[bytes]) -> int:
    """Mark file versions whose paths are absent MISSED or VANISHED.

    To be called after complete scans. A version without an outcome becomes MISSED, one with an outcome VANISHED.
    Claimed versions stay as they are, and nothing is deleted.
    """
    c = schema.file.c
    count = 0
    for batch in chunks(sorted(set(paths))):
        rows = tx.connection.execute(
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
            count += len(move_versions(tx, file_ids, from_state, to_state, "no longer in the folder", retry_at=None))
    return count


def gone_state(outcome: str | None) -> FileState:
    """Return the state of a file version whose file is absent.

    MISSED if it has no outcome, else VANISHED.
    """
    return FileState.MISSED if outcome is None else FileState.VANISHED
