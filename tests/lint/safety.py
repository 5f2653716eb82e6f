"""What no file of the repository may do or name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

from tests.lint.source import PRODUCT, Function, Module, Tree, Violation
from tests.lint.words import shown

RECURSIVE = {"rmtree", "removedirs"}
OF_OS = {"remove", "unlink", "rename", "replace", "rmdir", "truncate"}
OF_PATHS = {"unlink", "rmdir"}
SKIPS = {"skip", "skipif", "xfail", "importorskip"}
TESTS = ("tests/", "conftest.py")
# The language calls these itself, so that nobody keeps two results of them.
RETURN_THEMSELVES = {"__enter__", "__aenter__", "__iter__", "__aiter__"}
# Written in pieces, so that this file does not name them either.
REGISTRIES = ("pypi" + ".org", "python" + "hosted", "npm" + "js", "deb." + "debian", "debian" + ".org/debian")
MACHINE_PATHS = ("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "/op" + "t/py")
_INSTALL = re.compile(r"\b(?:pip3?|pipx|uvx?)\s+(?:(?:pip|tool)\s+)?(?:install|add|run|download|wheel)\b([^`\n]*)")
_EXTRA_OF_A_NAME = re.compile(r"(?<![\w./-])preread\[\w")


def _calls(module: Module) -> Iterator[tuple[int, str, str]]:
    """Yield line, owner and name of each called attribute: ``os.replace`` is ``("os", "replace")``."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            yield node.lineno, owner.id if isinstance(owner, ast.Name) else "", node.func.attr


def removals(tree: Tree) -> Iterator[Violation]:
    """Report removed or moved files outside the modules that may do it with files of Preread's own."""
    for module in tree.modules(*PRODUCT):
        for line, owner, name in _calls(module):
            if (owner == "os" and name in OF_OS) or name in OF_PATHS:
                yield module.violation(line, "", f"{name} removes or moves a file")


def recursive_removals(tree: Tree) -> Iterator[Violation]:
    """Report what deletes recursively or moves between folders; nothing may."""
    for module in tree.modules(*PRODUCT):
        for line, owner, name in _calls(module):
            if name in RECURSIVE or (owner, name) == ("shutil", "move"):
                yield module.violation(line, "", f"{name} deletes or moves whole folders")


def skips(tree: Tree) -> Iterator[Violation]:
    """Report skipped tests: one that cannot run is deselected by its marker, and the run prints so."""
    for module in tree.modules(*TESTS):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and node.attr in SKIPS and _root(node) == "pytest":
                yield module.violation(node.lineno, "", f"pytest.{node.attr}: use a marker of conftest.py")


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def comparisons(tree: Tree) -> Iterator[Violation]:
    """Report comparisons of an expression with itself in tests; they cannot fail."""
    for module in tree.modules(*TESTS):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Compare):
                sides = pairwise([node.left, *node.comparators])
                if any(ast.dump(left) == ast.dump(right) for left, right in sides):
                    yield module.violation(node.lineno, "", f"both sides are alike: {ast.unparse(node)}")


def returned_selves(tree: Tree) -> Iterator[Violation]:
    """Report methods of tests that return their own object: two results of it are one, and always equal."""
    for module in tree.modules(*TESTS):
        for each in module.definitions:
            if isinstance(each.node, Function) and each.node.name not in RETURN_THEMSELVES:
                values = (one.value for one in ast.walk(each.node) if isinstance(one, ast.Return))
                if any(isinstance(value, ast.Name) and value.id == "self" for value in values):
                    yield module.violation(each.node.lineno, each.name, f"{each.name} returns its own object")


def places(tree: Tree) -> Iterator[Violation]:
    """Report names of package registries and paths of a developer's machine in any file."""
    for path, text in tree.files.items():
        for number, line in enumerate(text.splitlines(), 1):
            for word in (*REGISTRIES, *MACHINE_PATHS):
                if word in line:
                    yield Violation(path, number, path, f"{word!r} names a registry or a machine")


def installs(tree: Tree) -> Iterator[Violation]:
    """Report commands that install Preread by its name: no package index has it, so it could become anybody's."""
    for path, text in tree.files.items():
        if path == "tests/test_lint.py":  # names what it looks for
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if found := installed_by_name(line):
                yield Violation(path, number, path, f"installs {', '.join(found)} from a package index")
    for module in tree.modules(*PRODUCT, "deploy/", "migrations/"):
        for line_number, said in shown(module):  # a message may be written over two lines
            if found := installed_by_name(said):
                yield module.violation(line_number, "", f"installs {', '.join(found)} from a package index")


def installed_by_name(text: str) -> list[str]:
    """Return what a command in a text would install as Preread from a package index."""
    words = [word.strip("'\"()") for line in _INSTALL.findall(text) for word in line.split()]
    by_name = [word for word in words if word.startswith("preread") and ".whl" not in word and ".tar" not in word]
    return by_name + _EXTRA_OF_A_NAME.findall(text)
