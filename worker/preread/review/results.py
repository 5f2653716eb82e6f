"""Read-only queries of committed results, for commands, pages and API.

Rows are typed and complete; text in them is safe to print (see ``core.text.escaping``). Lists are in descending order
of commit time and in pages (``limit``, ``before``) over indexes, so that their cost does not grow with the table.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, exists, select

from preread.core.jsonable import finding_to_json, reversible_path, stated_predictive_values
from preread.core.text.escaping import clean_identifier
from preread.core.text.vocabulary import standard
from preread.core.types import (
    Answer,
    Caveat,
    FileState,
    Finding,
    Identity,
    JSONObject,
    Outcome,
    Population,
    RefusalCode,
    TagState,
)
from preread.db import schema
from preread.db.engine import read
from preread.db.statements import chunks

_PAGE = 500
_file, _instance, _assessment = schema.file.c, schema.instance.c, schema.assessment.c
_bundle, _finding, _root = schema.bundle.c, schema.finding.c, schema.root.c
_IDENTITY = tuple(schema.file.c[field.name] for field in dataclasses.fields(Identity))


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Conditions on results, which must all hold.

    Attributes:
        since: committed at or after this aware time.
        acquired_since: acquired at or after this time on the modality's clock, whose offset is ignored; an aware time
            is converted to local time first.
        answer: at least one finding has this answer.
        outcome: kind of outcome.
        code: code of the refusal or of the unreadable file.
        patient_id: exactly this Patient ID.
        issuer_of_patient_id: exactly this issuer.
        accession_number: exactly this Accession Number.
        study_instance_uid: exactly this Study Instance UID.
        sha256: hash of the file in hexadecimal.
        root_ids: watched folders.
        research: ``False`` excludes research folders, ``True`` selects only them, ``None`` ignores the property.
        superseded: include versions that a newer one replaced.
        limit: maximal number of rows; ``None`` for all (use ``stream``).
        before: ``ResultRow.position`` of the last row of the previous page.
    """

    since: datetime | None = None
    acquired_since: datetime | None = None
    answer: Answer | None = None
    outcome: Outcome | None = None
    code: str | None = None
    patient_id: str | None = None
    issuer_of_patient_id: str | None = None
    accession_number: str | None = None
    study_instance_uid: str | None = None
    sha256: str | None = None
    root_ids: tuple[int, ...] | None = None
    research: bool | None = None
    superseded: bool = False
    limit: int | None = 100
    before: tuple[datetime, int] | None = None


@dataclass(frozen=True, slots=True)
class ResultRow:
    """Result of one file version.

    Attributes:
        result_id: id for ``history.load_result``.
        path_text: relative to ``root_text``; both are safe to print.
        code: code of the refusal or of the unreadable file; ``None`` if assessed.
        reason: the same in words.
        findings: in the bundle's order; empty unless assessed.
        caveats: of intended use, pixels and ledger (``uid_conflict``), without duplicates.
        bundle: ``name/version``; ``None`` if no bundle was used.
        population: population declared for the folder when the file was read.
        acquired_local: 14 digits of the modality's clock, or ``None``.
        acquired_from: the date that it is: ``acquisition``, ``content``, ``series`` or ``study``; ``None`` without one,
            and for images that 0.1.1 or an older version read.
        ms: milliseconds from opening the file to its outcome.
        withdrawn: reason for the withdrawal of the bundle, or ``None``.
        withdrawn_at: time of the withdrawal, or ``None``.
    """

    result_id: int
    root_id: int
    root_text: str
    path: bytes
    path_text: str
    state: FileState
    outcome: Outcome
    code: str | None
    reason: str | None
    findings: tuple[Finding, ...]
    caveats: tuple[Caveat, ...]
    bundle: str | None
    bundle_digest: str | None
    sha256: str | None
    identity: Identity
    acquired_local: str | None
    acquired_from: str | None
    population: Population
    research: bool
    format: str | None
    transfer_syntax_uid: str | None
    rows: int | None
    columns: int | None
    decoder: str | None
    size_bytes: int
    ms: float | None
    first_seen_at: datetime
    committed_at: datetime
    withdrawn: str | None = None
    withdrawn_at: datetime | None = None

    @property
    def tags(self) -> dict[str, TagState | None]:
        """States of the tags that the intended use depends on, by name.

        That of the species is ``None`` unless the image was refused for it: the species is not stored.
        """
        return {name: _tag_state(self, name) for name in _COLUMNS}

    @property
    def position(self) -> tuple[datetime, int]:
        """Position of a result in a list; see ``ResultFilter.before``."""
        return (self.committed_at, self.result_id)


