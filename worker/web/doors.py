"""Signing in and out, and what a person sets for the own account."""

from __future__ import annotations

import hmac
import secrets

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import FormData

from worker import accounts, sessions
from worker.domain import Role
from worker.errors import NotAllowed, UsageError
from worker.web import filmpage, guard, site
from worker.web.guard import Form, Person, text_of

router = APIRouter()
_DOOR = "preread_door"
HOME = {Role.READER: "/worklist", Role.ADMIN: "/statistics"}


@router.get("/", response_class=RedirectResponse)
def home(session: Person) -> RedirectResponse:
    """Lead to where this role begins."""
    return RedirectResponse(HOME[session.account.role], 303)


@router.get("/sign-in", response_class=HTMLResponse)
def sign_in_page(request: Request, to: str = "/") -> Response:
    """Show the form."""
    return sign_in_form(request, to=to)


def sign_in_form(
    request: Request, *, to: str = "/", status: int = 200, message: str | None = None, draft: FormData | None = None
) -> Response:
    """Return the page for signing in.

    Args:
        to: the page to go on to.
        message: key of what to say.
        draft: what was typed into a film's form when the session had ended; it goes along and is shown again.
    """
    here = site.of(request)
    door = request.cookies.get(_DOOR) or secrets.token_urlsafe(24)
    carried = filmpage.carried(draft) if draft is not None else []
    page = here.page("sign_in.html", None, status=status, to=_local(to), door=door, message=message, carried=carried)
    page.set_cookie(_DOOR, door, httponly=True, samesite="strict", secure=here.options.https, path="/sign-in")
    return page


@router.post("/sign-in", response_class=HTMLResponse)
def sign_in(request: Request, form: Form) -> Response:
    """Check name and password, and begin a session."""
    here = site.of(request)
    address = request.client.host if request.client else ""
    to = _local(text_of(form, "to", "/"))
    draft = form if text_of(form, "draft_film") else None
    if not hmac.compare_digest(text_of(form, "door").encode(), request.cookies.get(_DOOR, "").encode() or b"-"):
        return sign_in_form(request, to=to, status=403, message="sign_in.again", draft=draft)
    if not here.throttle.is_open(address):
        return sign_in_form(request, to=to, status=429, message="sign_in.too_many", draft=draft)
    try:
        who = accounts.check_password(here.engine, text_of(form, "name"), text_of(form, "password"))
    except NotAllowed:
        here.throttle.failed(address)
        return sign_in_form(request, to=to, status=403, message="sign_in.wrong", draft=draft)
    token = sessions.begin(here.engine, who)
    response: Response = RedirectResponse(to, 303)
    if draft is not None and who.role is Role.READER:
        session = sessions.find(here.engine, token, here.options.idle_s, touch=False)
        if session is not None:
            response = filmpage.again(here, session, draft, message="film.signed_in_again")
    response.set_cookie(here.options.cookie, token, httponly=True, samesite="lax", secure=here.options.https, path="/")
    return response


@router.post("/sign-out", response_class=RedirectResponse)
def sign_out(request: Request, form: Form, session: Person) -> RedirectResponse:
    """End the session."""
    guard.refuse_foreign_form(session, form)
    here = site.of(request)
    sessions.end(here.engine, session)
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(here.options.cookie, path="/", secure=here.options.https, httponly=True, samesite="lax")
    return response


@router.get("/account", response_class=HTMLResponse)
def account_page(request: Request, session: Person) -> Response:
    """Show what a person can set."""
    return site.of(request).page("account.html", session, message=None, wrong=None)


@router.post("/account/password", response_class=HTMLResponse)
def change_password(request: Request, form: Form, session: Person) -> Response:
    """Give the own account a new password; every session of it ends."""
    guard.refuse_foreign_form(session, form)
    here, who = site.of(request), session.account
    if text_of(form, "new") != text_of(form, "new_again"):
        return here.page("account.html", session, status=422, message=None, wrong="account.not_twice")
    try:
        accounts.check_password(here.engine, who.name, text_of(form, "password"))
    except NotAllowed:
        return here.page("account.html", session, status=403, message=None, wrong="account.wrong_password")
    try:
        accounts.renew_secret(here.engine, who.actor, who.name, text_of(form, "new"))
    except UsageError:
        return here.page("account.html", session, status=422, message=None, wrong="account.poor_password")
    return RedirectResponse("/sign-in", 303)


@router.post("/account/options", response_class=HTMLResponse)
def change_options(request: Request, form: Form, session: Person) -> Response:
    """Set the own options."""
    guard.refuse_foreign_form(session, form)
    who, wanted = session.account, text_of(form, "read_before_reveal") == "yes"
    try:
        accounts.set_read_before_reveal(site.of(request).engine, who.actor, who, wanted)
    except UsageError:
        raise HTTPException(403) from None
    return RedirectResponse("/account", 303)


def _local(to: str) -> str:
    """Return a path of this site, whatever was asked for."""
    fits = to.startswith("/") and not to.startswith(("//", "/\\")) and to.isascii() and to.isprintable()
    return to if fits and len(to) <= 2048 else "/"
