"""Deletion of images' data on purpose: selection, deletion, replay.

Deletes in bounded transactions, with previews, and leaves tombstones so that the files are not read again. Before the
database forgets, keyed hashes of the purged versions are appended to a journal file: a backup holds what existed when
it was made, and ``replay`` purges the same images again after a restore.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, func, insert, select, union, update

from preread.admin import purge_journal
from preread.core.errors import SettingsError, UsageError
from preread.core.text.escaping import clean_identifier
from preread.core.types import FORGOTTEN, OPEN_STATES, FileState
from preread.db import schema
from preread.db.admin_schema import tombstone
from preread.db.engine import compact_sqlite, read, write
from preread.db.review_schema import reading, secret, session
from preread.db.statements import CHUNK, chunks, read_pages
from preread.imaging import previews
from preread.ledger.tombstones import KEY_NAME, TombstoneKey, load_tombstone_key, replace_with_stubs, store_tombstones
from preread.ledger.transaction import Transaction, query
from preread.review import audit, audit_proof
from preread.review.audit import Action

_BATCH = 100
_KEY_BYTES = 32
_FAULT = "it, or a part of it, cannot be listed"
_f, _root = schema.file.c, schema.root.c


@dataclass(frozen=True, slots=True)
class PatientQuery:
    """Attributes that select a patient's files; ``None`` is not compared."""

    patient_id: str
    issuer: str | None = None
    birth_date: str | None = None


@dataclass(slots=True)
class PurgeCounts:
    """Numbers of rows that a purge deleted and kept.

    Attributes:
        ``films``: purged file versions.
        readings: deleted reviews.
        readings_kept: reviews that were kept.
        contents: deleted contents.
        previews: deleted previews.
        uncleaned: how often SQLite's file could not be rewritten afterwards, so that it may still hold patient data.
    """

    films: int = 0
    readings: int = 0
    readings_kept: int = 0
    contents: int = 0
    previews: int = 0
    uncleaned: int = 0

    def add(self, other: PurgeCounts) -> None:
        """Add the counts of another purge."""
        for name, value in dataclasses.asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


# ---------------------------------------------------------------------- which films


@query
def select_patient_files(tx: Transaction, patient: PatientQuery) -> list[int]:
    """Return the ids of a patient's file versions, to purge or export.

    Args:
        tx: database, or transaction to take part in.
        patient: Patient ID, optionally with issuer and birth date.

    Raises:
        UsageError: the ID is invalid, or the images name several issuers or birth dates, so that it is ambiguous.
    """
    patient_id = clean_identifier(patient.patient_id)
    if patient_id is None:
        raise UsageError("the Patient ID is empty or invalid")
    conditions = [_f.patient_id == patient_id]
    for column, value in ((_f.issuer_of_patient_id, patient.issuer), (_f.patient_birth_date, patient.birth_date)):
        if value is not None:
            conditions.append(column == (clean_identifier(value) or ""))

    columns = (_f.issuer_of_patient_id, _f.patient_birth_date)
    distinct = [
        tx.connection.execute(select(func.count(column.distinct())).where(*conditions)).scalar_one()
        for column in columns
    ]
    if max(distinct) > 1:
        issuers, dates = distinct
        raise UsageError(
            f"images with this Patient ID have {issuers} issuers and {dates} birth dates: give the issuer on the "
            "second line and the birth date on the third"
        )
    return list(tx.connection.execute(select(_f.id).where(*conditions).order_by(_f.id)).scalars())


@query
def select_study_files(tx: Transaction, study_instance_uid: str) -> list[int]:
    """Return the ids of a study's file versions, to purge or export.

    Raises:
        UsageError: the UID is invalid, or its images name more than one patient.
    """
    uid = clean_identifier(study_instance_uid)
    if uid is None:
        raise UsageError("the Study Instance UID is empty or invalid")
    condition = _f.study_instance_uid == uid

    patients = tx.connection.execute(select(func.count(_f.patient_id.distinct())).where(condition)).scalar_one()
    if patients > 1:
        raise UsageError(f"images of this study belong to {patients} patients: purge by patient")
    return list(tx.connection.execute(select(_f.id).where(condition).order_by(_f.id)).scalars())


@query
def select_old_files(tx: Transaction, days: float) -> list[int]:
    """Return the ids of file versions that ended ``days`` days ago or more.

    The age is that of the last result, or of the first sighting if there is no result.
    """
    before = tx.now - timedelta(days=days)
    at = func.coalesce(_f.committed_at, _f.first_seen_at)
    statement = select(_f.id).where(at < before, _f.state.not_in(sorted(OPEN_STATES)), ~_stub())
    return list(tx.connection.execute(statement.order_by(_f.id)).scalars())


