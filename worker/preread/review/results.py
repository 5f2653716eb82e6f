"""What is committed, for people to look up: read-only queries behind commands and pages.

Rows are typed and complete; text in them is already safe to print (see ``preread.core.text.escaping``). Lists come
newest first and in pages (``limit``, ``before``), over indexes, so that a million files are no matter.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, exists, func, select

from preread.core.jsonable import stated_predictive_values
from preread.core.text.escaping import clean_identifier
from preread.core.types import Answer, Caveat, FileState, Finding, Identity, Outcome, Population
from preread.db import schema
from preread.db.engine import read

_PAGE = 500
_file, _instance, _assessment = schema.file.c, schema.instance.c, schema.assessment.c
_bundle, _finding, _root = schema.bundle.c, schema.finding.c, schema.root.c
_IDENTITY = tuple(schema.file.c[field.name] for field in dataclasses.fields(Identity))


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Which results; every condition that is set must hold.

    Attributes:
        since: committed at or after this aware time.
        acquired_since: taken at or after this time on the modality's wall clock (its offset, if any, is not looked at;
            an aware time is first turned into this machine's local time).
        answer: some finding has this answer.
        patient_id: exactly this Patient ID; ``issuer_of_patient_id`` narrows it.
        research: ``False`` leaves research roots out (a doctor's list), ``True`` gives only them.
        superseded: also versions of a path that a newer one replaced.
        limit: at most so many rows; ``None`` for all (use ``stream``).
        before: the ``ResultRow.position`` of the last row of the page before.
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
    """One file version with its outcome.

    Attributes:
        result_id: the id that ``show`` takes.
        path_text: relative to ``root_text``; both escaped, safe to print.
        code: why it was refused or is unreadable; ``reason`` says it in words.
        findings: in the bundle's order; empty unless assessed.
        caveats: of the gate, of the pixels and of the ledger (``uid_conflict``), each once.
        bundle: ``name/version``; ``None`` where no bundle was asked.
        population: what the root declared when the file was read.
        acquired_local: 14 digits of the modality's wall clock.
        ms: milliseconds from opening the file to its outcome.
        withdrawn: why its bundle was withdrawn, at ``withdrawn_at``: the result is shown struck through; else ``None``.
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
    def position(self) -> tuple[datetime, int]:
        """Where this row stands in a list; see ``ResultFilter.before``."""
        return (self.committed_at, self.result_id)


@dataclass(frozen=True, slots=True)
class OutcomeCount:
    """How many file versions (superseded ones apart) ended so; ``outcome`` is ``None`` for those not ended."""

    outcome: Outcome | None
    code: str | None
    state: FileState
    files: int


def query(engine: Engine, wanted: ResultFilter = ResultFilter()) -> list[ResultRow]:
    """Return the results that match, last committed first.

    Raises:
        DatabaseAway, SchemaOutdated: see ``engine.read``.
    """
    return read(engine, lambda connection: _page(connection, wanted))


def stream(engine: Engine, wanted: ResultFilter = ResultFilter(limit=None)) -> Iterator[ResultRow]:
    """Yield the results that match, last committed first, page by page: for exports of any size."""
    left = wanted.limit
    before = wanted.before
    while left is None or left > 0:
        size = _PAGE if left is None else min(_PAGE, left)
        rows = query(engine, dataclasses.replace(wanted, limit=size, before=before))
        yield from rows
        if len(rows) < size:
            return
        before = rows[-1].position
        left = None if left is None else left - len(rows)


def outcome_counts(engine: Engine, root_ids: Sequence[int] | None = None) -> list[OutcomeCount]:
    """Return every file version that is not superseded, counted by outcome, code and state."""

    def body(connection: Connection) -> list[OutcomeCount]:
        grouped = (_file.outcome, _file.code, _file.state)
        statement = select(*grouped, func.count().label("files")).where(_file.state != FileState.SUPERSEDED)
        if root_ids is not None:
            statement = statement.where(_file.root_id.in_(list(root_ids)))
        rows = connection.execute(statement.group_by(*grouped).order_by(*grouped))
        return [
            OutcomeCount(
                outcome=None if row.outcome is None else Outcome(row.outcome),
                code=row.code,
                state=FileState(row.state),
                files=row.files,
            )
            for row in rows
        ]

    return read(engine, body)


