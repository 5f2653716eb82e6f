"""Clients of the page and the API: a browser without a screen, and a program with a token."""

from __future__ import annotations

import copy
import re
from html import unescape
from typing import Any

from starlette.testclient import TestClient

from preread.core.types import Role
from preread.review.auth import accounts
from preread.web import i18n
from preread.web.app import create_app
from preread.web.context import WebOptions
from tests.support.page import PASSWORD, Films


class Browser:
    """A browser without a screen: follows nothing by itself, remembers the last page's form."""

    def __init__(self, films: Films, code: str = i18n.ENGLISH, **options: Any) -> None:
        self.films = films
        settings = WebOptions(**{"preview_dir": films.preview_dir, **options})
        app = create_app(films.engine, settings, code)
        self.client = TestClient(app, follow_redirects=False, base_url="http://here")
        self.status = 0
        self.text = ""
        self.location = ""

    def get(self, path: str, **headers: str) -> Browser:
        return self._took(self.client.get(path, headers=headers))

    def post(self, path: str, **fields: Any) -> Browser:
        return self._took(self.client.post(path, data=fields))

    def _took(self, answer: Any) -> Browser:
        self.status, self.text, self.headers = answer.status_code, answer.text, answer.headers
        self.location = answer.headers.get("location", "")
        return copy.copy(self)  # the answer to this request: the next one changes nothing of it

    @property
    def hidden(self) -> dict[str, str]:
        """The hidden fields of the page."""
        found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', self.text)
        return {name: unescape(value) for name, value in found}

    @property
    def words(self) -> str:
        """What a person reads."""
        return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", self.text)))

    def sign_in(self, name: str = "ada", password: str = PASSWORD, **more: str) -> Browser:
        self.get("/sign-in")
        return self.post("/sign-in", **{**self.hidden, "name": name, "password": password, **more})

    def reading(self, film: int, **fields: str) -> dict[str, str]:
        """The film's form, filled in."""
        return {**self.get(f"/films/{film}").hidden, "verdict": "accepted", "then": "here", **fields}


class Program:
    """A program with a token."""

    def __init__(self, films: Films) -> None:
        self.token = accounts.add_account(
            films.engine, "uid:0", accounts.NewAccount("ris", "the RIS", Role.SERVICE, None)
        )
        self.app = create_app(films.engine, WebOptions(preview_dir=films.preview_dir))
        self.client = TestClient(self.app, headers={"authorization": f"Bearer {self.token}"})

    def get(self, path: str) -> Any:
        return self.client.get(f"/api/v1{path}")

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(f"/api/v1{path}", json=body)
