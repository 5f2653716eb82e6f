"""Sphinx extension: directive ``package-index``, a list of all modules.

Each stands with its first line. The modules are parsed and not imported, so that the list needs none of their
dependencies, and a new module appears automatically.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def first_line(module: Path) -> str:
    """Return the first line of a module's docstring; empty if there is none."""
    return (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def packages(root: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield dotted name and module files of each package below a folder.

    ``__init__.py`` comes first.
    """
    for init in sorted(root.rglob("__init__.py")):
        folder = init.parent
        others = [path for path in sorted(folder.glob("*.py")) if path.name not in {"__init__.py", "__main__.py"}]
        yield ".".join([root.name, *folder.relative_to(root).parts]), [init, *others]


def listing(root: Path) -> str:
    """Return the list as Markdown."""
    lines: list[str] = []
    for name, (init, *modules) in packages(root):
        lines += [f"**`{name}`**: {first_line(init)}", ""]
        if modules:
            lines += ["| module | |", "| --- | --- |"]
            lines += [f"| `{path.stem}` | {first_line(path).replace('|', chr(92) + '|')} |" for path in modules]
            lines += [""]
    return "\n".join(lines)


class PackageIndex(SphinxDirective):
    """Directive ``{package-index} FOLDER``: packages and modules in it."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[Any]:
        """Return the nodes of the list."""
        root = Path(self.env.srcdir).parent / self.arguments[0]
        found = listing(root)
        if not found:
            raise self.error(f"no package lies in {root}")
        for _, modules in packages(root):
            for module in modules:
                self.env.note_dependency(str(module))
        return self.parse_text_to_nodes(found)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_directive("package-index", PackageIndex)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
