"""Routes of the work list: filters in the URL, search text in the session."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from preread.core.types import Answer, Outcome
from preread.review import disclosures, related_images, reviews, worklist
from preread.review.auth import sessions
from preread.review.auth.sessions import Session
from preread.review.worklist import Order, WorklistFilter
from preread.web import context, security
from preread.web.security import Form, Reader, form_text

router = APIRouter()
MAX_SEARCH_CHARS = 256
_Word = TypeVar("_Word", bound=StrEnum)
_PARAMETERS = ("order", "show", "answer", "device", "taken_from", "taken_to")


@router.get("/worklist", response_class=HTMLResponse)
def show(request: Request, session: Reader) -> Response:
    """Return one page of the work list."""
    here = context.site_of(request)
    conditions = _read_filter(request, session)
    return here.page(
        "worklist.html",
        session,
        news=False,
        wanted=conditions,
        show=request.query_params.get("show") or "unread",
        devices=worklist.list_devices(here.engine),
        displaced=worklist.count_displaced(here.engine) if conditions.order is Order.PRIORITY else None,
        waiting=related_images.list_pending_images(here.engine)
        if request.query_params.get("show") == "waiting"
        else None,
        **_rows(here, session, conditions, request),
    )


@router.get("/worklist/rows", response_class=HTMLResponse)
def rows(request: Request, session: Reader) -> Response:
    """Return rows and status only, for the script that polls for changes."""
    here = context.site_of(request)
    conditions = _read_filter(request, session)
    return here.page("rows.html", session, news=True, wanted=conditions, **_rows(here, session, conditions, request))


@router.post("/worklist/search", response_class=RedirectResponse)
def search(request: Request, form: Form, session: Reader) -> RedirectResponse:
    """Store the search text in the session, outside URLs and logs."""
    security.refuse_foreign_form(session, form)
    text = form_text(form, "text").strip()
    if len(text) > MAX_SEARCH_CHARS:
        raise HTTPException(422)
    sessions.set_search(context.site_of(request).engine, session, text)
    return RedirectResponse("/worklist", 303)


@router.get("/worklist/next", response_class=RedirectResponse)
def next_film(request: Request, session: Reader) -> RedirectResponse:
    """Redirect to the next image to review."""
    here = context.site_of(request)
    order = _enum_value(Order, request.query_params.get("order", "")) or Order.ARRIVAL
    page = worklist.list_worklist_page(here.engine, WorklistFilter(order=_permitted_order(order, session), limit=1))
    if not page.studies:
        return RedirectResponse("/worklist", 303)
    return RedirectResponse(f"/films/{page.studies[0][0].result.result_id}?{urlencode({'order': order.value})}", 303)


def _rows(here: context.Site, session: Session, conditions: WorklistFilter, request: Request) -> dict[str, Any]:
    page = worklist.list_worklist_page(here.engine, conditions)
    images = [film for study in page.studies for film in study]
    ids = [film.result.result_id for film in images]
    signed = reviews.list_reviews(here.engine, ids)
    account_id = session.account.account_id
    own = {
        film.result.result_id
        for film in images
        if any(item.account_id == account_id and item.shown == film.shown for item in signed[film.result.result_id])
    }
    # with read_before_reveal the list hides answers, too
    hidden = set(ids) - own if session.account.read_before_reveal else set()
    shown = [
        item.result
        for item in images
        if item.result.result_id not in hidden or item.result.outcome is not Outcome.ASSESSED
    ]
    disclosures.record_list_view(here.engine, session.account.actor, shown)
    parameters = {name: request.query_params.get(name, "") for name in _PARAMETERS}
    next_position = "" if page.next is None else "{}-{}".format(*page.next)
    return {
        "list_page": page,
        "signed": signed,
        "hidden": hidden,
        "here_query": urlencode(
            {**_non_empty(parameters), **({"after": request.query_params["after"]} if conditions.after else {})}
        ),
        "next_query": urlencode({**_non_empty(parameters), "after": next_position}) if next_position else "",
        "first_query": urlencode(_non_empty(parameters)) if conditions.after else "",
    }


def _non_empty(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def _read_filter(request: Request, session: Session) -> WorklistFilter:
    """Return the filter of the query string; HTTP 422 if it is invalid."""
    parameters = request.query_params
    shown = parameters.get("show", "")
    if shown not in {"", "unread", "all", "waiting", *Outcome}:
        raise HTTPException(422)
    order = _enum_value(Order, parameters.get("order", "")) or Order.ARRIVAL
    if session.search and "order" not in parameters:
        order = Order.NEWEST
    answer = _enum_value(Answer, parameters.get("answer", ""))
    return WorklistFilter(
        order=_permitted_order(order, session),
        unread=shown in {"", "unread"},
        outcome=Outcome(shown) if shown in set(Outcome) else None,
        answer=None if session.account.read_before_reveal else answer,
        device=parameters.get("device") or None,
        taken_from=_day(parameters.get("taken_from", "")),
        taken_to=_day(parameters.get("taken_to", "")),
        search=session.search,
        after=_position(parameters.get("after", "")),
    )


def _permitted_order(order: Order, session: Session) -> Order:
    """Return the order; priority would disclose answers to be revealed later."""
    return Order.ARRIVAL if order is Order.PRIORITY and session.account.read_before_reveal else order


def _enum_value(kind: type[_Word], text: str) -> _Word | None:
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        raise HTTPException(422) from None


def _day(text: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise HTTPException(422) from None


def _position(text: str) -> tuple[int, int] | None:
    bucket, _, file_id = text.partition("-")
    if not text:
        return None
    if bucket not in {"0", "1"} or not (file_id.isascii() and file_id.isdigit()) or len(file_id) > 18:
        raise HTTPException(422)
    return int(bucket), int(file_id)
