"""Handle of one inference process in the worker, with the file in hand."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Generic

from preread.core.errors import EnvironmentFault, SlotCrashed
from preread.imaging import previews
from preread.imaging.previews import PreviewStore
from preread.runner.child.channel import ProcessChannel
from preread.runner.child.file_thread import FileThread, Ticket
from preread.runner.child.protocol import Job, Known, Report, Setup

GOODBYE_S = 2.0
"""Seconds to wait for a process that is to end, or whose pipes have ended."""


@dataclass(frozen=True, slots=True)
class FileChecked(Generic[Ticket]):
    """Result of a file once its thread has checked the path again.

    Attributes:
        child: the process that read it.
        ticket: of the file.
        found: how the file ended, or why it could not be opened or has changed.
    """

    child: InferenceProcess[Ticket]
    ticket: Ticket
    found: Report | EnvironmentFault


class ResultQueue(Generic[Ticket]):
    """Queue of results from the threads of all inference processes.

    Attributes:
        fd: readable when there is a result.
    """

    def __init__(self) -> None:
        self._found: SimpleQueue[FileChecked[Ticket]] = SimpleQueue()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def put_result(self, result: FileChecked[Ticket]) -> None:
        """Add the result of a file; safe from any thread."""
        self._found.put(result)
        os.eventfd_write(self.fd, 1)

    def take_results(self) -> Iterator[FileChecked[Ticket]]:
        """Take the results of files that have come from the queue."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        while not self._found.empty():
            yield self._found.get()

    def close(self) -> None:
        """Close the queue's descriptor."""
        os.close(self.fd)


@dataclass(slots=True)
class FileInHand(Generic[Ticket]):
    """File that an inference process has in hand.

    Attributes:
        ticket: of the file.
        job: of the file.
        computed_before_s: processor seconds of the process before this file.
        sha256: of its content (hex); ``None`` while it is not known.
        answered: the process has sent its report, and the thread checks the file again.
    """

    ticket: Ticket
    job: Job
    computed_before_s: float
    sha256: str | None = None
    answered: bool = False


class InferenceProcess(Generic[Ticket]):
    """Inference process with the file that it has in hand, and its end.

    Args:
        command: program of the process.
        setup: first message to it.
        start_by: when it must be ready (monotonic seconds).
        results: gets the result of each file.
        store: where previews are kept; ``None`` keeps none.

    Attributes:
        channel: its socket, pipes and shared memory.
        files: the thread that opens its files.
        started: it is ready, or has been.
        starting: the listener for refused calls may still come.
        deadline_at: when it is killed (monotonic seconds); ``None`` while it waits for a job.
        last: it ends by itself, since a decoder failed in it.
        ended: no message comes any more.
        in_hand: the file that it reads; ``None`` if there is none.

    Raises:
        OSError: there is no room for another process.
    """

    def __init__(
        self,
        command: Sequence[str],
        setup: Setup,
        start_by: float,
        results: ResultQueue[Ticket],
        store: PreviewStore | None,
    ) -> None:
        self.channel = ProcessChannel(command, setup, previews_kept=store is not None)
        self.started = False
        self.starting = True
        self.deadline_at: float | None = start_by
        self.last = False
        self.ended = False
        self.in_hand: FileInHand[Ticket] | None = None
        self._store = store
        self.files: FileThread[Ticket] = FileThread(
            self.channel.send_message,
            lambda ticket, found: results.put_result(FileChecked(self, ticket, found)),
            setup.max_file_bytes,
            store,
        )
        self.channel.send_setup()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The child process."""
        return self.channel.process

    @property
    def ticket(self) -> Ticket | None:
        """Ticket of the file in hand; ``None`` if there is none."""
        return None if self.in_hand is None else self.in_hand.ticket

    @property
    def has_answered(self) -> bool:
        """``True`` if the process has sent its report of the file in hand."""
        return self.in_hand is not None and self.in_hand.answered

    def kill_process(self) -> None:
        """Kill the inference process, and whatever it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def has_bytes(self) -> bool:
        """Return whether the process has read the file in hand.

        The SHA-256 is noted. To be called once for each file.
        """
        noted, sha256 = self.channel.read_note()
        if noted and self.in_hand is not None:
            self.in_hand.sha256 = sha256
        return noted

    def measure_computed_s(self) -> float:
        """Return the process's processor seconds for the file in hand.

        Returns:
            0 if they are not known.
        """
        before_s = 0.0 if self.in_hand is None else self.in_hand.computed_before_s
        return max(0.0, self._computed_s() - before_s)

    def _computed_s(self) -> float:
        try:
            status = Path(f"/proc/{self.process.pid}/stat").read_bytes()
        except OSError:
            return 0.0
        # behind the program's name, which may hold anything: utime and stime (proc(5))
        user, system = status.rpartition(b")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Close the pipes of the process; its thread ends when it can."""
        self.files.close()
        self.channel.close()

    def wait_for_death(self) -> SlotCrashed:
        """Wait for the end of a dying process, and return its cause."""
        try:
            status = self.process.wait(GOODBYE_S)
        except subprocess.TimeoutExpired:
            return SlotCrashed(f"the inference process sends no messages and did not end within {GOODBYE_S:g} s")
        if status >= 0:
            return SlotCrashed(f"the inference process ended with code {status}")
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = str(-status)
        return SlotCrashed(f"the inference process was ended by {name}")

    def start_file(self, ticket: Ticket, job: Job, deadline_at: float) -> None:
        """Give the process a file to read, until a deadline."""
        self.has_bytes()  # what it noted of the file before
        self.deadline_at = deadline_at
        self.in_hand = FileInHand(ticket, job, self._computed_s())
        self.files.request_open(ticket, job)

    def send_known(self, *, known: bool, forgotten: bool) -> None:
        """Tell the process what is known about the content that it has read.

        Args:
            known: the content was assessed before.
            forgotten: it was purged.
        """
        sha256 = None if self.in_hand is None else self.in_hand.sha256
        store = self._store
        kept = store is not None and sha256 is not None and previews.has_preview(store.folder, sha256)
        self.channel.send_message(Known(known, forgotten, kept))

    def end_reading(self, report: Report) -> None:
        """Check the file again and write the preview before a report counts.

        Raises:
            ValueError: the process has no file, or has reported it already.
        """
        file = self.in_hand
        if file is None or file.answered:
            raise ValueError("the inference process sent a report of a file that it was not given")
        preview = None
        if self._store is not None and file.job.preview and report.preview_bytes:
            # copied: the process could still write there while it is looked at
            preview = self.channel.read_preview(report.preview_bytes)
        self.files.request_check(file.ticket, file.job, report, preview)
        file.answered = True

    def finish_file(self) -> Ticket:
        """Take the file in hand from the process, and return its ticket."""
        assert self.in_hand is not None
        ticket = self.in_hand.ticket
        self.in_hand, self.deadline_at, self.files.status = None, None, None
        if self.channel.refused is not None:
            self.channel.refused.count = 0
        return ticket
