"""Supervise several fleet processes on one machine."""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence

from preread.core.errors import BundleError, EnvironmentFault, SettingsError
from preread.core.signals import Signals, WakePipe

MOST_PROCESSES = 64
"""Most processes on one machine; each serves metrics on a port of its own."""
_LOG = logging.getLogger(__name__)
_LOOK_UP_S = 1.0
_PAUSE_S = 5.0
_DEATHS_WITHIN_S = 600.0
_DEATHS_AT_MOST = 10
# A person has to act: starting again gives the same.
_NO_USE = frozenset({SettingsError.exit_code, BundleError.exit_code})
_PR_SET_PDEATHSIG = 1


def supervise_processes(command: Sequence[str], count: int) -> int:
    """Keep fleet processes running until SIGTERM or SIGINT.

    Signals are passed on. Only on the main thread.

    Args:
        command: program and arguments of a process.
        count: number of processes.

    Returns:
        0 after a signal; 2 or 4 if a process ended so, which stops the others; 3 if processes keep dying.
    """
    with WakePipe() as wake, Signals(wake.set) as signals:
        return _Processes(command, count, wake, signals).until_the_end()


def end_with_parent(parent_pid: int) -> None:
    """Send SIGTERM to this process when its parent is gone.

    Raises:
        SystemExit: the parent is gone already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        raise SystemExit(EnvironmentFault.exit_code)


class _Processes:
    def __init__(self, command: Sequence[str], count: int, wake: WakePipe, signals: Signals) -> None:
        self._command = [*command, "--parent", str(os.getpid())]
        self._count = count
        self._wake = wake
        self._signals = signals
        self._running: list[subprocess.Popen[bytes]] = []
        self._deaths: deque[float] = deque(maxlen=_DEATHS_AT_MOST)
        self._start_at = 0.0

    def until_the_end(self) -> int:
        """See ``supervise_processes``."""
        exit_code = None
        while exit_code is None and not self._signals.count:
            self._start()
            self._wait()
            exit_code = self._reap()
        return self._stop(exit_code or 0)

    def _start(self) -> None:
        while len(self._running) < self._count and time.monotonic() >= self._start_at:
            # of their own session: Ctrl-C at a terminal must not reach them twice
            process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)
            self._running.append(process)

    def _wait(self) -> None:
        select.select([self._wake.fd], [], [], _LOOK_UP_S)
        self._wake.clear()

    def _reap(self) -> int | None:
        """Remove dead processes; return an exit code if the others are to end."""
        dead = [process for process in self._running if process.poll() is not None]
        self._running = [process for process in self._running if process.returncode is None]
        now = time.monotonic()
        for process in dead:
            _LOG.warning("process_ended", extra={"pid": process.pid, "exit_code": process.returncode})
            if process.returncode in _NO_USE:
                return process.returncode
            self._deaths.append(now)
            self._start_at = now + _PAUSE_S
        if len(self._deaths) == _DEATHS_AT_MOST and now - self._deaths[0] < _DEATHS_WITHIN_S:
            return EnvironmentFault.exit_code
        return None

    def _stop(self, exit_code: int) -> int:
        passed_on = 0
        while self._running:
            for _ in range(max(1, self._signals.count) - passed_on):
                passed_on += 1
                for process in self._running:
                    process.terminate()
            self._wait()
            self._running = [process for process in self._running if process.poll() is None]
        return exit_code
