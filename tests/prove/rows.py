"""A database of any length beside its folder: what ``preread status`` and ``preread reconcile`` cost then."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, literal, select

from preread.core.types import FileState, Outcome, Population
from preread.db import schema
from preread.db.engine import open_engine
from preread.ledger.ledger import Ledger
from preread.ledger.transitions import FRESH_START, path_key
from tests.prove.bench import HOUSE, Bench, Database, Row, timed
from tests.prove.size import fill

BATCH = 5_000
# What an assessed film went through; each of its versions has such a row for each.
STORY = ((None, FileState.SETTLING), (FileState.SETTLING, FileState.READY), (FileState.READY, FileState.CLAIMED),
         (FileState.CLAIMED, FileState.DONE))  # fmt: skip


def commands(folder: Path, database: Database, files: int) -> Row:
    """Write a folder and the ledger of it as if a worker had read every film, and let the commands look at both."""
    row = Row(f"a ledger of {files:,}", database.name, "no worker", "", files=files)
    here = folder / f"rows-{database.name}"
    here.mkdir()
    with timed(row), closing(Bench(here, database)) as bench:
        fill(bench.inbox, files)
        _write_ledger(bench, files)
        said = []
        for words, expected in ((["status"], 2), (["reconcile"], 0)):
            took_s, code, error = _run(bench, *words)
            said.append(f"`preread {words[0]}` {took_s:.1f} s")
            if code != expected:  # no worker runs here, which the status says
                row.failures.append(f"preread {words[0]} ended with {code}: {error[-1500:]}")
        row.done = ", ".join(said)
    return row


def _run(bench: Bench, *words: str) -> tuple[float, int, str]:
    environment = os.environ | {"PYTHONPATH": str(HOUSE), "PREREAD_DATABASE_URL": bench.url}
    began = time.monotonic()
    command = [sys.executable, "-m", "preread", *words, "--root", str(bench.inbox)]
    ran = subprocess.run(command, cwd=bench.folder, env=environment, capture_output=True, text=True, check=False)
    return time.monotonic() - began, ran.returncode, ran.stdout[-500:] + ran.stderr


def _write_ledger(bench: Bench, files: int) -> None:
    engine = open_engine(bench.url)
    try:
        ledger = Ledger(engine, worker_id="filler", lease_s=60.0)
        root_id = ledger.register_root(os.fsencode(bench.inbox), population=Population.CHILDREN_1_5Y)
        bundle_id = ledger.register_bundle(name="stub", version="1", digest="0" * 64)
        rows = _file_rows(bench.inbox, root_id, bundle_id)
        while batch := list(islice(rows, BATCH)):
            with engine.begin() as connection:
                _insert(connection, batch, bundle_id)
        if engine.dialect.name == "postgresql":  # it does that by itself sooner or later; SQLite does not
            with engine.begin() as connection:
                connection.exec_driver_sql("ANALYZE")
    finally:
        engine.dispose()


def _file_rows(inbox: Path, root_id: int, bundle_id: int) -> Iterator[dict[str, Any]]:
    now, number = datetime.now(UTC), 0
    for folder in sorted(inbox.iterdir()):
        for film in sorted(os.scandir(folder), key=lambda entry: entry.name):
            number += 1
            status = film.stat()
            path = f"{folder.name}/{film.name}".encode()
            yield {
                **FRESH_START, "id": number, "root_id": root_id, "path": path, "path_key": path_key(path),
                "path_text": path.decode(), "size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns,
                "inode": status.st_ino, "newest": True, "state": FileState.DONE, "epoch": 1, "attempts": 1,
                "first_seen_at": now, "settled_at": now, "committed_at": now, "changed_at": now,
                "outcome": Outcome.ASSESSED, "research": False, "gate_caveats": "[]", "uid_conflict": False,
                "age_conflict": False, "instance_id": number, "assessment_id": number, "bundle_id": bundle_id,
            }  # fmt: skip


def _insert(connection: Connection, batch: list[dict[str, Any]], bundle_id: int) -> None:
    """Add versions with a content, an assessment and a story of their own."""
    numbers, now = [row["id"] for row in batch], batch[0]["committed_at"]
    seen = {"size_bytes": 1, "format": "JPEG", "first_read_at": now}
    connection.execute(insert(schema.instance), [seen | {"id": one, "sha256": f"{one:064x}"} for one in numbers])
    said = {"bundle_id": bundle_id, "decoder": "none", "pixel_caveats": "[]", "activation_map": bytes(144),
            "activation_map_shape": "6,6,1", "assessed_at": now}  # fmt: skip
    connection.execute(insert(schema.assessment), [said | {"id": one, "instance_id": one} for one in numbers])
    found = {"finding": "pneumonia", "position": 0, "logit": 0.0, "probability": 0.5, "prevalence": 0.5,
             "answer": "uncertain"}  # fmt: skip
    connection.execute(insert(schema.finding), [found | {"assessment_id": one} for one in numbers])
    connection.execute(insert(schema.file), batch)
    c = schema.file.c
    for before, after in STORY:
        told = select(c.id, literal(before), literal(after), c.changed_at, literal("filled"), c.epoch)
        here = told.where(c.id >= numbers[0], c.id <= numbers[-1]).order_by(c.id)
        columns = ["file_id", "from_state", "to_state", "at", "why", "epoch"]
        connection.execute(insert(schema.transition).from_select(columns, here))
