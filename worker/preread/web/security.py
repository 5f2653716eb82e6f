"""Sessions, roles, form protection and security headers."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, HTTPException, Request
from starlette.datastructures import FormData, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preread.core.types import Role
from preread.review.auth.sessions import Session
from preread.web.limits.admission import visitor_of

_FORM = "application/x-www-form-urlencoded"
_FIELDS_AT_MOST = 200
_HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class SignInRequiredError(Exception):
    """No session, or it has ended."""


class SecurityHeaders:
    """Middleware that adds security headers to every response."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self._app = app
        self._headers = dict(_HEADERS)
        if https:
            self._headers["strict-transport-security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                # patient data: never cached; static files override this
                headers.setdefault("cache-control", "no-store")
                for name, value in self._headers.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, send_with_headers)


def current_session(request: Request) -> Session | None:
    """Return the session of this browser, or ``None``."""
    return visitor_of(request).session


def require_role(*roles: Role) -> Callable[[Request], Session]:
    """Return a dependency that yields the session of one of these roles.

    Raises:
        SignInRequiredError: nobody is signed in.
        HTTPException: 403, the account has another role.
    """

    def signed_in(request: Request) -> Session:
        session = current_session(request)
        if session is None:
            raise SignInRequiredError
        if session.account.role not in roles:
            raise HTTPException(403)
        return session

    return signed_in


Reader = Annotated[Session, Depends(require_role(Role.READER))]
Admin = Annotated[Session, Depends(require_role(Role.ADMIN))]
Person = Annotated[Session, Depends(require_role(Role.READER, Role.ADMIN))]


async def read_form(request: Request) -> FormData:
    """Return the fields of a form, which must be URL-encoded.

    The size is limited by ``admission``, the number of fields here.

    Raises:
        HTTPException: 415 for another content type, 422 for a malformed body.
    """
    body = await request.body()
    if not body:
        return FormData()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise HTTPException(415)
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS_AT_MOST)
    except ValueError:
        raise HTTPException(422) from None
    return FormData([*fields])


Form = Annotated[FormData, Depends(read_form)]


def form_text(form: FormData, name: str, default: str = "") -> str:
    """Return one field of a form as text."""
    value = form.get(name, default)
    return value if isinstance(value, str) else default


def refuse_foreign_form(session: Session, form: FormData) -> None:
    """Raise HTTP 403 if a form lacks this session's CSRF token."""
    if not hmac.compare_digest(form_text(form, "csrf").encode(), session.csrf.encode()):
        raise HTTPException(403)
