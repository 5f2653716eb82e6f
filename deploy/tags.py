"""Make or check the annotated tags of ``RELEASES``: ``make tags``.

Each line of ``RELEASES`` is ``version commit``. The file is the truth, since a tag can be lost or moved: a tag that is
missing is made. A tag of another commit is an error, and so is a commit whose ``pyproject.toml`` has another version.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).parents[1]
_LINE = re.compile(r"(\d+\.\d+\.\d+) ([0-9a-f]{40})")


class TagsDiffer(Exception):
    """``RELEASES``, the tags and the commits do not agree."""


@dataclass(frozen=True)
class Release:
    """A released version and its commit, a whole SHA-1."""

    version: str
    commit: str

    @property
    def tag(self) -> str:
        """Name of the tag."""
        return f"v{self.version}"


def read(text: str) -> list[Release]:
    """Return the releases in the text of ``RELEASES``, oldest first.

    Raises:
        TagsDiffer: a line has another form, or its version is not above that of the line before.
    """
    found: list[Release] = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if not match:
            raise TagsDiffer(f"RELEASES line {number}: {line!r} is not a version and a commit of 40 hexadecimal digits")
        if found and _order(match[1]) <= _order(found[-1].version):
            raise TagsDiffer(f"RELEASES line {number}: {match[1]} does not come after {found[-1].version}")
        found.append(Release(match[1], match[2]))
    return found


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


class Repository:
    """A git repository with a ``RELEASES`` file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _git(self, *arguments: str) -> str | None:
        """Return the output of git; ``None`` if it fails."""
        done = subprocess.run(["git", *arguments], cwd=self._folder, check=False, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    def releases(self) -> list[Release]:
        """Return the releases in ``RELEASES``."""
        return read((self._folder / "RELEASES").read_text(encoding="utf-8"))

    def check(self, release: Release) -> bool:
        """Compare a release with its commit and its tag.

        Returns:
            Whether the tag exists.

        Raises:
            TagsDiffer: the commit is not here or has another version, or the tag names another commit.
        """
        project = self._git("show", f"{release.commit}:pyproject.toml")
        if project is None:
            shallow = self._git("rev-parse", "--is-shallow-repository") == "true"
            remedy = "run `git fetch --unshallow`" if shallow else "run `git fetch`, or mend the line in RELEASES"
            raise TagsDiffer(f"{release.tag}: commit {release.commit} is not in this repository; {remedy}")
        version = tomllib.loads(project)["project"]["version"]
        if version != release.version:
            raise TagsDiffer(f"{release.tag}: pyproject.toml of commit {release.commit} says version {version}")
        tagged = self._git("rev-parse", "--verify", "--quiet", f"refs/tags/{release.tag}^{{commit}}")
        if tagged is not None and tagged != release.commit:
            raise TagsDiffer(
                f"{release.tag} names commit {tagged}, RELEASES names {release.commit}; delete the wrong tag"
            )
        return tagged is not None

    def make(self, release: Release) -> None:
        """Make the annotated tag of a release.

        Raises:
            TagsDiffer: git fails; the message is that of git.
        """
        command = ["git", "tag", "--annotate", "--message", f"Preread {release.version}", release.tag, release.commit]
        done = subprocess.run(command, cwd=self._folder, check=False, capture_output=True, text=True)
        if done.returncode:
            raise TagsDiffer(f"{release.tag}: {done.stderr.strip()}")


def main(arguments: list[str] | None = None) -> int:
    """Make or check the tags; return 0 if all agree, else 1."""
    parser = argparse.ArgumentParser(description="Make the tags that RELEASES names.")
    parser.add_argument("--check", action="store_true", help="make none; a missing tag is only named")
    parser.add_argument("--tree", type=Path, default=TREE, help="the repository (default: this one)")
    given = parser.parse_args(arguments)
    repository = Repository(given.tree)
    try:
        for release in repository.releases():
            there = repository.check(release)
            if not there and not given.check:
                repository.make(release)
            state = "agrees" if there else "missing, `make tags` makes it" if given.check else "made"
            sys.stdout.write(f"{release.tag} {release.commit} {state}\n")
    except TagsDiffer as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
