"""One slot as its worker sees it: a child process, two pipes, and the film that it has in hand."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

from worker import slot_messages
from worker.errors import SlotCrashed
from worker.slot_messages import MAX_LINE_BYTES, Job, Known, Reply, Setup

GOODBYE_S = 2.0
"""A process that is told to end, or whose pipes have ended, is waited for so long."""

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
# One core each; one arena keeps the address space near the memory in use.
_FOR_SLOTS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}

_SHA256 = re.compile(rb"[0-9a-f]{64}")

Ticket = TypeVar("Ticket")


class SlotChild(Generic[Ticket]):
    """One child process: its pipes, what it has in hand, and how it died.

    Raises:
        OSError: there is no room for another process.
    """

    def __init__(self, command: Sequence[str], setup: Setup, start_by: float) -> None:
        # what comes through there wakes nobody: it is looked at only once the slot is dead or late
        self._notes, notes_fd = os.pipe()
        os.set_blocking(self._notes, False)
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # what decoders print there can quote a film
                env=_environment(),
                close_fds=True,
                pass_fds=(notes_fd,),
                start_new_session=True,
            )
        except OSError:
            os.close(self._notes)
            raise
        finally:
            os.close(notes_fd)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.to_slot = self.process.stdin
        self.from_slot = self.process.stdout
        os.set_blocking(self.from_slot.fileno(), False)
        self.pending = b""
        self.started = False
        self.ticket: Ticket | None = None
        self.sha256: str | None = None
        self.deadline_at: float | None = start_by
        self.send(replace(setup, notes_fd=notes_fd))

    def send(self, message: Setup | Job | Known) -> None:
        """Write it a line."""
        # a few kilobytes into the pipe of a process that waits for them; one that is gone shows at its other pipe
        with contextlib.suppress(BrokenPipeError):
            self.to_slot.write(slot_messages.encode(message))
            self.to_slot.flush()

    def replies(self) -> Iterator[Reply | None]:
        """Yield what the slot has said since; ``None`` when it will say no more.

        Raises:
            ValueError: it talks nonsense.
        """
        while True:
            try:
                block = os.read(self.from_slot.fileno(), 65536)
            except BlockingIOError:
                return
            if not block:
                yield None
                return
            *lines, self.pending = (self.pending + block).split(b"\n")
            for line in lines:
                yield slot_messages.decode_reply(line)
            if len(self.pending) > MAX_LINE_BYTES:
                raise ValueError("a line of the slot is too long")

    def kill(self) -> None:
        """End it at once, and whatever it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def has_bytes(self) -> bool:
        """Tell whether it has read the bytes of the film in hand, and note their ``sha256``; to be asked once."""
        try:
            noted = os.read(self._notes, 4096)
        except BlockingIOError:
            return False
        self.sha256 = noted.decode() if _SHA256.fullmatch(noted) else None
        return noted != b""

    def take(self, ticket: Ticket, job: Job, deadline_at: float) -> None:
        """Give it a film."""
        self.ticket, self.deadline_at = ticket, deadline_at
        self.has_bytes()  # what it noted of the film before
        self.sha256 = None
        self.send(job)

    def close(self) -> None:
        """Let go of all that led to it."""
        os.close(self._notes)
        for pipe in (self.to_slot, self.from_slot):
            with contextlib.suppress(OSError):
                pipe.close()

    def cause_of_death(self) -> SlotCrashed:
        """Say how it ended; it must have, or be about to."""
        try:
            status = self.process.wait(GOODBYE_S)
        except subprocess.TimeoutExpired:
            return SlotCrashed("the process that read this film fell silent")
        if status >= 0:
            return SlotCrashed(f"the process that read this film ended with code {status}")
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = str(-status)
        return SlotCrashed(f"the process that read this film was ended by {name}")


def _environment() -> dict[str, str]:
    """None of the worker's settings, one of which may hold the database's password."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # this very package, wherever the worker was started from
    return passed_on | _FOR_SLOTS | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
