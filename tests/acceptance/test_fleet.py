"""Several processes on one Postgres: each content gets one result, whoever dies. Workers, and a fleet on an archive."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from preread.admin import backup, bundle_registry
from preread.core.types import FileState, Population
from preread.db import schema
from preread.db.admin_schema import shadow
from preread.fleet import partition
from preread.fleet.queue import FleetQueue
from preread.fleet.shard_runner import ShardJob
from preread.ledger import archives
from preread.ledger.ledger import Ledger
from preread.model import bundles
from preread.model.bundles import Bundle
from preread.share.scanner import FileSystem, ScanCounts
from preread_training.data import phantoms
from tests.support.paths import REPOSITORY, RUN_FLEET, RUN_WORKER
from tests.support.stub_bundle import make_stub_bundle

WATCHING = {"settle_s": 0.05, "scan_interval_s": 1.0, "slots": 1}
WITHIN_S = 120.0
FILMS = 200
Eventually = Callable[..., None]
FAST = {"settle_s": 0.05, "network_settle_s": 0.05, "slots": 1, "heartbeat_s": 0.5, "stalled_s": 3.0}
FILM = phantoms.to_jpeg(phantoms.draw_chest(5, rows=96, columns=96))
pytestmark = pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)


def film(number: int) -> bytes:
    """A film that no other number has: bytes behind a JPEG's end belong to no picture."""
    return FILM + b"film %d" % number


class Archive:
    """A folder of films, a database, the processes on them, and short words for looking at both."""

    def __init__(self, folder: Path, url: str, engine: Engine, bundle: Bundle) -> None:
        self.folder = folder
        self.url = url
        self.engine = engine
        self.bundle = bundle
        self.inferences = folder / "inferences"
        self.inferences.touch()
        self.root = folder / "archive"
        self.root.mkdir()
        self.queue = FleetQueue(engine)
        self.ledger = Ledger(engine, worker_id="the test", lease_s=60.0)
        self.contents: list[bytes] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def fill(self, films: int, each: int = 10, tail: Callable[[int], bytes] = lambda _: b"") -> None:
        """Write films into folders of ``each``."""
        for number in range(len(self.contents), len(self.contents) + films):
            path = self.root / f"{number // each:04}" / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            self.contents.append(film(number) + tail(number))
            path.write_bytes(self.contents[-1])

    def backfill(self, files: int, bundle: Bundle | None = None, *, again: bool = False) -> tuple[int, int, int]:
        """Cut the archive and hand its shards over."""
        self.queue.install()
        root = os.fsencode(self.root)
        root_id = self.ledger.register_root(root, population=Population.CHILDREN_1_5Y)
        digest = (bundle or self.bundle).digest
        cut = partition.cut_shards(FileSystem(), root, files, ScanCounts(), archives.shard_order_key(self.engine))
        return self.queue.submit(ShardJob(root_id, digest, again, shard) for shard in cut)

    def work(self, *more: Bundle, **options: Any) -> subprocess.Popen[bytes]:
        """Start a process of the fleet."""
        folders = ":".join(str(bundle.path) for bundle in (self.bundle, *more))
        arguments = [self.url, folders, self.inferences, json.dumps(FAST | options)]
        return self.start([sys.executable, RUN_FLEET, *arguments])

    def preread(self, *arguments: str | Path, **settings: Any) -> subprocess.Popen[bytes]:
        """Start ``preread`` as it is installed."""
        named = {f"PREREAD_{name.upper()}": str(value) for name, value in settings.items()}
        return self.start([sys.executable, "-m", "preread", *arguments], PREREAD_DATABASE_URL=self.url, **named)

    def start(self, command: list[Any], **environment: str) -> subprocess.Popen[bytes]:
        """Start any program in the archive's parent folder, its output in a file."""
        with (self.folder / f"log{len(self.processes)}").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
            )
        self.processes.append(process)
        return process

    def log(self, process: subprocess.Popen[bytes]) -> str:
        return (self.folder / f"log{self.processes.index(process)}").read_text()

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_S) == 0, self.log(process)

    def scalar(self, statement: Any) -> Any:
        with self.engine.connect() as connection:
            return connection.execute(statement).scalar()

    def jobs(self) -> dict[str, int]:
        (batch,) = self.queue.batches()
        return batch.shards

    def over(self) -> bool:
        return not {"todo", "doing"} & self.jobs().keys()

    def done_by(self) -> Counter[str]:
        """How many results each worker committed."""
        c = schema.transition.c
        ended = select(c.worker_id).where(c.from_state == FileState.CLAIMED, c.to_state == FileState.DONE)
        with self.engine.connect() as connection:
            return Counter(connection.execute(ended).scalars())

    def done(self) -> int:
        return self.done_by().total()

    def results(self, bundle: Bundle | None = None) -> Counter[str]:
        """How many assessments each content has, of one bundle."""
        joined = schema.assessment.join(schema.instance).join(schema.bundle)
        digest = (bundle or self.bundle).digest
        statement = select(schema.instance.c.sha256).select_from(joined).where(schema.bundle.c.digest == digest)
        with self.engine.connect() as connection:
            return Counter(connection.execute(statement).scalars())

    def states(self) -> Counter[str]:
        with self.engine.connect() as connection:
            return Counter(connection.execute(select(schema.file.c.state)).scalars())

    def expected(self) -> dict[str, int]:
        return {hashlib.sha256(content).hexdigest(): 1 for content in self.contents}


