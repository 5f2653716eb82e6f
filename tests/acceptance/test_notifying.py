"""What systemd hears of the real programs: ready, beats while the work goes on, silence when it does not, the end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from preread.core.systemd import Notifier
from preread.model.bundles import Bundle
from preread_training.data import phantoms
from tests.support.paths import REPOSITORY
from tests.support.ports import PortReservations

FAULTY_WORKER = REPOSITORY / "tests" / "programs" / "faulty_worker.py"
WITHIN_S = 240.0
PERIOD_S = 2.0


@pytest.fixture
def line(tmp_path: Path) -> Iterator[socket.socket]:
    """The datagram socket that systemd would hold."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.settimeout(WITHIN_S)
        yield line


def heard(line: socket.socket) -> str:
    return line.recv(1000).decode()


def silent_for(line: socket.socket, seconds: float) -> bool:
    """Take what was said until now; whether nothing follows for so long."""
    line.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while line.recv(1000):
            pass
    line.settimeout(seconds)
    try:
        line.recv(1000)
    except TimeoutError:
        return True
    finally:
        line.settimeout(WITHIN_S)
    return False


@pytest.mark.parametrize("program", ["run", "web"])
def test_a_program_says_that_it_is_ready_and_goes_on(
    tmp_path: Path, line: socket.socket, program: str, ports: PortReservations, migrated_sqlite: Path
) -> None:
    (tmp_path / "inbox").mkdir()
    shutil.copy(migrated_sqlite, tmp_path / "preread.db")
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": str(int(PERIOD_S * 1e6)),
        "PREREAD_DATABASE_URL": f"sqlite:///{tmp_path / 'preread.db'}",
        "PREREAD_WEB_PORT": str(ports.reserve()),
    }
    arguments = {"run": ["run", "--root", "inbox"], "web": ["web"]}[program]
    preread = [sys.executable, "-m", "preread", *arguments]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(preread, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        first = [heard(line)]
        while "READY=1" not in first:  # the worker's loop goes round while its slots load the network
            first.append(heard(line))
        assert set(first[:-1]) <= {"WATCHDOG=1"}
        assert [heard(line) for _ in range(3)] == ["WATCHDOG=1"] * 3
        process.terminate()
        last = heard(line)
        while last == "WATCHDOG=1":
            last = heard(line)
        assert last == "STOPPING=1"
        assert process.wait(WITHIN_S) == 0
    finally:
        process.kill()
        process.wait(WITHIN_S)


def test_a_main_loop_that_hangs_falls_silent(
    tmp_path: Path, line: socket.socket, database_url: str, stub_bundle: Bundle
) -> None:
    """Its other threads go on: folders are watched, and ``/health`` is answered."""
    (tmp_path / "inbox").mkdir()
    environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    options = json.dumps({"settle_s": 0.05, "scan_interval_s": 0.5, "slots": 1})
    arguments: list[str | Path] = [database_url, stub_bundle.path, tmp_path / "inferences", options, tmp_path / "inbox"]
    worker = subprocess.Popen(
        [sys.executable, FAULTY_WORKER, "ask", "before slots: hearing Done", *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        while heard(line) != "READY=1":
            pass
        assert not silent_for(line, WITHIN_S)
        (tmp_path / "inbox" / "film.jpeg").write_bytes(phantoms.to_jpeg(phantoms.draw_chest(1, rows=64, columns=64)))
        assert worker.stdout.readline() == "before slots: hearing Done\n", "the main loop waits now"
        assert silent_for(line, 2.0)
        worker.stdin.write("go on\n")
        worker.stdin.flush()
        assert heard(line) == "WATCHDOG=1"
    finally:
        worker.kill()
        worker.communicate()


def test_children_and_other_processes_have_nothing_to_tell() -> None:
    environ = {"NOTIFY_SOCKET": "@abstract", "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1", "PATH": "/bin"}
    assert Notifier.from_environment(environ).beat_s is None
    assert environ == {"PATH": "/bin"}
    quiet = Notifier.from_environment(environ)
    quiet.ready()
    quiet.beat()


def test_an_abstract_socket_and_one_that_is_gone(tmp_path: Path) -> None:
    name = f"preread-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(f"\0{name}")
        told = Notifier(f"@{name}", 40.0)
        assert told.beat_s == 10.0
        for say in (told.ready, told.ready, told.beat, told.beat, told.stopping):
            say()
        line.settimeout(WITHIN_S)
        assert [line.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]
    told.stopping()  # nobody listens any more: logged, not raised
