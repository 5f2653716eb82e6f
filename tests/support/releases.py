"""Released versions, built from their commits and installed beside this tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import tags
from deploy.tags import Release

REPOSITORY = tags.TREE
WITHIN_S = 300.0
_VERSIONS = "migrations/versions"


def releases() -> list[Release]:
    """Return the lines of ``RELEASES``, oldest first."""
    return tags.read((REPOSITORY / "RELEASES").read_text(encoding="utf-8"))


def commits_are_here() -> bool:
    """Return whether this clone holds the commit of every release; a shallow one does not."""
    return all(
        _git("cat-file", "-e", f"{release.commit}^{{commit}}", check=False).returncode == 0 for release in releases()
    )


def newest_revision(release: Release) -> str:
    """Return the number of a release's newest schema revision, four digits."""
    listed = _git("ls-tree", "--name-only", f"{release.commit}:{_VERSIONS}").stdout.decode()
    return max(name[:4] for name in listed.split() if name[:4].isdecimal())


def own_revision() -> str:
    """Return the number of this tree's newest schema revision, four digits."""
    return max(path.name[:4] for path in (REPOSITORY / _VERSIONS).glob("[0-9]*_*.py"))


def upgraded_from() -> list[Release]:
    """Return the releases from which an upgrade is tried.

    Returns:
        The last one; before it, if the last one has this tree's schema already, the newest with an older schema.
    """
    *earlier, last = releases()
    if newest_revision(last) != own_revision():
        return [last]
    older = [release for release in earlier if newest_revision(release) != own_revision()]
    return [*older[-1:], last]


def read_file(release: Release, *paths: str) -> str:
    """Return the text of a file as the release has it: of these places the first where it has one."""
    for path in paths:
        done = _git("show", f"{release.commit}:{path}", check=False)
        if done.returncode == 0:
            return done.stdout.decode()
    raise FileNotFoundError(f"{release.version} has none of {', '.join(paths)}")


def install(release: Release, folder: Path) -> Path:
    """Build the wheel of a release from its commit and install it into an environment of its own.

    Its dependencies are those of the running interpreter, so that nothing is fetched.

    Returns:
        The release's command ``preread``.
    """
    tree, environment = folder / "tree", folder / "environment"
    archive = folder / "tree.tar"
    _git("archive", "--format=tar", f"--output={archive}", release.commit)
    with tarfile.open(archive) as opened:
        opened.extractall(tree, filter="data")
    archive.unlink()
    _call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=tree)
    _call(sys.executable, "-m", "venv", "--without-pip", environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    # the environment's own packages come first; a .pth file in a folder that is named here is not followed
    shared = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in shared), encoding="utf-8")
    (wheel,) = folder.glob(f"preread-{release.version}-*.whl")
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        environment / "bin" / "python",
    ]
    _call(*pip, "install", "-q", "--no-deps", "--no-index", wheel)
    return environment / "bin" / "preread"


@dataclass(frozen=True, slots=True)
class Preread:
    """An installed ``preread`` command at a site.

    Attributes:
        command: the program, of a release or of this tree.
        folder: where it is run; ``preread.toml`` lies there.
        environment: variables besides the system's, ``PREREAD_*`` among them.
    """

    command: Path
    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def of_this_tree(cls, folder: Path, environment: Mapping[str, str]) -> Preread:
        """Return the command that is installed beside the running interpreter."""
        return cls(Path(sys.executable).with_name("preread"), folder, environment)

    def call(
        self, *arguments: str, stdin: str = "", ends: Collection[int] = (0,), **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end.

        Args:
            ends: exit codes that are expected.
            more: environment variables for this call alone.
        """
        done = subprocess.run(
            [self.command, *arguments],
            cwd=self.folder,
            env=self._environment(more),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        said = f"{self.command} {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        assert done.returncode in ends, said
        return done

    def records(self, *arguments: str, ends: Collection[int] = (0,)) -> list[dict[str, Any]]:
        """Run a command with ``--json`` and return its records, one a line."""
        lines = self.call(*arguments, "--json", ends=ends).stdout.splitlines()
        return [json.loads(line) for line in lines]

    @contextmanager
    def running(self, *arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command while the block runs; it and its children are killed at the end."""
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [self.command, *arguments],
                cwd=self.folder,
                env=self._environment({}),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        try:
            yield process
        finally:
            left = children(process.pid)
            process.kill()
            process.wait(WITHIN_S)
            for pid in left:
                kill(pid)

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREREAD_", "PYTHON"))}
        return {**kept, **self.environment, **more}


def children(pid: int) -> list[int]:
    """Return the processes that a process started and that live."""
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.glob("*/children") for child in task.read_text().split()]


def kill(pid: int) -> None:
    """Kill a process that was started by one of ours, if it is still there."""
    import contextlib
    import signal

    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _git(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, check=check, capture_output=True)


def _call(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
