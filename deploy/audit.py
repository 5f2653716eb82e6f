"""Ask the network for known vulnerabilities of what a worker installs, and say what could not be asked.

pip-audit ends with 0 where the index has no answer for a package. Here that is an outcome of its own, exit code 3, with
a line that counts it, so that a check that asked nothing is never taken for one that found nothing.

usage: python -m deploy.audit [options of pip-audit]
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from deploy import licences

KNOWN, BROKEN, NOT_ASKED = 1, 2, 3
# How pip-audit ends where the service itself cannot be reached: requests' exceptions, its own, or a sentence.
_UNREACHABLE = re.compile(r"requests\.exceptions\.|_service\.interface\.|Could not connect|is not redirecting properly")


@dataclass(frozen=True)
class Verdict:
    """What is known of the locked packages.

    Attributes:
        total: packages that the lock pins for this platform and Python.
        not_asked: those of which nothing was learned.
        known: lines that name a vulnerability: package, version, ID, versions with the fix.
    """

    total: int
    not_asked: tuple[str, ...]
    known: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 where something is known, else 3 where a package could not be asked about, else 0."""
        return KNOWN if self.known else NOT_ASKED if self.not_asked else 0

    def lines(self) -> list[str]:
        """The result in words; the last line counts."""
        if self.not_asked:
            return [*self.known, f"not asked: {len(self.not_asked)} of {self.total}"]
        count = f"{len(self.known) or 'no'} known {'vulnerability' if len(self.known) == 1 else 'vulnerabilities'}"
        return [*self.known, f"asked about all {self.total}: {count}"]


def verdict(report: dict[str, Any], pinned: list[str]) -> Verdict:
    """Verdict on pip-audit's report in JSON about the pinned packages.

    A package counts as asked about only if the report has an entry for it with a list of vulnerabilities.
    """
    asked = {entry["name"]: entry for entry in report.get("dependencies", []) if "vulns" in entry}
    known = [
        f"{name} {entry['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version'}"
        for name, entry in sorted(asked.items())
        for hole in entry["vulns"]
    ]
    return Verdict(len(pinned), tuple(name for name in pinned if name not in asked), tuple(known))


def main(arguments: list[str] | None = None) -> int:
    """Run pip-audit on the runtime's lock, print the verdict and return its exit code; 2 if pip-audit itself failed."""
    command = [
        sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--requirement", str(licences.RUNTIME),
        "--format", "json", "--progress-spinner", "off", *(sys.argv[1:] if arguments is None else arguments),
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.stdout:
        report = json.loads(done.stdout)
    elif _UNREACHABLE.search(done.stderr):
        report = {}
        sys.stderr.write(f"{done.stderr.strip().splitlines()[-1]}\n")
    else:
        sys.stderr.write(f"{done.stderr}pip-audit ended with {done.returncode} and without a report\n")
        return BROKEN
    outcome = verdict(report, licences.pinned())
    sys.stdout.write("".join(f"{line}\n" for line in outcome.lines()))
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