# Columns of the tags that are stored; the species is not.
_COLUMNS = {
    "age": "patient_age_years",
    "view": "view_position",
    "body_part": "body_part_examined",
    "modality": "modality",
    "species": None,
}
# Codes of refusals for what a tag states.
_REFUSED = {
    "age": RefusalCode.AGE_OUTSIDE,
    "view": RefusalCode.VIEW,
    "body_part": RefusalCode.BODY_PART,
    "species": RefusalCode.NOT_HUMAN,
}
# Descriptions and codes, which are not stored, can state these; an assessment has a caveat if nothing does.
_ASSUMED = {"view": Caveat.VIEW_UNKNOWN, "body_part": Caveat.BODY_PART_UNKNOWN}


def _tag_state(result: ResultRow, name: str) -> TagState | None:
    """Return the state of one tag, by the name that it has in ``StatedTags``."""
    column = _COLUMNS[name]
    if Caveat(f"{name}_not_understood") in result.caveats or (name == "age" and result.identity.age_conflict):
        return TagState.NOT_UNDERSTOOD
    if result.code is not None and result.code == _REFUSED.get(name):
        return TagState.UNDERSTOOD
    if column is None:
        return None
    if name in _ASSUMED and result.outcome is Outcome.ASSESSED:
        return TagState.ABSENT if {_ASSUMED[name], Caveat.NO_TAGS} & set(result.caveats) else TagState.UNDERSTOOD
    stored = getattr(result.identity, column)
    return TagState.ABSENT if stored is None or standard().is_absent(str(stored)) else TagState.UNDERSTOOD


def query_results(engine: Engine, conditions: ResultFilter = ResultFilter()) -> list[ResultRow]:
    """Return one page of matching results, the last committed first.

    Raises:
        DatabaseAway, SchemaOutdated: the database cannot be read.
    """
    return read(engine, lambda connection: _page(connection, conditions))


def stream_results(engine: Engine, conditions: ResultFilter = ResultFilter(limit=None)) -> Iterator[ResultRow]:
    """Yield all matching results, page by page, for exports of any size.

    Raises:
        DatabaseAway, SchemaOutdated: the database cannot be read.
    """
    remaining = conditions.limit
    before = conditions.before
    while remaining is None or remaining > 0:
        size = _PAGE if remaining is None else min(_PAGE, remaining)
        rows = query_results(engine, dataclasses.replace(conditions, limit=size, before=before))
        yield from rows
        if len(rows) < size:
            return
        before = rows[-1].position
        remaining = None if remaining is None else remaining - len(rows)


# ---------------------------------------------------------------------- rows


def select_results(*more: ColumnElement[Any]) -> Select[Any]:
    """Return the SQL query whose rows ``results_from_rows`` converts.

    Args:
        more: further columns.
    """
    return (
        select(
            *_IDENTITY,
            _file.id,
            _file.root_id,
            _file.path,
            _file.path_text,
            _file.state,
            _file.outcome,
            _file.code,
            _file.reason,
            _file.gate_caveats,
            _file.uid_conflict,
            _file.acquired_local,
            _file.acquired_from,
            _file.population,
            _file.research,
            _file.size_bytes,
            _file.ms,
            _file.first_seen_at,
            _file.committed_at,
            _file.instance_id,
            _file.assessment_id,
            _file.bundle_id,
            _root.path_text.label("root_text"),
            _bundle.name.label("bundle_name"),
            _bundle.version.label("bundle_version"),
            _bundle.digest.label("bundle_digest"),
            _bundle.withdrawn_reason,
            _bundle.withdrawn_at,
            _instance.sha256,
            _instance.format,
            _instance.transfer_syntax_uid,
            _instance.rows.label("pixel_rows"),
            _instance.columns.label("pixel_columns"),
            _assessment.decoder,
            _assessment.pixel_caveats,
            *more,
        )
        .select_from(schema.file)
        .join(schema.root, _root.id == _file.root_id)
        .outerjoin(schema.bundle, _bundle.id == _file.bundle_id)
        .outerjoin(schema.instance, _instance.id == _file.instance_id)
        .outerjoin(schema.assessment, _assessment.id == _file.assessment_id)
    )


