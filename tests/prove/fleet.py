"""``make fleet-proof``: a fleet on an archive of small films, its processes killed at random; and how it scales.

Makes temporary folders and a Postgres server of its own (with fsync) in one of them. Ends with 1 when a content has no
result or two, when a claim is left, or when a shard is not done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text

from preread.core.types import FileState, Population
from preread.db import migrate, schema
from preread.db.engine import open_engine
from preread.fleet import partition
from preread.fleet.queue import FleetQueue
from preread.fleet.shard_runner import ShardJob
from preread.ledger import archives
from preread.ledger.ledger import Ledger
from preread.model import bundles
from preread.model.bundles import Bundle
from preread.share.scanner import FileSystem, ScanCounts
from tests.prove.bench import film, until
from tests.support.postgres import PostgresServer
from tests.support.stub_bundle import make_stub_bundle

HOUSE = Path(__file__).parents[2]
RUN_FLEET = HOUSE / "tests" / "programs" / "run_fleet.py"
PER_FOLDER = 500
OPTIONS = {"settle_s": 0.2, "network_settle_s": 0.2, "slots": 1, "heartbeat_s": 1.0, "stalled_s": 5.0}
WITHIN_S = 24 * 3600.0
TICKS_S = os.sysconf("SC_CLK_TCK")


class DurableServer(PostgresServer):
    """Commits as a hospital's does."""

    fsync = "on"


class Archive:
    """A folder of films that differ, a database, and the processes on them."""

    def __init__(self, folder: Path, server: PostgresServer, bundle: Bundle, files: int, side_px: int) -> None:
        self.folder = folder
        self.server = server
        self.bundle = bundle
        self.name = server.create()
        self.engine = open_engine(server.url(self.name))
        migrate.upgrade_schema(self.engine)
        self.root = folder / "archive"
        self.contents = set(self._write(files, side_px))
        self.inferences = folder / "inferences"
        self.inferences.touch()
        self.queue = FleetQueue(self.engine)
        self.running: list[subprocess.Popen[bytes]] = []
        self.cut_s = 0.0

    def _write(self, files: int, side_px: int) -> Iterator[str]:
        for number in range(files):
            path = self.root / f"{number // PER_FOLDER:06}" / f"{number}.jpg"
            if number % PER_FOLDER == 0:
                path.parent.mkdir(parents=True)
            content = film(number, side_px)
            path.write_bytes(content)
            yield hashlib.sha256(content).hexdigest()

    def backfill(self, shard_files: int) -> None:
        """Cut the archive and hand it over."""
        began = time.monotonic()
        self.queue.install()
        ledger = Ledger(self.engine, worker_id="the proof", lease_s=60.0)
        root = os.fsencode(self.root)
        root_id = ledger.register_root(root, population=Population.CHILDREN_1_5Y)
        cut = partition.cut_shards(FileSystem(), root, shard_files, ScanCounts(), archives.shard_order_key(self.engine))
        self.queue.submit(ShardJob(root_id, self.bundle.digest, False, shard) for shard in cut)
        self.cut_s = time.monotonic() - began

    def start(self, *, stub: bool, slots: int = 1) -> None:
        """Start a process of the fleet."""
        url = self.server.url(self.name)
        if stub:
            command = [RUN_FLEET, url, self.bundle.path, self.inferences, json.dumps(OPTIONS | {"slots": slots})]
        else:
            command = ["-m", "preread", "fleet", "work", "--nice", "0"]
        named = {"PREREAD_DATABASE_URL": url, "PREREAD_SLOTS": str(slots), "PREREAD_SETTLE_S": "0.2"}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(HOUSE)} | named,
            )
        self.running.append(process)

    def stop(self) -> None:
        """Stop every process in good order."""
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait(120)
        self.running.clear()

    def close(self) -> None:
        """End what still runs, and remove the database."""
        for process in self.running:
            process.kill()
            process.wait()
        self.engine.dispose()
        self.server.drop(self.name)

    def scalar(self, statement: Any) -> Any:
        """Return the one value."""
        with self.engine.connect() as connection:
            return connection.execute(statement).scalar_one()

    def done(self) -> int:
        """Return how many results there are."""
        return int(self.scalar(select(func.count()).select_from(schema.assessment)))

    def at_work(self) -> int:
        """Return how many processes have committed something."""
        c = schema.transition.c
        return int(self.scalar(select(func.count(c.worker_id.distinct())).where(c.to_state == FileState.DONE)))

    def over(self) -> bool:
        """Tell whether no shard waits or is in hand."""
        return all(not {"todo", "doing"} & batch.shards.keys() for batch in self.queue.batches())

    def failures(self) -> list[str]:
        """Compare folder, ledger and queue."""
        found = []
        (batch,) = self.queue.batches()
        if batch.shards.keys() != {"succeeded"}:
            found.append(f"shards: {batch.shards}")
        with self.engine.connect() as connection:
            joined = schema.assessment.join(schema.instance)
            results = list(connection.execute(select(schema.instance.c.sha256).select_from(joined)).scalars())
            states = dict(connection.execute(select(schema.file.c.state, func.count()).group_by("state")).all())
            owned = connection.execute(select(func.count()).where(schema.file.c.owner.is_not(None))).scalar_one()
        if set(results) != self.contents:
            found.append(f"{len(self.contents - set(results))} contents lost")
        if len(results) != len(set(results)):
            found.append(f"{len(results) - len(set(results))} results twice")
        if states != {FileState.DONE: len(self.contents)} or owned:
            found.append(f"states {states}, claims left {owned}")
        return found


