"""Sphinx extension: links to Markdown files outside ``docs``.

A link such as ``../../deploy/RUNBOOK.md#installing`` works in a repository browser and in the tar of a release. The
site has that file as the page ``how-to/runbook``, which includes it. The extension rewrites the link's target; line
numbers stay.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

# Files outside ``docs/`` that a page of the site includes, and that page.
PAGES = {
    "README.md": "index",
    "CHANGELOG.md": "reference/changelog",
    "CONTRIBUTING.md": "how-to/contribute",
    "DECISIONS.md": "explanation/decisions",
    "SECURITY.md": "reference/security-policy",
    "deploy/RUNBOOK.md": "how-to/runbook",
}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


def rewritten(text: str, file: Path, page: Path, repository: Path) -> str:
    """Return Markdown with link targets relative to the page that shows it.

    Args:
        text: Markdown of ``file``.
        file: the file in which the text stands; targets are relative to its folder.
        page: source file of the page that shows it; the same file unless it is included.
        repository: root folder of the repository.
    """

    def target(match: re.Match[str]) -> str:
        linked = Path(os.path.normpath(file.parent / match[1]))
        if not linked.is_relative_to(repository):
            return match[1]
        name = linked.relative_to(repository).as_posix()
        if name in PAGES:
            linked = repository / "docs" / f"{PAGES[name]}.md"
        return Path(os.path.relpath(linked, page.parent)).as_posix()

    return _LINK.sub(target, text)


def _read(app: Sphinx, page: str, source: list[str]) -> None:
    file = Path(app.env.doc2path(page))
    if file.suffix == ".md":
        source[0] = rewritten(source[0], file, file, Path(app.srcdir).parent)


def _included(app: Sphinx, file: Path, _: str, source: list[str]) -> None:
    absolute = Path(os.path.normpath(Path(app.srcdir) / file))
    # MyST 5.2 gives this event the page's last name only, without its folder
    page = Path(app.env.doc2path(app.env.docname))
    source[0] = rewritten(source[0], absolute, page, Path(app.srcdir).parent)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("source-read", _read)
    app.connect("include-read", _included)
    return {"version": "1", "parallel_read_safe": True}
