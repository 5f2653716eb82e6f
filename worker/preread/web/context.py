"""Shared state of the pages: database, options, language, templates."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from sqlalchemy import Engine

from preread.core.text.confusables import identifier_warnings, show_invisible
from preread.core.text.wording import format_percent
from preread.core.types import OPEN_STATES, Role
from preread.monitoring import health
from preread.monitoring.health import Health, Level, Problem
from preread.review.auth.sessions import Session
from preread.review.results import format_acquired
from preread.review.reviews import MAX_COMMENT_CHARS
from preread.web.i18n import Language
from preread.web.limits.known_tokens import KnownTokens
from preread.web.limits.password_threads import PasswordThreads

_FRESH_FOR_S = 2.0


@dataclass(frozen=True, slots=True)
class WebOptions:
    """Options of the page.

    Attributes:
        idle_s: seconds without a request after which a session ends.
        scan_interval_s: see ``health.report``.
        roots: see ``health.report``.
        preview_dir: folder of previews; ``None`` if none are kept.
        pacs_url: URL with ``{study_instance_uid}``; ``None`` for no link.
        https: browsers use TLS, of this server or of a proxy.
        tls: this server uses TLS itself.
        proxy: addresses of the proxy, as in ``PREREAD_WEB_PROXY``; ``None`` without one.
        extend_report: adds problems to a report that the database does not contain.
    """

    idle_s: float = 1800.0
    scan_interval_s: float = 30.0
    roots: tuple[bytes, ...] | None = None
    preview_dir: Path | None = None
    pacs_url: str | None = None
    https: bool = False
    tls: bool = False
    proxy: str | None = None
    extend_report: Callable[[Health], Health] = lambda found: found

    @property
    def cookie(self) -> str:
        """Name of the session cookie; the prefix binds it to TLS and this host."""
        return "__Host-preread" if self.https else "preread"

    @property
    def device_cookie(self) -> str:
        """Name of the cookie of known browsers, sent to the sign-in form only."""
        return "preread_device"


class Site:
    """State of one application."""

    def __init__(self, engine: Engine, options: WebOptions, language: Language) -> None:
        self.engine = engine
        self.options = options
        self.language = language
        self.hashing = PasswordThreads()
        self.known = KnownTokens()
        self._lock = threading.Lock()
        self._health: tuple[float, Health] | None = None
        self._templates = Environment(
            loader=PackageLoader("preread.web"),
            autoescape=select_autoescape(default=True, default_for_string=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
        )
        self._templates.globals.update(
            t=language, lang=language.code, Role=Role, Level=Level, comment_chars=MAX_COMMENT_CHARS
        )
        self._templates.filters.update(
            local=_local,
            percent=self._percent,
            number=self._number,
            waited=self._waited,
            taken=format_acquired,
            person=_person,
            looks=identifier_warnings,
            code=self._code,
            answer=self._answer,
            problem=self._problem,
            word=lambda word, kind: language.get(f"{kind}.{word}") or word,
        )

    def health(self) -> Health:
        """Return the health report, at most two seconds old."""
        with self._lock:
            if self._health is None or time.monotonic() - self._health[0] > _FRESH_FOR_S:
                report = health.report(
                    self.engine,
                    roots=self.options.roots,
                    scan_interval_s=self.options.scan_interval_s,
                    states=OPEN_STATES,
                )
                self._health = (time.monotonic(), self.options.extend_report(report))
            return self._health[1]

    def page(self, name: str, session: Session | None, *, status: int = 200, **values: Any) -> HTMLResponse:
        """Render a page; add the health report if somebody is signed in.

        Args:
            name: template.
            session: session of the request, or ``None``.
            status: HTTP status.
            values: values of the template.
        """
        report = self.health() if session is not None else None
        return HTMLResponse(self.render(name, session=session, health=report, **values), status_code=status)

    def render(self, name: str, **values: Any) -> str:
        """Render a template without any query."""
        return self._templates.get_template(name).render(**values)

    # ------------------------------------------------------------------ template filters

    def _waited(self, seconds: float) -> str:
        minutes = int(seconds // 60)
        if minutes < 60:
            return self.language("time.minutes", n=minutes)
        if minutes < 48 * 60:
            return self.language("time.hours", hours=minutes // 60, minutes=minutes % 60)
        return self.language("time.days", n=minutes // (24 * 60))

    def _percent(self, share: float) -> str:
        text = format_percent(share, self.language("number.below"), self.language("number.above"))
        return text.replace(".", self.language("number.point")).replace(" ", "\N{NO-BREAK SPACE}")

    def _number(self, value: float) -> str:
        return f"{value:.1f}".replace(".", self.language("number.point"))

    def _code(self, code: str, reason: str | None = None) -> str:
        return self.language.get(f"code.{code}") or reason or code

    def _problem(self, problem: Problem) -> str:
        text = self.language.get(f"health.{problem.code}")
        if text is None and problem.root is not None:
            text = self.language("health.folder")
        return problem.what if text is None else text.format(root=problem.root, n=problem.count)

    def _answer(self, answer: str, finding: str) -> str:
        return self.language(f"answer.{answer}", finding=self.language.get(f"finding.{finding}") or finding)


def _local(at: datetime) -> Markup:
    """Return a UTC time as markup, which the script converts to local time."""
    return Markup('<time datetime="{}">{} UTC</time>').format(
        at.isoformat(timespec="seconds").replace("+00:00", "Z"), f"{at:%Y-%m-%d %H:%M}"
    )


def _shown(value: object) -> object:
    """Make invisible characters visible in whatever a page shows."""
    return show_invisible(value) if type(value) is str else value


def _person(name: str | None) -> str:
    """Return a DICOM person name (PS3.5 section 6.2.1.1) for display.

    The family name comes first, in each of its scripts.
    """
    groups = [[part.strip() for part in parts.split("^")] for parts in (name or "").split("=")]
    names = [", ".join(filter(None, (parts[0], " ".join(filter(None, parts[1:]))))) for parts in groups]
    return " / ".join(filter(None, names))


def site_of(request: Request) -> Site:
    """Return the site of a request's application."""
    site: Site = request.app.state.site
    return site
