"""What stands beside one film: the same patient's other films, its newer version, the findings its bundle speaks of.

And the films of which nothing but their names is known yet.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, select

from preread.core.errors import FindingUnknown
from preread.core.types import OPEN_STATES, FileState
from preread.db import schema
from preread.db.engine import database_now, read
from preread.review.results import ResultRow, selected, typed

_EARLIER_AT_MOST = 20
_WAITING_AT_MOST = 50
_file, _bundle = schema.file.c, schema.bundle.c


def earlier(engine: Engine, row: ResultRow) -> list[ResultRow]:
    """Return the patient's films that arrived before this one, the last first.

    The patient is the same where ID and birth date are there and equal, and the issuer too (there or not).
    """
    who = row.identity
    if who.patient_id is None or who.patient_birth_date is None:
        return []
    statement = (
        selected()
        .where(
            _file.patient_id == who.patient_id,
            _file.patient_birth_date == who.patient_birth_date,
            _file.issuer_of_patient_id.is_not_distinct_from(who.issuer_of_patient_id),
            _file.id < row.result_id,
            _file.committed_at.is_not(None),
            _file.state != FileState.SUPERSEDED,
        )
        .order_by(_file.id.desc())
        .limit(_EARLIER_AT_MOST)
    )
    return read(engine, lambda connection: typed(connection, connection.execute(statement).all()))


def content_of(engine: Engine, result_id: int) -> str | None:
    """Return the SHA-256 of the film's bytes; ``None`` when there is no such film or it could not be read."""
    statement = select(schema.instance.c.sha256).join(schema.file, _file.instance_id == schema.instance.c.id)
    return read(engine, lambda c: c.execute(statement.where(_file.id == result_id)).scalar_one_or_none())


def newest_version(engine: Engine, result_id: int) -> int | None:
    """Return the file version that took this one's place and has a result; ``None`` when none did."""
    own = select(_file.root_id, _file.path_key).where(_file.id == result_id).subquery()
    statement = (
        select(_file.id)
        .join(own, (own.c.root_id == _file.root_id) & (own.c.path_key == _file.path_key))
        .where(_file.newest, _file.id != result_id, _file.committed_at.is_not(None))
    )
    return read(engine, lambda connection: connection.execute(statement).scalar_one_or_none())


def findings_of(engine: Engine, bundle_digest: str | None) -> tuple[str, ...]:
    """Return what the bundle speaks of, by name; where none was asked, what the latest one does."""
    of_bundle = None if bundle_digest is None else _bundle.digest == bundle_digest
    return read(engine, lambda connection: _findings(connection, of_bundle))


def refuse_unknown(connection: Connection, film: Row[Any], findings: Collection[str]) -> None:
    """Refuse to have findings signed of which neither the film's bundle nor its result speaks: exports label by them.

    Args:
        film: a row of ``file``.

    Raises:
        FindingUnknown: names the first of them.
    """
    of_bundle = None if film.bundle_id is None else _bundle.id == film.bundle_id
    of_result = select(schema.finding.c.finding).where(schema.finding.c.assessment_id == film.assessment_id)
    known = {*_findings(connection, of_bundle), *connection.execute(of_result).scalars()}
    if unknown := sorted(set(findings) - known):
        raise FindingUnknown(f"film {film.id}: {unknown[0][:64]!r} is none of its findings, {', '.join(sorted(known))}")


def _findings(connection: Connection, of_bundle: ColumnElement[bool] | None) -> tuple[str, ...]:
    statement = select(_bundle.manifest)
    if of_bundle is not None:
        statement = statement.where(of_bundle)
    manifest = connection.execute(statement.order_by(_bundle.id.desc()).limit(1)).scalar()
    findings = json.loads(manifest).get("findings", ()) if manifest else ()
    return tuple(finding["finding"] for finding in findings)


@dataclass(frozen=True, slots=True)
class WaitingFilm:
    """A film without a result yet; its name is all that is known of it."""

    file_id: int
    root_text: str
    path_text: str
    state: FileState
    waited_s: float


def waiting(engine: Engine, limit: int = _WAITING_AT_MOST) -> list[WaitingFilm]:
    """Return the films that wait for their result, those that came first."""
    statement = (
        select(_file.id, _file.path_text, _file.state, _file.first_seen_at, schema.root.c.path_text.label("root_text"))
        .join(schema.root, schema.root.c.id == _file.root_id)
        .where(_file.state.in_(list(OPEN_STATES)), _file.committed_at.is_(None))
        .order_by(_file.id)
        .limit(limit)
    )

    def body(connection: Connection) -> list[WaitingFilm]:
        now = database_now(connection)
        return [
            WaitingFilm(
                row.id,
                row.root_text,
                row.path_text,
                FileState(row.state),
                max(0.0, (now - row.first_seen_at).total_seconds()),
            )
            for row in connection.execute(statement)
        ]

    return read(engine, body)
