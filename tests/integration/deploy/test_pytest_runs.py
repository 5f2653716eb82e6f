"""What a test run prints and leaves behind, in one process and in several."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

WITHIN_S = 240.0
STORE_TESTS = "tests/integration/db/test_engine.py"
CADDY_TESTS = "tests/integration/deploy/test_containers.py"


def test_collecting_the_tests_loads_nothing_that_trains() -> None:
    """TensorFlow takes seconds and a gigabyte in each process, so only the tests that train import it."""
    program = (
        "import sys, pytest; code = pytest.main(['--collect-only', '-q']); "
        "print(int(code), {'tensorflow', 'keras', 'torch', 'jax'} & {*sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "0 set()"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(params=["0", "2"], ids=["serial", "xdist"])
def processes(request: pytest.FixtureRequest) -> str:
    """What ``-n`` of pytest-xdist is given; 0 runs the tests in the main process."""
    return str(request.param)


@pytest.mark.parametrize(
    "required, code, said",
    [("", pytest.ExitCode.NO_TESTS_COLLECTED, "NOT RUN"), ("1", pytest.ExitCode.USAGE_ERROR, "ERROR")],
)
def test_a_run_names_what_the_machine_lacks(processes: str, required: str, code: pytest.ExitCode, said: str) -> None:
    own_programs = str(Path(sys.executable).parent)
    command = [sys.executable, "-m", "pytest", "-q", "-n", processes, "-m", "caddy", CADDY_TESTS]
    environment = {**os.environ, "PATH": own_programs, "CI": "", "REQUIRE_ALL": required}
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False, capture_output=True, text=True)
    assert run.returncode == code, run.stdout
    (line,) = [line for line in run.stdout.splitlines() if "caddy" in line]
    assert line.startswith(said)
    assert "install Caddy" in line


def _wait_for_server(folder: Path, run: subprocess.Popen[bytes]) -> int:
    """Process number of the server that the run started."""
    give_up_at = time.monotonic() + WITHIN_S
    while time.monotonic() < give_up_at:
        assert run.poll() is None, "the run ended before its server was up"
        for file in folder.glob("preread-pg-*/**/postmaster.pid"):
            if (lines := file.read_text().splitlines()) and lines[0].isdigit():
                return int(lines[0])
        time.sleep(0.1)
    raise AssertionError("no server was started")


def test_a_run_that_is_terminated_stops_its_postgres(processes: str) -> None:
    with tempfile.TemporaryDirectory(prefix="end-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # the server does not run as root
        command = [sys.executable, "-m", "pytest", "-q", "-n", processes, "-k", "postgres", STORE_TESTS]
        run = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        server = None
        try:
            server = _wait_for_server(Path(folder), run)
            run.send_signal(signal.SIGTERM)
            run.wait(WITHIN_S)
            assert not _lives(server)
            assert not list(Path(folder).glob("preread-pg-*")), "another process left its server"
        finally:
            run.kill()
            run.wait()
            if server is not None and _lives(server):
                os.kill(server, signal.SIGQUIT)