@pytest.fixture
def archive(tmp_path: Path, database_url: str, engine: Engine, stub_bundle: Bundle) -> Iterator[Archive]:
    archive = Archive(tmp_path, database_url, engine, stub_bundle)
    yield archive
    for process in archive.processes:
        process.kill()
        process.wait(WITHIN_S)


def test_two_workers_one_of_which_is_killed(archive: Archive, eventually: Eventually) -> None:
    """``preread run`` twice, as it is installed, with nothing configured between them."""
    archive.fill(60, each=60)
    arguments = ("run", "--root", archive.root, "--population", "children-1-5y")
    settings = {"settle_s": 0.1, "scan_interval_s": 1.0, "slots": 1}
    killed, other = (archive.preread(*arguments, **settings) for _ in range(2))
    eventually(lambda: len(archive.done_by()) == 2 or archive.done() == 60, WITHIN_S)
    killed.kill()
    assert other.poll() is None, archive.log(other)
    eventually(lambda: archive.states() == {FileState.DONE: 60}, WITHIN_S)
    archive.stop(other)
    assert min(archive.done_by().values()) > 0
    assert len(archive.done_by()) == 2
    joined = schema.assessment.join(schema.instance)
    with archive.engine.connect() as connection:
        found = Counter(connection.execute(select(schema.instance.c.sha256).select_from(joined)).scalars())
    assert found == archive.expected()


