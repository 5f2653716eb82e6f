"""One film: what the page shows of it, and the form in which it is read."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException
from fastapi.responses import HTMLResponse
from starlette.datastructures import FormData

from preread.core.errors import UsageError
from preread.core.types import Outcome, Presence, Role, Verdict
from preread.imaging import previews
from preread.review import disclosures, history, related_images, reviews
from preread.review.auth.sessions import Session
from preread.review.history import PastOutcome, ResultDetail
from preread.review.reviews import Draft, Review, Shown
from preread.web.context import Site
from preread.web.security import text_of

_FIELDS = ("form_token", "shown_outcome", "shown_code", "shown_assessment", "verdict", "comment", "supersedes", "order")
_PRESENCE = "presence."


@dataclass(frozen=True, slots=True)
class Typed:
    """What stands in the form: nothing yet, what was typed, or a reading that is to be corrected.

    ``supersedes``: the reader's own reading whose place this one takes.
    """

    form_token: str
    verdict: str = ""
    comment: str = ""
    supersedes: int | None = None
    presences: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class EarlierResult:
    """What the film's result was before.

    Attributes:
        viewers: the names of those who opened the film meanwhile.
        listed: of those whom a list showed this result, and who are not among them.
    """

    result: PastOutcome
    viewers: tuple[str, ...]
    listed: tuple[str, ...]

    def stood_at(self, at: datetime) -> bool:
        """Tell whether this was the result then."""
        return self.result.committed_at <= at <= self.result.replaced_at


def show(
    here: Site,
    session: Session,
    film_id: int,
    *,
    typed: Typed | None = None,
    order: str = "",
    status: int = 200,
    message: str | None = None,
    reveal: bool = False,
    correct: int | None = None,
) -> HTMLResponse:
    """Return the page of one film, and note that it was looked at.

    Args:
        typed: what stands in the form.
        message: key of what to say above it.
        reveal: show the answer now, although this reader reads before seeing it.
        correct: put this reading of the same reader into the form, to be corrected; without it a reader whose reading
            stands sees no form, unless the film's result has changed since.
    """
    detail = history.show(here.engine, film_id) if 0 < film_id < 2**63 else None
    if detail is None:
        raise HTTPException(404)
    row = detail.row
    who = session.account
    shown = Shown(row.outcome, row.code, detail.assessment_id)
    hidden = (
        who.role is Role.READER
        and who.read_before_reveal
        and row.outcome is Outcome.ASSESSED
        and not reveal
        and not reviews.may_see_answer(here.engine, who, film_id, shown)
    )
    looked_at = reviews.viewed_before(here.engine, who, film_id, shown)
    reviews.record_viewing(here.engine, who, film_id, shown, answer_visible=not hidden)
    signed = reviews.of_images(here.engine, [film_id])[film_id]
    own = next((one for one in reversed(signed) if one.account_id == who.account_id and not one.superseded), None)
    if status == HTTPStatus.CONFLICT and typed is not None:
        if own is not None and own.reading_id != typed.supersedes:
            message = "film.signed_meanwhile"
        # the reader is told of the reading that stands by now; what is signed next takes its place
        typed = replace(typed, supersedes=own.reading_id if own else None)
    if typed is None:
        typed = _form(own, shown, correct)
    earlier_results = [] if hidden else _earlier_results(here, detail)
    earlier = related_images.earlier(here.engine, row)
    disclosures.record(here.engine, who.actor, () if who.read_before_reveal else earlier)
    return here.page(
        "film.html",
        session,
        status=status,
        detail=detail,
        row=row,
        shown=shown,
        hidden=hidden,
        activation=None if hidden else _activation(detail),
        preview=here.options.preview_dir is not None
        and row.sha256 is not None
        and previews.exists(here.options.preview_dir, row.sha256),
        readings=[] if hidden else signed,
        read_before=bool(signed) and not any(one.shown == shown for one in signed),
        findings=related_images.findings_of(here.engine, row.bundle_digest),
        typed=typed,
        own=own,
        order=order,
        message=message,
        looked_at=looked_at,
        then=next((one for one in earlier_results if looked_at is not None and one.stood_at(looked_at)), None),
        earlier_results=earlier_results,
        newer=related_images.newest_version(here.engine, film_id),
        earlier=earlier,
        pacs=_pacs(here.options.pacs_url, row.identity.study_instance_uid),
        Verdict=Verdict,
        Presence=Presence,
    )


def draft_of(film_id: int, form: FormData) -> Draft:
    """Return what a film's form says. ``UsageError``: it says nothing that can be signed."""
    try:
        verdict = Verdict(text_of(form, "verdict"))
        presences = {
            name.removeprefix(_PRESENCE): Presence(str(value))
            for name, value in form.items()
            if name.startswith(_PRESENCE) and value
        }
        shown = Shown(
            Outcome(text_of(form, "shown_outcome")),
            text_of(form, "shown_code") or None,
            int(text_of(form, "shown_assessment")) if text_of(form, "shown_assessment") else None,
        )
        supersedes = int(text_of(form, "supersedes")) if text_of(form, "supersedes") else None
    except ValueError:
        raise UsageError("the form lacks an accept, a reject or a supplement") from None
    token = text_of(form, "form_token")
    if not 16 <= len(token) <= 64 or any(len(name) > 64 for name in presences):
        raise UsageError("the form is not one of ours")
    return Draft(film_id, shown, verdict, token, presences, text_of(form, "comment"), supersedes)


