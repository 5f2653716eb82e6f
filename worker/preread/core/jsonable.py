"""JSON records shared by commands, page and API."""

from __future__ import annotations

import dataclasses
import functools
import json
import os

from preread.core.types import Finding, JSONObject, PredictiveValues


def finding_to_json(finding: Finding) -> JSONObject:
    """Return a finding as JSON: probability with prevalence, PPV and NPV."""
    return {
        "finding": finding.finding,
        "probability": finding.probability,
        "prevalence": finding.prevalence,
        "answer": finding.answer.value,
        "predictive_values": [dataclasses.asdict(values) for values in finding.predictive_values],
    }


@functools.lru_cache(maxsize=8)  # a manifest has some 45 KB, and every list needs that of its bundle
def stated_predictive_values(manifest: str) -> dict[str, tuple[PredictiveValues, ...]]:
    """Return the predictive values in a manifest, by name of the finding.

    Args:
        manifest: JSON text of ``manifest.json``; older ones state no predictive values.
    """
    return {
        finding["finding"]: tuple(PredictiveValues(**values) for values in finding.get("predictive_values", ()))
        for finding in json.loads(manifest).get("findings", ())
    }


def reversible_path(path: str | bytes) -> str:
    r"""Return a path as text for JSON from which its bytes can be restored.

    For display use ``escaping.display_path``, which escapes control characters as well.

    Args:
        path: a byte that is not UTF-8 becomes ``\xff``, a backslash is doubled.
    """
    text = os.fsencode(path).decode("utf-8", "surrogateescape").replace("\\", "\\\\")
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)
