"""What the proof's parts share: databases, folders with films, worker processes, and what must hold at the end."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, func, make_url, select

from preread.core.types import FileState, Outcome
from preread.db import migrate, schema
from preread.db.engine import open_engine
from preread_training.data import phantoms
from tests.support.postgres import PostgresServer
from tests.support.stub_bundle import make_stub_bundle

HOUSE = Path(__file__).parents[2]
PROGRAMS = HOUSE / "tests" / "programs"
WITHIN_S = 300.0
STOP_S = 30.0
# Fast, and with the patience of a production worker where it decides who gets a file back.
OPTIONS = {"settle_s": 0.05, "network_settle_s": 0.05, "scan_interval_s": 1.0, "slots": 1, "deadline_s": 60.0}


@dataclass
class Row:
    """One line of the table.

    Attributes:
        done: what was done, with counts.
        files: films that lay in the folder.
        lost: of them, how many have no result, or another file's.
        twice: contents with more than one result, or with half of one.
        orphans: rows that belong to nothing, and claims that nobody holds.
        innocent: readable films in quarantine.
        note: what else was seen.
    """

    part: str
    database: str
    worker: str
    done: str
    files: int = 0
    lost: int = 0
    twice: int = 0
    orphans: int = 0
    innocent: int = 0
    failures: list[str] = field(default_factory=list)
    note: str = ""
    took_s: float = 0.0

    @property
    def held(self) -> bool:
        """Whether what was promised was seen."""
        return not (self.lost or self.twice or self.orphans or self.innocent or self.failures)

    def add(self, other: Verdict) -> None:
        """Take in the state of one more folder."""
        self.files += other.files
        self.lost += len(other.lost)
        self.twice += len(other.twice)
        self.orphans += len(other.orphans)
        self.innocent += len(other.innocent)


@dataclass
class Verdict:
    """What one folder and its database look like when nothing more is owed."""

    files: int
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    innocent: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not (self.lost or self.twice or self.orphans or self.innocent)


# --------------------------------------------------------------------------- databases


class Sqlite:
    """A new file each time, copied from one that was made by the migrations."""

    name = "SQLite"

    def __init__(self, folder: Path) -> None:
        self._template = folder / "template.db"
        engine = open_engine(f"sqlite:///{self._template}")
        migrate.upgrade_schema(engine)
        engine.dispose()

    def fresh(self, folder: Path) -> str:
        """Return the URL of a database with the schema."""
        shutil.copy(self._template, folder / "preread.db")
        return f"sqlite:///{folder / 'preread.db'}"

    def forget(self, url: str) -> None:
        """The file goes with its folder."""


class Postgres:
    """A database of its own each time, on one server that can be stopped and started."""

    name = "Postgres"

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self._template = server.create()
        engine = open_engine(server.url(self._template))
        migrate.upgrade_schema(engine)
        engine.dispose()

    def fresh(self, _folder: Path) -> str:
        """Return the URL of a database with the schema."""
        return self.server.url(self.server.create(self._template))

    def forget(self, url: str) -> None:
        """Remove a database that ``fresh`` made."""
        self.server.drop(str(make_url(url).database))

    def crash(self) -> None:
        """End the server as a power cut of its service does, and start it on what it had committed."""
        self.server.stop(signal.SIGQUIT)
        self.server.start()


Database = Sqlite | Postgres


# --------------------------------------------------------------------------- films


_DRAWN: dict[int, bytes] = {}


def film(number: int, side_px: int = 96) -> bytes:
    """Return a small JPEG of a drawn chest that no other number has: bytes behind a JPEG's end belong to no picture."""
    if side_px not in _DRAWN:
        _DRAWN[side_px] = phantoms.to_jpeg(phantoms.draw_chest(5, rows=side_px, columns=side_px))
    return _DRAWN[side_px] + b"film %d" % number


def sha256(content: bytes) -> str:
    """Return the hex digest under which the ledger knows a content."""
    return hashlib.sha256(content).hexdigest()


# --------------------------------------------------------------------------- workers


