"""History of one file, and why a path has a result or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, Row, select

from preread.core.errors import UNREAD_CODES
from preread.core.jsonable import finding_to_json
from preread.core.text.escaping import display_path
from preread.core.types import FORGOTTEN, OPEN_STATES, FileState, Finding, FloatArray, JSONObject, Outcome
from preread.db import schema
from preread.db.engine import read
from preread.ledger.tombstones import load_tombstone_key
from preread.ledger.transitions import normalise_root_path, path_key
from preread.review.results import (
    ResultRow,
    format_utc,
    load_findings,
    result_to_json,
    results_from_rows,
    select_results,
)

_file, _root, _transition = schema.file.c, schema.root.c, schema.transition.c
_past, _bundle = schema.past_outcome.c, schema.bundle.c
_LEDGER_COLUMNS = (  # state in the ledger, not part of lists
    _file.mtime_ns,
    _file.newest,
    _file.attempts,
    _file.interruptions,
    _file.retry_at,
    _file.settled_at,
    _file.locked_since,
)


@dataclass(frozen=True, slots=True)
class Transition:
    """One state transition in the history of a file version.

    Attributes:
        from_state: previous state; ``None`` for the first transition.
        to_state: new state.
        at: time by the database's clock.
        why: reason, safe to print.
        epoch: epoch of the claim.
        worker_id: worker that made it, or ``None``.
    """

    from_state: FileState | None
    to_state: FileState
    at: datetime
    why: str
    epoch: int
    worker_id: str | None


@dataclass(frozen=True, slots=True)
class PastOutcome:
    """An outcome of a file version that a later one replaced.

    Attributes:
        outcome: its kind.
        code: code of a refusal or an unreadable file, or ``None``.
        reason: the same in words, or ``None``.
        findings: in the bundle's order; empty unless assessed.
        bundle: ``name/version``, or ``None``.
        committed_at: time of the outcome.
        replaced_at: time of its replacement.
        withdrawn: reason for the withdrawal of the bundle, or ``None``.
    """

    outcome: Outcome
    code: str | None
    reason: str | None
    findings: tuple[Finding, ...]
    bundle: str | None
    committed_at: datetime
    replaced_at: datetime
    withdrawn: str | None = None


@dataclass(frozen=True, slots=True)
class VersionHistory:
    """History of one version of a path.

    Attributes:
        locked_since: start of the period in which it cannot be read; ``None`` if it can.
        past: replaced outcomes, the oldest first.
    """

    file_id: int
    size_bytes: int
    mtime_ns: int
    newest: bool
    state: FileState
    outcome: Outcome | None
    code: str | None
    reason: str | None
    attempts: int
    interruptions: int
    retry_at: datetime | None
    first_seen_at: datetime
    settled_at: datetime | None
    committed_at: datetime | None
    transitions: tuple[Transition, ...]
    locked_since: datetime | None = None
    past: tuple[PastOutcome, ...] = ()

    @property
    def result_id(self) -> int | None:
        """Id for `preread results show`; ``None`` if there is no outcome."""
        return None if self.outcome is None else self.file_id


@dataclass(frozen=True, slots=True)
class Explanation:
    """Explanation why a path has a result or not.

    Attributes:
        root_id: watched folder.
        root_text: its path, safe to print.
        path_text: path below it, safe to print.
        sentence: explanation of the newest version.
        versions: all versions, the oldest first.
    """

    root_id: int
    root_text: str
    path_text: str
    sentence: str
    versions: tuple[VersionHistory, ...]


@dataclass(frozen=True, slots=True)
class ResultDetail:
    """One result in full.

    Attributes:
        row: the result.
        history: its version's history.
        assessment_id: distinguishes assessments of one image; ``None`` unless assessed.
        activation_map: float32 [rows, columns, channels] as the bundle returned it (e.g. [7, 7, 1]); ``None`` unless
            assessed.
        same_content: other files with the same bytes, as (result id, root, path).
        same_uid: results with the same SOP Instance UID and other bytes, as (result id, root, path).
    """

    row: ResultRow
    history: VersionHistory
    assessment_id: int | None
    activation_map: FloatArray | None
    same_content: tuple[tuple[int, str, str], ...]
    same_uid: tuple[tuple[int, str, str], ...]


def load_result(engine: Engine, result_id: int) -> ResultDetail | None:
    """Return one result with its history; ``None`` if no result has this id.

    Raises:
        DatabaseAway, SchemaOutdated: the database cannot be read.
    """
    return read(engine, lambda connection: _show(connection, result_id))


def explain_path(engine: Engine, path: bytes) -> list[Explanation]:
    """Explain why a path has a result or not, for each folder that holds it.

    Args:
        engine: database.
        path: absolute, or relative to a root; as ``os.fsencode`` gives it. Symlinks are not followed.

    Returns:
        One explanation for each root, since roots may be nested; empty for an unknown path.

    Raises:
        DatabaseAway, SchemaOutdated: the database cannot be read.
    """
    return read(engine, lambda connection: _explain(connection, path))


def list_root_paths(engine: Engine) -> list[bytes]:
    """Return the paths of all watched folders in the database, by id."""
    return read(engine, lambda connection: list(connection.execute(select(_root.path).order_by(_root.id)).scalars()))


def _show(connection: Connection, result_id: int) -> ResultDetail | None:
    statement = select_results(*_LEDGER_COLUMNS).where(_file.id == result_id, _file.committed_at.is_not(None))
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    (result,) = results_from_rows(connection, [row])
    activation_map = None
    if row.assessment_id is not None:
        columns = schema.assessment.c
        stored = connection.execute(
            select(columns.activation_map, columns.activation_map_shape).where(columns.id == row.assessment_id)
        ).one()
        shape = [int(length) for length in stored.activation_map_shape.split(",")]
        activation_map = np.frombuffer(stored.activation_map, dtype="<f4").astype(np.float32).reshape(shape)
    others = (
        select(_file.id, _root.path_text.label("root_text"), _file.path_text, _file.instance_id)
        .join(schema.root, _root.id == _file.root_id)
        .where(_file.id != result_id)
        .order_by(_file.id)
        .limit(100)
    )
    content = connection.execute(others.where(_file.instance_id == row.instance_id)).all() if row.instance_id else []
    conflicts = (
        connection.execute(
            others.where(_file.sop_instance_uid == row.sop_instance_uid, _file.instance_id != row.instance_id)
        ).all()
        if row.uid_conflict
        else []
    )
    return ResultDetail(
        row=result,
        history=_histories(connection, [row])[0],
        assessment_id=row.assessment_id,
        activation_map=activation_map,
        same_content=tuple((other.id, other.root_text, other.path_text) for other in content),
        same_uid=tuple((other.id, other.root_text, other.path_text) for other in conflicts),
    )


def _explain(connection: Connection, path: bytes) -> list[Explanation]:
    explanations = []
    key = load_tombstone_key(connection)
    for root in connection.execute(select(_root.id, _root.path, _root.path_text).order_by(_root.id)).all():
        relative = path
        if path.startswith(b"/"):
            prefix = root.path.rstrip(b"/") + b"/"
            if not normalise_root_path(path).startswith(prefix):
                continue
            relative = normalise_root_path(path)[len(prefix) :]
        names = [path_key(relative), *([] if key is None else [key.path(relative)])]
        rows = connection.execute(
            select(schema.file)
            .where(_file.root_id == root.id, _file.path_key.in_(names))
            .order_by(_file.newest, _file.id)
        ).all()
        if rows:
            versions = _histories(connection, rows)
            explanations.append(
                Explanation(
                    root.id, root.path_text, display_path(relative), explain_version(versions[-1]), tuple(versions)
                )
            )
    return explanations


def _histories(connection: Connection, rows: Sequence[Row[Any]]) -> list[VersionHistory]:
    transitions: dict[int, list[Transition]] = {row.id: [] for row in rows}
    statement = select(schema.transition).where(_transition.file_id.in_(list(transitions))).order_by(_transition.id)
    for row_ in connection.execute(statement):
        from_state = None if row_.from_state is None else FileState(row_.from_state)
        transitions[row_.file_id].append(
            Transition(from_state, FileState(row_.to_state), row_.at, row_.why, row_.epoch, row_.worker_id)
        )
    past = _past_outcomes(connection, list(transitions))
    return [
        VersionHistory(
            file_id=row.id,
            size_bytes=row.size_bytes,
            mtime_ns=row.mtime_ns,
            newest=row.newest,
            state=FileState(row.state),
            outcome=None if row.outcome is None else Outcome(row.outcome),
            code=row.code,
            reason=row.reason,
            attempts=row.attempts,
            interruptions=row.interruptions,
            retry_at=row.retry_at,
            first_seen_at=row.first_seen_at,
            settled_at=row.settled_at,
            committed_at=row.committed_at,
            transitions=tuple(transitions[row.id]),
            locked_since=row.locked_since,
            past=tuple(past.get(row.id, ())),
        )
        for row in rows
    ]


def _past_outcomes(connection: Connection, file_ids: Sequence[int]) -> dict[int, list[PastOutcome]]:
    statement = (
        select(schema.past_outcome, _bundle.name, _bundle.version, _bundle.withdrawn_reason)
        .outerjoin(schema.bundle, _bundle.id == _past.bundle_id)
        .where(_past.file_id.in_(file_ids))
        .order_by(_past.id)
    )
    rows = connection.execute(statement).all()
    findings = load_findings(connection, sorted({row.assessment_id for row in rows if row.assessment_id is not None}))
    past: dict[int, list[PastOutcome]] = {}
    for row in rows:
        outcome = PastOutcome(
            outcome=Outcome(row.outcome),
            code=row.code,
            reason=row.reason,
            findings=findings.get(row.assessment_id, ()),
            bundle=None if row.name is None else f"{row.name}/{row.version}",
            committed_at=row.committed_at,
            replaced_at=row.replaced_at,
            withdrawn=row.withdrawn_reason,
        )
        past.setdefault(row.file_id, []).append(outcome)
    return past


def explain_version(version: VersionHistory) -> str:
    """Return sentences that explain why a file version has a result or not."""
    text = _state_sentence(version)
    if version.state in OPEN_STATES and version.outcome is not None:
        return f"{text.replace('no result yet', 'no newer result yet', 1)} Until then: {_outcome_sentence(version)}"
    return text


def _state_sentence(version: VersionHistory) -> str:
    why = version.transitions[-1].why if version.transitions else ""
    match version.state:
        case FileState.SETTLING:
            return "It has no result yet: it was seen, and Preread waits until it no longer changes."
        case FileState.READY:
            return "It has no result yet: it is complete and waits for its turn."
        case FileState.CLAIMED:
            return "It has no result yet: it is being read now."
        case FileState.RETRY:
            due = "" if version.retry_at is None else f" at {_utc(version.retry_at)}"
            if version.locked_since is not None:
                why += f"; since {_utc(version.locked_since)}, and after 24 h it is quarantined"
            return f"It has no result yet: reading it did not succeed ({why}); it will be tried again{due}."
        case FileState.MISSED:
            known = " An operator acknowledged that." if version.code else ""
            return f"It has no result: it went away before it was read.{known}"
        case FileState.IGNORED if version.code == FORGOTTEN:
            return "It has no result: its data were purged, and it is not read again."
        case FileState.IGNORED:
            return f"It has no result: the rule {version.code} leaves it out."
        case FileState.SUPERSEDED:
            return f"A newer version took its place. {_outcome_sentence(version)}"
        case FileState.VANISHED:
            return f"The file is no longer in the folder; its result is kept. {_outcome_sentence(version)}"
        case FileState.QUARANTINED if version.code in UNREAD_CODES:
            change = "It is read again when it or its rights change, or with `preread quarantine release`."
            return f"{_outcome_sentence(version)} {change}"
        case FileState.DONE | FileState.QUARANTINED:
            return _outcome_sentence(version)


def _utc(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _outcome_sentence(version: VersionHistory) -> str:
    reason = f" ({version.reason.rstrip('.')})" if version.reason else ""
    match version.outcome:
        case Outcome.ASSESSED:
            return f"It was assessed: result {version.file_id}."
        case Outcome.REFUSED:
            return f"It was refused: {version.code}{reason}."
        case Outcome.UNREADABLE:
            return f"It could not be read and was quarantined: {version.code}{reason}."
        case None:
            return "It was not read."


# ---------------------------------------------------------------------- JSON


def detail_to_json(detail: ResultDetail) -> JSONObject:
    """Return one result in full as a JSON object."""
    return {
        **result_to_json(detail.row),
        "same_content": [_other(other) for other in detail.same_content],
        "same_sop_instance_uid": [_other(other) for other in detail.same_uid],
        "history": history_to_json(detail.history),
    }


def history_to_json(version: VersionHistory) -> JSONObject:
    """Return the history of one version as a JSON object."""
    return {
        "file_id": version.file_id,
        "size_bytes": version.size_bytes,
        "mtime_ns": version.mtime_ns,
        "newest": version.newest,
        "state": version.state.value,
        "outcome": version.outcome and version.outcome.value,
        "code": version.code,
        "reason": version.reason,
        "attempts": version.attempts,
        "interruptions": version.interruptions,
        "locked_since": version.locked_since and format_utc(version.locked_since),
        "past": [
            {
                "outcome": outcome.outcome.value,
                "code": outcome.code,
                "reason": outcome.reason,
                "findings": [finding_to_json(finding) for finding in outcome.findings],
                "bundle": outcome.bundle,
                "withdrawn": outcome.withdrawn,
                "committed_at": format_utc(outcome.committed_at),
                "replaced_at": format_utc(outcome.replaced_at),
            }
            for outcome in version.past
        ],
        "transitions": [
            {
                "at": format_utc(transition.at),
                "from": transition.from_state and transition.from_state.value,
                "to": transition.to_state.value,
                "why": transition.why,
                "worker": transition.worker_id,
            }
            for transition in version.transitions
        ],
    }


def _other(other: tuple[int, str, str]) -> JSONObject:
    result_id, root, path = other
    return {"id": result_id, "root": root, "path": path}
