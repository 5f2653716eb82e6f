"""Export of reviews as a data set for ``preread-train``.

One image a line, patients by pseudonym; disagreement of reviewers is kept, not resolved.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, Engine, insert, select

from preread.core.errors import UsageError
from preread.core.text.csv_cells import csv_cell
from preread.core.types import Identity, JSONObject, Presence
from preread.db.engine import read
from preread.db.review_schema import secret
from preread.db.schema import file
from preread.db.statements import keyset_pages
from preread.imaging import previews
from preread.ledger.transaction import Transaction, transaction
from preread.review import reviews
from preread.review.results import ResultRow, format_utc, results_from_rows, select_results
from preread.review.reviews import Review

ABSENT = "ABSENT"
COLUMNS = ("path", "label", "patient", "bundle", "answer_visible", "readers", "film", "sha256")
_KEY = "pseudonym"
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_FORMULA_SIGN = re.compile(r"[=+\-@|%]")
_PAGE = 500
_PSEUDONYM_CHARS = 24


@dataclass(frozen=True, slots=True)
class ReviewedImage:
    """An image with its current reviews, to export.

    Attributes:
        result: its result.
        readings: current reviews.
        label: present findings joined by ``|``, or ``ABSENT``; ``None`` if ``open`` is set.
        open: ``disagreement``, ``undecided``, or ``changed`` (the file has other bytes now); ``None`` if ``label`` is
            set.
        patient: pseudonym of the patient, or of the image if it names none.
        image: pseudonym of the image.
    """

    result: ResultRow
    readings: tuple[Review, ...]
    label: str | None
    open: str | None
    patient: str
    image: str

    def cells(self, path: str) -> tuple[str | int | bool | None, ...]:
        """Return the cells of the image's row in the exported CSV.

        Args:
            path: path of the image file in the data set.

        Returns:
            One value a column; ``answer_visible`` is true if it was for any reviewer.
        """
        bundles = sorted({review.bundle for review in self.readings if review.bundle})
        return (
            path,
            self.label,
            self.patient,
            " ".join(bundles),
            any(review.answer_visible for review in self.readings),
            _json_cell([review_to_json(review) for review in self.readings]),
            self.result.result_id,
            self.result.sha256,
        )


def _json_cell(records: list[JSONObject]) -> str:
    """Return records as JSON in which no cell would start a formula."""
    written = json.dumps(records)
    if csv_cell(written) == written:
        return written
    return _JSON_STRING.sub(lambda string: _FORMULA_SIGN.sub(lambda sign: f"\\u{ord(sign[0]):04x}", string[0]), written)


def reviewed_images(engine: Engine) -> Iterator[ReviewedImage]:
    """Yield the reviewed images to export, by rising file id.

    Raises:
        DatabaseAway, SchemaOutdated: the database cannot be read.
    """
    key = _pseudonym_key(engine)
    for ids in keyset_pages(lambda after: reviews.list_reviewed_images(engine, after, _PAGE), int, 0):
        signed = reviews.list_reviews(engine, ids)
        for result in read(engine, partial(_results, ids=ids)):
            current = tuple(review for review in signed[result.result_id] if not review.superseded)
            label, open_reason = _label(result, current)
            image = _pseudonym(key, "film", result.sha256 or str(result.result_id))
            yield ReviewedImage(result, current, label, open_reason, _patient(key, result.identity) or image, image)


def save_reviewed_image(folder: Path, image: ReviewedImage, preview_dir: Path | None) -> Path | None:
    """Write a reviewed image's preview under its pseudonym.

    Args:
        folder: target folder.
        image: the image.
        preview_dir: folder of previews, or ``None``.

    Returns:
        The file, or ``None`` if there is no preview.

    Raises:
        UsageError: it cannot be written.
    """
    content = previews.load_preview(preview_dir, image.result.sha256)
    if content is None:
        return None
    return write_image(folder / f"{image.image}.png", content)


def write_image(target: Path, content: bytes) -> Path:
    """Write an image file that only the current user can read.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        os.makedirs(target.parent, mode=0o700, exist_ok=True)
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as stream:
            os.fchmod(stream.fileno(), 0o600)  # also where an older file was open to others
            stream.write(content)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error
    return target


def review_to_json(review: Review) -> JSONObject:
    """Return a review as a JSON object; the reviewer is an account id."""
    return {
        "id": review.reading_id,
        "film": review.file_id,
        "reader": review.account_id,
        "verdict": review.verdict.value,
        "findings": {name: presence.value for name, presence in review.findings.items()},
        "presence": {name: presence.value for name, presence in review.presences().items()},
        "answers": {name: answer.value for name, answer in review.answers.items()},
        "outcome": review.shown.outcome.value,
        "code": review.shown.code,
        "bundle": review.bundle,
        "withdrawn": review.withdrawn,
        "device": review.device,
        "sha256": review.sha256,
        "comment": review.comment,
        "answer_visible": review.answer_visible,
        "signed_at": format_utc(review.signed_at),
        "waited_s": review.waited_s,
        "overtook": review.overtook,
        "supersedes": review.supersedes_id,
        "superseded": review.superseded,
    }


def _results(connection: Connection, ids: Sequence[int]) -> list[ResultRow]:
    rows = connection.execute(
        select_results().where(file.c.id.in_(ids), file.c.outcome.is_not(None)).order_by(file.c.id)
    )
    return results_from_rows(connection, rows.all())


def _label(result: ResultRow, current: Sequence[Review]) -> tuple[str | None, str | None]:
    """Return label and reason for a missing label; one of them is ``None``."""
    if any(review.sha256 != result.sha256 for review in current):
        return None, "changed"
    by_finding: dict[str, set[Presence]] = {}
    for review in current:
        for name, presence in review.presences().items():
            by_finding.setdefault(name, set()).add(presence)
    if any({Presence.PRESENT, Presence.ABSENT} <= presences for presences in by_finding.values()):
        return None, "disagreement"
    if not by_finding or any(Presence.UNSURE in presences for presences in by_finding.values()):
        return None, "undecided"
    present = sorted(name.upper() for name, presences in by_finding.items() if Presence.PRESENT in presences)
    return "|".join(present) or ABSENT, None


@transaction
def _pseudonym_key(tx: Transaction) -> str:
    """Return the key of this database's pseudonyms; create it if missing."""
    stored = tx.connection.execute(select(secret.c.value).where(secret.c.name == _KEY)).scalar_one_or_none()
    if stored is not None:
        return stored
    value = secrets.token_hex(32)
    tx.connection.execute(insert(secret), {"name": _KEY, "value": value})
    return value


def _pseudonym(key: str, kind: str, *parts: str) -> str:
    message = json.dumps([kind, *parts]).encode()
    return hmac.new(bytes.fromhex(key), message, hashlib.sha256).hexdigest()[:_PSEUDONYM_CHARS]


def _patient(key: str, who: Identity) -> str | None:
    if who.patient_id is None:
        return None
    return _pseudonym(key, "patient", who.patient_id, who.issuer_of_patient_id or "", who.patient_birth_date or "")
