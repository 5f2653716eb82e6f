"""Signing in and out, and what a person sets for the own account."""

from __future__ import annotations

import hmac
import logging
import secrets
from functools import partial

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData

from preread.core.addresses import client_network
from preread.core.errors import NotAllowed, TooManyTries, UsageError
from preread.core.types import Role
from preread.review.auth import accounts, devices, sessions
from preread.review.auth.accounts import Account
from preread.review.auth.sessions import Session
from preread.web import context, image_view, security
from preread.web.limits.admission import visitor_of
from preread.web.limits.work_slots import NoPlaceError
from preread.web.security import Form, Person, text_of

_LOG = logging.getLogger(__name__)
router = APIRouter()
_RETRY_S = "5"
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
    here = context.of(request)
    door = request.cookies.get(_DOOR) or secrets.token_urlsafe(24)
    carried = image_view.carried(draft) if draft is not None else []
    page = here.page("sign_in.html", None, status=status, to=_local(to), door=door, message=message, carried=carried)
    page.set_cookie(_DOOR, door, httponly=True, samesite="strict", secure=here.options.https, path="/sign-in")
    return page


@router.post("/sign-in", response_class=HTMLResponse)
async def sign_in(request: Request, form: Form) -> Response:
    """Check name and password, and begin a session."""
    here = context.of(request)
    address = request.client.host if request.client else ""
    to = _local(text_of(form, "to", "/"))
    draft = form if text_of(form, "draft_film") else None
    if not hmac.compare_digest(text_of(form, "door").encode(), request.cookies.get(_DOOR, "").encode() or b"-"):
        return sign_in_form(request, to=to, status=403, message="sign_in.again", draft=draft)
    device = visitor_of(request).device
    check = partial(
        accounts.check_password,
        here.engine,
        text_of(form, "name"),
        text_of(form, "password"),
        source=address or accounts.HERE,
        device_token=device,
    )
    try:
        # the limit by source is for strangers: one who is known waits among the known
        who = await here.hashing.run(check, known=device is not None, source=device or client_network(address))
    except NoPlaceError:
        busy = sign_in_form(request, to=to, status=503, message="sign_in.busy", draft=draft)
        busy.headers["retry-after"] = _RETRY_S
        return busy
    except NotAllowed as error:
        # one line that fail2ban reads: see deploy/fail2ban
        _LOG.warning("sign_in_failed", extra={"address": address, "code": error.code})
        early = isinstance(error, TooManyTries)
        message = "sign_in.too_many" if early else "sign_in.wrong"
        refused = sign_in_form(request, to=to, status=429 if early else 403, message=message, draft=draft)
        if isinstance(error, TooManyTries):
            refused.headers["retry-after"] = f"{error.wait_s:.0f}"
        return refused
    return await run_in_threadpool(_signed_in, request, who, address, to, draft)


def _signed_in(request: Request, who: Account, address: str, to: str, draft: FormData | None) -> Response:
    """Begin a session in place of the one that this browser had, and know the browser from now on."""
    here = context.of(request)
    token = sessions.begin(here.engine, who, address=address or None, replaces=request.cookies.get(here.options.cookie))
    device = devices.remember(here.engine, who, request.cookies.get(here.options.device_cookie))
    here.known.note(token, valid=True)
    here.known.note(device, valid=True)
    response: Response = RedirectResponse(to, 303)
    if draft is not None and who.role is Role.READER:
        session = sessions.find(here.engine, token, here.options.idle_s, touch=False)
        if session is not None:
            response = image_view.again(here, session, draft, message="film.signed_in_again")
    response.set_cookie(here.options.cookie, token, httponly=True, samesite="lax", secure=here.options.https, path="/")
    response.set_cookie(
        here.options.device_cookie,
        device,
        max_age=int(devices.KEPT_S),
        httponly=True,
        samesite="strict",
        secure=here.options.https,
        path="/sign-in",
    )
    return response


@router.post("/sign-out", response_class=RedirectResponse)
def sign_out(request: Request, form: Form, session: Person) -> RedirectResponse:
    """End the session."""
    security.refuse_foreign_form(session, form)
    here = context.of(request)
    sessions.end(here.engine, session)
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(here.options.cookie, path="/", secure=here.options.https, httponly=True, samesite="lax")
    return response


@router.get("/account", response_class=HTMLResponse)
def account_page(request: Request, session: Person) -> Response:
    """Show what a person can set, and where the account is signed in."""
    return _account(request, session)


def _account(request: Request, session: Session, *, status: int = 200, wrong: str | None = None) -> Response:
    here = context.of(request)
    signed_in = sessions.of_account(here.engine, session.account.account_id, here.options.idle_s)
    return here.page("account.html", session, status=status, wrong=wrong, signed_in=signed_in)


@router.post("/account/sessions", response_class=RedirectResponse)
def end_sessions(request: Request, form: Form, session: Person) -> RedirectResponse:
    """End one of the own sessions, or all but this one."""
    security.refuse_foreign_form(session, form)
    which, who = text_of(form, "session"), session.account
    if which and not (which.isascii() and which.isdigit() and len(which) < 19):
        raise HTTPException(422)
    only = int(which) if which else None
    sessions.end_sessions(context.of(request).engine, who.actor, who, only=only, but=session.session_id)
    return RedirectResponse("/account", 303)


@router.post("/account/password", response_class=HTMLResponse)
async def change_password(request: Request, form: Form, session: Person) -> Response:
    """Give the own account a new password; every session of it ends."""
    security.refuse_foreign_form(session, form)
    who = session.account
    address = request.client.host if request.client else accounts.HERE
    try:
        work = partial(_change_password, context.of(request).engine, who, form, address)
        status, wrong = await context.of(request).hashing.run(work, known=True, source=who.actor)
    except NoPlaceError:
        status, wrong = 503, "sign_in.busy"
    if wrong is None:
        return RedirectResponse("/sign-in", 303)
    return await run_in_threadpool(_account, request, session, status=status, wrong=wrong)


def _change_password(engine: Engine, who: Account, form: FormData, address: str) -> tuple[int, str | None]:
    """Return the status of the answer, and the key of what is wrong."""
    new = text_of(form, "new")
    if new != text_of(form, "new_again"):
        return 422, "account.not_twice"
    try:
        accounts.check_password(engine, who.name, text_of(form, "password"), source=address)
    except NotAllowed:
        return 403, "account.wrong_password"
    if new == text_of(form, "password"):
        return 422, "account.same_password"
    try:
        accounts.renew_secret(engine, who.actor, who.name, new)
    except UsageError:
        return 422, "account.poor_password"
    return 303, None


@router.post("/account/options", response_class=HTMLResponse)
def change_options(request: Request, form: Form, session: Person) -> Response:
    """Set the own options."""
    security.refuse_foreign_form(session, form)
    who, wanted = session.account, text_of(form, "read_before_reveal") == "yes"
    try:
        accounts.set_read_before_reveal(context.of(request).engine, who.actor, who, wanted)
    except UsageError:
        raise HTTPException(403) from None
    return RedirectResponse("/account", 303)


def _local(to: str) -> str:
    """Return a path of this site, whatever was asked for."""
    fits = to.startswith("/") and not to.startswith(("//", "/\\")) and to.isascii() and to.isprintable()
    return to if fits and len(to) <= 2048 else "/"
