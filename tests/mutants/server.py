"""Process that runs pytest in forks of itself: what tests import from elsewhere is imported once.

``python -m tests.mutants.server`` reads one JSON object a line: ``arguments`` of pytest and ``output``, the file for
what it prints. It answers with two lines: the process ID of the fork, which leads a process group of its own, and, when
that has ended, its exit code (negative: the signal). A fork imports this project's own modules and tests anew.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path

import pytest

_OWN = ("preread", "preread_training", "tests", "conftest", "test_")


def _run(arguments: list[str], output: Path, imported: Path) -> None:
    """Run pytest in this fork, and write the names of all modules that it imported."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = int(pytest.main(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    imported.write_text("\n".join(sys.modules), encoding="utf-8")
    os._exit(code)


def serve() -> None:
    """Answer requests until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        output = Path(request["output"])
        imported = output.with_suffix(".modules")
        pid = os.fork()
        if pid == 0:
            _run(request["arguments"], output, imported)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()
        names = imported.read_text(encoding="utf-8").splitlines() if imported.exists() else []
        for name in names:
            if name not in sys.modules and not name.startswith(_OWN):
                with contextlib.suppress(ImportError):  # a name that only exists inside its package
                    importlib.import_module(name)


if __name__ == "__main__":
    serve()
