"""A real Prometheus scrapes a real worker, and finds what that worker did."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_training import phantoms
from worker.bundle import Bundle

RUN_WORKER = Path(__file__).parent.parent / "programs" / "run_worker.py"
RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "preread.rules.yml"
WITHIN_S = 120.0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def worker(tmp_path: Path, migrated_sqlite: Path, stub_bundle: Bundle) -> Iterator[tuple[Path, int]]:
    """A worker with stub slots: its inbox and the port on which it is asked."""
    database, inbox, port = tmp_path / "preread.db", tmp_path / "inbox", free_port()
    shutil.copy(migrated_sqlite, database)
    inbox.mkdir()
    options = {"settle_s": 0.2, "scan_interval_s": 1.0, "slots": 1, "health_listen": f"127.0.0.1:{port}"}
    arguments = [f"sqlite:///{database}", stub_bundle.path, tmp_path / "inferences", json.dumps(options), inbox]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, RUN_WORKER, *arguments], stderr=log, stdin=subprocess.DEVNULL, cwd=RUN_WORKER.parents[2]
        )
    yield inbox, port
    process.terminate()
    assert process.wait(WITHIN_S) == 0


@pytest.fixture
def prometheus(tmp_path: Path, worker: tuple[Path, int]) -> Iterator[Callable[..., Any]]:
    """Asks a Prometheus that scrapes the worker each second: ``prometheus(path, name=value)``."""
    port = free_port()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "preread", "static_configs": [{"targets": [f"127.0.0.1:{worker[1]}"]}]}],
    }
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    checked = subprocess.run(["promtool", "check", "config", file], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    flags = [
        f"--config.file={file}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *flags], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def ask(path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None  # it is not up yet

    yield ask
    process.terminate()
    process.wait(WITHIN_S)


@pytest.mark.prometheus
def test_prometheus_finds_what_the_worker_did(
    worker: tuple[Path, int], prometheus: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    inbox, _ = worker

    def value(query: str) -> float | None:
        found = prometheus("query", query=query)
        return float(found["result"][0]["value"][1]) if found and found["result"] else None

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
        found = prometheus("rules")
        return {rule["name"]: rule["state"] for group in found["groups"] for rule in group["rules"]} if found else {}

    eventually(lambda: watched().get("PrereadShareDown") == "pending", WITHIN_S)
    assert watched()["PrereadDown"] == "inactive"
    hidden.rename(inbox)
