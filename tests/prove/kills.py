"""Workers and slots that die or stand still at random moments, over a folder into which films keep coming."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from preread.core.types import FileState
from preread.db import schema
from tests.prove.bench import (
    Bench,
    Database,
    Row,
    Worker,
    answered,
    film,
    seeded,
    timed,
    until,
)

WAITING = 40
SLOW = b"SLOW"


def at_random(folder: Path, database: Database, kills: int, files: int) -> Row:
    """Kill the worker or one of its slots, again and again, until so many kills and films are behind it."""
    row = Row("random kill -9", database.name, "daemon, stub slots", "")
    here = folder / f"kills-{database.name}"
    here.mkdir()
    with timed(row), closing(Bench(here, database)) as bench:
        chance = seeded("kills", database.name, kills)
        counts = dict.fromkeys(("worker", "slot", "spared", "by itself"), 0)
        worker = bench.start(slots=2)
        while counts["worker"] + counts["slot"] < kills or len(bench.expected) < files:
            _more_films(bench, WAITING)
            if chance.random() < 0.5:
                # else, on a slow machine, most would hit what only starts
                _wait_for_a_result(bench, worker)
            time.sleep(chance.uniform(0.0, 0.3))
            if worker.process.poll() is not None:
                counts["by itself"] += 1
                row.failures.append(f"a worker ended by itself with {worker.ends()}: {worker.said()}")
                worker = bench.start(slots=2)
            elif chance.random() < 0.25:
                worker, kind = _kill_worker(bench, worker)
                counts[kind] += 1
            elif slots := worker.slots():
                counts[_kill_slot(bench, worker, chance.choice(slots))] += 1
            _forget_log(bench, worker)
        _finish(bench, worker, row)
        most = bench.scalars(select(func.max(schema.file.c.interruptions)))[0]
        repeated = sum(bench.inferred().values()) - len(bench.inferred())
        row.done = f"{counts['worker']} kills of the worker, {counts['slot']} of slots"
        row.note = f"{repeated} inferences repeated, most interruptions of one film {most}"
        if counts["spared"]:
            row.note += f", {counts['spared']} kills spared (a third death retires a film)"
    return row


def _wait_for_a_result(bench: Bench, worker: Worker) -> None:
    before = bench.done()
    until(lambda: bench.done() > before or worker.process.poll() is not None, "another film's result")


def _more_films(bench: Bench, waiting: int) -> None:
    c = schema.file.c
    open_states = (FileState.SETTLING, FileState.READY, FileState.RETRY, FileState.CLAIMED)
    with bench.engine.connect() as connection:
        known = connection.execute(select(func.count()).select_from(schema.file)).scalar_one()
        owed = connection.execute(
            select(func.count()).select_from(schema.file).where(c.state.in_(open_states))
        ).scalar_one()
    for number in range(len(bench.expected), len(bench.expected) + waiting - owed - (len(bench.expected) - known)):
        bench.write(f"film{number}", film(number))


def _in_hand(bench: Bench) -> list[tuple[int, bool]]:
    c = schema.file.c
    with bench.engine.connect() as connection:
        rows = connection.execute(select(c.attempts, c.alone).where(c.state == FileState.CLAIMED))
        return [(row.attempts, row.alone) for row in rows]


def _kill_worker(bench: Bench, worker: Worker) -> tuple[Worker, str]:
    worker.stop()
    if any(alone for _, alone in _in_hand(bench)):
        # it took part in three deaths: from now on the ledger counts them, and is right to
        worker.process.send_signal(signal.SIGCONT)
        return worker, "spared"
    worker.kill()
    return bench.start(slots=2), "worker"


def _kill_slot(bench: Bench, worker: Worker, slot: int) -> str:
    worker.stop()
    last_try = any(attempts >= 3 for attempts, _ in _in_hand(bench))
    if not last_try:
        with suppress(ProcessLookupError):
            os.kill(slot, signal.SIGKILL)
    worker.process.send_signal(signal.SIGCONT)
    return "spared" if last_try else "slot"


def _forget_log(bench: Bench, worker: Worker) -> None:
    """Keep few ended workers and their logs."""
    for old in bench.workers[:-3]:
        if old is not worker and old.process.poll() is not None:
            bench.workers.remove(old)
            old.log.unlink(missing_ok=True)


def _finish(bench: Bench, worker: Worker, row: Row) -> None:
    # before that the process has no handler yet, and just ends
    until(lambda: any(event["event"] == "worker_started" for event in worker.events()), "a worker's start")
    worker.process.send_signal(signal.SIGTERM)
    code = worker.ends()
    if code:
        row.failures.append(f"told to stop, a worker ended with {code}: {worker.said()}")
    bench.once(slots=2)
    verdict = bench.verdict()
    row.add(verdict)
    if not verdict:
        row.failures.append(str(verdict))


def installed_worker(folder: Path, database: Database, kills: int) -> Row:
    """Kill ``preread run`` with the bundle that ships."""
    row = Row("random kill -9", database.name, "preread run, shipped bundle", "")
    here = folder / f"installed-{database.name}"
    here.mkdir()
    with timed(row), closing(Bench(here, database)) as bench:
        chance = seeded("installed", database.name)
        for number in range(max(10, kills)):
            bench.write(f"film{number}", film(number, side_px=512))
        for _ in range(kills):
            worker = bench.start_real()
            before = bench.done()
            if chance.random() < 0.7 and before < len(bench.expected):
                until(lambda: bench.done() > before, "a film's result")  # noqa: B023  asked in this very turn
            time.sleep(chance.uniform(0.0, 0.5))
            worker.kill()
            number = len(bench.expected)
            bench.write(f"film{number}", film(number, side_px=512))
        last = bench.start_real("--once")
        code = last.ends()
        assert code == 0, f"the last worker ended with {code}: {last.said()}"
        verdict = bench.verdict()
        row.add(verdict)
        if not verdict:
            row.failures.append(str(verdict))
        row.done = f"{kills} kills of the worker"
    return row


def stopped(folder: Path, database: Database, rounds: int) -> Row:
    """Stop a worker past its lease while it has films in hand; a second one does them; the first comes back."""
    row = Row("SIGSTOP past the lease", database.name, "daemon, stub slots", "")
    with timed(row):
        fenced = 0
        for number in range(rounds):
            here = folder / f"stopped-{database.name}-{number}"
            here.mkdir()
            with closing(Bench(here, database)) as bench:
                fenced += _stop_once(bench, slots_too=number % 2 == 1)
                verdict = bench.verdict()
                row.add(verdict)
                if not verdict:
                    row.failures.append(str(verdict))
        row.done = f"{rounds} times, a second worker beside it"
        row.note = f"{fenced} late commits refused"
        if fenced < rounds:
            row.failures.append(f"only {fenced} late commits in {rounds} rounds: nothing was shown")
    return row


def _stop_once(bench: Bench, *, slots_too: bool) -> int:
    patience: dict[str, Any] = {"deadline_s": 5.0, "lease_s": 5.0, "scan_interval_s": 60.0}
    sleeper = bench.start(slots=2, **patience)
    for number in range(2):
        bench.write(f"film{number}", film(number) + SLOW)
    c = schema.file.c
    claimed = select(func.count()).where(c.state == FileState.CLAIMED)
    until(lambda: bench.scalars(claimed)[0] == 2, "both films in hand")
    time.sleep(0.5)  # the slots are slow with these: one that is not stopped has its report ready when the worker wakes
    slots = sleeper.slots() if slots_too else []
    for process in (sleeper.process.pid, *slots):
        os.kill(process, signal.SIGSTOP)
    second = bench.start(slots=2, **patience)
    until(lambda: all(map(answered, bench.scalars(select(c.outcome)))), "the second worker's results")
    for process in (sleeper.process.pid, *slots):
        os.kill(process, signal.SIGCONT)

    def refused() -> int:
        return sum("fenced" in {event.get("outcome"), event.get("state")} for event in sleeper.events())

    until(lambda: refused() == 2, "the first worker's late commits, refused")
    for worker in (sleeper, second):
        worker.process.send_signal(signal.SIGTERM)
        assert worker.ends() == 0, worker.said()
    return refused()
