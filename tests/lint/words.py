"""Words that the glossary replaces, and words for health."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TypeGuard

from tests.lint.source import PROGRAMS, Documented, Module, Tree, Violation, docstring_of

GLOSSARY = "CONTRIBUTING.md"
HEALTH = re.compile(r"\b(normal|negative|clear|healthy|unremarkable|no findings?)\b", re.IGNORECASE)
# What is quoted or is code keeps its words: names of settings, codes, columns and files are not prose.
_CODE = re.compile(r"```.*?```|``[^`]*``|`[^`]*`|\]\([^)]*\)|<!--.*?-->", re.DOTALL)
_WORDS_OF_A_SENTENCE = 4


def banned_words(glossary: str) -> list[str]:
    """Return the right column of the glossary's table; a word in brackets is wrong in one sense only and left out."""
    rows = re.findall(r"^\|[^|\n]+\|[^|\n]+\|([^|\n]+)\|$", glossary, re.MULTILINE)
    words = [word.strip() for row in rows for word in row.split(",")]
    return [word for word in words if re.fullmatch(r"[a-z][a-z ]+", word) and word != "not"]


def glossary(tree: Tree) -> Iterator[Violation]:
    """Report words that the glossary replaces in docstrings, messages and documents; exceptions are listed by file."""
    banned = re.compile(rf"\b({'|'.join(banned_words(tree.files[GLOSSARY]))})s?\b", re.IGNORECASE)
    for path, line, text in _prose(tree):
        for found in banned.finditer(text):
            at = line + text.count("\n", 0, found.start())
            yield Violation(path, at, path, f"{found[0]!r} is not the glossary's word ({GLOSSARY})")


def _prose(tree: Tree) -> Iterator[tuple[str, int, str]]:
    """Yield path, line and text of what people read, with code blanked out."""
    for module in tree.modules(*PROGRAMS):
        for line, text in _strings(module):
            yield module.path, line, _without_code(text)
    for path, text in tree.files.items():
        if path.endswith(".md") and path not in {GLOSSARY, "CHANGELOG.md", "DECISIONS.md"}:
            yield path, 1, _without_code(text)


def _without_code(text: str) -> str:
    return _CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def _docstrings(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, Documented) and (found := docstring_of(node)) is not None:
            yield found


def _is_sentence(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and len(value.split()) >= _WORDS_OF_A_SENTENCE


def _strings(module: Module) -> Iterator[tuple[int, str]]:
    """Yield docstrings and sentences: strings of several words."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and _is_sentence(node.value):
            yield node.lineno, node.value
    yield from ((line, text) for line, text in _docstrings(module) if len(text.split()) < _WORDS_OF_A_SENTENCE)


def shown(module: Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of all that a person may be shown: strings, and docstrings that are a command's help."""
    docstrings = set(_docstrings(module))
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if "/cli/" in module.path or (node.lineno, node.value) not in docstrings:
            yield node.lineno, node.value


def health(tree: Tree) -> Iterator[Violation]:
    """Report words for health in strings of the product: it says that a finding is not flagged, no more."""
    for module in tree.modules("worker/"):
        for line, text in shown(module):
            if found := HEALTH.search(text):
                yield module.violation(line, "", f"{found[0]!r} says that an image shows no disease")
