"""Admission of requests: sender, body size, and a permit to work.

Token or session are checked before the body is read. Signed-in users have permits of their own; everybody else shares a
few, and fewer by address. So unknown clients take neither threads nor memory that signed-in users need, also if both
come from one address.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preread.core.addresses import client_network
from preread.core.errors import DatabaseAway, PrereadError
from preread.review.auth import accounts, devices, sessions
from preread.review.auth.accounts import Account, hash_token
from preread.review.auth.sessions import Session
from preread.web.context import Site
from preread.web.limits.work_slots import NoSlotError, RequestRate, WorkSlots

POLL_HEADER = "x-preread-poll"
MAX_BODY_BYTES = 64 * 1024
BODY_WITHIN_S = 20.0
RETRY_AFTER_S = 2
_API = "/api/v1"
_STATIC = "/static/"
# A review form sent after the session ended is kept while its author signs in again.
_OPEN_FORMS = re.compile(r"/sign-in|/films/\d{1,19}/readings")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Sender of a request.

    Attributes:
        session: session of a signed-in browser, or ``None``.
        program: account of a valid API token, or ``None``.
        device: token of a known browser; only on the sign-in form.
        failure: error of the lookup, or ``None``.
    """

    session: Session | None = None
    program: Account | None = None
    device: str | None = None
    failure: PrereadError | None = None

    @property
    def known(self) -> bool:
        """True if a valid session or token was found."""
        return self.session is not None or self.program is not None


class RequestRefusedError(Exception):
    """The request is refused with this HTTP status."""

    def __init__(self, status: int, *, retry: bool = False) -> None:
        super().__init__(status)
        self.status = status
        self.headers = {"retry-after": str(RETRY_AFTER_S)} if retry else {}