def count_affected(engine: Engine, file_ids: Sequence[int]) -> tuple[int, int]:
    """Return the numbers of reviews and of pending files that a purge affects."""
    readings = waiting = 0
    for batch in chunks(file_ids):
        of_these = select(func.count()).select_from(reading).where(reading.c.file_id.in_(batch))
        open_now = select(func.count()).select_from(schema.file).where(_f.id.in_(batch), _f.state.in_(OPEN_STATES))
        readings += _scalar(engine, of_these)
        waiting += _scalar(engine, open_now)
    return readings, waiting


def _scalar(engine: Engine, statement: Select[int]) -> int:
    return read(engine, lambda connection: connection.execute(statement).scalar_one())


# ---------------------------------------------------------------------- forgetting


@dataclass(frozen=True, slots=True)
class PurgeRequest:
    """Options of a purge of stored data.

    Attributes:
        actor: who asks, for the audit trail.
        reason: recorded in the history of each version; must not contain patient data.
        readings: delete signed reviews too.
        journal: purge journal; ``None`` writes none.
        preview_dir: folder of previews, or ``None`` if none are kept.
        clean: rewrite an SQLite file afterwards, so that deleted data leave its bytes; see ``engine.compact_sqlite``.
    """

    actor: str
    reason: str
    readings: bool
    journal: Path | None
    preview_dir: Path | None
    clean: bool = True


def purge_files(
    engine: Engine, request: PurgeRequest, file_ids: Sequence[int], on_batch: Callable[[], None] = lambda: None
) -> PurgeCounts:
    """Purge file versions: delete stored data, a hundred in a transaction.

    Args:
        engine: database.
        request: how to purge.
        file_ids: ids of the versions.
        on_batch: called after each transaction.

    Returns:
        Numbers of deleted and kept rows.

    Raises:
        DatabaseAway: the database does not answer; earlier batches stay purged.
        SettingsError: the journal belongs to another database, or cannot be written.
    """
    key = _key(engine, request.journal)
    counts = PurgeCounts()
    for batch in chunks(file_ids, _BATCH):
        counts.add(_purge_batch(engine, request, key, batch))
        on_batch()
    if request.clean and counts.films:
        counts.uncleaned = int(not compact_sqlite(engine))
    return counts


def _purge_batch(engine: Engine, request: PurgeRequest, key: TombstoneKey, file_ids: Sequence[int]) -> PurgeCounts:
    """Purge some file versions in one transaction, after the journal entry."""
    number = secrets.token_hex(_KEY_BYTES)
    if request.journal is not None:
        rows, held = read(engine, lambda connection: _about(connection, file_ids))
        entries = []
        for row in rows:
            version, content = _digests(key, row)
            content = None if row.instance_id in held else content
            entries.append({"purge": number, "version": version, "content": content, "readings": request.readings})
        purge_journal.append_to_journal(request.journal, entries)

    def body(connection: Connection, _again: bool) -> PurgeCounts:
        tx = Transaction(connection)
        roots = connection.execute(select(_f.root_id).where(_f.id.in_(file_ids), ~_stub()).distinct()).scalars().all()
        audit_proof.record_purge(connection, request.actor, file_ids, readings=request.readings)
        forgotten = replace_with_stubs(tx, key, file_ids, request.reason, with_reviews=request.readings)
        store_tombstones(tx, [number])
        # search texts may name the patient
        connection.execute(update(session).where(session.c.search.is_not(None)).values(search=None))
        audit.append_entry(connection, request.actor, Action.PURGE, f"films:{forgotten.files}")
        # the reason why a folder cannot be listed may name its content; its worker records it again
        affected = _root.id.in_(sorted(roots)) & _root.fault.is_not(None)
        connection.execute(update(schema.root).where(affected).values(fault=_FAULT))
        removed = sum(previews.delete_preview(request.preview_dir, sha256) for sha256 in forgotten.contents)
        return PurgeCounts(forgotten.files, forgotten.reviews, forgotten.reviews_kept, len(forgotten.contents), removed)

    return write(engine, body)


def _about(connection: Connection, file_ids: Sequence[int]) -> tuple[Sequence[Row[Any]], set[int | None]]:
    """Return rows for the journal, and ids of contents that other files hold."""
    rows = connection.execute(_named(_f.id.in_(file_ids))).all()
    ids = [row.instance_id for row in rows if row.instance_id is not None]
    past = schema.past_outcome.c
    others = union(
        select(_f.instance_id).where(_f.instance_id.in_(ids), _f.id.not_in(file_ids)),
        select(past.instance_id).where(past.instance_id.in_(ids), past.file_id.not_in(file_ids)),
    )
    return rows, set(connection.execute(others).scalars())


