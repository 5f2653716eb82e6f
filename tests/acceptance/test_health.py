"""A real worker's health: green while it works, red when it is killed, frozen, or loses its share."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from preread.core.types import FileState
from preread.model.bundles import Bundle
from preread.monitoring import health
from preread_training.data import phantoms
from tests.support.paths import REPOSITORY, RUN_WORKER
from tests.support.ports import PortReservations

WITHIN_S = 120.0


class Station:
    """A worker with stub slots on one folder."""

    def __init__(self, folder: Path, url: str, engine: Engine, bundle: Bundle, port: int) -> None:
        self.engine = engine
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        self.port = port
        options = {
            "settle_s": 0.2,
            "scan_interval_s": 1.0,
            "slots": 1,
            "health_listen": f"127.0.0.1:{self.port}",
        }
        arguments: list[str | Path] = [url, bundle.path, folder / "inferences", json.dumps(options), self.inbox]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, RUN_WORKER, *arguments],
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=REPOSITORY,
            )

    def report(self) -> health.Health:
        return health.report(self.engine, roots=[os.fsencode(self.inbox)], scan_interval_s=1.0)

    def codes(self) -> set[str]:
        return {problem.code for problem in self.report().problems}

    def asked(self) -> tuple[int, dict[str, Any]] | None:
        """What the endpoint says; ``None`` where it says nothing."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", "/health")
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except OSError:
            return None
        finally:
            connection.close()

    def is_green(self) -> bool:
        return not self.report().problems and (self.asked() or (0,))[0] == 200


@pytest.fixture
def station(
    tmp_path: Path, database_url: str, engine: Engine, stub_bundle: Bundle, ports: PortReservations
) -> Iterator[Station]:
    station = Station(tmp_path, database_url, engine, stub_bundle, ports.reserve())
    yield station
    if station.process.poll() is None:
        station.process.send_signal(signal.SIGCONT)
        station.process.kill()
    station.process.wait(WITHIN_S)


def test_green_while_it_works_and_red_when_it_is_killed(station: Station, eventually: Callable[..., None]) -> None:
    film = phantoms.to_jpeg(phantoms.draw_chest(1, rows=96, columns=96))
    (station.inbox / "film.jpeg").write_bytes(film)
    eventually(station.is_green, WITHIN_S)
    eventually(lambda: station.report().counts[FileState.DONE] == 1, WITHIN_S)
    answer = station.asked()
    assert answer is not None
    status, record = answer
    assert (status, record["status"], record["exit_code"]) == (200, "ok", 0)
    assert record["roots"][0]["path"] == str(station.inbox)

    hidden = station.inbox.with_name("unmounted")
    station.inbox.rename(hidden)
    eventually(lambda: (station.asked() or (0,))[0] == 503, WITHIN_S)
    eventually(lambda: station.codes() == {"share_down"}, WITHIN_S)
    hidden.rename(station.inbox)
    eventually(station.is_green, WITHIN_S)

    station.process.kill()
    station.process.wait(WITHIN_S)
    assert station.codes() == {"no_worker"}
    assert station.asked() is None


def test_red_when_it_is_frozen_and_green_when_it_goes_on(station: Station, eventually: Callable[..., None]) -> None:
    eventually(station.is_green, WITHIN_S)
    station.process.send_signal(signal.SIGSTOP)
    eventually(lambda: station.codes() == {"worker_silent"}, WITHIN_S)
    station.process.send_signal(signal.SIGCONT)
    eventually(station.is_green, WITHIN_S)
    station.process.terminate()
    assert station.process.wait(WITHIN_S) == 0
    assert station.codes() == {"no_worker"}
