"""The record of a run as the report shows it: parts, epochs, weights."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

from preread.core.errors import UsageError
from preread.core.types import JSONObject
from preread_training.fit.callbacks import read_history
from preread_training.fit.cross_validation import ALL_IMAGES, LOGITS_FILE, RECORD_FILE
from preread_training.fit.trainer import WEIGHTS_FILE


@dataclass(frozen=True, slots=True)
class Part:
    """One network of a run.

    Attributes:
        folder: ``fold-0`` ..., or ``all``.
        images: number held out by the fold; all images for ``all``.
        finished: true if its logits are stored (for ``all``: its weights).
        history: (epoch from 1, loss, seconds) of each epoch so far.
        weights: SHA-256 (hex) of the fitted weights, empty if there are none yet.
    """

    folder: str
    images: int
    finished: bool
    history: list[tuple[int, float, float]]
    weights: str

    @property
    def name(self) -> str:
        """Name of the part for readers."""
        return "all images" if self.folder == ALL_IMAGES else self.folder.replace("-", " ")

    @property
    def state(self) -> str:
        """Progress of this part, in a word."""
        if self.finished:
            return "finished"
        return f"{len(self.history)} epochs so far" if self.history else "not begun"


def read_record(run: Path) -> JSONObject:
    """Read the record of a run.

    Args:
        run: folder of the run.

    Raises:
        UsageError: there is no run, or its record is no JSON or incomplete.
    """
    file = run / RECORD_FILE
    if not file.is_file():
        raise UsageError(f"{run} holds no run: make one with `preread-train fit --run {run}`")
    try:
        record: JSONObject = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is damaged ({error}): restore it, or fit the run anew in another folder") from None
    if missing := {"recipe", "seed", "data", "environment"} - record.keys():
        raise UsageError(f"{file} is no record of a run, it lacks {', '.join(sorted(missing))}: name a run's folder")
    return record


def list_parts(run: Path, record: JSONObject) -> list[Part]:
    """List the parts of a run, begun or not, folds first.

    Args:
        run: folder of the run.
        record: of ``read_record``.
    """
    folds: list[int] = record["data"]["folds"]
    parts = []
    for folder, images in [*((f"fold-{fold}", count) for fold, count in enumerate(folds)), (ALL_IMAGES, sum(folds))]:
        weights = run / folder / WEIGHTS_FILE
        there = weights if folder == ALL_IMAGES else run / folder / LOGITS_FILE
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else ""
        parts.append(Part(folder, images, there.exists(), read_history(run / folder), digest))
    return parts


def compute_lowest_loss(recipe: JSONObject) -> float | None:
    """Return the lowest loss that smoothed labels allow.

    Binary cross-entropy is never below the entropy of its targets.

    Args:
        recipe: as recorded.

    Returns:
        The loss in nats; ``None`` without label smoothing.
    """
    moved = recipe.get("label_smoothing", 0.0) / 2
    return -(moved * math.log(moved) + (1 - moved) * math.log(1 - moved)) if moved else None


def list_size_changes(recipe: JSONObject) -> list[tuple[float, str]]:
    """List the epochs after which the input grows, and its new size.

    Args:
        recipe: as recorded.

    Returns:
        Pairs of epochs and size, such as ``(10.0, "224 px")``; empty for a reference system.
    """
    found, epochs = [], 0
    for side, count in recipe.get("sizes", []):
        if epochs:
            found.append((float(epochs), f"{side} px"))
        epochs += count
    return found


def format_record_rows(record: JSONObject, parts: list[Part]) -> list[tuple[str, str]]:
    """Format a run's record as pairs of name and text.

    Args:
        record: of ``read_record``.
        parts: of ``list_parts``.

    Returns:
        The pairs; nested names are joined by dots.
    """
    rows = [("seed", str(record["seed"])), ("steps per epoch", str(record.get("steps_per_epoch") or "whole epochs"))]
    rows += _flat("recipe", record["recipe"])
    rows += [("data: SHA-256 over images, labels, patients and folds", str(record["data"].get("digest", "")))]
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