def results_from_rows(connection: Connection, rows: Sequence[Row[Any]]) -> list[ResultRow]:
    """Return rows of ``select_results`` as results, with their findings.

    Findings get the predictive values that the bundle's manifest states.
    """
    findings = load_findings(connection, sorted({row.assessment_id for row in rows if row.assessment_id is not None}))
    digests = sorted({row.bundle_digest for row in rows if row.assessment_id is not None})
    stated = {}
    if digests:
        bundles = select(_bundle.digest, _bundle.manifest).where(schema.column_in(connection, _bundle.digest, digests))
        stated = {row.digest: stated_predictive_values(row.manifest) for row in connection.execute(bundles).all()}
    return [
        _result(
            row,
            tuple(
                dataclasses.replace(finding, predictive_values=stated[row.bundle_digest].get(finding.finding, ()))
                for finding in findings.get(row.assessment_id, ())
            ),
        )
        for row in rows
    ]


def _page(connection: Connection, conditions: ResultFilter) -> list[ResultRow]:
    statement = select_results().where(*_conditions(conditions))
    statement = statement.order_by(_file.committed_at.desc(), _file.id.desc())
    if conditions.limit is not None:
        statement = statement.limit(conditions.limit)
    return results_from_rows(connection, connection.execute(statement).all())


def _conditions(conditions: ResultFilter) -> Iterator[ColumnElement[bool]]:
    yield _file.committed_at.is_not(None)
    if not conditions.superseded:
        yield _file.state != FileState.SUPERSEDED
    if conditions.since is not None:
        yield _file.committed_at >= conditions.since
    if conditions.acquired_since is not None:
        at = conditions.acquired_since
        local = at if at.tzinfo is None else at.astimezone()
        yield _file.acquired_local >= local.strftime("%Y%m%d%H%M%S")
    if conditions.answer is not None:
        has_answer = exists().where(_finding.assessment_id == _file.assessment_id, _finding.answer == conditions.answer)
        yield has_answer
    for column, value in (
        (_file.patient_id, conditions.patient_id),
        (_file.issuer_of_patient_id, conditions.issuer_of_patient_id),
        (_file.accession_number, conditions.accession_number),
        (_file.study_instance_uid, conditions.study_instance_uid),
    ):
        if value is not None:
            # stored identifiers were cleaned in the same way; an unusable one matches nothing
            yield column == (clean_identifier(value) or "")
    if conditions.outcome is not None:
        yield _file.outcome == conditions.outcome
    if conditions.code is not None:
        yield _file.code == conditions.code
    if conditions.sha256 is not None:
        yield _instance.sha256 == conditions.sha256.lower()
    if conditions.root_ids is not None:
        yield _file.root_id.in_(conditions.root_ids)
    if conditions.research is not None:
        yield _file.research == conditions.research
    if conditions.before is not None:
        at, file_id = conditions.before
        yield (_file.committed_at < at) | ((_file.committed_at == at) & (_file.id < file_id))


def load_findings(connection: Connection, assessment_ids: Sequence[int]) -> dict[int, tuple[Finding, ...]]:
    """Return findings by assessment id, in the bundle's order."""
    by_assessment: dict[int, tuple[Finding, ...]] = {}
    for batch in chunks(assessment_ids):
        statement = select(schema.finding).where(schema.column_in(connection, _finding.assessment_id, batch))
        for row in connection.execute(statement.order_by(_finding.assessment_id, _finding.position)).all():
            finding = Finding(row.finding, row.logit, row.probability, row.prevalence, Answer(row.answer))
            by_assessment[row.assessment_id] = (*by_assessment.get(row.assessment_id, ()), finding)
    return by_assessment


