"""Readings as a data set for ``preread-train``: one film a line, patients by pseudonym, disagreement left standing."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, insert, select

from preread.core.errors import UsageError
from preread.core.text.csv_cells import cell
from preread.core.types import Identity, JSONObject, Presence
from preread.db.engine import read, write
from preread.db.review_schema import secret
from preread.db.schema import file
from preread.imaging import previews
from preread.review import reviews
from preread.review.result_json import iso
from preread.review.results import ResultRow, selected, typed
from preread.review.reviews import Reading

ABSENT = "ABSENT"
COLUMNS = ("path", "label", "patient", "bundle", "answer_visible", "readers", "film", "sha256")
_KEY = "pseudonym"
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_FORMULA_SIGN = re.compile(r"[=+\-@|%]")
_PAGE = 500
_PSEUDONYM_CHARS = 24


@dataclass(frozen=True, slots=True)
class ReadFilm:
    """A film with the readings that stand.

    Attributes:
        label: the findings that are present, joined by ``|``, or ``ABSENT``; ``None`` where ``open`` says why.
        open: ``disagreement`` of its readers, ``undecided``, or ``changed``: the file holds other bytes by now.
        patient: pseudonym of the patient, of the film itself where it names none.
        image: pseudonym of the film.
    """

    result: ResultRow
    readings: tuple[Reading, ...]
    label: str | None
    open: str | None
    patient: str
    image: str

    def cells(self, path: str) -> tuple[str | int | bool | None, ...]:
        """Return its line of the CSV, see ``COLUMNS``; ``answer_visible`` where it was for any of the readers."""
        bundles = sorted({one.bundle for one in self.readings if one.bundle})
        return (
            path,
            self.label,
            self.patient,
            " ".join(bundles),
            any(one.answer_visible for one in self.readings),
            _json_cell([reading_to_json(one) for one in self.readings]),
            self.result.result_id,
            self.result.sha256,
        )


def _json_cell(records: list[JSONObject]) -> str:
    """Return records as JSON that a cell of a spreadsheet holds unchanged: what would start a formula is escaped."""
    written = json.dumps(records)
    if cell(written) == written:
        return written
    return _JSON_STRING.sub(lambda one: _FORMULA_SIGN.sub(lambda sign: f"\\u{ord(sign[0]):04x}", one[0]), written)


def films(engine: Engine) -> Iterator[ReadFilm]:
    """Yield every film that was read, by rising id."""
    key = _pseudonym_key(engine)
    after = 0
    while ids := reviews.films_after(engine, after, _PAGE):
        after = ids[-1]
        signed = reviews.of_films(engine, ids)
        for result in read(engine, lambda connection, ids=ids: _results(connection, ids)):  # type: ignore[misc]
            standing = tuple(one for one in signed[result.result_id] if not one.superseded)
            label, still_open = _label(result, standing)
            image = _pseudonym(key, "film", result.sha256 or str(result.result_id))
            yield ReadFilm(result, standing, label, still_open, _patient(key, result.identity) or image, image)


def save_image(folder: Path, film: ReadFilm, preview_dir: Path | None) -> Path | None:
    """Write the film's preview, pixels alone, under its pseudonym; ``None`` where none was kept."""
    content = previews.load(preview_dir, film.result.sha256)
    if content is None:
        return None
    return write_image(folder / f"{film.image}.png", content)


def write_image(target: Path, content: bytes) -> Path:
    """Write a picture that only this user reads. ``UsageError``: it cannot be written."""
    try:
        os.makedirs(target.parent, mode=0o700, exist_ok=True)
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as stream:
            os.fchmod(stream.fileno(), 0o600)  # also where an older file was open to others
            stream.write(content)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error
    return target


def reading_to_json(one: Reading) -> JSONObject:
    """Return a reading as a record; its reader is an account's number, no name."""
    return {
        "id": one.reading_id,
        "film": one.file_id,
        "reader": one.account_id,
        "verdict": one.verdict.value,
        "findings": {name: presence.value for name, presence in one.findings.items()},
        "presence": {name: presence.value for name, presence in one.presences().items()},
        "answers": {name: answer.value for name, answer in one.answers.items()},
        "outcome": one.shown.outcome.value,
        "code": one.shown.code,
        "bundle": one.bundle,
        "withdrawn": one.withdrawn,
        "device": one.device,
        "sha256": one.sha256,
        "comment": one.comment,
        "answer_visible": one.answer_visible,
        "signed_at": iso(one.signed_at),
        "waited_s": one.waited_s,
        "overtook": one.overtook,
        "supersedes": one.supersedes_id,
        "superseded": one.superseded,
    }


def _results(connection: Connection, ids: Sequence[int]) -> list[ResultRow]:
    rows = connection.execute(selected().where(file.c.id.in_(ids), file.c.outcome.is_not(None)).order_by(file.c.id))
    return typed(connection, rows.all())


def _label(result: ResultRow, standing: Sequence[Reading]) -> tuple[str | None, str | None]:
    if any(one.sha256 != result.sha256 for one in standing):
        return None, "changed"
    said: dict[str, set[Presence]] = {}
    for one in standing:
        for name, presence in one.presences().items():
            said.setdefault(name, set()).add(presence)
    if any({Presence.PRESENT, Presence.ABSENT} <= words for words in said.values()):
        return None, "disagreement"
    if not said or any(Presence.UNSURE in words for words in said.values()):
        return None, "undecided"
    present = sorted(name.upper() for name, words in said.items() if Presence.PRESENT in words)
    return "|".join(present) or ABSENT, None


def _pseudonym_key(engine: Engine) -> str:
    """Return the key of this database's pseudonyms, made at the first export: the same patient, the same pseudonym."""

    def body(connection: Connection, _again: bool) -> str:
        found = connection.execute(select(secret.c.value).where(secret.c.name == _KEY)).scalar_one_or_none()
        if found is not None:
            return found
        value = secrets.token_hex(32)
        connection.execute(insert(secret), {"name": _KEY, "value": value})
        return value

    return write(engine, body)


def _pseudonym(key: str, kind: str, *parts: str) -> str:
    message = json.dumps([kind, *parts]).encode()
    return hmac.new(bytes.fromhex(key), message, hashlib.sha256).hexdigest()[:_PSEUDONYM_CHARS]


def _patient(key: str, who: Identity) -> str | None:
    if who.patient_id is None:
        return None
    return _pseudonym(key, "patient", who.patient_id, who.issuer_of_patient_id or "", who.patient_birth_date or "")
