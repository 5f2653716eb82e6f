"""Commits of results, refusals and unreadable files; bundles.

Files that ended at about the same time are committed together, with as many statements as one takes.
Outcome, refusal and identity belong to the file version; the assessment belongs to the content (``instance``) and is
written once for each bundle, whoever comes first.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, bindparam, delete, exists, func, select, update

from preread.core.errors import BundleWithdrawn
from preread.core.study_header import StudyHeader
from preread.core.text.escaping import clean_identifier, clean_text
from preread.core.text.search_keys import device_label, name_key
from preread.core.types import (
    Answer,
    Caveat,
    FileState,
    Finding,
    Identity,
    ImageStatistics,
    Outcome,
    Population,
)
from preread.db import audit_key, schema, seals
from preread.db.statements import insert_or_replace, insert_or_skip
from preread.ledger import tombstones
from preread.ledger.claims import quarantine_values
from preread.ledger.records import Claim, Ending, FileFacts
from preread.ledger.transaction import Transaction, query, transaction
from preread.ledger.transitions import (
    NOT_FAILED,
    SET_FREE,
    first_review_time,
    is_held_by,
    keep_outcomes,
    lock_names,
    record_transitions,
    state_after_claim,
)

_IDENTIFIERS = frozenset(
    {
        "patient_id",
        "issuer_of_patient_id",
        "study_instance_uid",
        "series_instance_uid",
        "sop_instance_uid",
        "sop_class_uid",
        "accession_number",
        "device_serial_number",
    }
)

_OF_UIDS = 0
_DAY_DIGITS = 8
_STATES = {
    Outcome.ASSESSED: FileState.DONE,
    Outcome.REFUSED: FileState.DONE,
    Outcome.UNREADABLE: FileState.QUARANTINED,
}
_LEAVE = update(schema.file).where(
    schema.file.c.id == bindparam("key_id"),
    schema.file.c.state == FileState.CLAIMED,
    schema.file.c.epoch == bindparam("key_epoch"),
)
_KNOWN = select(
    exists()
    .where(schema.instance.c.id == schema.assessment.c.instance_id, schema.instance.c.sha256 == bindparam("of_sha256"))
    .where(schema.bundle.c.id == schema.assessment.c.bundle_id, schema.bundle.c.digest == bindparam("of_digest")),
    tombstones.stored_key_query(),
)


@transaction
def register_bundle(tx: Transaction, *, name: str, version: str, digest: str, manifest: str = "{}") -> int:
    """Store a model bundle in the database if it is new; return its id.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        name: of the bundle.
        version: of the bundle.
        digest: SHA-256 of its manifest, in hex.
        manifest: its JSON text.

    Raises:
        BundleWithdrawn: the bundle was withdrawn and must assess nothing.
    """
    row: schema.Row = {
        "name": name,
        "version": version,
        "digest": digest,
        "manifest": manifest,
        "registered_at": tx.now,
    }
    insert_or_skip(tx.connection, schema.bundle, [row])
    found = tx.connection.execute(select(schema.bundle).where(schema.bundle.c.digest == digest)).one()
    if found.withdrawn_at is not None:
        raise BundleWithdrawn(f"the bundle {name}/{version} was withdrawn: {found.withdrawn_reason}")
    bundle_id: int = found.id
    return bundle_id


@query
def content_status(tx: Transaction, sha256: str, bundle_digest: str) -> tuple[bool, bool]:
    """Return whether a content (SHA-256) was assessed, and whether purged.

    A content that was assessed needs only header and gate; one that was purged is neither assessed nor kept.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        sha256: of the content, in hex.
        bundle_digest: SHA-256 of the bundle's manifest, in hex.

    Returns:
        Whether the bundle assessed the content, and whether the content was purged.
    """
    found = tx.connection.execute(_KNOWN, {"of_sha256": sha256, "of_digest": bundle_digest}).one()
    return bool(found[0]), found[1] is not None and bool(tombstones.find_purged(tx.connection, [sha256]))


# ---------------------------------------------------------------------- the outcomes


@transaction
def commit(tx: Transaction, bundle_id: int, endings: Sequence[Ending]) -> list[bool]:
    """Commit the outcomes of claimed files: DONE, or QUARANTINED with a code.

    Instance, assessment and findings are written once for each content and bundle: if another worker committed the
    same content meanwhile, its rows are kept and this version is linked to them.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        bundle_id: the bundle with which the images were assessed.
        endings: of different claims; some dozen at most.

    Returns:
        For each ending, whether it was written: ``False`` if the claim was fenced, or the file purged meanwhile.

    Raises:
        LookupError: an ending has no content, and there is no such assessment; nothing was written.
    """
    _lock(tx.connection, endings)
    _forget(tx, endings)
    ids = [ending.claim.file_id for ending in endings]
    c = schema.file.c
    these = schema.column_in(tx.connection, c.id, ids)
    claimed = select(c.id, c.epoch, c.owner, c.outcome).where(these, c.state == FileState.CLAIMED)
    rows = {(row.id, row.epoch): row for row in tx.connection.execute(claimed.order_by(c.id).with_for_update())}
    kept = [ending for ending in endings if _key(ending) in rows]
    instances = _instances(tx, [ending for ending in kept if ending.facts is not None])
    assessments = _assessments(
        tx, bundle_id, [ending for ending in kept if ending.outcome is Outcome.ASSESSED], instances
    )
    keep_outcomes(tx, [ending.claim.file_id for ending in kept if rows[_key(ending)].outcome is not None])
    key = audit_key.keyring_of(tx.connection).for_seals(tx.connection)
    moves: dict[tuple[FileState, str, str | None], list[tuple[int, int]]] = {}
    changes: dict[tuple[FileState, bool], list[dict[str, Any]]] = {}
    for ending in kept:
        state, why, values = _ended(ending, tx.now, bundle_id, instances, assessments)
        if ending.facts is not None and ending.outcome is not Outcome.UNREADABLE:
            values["seal"] = seals.seal_result(key, ending.claim.file_id, values)
        values |= {"state": state, "changed_at": tx.now, **SET_FREE}
        if rows[_key(ending)].outcome is not None:
            values["read_at"] = first_review_time(values)
            tx.connection.execute(update(schema.file).where(is_held_by(ending.claim)).values(values))
        else:
            file_id, epoch = _key(ending)
            changes.setdefault((state, ending.facts is None), []).append(
                {**values, "key_id": file_id, "key_epoch": epoch}
            )
        moves.setdefault((state, why, rows[_key(ending)].owner), []).append(_key(ending))
    for batch in changes.values():
        tx.connection.execute(_LEAVE, batch)
    _store_headers(tx.connection, kept, {key for key, row in rows.items() if row.outcome is not None})
    for (state, why, owner), moved in moves.items():
        record_transitions(tx, moved, FileState.CLAIMED, state, why, owner)
    _mark_uid_conflicts(tx.connection, _uids(kept))
    # an ending without a claim may have been written by an earlier try whose answer was lost
    return [
        _key(ending) in rows
        or (tx.is_retry and state_after_claim(tx.connection, ending.claim) is _STATES[ending.outcome])
        for ending in endings
    ]


def _key(ending: Ending) -> tuple[int, int]:
    return ending.claim.file_id, ending.claim.epoch


def _uids(endings: Iterable[Ending]) -> set[str]:
    """Return the SOP Instance UIDs under which the files are stored."""
    uids = (clean_identifier(ending.facts.identity.sop_instance_uid) for ending in endings if ending.facts is not None)
    return {uid for uid in uids if uid is not None}


def _lock(connection: Connection, endings: Sequence[Ending]) -> None:
    """Lock contents, then UIDs, against other commits and purges.

    Rows are locked after both.
    """
    tombstones.lock_contents(connection, [ending.facts.sha256 for ending in endings if ending.facts is not None])
    # two files with one UID committed at the same moment would not see each other
    lock_names(connection, _uids(endings), _OF_UIDS)


def _forget(tx: Transaction, endings: Sequence[Ending]) -> None:
    """Turn files whose bytes were purged meanwhile into stubs.

    That ends their claims.
    """
    contents = tombstones.find_purged(
        tx.connection, [ending.facts.sha256 for ending in endings if ending.facts is not None]
    )
    for ending in endings:
        if ending.facts is not None and ending.facts.sha256 in contents:
            discard_purged(tx, ending.claim, ending.facts.sha256)


def _ended(
    ending: Ending,
    now: datetime,
    bundle_id: int,
    instances: Mapping[str, int],
    assessments: Mapping[int, tuple[int, Answer | None]],
) -> tuple[FileState, str, dict[str, Any]]:
    """Return the final state of a version, the reason, and its columns."""
    values: dict[str, Any] = {"locked_since": None, **NOT_FAILED}
    if ending.facts is not None:
        values |= _file_values(ending.facts, instances[ending.facts.sha256])
    if ending.outcome is Outcome.ASSESSED:
        assessment_id, answer = assessments[instances[ending.read.sha256]]
        ended = {"assessment_id": assessment_id, "answer": answer, "bundle_id": bundle_id}
        values |= {**ended, "outcome": ending.outcome, "code": None, "reason": None, "committed_at": now}
        return FileState.DONE, ending.outcome, values
    values |= {"assessment_id": None, "answer": None}
    if ending.outcome is Outcome.REFUSED:
        refused = {"code": ending.code, "reason": clean_text(ending.reason)}
        values |= {"outcome": ending.outcome, "bundle_id": bundle_id, "committed_at": now, **refused}
        return FileState.DONE, f"{ending.outcome}: {ending.code}", values
    values |= {**quarantine_values(now, ending.code or "", ending.reason or ""), "bundle_id": None}
    return FileState.QUARANTINED, f"{ending.outcome}: {ending.code}", values


@transaction
def discard_purged(tx: Transaction, claim: Claim, sha256: str) -> bool:
    """Turn a claimed file version into a stub if its content was purged.

    The stub is IGNORED with the code ``forgotten``.

    Returns:
        ``False`` if these bytes were not purged, or the claim was fenced.
    """
    key = tombstones.load_tombstone_key(tx.connection)
    if key is None or not tombstones.find_purged(tx.connection, [sha256]):
        return False
    if tx.connection.execute(select(schema.file.c.id).where(is_held_by(claim)).with_for_update()).first() is None:
        return False
    tombstones.replace_with_stubs(tx, key, [claim.file_id], "its bytes were purged before", with_reviews=False)
    return True


# ---------------------------------------------------------------------- content


def _instances(tx: Transaction, endings: Sequence[Ending]) -> dict[str, int]:
    """Store new contents; return the instance ids by SHA-256."""
    rows: list[schema.Row] = [
        {
            "sha256": ending.read.sha256,
            "size_bytes": ending.claim.size_bytes,
            "format": ending.read.format,
            "transfer_syntax_uid": clean_identifier(ending.read.transfer_syntax_uid),
            "rows": ending.read.rows,
            "columns": ending.read.columns,
            "first_read_at": tx.now,
        }
        for ending in endings
    ]
    c = schema.instance.c
    found = {
        sha256: instance_id for instance_id, sha256 in insert_or_skip(tx.connection, schema.instance, rows, c.sha256)
    }
    known = {ending.read.sha256 for ending in endings} - set(found)
    if known:
        stored = tx.connection.execute(select(c.sha256, c.id).where(c.sha256.in_(known)))
        found.update((row.sha256, row.id) for row in stored)
    return found


def _assessments(
    tx: Transaction, bundle_id: int, endings: Sequence[Ending], instances: Mapping[str, int]
) -> dict[int, tuple[int, Answer | None]]:
    """Store new assessments; return id and answer of each content.

    The result is keyed by instance id.
    """
    contents = {
        instances[ending.read.sha256]: ending.content for ending in reversed(endings) if ending.content is not None
    }
    key = audit_key.keyring_of(tx.connection).for_seals(tx.connection)
    rows: list[schema.Row] = []
    for instance_id, content in contents.items():
        activation_map = np.ascontiguousarray(content.activation_map, dtype="<f4")
        rows.append(
            {
                "instance_id": instance_id,
                "bundle_id": bundle_id,
                "decoder": clean_text(content.decoder) or "",
                "pixel_caveats": _as_json(content.pixel_caveats),
                "activation_map": activation_map.tobytes(),
                "activation_map_shape": ",".join(str(length) for length in activation_map.shape),
                "assessed_at": tx.now,
                "seal": seals.seal_answers(key, instance_id, bundle_id, finding_rows(content.findings)),
                **_statistics_values(content.statistics),
            }
        )
    a, f = schema.assessment.c, schema.finding.c
    inserted = insert_or_skip(tx.connection, schema.assessment, rows, a.instance_id)
    findings = [
        row
        for assessment_id, instance_id in inserted
        for row in finding_rows(contents[instance_id].findings, assessment_id=assessment_id)
    ]
    if findings:
        tx.connection.execute(schema.finding.insert(), findings)
    said: dict[int, tuple[int, set[str]]] = {
        instance_id: (assessment_id, {finding.answer for finding in contents[instance_id].findings})
        for assessment_id, instance_id in inserted
    }
    wanted = {instances[ending.read.sha256] for ending in endings}
    if linked := wanted - set(said):
        stored = (
            select(a.id, a.instance_id, f.answer)
            .outerjoin_from(schema.assessment, schema.finding)
            .where(a.instance_id.in_(linked), a.bundle_id == bundle_id)
        )
        for row in tx.connection.execute(stored):
            said.setdefault(row.instance_id, (row.id, set()))[1].add(row.answer)
    if wanted - set(said):
        raise LookupError("the assessment of a content that was assessed before is missing")
    return {
        instance_id: (assessment_id, _most_urgent(answers)) for instance_id, (assessment_id, answers) in said.items()
    }


def finding_rows(findings: Iterable[Finding], **of: int) -> list[dict[str, Any]]:
    """Return findings as rows of their database table, in order.

    Args:
        findings: of one result.
        of: name and id of the row to which they belong, as further columns.
    """
    return [
        {
            **of,
            "position": position,
            "finding": finding.finding,
            "logit": finding.logit,
            "probability": finding.probability,
            "prevalence": finding.prevalence,
            "answer": finding.answer,
        }
        for position, finding in enumerate(findings)
    ]


def _statistics_values(statistics: ImageStatistics | None) -> dict[str, Any]:
    if statistics is None:
        return {}
    return {f"picture_{name}": value for name, value in dataclasses.asdict(statistics).items()}


def _most_urgent(said: Container[str]) -> Answer | None:
    return next((answer for answer in (Answer.FLAGGED, Answer.UNCERTAIN, Answer.NOT_FLAGGED) if answer in said), None)


# ---------------------------------------------------------------------- file version


def _store_headers(connection: Connection, endings: Sequence[Ending], read_before: Container[tuple[int, int]]) -> None:
    """Store the study headers of files, in place of earlier ones."""
    key = audit_key.keyring_of(connection).for_seals(connection)
    rows: list[schema.Row] = []
    for ending in endings:
        if ending.facts is not None and ending.facts.study_header is not None:
            header = ending.facts.study_header
            row = {
                "file_id": ending.claim.file_id,
                "header": header.elements,
                "left_out": json.dumps(header.left_out),
            }
            rows.append({**row, "seal": seals.seal_header(key, row)})
    insert_or_replace(connection, schema.study_header, rows)
    with_header = {row["file_id"] for row in rows}
    stale = [
        ending.claim.file_id
        for ending in endings
        if ending.facts is not None and _key(ending) in read_before and ending.claim.file_id not in with_header
    ]
    if stale:  # other bytes under the same name, size and time
        connection.execute(delete(schema.study_header).where(schema.study_header.c.file_id.in_(stale)))


def _file_values(facts: FileFacts, instance_id: int) -> dict[str, Any]:
    return {
        **identity_columns(facts.identity, facts.study_header),
        "instance_id": instance_id,
        "population": facts.population,
        "research": facts.population is Population.RESEARCH,
        "gate_caveats": _as_json(facts.gate_caveats),
        "uid_conflict": False,
        "ms": facts.ms,
        "locked_since": None,
    }


def _mark_uid_conflicts(connection: Connection, uids: Collection[str]) -> None:
    """Mark files whose SOP Instance UID belongs to more than one content."""
    if not uids:
        return
    c = schema.file.c
    these = schema.column_in(connection, c.sop_instance_uid, sorted(uids))
    carriers = select(c.sop_instance_uid).where(these).group_by(c.sop_instance_uid)
    several = carriers.having(func.min(c.instance_id) != func.max(c.instance_id))
    shared = connection.execute(several).scalars().all()
    if shared:
        unmarked = update(schema.file).where(c.sop_instance_uid.in_(shared), ~c.uid_conflict)
        connection.execute(unmarked.values(uid_conflict=True))


def identity_columns(identity: Identity, header: StudyHeader | None = None) -> dict[str, Any]:
    """Return the identity of an image as column values of ``file``.

    Text that cannot be stored becomes ``None``, control characters are escaped.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(identity):
        value = getattr(identity, field.name)
        if isinstance(value, str):
            value = clean_identifier(value) if field.name in _IDENTIFIERS else clean_text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            value = None
        values[field.name] = value
    values["acquired_local"], values["acquired_from"] = local_image_time(identity, header)
    values["device"] = clean_text(device_label(identity))
    values["patient_name_key"] = name_key(identity.patient_name)
    return values


