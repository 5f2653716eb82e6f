"""The tracked files as the rules read them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Violation:
    """A place that breaks a rule.

    Attributes:
        path: the file, relative to the repository.
        line: the line, from 1.
        name: what an exception to the rule is listed as.
        message: what is wrong and the limit.
    """

    path: str
    line: int
    name: str
    message: str

    def __str__(self) -> str:
        """Return ``file:line: message`` as compilers print it."""
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Definition:
    """A function or class of a module.

    Attributes:
        name: dotted, with the classes and functions around it.
        node: its syntax tree.
        parent: the class or function around it; ``None`` if it stands in the module.
        public: whether neither its name nor one around it begins with an underscore, and no function is around it.
    """

    name: str
    node: Function | ast.ClassDef
    parent: Function | ast.ClassDef | None
    public: bool


class Module:
    """A Python file of the repository."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def definitions(self) -> list[Definition]:
        """All functions and classes, in the order of the file."""
        return list(_definitions(self.tree, "", None, public=True))

    def violation(self, line: int, name: str, message: str) -> Violation:
        """Return a violation in this module; an exception is listed as the path and the name."""
        return Violation(self.path, line, f"{self.path}::{name}" if name else self.path, message)


def _definitions(
    tree: ast.AST, around: str, parent: Function | ast.ClassDef | None, *, public: bool
) -> Iterator[Definition]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            seen = public and not node.name.startswith("_")
            yield Definition(around + node.name, node, parent, seen)
            inner = seen and isinstance(node, ast.ClassDef)
            yield from _definitions(node, f"{around}{node.name}.", node, public=inner)
        else:
            yield from _definitions(node, around, parent, public=public)


class Tree:
    """The repository's tracked files.

    Args:
        files: text of each file by its path relative to the repository; binary files are left out.
    """

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files
        self._modules = {path: Module(path, text) for path, text in files.items() if path.endswith(".py")}

    @classmethod
    def read(cls, folder: Path) -> Tree:
        """Read what git tracks or would track in a folder."""
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        files = {}
        for path in sorted({name for name in listing.split("\0") if name and (folder / name).is_file()}):
            try:
                files[path] = (folder / path).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
        return cls(files)

    def modules(self, *folders: str) -> list[Module]:
        """Return the Python files below these folders."""
        return [module for path, module in self._modules.items() if path.startswith(folders)]


PRODUCT = ("worker/preread/", "model_training/preread_training/")
PROGRAMS = (*PRODUCT, "deploy/", "docs/", "migrations/env.py", "conftest.py")


def docstring_of(node: Documented) -> tuple[int, str] | None:
    """Return line and text of a docstring; ``None`` if there is none."""
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first.lineno, first.value.value
    return None
