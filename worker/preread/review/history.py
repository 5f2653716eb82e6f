"""One file's whole story: ``show`` gives a result in full, ``explain`` says why a path has, or has not yet, one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, Row, select

from preread.core.errors import UNREAD_CODES
from preread.core.text.escaping import display_path
from preread.core.types import FORGOTTEN, OPEN_STATES, FileState, Finding, FloatArray, Outcome
from preread.db import schema
from preread.db.engine import read
from preread.ledger.tombstones import load_key
from preread.ledger.transitions import absolute, path_key
from preread.review.results import ResultRow, findings_of, selected, typed

_file, _root, _transition = schema.file.c, schema.root.c, schema.transition.c
_past, _bundle = schema.past_outcome.c, schema.bundle.c
_WAY = (  # through the ledger, of which lists say nothing
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
    """One move: ``from_state`` is ``None`` for the first. ``why`` is safe to print."""

    from_state: FileState | None
    to_state: FileState
    at: datetime
    why: str
    epoch: int
    worker_id: str | None


@dataclass(frozen=True, slots=True)
class PastOutcome:
    """How a version ended before it was read again; ``bundle``: ``name/version``; ``withdrawn``: why that one was."""

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
    """One version of a path.

    Attributes:
        locked_since: since when it cannot be read, while that is so.
        past: outcomes that later ones replaced, the oldest first.
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
        """The id that ``show`` takes; ``None`` while there is no outcome."""
        return None if self.outcome is None else self.file_id


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a path has or has no result. ``versions`` are the oldest first; ``sentence`` speaks of the newest."""

    root_id: int
    root_text: str
    path_text: str
    sentence: str
    versions: tuple[VersionHistory, ...]


@dataclass(frozen=True, slots=True)
class ResultDetail:
    """One result in full.

    Attributes:
        assessment_id: tells one assessment of a film from a later one; ``None`` unless assessed.
        activation_map: float32, as the bundle gave it (e.g. [7, 7, 1]); ``None`` unless assessed.
        same_content: other files with exactly these bytes, as ``(result_id, root_text, path_text)``.
        same_uid: results that carry the same SOP Instance UID with other bytes.
    """

    row: ResultRow
    history: VersionHistory
    assessment_id: int | None
    activation_map: FloatArray | None
    same_content: tuple[tuple[int, str, str], ...]
    same_uid: tuple[tuple[int, str, str], ...]


def show(engine: Engine, result_id: int) -> ResultDetail | None:
    """Return one result in full, ``None`` when there is none with this id."""
    return read(engine, lambda connection: _show(connection, result_id))


def explain(engine: Engine, path: bytes) -> list[Explanation]:
    """Return the story of a path, one for each root that knows it (roots may lie within each other).

    Args:
        path: absolute, or relative to a root; as ``os.fsencode`` gives it. Links are not followed.
    """
    return read(engine, lambda connection: _explain(connection, path))


def root_paths(engine: Engine) -> list[bytes]:
    """Return the folders that this database knows, the first registered first; ``--root`` names some in no settings."""
    return read(engine, lambda connection: list(connection.execute(select(_root.path).order_by(_root.id)).scalars()))


def _show(connection: Connection, result_id: int) -> ResultDetail | None:
    statement = selected(*_WAY).where(_file.id == result_id, _file.committed_at.is_not(None))
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    (result,) = typed(connection, [row])
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
        same_content=tuple((one.id, one.root_text, one.path_text) for one in content),
        same_uid=tuple((one.id, one.root_text, one.path_text) for one in conflicts),
    )


def _explain(connection: Connection, path: bytes) -> list[Explanation]:
    explanations = []
    key = load_key(connection)
    for root in connection.execute(select(_root.id, _root.path, _root.path_text).order_by(_root.id)).all():
        relative = path
        if path.startswith(b"/"):
            prefix = root.path.rstrip(b"/") + b"/"
            if not absolute(path).startswith(prefix):
                continue
            relative = absolute(path)[len(prefix) :]
        names = [path_key(relative), *([] if key is None else [key.path(relative)])]
        rows = connection.execute(
            select(schema.file)
            .where(_file.root_id == root.id, _file.path_key.in_(names))
            .order_by(_file.newest, _file.id)
        ).all()
        if rows:
            versions = _histories(connection, rows)
            explanations.append(
                Explanation(root.id, root.path_text, display_path(relative), sentence(versions[-1]), tuple(versions))
            )
    return explanations


def _histories(connection: Connection, rows: Sequence[Row[Any]]) -> list[VersionHistory]:
    moves: dict[int, list[Transition]] = {row.id: [] for row in rows}
    statement = select(schema.transition).where(_transition.file_id.in_(list(moves))).order_by(_transition.id)
    for one in connection.execute(statement):
        from_state = None if one.from_state is None else FileState(one.from_state)
        moves[one.file_id].append(
            Transition(from_state, FileState(one.to_state), one.at, one.why, one.epoch, one.worker_id)
        )
    past = _past_outcomes(connection, list(moves))
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
            transitions=tuple(moves[row.id]),
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
    findings = findings_of(connection, sorted({row.assessment_id for row in rows if row.assessment_id is not None}))
    past: dict[int, list[PastOutcome]] = {}
    for row in rows:
        ended = PastOutcome(
            outcome=Outcome(row.outcome),
            code=row.code,
            reason=row.reason,
            findings=findings.get(row.assessment_id, ()),
            bundle=None if row.name is None else f"{row.name}/{row.version}",
            committed_at=row.committed_at,
            replaced_at=row.replaced_at,
            withdrawn=row.withdrawn_reason,
        )
        past.setdefault(row.file_id, []).append(ended)
    return past


def sentence(version: VersionHistory) -> str:
    """Say in a sentence or two why this version has, or has not yet, a result."""
    said = _state_sentence(version)
    if version.state in OPEN_STATES and version.outcome is not None:
        return f"{said.replace('no result yet', 'no newer result yet', 1)} Until then: {_outcome_sentence(version)}"
    return said


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
                why += f"; since {_utc(version.locked_since)}, and after 24 h it is set aside"
            return f"It has no result yet: reading it did not succeed ({why}); it will be tried again{due}."
        case FileState.MISSED:
            known = " An operator acknowledged that." if version.code else ""
            return f"It has no result: it went away before it was read.{known}"
        case FileState.IGNORED if version.code == FORGOTTEN:
            return "It has no result: what was known of this film was purged, and it is not read again."
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
            return f"It could not be read and was set aside: {version.code}{reason}."
        case None:
            return "It was not read."