def local_image_time(identity: Identity, header: StudyHeader | None) -> tuple[str | None, str | None]:
    """Return the time by which an image is sorted, and the kind of time.

    The time of acquisition as far as it is given (DICOM DT, PS3.5 section 6.2), else of the content, the series or the
    study.

    Args:
        identity: has the times of acquisition and study.
        header: has those of content and series; ``None`` without one.

    Returns:
        14 digits (YYYYMMDDhhmmss) by the modality's clock, to compare and sort, and ``acquisition``, ``content``,
        ``series`` or ``study``; ``None`` for both if the image states no date.
    """
    stated = [("acquisition", identity.acquisition_date_time or "")]
    if header is not None:
        for kind in ("content", "series", "study"):
            day, time = (header.text(f"{kind.capitalize()}{part}") or "" for part in ("Date", "Time"))
            day = day.replace(".", "")  # as in ACR-NEMA (PS3.5 6.2)
            stated += [(kind, day + time), (kind, day)] if len(_digits(day)) == _DAY_DIGITS else []
    for kind, written in (*stated, ("study", identity.study_date or "")):
        digits = _digits(written)[:14]
        if len(digits) >= len("YYYY"):
            return digits + "00000101000000"[len(digits) :], kind
    return None, None


def _digits(written: str) -> str:
    """Return the digits of a date, or of a date with its time; empty if it is none.

    The fraction and the offset, if any, follow the digits; an offset behind a minus is left out by its length.
    """
    digits = re.split(r"[.+]", re.sub(r"[-: T]", "", written))[0]
    return digits if digits.isascii() and digits.isdigit() else ""


def _as_json(caveats: Iterable[Caveat]) -> str:
    return json.dumps([caveat.value for caveat in caveats])
