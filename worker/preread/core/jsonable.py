"""The shapes that JSON output shares, so that every command prints one thing in one way."""

from __future__ import annotations

import dataclasses
import functools
import json
import os

from preread.core.types import Finding, JSONObject, PredictiveValues


def finding_to_json(finding: Finding) -> JSONObject:
    """Return a finding as a record; its probability never goes without its prevalence, PPV and NPV."""
    return {
        "finding": finding.finding,
        "probability": finding.probability,
        "prevalence": finding.prevalence,
        "answer": finding.answer.value,
        "predictive_values": [dataclasses.asdict(values) for values in finding.predictive_values],
    }


@functools.lru_cache(maxsize=8)  # a manifest is some 45 KB, and each list asks for its bundle's
def stated_predictive_values(manifest: str) -> dict[str, tuple[PredictiveValues, ...]]:
    """Return what a bundle's manifest (JSON text) states of each finding by name; older ones state nothing."""
    return {
        finding["finding"]: tuple(PredictiveValues(**values) for values in finding.get("predictive_values", ()))
        for finding in json.loads(manifest).get("findings", ())
    }


def reversible_path(path: str | bytes) -> str:
    r"""Return a path as text that JSON can hold and that gives the bytes back.

    A byte that is not UTF-8 becomes ``\xff``, a backslash becomes two; every other name stays as it is. For people's
    eyes there is ``escaping.display_path``, which escapes control characters too.
    """
    text = os.fsencode(path).decode("utf-8", "surrogateescape").replace("\\", "\\\\")
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)
