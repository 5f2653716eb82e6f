"""Outcomes of single claims, and the number of pending versions, for tests of the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from preread.core.errors import UnreadableError
from preread.core.study_header import StudyHeader
from preread.core.types import OPEN_STATES, Identity, Outcome, RefusalCode
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim, ContentAssessment, Ending, FileFacts


def header_of(identity: Identity) -> StudyHeader:
    """The header of a DICOM file with this identity."""
    stated = {
        "PatientName": ("PN", {"Alphabetic": identity.patient_name}),
        "PatientID": ("LO", identity.patient_id),
        "PatientBirthDate": ("DA", identity.patient_birth_date),
        "StudyInstanceUID": ("UI", identity.study_instance_uid),
        "AccessionNumber": ("SH", identity.accession_number),
    }
    return StudyHeader.of({keyword: {"vr": vr, "Value": [value]} for keyword, (vr, value) in stated.items()})


def commit_assessed(
    ledger: Ledger, claim: Claim, facts: FileFacts, bundle_id: int, content: ContentAssessment | None = None
) -> bool:
    """Commit a result; return ``False`` if the claim was fenced. ``content``: ``None`` if it was assessed before."""
    return ledger.commit(bundle_id, [Ending(claim, Outcome.ASSESSED, facts, content=content)])[0]


def commit_refused(
    ledger: Ledger, claim: Claim, facts: FileFacts, bundle_id: int, code: RefusalCode, reason: str
) -> bool:
    """Commit a refusal; return ``False`` if the claim was fenced."""
    return ledger.commit(bundle_id, [Ending(claim, Outcome.REFUSED, facts, code, reason)])[0]


def commit_unreadable(ledger: Ledger, claim: Claim, error: UnreadableError, facts: FileFacts | None = None) -> bool:
    """Commit an unreadable file; return ``False`` if the claim was fenced. ``facts``: ``None`` without bytes."""
    return ledger.commit(0, [Ending(claim, Outcome.UNREADABLE, facts, error.code, str(error))])[0]


def pending(ledger: Ledger, root_ids: Sequence[int] | None = None) -> int:
    """Return how many versions are SETTLING, READY, CLAIMED or RETRY, of these roots or of all."""
    return sum(ledger.count_versions(root_ids)[state] for state in OPEN_STATES)
