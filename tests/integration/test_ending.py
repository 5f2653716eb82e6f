"""A test run that is told to end leaves no server behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOUSE = Path(__file__).parents[2]
WITHIN_S = 240.0


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


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


def test_a_run_that_is_terminated_stops_its_postgres() -> None:
    with tempfile.TemporaryDirectory(prefix="end-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # the server does not run as root
        command = [sys.executable, "-m", "pytest", "-q", "-k", "postgres", "tests/integration/test_store.py"]
        run = subprocess.Popen(
            command,
            cwd=HOUSE,
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
        finally:
            run.kill()
            run.wait()
            if server is not None and _lives(server):
                os.kill(server, signal.SIGQUIT)