@functools.lru_cache(maxsize=256)  # few different values among a million images
def _caveats(gate: str, pixels: str | None, uid_conflict: bool) -> tuple[Caveat, ...]:
    caveats = [Caveat(value) for value in json.loads(gate) + json.loads(pixels or "[]")]
    if uid_conflict:
        caveats.append(Caveat.UID_CONFLICT)
    return tuple(dict.fromkeys(caveats))


def _result(row: Row[Any], findings: tuple[Finding, ...]) -> ResultRow:
    return ResultRow(
        result_id=row.id,
        root_id=row.root_id,
        root_text=row.root_text,
        path=row.path,
        path_text=row.path_text,
        state=FileState(row.state),
        outcome=Outcome(row.outcome),
        code=row.code,
        reason=row.reason,
        findings=findings,
        caveats=_caveats(row.gate_caveats, row.pixel_caveats, row.uid_conflict),
        bundle=None if row.bundle_name is None else f"{row.bundle_name}/{row.bundle_version}",
        bundle_digest=row.bundle_digest,
        sha256=row.sha256,
        identity=Identity(*row[: len(_IDENTITY)]),
        acquired_local=row.acquired_local,
        acquired_from=row.acquired_from,
        population=Population(row.population or Population.UNDECLARED),
        research=row.research,
        format=row.format or None,
        transfer_syntax_uid=row.transfer_syntax_uid,
        rows=row.pixel_rows,
        columns=row.pixel_columns,
        decoder=row.decoder,
        size_bytes=row.size_bytes,
        ms=row.ms,
        first_seen_at=row.first_seen_at,
        committed_at=row.committed_at,
        withdrawn=row.withdrawn_reason,
        withdrawn_at=row.withdrawn_at,
    )


# ---------------------------------------------------------------------- JSON and text


def result_to_json(result: ResultRow) -> JSONObject:
    """Return a result as a JSON object.

    The fields are those of ``preread assess --json`` and what the database knows beyond them.
    """
    return {
        "id": result.result_id,
        "root": result.root_text,
        "path": reversible_path(result.path),
        "sha256": result.sha256,
        "outcome": result.outcome.value,
        "code": result.code,
        "reason": result.reason,
        "findings": [finding_to_json(finding) for finding in result.findings],
        "caveats": [caveat.value for caveat in result.caveats],
        "tags": result.tags,
        "bundle": result.bundle,
        "bundle_digest": result.bundle_digest,
        "withdrawn": None
        if result.withdrawn_at is None
        else {"at": format_utc(result.withdrawn_at), "reason": result.withdrawn},
        "population": result.population.value,
        "research": result.research,
        "state": result.state.value,
        "committed_at": format_utc(result.committed_at),
        "first_seen_at": format_utc(result.first_seen_at),
        "acquired_local": result.acquired_local,
        "acquired_from": result.acquired_from,
        "identity": dataclasses.asdict(result.identity),
        "format": result.format,
        "transfer_syntax_uid": result.transfer_syntax_uid,
        "rows": result.rows,
        "columns": result.columns,
        "decoder": result.decoder,
        "size_bytes": result.size_bytes,
        "ms": result.ms,
    }


def format_utc(at: datetime) -> str:
    """Return a time as an ISO 8601 string: UTC, milliseconds, ``Z``."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_acquired(digits: str | None) -> str:
    """Return a DICOM date and time of 14 digits as ``YYYY-MM-DD HH:MM``.

    Args:
        digits: ``YYYYMMDDHHMMSS`` (PS3.5 section 6.2); other text is returned unchanged, ``None`` as an empty string.
    """
    if not digits or len(digits) != 14:
        return digits or ""
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]} {digits[8:10]}:{digits[10:12]}"
