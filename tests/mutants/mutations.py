"""Mutations of one source file: what can be changed, and the changed text."""

from __future__ import annotations

import ast
import bisect
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_FLIPS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of one expression or statement.

    Attributes:
        line: number of the first changed line, from 1.
        kind: ``comparison``, ``constant``, ``condition``, ``statement``, ``argument`` or ``return``.
        before: source of the node.
        after: what replaces it.
        start: offset of its first byte in the UTF-8 text.
        end: offset after its last byte.
        statement: number of the first line of the statement around it.
    """

    line: int
    kind: str
    before: str
    after: str
    start: int
    end: int
    statement: int

    def apply(self, source: str) -> str:
        """Return the mutated text of the file."""
        text = source.encode()
        return (text[: self.start] + self.after.encode() + text[self.end :]).decode()


def mutations(source: str) -> list[Mutation]:
    """Return all mutations of a file in the order of its nodes."""
    text = source.encode()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    tree = ast.parse(source)
    statements = sorted(node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt))
    for node, kind, after in _changes(tree):
        if node.end_lineno is None or node.end_col_offset is None:
            continue
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before = text[start:end].decode()
        statement = statements[bisect.bisect_right(statements, node.lineno) - 1]
        found.append(Mutation(node.lineno, kind, before, after or f"not ({before})", start, end, statement))
    return found


def _changes(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, str, str]]:
    """Yield node, kind and replacement; an empty replacement negates the node."""
    for node in _code(tree):
        if isinstance(node, ast.Compare):
            for index, operator in enumerate(node.ops):
                changed = copy.deepcopy(node)
                changed.ops[index] = _FLIPS[type(operator)]()
                yield node, "comparison", ast.unparse(changed)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)
        ):
            yield node, "constant", f"({node.value + 1!r})"
            yield node, "constant", f"({node.value - 1!r})"
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            yield node.test, "condition", ""
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, "statement", "pass"
        elif isinstance(node, ast.Return) and not (node.value is None or _is_none(node.value)):
            yield node, "return", "return None"
        elif isinstance(node, ast.Call):
            for index, keyword in enumerate(node.keywords):
                if keyword.arg is not None:
                    changed_call = copy.deepcopy(node)
                    del changed_call.keywords[index]
                    yield node, "argument", ast.unparse(changed_call)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run: no annotations, no f-strings, nothing for type checkers alone."""
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.JoinedStr) or not isinstance(child, ast.AST):
                continue  # positions inside an f-string are those of the whole string before Python 3.12
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            yield child
            yield from _code(child)
