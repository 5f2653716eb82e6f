"""How a file ended: transaction bodies behind ``Ledger``'s commits. See there for what each does.

Outcome, refusal and identity belong to the file version; the assessment belongs to the content (``instance``) and is
written once for each bundle, whoever comes first.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, exists, func, select, update

from worker import forgetting, schema
from worker.claims import set_aside_values
from worker.discovery import insert_or_skip
from worker.domain import (
    Answer,
    Caveat,
    FileState,
    Finding,
    Identity,
    Outcome,
    PictureStatistics,
    Population,
    RefusalCode,
)
from worker.entries import Claim, ContentAssessment, FileFacts
from worker.errors import BundleWithdrawn, UnreadableError
from worker.escaping import clean_identifier, clean_text
from worker.lookups import device_of, name_key
from worker.moves import ended_as, held, leave_claim

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


def register_bundle(connection: Connection, now: datetime, name: str, version: str, digest: str, manifest: str) -> int:
    """See ``Ledger.register_bundle``."""
    row: schema.Row = {
        "name": name,
        "version": version,
        "digest": digest,
        "manifest": manifest,
        "registered_at": now,
    }
    insert_or_skip(connection, schema.bundle, [row])
    found = connection.execute(select(schema.bundle).where(schema.bundle.c.digest == digest)).one()
    if found.withdrawn_at is not None:
        raise BundleWithdrawn(f"the bundle {name}/{version} was withdrawn: {found.withdrawn_reason}")
    bundle_id: int = found.id
    return bundle_id


def assessment_exists(connection: Connection, sha256: str, bundle_digest: str) -> bool:
    """See ``Ledger.assessment_exists``."""
    found = (
        select(schema.assessment.c.id)
        .join(schema.instance, schema.instance.c.id == schema.assessment.c.instance_id)
        .join(schema.bundle, schema.bundle.c.id == schema.assessment.c.bundle_id)
        .where(schema.instance.c.sha256 == sha256, schema.bundle.c.digest == bundle_digest)
    )
    return connection.execute(found.limit(1)).first() is not None


# ---------------------------------------------------------------------- the three outcomes


def commit_assessed(
    connection: Connection,
    now: datetime,
    claim: Claim,
    facts: FileFacts,
    bundle_id: int,
    content: ContentAssessment | None,
    again: bool,
) -> bool:
    """See ``Ledger.commit_assessed``."""
    if not _begin(connection, now, claim, facts):
        return again and ended_as(connection, claim) is FileState.DONE
    values = _file_values(connection, now, claim, facts)
    values["assessment_id"] = _assessment(connection, now, values["instance_id"], bundle_id, content)
    values["answer"] = _most_urgent(connection, values["assessment_id"])
    values.update(outcome=Outcome.ASSESSED, bundle_id=bundle_id, code=None, reason=None, committed_at=now)
    return leave_claim(connection, now, claim, FileState.DONE, Outcome.ASSESSED, **values)


def commit_refused(
    connection: Connection,
    now: datetime,
    claim: Claim,
    facts: FileFacts,
    bundle_id: int,
    code: RefusalCode,
    reason: str,
    again: bool,
) -> bool:
    """See ``Ledger.commit_refused``."""
    if not _begin(connection, now, claim, facts):
        return again and ended_as(connection, claim) is FileState.DONE
    values = _file_values(connection, now, claim, facts)
    values.update(
        outcome=Outcome.REFUSED,
        bundle_id=bundle_id,
        assessment_id=None,
        answer=None,
        code=code,
        reason=clean_text(reason),
        committed_at=now,
    )
    return leave_claim(connection, now, claim, FileState.DONE, f"{Outcome.REFUSED}: {code}", **values)


def commit_unreadable(
    connection: Connection,
    now: datetime,
    claim: Claim,
    error: UnreadableError,
    facts: FileFacts | None,
    again: bool,
) -> bool:
    """See ``Ledger.commit_unreadable``."""
    if not _begin(connection, now, claim, facts):
        return again and ended_as(connection, claim) is FileState.QUARANTINED
    values: dict[str, Any] = {} if facts is None else _file_values(connection, now, claim, facts)
    values.update(set_aside_values(now, error.code, str(error)), assessment_id=None, answer=None, bundle_id=None)
    return leave_claim(connection, now, claim, FileState.QUARANTINED, f"{Outcome.UNREADABLE}: {error.code}", **values)


def forget_again(connection: Connection, now: datetime, claim: Claim, sha256: str) -> bool:
    """See ``Ledger.forget``."""
    key = forgetting.load_key(connection)
    if key is None or not forgetting.is_forgotten(connection, sha256):
        return False
    if connection.execute(select(schema.file.c.id).where(held(claim)).with_for_update()).first() is None:
        return False
    forgetting.forget(connection, now, key, [claim.file_id], "its bytes were purged before", readings=False)
    return True


def _begin(connection: Connection, now: datetime, claim: Claim, facts: FileFacts | None) -> bool:
    """Lock what the commit touches, always in the same order; tell whether the claim still holds.

    It ends here where its bytes were purged while a slot read them.
    """
    if facts is not None:
        forgetting.lock_contents(connection, [facts.sha256])
        if forget_again(connection, now, claim, facts.sha256):
            return False
    uid = clean_identifier(facts.identity.sop_instance_uid) if facts is not None else None
    if uid is not None and connection.dialect.name == "postgresql":
        # of two films with one UID that are committed at the same moment, neither would see the other
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(uid, 0))))
    return connection.execute(select(schema.file.c.id).where(held(claim)).with_for_update()).first() is not None


# ---------------------------------------------------------------------- content


def _instance(connection: Connection, now: datetime, claim: Claim, facts: FileFacts) -> int:
    row: schema.Row = {
        "sha256": facts.sha256,
        "size_bytes": claim.size_bytes,
        "format": facts.format,
        "transfer_syntax_uid": clean_identifier(facts.transfer_syntax_uid),
        "rows": facts.rows,
        "columns": facts.columns,
        "first_read_at": now,
    }
    insert_or_skip(connection, schema.instance, [row])
    found = select(schema.instance.c.id).where(schema.instance.c.sha256 == facts.sha256)
    return connection.execute(found).scalar_one()


def _assessment(
    connection: Connection, now: datetime, instance_id: int, bundle_id: int, content: ContentAssessment | None
) -> int:
    if content is not None:
        activation_map = np.ascontiguousarray(content.activation_map, dtype="<f4")
        row: schema.Row = {
            "instance_id": instance_id,
            "bundle_id": bundle_id,
            "decoder": clean_text(content.decoder) or "",
            "pixel_caveats": _as_json(content.pixel_caveats),
            "activation_map": activation_map.tobytes(),
            "activation_map_shape": ",".join(str(length) for length in activation_map.shape),
            "assessed_at": now,
            **_picture_values(content.picture),
        }
        for (assessment_id,) in insert_or_skip(connection, schema.assessment, [row]):
            rows = finding_rows(content.findings, assessment_id=assessment_id)
            connection.execute(schema.finding.insert(), rows)
    columns = schema.assessment.c
    found = select(columns.id).where(columns.instance_id == instance_id, columns.bundle_id == bundle_id)
    existing = connection.execute(found).scalar_one_or_none()
    if existing is None:
        raise LookupError("the content was to be linked to an assessment that is not there")
    return existing


def finding_rows(findings: Iterable[Finding], **of: int) -> list[dict[str, Any]]:
    """What is stored of each finding, in their order; ``of`` names the row to which they belong."""
    return [
        {
            **of,
            "position": position,
            "finding": one.finding,
            "logit": one.logit,
            "probability": one.probability,
            "prevalence": one.prevalence,
            "answer": one.answer,
        }
        for position, one in enumerate(findings)
    ]


def _picture_values(picture: PictureStatistics | None) -> dict[str, Any]:
    return {} if picture is None else {f"picture_{name}": one for name, one in dataclasses.asdict(picture).items()}


def _most_urgent(connection: Connection, assessment_id: int) -> Answer | None:
    columns = schema.finding.c
    said = set(connection.execute(select(columns.answer).where(columns.assessment_id == assessment_id)).scalars())
    return next((answer for answer in (Answer.FLAGGED, Answer.UNCERTAIN, Answer.NOT_FLAGGED) if answer in said), None)


# ---------------------------------------------------------------------- file version


def _file_values(connection: Connection, now: datetime, claim: Claim, facts: FileFacts) -> dict[str, Any]:
    instance_id = _instance(connection, now, claim, facts)
    identity = identity_values(facts.identity)
    return {
        **identity,
        "instance_id": instance_id,
        "population": facts.population,
        "research": facts.population is Population.RESEARCH,
        "gate_caveats": _as_json(facts.gate_caveats),
        "uid_conflict": _mark_uid_conflict(connection, claim, identity["sop_instance_uid"], instance_id),
        "ms": facts.ms,
        "locked_since": None,
    }


def _mark_uid_conflict(connection: Connection, claim: Claim, uid: str | None, instance_id: int) -> bool:
    """Tell whether another content carries this SOP Instance UID; if so, mark the files that hold it as well."""
    if uid is None:
        return False
    columns = schema.file.c
    others = (columns.sop_instance_uid == uid) & (columns.instance_id != instance_id) & (columns.id != claim.file_id)
    if not connection.execute(select(exists().where(others))).scalar_one():
        return False
    same = (columns.sop_instance_uid == uid) & (columns.id != claim.file_id) & ~columns.uid_conflict
    connection.execute(update(schema.file).where(same).values(uid_conflict=True))
    return True


def identity_values(identity: Identity) -> dict[str, Any]:
    """Return the identity by column, safe to store: unusable text is missing, controls are escaped."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(identity):
        value = getattr(identity, field.name)
        if isinstance(value, str):
            value = clean_identifier(value) if field.name in _IDENTIFIERS else clean_text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            value = None
        values[field.name] = value
    values["acquired_local"] = acquired_local(identity)
    values["device"] = clean_text(device_of(identity))
    values["patient_name_key"] = name_key(identity.patient_name)
    return values


def acquired_local(identity: Identity) -> str | None:
    """Return when the film was taken as 14 digits of the modality's own wall clock, to compare and sort by.

    From the acquisition date and time as far as it is given (DICOM DT, PS3.5 section 6.2), else from the study date.
    """
    for written in (identity.acquisition_date_time, identity.study_date):
        # the fraction and the offset, if any, follow the digits; an offset behind a minus is left out by its length
        digits = re.split(r"[.+]", re.sub(r"[-: T]", "", written or ""))[0][:14]
        if digits.isascii() and digits.isdigit() and len(digits) >= 4:
            return digits + "00000101000000"[len(digits) :]
    return None


def _as_json(caveats: Iterable[Caveat]) -> str:
    return json.dumps([caveat.value for caveat in caveats])