class Admission:
    """Middleware that limits requests; see the module.

    Args:
        app: next application.
        here: the site.
        refuse: returns the response to a refused request from path, status and headers.
    """

    def __init__(self, app: ASGIApp, *, here: Site, refuse: Callable[[str, int, dict[str, str]], Response]) -> None:
        self._app = app
        self._here = here
        self._refuse = refuse
        self._pace = RequestRate(each_s=50.0, in_all_s=100.0, burst_s=4.0, longest_s=5.0)
        # sign-ins wait for a password thread, which has limits of its own
        self._sign_ins = WorkSlots(at_once=64, each=32, waiting=0, waiting_in_all=0, within_s=BODY_WITHIN_S)
        self._strangers = WorkSlots(at_once=8, each=4, waiting=100, waiting_in_all=400, within_s=5.0)
        # after a restart the tokens of all signed-in users are unknown
        self._lookups = WorkSlots(at_once=8, each=8, waiting=200, waiting_in_all=400, within_s=20.0)
        self._people = WorkSlots(at_once=200, each=12, waiting=100, waiting_in_all=2_000, within_s=30.0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._serve(HTTPConnection(scope), receive, send)
        except RequestRefusedError as refused:
            _turn_deaf(scope)
            await self._refuse(scope["path"], refused.status, refused.headers)(scope, receive, send)
        except NoSlotError:
            _turn_deaf(scope)
            await self._refuse(scope["path"], 503, {"retry-after": str(RETRY_AFTER_S)})(scope, receive, send)
        except ClientDisconnect:
            return  # nobody is there to be answered

    async def _serve(self, request: HTTPConnection, receive: Receive, send: Send) -> None:
        scope = request.scope
        source = client_network(scope["client"][0]) if scope.get("client") else ""
        device = request.cookies.get(self._here.options.device_cookie, "")
        if not (self._token(request) in self._here.known or device in self._here.known):
            await self._wait_for_turn(scope, source)
        _refuse_large(request.headers.getlist("content-length"))
        if _is_sign_in(scope) and not device and self._here.hashing.is_full(source):
            raise NoSlotError
        visitor = await self._who(request, source)
        scope.setdefault("state", {})["visitor"] = visitor
        connection = scope["state"].get("connection")
        if visitor.known and connection is not None:
            connection.mark_known()
        if _is_api(scope["path"]) and not visitor.known and visitor.failure is None:
            raise RequestRefusedError(401)
        body = b""
        if self._may_send(scope, visitor):
            body = await _read(receive)
        elif _has_body(request):
            _turn_deaf(scope)
        places, key = self._places(scope, visitor, source)
        async with places.slot(key):
            if connection is not None:
                connection.work()
            await self._app(scope, _replayed(body, receive), send)

    async def _wait_for_turn(self, scope: Scope, source: str) -> None:
        """Delay unknown clients to the permitted rate.

        A delayed connection may be closed in favour of a new one.
        """
        delay_s, may_go_on = self._pace.delay_s(source)
        if delay_s:
            await asyncio.sleep(delay_s)
            connection = scope.get("state", {}).get("connection")
            if connection is not None and connection.gone:
                raise ClientDisconnect
        if not may_go_on:
            raise NoSlotError

    def _token(self, request: HTTPConnection) -> str:
        """Return the API token or session cookie of a request, or an empty text."""
        if _is_api(request.scope["path"]):
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
        return request.cookies.get(self._here.options.cookie, "")

    def _places(self, scope: Scope, visitor: Visitor, source: str) -> tuple[WorkSlots, str]:
        if visitor.known:
            return self._people, _name(visitor)
        if _is_sign_in(scope):
            return self._sign_ins, source if visitor.device is None else hash_token(visitor.device)
        return self._strangers, source

    def _may_send(self, scope: Scope, visitor: Visitor) -> bool:
        if scope["method"] in {"GET", "HEAD"}:
            return False
        return visitor.known or visitor.failure is not None or _OPEN_FORMS.fullmatch(scope["path"]) is not None

    async def _who(self, request: HTTPConnection, source: str) -> Visitor:
        if _is_sign_in(request.scope):
            return await self._browser(request, source)
        token = self._token(request)
        if not token:
            return Visitor()
        if _is_api(request.scope["path"]):
            look = self._program
        else:
            look = partial(self._session, touch=POLL_HEADER not in request.headers)
        if token in self._here.known:
            visitor = await run_in_threadpool(look, token)
        elif request.scope["path"].startswith(_STATIC):
            return Visitor()
        else:
            async with self._lookups.slot(source):
                visitor = await run_in_threadpool(look, token)
        if visitor.failure is None:
            self._here.known.record(token, visitor.known)
        return visitor

    async def _browser(self, request: HTTPConnection, source: str) -> Visitor:
        token = request.cookies.get(self._here.options.device_cookie)
        if not token:
            return Visitor()
        async with self._lookups.slot(source):
            known = await run_in_threadpool(self._is_known, token)
        self._here.known.record(token, known)
        return Visitor(device=token if known else None)

    def _is_known(self, token: str) -> bool:
        try:
            return devices.is_known_browser(self._here.engine, token)
        except DatabaseAway:
            return False  # looking at the password will say so

    def _program(self, token: str) -> Visitor:
        try:
            return Visitor(program=accounts.find_account_by_token(self._here.engine, token))
        except PrereadError as error:
            return Visitor(failure=error)

    def _session(self, token: str, *, touch: bool) -> Visitor:
        try:
            return Visitor(
                session=sessions.find_session(self._here.engine, token, self._here.options.idle_s, touch=touch)
            )
        except PrereadError as error:
            return Visitor(failure=error)


def visitor_of(request: HTTPConnection) -> Visitor:
    """Return the sender of a request.

    Raises:
        PrereadError: the lookup failed.
    """
    visitor: Visitor = request.scope["state"]["visitor"]
    if visitor.failure is not None:
        raise visitor.failure
    return visitor


def _name(visitor: Visitor) -> str:
    if visitor.session is not None:
        return f"session:{visitor.session.session_id}"
    assert visitor.program is not None
    return visitor.program.actor


def _is_sign_in(scope: Scope) -> bool:
    return (scope["method"], scope["path"]) == ("POST", "/sign-in")


def _is_api(path: str) -> bool:
    return path == _API or path.startswith(f"{_API}/")


def _turn_deaf(scope: Scope) -> None:
    connection: Any = scope.get("state", {}).get("connection")
    if connection is not None:
        connection.refuse_rest()


def _has_body(request: HTTPConnection) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def _refuse_large(lengths: Iterable[str]) -> None:
    for length in lengths:
        if not (length.isascii() and length.isdigit()):
            raise RequestRefusedError(400)
        if len(length) > 18 or int(length) > MAX_BODY_BYTES:
            raise RequestRefusedError(413)


async def _read(receive: Receive) -> bytes:
    """Return the whole body.

    Raises:
        RequestRefusedError: it is too large or too slow.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise RequestRefusedError(413)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise RequestRefusedError(408) from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a receive function that yields a body that was read already."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
