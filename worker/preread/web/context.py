"""What every page has at hand: the database, the options, the language, the templates, and how current all of it is."""

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
from preread.web.limits.known_tokens import Known
from preread.web.limits.password_threads import Hashing

_FRESH_FOR_S = 2.0


@dataclass(frozen=True, slots=True)
class WebOptions:
    """How the page is served.

    Attributes:
        idle_s: seconds without a request after which a session ends.
        scan_interval_s, roots: as ``health.report`` takes them.
        preview_dir: where the slots keep previews; ``None`` for nowhere.
        pacs_url: with ``{study_instance_uid}``; ``None`` for no such link.
        https: people reach the page by TLS, its own or a proxy's.
        tls: the page brings TLS itself.
        proxy: addresses of the proxy that brings it, as in ``PREREAD_WEB_PROXY``.
        judged: adds to a report what the database does not know.
    """

    idle_s: float = 1800.0
    scan_interval_s: float = 30.0
    roots: tuple[bytes, ...] | None = None
    preview_dir: Path | None = None
    pacs_url: str | None = None
    https: bool = False
    tls: bool = False
    proxy: str | None = None
    judged: Callable[[Health], Health] = lambda found: found

    @property
    def cookie(self) -> str:
        """Name of the session's cookie; a browser takes the prefix only with TLS and for this host alone."""
        return "__Host-preread" if self.https else "preread"

    @property
    def device_cookie(self) -> str:
        """Name of the cookie by which a browser is known again; it is sent to the form for signing in alone."""
        return "preread_device"


class Site:
    """One per application."""

    def __init__(self, engine: Engine, options: WebOptions, language: Language) -> None:
        self.engine = engine
        self.options = options
        self.language = language
        self.hashing = Hashing()
        self.known = Known()
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
        """Return whether Preread does what it should, looked at once in two seconds at most, whoever asks."""
        with self._lock:
            if self._health is None or time.monotonic() - self._health[0] > _FRESH_FOR_S:
                found = health.report(
                    self.engine,
                    roots=self.options.roots,
                    scan_interval_s=self.options.scan_interval_s,
                    states=OPEN_STATES,
                )
                self._health = (time.monotonic(), self.options.judged(found))
            return self._health[1]

    def page(self, name: str, session: Session | None, *, status: int = 200, **values: Any) -> HTMLResponse:
        """Render a page; whoever is signed in sees on it how current the database is."""
        found = self.health() if session is not None else None
        return HTMLResponse(self.render(name, session=session, health=found, **values), status_code=status)

    def render(self, name: str, **values: Any) -> str:
        """Render a template without looking anything up."""
        return self._templates.get_template(name).render(**values)

    # ------------------------------------------------------------------ how things are said

    def _waited(self, seconds: float) -> str:
        minutes = int(seconds // 60)
        if minutes < 60:
            return self.language("time.minutes", n=minutes)
        if minutes < 48 * 60:
            return self.language("time.hours", hours=minutes // 60, minutes=minutes % 60)
        return self.language("time.days", n=minutes // (24 * 60))

    def _percent(self, share: float) -> str:
        said = format_percent(share, self.language("number.below"), self.language("number.above"))
        return said.replace(".", self.language("number.point")).replace(" ", "\N{NO-BREAK SPACE}")

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
    """A time of our own: UTC, which the script turns into the reader's."""
    return Markup('<time datetime="{}">{} UTC</time>').format(
        at.isoformat(timespec="seconds").replace("+00:00", "Z"), f"{at:%Y-%m-%d %H:%M}"
    )


def _shown(value: object) -> object:
    """Write out what nobody sees, in whatever a page shows; markup is ours."""
    return show_invisible(value) if type(value) is str else value


def _person(name: str | None) -> str:
    """A DICOM name (PS3.5 section 6.2.1.1) as people write it: family name first, in each of its scripts."""
    ways = [[part.strip() for part in way.split("^")] for way in (name or "").split("=")]
    said = [", ".join(filter(None, (way[0], " ".join(filter(None, way[1:]))))) for way in ways]
    return " / ".join(filter(None, said))


def of(request: Request) -> Site:
    """Return the site of a request's application."""
    found: Site = request.app.state.site
    return found