def test_a_fleet_of_two_one_of_which_is_killed(archive: Archive, eventually: Eventually) -> None:
    archive.fill(FILMS)
    assert archive.backfill(FILMS // 8) == (8, 0, FILMS)
    assert archive.backfill(FILMS // 8) == (8, 8, FILMS), "what waits is not handed over twice"
    killed, other = archive.work(), archive.work()
    eventually(lambda: len(archive.done_by()) == 2 and archive.done() > FILMS // 6, WITHIN_S)
    killed.kill()
    eventually(archive.over, WITHIN_S)
    assert archive.jobs() == {"succeeded": 8}
    assert archive.results() == archive.expected()
    assert archive.states() == {FileState.DONE: FILMS}
    assert "shard_stalled" in archive.log(other)
    (batch,) = archive.queue.batches()
    assert (batch.files, batch.stalled, batch.left_s) == ({"succeeded": FILMS}, 0, 0.0)
    # once more changes nothing, and finds what came meanwhile
    before = archive.done()
    archive.fill(5)
    assert archive.queue.forget(1, archive.bundle.digest) == 8
    archive.backfill(FILMS // 8)
    eventually(archive.over, WITHIN_S)
    archive.stop(other)
    assert archive.done() == before + 5
    assert archive.results() == archive.expected()
    with archive.engine.connect() as connection:
        assert set(connection.execute(select(schema.file.c.backlog)).scalars()) == {True}


def test_a_signal_finishes_the_film_in_hand_and_the_next_process_the_shard(
    archive: Archive, eventually: Eventually
) -> None:
    archive.fill(6, tail=lambda _: b"SLOW")
    archive.backfill(100)
    first = archive.work()
    eventually(lambda: archive.done() >= 1, WITHIN_S)
    archive.stop(first)
    assert archive.jobs() == {"todo": 1}
    assert FileState.CLAIMED not in archive.states()
    assert archive.done() < 6
    second = archive.work()
    eventually(archive.over, WITHIN_S)
    archive.stop(second)
    assert archive.jobs() == {"succeeded": 1}
    inferred = Counter(archive.inferences.read_text().split())
    assert inferred == archive.results() == archive.expected(), "none was read twice"


def test_a_film_of_today_does_not_wait_for_the_archive(archive: Archive, eventually: Eventually) -> None:
    """Also not where it comes into the archive's own folder, which a worker watches."""
    archive.fill(40, tail=lambda _: b"SLOW")
    archive.backfill(100)
    watching = json.dumps(WATCHING)
    archive.start(
        [sys.executable, RUN_WORKER, archive.url, archive.bundle.path, archive.inferences, watching, archive.root]
    )
    eventually(lambda: archive.scalar(select(schema.root.c.counted_at)) is not None, WITHIN_S)
    archive.work()
    eventually(lambda: len(archive.done_by()) == 2, WITHIN_S)
    (archive.root / "today.jpg").write_bytes(film(1000))
    c = schema.file.c
    eventually(lambda: archive.scalar(select(c.state).where(c.path == b"today.jpg")) == FileState.DONE, WITHIN_S)
    assert archive.states()[FileState.READY] > 0
    assert archive.scalar(select(c.backlog).where(c.path == b"today.jpg")) is False


@pytest.mark.usefixtures("postgres_programs")
def test_another_bundle_reads_the_archive_again(archive: Archive, eventually: Eventually, tmp_path: Path) -> None:
    newer = make_stub_bundle(tmp_path / "newer", version="2.0.0")
    archive.fill(20)
    archive.backfill(10)
    first = archive.work()
    eventually(archive.over, WITHIN_S)
    assert archive.backfill(10, newer, again=True)[0] == 2
    second = archive.work(newer)
    eventually(lambda: archive.results(newer) == archive.expected(), WITHIN_S)
    archive.stop(first)
    archive.stop(second)
    assert archive.results() == archive.expected(), "what the older one said is kept"
    joined = schema.file.join(schema.bundle, schema.bundle.c.id == schema.file.c.bundle_id)
    with archive.engine.connect() as connection:
        labels = Counter(connection.execute(select(schema.bundle.c.version).select_from(joined)).scalars())
    assert labels == {"2.0.0": 20}
    kept = backup.back_up(archive.engine, tmp_path / "backup")
    assert kept.rows["file"] == 20
    assert "procrastinate_jobs" not in kept.rows, "the queue is no truth"


def test_a_bundle_in_the_shadow_reads_what_the_fleet_reads(
    archive: Archive, eventually: Eventually, tmp_path: Path
) -> None:
    """Two processes, of which one lacks it; a shard of its own is no shadow's."""
    second = make_stub_bundle(tmp_path / "second", version="2.0.0")
    archive.fill(20)
    archive.backfill(20)
    before = archive.work()
    eventually(archive.over, WITHIN_S)
    archive.stop(before)
    bundle_registry.select_shadow(archive.engine, "uid:0", second)
    archive.fill(20)
    archive.queue.forget(1, archive.bundle.digest)
    archive.backfill(10)
    lacking = archive.work()
    eventually(lambda: "bundle_not_usable" in archive.log(lacking), WITHIN_S)
    archive.stop(lacking)
    having = archive.work(second)
    archive.fill(10)
    archive.queue.forget(1, archive.bundle.digest)
    archive.backfill(10)
    eventually(archive.over, WITHIN_S)
    archive.stop(having)
    assert archive.results() == archive.expected()
    assert archive.results(second) == Counter(), "what it says is no result"
    # each film that got its result since it was chosen, once; none from before
    assert archive.scalar(select(func.count()).select_from(shadow)) == 30
    assert archive.scalar(select(func.count(shadow.c.code))) == 0
    assert set(Counter(archive.inferences.read_text().split()).values()) == {1, 2}
    archive.backfill(50, second, again=True)
    own = archive.work(second)
    eventually(lambda: archive.results(second) == archive.expected(), WITHIN_S)
    archive.stop(own)
    assert archive.scalar(select(func.count()).select_from(shadow)) == 30


def test_a_share_that_is_not_there_costs_no_film_and_no_shard(archive: Archive, eventually: Eventually) -> None:
    archive.fill(20)
    archive.backfill(10)
    archive.root.rename(archive.folder / "elsewhere")
    lost = archive.work(share_patience_s=0.5)
    assert lost.wait(WITHIN_S) != 0
    waiting = archive.work()
    eventually(lambda: "share_down" in archive.log(waiting), WITHIN_S)
    (archive.folder / "elsewhere").rename(archive.root)
    eventually(archive.over, WITHIN_S)
    archive.stop(waiting)
    assert archive.results() == archive.expected()


def test_two_processes_of_one_command_end_with_it(archive: Archive, eventually: Eventually) -> None:
    """As it is installed, with the bundle that ships; a process that is killed is started again."""
    shipped = bundles.load_bundle(bundles.find_bundle())
    archive.fill(4)
    archive.backfill(2, shipped)
    command = archive.preread("fleet", "work", "--processes", "2", settle_s=0.1, slots=1)
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
    eventually(lambda: len(children.read_text().split()) == 2, WITHIN_S)
    killed = int(children.read_text().split()[0])
    os.kill(killed, signal.SIGKILL)
    eventually(archive.over, WITHIN_S)
    eventually(lambda: len(set(children.read_text().split()) - {str(killed)}) == 2, WITHIN_S)
    archive.stop(command)
    assert archive.results(shipped) == archive.expected()


def test_a_database_that_restarts_is_waited_for(archive: Archive, eventually: Eventually, postgres_server: Any) -> None:
    archive.fill(12, tail=lambda number: b"SLOW" if number % 3 == 0 else b"")
    archive.backfill(4)
    process = archive.work()
    eventually(lambda: archive.done() >= 1, WITHIN_S)
    postgres_server.restart()
    archive.engine.dispose()
    eventually(archive.over, WITHIN_S)
    archive.stop(process)
    assert archive.results() == archive.expected()
