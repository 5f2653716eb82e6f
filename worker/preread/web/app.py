"""The web application: routes, middleware and error pages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import resources
from pathlib import Path
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy import Engine
from starlette.exceptions import HTTPException

from preread.core.errors import DatabaseAway, PrereadError
from preread.review import agreement, audit
from preread.web import api, auth_routes, i18n, image_routes, report_routes, worklist_routes
from preread.web.context import Site, WebOptions, site_of
from preread.web.forwarded import Forwarded, Proxies
from preread.web.limits.admission import POLL_HEADER, Admission
from preread.web.security import SecurityHeaders, SignInRequiredError

_LOG = logging.getLogger(__name__)
_DAY_S = 24 * 3600.0
_RETRY_S = 60.0


def create_app(engine: Engine, options: WebOptions, code: str = i18n.ENGLISH) -> FastAPI:
    """Return the application.

    Args:
        engine: database with the current schema.
        options: options of the page.
        code: language of the page.

    Raises:
        SettingsError: there is no such language.
    """
    here = Site(engine, options, i18n.load_language(code))
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=_lifespan)
    app.state.site = here
    for routes in (auth_routes, worklist_routes, image_routes, report_routes):
        app.include_router(routes.router)
    app.mount("/api/v1", api.create_api(here))
    app.mount("/static", _Static(directory=Path(str(resources.files("preread.web") / "static"))))
    app.add_exception_handler(SignInRequiredError, _sign_in_needed)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _not_meant)
    app.add_exception_handler(PrereadError, _failed)
    app.add_exception_handler(Exception, _unforeseen)

    refusals: dict[int, bytes] = {}  # rendered once, so that refused requests stay cheap

    def refuse(path: str, status: int, headers: dict[str, str]) -> Response:
        if path.startswith("/api/"):
            return api.refusal(status, headers)
        if status not in refusals:
            refusals[status] = bytes(_answer(here, status, _key(status)).body)
        return HTMLResponse(refusals[status], status, headers)

    # the last one added runs first
    app.add_middleware(Admission, here=here, refuse=refuse)
    app.add_middleware(Forwarded, proxies=Proxies(options.proxy), tls=options.tls)
    app.add_middleware(SecurityHeaders, https=options.https)
    return app


class _Static(StaticFiles):
    """Style sheet and scripts, revalidated on each use."""

    def file_response(self, *arguments: object, **options: object) -> Response:
        response = super().file_response(*arguments, **options)  # type: ignore[arg-type]
        response.headers["cache-control"] = "no-cache"
        return response


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    daily = asyncio.create_task(_daily(app.state.site))
    yield
    daily.cancel()
    with suppress(asyncio.CancelledError):
        await daily
    app.state.site.hashing.stop()


async def _daily(here: Site) -> None:
    """Store tallies and log the head of the audit trail, at start and daily."""
    while True:
        try:
            await asyncio.to_thread(agreement.store_tallies, here.engine)
            await asyncio.to_thread(audit.log_audit_head, here.engine)
        except DatabaseAway as error:
            _LOG.warning("database_away", extra={"code": error.code})
            await asyncio.sleep(_RETRY_S)
            continue
        except OSError as error:
            # a container may have none: the head is then not kept outside the database
            _LOG.warning("system_log_away", extra={"errno": error.errno})
        await asyncio.sleep(_DAY_S)


async def _sign_in_needed(request: Request, error: Exception) -> Response:
    if request.method != "GET" or POLL_HEADER in request.headers:
        return auth_routes.sign_in_form(request, status=401, message="sign_in.ended")
    query = f"?{request.url.query}" if request.url.query else ""
    to = urlencode({"to": request.url.path + query}) if request.url.path != "/" else ""
    return RedirectResponse(f"/sign-in?{to}" if to else "/sign-in", 303)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _page(request, error.status_code, _key(error.status_code), dict(error.headers or {}))


async def _not_meant(request: Request, error: Exception) -> Response:
    return _page(request, 422, "error.422")


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, PrereadError)
    _LOG.warning("page_failed", extra={"code": error.code})
    away = isinstance(error, DatabaseAway)
    return _page(request, 503 if away else 500, "error.away" if away else "error.500", {"retry-after": "10"})


async def _unforeseen(request: Request, error: Exception) -> Response:
    _LOG.error("page_failed", exc_info=error)
    return _page(request, 500, "error.500")


def _key(status: int) -> str:
    """Return the key of an error's text."""
    return f"error.{status if status in {403, 404, 405, 408, 413, 422, 503} else 400}"


def _page(request: Request, status: int, key: str, headers: dict[str, str] | None = None) -> Response:
    return _answer(site_of(request), status, key, headers)


def _answer(here: Site, status: int, key: str, headers: dict[str, str] | None = None) -> Response:
    """Return an error page, which needs neither database nor session."""
    response = here.page("error.html", None, status=status, key=key)
    response.headers.update(headers or {})
    return response