def typed_of(form: FormData) -> Typed:
    """Return what was typed, to be shown again as it was."""
    supersedes = text_of(form, "supersedes")
    return Typed(
        form_token=text_of(form, "form_token") or secrets.token_urlsafe(24),
        verdict=text_of(form, "verdict"),
        comment=text_of(form, "comment"),
        supersedes=int(supersedes) if supersedes.isascii() and supersedes.isdigit() and len(supersedes) < 19 else None,
        presences={n.removeprefix(_PRESENCE): str(v) for n, v in form.items() if n.startswith(_PRESENCE)},
    )


def carried(form: FormData) -> list[tuple[str, str]]:
    """Return the fields of a film's form that go along while its reader signs in again."""
    kept = [(name, text_of(form, name)) for name in (*_FIELDS, "draft_film") if text_of(form, name)]
    return kept + [(name, str(value)) for name, value in form.items() if name.startswith(_PRESENCE) and value]


def again(here: Site, session: Session, form: FormData, *, message: str, status: int = 200) -> HTMLResponse:
    """Show the film again with everything that was typed."""
    film = text_of(form, "draft_film")
    if not (film.isascii() and film.isdigit() and len(film) < 19):
        raise HTTPException(404)
    order = text_of(form, "order")
    return show(here, session, int(film), typed=typed_of(form), order=order, message=message, status=status)


def _earlier_results(here: Site, detail: ResultDetail) -> list[EarlierResult]:
    past = [EarlierResult(one, (), ()) for one in detail.history.past]
    looked = reviews.viewers(here.engine, detail.row.result_id) if past else []
    listed = disclosures.of_image(here.engine, detail.row.result_id) if past else {}
    found = []
    for one in past:
        viewers = tuple(dict.fromkeys(name for name, at in looked if one.stood_at(at)))
        others = [name for name in listed.get(one.result.committed_at, ()) if name not in viewers]
        found.append(replace(one, viewers=viewers, listed=tuple(others)))
    return found


def _form(own: Review | None, shown: Shown, correct: int | None) -> Typed | None:
    """Return what stands in a form that nobody has typed into; ``None``: there is nothing to be signed."""
    token = secrets.token_urlsafe(24)
    if own is None:
        return Typed(token)
    if own.reading_id == correct:
        said = {name: presence.value for name, presence in own.findings.items()}
        return Typed(token, own.verdict.value, own.comment, own.reading_id, said)
    return None if own.shown == shown else Typed(token, supersedes=own.reading_id)


def _activation(detail: ResultDetail) -> dict[str, Any] | None:
    """Return the activation map for the script: its cells, from 0 (none) to 255 (most), row by row."""
    if detail.activation_map is None:
        return None
    rows, columns = detail.activation_map.shape[:2]
    cells = detail.activation_map.reshape(rows, columns)
    top = float(cells.max())
    scaled = (cells.clip(0, None) / top * 255).round().astype("uint8") if top > 0 else (cells * 0).astype("uint8")
    return {
        "rows": rows,
        "columns": columns,
        "cells": base64.b64encode(scaled.tobytes()).decode(),
        "any": top > 0,
    }


def _pacs(template: str | None, study_instance_uid: str | None) -> str | None:
    # a UID is digits and dots; anything else in that tag must not reach a URL
    if template is None or study_instance_uid is None:
        return None
    if not all(part.isascii() and part.isdigit() for part in study_instance_uid.split(".")):
        return None
    return template.replace("{study_instance_uid}", study_instance_uid)
