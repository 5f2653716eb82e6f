"""Digests that identify a data set wherever it is stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preread_training.data.dataset import LabelledImage

ABSENT = "NORMAL"
# Digest (see ``compute_content_digest``) of the published training split on which the shipped bundle was fitted.
PUBLISHED_DATA_SET = "3a4cd12d5d43368bb00bd1b877cd8e261f014930a0d949bb4c5cd00f746b1c97"


def format_labels(images: Sequence[LabelledImage]) -> list[str]:
    """Return the label of each image in the spelling of the digests."""
    return ["|".join(image.present).upper() or ABSENT for image in images]


def compute_content_digest(images: Sequence[LabelledImage], hashes: Sequence[str]) -> str:
    """Return the digest of a data set's content, wherever it is stored.

    Args:
        images: the labelled images.
        hashes: SHA-256 (hex) of each file's bytes, in the same order.

    Returns:
        SHA-256 (hex) over hash, label and patient of each image; paths and folds do not change it.
    """
    rows = zip(hashes, format_labels(images), (image.patient for image in images), strict=True)
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()
