"""``python -m tests.mutants``: draw mutants by seed, run the tests that reach them.

The tests of each package run once with coverage; a mutant then meets the tests of its package that run its line, the
quickest first. Where none does (at import, or in a process of its own) it meets all tests of the package. Tests that
run on both databases run on SQLite alone.
Prints a log that can be committed: commit and seed first, then one line per mutant, at last the share that was killed.
Exits with 1 if a mutant is unclear, which means that its test fails without it as well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from coverage import CoverageData

from tests.mutants.mutations import Mutation, mutations
from tests.support.paths import REPOSITORY

_PACKAGES = ("imaging", "model", "ledger", "review")
_NO_TEST_FAILED, _NO_TESTS = 0, 5
_STOP_S = 30.0
# What runs on both databases runs on SQLite alone here: a survivor meets hundreds of tests.
_OPTIONS = ("-p", "no:randomly", "-p", "no:cacheprovider", "--tb=no", "-k", "not postgres")
# SIGINT first: the fixtures stop the servers that they started.
_SIGNALS = (signal.SIGINT, signal.SIGKILL)
_COVERAGE_LIMIT_S = 3600.0
_DURATION = re.compile(r"^([0-9.]+)s (?:call|setup|teardown) +(.+)$", re.MULTILINE)
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mutation of a file; ``path`` is relative to the repository."""

    path: str
    mutation: Mutation


def draw(repository: Path, packages: list[str], seed: int, count: int) -> list[Mutant]:
    """Return ``count`` mutants, or all if there are fewer, the same for each seed and tree."""
    every = []
    for package in packages:
        for path in sorted((repository / "worker/preread" / package).rglob("*.py")):
            name = path.relative_to(repository).as_posix()
            every += [Mutant(name, one) for one in mutations(path.read_text(encoding="utf-8"))]
    return random.Random(seed).sample(every, min(count, len(every)))


def nearest_tests(repository: Path, path: str) -> list[str]:
    """Return the test files of the module's package, those that name the module first."""
    package, module = Path(path).parts[2], Path(path).stem
    files = [
        file
        for ring in ("unit", "integration")
        for file in sorted((repository / "tests" / ring / package).rglob("test_*.py"))
    ]
    ordered = sorted(files, key=lambda file: (module not in file.stem, module not in file.read_text(encoding="utf-8")))
    return [file.relative_to(repository).as_posix() for file in ordered]


