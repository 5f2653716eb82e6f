"""Routes for signing in and out, and for one's own account."""

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
from preread.web.limits.work_slots import NoSlotError
from preread.web.security import Form, Person, form_text

_LOG = logging.getLogger(__name__)
router = APIRouter()
_RETRY_S = "5"
_DOOR = "preread_door"
HOME = {Role.READER: "/worklist", Role.ADMIN: "/statistics"}


@router.get("/", response_class=RedirectResponse)
def home(session: Person) -> RedirectResponse:
    """Redirect to the start page of the role."""
    return RedirectResponse(HOME[session.account.role], 303)


@router.get("/sign-in", response_class=HTMLResponse)
def sign_in_page(request: Request, to: str = "/") -> Response:
    """Return the sign-in form."""
    return sign_in_form(request, to=to)


def sign_in_form(
    request: Request, *, to: str = "/", status: int = 200, message: str | None = None, draft: FormData | None = None
) -> Response:
    """Return the page for signing in.

    Args:
        request: the request.
        to: path to continue with.
        status: HTTP status.
        message: key of the message, or ``None``.
        draft: review form that was sent after the session ended; it is shown again after signing in.
    """
    here = context.site_of(request)
    door = request.cookies.get(_DOOR) or secrets.token_urlsafe(24)
    carried = image_view.hidden_fields(draft) if draft is not None else []
    page = here.page("sign_in.html", None, status=status, to=_local(to), door=door, message=message, carried=carried)
    page.set_cookie(_DOOR, door, httponly=True, samesite="strict", secure=here.options.https, path="/sign-in")
    return page


@router.post("/sign-in", response_class=HTMLResponse)
async def sign_in(request: Request, form: Form) -> Response:
    """Check name and password, and start a session."""
    here = context.site_of(request)
    address = request.client.host if request.client else ""
    to = _local(form_text(form, "to", "/"))
    draft = form if form_text(form, "draft_film") else None
    if not hmac.compare_digest(form_text(form, "door").encode(), request.cookies.get(_DOOR, "").encode() or b"-"):
        return sign_in_form(request, to=to, status=403, message="sign_in.again", draft=draft)
    device = visitor_of(request).device
    check = partial(
        accounts.check_password,
        here.engine,
        form_text(form, "name"),
        form_text(form, "password"),
        source=address or accounts.HERE,
        device_token=device,
    )
    try:
        # unknown browsers are limited by address, known ones by their token
        who = await here.hashing.run(check, known=device is not None, source=device or client_network(address))
    except NoSlotError:
        busy = sign_in_form(request, to=to, status=503, message="sign_in.busy", draft=draft)
        busy.headers["retry-after"] = _RETRY_S
        return busy
    except NotAllowed as error:
        # parsed by fail2ban, see deploy/fail2ban
        _LOG.warning("sign_in_failed", extra={"address": address, "code": error.code})
        early = isinstance(error, TooManyTries)
        message = "sign_in.too_many" if early else "sign_in.wrong"
        refused = sign_in_form(request, to=to, status=429 if early else 403, message=message, draft=draft)
        if isinstance(error, TooManyTries):
            refused.headers["retry-after"] = f"{error.wait_s:.0f}"
        return refused
    return await run_in_threadpool(_signed_in, request, who, address, to, draft)


def _signed_in(request: Request, who: Account, address: str, to: str, draft: FormData | None) -> Response:
    """Replace the session of the browser, and remember the browser."""
    here = context.site_of(request)
    token = sessions.start_session(
        here.engine, who, address=address or None, replaces=request.cookies.get(here.options.cookie)
    )
    device = devices.record_browser(here.engine, who, request.cookies.get(here.options.device_cookie))
    here.known.record(token, valid=True)
    here.known.record(device, valid=True)
    response: Response = RedirectResponse(to, 303)
    if draft is not None and who.role is Role.READER:
        session = sessions.find_session(here.engine, token, here.options.idle_s, touch=False)
        if session is not None:
            response = image_view.show_again(here, session, draft, message="film.signed_in_again")
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
    here = context.site_of(request)
    sessions.end_session(here.engine, session)
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(here.options.cookie, path="/", secure=here.options.https, httponly=True, samesite="lax")
    return response


@router.get("/account", response_class=HTMLResponse)
def account_page(request: Request, session: Person) -> Response:
    """Return the options and sessions of the account."""
    return _account(request, session)


def _account(request: Request, session: Session, *, status: int = 200, wrong: str | None = None) -> Response:
    here = context.site_of(request)
    signed_in = sessions.list_sessions(here.engine, session.account.account_id, here.options.idle_s)
    return here.page("account.html", session, status=status, wrong=wrong, signed_in=signed_in)


@router.post("/account/sessions", response_class=RedirectResponse)
def end_sessions(request: Request, form: Form, session: Person) -> RedirectResponse:
    """End one of the account's other sessions, or all of them."""
    security.refuse_foreign_form(session, form)
    which, who = form_text(form, "session"), session.account
    if which and not (which.isascii() and which.isdigit() and len(which) < 19):
        raise HTTPException(422)
    only = int(which) if which else None
    sessions.end_sessions(context.site_of(request).engine, who.actor, who, only=only, but=session.session_id)
    return RedirectResponse("/account", 303)


@router.post("/account/password", response_class=HTMLResponse)
async def change_password(request: Request, form: Form, session: Person) -> Response:
    """Set a new password and end all sessions of the account."""
    security.refuse_foreign_form(session, form)
    who = session.account
    address = request.client.host if request.client else accounts.HERE
    try:
        work = partial(_change_password, context.site_of(request).engine, who, form, address)
        status, wrong = await context.site_of(request).hashing.run(work, known=True, source=who.actor)
    except NoSlotError:
        status, wrong = 503, "sign_in.busy"
    if wrong is None:
        return RedirectResponse("/sign-in", 303)
    return await run_in_threadpool(_account, request, session, status=status, wrong=wrong)


def _change_password(engine: Engine, who: Account, form: FormData, address: str) -> tuple[int, str | None]:
    """Return the HTTP status, and the key of the error or ``None``."""
    new = form_text(form, "new")
    if new != form_text(form, "new_again"):
        return 422, "account.not_twice"
    try:
        accounts.check_password(engine, who.name, form_text(form, "password"), source=address)
    except NotAllowed:
        return 403, "account.wrong_password"
    if new == form_text(form, "password"):
        return 422, "account.same_password"
    try:
        accounts.renew_secret(engine, who.actor, who.name, new)
    except UsageError:
        return 422, "account.poor_password"
    return 303, None


@router.post("/account/options", response_class=HTMLResponse)
def change_options(request: Request, form: Form, session: Person) -> Response:
    """Set the options of the account."""
    security.refuse_foreign_form(session, form)
    who, value = session.account, form_text(form, "read_before_reveal") == "yes"
    try:
        accounts.set_read_before_reveal(context.site_of(request).engine, who.actor, who, value)
    except UsageError:
        raise HTTPException(403) from None
    return RedirectResponse("/account", 303)


def _local(to: str) -> str:
    """Return a path of this site: ``to`` if it is one, else ``/``."""
    fits = to.startswith("/") and not to.startswith(("//", "/\\")) and to.isascii() and to.isprintable()
    return to if fits and len(to) <= 2048 else "/"
