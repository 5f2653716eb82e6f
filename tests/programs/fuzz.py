"""``make fuzz``: damaged films through a whole worker with real slots and the shipped bundle.

::

    python tests/programs/fuzz.py [--films 20000] [--seed 1] [--keep FOLDER]

Every film must end in a named outcome, no worker may end before its work is done, and no slot may die. A film that
kills a slot, is too slow or needs too much memory is quarantined by the worker as it should be, and reported here as a
finding: made smaller, and kept in FOLDER, so that it can become a test. Exit code: 0 without findings, else 1.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from preread.core.errors import UnreadableError
from preread.core.types import Population, RefusalCode
from preread.model import bundles
from preread.runner import pool
from preread.runner.child import protocol
from preread.runner.child.protocol import Job, Setup
from preread.runner.pool import Done, InferencePool, Lost, Read
from tests.programs import mutations

HOUSE = Path(__file__).parents[2]
BATCH = 2000
DEADLINE_S = 30.0
MEMORY_BYTES = 1024 * 1024 * 1024
MINIMISING_TRIES = 300
# The general code `unreadable` is no name for anything: each damage has a narrower one.
NAMED = frozenset(code.value for code in RefusalCode) | {kind.code for kind in UnreadableError.__subclasses__()}


@dataclass
class Found:
    """What a run found.

    Attributes:
        outcomes: films by outcome and code.
        seeds: films by what they were made from (the first word of its name).
        findings: film number and why it is one.
        slowest_ms: of the slowest film that was read.
        slot_deaths: as the workers counted them.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    seeds: Counter[str] = field(default_factory=Counter)
    findings: dict[int, str] = field(default_factory=dict)
    slowest_ms: float = 0.0
    slot_deaths: int = 0


def run_batch(folder: Path, films: dict[str, bytes], numbers: range, seed: int, found: Found) -> None:
    """Take these films through one worker and judge how each ended."""
    inbox = folder / "inbox"
    inbox.mkdir()
    for number in numbers:
        name, data = mutations.mutated(seed, number, films)
        found.seeds[name.split()[0]] += 1
        (inbox / f"{number}").write_bytes(data)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREREAD_")} | {
        "PYTHONPATH": str(HOUSE),
        "PREREAD_DEADLINE_S": str(DEADLINE_S),
        "PREREAD_SLOT_MEMORY_BYTES": str(MEMORY_BYTES),
    }
    command = (sys.executable, "-m", "preread", "run", "--once", "--root", inbox, "--population", "children-1-5y")
    log = folder / "log"
    with log.open("wb") as stream:
        ended = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stderr=stream, check=False
        ).returncode
    if ended != 0:
        raise SystemExit(
            f"the worker ended with {ended} on the films {numbers} of seed {seed}: {log.read_text()[-3000:]}"
        )
    found.slot_deaths += log.read_text().count('"event": "slot_lost"')
    with closing(sqlite3.connect(folder / "preread.db")) as connection:
        rows = connection.execute("SELECT path, state, outcome, code, reason, ms FROM file WHERE newest").fetchall()
    assert len(rows) == len(numbers), f"{len(numbers)} films, {len(rows)} rows"
    for path, state, outcome, code, reason, ms in rows:
        found.outcomes[f"{outcome}" if code is None else f"{outcome} {code}"] += 1
        found.slowest_ms = max(found.slowest_ms, ms or 0.0)
        well = state in {"done", "quarantined"} and (outcome == "assessed" or code in NAMED)
        if not well:
            found.findings[int(path)] = f"{state} {code}: {reason}"


