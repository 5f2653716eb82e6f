"""Sphinx extension: warnings for what a page loads from another host.

Only what a browser fetches automatically counts (scripts, styles, images, fonts, frames, media, preloads, CSS ``url()``
and ``@import``); a link that a person may follow does not. It is also a program:
``python docs/_ext/offline.py FOLDER``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

_log = logging.getLogger(__name__)
_FETCHED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
# Relations of ``<link>`` whose target a browser does not fetch.
_NOT_FETCHED = {"alternate", "author", "canonical", "help", "license", "me", "next", "prev", "search"}
_EXTERNAL = re.compile(r"(?:^|[\s,])(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_CSS = re.compile(r"(?:url\(\s*|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)", re.IGNORECASE)


class _Fetches(HTMLParser):
    """Parser for the addresses that a browser fetches with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the fetched attributes of a tag that name another host."""
        values = {name: value or "" for name, value in attrs}
        relations = set(values.get("rel", "").lower().split())
        if tag == "link" and relations and relations <= _NOT_FETCHED:
            return
        for name in _FETCHED.get(tag, ()):
            if _EXTERNAL.search(values.get(name, "")):
                self.found.append((self.getpos()[0], f"<{tag} {name}={values[name]!r}>"))
        if match := _CSS.search(values.get("style", "")):
            self.found.append((self.getpos()[0], match[1]))


def external(folder: Path) -> Iterator[tuple[Path, int, str]]:
    """Yield file, line and address of what another host would serve.

    Reads the HTML, CSS and SVG files below a folder.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix not in {".html", ".css", ".svg"}:
            continue
        text = path.read_text(encoding="utf-8")
        found = [(text.count("\n", 0, match.start()) + 1, match[1]) for match in _CSS.finditer(text)]
        if path.suffix != ".css":
            page = _Fetches()
            page.feed(text)
            found += page.found
        for line, what in sorted(set(found)):
            yield path, line, what


def _check(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        for path, line, what in external(Path(app.outdir)):
            _log.warning("loads from another host: %s", what, location=f"{path}:{line}", type="offline")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("build-finished", _check)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    everything = list(external(Path(sys.argv[1])))
    sys.stdout.writelines(f"{path}:{line}: loads from another host: {what}\n" for path, line, what in everything)
    sys.exit(bool(everything))
