"""A real Prometheus scrapes a real worker, and the processes of a fleet, and finds what they did."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine

from preread.core.types import Population
from preread.fleet import partition
from preread.fleet.queue import FleetQueue
from preread.fleet.shard_runner import ShardJob
from preread.ledger import archives
from preread.ledger.ledger import Ledger
from preread.model.bundles import Bundle
from preread.share.scanner import FileSystem, ScanCounts
from preread_training.data import phantoms
from tests.support.paths import REPOSITORY, RUN_FLEET, RUN_WORKER
from tests.support.ports import PortReservations

RULES = REPOSITORY / "deploy" / "prometheus" / "preread.rules.yml"
WITHIN_S = 120.0


@pytest.fixture
def worker(
    tmp_path: Path, migrated_sqlite: Path, stub_bundle: Bundle, ports: PortReservations
) -> Iterator[tuple[Path, int]]:
    """A worker with stub slots: its inbox and the port on which it is asked."""
    database, inbox, port = tmp_path / "preread.db", tmp_path / "inbox", ports.reserve()
    shutil.copy(migrated_sqlite, database)
    inbox.mkdir()
    options = {"settle_s": 0.2, "scan_interval_s": 1.0, "slots": 1, "health_listen": f"127.0.0.1:{port}"}
    arguments: list[str | Path] = [
        f"sqlite:///{database}",
        stub_bundle.path,
        tmp_path / "inferences",
        json.dumps(options),
        inbox,
    ]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, RUN_WORKER, *arguments], stderr=log, stdin=subprocess.DEVNULL, cwd=REPOSITORY
        )
    yield inbox, port
    process.terminate()
    assert process.wait(WITHIN_S) == 0


Ask = Callable[..., Any]


@pytest.fixture
def prometheus(tmp_path: Path, ports: PortReservations) -> Iterator[Callable[..., Ask]]:
    """Starts a Prometheus that scrapes these ports each second; what it returns asks it: ``ask(path, name=value)``."""
    started = []

    def start(*scraped_ports: int) -> Ask:
        port = ports.reserve()
        targets = [f"127.0.0.1:{scraped}" for scraped in scraped_ports]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "preread", "static_configs": [{"targets": targets}]}],
        }
        file = tmp_path / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        checked = subprocess.run(["promtool", "check", "config", file], check=False, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        flags: list[str | Path] = [
            f"--config.file={file}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (tmp_path / "prometheus.log").open("wb") as log:
            started.append(subprocess.Popen(["prometheus", *flags], stdout=log, stderr=log, stdin=subprocess.DEVNULL))

        def ask(path: str, **query: str) -> Any:
            url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
            try:
                with urllib.request.urlopen(url, timeout=30) as answer:
                    return json.load(answer)["data"]
            except OSError:
                return None  # it is not up yet

        return ask

    yield start
    for process in started:
        process.terminate()
        process.wait(WITHIN_S)


def value_of(ask: Ask, query: str) -> float | None:
    found = ask("query", query=query)
    return float(found["result"][0]["value"][1]) if found and found["result"] else None


@pytest.mark.prometheus
def test_prometheus_finds_what_the_worker_did(
    worker: tuple[Path, int], prometheus: Callable[..., Ask], eventually: Callable[..., None]
) -> None:
    inbox, port = worker
    ask = prometheus(port)
    value = partial(value_of, ask)

    eventually(lambda: value('preread_films_total{outcome="assessed"}') == 0, WITHIN_S)
    (inbox / "film.jpeg").write_bytes(phantoms.to_jpeg(phantoms.draw_chest(1, rows=96, columns=96)))
    (inbox / "broken.jpeg").write_bytes(b"\xff\xd8\xff\xe0 no film")
    eventually(lambda: value('preread_films_total{outcome="assessed"}') == 1, WITHIN_S)
    eventually(lambda: value('sum(preread_films_total{outcome="unreadable"})') == 1, WITHIN_S)
    assert value('preread_stage_seconds_count{stage="invoke"}') == 1
    assert value("preread_closed_to_committed_seconds_count") == 2
    assert value('preread_probability_count{finding="pneumonia"}') == 1
    assert value("preread_slots_alive") == 1
    eventually(lambda: value("preread_share_up") == 1, WITHIN_S)
    assert value("preread_database_up") == 1

    hidden = inbox.with_name("unmounted")
    inbox.rename(hidden)
    eventually(lambda: value("preread_share_up") == 0, WITHIN_S)
    eventually(lambda: value('preread_problem{code="share_down", level="critical"}') == 1, WITHIN_S)

    def watched() -> dict[str, str]:
        found = ask("rules")
        return {rule["name"]: rule["state"] for group in found["groups"] for rule in group["rules"]} if found else {}

    eventually(lambda: watched().get("PrereadShareDown") == "pending", WITHIN_S)
    assert watched()["PrereadDown"] == "inactive"
    hidden.rename(inbox)


@pytest.mark.prometheus
@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
def test_prometheus_finds_what_each_process_of_a_fleet_did(
    tmp_path: Path,
    database_url: str,
    engine: Engine,
    stub_bundle: Bundle,
    prometheus: Callable[..., Ask],
    eventually: Callable[..., None],
    ports: PortReservations,
) -> None:
    """Two processes of one setting: each takes a port of its own after the one that is named."""
    archive = tmp_path / "archive"
    archive.mkdir()
    film = phantoms.to_jpeg(phantoms.draw_chest(5, rows=96, columns=96))
    for number in range(12):
        (archive / f"{number}.jpg").write_bytes(film + b"film %d" % number)
    queue = FleetQueue(engine)
    queue.install()
    root_id = Ledger(engine, worker_id="the test", lease_s=60.0).register_root(
        os.fsencode(archive), population=Population.CHILDREN_1_5Y
    )
    port = ports.reserve()
    options = {"settle_s": 0.05, "network_settle_s": 0.05, "slots": 1, "health_listen": f"127.0.0.1:{port}"}
    arguments: list[str | Path] = [
        database_url,
        stub_bundle.path,
        tmp_path / "inferences",
        json.dumps(options | {"heartbeat_s": 0.5}),
    ]
    (tmp_path / "inferences").touch()
    processes, logs = [], [tmp_path / f"log{number}" for number in range(2)]
    try:
        for path in logs:
            with path.open("wb") as log:
                command: list[str | Path] = [sys.executable, RUN_FLEET, *arguments]
                processes.append(subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL, cwd=REPOSITORY))
        served = re.compile(r'"address": ?"127\.0\.0\.1:(\d+)"')
        eventually(lambda: all(served.search(path.read_text()) for path in logs), WITHIN_S)
        opened = [int(served.findall(path.read_text())[0]) for path in logs]
        assert len({port, *opened}) == 3
        value = partial(value_of, prometheus(*opened))
        eventually(lambda: value('count(preread_films_total{outcome="assessed"} == 0)') == 2, WITHIN_S)
        cut = partition.cut_shards(
            FileSystem(), os.fsencode(archive), 4, ScanCounts(), archives.shard_order_key(engine)
        )
        assert queue.submit(ShardJob(root_id, stub_bundle.digest, False, shard) for shard in cut) == (3, 0, 12)
        eventually(lambda: value('sum(preread_films_total{outcome="assessed"})') == 12, WITHIN_S)
        assert value('sum(preread_stage_seconds_count{stage="invoke"})') == 12
        eventually(lambda: value('max(preread_fleet_shards{status="succeeded"})') == 3, WITHIN_S)
        assert value("max(preread_fleet_processes)") == 2
        assert value("max(preread_status)") == 0
        assert value("count(preread_share_up)") is None, "no worker watches the archive, and none need"
        bundle = value('count(preread_bundle_info{bundle="stub/1.0.0"})')
        alive = value("count(preread_slots_alive == 1)")
        assert bundle == alive, "of each process that had a shard"
        assert bundle
    finally:
        for process in processes:
            process.terminate()
        codes = [process.wait(WITHIN_S) for process in processes]
    assert codes == [0, 0], [path.read_text() for path in logs]
