"""Seals on results: keyed digests, so that an answer or a patient that is changed past the program shows.

A seal is written with the result, in the same statement. Files that could not be read have none: they say nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from preread.core.types import Identity
from preread.db.audit_key import Key, present

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
FINDING_COLUMNS = ("finding", "position", "logit", "probability", "prevalence", "answer")


def of_result(key: Key | None, file_id: int, row: Mapping[str, Any]) -> str | None:
    """Return the seal of a file's result: what it is, whose it is, and which answers belong to it."""
    return _seal(key, "result", [file_id, present({name: row[name] for name in RESULT_COLUMNS})])


def of_answers(key: Key | None, instance_id: int, bundle_id: int, findings: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the seal of an assessment: all that a bundle said of a content."""
    rows = sorted([one[name] for name in FINDING_COLUMNS] for one in findings)
    return _seal(key, "answers", [instance_id, bundle_id, rows])


def key_of(seal: str) -> str:
    """Return the identifier of the key that a seal was made with."""
    return seal.partition(":")[0]


def _seal(key: Key | None, kind: str, content: list[Any]) -> str | None:
    return None if key is None else f"{key.key_id}:{key.digest(kind, content)[:_SHOWN_CHARS]}"
