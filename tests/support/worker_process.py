"""Worker processes with stub slots on a folder and a database of a test."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from preread.core.types import FileState
from preread.db import schema
from preread.model.bundles import Bundle
from preread_training.data import phantoms
from tests.support.paths import REPOSITORY, RUN_WORKER

WITHIN_S = 120.0
# The verbs are the same on both databases; what kills a worker, and what it makes of bad files, is shown on both.
on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
FAST = {"settle_s": 0.2, "network_settle_s": 0.2, "scan_interval_s": 1.0, "slots": 2}


def film(seed: int) -> bytes:
    return phantoms.to_jpeg(phantoms.draw_chest(seed, rows=96, columns=96))


def large_film(seed: int) -> bytes:
    """So large that it is asked whether it is known before it is assessed; a smaller one may be assessed twice."""
    return film(seed) + b"." * 64 * 1024


class Worker:
    """A worker process with stub slots; ``log`` names the file to which its log is appended."""

    def __init__(self, bench: WorkerBench, *roots: Path, **options: Any) -> None:
        self.log: Path = options.pop("log", bench.folder / f"log{len(bench.workers)}")
        arguments: list[str | Path] = [
            bench.url,
            bench.bundle.path,
            bench.inferences,
            json.dumps(FAST | options),
            *roots,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, RUN_WORKER, *arguments],
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=REPOSITORY,
            )

    def ends(self) -> int:
        return self.process.wait(WITHIN_S)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def started(self) -> bool:
        return any(event["event"] == "watcher_started" for event in self.events())


class WorkerBench:
    """An inbox, a database, and short words for looking into it."""

    def __init__(self, folder: Path, url: str, engine: Engine, bundle: Bundle) -> None:
        self.folder = folder
        self.url = url
        self.engine = engine
        self.bundle = bundle
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        self.inferences = folder / "inferences"
        self.inferences.touch()
        self.workers: list[Worker] = []

    def start(self, *roots: Path, **options: Any) -> Worker:
        worker = Worker(self, *(roots or (self.inbox,)), **options)
        self.workers.append(worker)
        return worker

    def once(self, *roots: Path, **options: Any) -> Worker:
        """Run over what is there, to the end."""
        worker = self.start(*roots, once=True, **options)
        assert worker.ends() == 0, worker.log.read_text()
        return worker

    def write(self, name: str | bytes, content: bytes) -> Path:
        path = Path(os.fsdecode(os.path.join(os.fsencode(self.inbox), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def rows(self) -> dict[bytes, tuple[str, str | None]]:
        """State and code of the newest version of each path."""
        c = schema.file.c
        with self.engine.connect() as connection:
            found = connection.execute(select(c.path, c.state, c.code).where(c.newest))
            return {row.path: (row.state, row.code) for row in found}

    def state(self, path: bytes) -> str | None:
        return self.rows().get(path, (None, None))[0]

    def states(self, folder: bytes) -> list[str]:
        return [state for path, (state, _) in self.rows().items() if path.startswith(folder)]

    def done(self) -> int:
        return sum(state == FileState.DONE for state, _ in self.rows().values())

    def count(self, table: Any) -> int:
        with self.engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(table)).scalar_one()

    def assessed_sha256(self) -> Counter[str]:
        """How many committed assessments each content has."""
        with self.engine.connect() as connection:
            joined = schema.assessment.join(schema.instance, schema.instance.c.id == schema.assessment.c.instance_id)
            return Counter(connection.execute(select(schema.instance.c.sha256).select_from(joined)).scalars())

    def inferred(self) -> Counter[str]:
        return Counter(self.inferences.read_text().split())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
