"""Results as table rows, lines, CSV rows, name-value pairs and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from preread.core.text.confusables import identifier_warnings
from preread.core.text.wording import (
    IDENTIFIER_WARNING_TEXT,
    caveat_codes,
    format_answer,
    format_finding,
    format_predictive_values,
    format_withdrawn,
)
from preread.core.types import CAVEAT_TEXT, FileState, Finding, Identity, JSONObject, Population
from preread.model.calibration import PREDICTIVE_PREVALENCES
from preread.review.history import Explanation, ResultDetail, history_to_json
from preread.review.results import ResultRow, format_acquired, format_utc
from preread.share.ignore_rules import RULES

TABLE_COLUMNS = ("id", "committed", "taken", "patient / accession", "file", "result", "caveats")
CSV_COLUMNS = (
    "id",
    "committed_at",
    "acquired_local",
    "root",
    "path",
    "sha256",
    "outcome",
    "code",
    "reason",
    "finding",
    "answer",
    "answer_text",
    "probability",
    "prevalence",
    *(f"{value}_at_{share * 100:.0f}" for share in PREDICTIVE_PREVALENCES for value in ("ppv", "npv")),
    "caveats",
    "bundle",
    "withdrawn",
    "population",
    "patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
    "accession_number",
    "study_instance_uid",
    "sop_instance_uid",
    "modality",
    "view_position",
    "marks",
)


def result_row(result: ResultRow) -> tuple[str, ...]:
    """Return one result as a row of a table with ``TABLE_COLUMNS``."""
    identity = result.identity
    return (
        str(result.result_id),
        local_time(result.committed_at)[:16],
        format_acquired(result.acquired_local),
        patient_label(identity),
        result.path_text,
        result_text(result),
        _limitations(result),
    )


def result_block(result: ResultRow) -> tuple[str, ...]:
    """Return one result as two lines for a narrow terminal."""
    number, committed, taken, who, path, said, limits = result_row(result)
    when = f"taken {taken}" if taken else committed
    return "  ".join(part for part in (number, when, who, path) if part), f"{said} [{limits}]" if limits else said


def csv_rows(result: ResultRow) -> Iterator[tuple[Any, ...]]:
    """Yield one row per finding, or one row for a result without findings."""
    identity = result.identity
    for finding in result.findings or (None,):
        yield (
            result.result_id,
            format_utc(result.committed_at),
            result.acquired_local,
            result.root_text,
            result.path_text,
            result.sha256,
            result.outcome.value,
            result.code,
            result.reason,
            finding and finding.finding,
            finding and finding.answer.value,
            finding and format_answer(finding.answer, finding.finding),
            finding and finding.probability,
            finding and finding.prevalence,
            *_predictive_cells(finding),
            " ".join(result.caveats),
            result.bundle,
            result.withdrawn,
            result.population.value,
            identity.patient_id,
            identity.issuer_of_patient_id,
            identity.patient_name,
            identity.patient_birth_date,
            identity.patient_sex,
            identity.accession_number,
            identity.study_instance_uid,
            identity.sop_instance_uid,
            identity.modality,
            identity.view_position,
            " ".join(identifier_warnings(identity)),
        )


def detail_pairs(detail: ResultDetail) -> Iterator[tuple[str, str]]:
    """Yield the known values of one result with their names."""
    row = detail.row
    yield "id", str(row.result_id)
    yield "file", f"{row.path_text} in {row.root_text}"
    yield "outcome", row.outcome.value
    if row.withdrawn is not None:
        yield "WITHDRAWN", f"do not rely on this result, its bundle was withdrawn: {row.withdrawn}"
    if row.findings:
        for finding in row.findings:
            yield "result", format_finding(finding)
            if finding.predictive_values:
                yield "  PPV and NPV", format_predictive_values(finding.predictive_values)
    else:
        yield "reason", f"{row.code}: {row.reason}"
    for caveat in row.caveats:
        yield "caveat", CAVEAT_TEXT[caveat]
    yield "population", row.population.value
    if row.bundle:
        yield "bundle", f"{row.bundle} ({row.bundle_digest})"
    if row.acquired_local:
        other = "" if row.acquired_from in {None, "acquisition"} else f" ({row.acquired_from} date)"
        yield "taken", f"{format_acquired(row.acquired_local)} on the modality's clock{other}"
    yield "committed", local_time(row.committed_at)
    for field in dataclasses.fields(row.identity):
        value = getattr(row.identity, field.name)
        if value not in (None, "", False):
            said = f"{value:.2f}" if isinstance(value, float) else str(value)
            yield field.name.replace("_", " "), said
    if marks := _identifier_warnings(row.identity):
        yield "BEWARE", f"name or identifiers{marks}"
    if row.rows and row.columns:
        yield "pixels", f"{row.rows} rows x {row.columns} columns"
    for name, text in (("format", row.format), ("transfer syntax", row.transfer_syntax_uid), ("decoder", row.decoder)):
        if text:
            yield name, text
    if row.sha256:
        yield "sha256", row.sha256
    for result_id, root, path in detail.same_content:
        yield "same bytes", f"result {result_id}: {path} in {root}"
    for result_id, root, path in detail.same_uid:
        yield "same SOP Instance UID, other bytes", f"result {result_id}: {path} in {root}"
    for ended in detail.history.past:
        says = format_withdrawn(
            "; ".join(map(format_finding, ended.findings)) or f"{ended.code}: {ended.reason}", ended.withdrawn
        )
        bundle = f", {ended.bundle}" if ended.bundle else ""
        yield f"earlier, of {local_time(ended.committed_at)}", f"{ended.outcome.value}{bundle}: {says}"
    for transition in detail.history.transitions:
        yield f"  {local_time(transition.at)}", f"{transition.to_state.value}: {transition.why}"


def explanation_to_json(explanation: Explanation) -> JSONObject:
    """Return the explanation of a path as a JSON record."""
    return {
        "root": explanation.root_text,
        "path": explanation.path_text,
        "sentence": explanation_text(explanation),
        "versions": [history_to_json(version) for version in explanation.versions],
    }


def explanation_text(explanation: Explanation) -> str:
    """Return one sentence on why a path has a result, or has none."""
    newest = explanation.versions[-1]
    rule = RULES.get(newest.code or "") if newest.state is FileState.IGNORED else None
    return f"It has no result: {rule} (rule {newest.code})." if rule else explanation.sentence


def history_rows(explanation: Explanation) -> Iterator[tuple[str, ...]]:
    """Yield every state transition of every version of a path, oldest first."""
    for version in explanation.versions:
        for transition in version.transitions:
            version_text = f"{version.file_id} ({version.size_bytes} bytes)"
            yield local_time(transition.at), version_text, transition.to_state.value, transition.why


def result_text(result: ResultRow) -> str:
    """Return the findings, or the refusal, in one cell of a table."""
    said = "; ".join(map(format_finding, result.findings))
    return format_withdrawn(said or f"{result.outcome.value}: {result.code}: {result.reason}", result.withdrawn)


def _predictive_cells(finding: Finding | None) -> tuple[float | None, ...]:
    if finding is None or not finding.predictive_values:
        return (None,) * (2 * len(PREDICTIVE_PREVALENCES))
    return tuple(value for at in finding.predictive_values for value in (at.ppv, at.npv))


def patient_label(identity: Identity) -> str:
    """Return Patient ID and Accession Number, or an empty string."""
    parts = (identity.patient_id, identity.accession_number)
    return " / ".join(part or "-" for part in parts) + _identifier_warnings(identity) if any(parts) else ""


def _identifier_warnings(identity: Identity) -> str:
    """Return warnings about the identifiers' characters in brackets."""
    marks = [IDENTIFIER_WARNING_TEXT[look] for look in identifier_warnings(identity)]
    return f" ({', '.join(marks)})" if marks else ""


def _limitations(result: ResultRow) -> str:
    declared = "" if result.population is Population.UNDECLARED else f"declared {result.population.value}"
    return "; ".join(part for part in (declared, caveat_codes(result.caveats)) if part)


def local_time(at: datetime) -> str:
    """Format a time in this machine's time zone."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"
