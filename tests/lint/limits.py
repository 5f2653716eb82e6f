"""Limits of size: functions, classes, modules and folders."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.lint.source import PROGRAMS, Definition, Function, Tree, Violation, docstring_of

FUNCTION_LINES_MAX = 60
PARAMETERS_MAX = 6
ATTRIBUTES_MAX = 12
MODULE_LINES_MAX = 600
ENTRIES_MAX = 13
LEVELS_MAX = 2
# A command's parameters are the options that it documents; its folder holds a module for each command.
COMMANDS = ("worker/preread/cli/", "model_training/preread_training/cli/")
# Records and settings: they have fields, no behaviour.
RECORDS = {
    "dataclass",
    "NamedTuple",
    "TypedDict",
    "BaseModel",
    "BaseSettings",
    "Enum",
    "StrEnum",
    "IntEnum",
    "Protocol",
}


def functions(tree: Tree) -> Iterator[Violation]:
    """Report functions with more lines than the limit, docstring and decorators not counted."""
    for module in tree.modules(*PROGRAMS):
        for each in module.definitions:
            if isinstance(each.node, Function) and (lines := _code_lines(each.node)) > FUNCTION_LINES_MAX:
                message = f"{each.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"
                yield module.violation(each.node.lineno, each.name, message)


def _code_lines(node: Function) -> int:
    first = node.body[0]
    documented = (first.end_lineno or 0) - first.lineno + 1 if docstring_of(node) else 0
    return (node.end_lineno or 0) - node.lineno + 1 - documented


def parameters(tree: Tree) -> Iterator[Violation]:
    """Report functions with more parameters than the limit; those of commands are their options."""
    for module in tree.modules(*PROGRAMS):
        for each in module.definitions:
            node = each.node
            if not isinstance(node, Function) or (module.path.startswith(COMMANDS) and _is_command(node)):
                continue
            named = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            count = len([name for name in named if name not in {"self", "cls"}])
            if count > PARAMETERS_MAX:
                message = f"{each.name} has {count} parameters, at most {PARAMETERS_MAX}"
                yield module.violation(node.lineno, each.name, message)


def _is_command(node: Function) -> bool:
    """Return whether its parameters are options: typer's, or those of a decorated command."""
    annotations = [ast.unparse(one.annotation) for one in _all(node) if one.annotation is not None]
    decorators = [ast.unparse(one) for one in node.decorator_list]
    return any("typer." in one for one in annotations) or any("command" in one for one in decorators)


def _all(node: Function) -> list[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def attributes(tree: Tree) -> Iterator[Violation]:
    """Report classes with behaviour that set more attributes than the limit."""
    for module in tree.modules(*PROGRAMS):
        for each in module.definitions:
            if isinstance(each.node, ast.ClassDef) and not _is_record(each):
                names = _own_attributes(each.node)
                if len(names) > ATTRIBUTES_MAX:
                    message = f"{each.name} has {len(names)} attributes, at most {ATTRIBUTES_MAX}"
                    yield module.violation(each.node.lineno, each.name, message)


def _own_attributes(node: ast.AST) -> set[str]:
    stored = (one for one in ast.walk(node) if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store))
    return {one.attr for one in stored if isinstance(one.value, ast.Name) and one.value.id == "self"}


def _is_record(each: Definition) -> bool:
    assert isinstance(each.node, ast.ClassDef)
    words = [ast.unparse(one) for one in (*each.node.bases, *each.node.decorator_list)]
    return any(word.split("(")[0].split(".")[-1] in RECORDS for word in words)


def modules(tree: Tree) -> Iterator[Violation]:
    """Report modules with more lines than the limit."""
    for module in tree.modules(*PROGRAMS):
        lines = module.text.count("\n")
        if lines > MODULE_LINES_MAX:
            yield module.violation(MODULE_LINES_MAX + 1, "", f"{lines} lines, at most {MODULE_LINES_MAX}")


def folders(tree: Tree) -> Iterator[Violation]:
    """Report packages with too many entries, and those below the second level; the commands' folder is excepted."""
    entries: dict[str, set[str]] = {}
    for module in tree.modules(*PROGRAMS):
        parts = module.path.split("/")
        for depth in range(2, len(parts)):
            entries.setdefault("/".join(parts[:depth]), set()).add(parts[depth])
    for folder, names in sorted(entries.items()):
        count = len([name for name in names if not name.startswith("__")])
        if f"{folder}/" not in COMMANDS and count > ENTRIES_MAX:
            yield Violation(f"{folder}/__init__.py", 1, folder, f"{count} entries in a folder, at most {ENTRIES_MAX}")
        if folder.count("/") - 1 > LEVELS_MAX:
            yield Violation(f"{folder}/__init__.py", 1, folder, f"a package below level {LEVELS_MAX}")
