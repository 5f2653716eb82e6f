"""The project's own rules: the repository keeps them, and each finds what it is for."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.lint import checks
from tests.lint.safety import installed_by_name
from tests.lint.source import Tree
from tests.support.paths import REPOSITORY

GLOSSARY = """\
| term | meaning | not |
| --- | --- | --- |
| image | pixels | film, (scan) |
| pending | a state | set aside |
"""
ERRORS = "class UsageError(Exception):\n    pass\n"
MANY = ", ".join(f"a{number}=0" for number in range(7))
FIELDS = "".join(f"        self.a{number} = 0\n" for number in range(13))


@pytest.fixture(scope="module")
def repository() -> Tree:
    return Tree.read(REPOSITORY)


@pytest.mark.parametrize("rule", checks.RULES)
def test_the_repository_keeps_the_rule(repository: Tree, rule: str) -> None:
    found = checks.check(rule, repository, checks.exceptions())
    assert not found, "\n".join(map(str, found))


def test_every_list_of_exceptions_belongs_to_a_rule() -> None:
    assert set(checks.exceptions()) <= set(checks.RULES)


def test_only_files_that_need_it_leave_arguments_undescribed() -> None:
    """Ruff reports D417 in all other files, and an entry that is no longer needed is reported here."""
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "D417", "--output-format", "json"]
    command = [*ruff, "--config", "lint.pydocstyle.convention = 'google'", "worker", "model_training"]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    found = {Path(one["filename"]).relative_to(REPOSITORY).as_posix() for one in json.loads(done.stdout)}
    ignored = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["per-file-ignores"]
    assert {path for path, rules in ignored.items() if rules == ["D417"]} == found


def tree(source: str = "", path: str = "worker/preread/core/a.py") -> Tree:
    return Tree({"CONTRIBUTING.md": GLOSSARY, "worker/preread/core/errors.py": ERRORS, path: source})


IN_TESTS = "tests/unit/test_a.py"
BROKEN = [
    ("function-lines", "def f():\n" + "    x = 0\n" * 60, 1),
    ("function-parameters", f"\ndef f({MANY}): ...\n", 2),
    ("class-attributes", f"class A:\n    def __init__(self):\n{FIELDS}", 1),
    ("module-lines", "\n" * 601, 601),
    ("docstring-first-line", f'"""{"a" * 73}."""', 1),
    ("docstring-first-line", 'class A:\n    """What it is."""\n', 2),
    ("docstring-shape", 'def f(x: FloatArray) -> None:\n    """Change float32."""\n', 1),
    ("docstring-raises", 'def f():\n    """Return."""\n    raise UsageError\n', 1),
    ("docstring-raises", 'def f():\n    if 1:\n        raise errors.UsageError("a")\n', 1),
    ("glossary", '"""Read\n\nthe films."""', 3),
    ("glossary", 'x = f("an image was set aside by {name}")', 1),
    ("health-words", 'x = "normal"', 1),
    ("removes-files", "import os\nos.unlink(a)", 2),
    ("removes-files", "path.unlink()", 1),
    ("removes-folders", "shutil.rmtree(a)", 1),
    ("install-by-name", "x = 'pip install preread'", 1),
]
BROKEN_IN_TESTS = [
    ("skipped-tests", "@pytest.mark.skipif(True)\ndef test_a(): ...\n", 1),
    ("skipped-tests", "def test_a():\n    pytest.skip('a')\n", 2),
    ("comparison-with-itself", "assert x == x", 1),
    ("comparison-with-itself", "assert a.b[0] != a.b[0]", 1),
    ("comparison-with-itself", "assert 0 < y.out == y.out", 1),
    ("comparison-with-itself", "assert x in x", 1),
    ("returns-itself", "class R:\n    def __call__(self):\n        return self\n", 2),
    ("places", "x = '/ho" + "me/somebody'", 1),
]


@pytest.mark.parametrize(
    "rule, source, line, path",
    [*((*each, "worker/preread/core/a.py") for each in BROKEN), *((*each, IN_TESTS) for each in BROKEN_IN_TESTS)],
)
def test_a_rule_names_the_line_that_breaks_it(rule: str, source: str, line: int, path: str) -> None:
    found = [one for one in checks.check(rule, tree(source, path), {}) if one.path == path]
    assert [str(one).split(": ")[0] for one in found] == [f"{path}:{line}"]


KEPT = [
    ("function-lines", "def f():\n" + "    x = 0\n" * 59),
    ("function-parameters", "def f(self, a, b, c, d, e, g): ..."),
    ("class-attributes", f"@dataclass\nclass A:\n    def f(self):\n{FIELDS}"),
    ("docstring-shape", 'def f(x: FloatArray) -> None:\n    """Change float32 [rows, columns]."""\n'),
    (
        "docstring-raises",
        'def f():\n    """Do.\n\n    Raises:\n        UsageError: always.\n    """\n    raise UsageError\n',
    ),
    ("docstring-raises", "def _f():\n    raise UsageError\n"),
    ("glossary", '"""Read ``films`` of a scan."""'),
    ("returns-itself", "class R:\n    def __enter__(self):\n        return self\n"),
]


@pytest.mark.parametrize("rule, source", KEPT)
def test_a_rule_reports_nothing_else(rule: str, source: str) -> None:
    assert not checks.check(rule, tree(source), {})


def test_a_folder_has_few_entries_and_levels() -> None:
    many = {f"worker/preread/core/m{number}.py": "" for number in range(14)}
    assert [one.name for one in checks.check("folder-entries", Tree(many), {})] == ["worker/preread/core"]
    commands = {f"worker/preread/cli/m{number}.py": "" for number in range(14)}
    assert not checks.check("folder-entries", Tree(commands), {})
    deep = Tree({"worker/preread/a/b/c/m.py": ""})
    assert [one.name for one in checks.check("folder-entries", deep, {})] == ["worker/preread/a/b/c"]


def test_an_exception_that_is_no_longer_needed_is_reported_and_removed() -> None:
    name = "worker/preread/core/a.py::f"
    listed = {"function-parameters": [name, "worker/preread/core/gone.py::g"]}
    source = tree(f"def f({MANY}): ...\n")
    assert [one.name for one in checks.check("function-parameters", source, listed)] == [
        "worker/preread/core/gone.py::g"
    ]
    shrunk = checks.exceptions(checks.written(source, listed, grow=False))
    assert shrunk == {"function-parameters": [name]}
    assert not checks.exceptions(checks.written(source, {}, grow=False))


@pytest.mark.parametrize(
    "text, found",
    [
        ("pip install 'preread[train]'", True),
        ("pip install --upgrade preread", True),
        ("`uv pip install preread==0.1.0`", True),
        ("pipx run preread-train", True),
        ("with `preread[fleet]` on each", True),
        ("pip install preread-*.whl", False),
        ("pip install './preread-VERSION-py3-none-any.whl[train]'", False),
        ("pip install '.[train]'`, then `preread run", False),
    ],
)
def test_a_name_that_is_installed_is_found(text: str, found: bool) -> None:
    assert bool(installed_by_name(text)) is found
