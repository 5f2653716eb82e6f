"""What ``preread status`` says of folders that only a fleet reads."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from preread.cli import status
from preread.fleet.partition import Shard
from preread.fleet.queue import FleetQueue
from preread.fleet.shard_runner import ShardJob
from preread.ledger.archives import SCHEMA
from preread.ledger.records import Observation, Pulse, RootPulse
from preread.monitoring import database_metrics, health
from preread.monitoring.health import Health, Level
from preread.runner.counters import Counters
from tests.support.ledger import LedgerBench

ARCHIVE = b"/srv/archive"
INTERVAL_S = 30.0
WARNS = Level.WARNING


class Archive:
    """A folder of which shards were handed over, and what the fleet's processes would write."""

    def __init__(self, bench: LedgerBench) -> None:
        self.bench = bench
        self.queue = FleetQueue(bench.engine)
        self.queue.install()
        self.root_id = bench.ledger.register_root(ARCHIVE)

    def hand_over(self, shards: int = 3) -> None:
        self.queue.submit(
            ShardJob(self.root_id, "d" * 64, False, Shard(None, (b"%03d" % number,), 10)) for number in range(shards)
        )

    def sql(self, statement: str, **values: Any) -> None:
        with self.bench.engine.begin() as connection:
            connection.execute(text(f"SET LOCAL search_path = {SCHEMA}"))
            connection.execute(text(statement), values)

    def process(self, takes: int = 1) -> None:
        """A process lives, and takes shards."""
        self.sql("INSERT INTO procrastinate_workers DEFAULT VALUES")
        self.sql(
            "UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT max(id) FROM procrastinate_workers) "
            "WHERE id IN (SELECT id FROM procrastinate_jobs WHERE status = 'todo' ORDER BY id LIMIT :count)",
            count=takes,
        )

    def end(self, status: str = "succeeded") -> None:
        self.sql(f"UPDATE procrastinate_jobs SET status = '{status}' WHERE status = 'doing'")

    def age(self, seconds: float) -> None:
        """What is there was written so long ago; processes go on saying that they live."""
        self.sql("UPDATE procrastinate_events SET at = at - make_interval(secs => :s)", s=seconds)

    def silence(self) -> None:
        self.sql("UPDATE procrastinate_workers SET last_heartbeat = last_heartbeat - interval '31 s'")

    def look(self, roots: list[bytes] | None = None) -> Health:
        return health.report(self.bench.engine, roots=roots, scan_interval_s=INTERVAL_S)

    def codes(self, roots: list[bytes] | None = None) -> dict[str, Level]:
        return {problem.code: problem.level for problem in self.look(roots).problems}

    def says(self) -> str:
        (archive,) = (root for root in self.look([ARCHIVE]).roots)
        return status._root_text(archive)


@pytest.fixture
def archive(bench: LedgerBench) -> Archive:
    archive = Archive(bench)
    bench.ledger.mark_worker_stopped()  # the bench's own worker watches nothing
    with bench.engine.begin() as connection:
        connection.execute(text("DELETE FROM root WHERE id = :id"), {"id": bench.root_id})
    return archive


pytestmark = pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)


@pytest.mark.parametrize("roots", [None, [ARCHIVE]], ids=["of the database", "named"])
def test_a_folder_that_only_a_fleet_reads_is_judged_by_its_fleet(archive: Archive, roots: list[bytes] | None) -> None:
    archive.hand_over()
    assert archive.codes(roots) == {"fleet_idle": WARNS}, "nobody does them, and nobody need watch it"
    archive.process()
    assert archive.codes(roots) == {}
    assert archive.says().startswith(
        "processed by the fleet: 0 of 3 shards done, 1 in progress; 1 processes running; last "
    )
    archive.silence()
    assert archive.codes(roots) == {"fleet_idle": WARNS}
    assert "1 in progress, 1 of them stalled; 0 processes" in archive.says()
    archive.process(2)
    archive.end()
    assert archive.codes(roots) == {}
    archive.silence()
    assert archive.codes(roots) == {}, "it is done, and nobody need be at work"
    found = archive.look(roots)
    assert found.level is Level.OK
    assert (found.roots[0].watched, found.roots[0].fleet and found.roots[0].fleet.shards) == (False, {"succeeded": 3})
    assert '"processes": 0' in str(found.to_json()["roots"]).replace("'", '"')


def test_a_fleet_that_does_not_go_on(archive: Archive, bench: LedgerBench) -> None:
    archive.hand_over(1)
    archive.process()
    archive.age(599)
    assert archive.codes() == {}
    archive.age(2)
    assert archive.codes() == {"fleet_stalled": WARNS}
    seen = bench.ledger.observe(archive.root_id, [Observation(b"000/film", 100, 1)])
    bench.ledger.settle(seen.values())
    assert archive.codes() == {"fleet_stalled": WARNS}
    assert bench.ledger.claim([archive.root_id], 1)
    assert archive.codes() == {}, "a film of it was claimed"


def test_shards_for_which_no_process_has_the_bundle(archive: Archive) -> None:
    archive.hand_over(1)
    archive.process(0)
    assert archive.codes() == {}
    archive.age(601)
    assert archive.codes() == {"fleet_stalled": WARNS}
    other = archive.bench.ledger.register_root(b"/srv/other")
    archive.queue.submit([ShardJob(other, "e" * 64, False, Shard(None, (b"x",), 10))])
    archive.sql(
        "UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT max(id) FROM procrastinate_workers)"
        " WHERE queue_name LIKE '%eee'"
    )
    assert archive.codes() == {}, "they wait their turn behind another archive"


def test_shards_that_failed(archive: Archive) -> None:
    archive.hand_over()
    archive.process(3)
    archive.end("failed")
    assert archive.codes() == {"shards_failed": WARNS}
    assert archive.look().problems[0].root == ARCHIVE.decode()


def test_a_watched_folder_stays_one_and_metrics_call_no_archive_down(archive: Archive, bench: LedgerBench) -> None:
    """Also where a worker ended in good order: the archive does not hide that nobody watches."""
    archive.hand_over()
    archive.process()
    inbox = bench.ledger.register_root(b"/srv/inbox")
    bench.ledger.heartbeat(Pulse(INTERVAL_S, 2, 2, (RootPulse(inbox, moves=True),)))
    assert archive.codes() == {}
    assert [root.path for root in archive.look().roots] == ["/srv/archive", "/srv/inbox"]
    told = database_metrics.exposition_text(
        Counters(), database_metrics.read_metrics(bench.engine, roots=None, scan_interval_s=INTERVAL_S), ()
    ).decode()
    assert 'preread_share_up{root="/srv/inbox"} 1.0' in told
    assert 'preread_share_up{root="/srv/archive"}' not in told
    assert 'preread_fleet_shards{root="/srv/archive",status="doing"} 1.0' in told
    assert "preread_fleet_processes 1.0" in told
    bench.ledger.mark_worker_stopped()
    assert archive.codes() == {"no_worker": Level.CRITICAL}
    bench.worker("of the fleet").heartbeat()
    assert archive.codes() == {"unwatched": Level.CRITICAL}
    assert archive.codes([ARCHIVE]) == {}


def test_an_archive_whose_jobs_were_pruned_is_nobodys_alarm_unless_it_is_named(
    archive: Archive, bench: LedgerBench
) -> None:
    bench.worker("of the fleet").heartbeat()
    assert archive.codes() == {}
    assert archive.codes([ARCHIVE]) == {"unwatched": Level.CRITICAL}
