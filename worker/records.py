"""The shapes that JSON output shares, so that every command prints one thing in one way."""

from __future__ import annotations

import os

from worker.domain import Finding, JSONObject


def finding_to_json(finding: Finding) -> JSONObject:
    """Return a finding as a record; its probability never goes without its prevalence."""
    return {
        "finding": finding.finding,
        "probability": finding.probability,
        "prevalence": finding.prevalence,
        "answer": finding.answer.value,
    }


def reversible_path(path: str | bytes) -> str:
    r"""Return a path as text that JSON can hold and that gives the bytes back.

    A byte that is not UTF-8 becomes ``\xff``, a backslash becomes two; every other name stays as it is. For people's
    eyes there is ``escaping.display_path``, which escapes control characters too.
    """
    text = os.fsencode(path).decode("utf-8", "surrogateescape").replace("\\", "\\\\")
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)