# ---------------------------------------------------------------------- rows


def selected(*more: ColumnElement[Any]) -> Select[Any]:
    """Return the statement whose rows ``typed`` reads, the identity first; ``more``: what else is to stand in them."""
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


def typed(connection: Connection, rows: Sequence[Row[Any]]) -> list[ResultRow]:
    """Turn rows of ``selected`` into results, with their findings and what the bundle states of those."""
    findings = findings_of(connection, sorted({row.assessment_id for row in rows if row.assessment_id is not None}))
    digests = sorted({row.bundle_digest for row in rows if row.assessment_id is not None})
    stated = {}
    if digests:
        bundles = select(_bundle.digest, _bundle.manifest).where(schema.among(connection, _bundle.digest, digests))
        stated = {row.digest: stated_predictive_values(row.manifest) for row in connection.execute(bundles).all()}
    return [
        _result(
            row,
            tuple(
                dataclasses.replace(one, predictive_values=stated[row.bundle_digest].get(one.finding, ()))
                for one in findings.get(row.assessment_id, ())
            ),
        )
        for row in rows
    ]


def _page(connection: Connection, wanted: ResultFilter) -> list[ResultRow]:
    statement = selected().where(*_conditions(wanted))
    statement = statement.order_by(_file.committed_at.desc(), _file.id.desc())
    if wanted.limit is not None:
        statement = statement.limit(wanted.limit)
    return typed(connection, connection.execute(statement).all())


def _conditions(wanted: ResultFilter) -> Iterator[ColumnElement[bool]]:
    yield _file.committed_at.is_not(None)
    if not wanted.superseded:
        yield _file.state != FileState.SUPERSEDED
    if wanted.since is not None:
        yield _file.committed_at >= wanted.since
    if wanted.acquired_since is not None:
        at = wanted.acquired_since
        local = at if at.tzinfo is None else at.astimezone()
        yield _file.acquired_local >= local.strftime("%Y%m%d%H%M%S")
    if wanted.answer is not None:
        found = exists().where(_finding.assessment_id == _file.assessment_id, _finding.answer == wanted.answer)
        yield found
    for column, value in (
        (_file.patient_id, wanted.patient_id),
        (_file.issuer_of_patient_id, wanted.issuer_of_patient_id),
        (_file.accession_number, wanted.accession_number),
        (_file.study_instance_uid, wanted.study_instance_uid),
    ):
        if value is not None:
            # stored identifiers went through the same cleaning; one that is unusable matches nothing
            yield column == (clean_identifier(value) or "")
    if wanted.outcome is not None:
        yield _file.outcome == wanted.outcome
    if wanted.code is not None:
        yield _file.code == wanted.code
    if wanted.sha256 is not None:
        yield _instance.sha256 == wanted.sha256.lower()
    if wanted.root_ids is not None:
        yield _file.root_id.in_(wanted.root_ids)
    if wanted.research is not None:
        yield _file.research == wanted.research
    if wanted.before is not None:
        at, file_id = wanted.before
        yield (_file.committed_at < at) | ((_file.committed_at == at) & (_file.id < file_id))


def findings_of(connection: Connection, assessment_ids: Sequence[int]) -> dict[int, tuple[Finding, ...]]:
    """Return the findings of each assessment, in the bundle's order."""
    found: dict[int, tuple[Finding, ...]] = {}
    for start in range(0, len(assessment_ids), _PAGE):
        batch = assessment_ids[start : start + _PAGE]
        statement = select(schema.finding).where(schema.among(connection, _finding.assessment_id, batch))
        for row in connection.execute(statement.order_by(_finding.assessment_id, _finding.position)).all():
            one = Finding(row.finding, row.logit, row.probability, row.prevalence, Answer(row.answer))
            found[row.assessment_id] = (*found.get(row.assessment_id, ()), one)
    return found


@functools.lru_cache(maxsize=256)  # of a million films few differ in them
def _caveats(of_gate: str, of_pixels: str | None, uid_conflict: bool) -> tuple[Caveat, ...]:
    caveats = [Caveat(value) for value in json.loads(of_gate) + json.loads(of_pixels or "[]")]
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
