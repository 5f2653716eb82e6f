"""A backlog of any length: streamed, with little memory, new films before old ones; and a storm of events."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from preread.db import schema
from tests.programs.storm import blow
from tests.prove.bench import Bench, Database, Row, Worker, film, timed, until

MEMORY_MAX_MIB = 300
FIRST_RESULT_MAX_S = 10.0
LIVE_MAX_S = 60.0
LINKED_FROM = 200_000
CONTENTS = 50
PER_FOLDER = 5_000
STORM_SCAN_S = 30.0


def backlog(folder: Path, database: Database, files: int, *, timed_out: bool) -> Row:
    """Start ``preread run`` on a folder full of films, and drop new ones into it while it is at work.

    Args:
        timed_out: whether being too slow breaks the promise; where other work is on the machine it says nothing.
    """
    row = Row(f"backlog of {files:,}", database.name, "preread run, shipped bundle", "")
    here = folder / f"backlog-{database.name}"
    here.mkdir()
    with timed(row), closing(Bench(here, database)) as bench:
        fill(bench.inbox, files)
        began = time.monotonic()
        worker = bench.start_real(
            scan_interval_s=30.0 if files > 10_000 else 5.0, settle_s=2.0, slots=2, log_level="debug"
        )
        until(lambda: bench.done() > 0, "the first result")
        first_s = time.monotonic() - began
        live_s = []
        for number in range(3):
            live_s.append(_answer_to_a_new_film(bench, number))
            if number == 0:
                until(lambda: _first_scan(bench) is not None, "the end of the first scan", 300 + files / 500)
        scans = _scans(bench, worker, 300 + files / 500)
        memory_mib = _peak_memory_mib(worker)
        backlogged, live = _lanes(bench)
        worker.process.send_signal(signal.SIGTERM)
        code = worker.ends()
        row.files = files + len(live_s)
        row.done = (
            f"first result after {first_s:.1f} s; new films answered after {', '.join(f'{s:.1f}' for s in live_s)} s"
        )
        row.note = (
            f"parent's peak {memory_mib:.0f} MiB; first scan {scans[0]:.1f} s, rescan {scans[1]:.1f} s; "
            f"{backlogged:,} taken in as backlog, {live} live"
        )
        wrong = [
            (memory_mib < MEMORY_MAX_MIB, f"the parent used {memory_mib:.0f} MiB"),
            (first_s < FIRST_RESULT_MAX_S or not timed_out, f"the first result came after {first_s:.1f} s"),
            (max(live_s) < LIVE_MAX_S or not timed_out, f"a new film was answered after {max(live_s):.1f} s"),
            (backlogged == files, f"{backlogged} of {files} files are backlog"),
            (live == len(live_s), f"{live} of {len(live_s)} new films are live"),
            (code == 0, f"told to stop, the worker ended with {code}: {worker.said()}"),
        ]
        row.failures += [what for right, what in wrong if not right]
    return row


def storm(folder: Path, database: Database, files: int, *, timed_out: bool) -> Row:
    """Let the kernel's queue of events overflow: the worker stands still while the files are written.

    The time counts from the storm's end, when all is written and the worker goes on, to the moment when the ledger has
    each file with its size and time: for as long ``preread reconcile`` would find a difference.

    Args:
        timed_out: whether taking longer than a scan interval breaks the promise.
    """
    row = Row(f"storm of {files:,} files", database.name, "daemon, stub slots", "", files=files)
    here = folder / f"storm-{database.name}"
    here.mkdir()
    c = schema.file.c
    with timed(row), closing(Bench(here, database)) as bench:
        worker = bench.start(slots=2, scan_interval_s=STORM_SCAN_S, settle_s=2.0)
        until(lambda: any(bench.scalars(select(schema.root.c.last_scan_completed_at))), "the first scan")
        worker.stop()
        names = blow(bench.inbox, files)
        worker.process.send_signal(signal.SIGCONT)
        # the highest number is found at once; counting would hold the worker up
        level_s = until(lambda: (bench.scalars(select(func.max(c.id)))[0] or 0) >= files, "as many rows as files")
        level_s += until(lambda: bench.scalars(select(func.count(c.id)))[0] >= files, "a row of every file")
        until(lambda: _overflows(worker), "an overflow that the worker notices")
        worker.process.send_signal(signal.SIGTERM)
        code = worker.ends()
        known = {(entry.path, entry.size_bytes, entry.mtime_ns) for entry in _newest(bench)}
        there = {(name, status.st_size, status.st_mtime_ns) for name, status in _statuses(bench.inbox, names)}
        row.lost = len(there - known)
        row.orphans = len(known - there)
        row.done = f"{_overflows(worker)} overflows; the ledger equal to the folder {level_s:.1f} s after the storm"
        wrong = [
            (level_s < STORM_SCAN_S or not timed_out, f"longer than a scan interval ({STORM_SCAN_S:g} s)"),
            (code == 0, f"told to stop, the worker ended with {code}: {worker.said()}"),
        ]
        row.failures += [what for right, what in wrong if not right]
    return row


def _overflows(worker: Worker) -> int:
    return sum(event["event"] == "watcher_overflowed" for event in worker.events())


def _newest(bench: Bench) -> Sequence[Any]:
    c = schema.file.c
    with bench.engine.connect() as connection:
        return connection.execute(select(c.path, c.size_bytes, c.mtime_ns).where(c.newest)).all()


def _statuses(inbox: Path, names: set[bytes]) -> Iterator[tuple[bytes, os.stat_result]]:
    for name in names:
        yield name, (inbox / os.fsdecode(name)).stat()


def fill(inbox: Path, files: int) -> None:
    """Write the films, each with a content of its own; of very many, links to a few contents."""
    for number in range(files):
        where = inbox / f"{number // PER_FOLDER:04}"
        if number % PER_FOLDER == 0:
            where.mkdir()
        path = where / f"{number:07}.jpg"
        if files < LINKED_FROM or number < CONTENTS:
            path.write_bytes(film(number))
        else:
            os.link(inbox / "0000" / f"{number % CONTENTS:07}.jpg", path)


def _answer_to_a_new_film(bench: Bench, number: int) -> float:
    name = f"new{number}.jpg"
    bench.write(name, film(10_000_000 + number))
    c = schema.file.c
    outcome = select(c.outcome).where(c.path == name.encode(), c.outcome.is_not(None))
    return until(lambda: bench.scalars(outcome), f"an answer to {name}")


def _first_scan(bench: Bench) -> object:
    return bench.scalars(select(schema.root.c.last_scan_completed_at))[0]


def _scans(bench: Bench, worker: Worker, within_s: float) -> list[float]:
    """Seconds that the first two full scans took."""

    def durations() -> list[float]:
        return [event["duration_s"] for event in worker.events() if event["event"] == "scan_complete"]

    until(lambda: len(durations()) >= 2, "a second full scan", within_s)
    return durations()


def _peak_memory_mib(worker: Worker) -> float:
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def _lanes(bench: Bench) -> tuple[int, int]:
    c = schema.file.c
    with bench.engine.connect() as connection:
        found = {row[0]: row[1] for row in connection.execute(select(c.backlog, func.count()).group_by(c.backlog))}
    return found.get(True, 0), found.get(False, 0)
