"""Forgetting films on purpose: which ones, in bounded transactions, with their previews, and so that they stay away.

What was forgotten is also written to a file of its own, by keyed hashes alone, before the database forgets it: a backup
holds what was there when it was made, and ``replay`` forgets the same films again after one was restored.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, func, insert, select, union, update

from preread.admin import purge_journal
from preread.core.errors import SettingsError, UsageError
from preread.core.text.escaping import clean_identifier
from preread.core.types import FORGOTTEN, OPEN_STATES, FileState
from preread.db import schema
from preread.db.admin_schema import tombstone
from preread.db.engine import compact, database_now, read, write
from preread.db.review_schema import reading, secret, session
from preread.imaging import previews
from preread.ledger.tombstones import KEY_NAME, Key, bury, forget, load_key
from preread.review import audit, audit_proof
from preread.review.audit import Action

_BATCH = 100
_PAGE = 500
_KEY_BYTES = 32
_FAULT = "it, or a part of it, cannot be listed"
_f, _root = schema.file.c, schema.root.c


@dataclass(frozen=True, slots=True)
class Person:
    """A patient. What is not given is not asked for."""

    patient_id: str
    issuer: str | None = None
    birth_date: str | None = None


@dataclass(slots=True)
class Purge:
    """What was forgotten: file versions, signed readings that went and that stayed, contents, previews.

    ``uncleaned``: how often SQLite's file could not be written anew afterwards, so that it may still name the patient.
    """

    films: int = 0
    readings: int = 0
    readings_kept: int = 0
    contents: int = 0
    previews: int = 0
    uncleaned: int = 0

    def add(self, one: Purge) -> None:
        """Count more."""
        for name, value in dataclasses.asdict(one).items():
            setattr(self, name, getattr(self, name) + value)


# ---------------------------------------------------------------------- which films


def of_patient(engine: Engine, who: Person) -> list[int]:
    """Return the films of a patient.

    Raises:
        UsageError: more than one person may be meant: the ID was given by several issuers or to several birth dates.
    """
    patient_id = clean_identifier(who.patient_id)
    if patient_id is None:
        raise UsageError("that is no Patient ID")
    wanted = [_f.patient_id == patient_id]
    for column, value in ((_f.issuer_of_patient_id, who.issuer), (_f.patient_birth_date, who.birth_date)):
        if value is not None:
            wanted.append(column == (clean_identifier(value) or ""))

    def body(connection: Connection) -> list[int]:
        columns = (_f.issuer_of_patient_id, _f.patient_birth_date)
        several = [
            connection.execute(select(func.count(column.distinct())).where(*wanted)).scalar_one() for column in columns
        ]
        if max(several) > 1:
            issuers, dates = several
            raise UsageError(
                f"films with this Patient ID name {issuers} issuers and {dates} birth dates, so that more than one "
                "person may be meant: give the issuer on the second line and the birth date on the third"
            )
        return list(connection.execute(select(_f.id).where(*wanted).order_by(_f.id)).scalars())

    return read(engine, body)


def of_study(engine: Engine, study_instance_uid: str) -> list[int]:
    """Return the films of a study. ``UsageError``: its films name more than one patient."""
    uid = clean_identifier(study_instance_uid)
    if uid is None:
        raise UsageError("that is no Study Instance UID")
    wanted = _f.study_instance_uid == uid

    def body(connection: Connection) -> list[int]:
        patients = connection.execute(select(func.count(_f.patient_id.distinct())).where(wanted)).scalar_one()
        if patients > 1:
            raise UsageError(f"films of this study name {patients} patients: purge by patient")
        return list(connection.execute(select(_f.id).where(wanted).order_by(_f.id)).scalars())

    return read(engine, body)


def older_than(engine: Engine, days: float) -> list[int]:
    """Return the films whose last result, or whose arrival where they have none, is older; none that waits."""

    def body(connection: Connection) -> list[int]:
        before = database_now(connection) - timedelta(days=days)
        at = func.coalesce(_f.committed_at, _f.first_seen_at)
        statement = select(_f.id).where(at < before, _f.state.not_in(sorted(OPEN_STATES)), ~_stub())
        return list(connection.execute(statement.order_by(_f.id)).scalars())

    return read(engine, body)


def count(engine: Engine, file_ids: Sequence[int]) -> tuple[int, int]:
    """Return how many readings were signed about these films, and how many of the films wait to be read."""
    readings = waiting = 0
    for start in range(0, len(file_ids), _PAGE):
        page = file_ids[start : start + _PAGE]
        of_these = select(func.count()).select_from(reading).where(reading.c.file_id.in_(page))
        open_now = select(func.count()).select_from(schema.file).where(_f.id.in_(page), _f.state.in_(OPEN_STATES))
        readings += read(engine, lambda connection, one=of_these: connection.execute(one).scalar_one())  # type: ignore[misc]
        waiting += read(engine, lambda connection, one=open_now: connection.execute(one).scalar_one())  # type: ignore[misc]
    return readings, waiting


# ---------------------------------------------------------------------- forgetting


def purge(
    engine: Engine,
    actor: str,
    why: str,
    file_ids: Sequence[int],
    *,
    readings: bool,
    journal: Path | None,
    preview_dir: Path | None,
    each: Callable[[], None] = lambda: None,
    clean: bool = True,
) -> Purge:
    """Forget these films, a hundred in one transaction.

    Args:
        actor: who wants it, for the audit trail.
        why: what stands in the stubs' history; without a patient's data.
        readings: what was signed goes too.
        journal: the file by which a restored database forgets them again; ``None`` for none.
        preview_dir: where previews lie.
        each: called after every transaction.
        clean: leave nothing of them in the bytes of an SQLite file either; see ``engine.compact``.

    Raises:
        SettingsError: the journal is another database's, or cannot be written.
    """
    key = _key(engine, journal)
    done = Purge()
    for start in range(0, len(file_ids), _BATCH):
        done.add(_forget(engine, actor, why, key, file_ids[start : start + _BATCH], readings, journal, preview_dir))
        each()
    if clean and done.films:
        done.uncleaned = int(not compact(engine))
    return done


def _forget(
    engine: Engine,
    actor: str,
    why: str,
    key: Key,
    file_ids: Sequence[int],
    readings: bool,
    journal: Path | None,
    preview_dir: Path | None,
) -> Purge:
    """Forget some films in one transaction; the journal knows it before."""
    number = secrets.token_hex(_KEY_BYTES)
    if journal is not None:
        rows, held = read(engine, lambda connection: _about(connection, file_ids))
        entries = []
        for row in rows:
            version, content = _digests(key, row)
            content = None if row.instance_id in held else content
            entries.append({"purge": number, "version": version, "content": content, "readings": readings})
        purge_journal.append(journal, entries)

    def body(connection: Connection, _again: bool) -> Purge:
        now = database_now(connection)
        roots = connection.execute(select(_f.root_id).where(_f.id.in_(file_ids), ~_stub()).distinct()).scalars().all()
        audit_proof.append_forgotten(connection, actor, file_ids, readings=readings)
        one = forget(connection, now, key, file_ids, why, readings=readings)
        bury(connection, now, [number])
        # what somebody searched for may name the patient
        connection.execute(update(session).where(session.c.search.is_not(None)).values(search=None))
        audit.append(connection, actor, Action.PURGE, f"films:{one.films}")
        # why a folder cannot be listed may name what lies in it; its worker says it anew
        of_these = _root.id.in_(sorted(roots)) & _root.fault.is_not(None)
        connection.execute(update(schema.root).where(of_these).values(fault=_FAULT))
        removed = sum(previews.remove(preview_dir, sha256) for sha256 in one.contents)
        return Purge(one.films, one.readings, one.readings_kept, len(one.contents), removed)

    return write(engine, body)


def _about(connection: Connection, file_ids: Sequence[int]) -> tuple[Sequence[Row[Any]], set[int | None]]:
    """Return what the journal is to know of these films, and which of their contents other films hold."""
    rows = connection.execute(_named(_f.id.in_(file_ids))).all()
    ids = [row.instance_id for row in rows if row.instance_id is not None]
    past = schema.past_outcome.c
    others = union(
        select(_f.instance_id).where(_f.instance_id.in_(ids), _f.id.not_in(file_ids)),
        select(past.instance_id).where(past.instance_id.in_(ids), past.file_id.not_in(file_ids)),
    )
    return rows, set(connection.execute(others).scalars())


def replay(engine: Engine, actor: str, journal: Path | None, preview_dir: Path | None) -> Purge:
    """Forget again what the journal names and this database holds: it was restored from an older backup.

    Quick where nothing is missing. ``SettingsError``: as ``purge``.
    """
    done = Purge()
    if journal is None or not journal.exists():
        return done
    key = _key(engine, journal)
    entries = [entry for entry in purge_journal.read(journal) if "version" in entry]
    contents = {entry["content"]: entry["readings"] for entry in entries if entry["content"]}
    versions = {entry["version"]: entry["readings"] for entry in entries}
    known = read(engine, lambda connection: set(connection.execute(select(tombstone.c.digest)).scalars()))
    missing = sorted({entry["purge"] for entry in entries} - known)
    if not missing:
        return done
    found: dict[bool, list[int]] = {False: [], True: []}
    for file_id, version, content in _walk(engine, key):
        readings = versions.get(version, contents.get(content))
        if readings is not None:
            found[readings].append(file_id)
    for readings, file_ids in found.items():
        again = purge(
            engine, actor, "purged before", file_ids, readings=readings, journal=None, preview_dir=preview_dir
        )
        done.add(again)
    digests = [*sorted(contents.keys() - known), *missing]
    for start in range(0, len(digests), _PAGE):
        page = digests[start : start + _PAGE]
        write(engine, lambda connection, _, of=page: bury(connection, database_now(connection), of))  # type: ignore[misc]
    return done


def _walk(engine: Engine, key: Key) -> Iterator[tuple[int, str, str | None]]:
    """Yield each film that is no stub with what stands for its version and for its content."""
    after = 0
    while rows := read(engine, lambda connection, start=after: connection.execute(_named(_f.id > start)).all()):  # type: ignore[misc]
        for row in rows:
            yield row.id, *_digests(key, row)
        after = rows[-1].id


def _named(condition: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
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
        .limit(_PAGE)
    )


def _digests(key: Key, row: Any) -> tuple[str, str | None]:
    content = None if row.sha256 is None else key.content(row.sha256)
    return key.version(row.root, row.path, row.size_bytes, row.mtime_ns), content


def _stub() -> ColumnElement[bool]:
    return (_f.state == FileState.IGNORED) & (func.coalesce(_f.code, "") == FORGOTTEN)


# ---------------------------------------------------------------------- the key and the journal


def remember(engine: Engine, journal: Path) -> None:
    """Make sure that database and journal have the same key before a first purge, so that a backup is known by it.

    Raises:
        SettingsError: the journal is another database's, or cannot be written.
    """
    _key(engine, journal)


def _key(engine: Engine, journal: Path | None) -> Key:
    """Return the key, made at the first purge, of which database and journal must have the same."""
    written = None if journal is None else purge_journal.key_of(journal)
    if (found := read(engine, load_key)) is None:

        def body(connection: Connection, _again: bool) -> Key:
            # two programs at once: the one that comes first makes it
            if (there := load_key(connection)) is not None:
                return there
            value = written or secrets.token_hex(_KEY_BYTES)
            connection.execute(insert(secret), {"name": KEY_NAME, "value": value})
            return Key(bytes.fromhex(value))

        found = write(engine, body)
    if written is None and journal is not None:
        purge_journal.append(journal, [{"key": found.value.hex()}])
    elif written is not None and written != found.value.hex():
        raise SettingsError(f"{journal} is another database's: name this one's (PREREAD_FORGOTTEN_FILE)")
    return found
