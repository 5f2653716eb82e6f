"""Export of all data stored about one patient (GDPR Art. 15)."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, select

from preread.core.jsonable import reversible_path
from preread.core.types import JSONObject
from preread.db.admin_schema import shadow, shadow_finding
from preread.db.engine import read, write
from preread.db.review_schema import account, listing, reading, reading_finding, viewing
from preread.db.review_schema import audit as trail
from preread.db.schema import (
    assessment,
    bundle,
    file,
    finding,
    instance,
    past_outcome,
    root,
    study_header,
    transition,
)
from preread.imaging import previews
from preread.review import audit
from preread.review.audit import Action
from preread.review.export import write_image
from preread.review.results import format_utc


def export_patient_data(engine: Engine, actor: str, file_ids: Sequence[int]) -> JSONObject:
    """Return all data stored about one patient's files; record the export.

    Every column of every row is included under its name. Viewers and reviewers are named by user name, as in the audit
    trail.

    Args:
        engine: database.
        actor: who asks, for the audit trail.
        file_ids: ids of the file versions.

    Returns:
        ``{"films": [...]}``, JSON-serialisable.

    Raises:
        DatabaseAway, SchemaOutdated: the database cannot be read.
    """

    def record_access(connection: Connection, _again: bool) -> None:
        for file_id in file_ids:
            audit.append_entry(connection, actor, Action.EXPORT_PATIENT, f"film:{file_id}")

    write(engine, record_access)
    return read(engine, lambda connection: {"films": [_film(connection, file_id) for file_id in file_ids]})


def save_exported_previews(folder: Path, record: JSONObject, preview_dir: Path | None) -> int:
    """Write the previews of one patient's exported images into a folder.

    Args:
        folder: existing folder; files are called ``film-ID.png``.
        record: result of ``export``.
        preview_dir: folder of previews, or ``None`` if none are kept.

    Returns:
        Number of files written.

    Raises:
        OSError: a file cannot be written.
    """
    saved = 0
    for film in record["films"]:
        content = previews.load_preview(preview_dir, film["content"] and film["content"]["sha256"])
        if content is not None:
            write_image(folder / f"film-{film['id']}.png", content)
            saved += 1
    return saved


def _film(connection: Connection, file_id: int) -> JSONObject:
    """Return everything stored about one file version."""
    (film,) = _rows(connection, file, file.c.id == file_id)
    (root_row,) = _rows(connection, root, root.c.id == film["root_id"])
    past = _rows(connection, past_outcome, past_outcome.c.file_id == file_id)
    readings = _rows(connection, reading, reading.c.file_id == file_id)
    for row_ in readings:
        row_["findings"] = _rows(connection, reading_finding, reading_finding.c.reading_id == row_["id"])
    contents = {row["instance_id"] for row in (film, *past, *readings)} - {None}
    content = _rows(connection, instance, instance.c.id == film["instance_id"])
    answers = _rows(connection, assessment, assessment.c.instance_id.in_(contents))
    shadows = _rows(connection, shadow, shadow.c.instance_id.in_(contents))
    for row_ in answers:
        row_["findings"] = _rows(connection, finding, finding.c.assessment_id == row_["id"])
    for row_ in shadows:
        row_["findings"] = _rows(connection, shadow_finding, shadow_finding.c.shadow_id == row_["id"])
    names = {row.id: f"{row.name}/{row.version}" for row in connection.execute(select(bundle))}
    for row_ in (film, *past, *readings, *answers, *shadows):
        row_["bundle"] = names.get(row_["bundle_id"])
    names_by_actor = {f"account:{row.id}": row.name for row in connection.execute(select(account.c.id, account.c.name))}
    viewings = _rows(connection, viewing, viewing.c.file_id == file_id)
    listings = _rows(connection, listing, listing.c.file_id == file_id)
    audit_rows = _rows(connection, trail, trail.c.object == f"film:{file_id}")
    for row_ in (*readings, *viewings):
        row_["who"] = names_by_actor.get(f"account:{row_['account_id']}")
    for row_ in (*listings, *audit_rows):
        row_["who"] = names_by_actor.get(row_["actor"], row_["actor"])
    return {
        **film,
        "root": root_row["path_text"],
        "content": content[0] if content else None,
        "study_header": _header(connection, file_id),
        "past_outcomes": past,
        "assessments": answers,
        "shadows": shadows,
        "readings": readings,
        "viewings": viewings,
        "listings": listings,
        "transitions": _rows(connection, transition, transition.c.file_id == file_id),
        "audit": audit_rows,
    }


def _header(connection: Connection, file_id: int) -> JSONObject | None:
    """Return the header as the file states it, as JSON objects; ``None`` if none is kept."""
    for row in _rows(connection, study_header, study_header.c.file_id == file_id):
        return row | {name: json.loads(row[name]) for name in ("header", "left_out")}
    return None


def _rows(connection: Connection, table: Table, condition: Any) -> list[JSONObject]:
    """Return the rows of a table that match, as JSON objects by primary key."""
    rows = connection.execute(select(table).where(condition).order_by(*table.primary_key.columns))
    return [{name: _value(name, value) for name, value in row._mapping.items()} for row in rows]  # noqa: SLF001


def _value(name: str, value: Any) -> Any:
    """Return a column's value in JSON form: paths reversible, bytes in Base64."""
    if isinstance(value, datetime):
        return format_utc(value)
    if isinstance(value, bytes):
        return reversible_path(value) if name == "path" else base64.b64encode(value).decode()
    return value


def format_exported_data(record: JSONObject) -> str:
    """Return one patient's exported data as indented ASCII JSON."""
    return json.dumps(record, indent=2, allow_nan=False)
