"""Purged files: deleted rows, and stubs that recognise the files.

A stub is an IGNORED version with the code ``forgotten``. Its path's key is keyed (HMAC-SHA-256), so that a scan
recognises the path and nobody can read it back; the content's keyed hash is a row of ``tombstone``, so that the same
bytes under another name are recognised once they are read. The key lies in the table ``secret``. Signed reviews are
deleted only on request; otherwise they and the results that they are about remain, and name no patient.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    delete,
    exists,
    insert,
    or_,
    select,
    union,
    update,
)

from preread.core.types import FORGOTTEN, FileState
from preread.db import schema
from preread.db.admin_schema import forgetting, shadow, shadow_finding, tombstone
from preread.db.review_schema import (
    READINGS_A_BLOCK,
    TALLY_LOCK,
    listing,
    reading,
    reading_finding,
    secret,
    tally,
    viewing,
)
from preread.ledger.transaction import Transaction, query, transaction
from preread.ledger.transitions import lock_names, record_transitions

KEY_NAME = "forgotten"
_OF_CONTENTS = 1
_f, _i, _a, _past = schema.file.c, schema.instance.c, schema.assessment.c, schema.past_outcome.c


@dataclass(frozen=True, slots=True)
class TombstoneKey:
    """HMAC-SHA-256 key with which a database recognises purged files."""

    value: bytes

    def content(self, sha256: str) -> str:
        """Return the keyed digest of a content, in hex."""
        return self._digest(b"content", sha256.encode()).hex()

    def path(self, path: bytes) -> bytes:
        """Return the keyed digest of a path below its watched folder: 32 bytes."""
        return self._digest(b"path", path)

    def version(self, root: bytes, path: bytes, size_bytes: int, mtime_ns: int) -> str:
        """Return the keyed digest of one version of one path, in hex.

        The digest is the same in every database with this key.
        """
        return self._digest(b"version", root, path, str(size_bytes).encode(), str(mtime_ns).encode()).hex()

    def _digest(self, *parts: bytes) -> bytes:
        # each part is hashed by itself, so that no part can run into the next
        message = b"".join(hashlib.sha256(part).digest() for part in parts)
        return hmac.new(self.value, message, hashlib.sha256).digest()


@dataclass(slots=True)
class StubCounts:
    """Counts of one transaction that purged file versions.

    Attributes:
        files: versions that became stubs.
        reviews, reviews_kept: signed reviews that were deleted, and that remained.
        contents: SHA-256 of contents that no file holds any more, in hex.
    """

    files: int = 0
    reviews: int = 0
    reviews_kept: int = 0
    contents: list[str] = field(default_factory=list)


def stored_key_query() -> ScalarSelect[Any]:
    """Return the SQL subquery for the stored key of purged files, in hex."""
    return select(secret.c.value).where(secret.c.name == KEY_NAME).scalar_subquery()


def load_tombstone_key(connection: Connection) -> TombstoneKey | None:
    """Return the key of purged files; ``None`` if nothing was ever purged."""
    value = connection.execute(select(stored_key_query())).scalar_one()
    return None if value is None else TombstoneKey(bytes.fromhex(value))


def find_purged(connection: Connection, sha256s: Iterable[str]) -> set[str]:
    """Return those of the contents (SHA-256, in hex) that were purged."""
    key = load_tombstone_key(connection)
    if key is None:
        return set()
    by_digest = {key.content(sha256): sha256 for sha256 in sha256s}
    found = connection.execute(
        select(tombstone.c.digest).where(schema.column_in(connection, tombstone.c.digest, list(by_digest)))
    ).scalars()
    return {by_digest[digest] for digest in found}


@query
def preview_is_orphaned(tx: Transaction, file_id: int, sha256: str) -> bool:
    """Return whether the preview of a purged file must be deleted.

    That is so if no other file has the same bytes.
    """
    stub = select(_f.id).where(_f.id == file_id, _f.state == FileState.IGNORED, _f.code == FORGOTTEN)
    held = select(_i.id).where(_i.sha256 == sha256)
    return tx.connection.execute(stub).first() is not None and tx.connection.execute(held).first() is None


def replace_with_stubs(
    tx: Transaction, key: TombstoneKey, file_ids: Collection[int], why: str, *, with_reviews: bool
) -> StubCounts:
    """Purge file versions: delete their data and keep a stub for each.

    Versions that are stubs already are skipped.

    Args:
        tx: the transaction.
        key: the key of the tombstones.
        file_ids: the versions, a few hundred at most.
        why: the reason for the history.
        with_reviews: delete the signed reviews about them, too.
    """
    lock_contents(tx.connection, _contents_of(tx.connection, file_ids))
    stub = (_f.state == FileState.IGNORED) & (_f.code == FORGOTTEN)
    rows = tx.connection.execute(
        select(schema.file).where(_f.id.in_(file_ids), ~stub | _f.code.is_(None)).order_by(_f.id).with_for_update()
    ).all()
    ids = [row.id for row in rows]
    done = StubCounts(files=len(ids))
    if not ids:
        return done
    past = select(_past.instance_id).where(_past.file_id.in_(ids))
    contents = {*tx.connection.execute(past).scalars(), *(row.instance_id for row in rows)} - {None}
    # the triggers on signed reviews allow their deletion, in this transaction alone
    tx.connection.execute(insert(forgetting), [{"file_id": file_id} for file_id in ids])
    signed = tx.connection.execute(select(reading.c.id).where(reading.c.file_id.in_(ids))).scalars().all()
    if with_reviews:
        tx.connection.execute(delete(reading_finding).where(reading_finding.c.reading_id.in_(signed)))
        tx.connection.execute(delete(reading).where(reading.c.id.in_(signed)))
        done.reviews = len(signed)
    else:
        done.reviews_kept = len(signed)
    if signed:
        # the tallies of these reviews are void; no transaction may store one that it counted before
        lock_contents(tx.connection, [TALLY_LOCK])
        blocks = {reading_id // READINGS_A_BLOCK for reading_id in signed}
        tx.connection.execute(delete(tally).where(tally.c.block.in_(blocks)))
    tx.connection.execute(delete(viewing).where(viewing.c.file_id.in_(ids)))
    tx.connection.execute(delete(listing).where(listing.c.file_id.in_(ids)))
    tx.connection.execute(delete(schema.study_header).where(schema.study_header.c.file_id.in_(ids)))
    tx.connection.execute(delete(schema.past_outcome).where(_past.file_id.in_(ids)))
    tx.connection.execute(delete(schema.transition).where(schema.transition.c.file_id.in_(ids)))
    for row in rows:
        _make_stub(tx, key, row)
        record_transitions(tx, [(row.id, row.epoch + 1)], FileState(row.state), FileState.IGNORED, why)
    tx.connection.execute(delete(forgetting).where(forgetting.c.file_id.in_(ids)))
    done.contents = _drop_contents(tx.connection, sorted(contents))
    store_tombstones(tx, [key.content(sha256) for sha256 in done.contents])
    return done


def lock_contents(connection: Connection, sha256s: Iterable[str]) -> None:
    """Lock file contents (SHA-256) against other commits and purges."""
    lock_names(connection, set(sha256s), _OF_CONTENTS)


@transaction
def store_tombstones(tx: Transaction, digests: Sequence[str]) -> None:
    """Store the keyed digests of purged contents."""
    lock_contents(tx.connection, digests)  # a page that starts may replay the journal that a purge is writing
    c = tombstone.c
    there = set(tx.connection.execute(select(c.digest).where(c.digest.in_(digests))).scalars())
    rows = [{"digest": digest, "at": tx.now} for digest in sorted(set(digests) - there)]
    if rows:
        tx.connection.execute(insert(tombstone), rows)


# ---------------------------------------------------------------------- stubs


def _make_stub(tx: Transaction, key: TombstoneKey, row: Row[Any]) -> None:
    hidden: dict[str, Any] = {"path": b"", "path_text": "", "path_key": key.path(row.path), "inode": 0}
    same_path = (_f.root_id == row.root_id) & (_f.path_key == hidden["path_key"])
    newest = row.newest
    if newest:
        # older versions of the path lose it as well
        older = (_f.root_id == row.root_id) & (_f.path_key == row.path_key) & (_f.id != row.id)
        for other in tx.connection.execute(select(_f.id, _f.size_bytes, _f.mtime_ns).where(older)).all():
            _make_room(tx.connection, key, same_path, other)
        tx.connection.execute(update(schema.file).where(older).values(hidden))
        tx.connection.execute(update(schema.file).where(same_path, _f.newest).values(newest=False))
    else:
        newest = tx.connection.execute(select(_f.id).where(same_path, _f.newest)).first() is None
    _make_room(tx.connection, key, same_path, row)
    nothing = {column.name: None for column in schema.file.columns if column.nullable}
    values = {
        **nothing,
        **hidden,
        "newest": newest,
        "backlog": False,
        "state": FileState.IGNORED,
        "code": FORGOTTEN,
        "attempts": 0,
        "interruptions": 0,
        "alone": False,
        "epoch": row.epoch + 1,  # an inference process that reads it now is fenced
        "first_seen_at": tx.now,
        "changed_at": tx.now,
        "research": False,
        "gate_caveats": "[]",
        "uid_conflict": False,
        "age_conflict": False,
    }
    tx.connection.execute(update(schema.file).where(_f.id == row.id).values(values))


def _make_room(connection: Connection, key: TombstoneKey, same_path: ColumnElement[bool], row: Any) -> None:
    """Move a stub of this very version aside.

    The file was purged before and came back.
    """
    there = same_path & (_f.size_bytes == row.size_bytes) & (_f.mtime_ns == row.mtime_ns) & (_f.id != row.id)
    for stub_id in connection.execute(select(_f.id).where(there)).scalars().all():
        aside = {"path_key": key.path(b"stub %d" % stub_id), "newest": True}
        connection.execute(update(schema.file).where(_f.id == stub_id).values(aside))


# ---------------------------------------------------------------------- contents


def _contents_of(connection: Connection, file_ids: Collection[int]) -> set[str]:
    ids = union(
        select(_f.instance_id).where(_f.id.in_(file_ids)), select(_past.instance_id).where(_past.file_id.in_(file_ids))
    )
    return set(connection.execute(select(_i.sha256).where(_i.id.in_(ids))).scalars())


def _drop_contents(connection: Connection, instance_ids: Sequence[int]) -> list[str]:
    """Delete contents that no file holds; return their SHA-256.

    Results of kept reviews stay.
    """
    held = or_(exists().where(_f.instance_id == _i.id), exists().where(_past.instance_id == _i.id))
    free_ones = select(_i.id, _i.sha256).where(_i.id.in_(instance_ids), ~held).order_by(_i.id)
    rows = connection.execute(free_ones.with_for_update()).all()
    ids = [row.id for row in rows]
    shadows = select(shadow.c.id).where(shadow.c.instance_id.in_(ids))
    connection.execute(delete(shadow_finding).where(shadow_finding.c.shadow_id.in_(shadows)))
    connection.execute(delete(shadow).where(shadow.c.instance_id.in_(ids)))
    by_people = or_(
        exists().where(reading.c.instance_id == _a.instance_id),
        exists().where(reading.c.assessment_id == _a.id),
        exists().where(viewing.c.assessment_id == _a.id),
    )
    free = connection.execute(select(_a.id).where(_a.instance_id.in_(ids), ~by_people)).scalars().all()
    connection.execute(delete(schema.finding).where(schema.finding.c.assessment_id.in_(free)))
    connection.execute(delete(schema.assessment).where(_a.id.in_(free)))
    reviewed = or_(exists().where(_a.instance_id == _i.id), exists().where(reading.c.instance_id == _i.id))
    connection.execute(delete(schema.instance).where(_i.id.in_(ids), ~reviewed))
    return [row.sha256 for row in rows]
