"""Look up known vulnerabilities of the locked packages in the index.

pip-audit ends with 0 if the index has no answer for a package. Here that is an outcome of its own, exit code 3, with
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
    """Known vulnerabilities of the locked packages.

    Attributes:
        worker, fleet: of what a worker installs, and of what a fleet adds, whether each package was asked about.
        known: lines that name a vulnerability: package, version, ID, versions with the fix.
    """

    worker: dict[str, bool]
    fleet: dict[str, bool]
    known: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 if a vulnerability is known, 3 if a package was not asked, else 0."""
        asked = all(self.worker.values()) and all(self.fleet.values())
        return KNOWN if self.known else 0 if asked else NOT_ASKED

    def lines(self) -> list[str]:
        """Return the result as lines of text; the last line has the counts."""
        count = f"{len(self.known) or 'no'} known {'vulnerability' if len(self.known) == 1 else 'vulnerabilities'}"
        last = f"asked about all {len(self.worker)} and {len(self.fleet)} of a fleet: {count}"
        if not all((*self.worker.values(), *self.fleet.values())):
            last = f"not asked: {_missing(self.worker)}, and {_missing(self.fleet)} of a fleet"
        return [*self.known, last]


def _missing(asked: dict[str, bool]) -> str:
    return f"{sum(not each for each in asked.values())} of {len(asked)}"


def verdict(report: dict[str, Any], worker: list[str], fleet: list[str]) -> Verdict:
    """Evaluate the report of pip-audit.

    Args:
        report: the report as JSON.
        worker: names of the packages that a worker installs.
        fleet: names of the packages that the extra ``fleet`` adds.

    Returns:
        The verdict. A package counts as asked about only if the report has an entry for it with a list of
        vulnerabilities.
    """
    asked = {entry["name"]: entry for entry in report.get("dependencies", []) if "vulns" in entry}
    known = [
        f"{name} {entry['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version'}"
        for name, entry in sorted(asked.items())
        for hole in entry["vulns"]
    ]
    of_worker, of_fleet = ({name: name in asked for name in names} for names in (worker, fleet))
    return Verdict(of_worker, of_fleet, tuple(known))


def main(arguments: list[str] | None = None) -> int:
    """Run pip-audit on the lock of a fleet and worker; print the verdict.

    Returns:
        Exit code of the verdict, or 2 if pip-audit itself failed.
    """
    command = [
        sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--requirement", str(licences.FLEET),
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
    worker, both = licences.pinned(), licences.pinned(licences.FLEET)
    outcome = verdict(report, worker, [name for name in both if name not in worker])
    sys.stdout.write("".join(f"{line}\n" for line in outcome.lines()))
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
