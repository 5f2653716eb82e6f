"""All rules with their exceptions, which may only become fewer."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.lint import docstrings, limits, safety, words
from tests.lint.source import Tree, Violation

EXCEPTIONS = Path(__file__).with_name("exceptions.toml")
Rule = Callable[[Tree], Iterator[Violation]]
RULES: Mapping[str, Rule] = {
    "function-lines": limits.functions,
    "function-parameters": limits.parameters,
    "class-attributes": limits.attributes,
    "module-lines": limits.modules,
    "folder-entries": limits.folders,
    "docstring-first-line": docstrings.first_lines,
    "docstring-shape": docstrings.shapes,
    "docstring-raises": docstrings.raised,
    "glossary": words.glossary,
    "health-words": words.health,
    "removes-files": safety.removals,
    "removes-folders": safety.recursive_removals,
    "skipped-tests": safety.skips,
    "comparison-with-itself": safety.comparisons,
    "returns-itself": safety.returned_selves,
    "places": safety.places,
    "install-by-name": safety.installs,
}


def exceptions(text: str | None = None) -> dict[str, list[str]]:
    """Return the listed exceptions of each rule, from ``exceptions.toml`` if no text is given."""
    listed = tomllib.loads(EXCEPTIONS.read_text(encoding="utf-8") if text is None else text)
    return {rule: list(names) for rule, names in listed.items()}


def check(rule: str, tree: Tree, listed: Mapping[str, list[str]]) -> list[Violation]:
    """Return what breaks a rule and is not listed, and each entry of the list that is no longer needed."""
    excepted = set(listed.get(rule, ()))
    found = list(dict.fromkeys(RULES[rule](tree)))
    unneeded = sorted(excepted - {one.name for one in found})
    line = "tests/lint/exceptions.toml"
    return [one for one in found if one.name not in excepted] + [
        Violation(line, 1, name, f"{rule}: {name} is no longer an exception: remove it") for name in unneeded
    ]


def written(tree: Tree, listed: Mapping[str, list[str]], *, grow: bool) -> str:
    """Return the list anew: without entries that are no longer needed, and with new ones only if it may grow."""
    lines = ["# Exceptions to the rules of tests/lint, which may only become fewer: `python -m tests.lint --shrink`."]
    for rule, report in RULES.items():
        names = {one.name for one in report(tree)}
        kept = sorted(names if grow else names & set(listed.get(rule, ())))
        if kept:
            lines += ["", f"{rule} = [", *(f'  "{name}",' for name in kept), "]"]
    return "\n".join(lines) + "\n"
