"""Related images, findings of an image's bundle, and pending images."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, select

from preread.core.errors import FindingUnknown
from preread.core.types import OPEN_STATES, FileState
from preread.db import schema
from preread.db.engine import read
from preread.ledger.transaction import Transaction, query
from preread.review.results import ResultRow, results_from_rows, select_results

_EARLIER_AT_MOST = 20
_WAITING_AT_MOST = 50
_file, _bundle = schema.file.c, schema.bundle.c


def earlier_images(engine: Engine, row: ResultRow) -> list[ResultRow]:
    """Return results of the same patient's earlier images, newest first.

    The patient is the same if Patient ID and birth date are present and equal, and the issuer is equal or absent in
    both.
    """
    identity = row.identity
    if identity.patient_id is None or identity.patient_birth_date is None:
        return []
    statement = (
        select_results()
        .where(
            _file.patient_id == identity.patient_id,
            _file.patient_birth_date == identity.patient_birth_date,
            _file.issuer_of_patient_id.is_not_distinct_from(identity.issuer_of_patient_id),
            _file.id < row.result_id,
            _file.committed_at.is_not(None),
            _file.state != FileState.SUPERSEDED,
        )
        .order_by(_file.id.desc())
        .limit(_EARLIER_AT_MOST)
    )
    return read(engine, lambda connection: results_from_rows(connection, connection.execute(statement).all()))


def content_digest(engine: Engine, result_id: int) -> str | None:
    """Return the SHA-256 of the bytes of an image; ``None`` if unknown.

    ``None`` means that there is no such image, or that it could not be read.
    """
    statement = select(schema.instance.c.sha256).join(schema.file, _file.instance_id == schema.instance.c.id)
    return read(engine, lambda c: c.execute(statement.where(_file.id == result_id)).scalar_one_or_none())


def find_newer_result(engine: Engine, result_id: int) -> int | None:
    """Return the id of a path's newer file version that has a result."""
    own = select(_file.root_id, _file.path_key).where(_file.id == result_id).subquery()
    statement = (
        select(_file.id)
        .join(own, (own.c.root_id == _file.root_id) & (own.c.path_key == _file.path_key))
        .where(_file.newest, _file.id != result_id, _file.committed_at.is_not(None))
    )
    return read(engine, lambda connection: connection.execute(statement).scalar_one_or_none())


def bundle_findings(engine: Engine, bundle_digest: str | None) -> tuple[str, ...]:
    """Return the names of the findings of a bundle.

    Args:
        engine: database.
        bundle_digest: SHA-256 of the bundle in hexadecimal; ``None`` selects the latest one.
    """
    of_bundle = None if bundle_digest is None else _bundle.digest == bundle_digest
    return read(engine, lambda connection: _findings(connection, of_bundle))


def refuse_unknown_findings(connection: Connection, row: Row[Any], findings: Collection[str]) -> None:
    """Raise an error if a review names a finding that its image lacks.

    Exports use the names as labels.

    Args:
        connection: transaction.
        row: a row of ``file``.
        findings: names of findings.

    Raises:
        FindingUnknown: neither the image's bundle nor its result has this finding; names the first.
    """
    of_bundle = None if row.bundle_id is None else _bundle.id == row.bundle_id
    of_result = select(schema.finding.c.finding).where(schema.finding.c.assessment_id == row.assessment_id)
    known = {*_findings(connection, of_bundle), *connection.execute(of_result).scalars()}
    if unknown := sorted(set(findings) - known):
        raise FindingUnknown(f"unknown finding {unknown[0][:64]!r} of image {row.id}: use {', '.join(sorted(known))}")


def _findings(connection: Connection, of_bundle: ColumnElement[bool] | None) -> tuple[str, ...]:
    statement = select(_bundle.manifest)
    if of_bundle is not None:
        statement = statement.where(of_bundle)
    manifest = connection.execute(statement.order_by(_bundle.id.desc()).limit(1)).scalar()
    findings = json.loads(manifest).get("findings", ()) if manifest else ()
    return tuple(finding["finding"] for finding in findings)


@dataclass(frozen=True, slots=True)
class PendingImage:
    """An image without a result yet.

    Attributes:
        file_id: id of the file version.
        root_text: watched folder, safe to print.
        path_text: path below it, safe to print.
        state: its state.
        waited_s: seconds since it was first seen.
    """

    file_id: int
    root_text: str
    path_text: str
    state: FileState
    waited_s: float


@query
def list_pending_images(tx: Transaction, limit: int = _WAITING_AT_MOST) -> list[PendingImage]:
    """Return the images without a result yet, the earliest first."""
    statement = (
        select(_file.id, _file.path_text, _file.state, _file.first_seen_at, schema.root.c.path_text.label("root_text"))
        .join(schema.root, schema.root.c.id == _file.root_id)
        .where(_file.state.in_(list(OPEN_STATES)), _file.committed_at.is_(None))
        .order_by(_file.id)
        .limit(limit)
    )

    return [
        PendingImage(
            row.id,
            row.root_text,
            row.path_text,
            FileState(row.state),
            max(0.0, (tx.now - row.first_seen_at).total_seconds()),
        )
        for row in tx.connection.execute(statement)
    ]