def replay_purges(engine: Engine, actor: str, journal: Path | None, preview_dir: Path | None) -> PurgeCounts:
    """Purge again what a journal lists and a restored database holds.

    Costs one query if nothing is missing.

    Args:
        engine: database.
        actor: who runs it, for the audit trail.
        journal: purge journal; ``None`` or a missing file does nothing.
        preview_dir: folder of previews, or ``None`` if none are kept.

    Raises:
        SettingsError: see ``purge``.
    """
    counts = PurgeCounts()
    if journal is None or not journal.exists():
        return counts
    key = _key(engine, journal)
    entries = [entry for entry in purge_journal.read_journal(journal) if "version" in entry]
    contents = {entry["content"]: entry["readings"] for entry in entries if entry["content"]}
    versions = {entry["version"]: entry["readings"] for entry in entries}
    known = read(engine, lambda connection: set(connection.execute(select(tombstone.c.digest)).scalars()))
    missing = sorted({entry["purge"] for entry in entries} - known)
    if not missing:
        return counts
    by_readings: dict[bool, list[int]] = {False: [], True: []}
    for file_id, version, content in _walk(engine, key):
        readings = versions.get(version, contents.get(content))
        if readings is not None:
            by_readings[readings].append(file_id)
    for readings, file_ids in by_readings.items():
        request = PurgeRequest(actor, "purged before", readings, journal=None, preview_dir=preview_dir)
        counts.add(purge_files(engine, request, file_ids))
    digests = [*sorted(contents.keys() - known), *missing]
    for batch in chunks(digests):
        store_tombstones(engine, batch)
    return counts


def _walk(engine: Engine, key: TombstoneKey) -> Iterator[tuple[int, str, str | None]]:
    """Yield file id, version digest and content digest of all versions."""
    for rows in read_pages(engine, _page, attrgetter("id"), 0):
        for row in rows:
            yield row.id, *_digests(key, row)


def _page(connection: Connection, after: int) -> Sequence[Row[*tuple[Any, ...]]]:
    return connection.execute(_named(_f.id > after)).all()


def _named(condition: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """Return the query of versions that are no stubs, with root and hash."""
    columns = (
        _f.id,
        _f.instance_id,
        _f.path,
        _f.size_bytes,
        _f.mtime_ns,
        _root.path.label("root"),
        schema.instance.c.sha256,
    )
    return (
        select(*columns)
        .join(schema.root, _root.id == _f.root_id)
        .outerjoin(schema.instance, schema.instance.c.id == _f.instance_id)
        .where(condition, ~_stub())
        .order_by(_f.id)
        .limit(CHUNK)
    )


def _digests(key: TombstoneKey, row: Any) -> tuple[str, str | None]:
    """Return the keyed hashes of a row's version and content."""
    content = None if row.sha256 is None else key.content(row.sha256)
    return key.version(row.root, row.path, row.size_bytes, row.mtime_ns), content


def _stub() -> ColumnElement[bool]:
    """Return the condition of versions that were purged before."""
    return (_f.state == FileState.IGNORED) & (func.coalesce(_f.code, "") == FORGOTTEN)


# ---------------------------------------------------------------------- the key and the journal


def prepare_purge_journal(engine: Engine, journal: Path) -> None:
    """Create the purge key in database and journal, before a first purge.

    A later backup can then be linked to the journal.

    Raises:
        SettingsError: the journal belongs to another database, or cannot be written.
    """
    _key(engine, journal)


def _key(engine: Engine, journal: Path | None) -> TombstoneKey:
    """Return the purge key, which database and journal must share.

    It is created at the first purge.
    """
    journal_key = None if journal is None else purge_journal.read_journal_key(journal)
    if (key := read(engine, load_tombstone_key)) is None:

        def body(connection: Connection, _again: bool) -> TombstoneKey:
            # another process may have created it meanwhile
            if (existing := load_tombstone_key(connection)) is not None:
                return existing
            value = journal_key or secrets.token_hex(_KEY_BYTES)
            connection.execute(insert(secret), {"name": KEY_NAME, "value": value})
            return TombstoneKey(bytes.fromhex(value))

        key = write(engine, body)
    if journal_key is None and journal is not None:
        purge_journal.append_to_journal(journal, [{"key": key.value.hex()}])
    elif journal_key is not None and journal_key != key.value.hex():
        raise SettingsError(
            f"{journal} belongs to another database: set PREREAD_FORGOTTEN_FILE to this database's file"
        )
    return key
