"""Digests that identify a data set wherever it is stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preread_training.data.dataset import Film

ABSENT = "NORMAL"
# Digest (see ``content_digest``) of the published training split on which the shipped bundle was fitted.
PUBLISHED_FILMS = "3a4cd12d5d43368bb00bd1b877cd8e261f014930a0d949bb4c5cd00f746b1c97"


def label_names(films: Sequence[Film]) -> list[str]:
    """Return the label of each image in one spelling."""
    return ["|".join(film.present).upper() or ABSENT for film in films]


def content_digest(films: Sequence[Film], hashes: Sequence[str]) -> str:
    """Return SHA-256 (hex) over hash, label and patient of each image.

    It does not depend on paths or folds.
    """
    rows = zip(hashes, label_names(films), (film.patient for film in films), strict=True)
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()
