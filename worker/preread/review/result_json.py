"""One result as a JSON record: the same for ``preread results --json`` and for the API."""

from __future__ import annotations

import dataclasses
from datetime import datetime

from preread.core.jsonable import finding_to_json, reversible_path
from preread.core.types import JSONObject
from preread.review.history import ResultDetail, VersionHistory
from preread.review.results import ResultRow


def result_to_json(result: ResultRow) -> JSONObject:
    """Return a result as a record: the fields of ``preread assess`` and what the database knows beyond them."""
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
        "bundle": result.bundle,
        "bundle_digest": result.bundle_digest,
        "withdrawn": None
        if result.withdrawn_at is None
        else {"at": iso(result.withdrawn_at), "reason": result.withdrawn},
        "population": result.population.value,
        "research": result.research,
        "state": result.state.value,
        "committed_at": iso(result.committed_at),
        "first_seen_at": iso(result.first_seen_at),
        "acquired_local": result.acquired_local,
        "identity": dataclasses.asdict(result.identity),
        "format": result.format,
        "transfer_syntax_uid": result.transfer_syntax_uid,
        "rows": result.rows,
        "columns": result.columns,
        "decoder": result.decoder,
        "size_bytes": result.size_bytes,
        "ms": result.ms,
    }


def detail_to_json(detail: ResultDetail) -> JSONObject:
    """Return one result in full as a record."""
    return {
        **result_to_json(detail.row),
        "same_content": [_other(other) for other in detail.same_content],
        "same_sop_instance_uid": [_other(other) for other in detail.same_uid],
        "history": history_to_json(detail.history),
    }


def history_to_json(version: VersionHistory) -> JSONObject:
    """Return one version's way through the ledger as a record."""
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
        "locked_since": version.locked_since and iso(version.locked_since),
        "past": [
            {
                "outcome": ended.outcome.value,
                "code": ended.code,
                "reason": ended.reason,
                "findings": [finding_to_json(finding) for finding in ended.findings],
                "bundle": ended.bundle,
                "withdrawn": ended.withdrawn,
                "committed_at": iso(ended.committed_at),
                "replaced_at": iso(ended.replaced_at),
            }
            for ended in version.past
        ],
        "transitions": [
            {
                "at": iso(move.at),
                "from": move.from_state and move.from_state.value,
                "to": move.to_state.value,
                "why": move.why,
                "worker": move.worker_id,
            }
            for move in version.transitions
        ],
    }


def iso(at: datetime) -> str:
    """Return a time as JSON holds it: UTC, milliseconds, ``Z``."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _other(other: tuple[int, str, str]) -> JSONObject:
    result_id, root, path = other
    return {"id": result_id, "root": root, "path": path}