class Judge:
    """Tells what a slot makes of some bytes: ``None`` for an outcome, else how it died."""

    def __init__(self, folder: Path) -> None:
        bundle = bundles.load_bundle(bundles.find_bundle(None))
        setup = Setup(
            bundle=protocol.path_to_text(os.fsencode(bundle.path.resolve())),
            digest=bundle.digest,
            memory_bytes=MEMORY_BYTES,
            max_file_bytes=200 * 1024 * 1024,
            max_pixels=64_000_000,
            parent_pid=os.getpid(),
        )
        self._folder = folder
        self._pool: InferencePool[str] = InferencePool(setup, count=1, deadline_s=DEADLINE_S, command=pool.COMMAND)

    def __call__(self, data: bytes) -> str | None:
        (self._folder / "film").write_bytes(data)
        status = os.stat(self._folder / "film")
        while not self._pool.idle:
            self._pool.poll(1.0)
        job = Job(
            root=protocol.path_to_text(os.fsencode(self._folder)),
            path="film",
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            population=Population.CHILDREN_1_5Y,
            path_pattern=None,
        )
        self._pool.submit("film", job)
        while True:
            for event in self._pool.poll(1.0):
                match event:
                    case Read():
                        self._pool.answer("film", known=False)
                    case Lost():
                        return str(event.error)
                    case Done():
                        return None
                    case _:
                        return str(event.error)

    def close(self) -> None:
        self._pool.close()


def minimised(data: bytes, why: str, judge: Callable[[bytes], str | None]) -> bytes:
    """Take parts away, and zero what stays, as long as the slot dies in the same way."""
    tries = 0
    for smaller in (_without, _zeroed):
        size = max(1, len(data) // 2)
        while size and tries < MINIMISING_TRIES:
            for candidate in smaller(data, size):
                tries += 1
                if candidate != data and judge(candidate) == why:
                    data = candidate
                    break
                if tries >= MINIMISING_TRIES:
                    break
            else:
                size //= 2
    return data


def _without(data: bytes, size: int) -> Iterator[bytes]:
    yield from (data[:at] + data[at + size :] for at in range(0, len(data), size))


def _zeroed(data: bytes, size: int) -> Iterator[bytes]:
    yield from (data[:at] + bytes(len(data[at : at + size])) + data[at + size :] for at in range(0, len(data), size))


def fuzz(films: int, seed: int, folder: Path) -> Found:
    """Take so many films through workers, a batch at a time, each with a folder of its own."""
    found, originals = Found(), mutations.seeds()
    for first in range(0, films, BATCH):
        with tempfile.TemporaryDirectory(dir=folder) as batch:
            numbers = range(first, min(films, first + BATCH))
            run_batch(Path(batch), originals, numbers, seed, found)
        print(f"{numbers.stop} of {films} films, {len(found.findings)} findings", file=sys.stderr, flush=True)
    return found


def keep(found: Found, seed: int, folder: Path) -> None:
    """Make one film of each kind of finding small, and keep it."""
    originals = mutations.seeds()
    kinds = {why: number for number, why in reversed(found.findings.items())}
    with tempfile.TemporaryDirectory() as scratch:
        judge = Judge(Path(scratch))
        for why, number in kinds.items():
            name, data = mutations.mutated(seed, number, originals)
            died = judge(data)
            small = data if died is None else minimised(data, died, judge)
            path = folder / f"finding-{seed}-{number}"
            path.write_bytes(small)
            print(f"film {number}, made from {name}: {why}; again alone: {died}; {len(small)} bytes in {path}")
        judge.close()


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=None, help="where findings are kept; default: a temporary folder")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="preread-fuzz-") as folder:
        found = fuzz(options.films, options.seed, Path(folder))
    took_s = time.monotonic() - began
    print(f"{options.films} damaged films (seed {options.seed}) in {took_s:.0f} s: no worker ended before its time,")
    print(f"{found.slot_deaths} slots died, slowest film {found.slowest_ms:.0f} ms, {len(found.findings)} findings")
    for what, counter in (("made from", found.seeds), ("ended as", found.outcomes)):
        print(f"{what}: " + ", ".join(f"{name} {count}" for name, count in counter.most_common()))
    if found.findings:
        kept = options.keep or Path(tempfile.mkdtemp(prefix="preread-findings-"))
        kept.mkdir(parents=True, exist_ok=True)
        keep(found, options.seed, kept)
    return 1 if found.findings else 0


if __name__ == "__main__":
    sys.exit(main())
