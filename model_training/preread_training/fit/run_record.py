"""The record of a run: parts, progress, size."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

from preread.core.errors import UsageError
from preread.core.types import JSONObject
from preread_training.fit.callbacks import history_of
from preread_training.fit.cross_validation import ALL_FILMS, LOGITS_FILE, RECORD_FILE
from preread_training.fit.trainer import WEIGHTS_FILE


@dataclass(frozen=True, slots=True)
class Part:
    """One network of a run.

    Attributes:
        folder: ``fold-0`` ..., or ``all``.
        films: held out by the fold; all films for ``all``.
        finished: its logits are kept (for ``all``: its weights).
        history: (epoch from 1, loss, seconds) of each epoch so far.
        weights: SHA-256 (hex) of the fitted weights, empty where there are none yet.
    """

    folder: str
    films: int
    finished: bool
    history: list[tuple[int, float, float]]
    weights: str

    @property
    def name(self) -> str:
        """As a person calls it."""
        return "all films" if self.folder == ALL_FILMS else self.folder.replace("-", " ")

    @property
    def state(self) -> str:
        """Progress of this part, in a word."""
        if self.finished:
            return "finished"
        return f"{len(self.history)} epochs so far" if self.history else "not begun"


def record_of(run: Path) -> JSONObject:
    """Read a run's record.

    Raises:
        UsageError: there is no run, or its record is no JSON.
    """
    file = run / RECORD_FILE
    if not file.is_file():
        raise UsageError(f"{run} holds no run: `preread-train fit --run {run}` makes one")
    try:
        record: JSONObject = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is damaged: {error}") from None
    if missing := {"recipe", "seed", "data", "environment"} - record.keys():
        raise UsageError(f"{file} lacks {', '.join(sorted(missing))}: it is no record of a run")
    return record


def parts_of(run: Path, record: JSONObject) -> list[Part]:
    """Every part of a run, begun or not, folds first."""
    folds: list[int] = record["data"]["folds"]
    parts = []
    for folder, films in [*((f"fold-{fold}", count) for fold, count in enumerate(folds)), (ALL_FILMS, sum(folds))]:
        weights = run / folder / WEIGHTS_FILE
        there = weights if folder == ALL_FILMS else run / folder / LOGITS_FILE
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else ""
        parts.append(Part(folder, films, there.exists(), history_of(run / folder), digest))
    return parts


def lowest_loss(recipe: JSONObject) -> float | None:
    """Return the lowest loss that smoothed labels allow.

    ``None`` without label smoothing.

    Binary cross-entropy is never below the entropy of its targets.
    """
    moved = recipe.get("label_smoothing", 0.0) / 2
    return -(moved * math.log(moved) + (1 - moved) * math.log(1 - moved)) if moved else None


def changes_of_size(recipe: JSONObject) -> list[tuple[float, str]]:
    """After how many epochs the input grows, and to what."""
    found, epochs = [], 0
    for side, count in recipe.get("sizes", []):
        if epochs:
            found.append((float(epochs), f"{side} px"))
        epochs += count
    return found


def record_rows(record: JSONObject, parts: list[Part]) -> list[tuple[str, str]]:
    """The record as pairs of name and text, nested names joined by dots."""
    rows = [("seed", str(record["seed"])), ("steps per epoch", str(record.get("steps_per_epoch") or "whole epochs"))]
    rows += _flat("recipe", record["recipe"])
    rows += [("data: SHA-256 over films, labels, patients and folds", str(record["data"].get("digest", "")))]
    rows += _flat("data", {key: value for key, value in record["data"].items() if key != "digest"})
    rows += [(f"weights of {part.name}: SHA-256", part.weights) for part in parts if part.weights]
    return rows


def _flat(name: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for key, of in value.items() for row in _flat(f"{name}.{key}", of)]
    if isinstance(value, float):
        return [(name, f"{value:.6g}")]
    if isinstance(value, list):
        return [(name, json.dumps(value))]
    return [(name, str(value))]
