"""Print the licence of each package that a worker installs.

``python deploy/licences.py > docs/reference/licences.md`` writes the page. Taken from the packages' own
metadata, for what ``requirements/fleet.txt`` pins: what a worker installs, and what the extra ``fleet`` adds.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

RUNTIME = Path(__file__).parents[1] / "requirements" / "runtime.txt"
FLEET = RUNTIME.with_name("fleet.txt")
PERMISSIVE = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "PSF-2.0",
        "Zlib",
    }
)
# Known, and no hindrance: neither is changed nor linked into what Preread gives away.
WEAK_COPYLEFT = {
    "psycopg": "LGPL-3.0-only",
    "psycopg-binary": "LGPL-3.0-only",
    "psycopg-pool": "LGPL-3.0-only",
    "tqdm": "MPL-2.0",
}
# What older metadata say in words.
_SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "MIT License": "MIT",
}


def pinned(lock: Path = RUNTIME) -> list[str]:
    """Return the names that a lock pins for this platform, sorted."""
    lines = [line.split(" \\")[0] for line in lock.read_text(encoding="utf-8").splitlines() if line[:1].isalnum()]
    wanted = [Requirement(line) for line in lines]
    return sorted({each.name for each in wanted if each.marker is None or each.marker.evaluate()})


def licence(name: str) -> str:
    """Return the licence of an installed package as an SPDX expression.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    metadata = importlib.metadata.metadata(name)
    classifiers = [
        text.rsplit(" :: ", 1)[-1] for text in metadata.get_all("Classifier") or [] if text.startswith("License ::")
    ]
    stated = [*(metadata.get_all("License-Expression") or []), *(metadata.get_all("License") or [])]
    said = next(filter(None, stated), " AND ".join(classifiers))
    return _SPDX.get(said, said)


def parts(expression: str) -> set[str]:
    """Return the licences that an SPDX expression joins."""
    return set(re.split(r" (?:AND|OR) ", expression.replace("(", "").replace(")", "")))


def page() -> str:
    """Return the page of the documentation as Markdown."""
    lines = [
        "# Licences of what a worker installs",
        "",
        "Written by `python deploy/licences.py > docs/reference/licences.md` from the packages' own metadata. A test",
        "compares it with the lock and allows no other licence. psycopg (LGPL) and tqdm (MPL) are used unchanged.",
        "The wheels of numpy, pillow, imagecodecs and isal contain libraries of others, with their licences.",
        "`make sbom` writes the same packages with versions and hashes, and those libraries, as CycloneDX.",
        "Installed only for a",
        f"fleet: {', '.join(sorted({*pinned(FLEET)} - {*pinned()}))}.",
        "",
        "| package | licence |",
        "| --- | --- |",
    ]
    return "\n".join([*lines, *(f"| {name} | {licence(name)} |" for name in pinned(FLEET))]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
