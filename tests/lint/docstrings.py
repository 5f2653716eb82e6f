"""What a docstring has to state."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.lint.source import PROGRAMS, Function, Module, Tree, Violation, docstring_of

FIRST_LINE_MAX = 72
QUESTION = re.compile(r"(What|Who|Whose|Whom|Whether|How|Which|Whatever|Whoever|Where|When|Why)\b")
ARRAY = re.compile(r"\b(ndarray|NDArray|PixelArray|FloatArray)\b")
SHAPE = re.compile(r"\[[\w, .*:+/-]*\]|\bscalar\b|\bshape\b")


def first_lines(tree: Tree) -> Iterator[Violation]:
    """Report public docstrings whose first line is too long, or begins with a question word.

    Exceptions are listed by file.
    """
    for module in tree.modules(*PROGRAMS):
        places = [("", module.tree, True), *((each.name, each.node, each.public) for each in module.definitions)]
        for name, node, public in places:
            if not public or (found := docstring_of(node)) is None:
                continue
            line, first = found[0], found[1].split("\n")[0]
            where = name or "the module"
            if len(first) > FIRST_LINE_MAX:
                message = f"{where}: first line of {len(first)} characters, at most {FIRST_LINE_MAX}"
                yield module.violation(line, "", message)
            elif QUESTION.match(first):
                yield module.violation(line, "", f"{where}: first line begins with {first.split()[0]!r}")


def shapes(tree: Tree) -> Iterator[Violation]:
    """Report public functions that take or return arrays, and state no shape such as ``[rows, columns]``."""
    for module in tree.modules(*PROGRAMS):
        for each in module.definitions:
            if not each.public or not isinstance(each.node, Function):
                continue
            node = each.node
            annotations = [one.annotation for one in (*node.args.args, *node.args.kwonlyargs)] + [node.returns]
            arrays = any(one is not None and ARRAY.search(ast.unparse(one)) for one in annotations)
            found = docstring_of(node)
            if arrays and (found is None or not SHAPE.search(found[1])):
                yield module.violation(node.lineno, each.name, f"{each.name}: arrays without a shape in the docstring")


def _error_names(tree: Tree) -> set[str]:
    (errors,) = [module for module in tree.modules(*PROGRAMS) if module.path == "worker/preread/core/errors.py"]
    return {each.name for each in errors.definitions if isinstance(each.node, ast.ClassDef)}


def raised(tree: Tree) -> Iterator[Violation]:
    """Report public functions that raise an error of ``core.errors`` which their docstring does not name."""
    errors = _error_names(tree)
    for module in tree.modules(*PROGRAMS):
        for each in module.definitions:
            if each.public and isinstance(each.node, Function):
                found = docstring_of(each.node)
                yield from _unnamed(module, each.name, each.node, errors, found[1] if found else "")


def _unnamed(module: Module, name: str, node: Function, errors: set[str], text: str) -> Iterator[Violation]:
    for error in sorted({one for one in _raised_in(node) if one in errors}):
        if not re.search(rf"\b{error}\b", text):
            yield module.violation(node.lineno, name, f"{name} raises {error}, which its docstring does not name")


def _raised_in(node: ast.AST) -> Iterator[str]:
    """Yield names of the classes raised in a function, those of functions within it left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(child, ast.Raise) and child.exc is not None:
            called = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
            yield ast.unparse(called).split(".")[-1]
        yield from _raised_in(child)
