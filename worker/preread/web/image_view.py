"""Page of one image and its review form."""

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
from preread.review.auth.accounts import Account
from preread.review.auth.sessions import Session
from preread.review.history import PastOutcome, ResultDetail
from preread.review.results import ResultRow
from preread.review.reviews import Review, ReviewDraft, ShownResult
from preread.web.context import Site
from preread.web.security import form_text

_FIELDS = ("form_token", "shown_outcome", "shown_code", "shown_assessment", "verdict", "comment", "supersedes", "order")
_PRESENCE = "presence."


@dataclass(frozen=True, slots=True)
class FormValues:
    """Values of the review form: empty, as typed, or of a review to correct.

    Attributes:
        form_token: random token of the form.
        verdict: chosen verdict, or empty.
        comment: text of the comment.
        supersedes: id of the account's review that this one corrects, or ``None``.
        presences: presence by finding name, or ``None``.
    """

    form_token: str
    verdict: str = ""
    comment: str = ""
    supersedes: int | None = None
    presences: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class EarlierResult:
    """A result that a later one replaced.

    Attributes:
        result: the result.
        viewers: full names of those who opened the image while it was current.
        listed: full names of those to whom only a list showed it.
    """

    result: PastOutcome
    viewers: tuple[str, ...]
    listed: tuple[str, ...]

    def was_current_at(self, at: datetime) -> bool:
        """Return whether this was the current result at a time."""
        return self.result.committed_at <= at <= self.result.replaced_at


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Options of the page of an image.

    Attributes:
        typed: values of the form; ``None`` derives them from the account's review.
        order: order of the work list to return to, or empty.
        status: HTTP status.
        message: key of the message above the form, or ``None``.
        reveal: show the answer to a reviewer who signs before seeing it.
        correct: id of the account's own review to correct; without it, a reviewer whose review is current sees no
            form unless the image's result has changed since.
    """

    typed: FormValues | None = None
    order: str = ""
    status: int = 200
    message: str | None = None
    reveal: bool = False
    correct: int | None = None


@dataclass(frozen=True, slots=True)
class ImageView:
    """State of an image for one account.

    Attributes:
        detail: result and history.
        shown: identifies the result.
        hidden: the answer is not shown.
        viewed_at: when the account last viewed the image with another result, or ``None``.
        signed: all reviews of the image.
        own: the account's current review, or ``None``.
        earlier_results: results that the current one replaced; empty while the answer is hidden.
        earlier: the patient's earlier images.
    """

    detail: ResultDetail
    shown: ShownResult
    hidden: bool
    viewed_at: datetime | None
    signed: list[Review]
    own: Review | None
    earlier_results: list[EarlierResult]
    earlier: list[ResultRow]


def show(here: Site, session: Session, film_id: int, request: PageRequest = PageRequest()) -> HTMLResponse:
    """Record that the account viewed an image, and return its page.

    Raises:
        HTTPException: 404, there is no such image.
    """
    view = load_image_view(here, session.account, film_id, reveal=request.reveal)
    record_viewing(here, session.account, view)
    typed, message = request.typed, request.message
    if request.status == HTTPStatus.CONFLICT and typed is not None:
        if view.own is not None and view.own.reading_id != typed.supersedes:
            message = "film.signed_meanwhile"
        # the page shows the review that is current by now, which the next signature corrects
        typed = replace(typed, supersedes=view.own.reading_id if view.own else None)
    if typed is None:
        typed = _form(view.own, view.shown, request.correct)
    values = _template_values(here, view)
    return here.page(
        "film.html", session, status=request.status, typed=typed, order=request.order, message=message, **values
    )


def load_image_view(here: Site, who: Account, film_id: int, *, reveal: bool) -> ImageView:
    """Return the state of an image for one account; write nothing.

    Args:
        here: the site.
        who: the account.
        film_id: the image.
        reveal: show the answer to a reviewer who signs before seeing it.

    Raises:
        HTTPException: 404, there is no such image.
    """
    detail = history.load_result(here.engine, film_id) if 0 < film_id < 2**63 else None
    if detail is None:
        raise HTTPException(404)
    row = detail.row
    shown = ShownResult(row.outcome, row.code, detail.assessment_id)
    hidden = (
        who.role is Role.READER
        and who.read_before_reveal
        and row.outcome is Outcome.ASSESSED
        and not reveal
        and not reviews.may_see_answer(here.engine, who, film_id, shown)
    )
    signed = reviews.list_reviews(here.engine, [film_id])[film_id]
    return ImageView(
        detail=detail,
        shown=shown,
        hidden=hidden,
        viewed_at=reviews.last_viewing_of_other_result(here.engine, who, film_id, shown),
        signed=signed,
        own=next(
            (review for review in reversed(signed) if review.account_id == who.account_id and not review.superseded),
            None,
        ),
        earlier_results=[] if hidden else _earlier_results(here, detail),
        earlier=related_images.earlier_images(here.engine, row),
    )


def record_viewing(here: Site, who: Account, view: ImageView) -> None:
    """Record the viewing of an image and of the earlier images listed."""
    reviews.record_viewing(here.engine, who, view.detail.row.result_id, view.shown, answer_visible=not view.hidden)
    disclosures.record_list_view(here.engine, who.actor, () if who.read_before_reveal else view.earlier)


def _template_values(here: Site, view: ImageView) -> dict[str, Any]:
    detail, row, viewed_at = view.detail, view.detail.row, view.viewed_at
    then = (item for item in view.earlier_results if viewed_at is not None and item.was_current_at(viewed_at))
    return {
        "detail": detail,
        "row": row,
        "shown": view.shown,
        "hidden": view.hidden,
        "activation": None if view.hidden else _activation(detail),
        "preview": here.options.preview_dir is not None
        and row.sha256 is not None
        and previews.has_preview(here.options.preview_dir, row.sha256),
        "readings": [] if view.hidden else view.signed,
        "read_before": bool(view.signed) and not any(item.shown == view.shown for item in view.signed),
        "findings": related_images.bundle_findings(here.engine, row.bundle_digest),
        "own": view.own,
        "looked_at": viewed_at,
        "then": next(then, None),
        "earlier_results": view.earlier_results,
        "newer": related_images.find_newer_result(here.engine, row.result_id),
        "earlier": view.earlier,
        "pacs": _pacs(here.options.pacs_url, row.identity.study_instance_uid),
        "Verdict": Verdict,
        "Presence": Presence,
    }


def parse_draft(film_id: int, form: FormData) -> ReviewDraft:
    """Return the review in a form.

    Raises:
        UsageError: the form holds no review that can be signed.
    """
    try:
        verdict = Verdict(form_text(form, "verdict"))
        presences = {
            name.removeprefix(_PRESENCE): Presence(str(value))
            for name, value in form.items()
            if name.startswith(_PRESENCE) and value
        }
        shown = ShownResult(
            Outcome(form_text(form, "shown_outcome")),
            form_text(form, "shown_code") or None,
            int(form_text(form, "shown_assessment")) if form_text(form, "shown_assessment") else None,
        )
        supersedes = int(form_text(form, "supersedes")) if form_text(form, "supersedes") else None
    except ValueError:
        raise UsageError("the form has no valid verdict: choose accept, reject or supplement") from None
    token = form_text(form, "form_token")
    if not 16 <= len(token) <= 64 or any(len(name) > 64 for name in presences):
        raise UsageError("the form is invalid: load the page again")
    return ReviewDraft(film_id, shown, verdict, token, presences, form_text(form, "comment"), supersedes)


def form_values(form: FormData) -> FormValues:
    """Return the values of a form, to show it again."""
    supersedes = form_text(form, "supersedes")
    return FormValues(
        form_token=form_text(form, "form_token") or secrets.token_urlsafe(24),
        verdict=form_text(form, "verdict"),
        comment=form_text(form, "comment"),
        supersedes=int(supersedes) if supersedes.isascii() and supersedes.isdigit() and len(supersedes) < 19 else None,
        presences={n.removeprefix(_PRESENCE): str(v) for n, v in form.items() if n.startswith(_PRESENCE)},
    )


def hidden_fields(form: FormData) -> list[tuple[str, str]]:
    """Return the fields of a form to carry through signing in again."""
    kept = [(name, form_text(form, name)) for name in (*_FIELDS, "draft_film") if form_text(form, name)]
    return kept + [(name, str(value)) for name, value in form.items() if name.startswith(_PRESENCE) and value]


def show_again(here: Site, session: Session, form: FormData, *, message: str, status: int = 200) -> HTMLResponse:
    """Show an image again with the values of a form."""
    film = form_text(form, "draft_film")
    if not (film.isascii() and film.isdigit() and len(film) < 19):
        raise HTTPException(404)
    order = form_text(form, "order")
    request = PageRequest(form_values(form), order, status, message)
    return show(here, session, int(film), request)


def _earlier_results(here: Site, detail: ResultDetail) -> list[EarlierResult]:
    """Return the replaced results with the accounts that saw them."""
    past = [EarlierResult(earlier, (), ()) for earlier in detail.history.past]
    viewings = reviews.list_viewings(here.engine, detail.row.result_id) if past else []
    listed = disclosures.list_views_of_image(here.engine, detail.row.result_id) if past else {}
    results = []
    for earlier in past:
        viewers = tuple(dict.fromkeys(name for name, at in viewings if earlier.was_current_at(at)))
        others = [name for name in listed.get(earlier.result.committed_at, ()) if name not in viewers]
        results.append(replace(earlier, viewers=viewers, listed=tuple(others)))
    return results


def _form(own: Review | None, shown: ShownResult, correct: int | None) -> FormValues | None:
    """Return initial values of a form; ``None`` if nothing is to be signed."""
    token = secrets.token_urlsafe(24)
    if own is None:
        return FormValues(token)
    if own.reading_id == correct:
        presences = {name: presence.value for name, presence in own.findings.items()}
        return FormValues(token, own.verdict.value, own.comment, own.reading_id, presences)
    return None if own.shown == shown else FormValues(token, supersedes=own.reading_id)


def _activation(detail: ResultDetail) -> dict[str, Any] | None:
    """Return the activation map for the script, or ``None``.

    Returns:
        ``rows``, ``columns``, ``cells`` (Base64 of uint8 [rows, columns], 0 for none to 255 for the maximum), and
        ``any`` (a cell is above 0).
    """
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
    """Return the link to the study in the PACS, or ``None``."""
    if template is None or study_instance_uid is None:
        return None
    if not all(part.isascii() and part.isdigit() for part in study_instance_uid.split(".")):
        return None
    return template.replace("{study_instance_uid}", study_instance_uid)
