"""Seals on results and headers: keyed digests that reveal changes.

A seal is written with the result, in the same statement. Unreadable files have no result and no seal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from preread.core.types import Identity
from preread.db.audit_key import AuditKey, columns_with_values

_SHOWN_CHARS = 32
RESULT_COLUMNS = (
    "outcome",
    "code",
    "committed_at",
    "instance_id",
    "assessment_id",
    "bundle_id",
    "answer",
    *(field.name for field in dataclasses.fields(Identity)),
)
HEADER_COLUMNS = ("file_id", "header", "left_out")
FINDING_COLUMNS = ("finding", "position", "logit", "probability", "prevalence", "answer")


def seal_result(key: AuditKey | None, file_id: int, row: Mapping[str, Any]) -> str | None:
    """Return the seal (keyed digest) of a result; ``None`` without a key.

    It covers result, identity and assessment.

    Args:
        key: the key of the audit trail.
        file_id: the file version.
        row: its columns, at least ``RESULT_COLUMNS``.
    """
    return _seal(key, "result", [file_id, columns_with_values({name: row[name] for name in RESULT_COLUMNS})])


def seal_answers(
    key: AuditKey | None, instance_id: int, bundle_id: int, findings: Iterable[Mapping[str, Any]]
) -> str | None:
    """Return the seal (keyed digest) of an assessment's findings.

    Args:
        key: the key of the audit trail.
        instance_id: the content.
        bundle_id: the bundle.
        findings: rows with at least ``FINDING_COLUMNS``.
    """
    rows = sorted([row[name] for name in FINDING_COLUMNS] for row in findings)
    return _seal(key, "answers", [instance_id, bundle_id, rows])


def seal_header(key: AuditKey | None, row: Mapping[str, Any]) -> str | None:
    """Return the seal (keyed digest) of a study header; ``None`` without key.

    It is no part of the result's seal: the version before would take such a result for a changed one.

    Args:
        key: the key of the audit trail.
        row: its columns, at least ``HEADER_COLUMNS``.
    """
    return _seal(key, "header", [row[name] for name in HEADER_COLUMNS])


def key_id_of_seal(seal: str) -> str:
    """Return the identifier of the key with which a result's seal was made."""
    return seal.partition(":")[0]


def _seal(key: AuditKey | None, kind: str, content: list[Any]) -> str | None:
    return None if key is None else f"{key.key_id}:{key.digest(kind, content)[:_SHOWN_CHARS]}"