@dataclass(slots=True)
class Reached:
    """The tests that run each line of a package.

    Attributes:
        lines: test names by path relative to the repository and line number.
        seconds: time of each test.
    """

    lines: dict[tuple[str, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests that run the statement of a mutant up to its line, the quickest first."""
        one = mutant.mutation
        names = set().union(*(self.lines.get((mutant.path, line), ()) for line in range(one.statement, one.line + 1)))
        return sorted(names, key=lambda name: (self.seconds.get(name, 0.0), name))


class Server:
    """The process of `tests.mutants.server` in a copy of the tree."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._output = folder / ".pytest-output"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.server"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def run(self, arguments: list[str], limit_s: float) -> tuple[int | None, str]:
        """Run pytest; return its exit code, ``None`` if it took too long, and its output."""
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the server was started without pipes")
        request = json.dumps({"arguments": arguments, "output": str(self._output)})
        process.stdin.write(f"{request}\n".encode())
        pid = int(process.stdout.readline())
        in_time = bool(select.select([process.stdout], [], [], limit_s)[0])
        if not in_time:
            for number in _SIGNALS:
                os.killpg(pid, number)
                if select.select([process.stdout], [], [], _STOP_S)[0]:
                    break
        code = int(process.stdout.readline())
        return (code if in_time else None), self._output.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.communicate()


class Copy:
    """A copy of the tracked files, in which one file at a time is mutated.

    Args:
        folder: empty folder for the copy.
        limit_s: seconds for one run of tests.
        reached: tests by line, from `reach` of any copy; all tests of the package serve a line that is not in it.
    """

    def __init__(self, folder: Path, limit_s: float, reached: Reached | None = None) -> None:
        self.folder = folder
        self.limit_s = limit_s
        self.reached = reached or Reached()
        self._passing: dict[tuple[str, ...], bool] = {}
        for name in _git("ls-files", "-z").split("\0"):
            if name and (REPOSITORY / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, folder / name)
        paths = [str(folder), str(folder / "worker"), str(folder / "model_training")]
        # a stale .pyc of equal size and second would hide a mutant
        self._environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        self._server = Server(folder, self._environment)
        imported = self._run([sys.executable, "-c", "import preread; print(preread.__file__)"])[1]
        if not imported.startswith(str(folder)):
            raise RuntimeError(f"Tests would import {imported.strip()} instead of the copy in {folder}.")

    def judge(self, mutant: Mutant) -> tuple[str, str]:
        """Return ``killed``, ``survived``, ``timeout`` or ``unclear``, and the test that failed."""
        path = self.folder / mutant.path
        source = path.read_text(encoding="utf-8")
        path.write_text(mutant.mutation.apply(source), encoding="utf-8")
        try:
            tests = self.reached.tests(mutant) or nearest_tests(self.folder, mutant.path)
            code, output = self._pytest(tests)
        finally:
            path.write_text(source, encoding="utf-8")
        if code is None:
            in_time = self._passes(tests)
            return ("timeout", "") if in_time else ("unclear", "the tests do not pass within the limit without it")
        if code == _NO_TEST_FAILED:
            return "survived", ""
        failed = _FAILED.findall(output)
        if code == _NO_TESTS or not failed:
            return "unclear", f"pytest ended with {code}"
        # a test that fails without the mutant shows nothing
        return ("killed" if self._passes(failed[:1]) else "unclear"), failed[0]

    def reach(self, package: str) -> None:
        """Run the tests of a package with coverage and record which test runs which line."""
        file = self.folder / f".coverage-{package}"
        coverage = ["--cov=preread", "--cov-context=test", "--cov-report=", "--durations=0", "-vv"]
        options = [*_OPTIONS, *coverage]
        tests = nearest_tests(self.folder, f"worker/preread/{package}/__init__.py")
        command = [sys.executable, "-m", "pytest", *options, *tests]
        code, output = self._run(command, _COVERAGE_LIMIT_S, {"COVERAGE_FILE": str(file)})
        if code not in {0, 1}:
            raise RuntimeError(f"The tests of {package} ended with {code}:\n{output[-2000:]}")
        for seconds, name in _DURATION.findall(output):
            self.reached.seconds[name] += float(seconds)
        of_file: dict[str, set[str]] = defaultdict(set)
        failing = set(_FAILED.findall(output))
        for name in self.reached.seconds.keys() - failing:
            of_file[name.partition("::")[0]].add(name)
        data = CoverageData(str(file))
        data.read()
        for path in data.measured_files():
            relative = os.path.relpath(path, self.folder)
            for line, contexts in data.contexts_by_lineno(path).items():
                for name, _, phase in (context.rpartition("|") for context in contexts):
                    # a fixture may serve all tests of the file
                    reaching = of_file[name.partition("::")[0]] if phase == "setup" else {name} - {""} - failing
                    self.reached.lines[relative, line] |= reaching

    def _passes(self, tests: list[str]) -> bool:
        """Return whether tests pass without a mutant, within the limit."""
        key = tuple(tests)
        if key not in self._passing:
            self._passing[key] = self._pytest(tests)[0] == _NO_TEST_FAILED
        return self._passing[key]

    def close(self) -> None:
        """End the process that runs the tests."""
        self._server.close()

    def _pytest(self, tests: list[str]) -> tuple[int | None, str]:
        # the server has imported the plugins
        options = [*_OPTIONS, "-x", "-q", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        return self._server.run([*options, *tests], self.limit_s)

    def _run(
        self, command: list[str], limit_s: float | None = None, environment: dict[str, str] | None = None
    ) -> tuple[int | None, str]:
        """Run a program; the code is ``None`` if it took longer than ``limit_s``, else ``self.limit_s``."""
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=limit_s or self.limit_s)
            except subprocess.TimeoutExpired:
                for number in _SIGNALS:
                    os.killpg(process.pid, number)
                    try:
                        process.communicate(timeout=_STOP_S)
                    except subprocess.TimeoutExpired:
                        continue
                    break
                return None, ""
            return process.returncode, output


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout


def _line(text: str) -> str:
    """Return a source text on one line, at most 80 characters."""
    short = " ".join(text.split())
    return short if len(short) <= 80 else f"{short[:77]}..."


def main(arguments: list[str]) -> int:
    """Draw and run mutants; print one line for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=300, help="number of mutants (default 300)")
    parser.add_argument("--packages", nargs="+", default=list(_PACKAGES), help="packages of worker/preread")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for the tests of one mutant (default 600)")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time, each in a copy of its own (default 1)")
    options = parser.parse_args(arguments)
    mutants = draw(REPOSITORY, options.packages, options.seed, options.count)
    dirty = " with uncommitted changes" if _git("status", "--porcelain", "--untracked-files=no") else ""
    print(f"# commit {_git('rev-parse', 'HEAD').strip()}{dirty}")
    print(f"# seed {options.seed}, {len(mutants)} mutants of {' '.join(options.packages)}", end="")
    print(f", Python {platform.python_version()}, at most {options.limit:g} s each", flush=True)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="preread-mutants-") as folder:
        trees: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        reached = Reached()
        for number in range(options.jobs):
            (own := Path(folder) / str(number)).mkdir()
            trees.put(Copy(own, options.limit, reached))

        def judge(mutant: Mutant) -> tuple[str, str]:
            tree = trees.get()
            try:
                return tree.judge(mutant)
            finally:
                trees.put(tree)

        first = trees.get()
        for package in sorted({Path(mutant.path).parts[2] for mutant in mutants}):
            first.reach(package)
            print(f"# {package}: tests reach {sum(path.split('/')[2] == package for path, _ in reached.lines)} lines")
        trees.put(first)
        with ThreadPoolExecutor(options.jobs) as pool:
            for mutant, (verdict, test) in zip(mutants, pool.map(judge, mutants), strict=True):
                counts[verdict] += 1
                one = mutant.mutation
                change = f"{_line(one.before)} -> {_line(one.after)}"
                print(f"{verdict}\t{mutant.path}:{one.line}\t{one.kind}\t{change}\t{test}", flush=True)
        for _ in range(options.jobs):
            trees.get().close()
    killed = counts["killed"] + counts["timeout"]
    print(f"# killed {killed} of {len(mutants)}: " + ", ".join(f"{name} {number}" for name, number in counts.items()))
    return 1 if counts["unclear"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