def processor_s(pid: int) -> float:
    """Return the processor seconds of a process, of the children that it has and of those that it had."""
    ticks = sum(_ticks(child, ended=False) for child in _children(pid))
    return (_ticks(pid, ended=True) + ticks) / TICKS_S


def _ticks(pid: int, *, ended: bool) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15] if ended else fields[11:13]))


def random_kills(archive: Archive, processes: int, every: int) -> dict[str, Any]:
    """Kill processes and slots at random until everything is done; start a new process for each that was killed.

    Args:
        every: results between two kills, on average; by results, since a slow machine would else only ever start.
    """
    chance = random.Random("fleet")
    kills = {"processes": 0, "slots": 0}
    began = time.monotonic()
    for _ in range(processes):
        archive.start(stub=True)
    next_kill_at = every
    while not archive.over():
        time.sleep(0.2)
        for process in [process for process in archive.running if process.poll() is not None]:
            archive.running.remove(process)
            archive.start(stub=True)
        if (done := archive.done()) < next_kill_at:
            continue
        next_kill_at = done + chance.randrange(2 * every)
        victim = chance.choice(archive.running)
        children = _children(victim.pid)
        if children and chance.random() < 0.5:
            kills["slots"] += 1
            os.kill(chance.choice(children), signal.SIGKILL)
        else:
            kills["processes"] += 1
            victim.kill()
            victim.wait()
            archive.running.remove(victim)
            archive.start(stub=True)
    took_s = time.monotonic() - began
    archive.stop()
    inferred = len(archive.inferences.read_text().split())
    return {
        "films": len(archive.contents),
        "processes": processes,
        "kills": kills,
        "took_s": round(took_s, 1),
        "films_s": round(len(archive.contents) / took_s, 1),
        "inferences_repeated": inferred - len(archive.contents),
        "failures": archive.failures(),
    }


def _children(pid: int) -> list[int]:
    try:
        return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def scaling(archive: Archive, processes: int, *, stub: bool) -> dict[str, Any]:
    """Measure so many processes from the first result to the last, and what each film cost."""
    for _ in range(processes):
        archive.start(stub=stub)

    def used_s() -> tuple[float, float]:
        return processor_s(archive.server._process.pid), sum(processor_s(one.pid) for one in archive.running)

    # from the moment on when all are at work: starting is no cost of a film
    until(lambda: archive.at_work() == processes, "a result of each process", WITHIN_S)
    began, before, (server_s, own_s) = time.monotonic(), archive.done(), used_s()
    until(archive.over, "the end", WITHIN_S)
    took_s, measured = time.monotonic() - began, len(archive.contents) - before
    server_s, own_s = (later - earlier for later, earlier in zip(used_s(), (server_s, own_s), strict=True))
    archive.stop()
    films = len(archive.contents)
    size_bytes = archive.scalar(text("SELECT pg_database_size(current_database())"))
    return {
        "slots": "stub" if stub else archive.bundle.label,
        "films": films,
        "processes": processes,
        "films_s": round(measured / took_s, 1),
        "database_ms_per_film": round(1000 * server_s / measured, 2),
        "processes_ms_per_film": round(1000 * own_s / measured, 2),
        "database_bytes_per_film": round(size_bytes / films),
        "cut_files_s": round(films / archive.cut_s),
        "failures": archive.failures(),
    }


@contextmanager
def archive_of(
    folder: Path, server: PostgresServer, bundle: Bundle, files: int, *, side_px: int, shard_files: int
) -> Iterator[Archive]:
    """Make an archive and cut it."""
    with tempfile.TemporaryDirectory(dir=folder) as here:
        archive = Archive(Path(here), server, bundle, files, side_px)
        try:
            archive.backfill(shard_files)
            yield archive
        finally:
            archive.close()


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="films of the archive under random kills")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--every", type=int, default=200, help="results between two kills, on average")
    parser.add_argument("--scale-files", type=int, default=2_000, help="films of each measurement")
    parser.add_argument("--scale", type=int, nargs="*", default=[1, 2, 4], help="processes of each measurement")
    parser.add_argument("--in", dest="folder", type=Path, default=None, help="where the temporary folders go")
    chosen = parser.parse_args()
    broken = False
    with tempfile.TemporaryDirectory(prefix="preread-fleet-", dir=chosen.folder, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "server").mkdir()
        server = DurableServer(folder / "server")
        stub = make_stub_bundle(folder)
        try:
            for processes in chosen.scale:
                for bundle, side_px in ((stub, 96), (bundles.load_bundle(bundles.find_bundle()), 1024)):
                    with archive_of(
                        folder,
                        server,
                        bundle,
                        chosen.scale_files,
                        side_px=side_px,
                        shard_files=max(10, chosen.scale_files // 20),
                    ) as archive:
                        broken |= _tell(scaling(archive, processes, stub=bundle is stub))
            if chosen.files:
                with archive_of(folder, server, stub, chosen.files, side_px=96, shard_files=1000) as archive:
                    broken |= _tell(random_kills(archive, chosen.processes, chosen.every))
        finally:
            server.stop()
    return int(broken)


def _tell(row: dict[str, Any]) -> bool:
    print(json.dumps(row), flush=True)
    return bool(row["failures"])


if __name__ == "__main__":
    sys.exit(main())
