"""The worklist: filters in the URL, what was searched for in the session, news without losing one's place."""

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
from preread.web.security import Form, Reader, text_of

router = APIRouter()
MAX_SEARCH_CHARS = 256
_Word = TypeVar("_Word", bound=StrEnum)
_PARAMETERS = ("order", "show", "answer", "device", "taken_from", "taken_to")


@router.get("/worklist", response_class=HTMLResponse)
def show(request: Request, session: Reader) -> Response:
    """Show one page of the worklist."""
    here = context.of(request)
    wanted = _wanted(request, session)
    return here.page(
        "worklist.html",
        session,
        news=False,
        wanted=wanted,
        show=request.query_params.get("show") or "unread",
        devices=worklist.devices(here.engine),
        displaced=worklist.displaced(here.engine) if wanted.order is Order.PRIORITY else None,
        waiting=related_images.pending(here.engine) if request.query_params.get("show") == "waiting" else None,
        **_rows(here, session, wanted, request),
    )


@router.get("/worklist/rows", response_class=HTMLResponse)
def rows(request: Request, session: Reader) -> Response:
    """The rows and the state alone, for the script that asks for news."""
    here = context.of(request)
    wanted = _wanted(request, session)
    return here.page("rows.html", session, news=True, wanted=wanted, **_rows(here, session, wanted, request))


@router.post("/worklist/search", response_class=RedirectResponse)
def search(request: Request, form: Form, session: Reader) -> RedirectResponse:
    """Keep what is searched for with the session, where no URL and no log shows it."""
    security.refuse_foreign_form(session, form)
    text = text_of(form, "text").strip()
    if len(text) > MAX_SEARCH_CHARS:
        raise HTTPException(422)
    sessions.set_search(context.of(request).engine, session, text)
    return RedirectResponse("/worklist", 303)


@router.get("/worklist/next", response_class=RedirectResponse)
def next_film(request: Request, session: Reader) -> RedirectResponse:
    """Lead to the film that is to be read next."""
    here = context.of(request)
    order = _word(Order, request.query_params.get("order", "")) or Order.ARRIVAL
    page = worklist.page(here.engine, WorklistFilter(order=_allowed(order, session), limit=1))
    if not page.studies:
        return RedirectResponse("/worklist", 303)
    return RedirectResponse(f"/films/{page.studies[0][0].result.result_id}?{urlencode({'order': order.value})}", 303)


def _rows(here: context.Site, session: Session, wanted: WorklistFilter, request: Request) -> dict[str, Any]:
    page = worklist.page(here.engine, wanted)
    listed = [film for study in page.studies for film in study]
    ids = [film.result.result_id for film in listed]
    signed = reviews.of_images(here.engine, ids)
    me = session.account.account_id
    mine = {
        film.result.result_id
        for film in listed
        if any(one.account_id == me and one.shown == film.shown for one in signed[film.result.result_id])
    }
    # whoever reads before the answer is shown does not see it in the list either
    hidden = set(ids) - mine if session.account.read_before_reveal else set()
    shown = [
        one.result for one in listed if one.result.result_id not in hidden or one.result.outcome is not Outcome.ASSESSED
    ]
    disclosures.record(here.engine, session.account.actor, shown)
    kept = {name: request.query_params.get(name, "") for name in _PARAMETERS}
    following = "" if page.next is None else "{}-{}".format(*page.next)
    return {
        "list_page": page,
        "signed": signed,
        "hidden": hidden,
        "here_query": urlencode({**_set(kept), **({"after": request.query_params["after"]} if wanted.after else {})}),
        "next_query": urlencode({**_set(kept), "after": following}) if following else "",
        "first_query": urlencode(_set(kept)) if wanted.after else "",
    }


def _set(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def _wanted(request: Request, session: Session) -> WorklistFilter:
    """Read the filters; what cannot be meant is answered with 422."""
    given = request.query_params
    shown = given.get("show", "")
    if shown not in {"", "unread", "all", "waiting", *Outcome}:
        raise HTTPException(422)
    order = _word(Order, given.get("order", "")) or Order.ARRIVAL
    if session.search and "order" not in given:
        order = Order.NEWEST
    answer = _word(Answer, given.get("answer", ""))
    return WorklistFilter(
        order=_allowed(order, session),
        unread=shown in {"", "unread"},
        outcome=Outcome(shown) if shown in set(Outcome) else None,
        answer=None if session.account.read_before_reveal else answer,
        device=given.get("device") or None,
        taken_from=_day(given.get("taken_from", "")),
        taken_to=_day(given.get("taken_to", "")),
        search=session.search,
        after=_position(given.get("after", "")),
    )


def _allowed(order: Order, session: Session) -> Order:
    """Priority tells the answer: it is not for whoever reads before seeing it."""
    return Order.ARRIVAL if order is Order.PRIORITY and session.account.read_before_reveal else order


def _word(kind: type[_Word], text: str) -> _Word | None:
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