class Worker:
    """One worker process, its log in a file."""

    def __init__(self, bench: Bench, command: Sequence[str | Path], environment: dict[str, str]) -> None:
        self.log = bench.folder / f"log{bench.started}"
        bench.started += 1
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=bench.folder,
                env=environment,
                text=True,
            )

    def ends(self, within_s: float = WITHIN_S) -> int:
        """Wait for its end, return its exit code."""
        self.process.stdin.close()  # type: ignore[union-attr]
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"a worker did not end within {within_s:g} s: {self.said()}") from None
        self.process.stdout.close()  # type: ignore[union-attr]
        return code

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-1500:]

    def kill(self) -> None:
        """End it at once, as ``kill -9`` does."""
        self.process.kill()
        self.ends()

    def stop(self) -> None:
        """Let it stand still (SIGSTOP), and wait until every thread of it does."""
        self.process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.process.pid}/task")

        def stands() -> bool:
            try:
                states = [(thread / "stat").read_bytes().rpartition(b")")[2].split()[0] for thread in threads.iterdir()]
            except OSError:
                return False  # a thread ended meanwhile
            return set(states) <= {b"T", b"Z"}

        until(stands, "a worker that stands still")

    def slots(self) -> list[int]:
        """Process numbers of its slots."""
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except OSError:
            return []
        return [int(number) for number in children.split()]

    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of its log."""
        for line in self.log.read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                yield json.loads(line)


class Bench:
    """One folder with films, one database, the workers on them."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database
        self.url = database.fresh(folder)
        # only ever reads: what waits for a lock would wait for a worker that stands still
        self.engine: Engine = open_engine(self.url).execution_options(preread_reading=True)
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        self.inferences = folder / "inferences"
        self.inferences.touch()
        self.bundle = make_stub_bundle(folder).path
        self.started = 0
        self.workers: list[Worker] = []
        self.expected: dict[bytes, tuple[bytes, str | None]] = {}

    def write(self, name: str, content: bytes, code: str | None = None) -> None:
        """Put a film into the folder; ``code`` says why it is to be refused or unreadable."""
        (self.inbox / name).write_bytes(content)
        self.expected[name.encode()] = (content, code)

    def start(
        self, program: str = "run_worker.py", *words: str, once: bool = False, url: str = "", **options: Any
    ) -> Worker:
        """Start a worker with stub slots."""
        values = json.dumps(OPTIONS | {"once": once} | options)
        command: list[str | Path] = [
            sys.executable,
            PROGRAMS / program,
            *words,
            url or self.url,
            self.bundle,
            self.inferences,
            values,
        ]
        return self._keep(Worker(self, [*command, self.inbox], os.environ | {"PYTHONPATH": str(HOUSE)}))

    def start_real(self, *arguments: str, **settings: Any) -> Worker:
        """Start ``preread run`` as it is installed, with the shipped bundle."""
        values = {"database_url": self.url, "settle_s": 0.05, "scan_interval_s": 1.0, "slots": 1} | settings
        named = {f"PREREAD_{name.upper()}": str(value) for name, value in values.items()}
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "preread",
            "run",
            "--root",
            self.inbox,
            "--population",
            "children-1-5y",
            *arguments,
        ]
        return self._keep(Worker(self, command, os.environ | {"PYTHONPATH": str(HOUSE)} | named))

    def _keep(self, worker: Worker) -> Worker:
        self.workers.append(worker)
        return worker

    def once(self, **options: Any) -> None:
        """Let a worker handle all that is owed, to the end."""
        worker = self.start(once=True, **options)
        code = worker.ends()
        if code:
            raise AssertionError(f"the last worker ended with {code}: {worker.said()}")

    def close(self) -> None:
        """End what still runs."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()
        self.engine.dispose()
        self.database.forget(self.url)

    # ------------------------------------------------------------------ what the ledger says

    def scalars(self, statement: Any) -> list[Any]:
        """Return the first column."""
        with self.engine.connect() as connection:
            return list(connection.execute(statement).scalars())

    def done(self) -> int:
        """How many versions have their outcome."""
        return int(self.scalars(select(func.count()).where(schema.file.c.outcome.is_not(None)))[0])

    def inferred(self) -> Counter[str]:
        """How often each content was assessed, committed or not."""
        return Counter(self.inferences.read_text().split())

    def verdict(self) -> Verdict:
        """Compare folder and database: every content has one result, none is half, nothing belongs to nothing."""
        verdict = Verdict(len(self.expected))
        c = schema.file.c
        with self.engine.connect() as connection:
            files = connection.execute(
                select(c.id, c.path, c.state, c.outcome, c.code, c.owner, c.newest, c.assessment_id, c.instance_id)
            ).all()
            sha_of = _pairs(connection, select(schema.instance.c.id, schema.instance.c.sha256))
            assessed = connection.execute(select(schema.assessment.c.id, schema.assessment.c.instance_id)).all()
            found = Counter(connection.execute(select(schema.finding.c.assessment_id)).scalars())
            moves = schema.transition.c
            last = _pairs(connection, select(moves.file_id, moves.to_state).order_by(moves.id))
        newest = {row.path: row for row in files if row.newest}
        for path, (content, code) in self.expected.items():
            row = newest.get(path)
            name = os.fsdecode(path)
            if row is None:
                verdict.lost.append(name)
            elif row.state == FileState.QUARANTINED and (code is None or row.code != code):
                verdict.innocent.append(f"{name}: {row.code}")
            elif row.outcome is None or row.code != code or (code is None and row.state != FileState.DONE):
                verdict.lost.append(f"{name}: {row.state} {row.code}")
            elif code is None and sha_of.get(row.instance_id) != sha256(content):
                verdict.lost.append(f"{name}: the result is another content's")
            elif (self.inbox / name).read_bytes() != content:
                verdict.lost.append(f"{name}: the file was changed")
        contents = {sha256(content) for content, code in self.expected.values() if code is None}
        results = Counter(sha_of[row.instance_id] for row in assessed)
        verdict.twice += [sha for sha, count in results.items() if count > 1]
        verdict.twice += [f"assessment {row.id} has {found[row.id]} findings" for row in assessed if found[row.id] != 1]
        verdict.lost += sorted(contents - results.keys())
        held = {row.assessment_id for row in files}
        verdict.orphans += [f"assessment {row.id}" for row in assessed if row.id not in held]
        verdict.orphans += [f"instance {one}" for one in sha_of.keys() - {row.instance_id for row in files}]
        verdict.orphans += [f"file {row.id}: {row.state}, owner {row.owner}" for row in files if row.owner is not None]
        verdict.orphans += [f"file {row.id}: a broken story" for row in files if last.get(row.id) != row.state]
        verdict.orphans += [os.fsdecode(path) for path in newest.keys() - self.expected.keys()]
        return verdict


def _pairs(connection: Connection, statement: Any) -> dict[Any, Any]:
    return {row[0]: row[1] for row in connection.execute(statement)}


def unreadable_and_refused(bench: Bench) -> None:
    """Add a copy, a lateral view and a letter to a folder's films: each ends in another way."""
    bench.write("copy", film(0))
    chest = phantoms.draw_chest(3, rows=96, columns=96)
    bench.write("lateral", phantoms.to_dicom(chest, ViewPosition="LL"), "view")
    bench.write("letter", b"a letter", "unknown_format")


# --------------------------------------------------------------------------- waiting


def until(condition: Callable[[], object], what: str, within_s: float = WITHIN_S) -> float:
    """Wait until something holds; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within_s:
            raise AssertionError(f"within {within_s:g} s this did not happen: {what}")
        time.sleep(0.01)
    return time.monotonic() - began


@contextmanager
def noted(row: Row, what: str = "") -> Iterator[None]:
    """Keep what broke off as a failure of this row, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  what broke off did not hold, whatever broke it; the rest is still tried
        said = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        row.failures.append(f"{what}: {said}" if what else said)


@contextmanager
def timed(row: Row) -> Iterator[Row]:
    """Note how long a part took, and what broke it off."""
    began = time.monotonic()
    with noted(row):
        yield row
    row.took_s = time.monotonic() - began


def seeded(*words: object) -> random.Random:
    """Random numbers that are the same at every run."""
    return random.Random(" ".join(str(word) for word in words))


def answered(outcome: str | None) -> bool:
    """Whether a file's outcome is a result or a refusal."""
    return outcome in {Outcome.ASSESSED, Outcome.REFUSED}
