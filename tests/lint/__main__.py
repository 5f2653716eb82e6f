"""``python -m tests.lint``: report violations with file and line, exit 1 if there are any."""

from __future__ import annotations

import sys

from tests.lint import checks
from tests.lint.source import Tree
from tests.support.paths import REPOSITORY


def main(arguments: list[str]) -> int:
    """Run the rules; ``--shrink`` removes exceptions that are no longer needed from the list."""
    tree = Tree.read(REPOSITORY)
    listed = checks.exceptions()
    if arguments == ["--shrink"]:
        checks.EXCEPTIONS.write_text(checks.written(tree, listed, grow=False), encoding="utf-8")
        return 0
    if arguments:
        print("usage: python -m tests.lint [--shrink]", file=sys.stderr)
        return 2
    found = [violation for rule in checks.RULES for violation in checks.check(rule, tree, listed)]
    for violation in found:
        print(violation)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
