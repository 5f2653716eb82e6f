"""The documentation site: what fails its build, each with file and line, and that it loads nothing from elsewhere.

Small sites with the configuration's own extensions; ``make docs`` builds the whole one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
EXTENSIONS = HOUSE / "docs" / "_ext"
CONF = f"""
import sys
sys.path.insert(0, {str(EXTENSIONS)!r})
extensions = ["myst_parser", "offline", "package_index", "repository_links"]
myst_heading_anchors = 4
html_theme = "basic"
"""
INDEX = "# Site\n\n```{toctree}\nhow-to/runbook\n```\n\nSee [a code](../deploy/RUNBOOK.md#locked).\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose site is in order: an index, and a page that includes a file from beside ``docs``."""
    docs, deploy = tmp_path / "docs", tmp_path / "deploy"
    (docs / "how-to").mkdir(parents=True)
    deploy.mkdir()
    (docs / "conf.py").write_text(CONF)
    (docs / "index.md").write_text(INDEX)
    (docs / "how-to" / "runbook.md").write_text("```{include} ../../deploy/RUNBOOK.md\n```\n")
    (deploy / "RUNBOOK.md").write_text("# Runbook\n\n## `locked`\n\n[Back](../docs/index.md)\n")
    return tmp_path


def build(repository: Path) -> tuple[int, str]:
    """Build as ``make docs`` does; exit code and what was printed."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "sphinx",
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
        "--builder",
        "html",
    ]
    ended = subprocess.run(
        [*command, repository / "docs", repository / "build"], capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_a_site_in_order_is_built_and_its_links_lead_to_the_included_pages(repository: Path) -> None:
    assert build(repository) == (0, "")
    assert 'href="how-to/runbook.html#locked"' in (repository / "build" / "index.html").read_text()
    assert 'href="../index.html"' in (repository / "build" / "how-to" / "runbook.html").read_text()


def test_packages_and_modules_are_listed_with_their_first_lines(repository: Path) -> None:
    inner = repository / "worker" / "thing" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").write_text('"""The thing."""\n')
    (inner / "__init__.py").write_text('"""Parts of | the thing.\n\nMore.\n"""\n')
    (inner / "wheel.py").write_text('"""A wheel | of ``four``.\n\nMore of it.\n"""\nimport not_installed\n')
    (repository / "docs" / "index.md").write_text(INDEX + "\n```{package-index} worker/thing\n```\n")
    assert build(repository) == (0, "")
    text = re.sub(r"<[^>]+>", "", (repository / "build" / "index.html").read_text())
    assert "thing: The thing." in text
    assert re.search(r"thing\.inner: Parts of \| the thing\.\s+module\s+wheel\s+A wheel \| of four\.\s", text)
    assert "More" not in text


@pytest.mark.parametrize(
    "file, text, said",
    [
        (
            "docs/index.md",
            INDEX + "\n[x](nowhere.md)\n",
            r"index\.md:9: .*nowhere\.md",
        ),
        (
            "docs/index.md",
            INDEX.replace("#locked", "#unlocked"),
            r"index\.md:7: .*how-to/runbook': 'unlocked'",
        ),
        (
            "deploy/RUNBOOK.md",
            "# Runbook\n\n## `locked`\n\n[x](../docs/gone.md)\n",
            r"deploy/RUNBOOK\.md:5: .*gone\.md",
        ),
        ("docs/alone.md", "# Alone\n", r"alone\.md:.* isn't included in any toctree"),
        (
            "docs/index.md",
            INDEX + "\n<script src='https://cdn.example/a.js'></script>\n",
            r"index\.html:\d+: WARNING: loads from another host: <script src='https://cdn\.example/a\.js'>",
        ),
        (
            "docs/index.md",
            INDEX + "\n![a picture](https://cdn.example/a.png)\n",
            r"index\.html:\d+: WARNING: loads from another host: <img src='https://cdn\.example/a\.png'>",
        ),
        (
            "docs/index.md",
            INDEX + "\n```{package-index} worker/nothing\n```\n",
            r"index\.md:9: .*no package lies in",
        ),
    ],
    ids=["page", "heading", "included", "orphan", "script", "image", "package"],
)
def test_what_is_wrong_fails_with_file_and_line(repository: Path, file: str, text: str, said: str) -> None:
    (repository / file).write_text(text)
    code, printed = build(repository)
    assert code != 0
    assert re.search(said, printed), printed


@pytest.mark.parametrize(
    "text, loads",
    [
        ('<link rel="stylesheet" href="https://fonts.example/css">', True),
        ('<link rel="preconnect" href="//fonts.example">', True),
        ('<link rel="canonical" href="https://preread.example/page.html">', False),
        ('<link rel="stylesheet" href="_static/site.css">', False),
        ('<a href="https://elsewhere.example">a link</a>', False),
        ('<img srcset="a.png 1x, https://cdn.example/a.png 2x">', True),
        ('<img src="data:image/png;base64,iVBO//8=">', False),
        ('<p style="background: url(https://cdn.example/a.png)">', True),
        ("<style>@import 'https://fonts.example/css';</style>", True),
        ('<svg xmlns="http://www.w3.org/2000/svg"><use href="#a"/></svg>', False),
        ("<pre>&lt;script src='https://cdn.example/a.js'&gt;</pre>", False),
    ],
)
def test_what_a_browser_would_load_from_elsewhere_is_found(tmp_path: Path, text: str, loads: bool) -> None:
    (tmp_path / "page.html").write_text(f"<html>\n{text}\n</html>\n")
    program: list[str | Path] = [sys.executable, EXTENSIONS / "offline.py", tmp_path]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    assert (ended.returncode, bool(ended.stdout)) == (int(loads), loads)
    assert ended.stdout.startswith(f"{tmp_path / 'page.html'}:2: ") is loads


def test_styles_are_searched_too(tmp_path: Path) -> None:
    (tmp_path / "site.css").write_text("a { color: red }\n@font-face { src: url(//fonts.example/a.woff2) }\n")
    ended = subprocess.run(
        [sys.executable, EXTENSIONS / "offline.py", tmp_path], capture_output=True, text=True, check=False
    )
    assert ended.stdout == f"{tmp_path / 'site.css'}:2: loads from another host: //fonts.example/a.woff2\n"
