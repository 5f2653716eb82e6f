"""Handle of one inference process in the worker, with the file in hand.

The process opens nothing. A thread here, one for each process, opens the file beneath its root and sends the
descriptor; when the process has answered, it checks whether the path still leads to that file, and writes the preview.
A share that hangs holds this thread and its process, not the worker.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Generic, TypeVar

from preread.core.errors import EnvironmentFault, SlotCrashed, TooManyBytes
from preread.core.text.escaping import escape
from preread.core.types import Outcome
from preread.imaging import previews
from preread.imaging.previews import PreviewStore
from preread.ledger.records import Observation
from preread.runner.child import protocol
from preread.runner.child.protocol import MAX_LINE_BYTES, Job, Known, Reply, Report, Setup
from preread.runner.confine.refused_calls import RefusedCalls
from preread.share import safe_read

GOODBYE_S = 2.0
"""Seconds to wait for a process that is to end, or whose pipes have ended."""

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
# One core each; one arena keeps the address space near the memory in use.
_LIBRARY_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}

_SHA256 = re.compile(rb"[0-9a-f]{64}")
Ticket = TypeVar("Ticket")


@dataclass(frozen=True, slots=True)
class FileChecked(Generic[Ticket]):
    """Result of a file once its thread has checked the path again.

    Attributes:
        found: how the file ended, or why it could not be opened or has changed.
    """

    child: InferenceProcess[Ticket]
    ticket: Ticket
    found: Report | EnvironmentFault


class ResultQueue(Generic[Ticket]):
    """Results from the threads of all processes.

    Attributes:
        fd: readable when there is a result.
    """

    def __init__(self) -> None:
        self._found: SimpleQueue[FileChecked[Ticket]] = SimpleQueue()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def put(self, result: FileChecked[Ticket]) -> None:
        """Add a result; from any thread."""
        self._found.put(result)
        os.eventfd_write(self.fd, 1)

    def take(self) -> Iterator[FileChecked[Ticket]]:
        """Yield the results that have come."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        while not self._found.empty():
            yield self._found.get()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


class InferenceProcess(Generic[Ticket]):
    """Child process with its pipes, the file that it has in hand, and its end.

    Args:
        command: program of the process.
        setup: first message to it.
        start_by: when it must be ready (monotonic seconds).
        results: gets the result of each file.
        place: where previews are kept; ``None`` keeps none.

    Raises:
        OSError: there is no room for another process.
    """

    def __init__(
        self,
        command: Sequence[str],
        setup: Setup,
        start_by: float,
        results: ResultQueue[Ticket],
        place: PreviewStore | None,
    ) -> None:
        # it wakes nobody: it is read only once the process is dead or late
        self._notes, notes_fd = os.pipe()
        os.set_blocking(self._notes, False)
        self.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._preview = -1 if place is None else os.memfd_create("preview", os.MFD_CLOEXEC)
        try:
            self.process = self._launch(command, control.fileno(), notes_fd)
        except OSError:
            self._close_own()
            raise
        finally:
            control.close()
            os.close(notes_fd)
        assert self.process.stdout is not None
        self.from_child = self.process.stdout
        os.set_blocking(self.from_child.fileno(), False)
        self.pending = b""
        self.started = False
        self.lacking: tuple[str, ...] = ()
        self.refused: RefusedCalls | None = None
        self.starting = True
        """The listener may still come."""
        self.ticket: Ticket | None = None
        self.sha256: str | None = None
        self._computed_before_s = 0.0
        self.deadline_at: float | None = start_by
        self.answered = False
        """The process has sent its report, and the thread checks the file again."""
        self.last = False
        """It ends by itself, since a decoder failed in it."""
        self.ended = False
        """No message comes any more."""
        self._results = results
        self._place = place
        self._max_bytes = setup.max_file_bytes
        self._job: Job | None = None
        self._status: os.stat_result | None = None
        # guards what the thread does to descriptors: none may be another's by then
        self._lock = threading.Lock()
        self._gone = False
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="slot's files", daemon=True)
        self.thread.start()
        self.send(replace(setup, notes_fd=notes_fd, preview_fd=self._preview))

    def _launch(self, command: Sequence[str], control_fd: int, notes_fd: int) -> subprocess.Popen[bytes]:
        given = [notes_fd]
        if self._preview >= 0:
            os.ftruncate(self._preview, previews.MAX_BYTES)
            given.append(self._preview)
        return subprocess.Popen(
            command,
            stdin=control_fd,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # messages of decoders can quote a file
            env=_environment(),
            close_fds=True,
            pass_fds=given,
            start_new_session=True,
        )

    def send(self, message: Setup | Job | Known, *descriptors: int) -> None:
        """Send a message; a process that does not read it shows at its other pipe."""
        with contextlib.suppress(OSError):
            protocol.send(self.control, protocol.encode(message), descriptors)

    def take_listener(self) -> bool:
        """Receive the descriptor by which the kernel reports refused calls.

        It comes through the socket while the process starts; nothing more does.

        Returns:
            Whether it came now.
        """
        try:
            _, descriptor = protocol.receive(self.control, 64, socket.MSG_DONTWAIT)
        except OSError:
            descriptor = None
        if descriptor is not None:
            self.refused = RefusedCalls(descriptor)
        self.control.shutdown(socket.SHUT_RD)
        return self.refused is not None

    def replies(self) -> Iterator[Reply | None]:
        """Yield the messages that have come; ``None`` at their end.

        Raises:
            ValueError: a message is invalid.
        """
        while True:
            try:
                block = os.read(self.from_child.fileno(), 65536)
            except BlockingIOError:
                return
            if not block:
                yield None
                return
            *lines, self.pending = (self.pending + block).split(b"\n")
            for line in lines:
                yield protocol.decode_reply(line)
            if len(self.pending) > MAX_LINE_BYTES:
                raise ValueError(f"a message is longer than {MAX_LINE_BYTES} bytes")

    def kill(self) -> None:
        """Kill it, and whatever it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def has_bytes(self) -> bool:
        """Return whether it has read the file in hand, and set ``sha256``.

        To be called once for each file.
        """
        try:
            noted = os.read(self._notes, 4096)
        except BlockingIOError:
            return False
        self.sha256 = noted.decode() if _SHA256.fullmatch(noted) else None
        return noted != b""

    def computed_s(self) -> float:
        """Return its processor seconds for the file in hand; 0 if not known."""
        return max(0.0, self._computed_s() - self._computed_before_s)

    def _computed_s(self) -> float:
        try:
            status = Path(f"/proc/{self.process.pid}/stat").read_bytes()
        except OSError:
            return 0.0
        # behind the program's name, which may hold anything: utime and stime (proc(5))
        user, system = status.rpartition(b")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Close all pipes; the thread ends when the share lets it."""
        with self._lock:
            self._gone = True
        self._tasks.put(None)
        self._close_own()
        if self.refused is not None:
            self.refused.close()
        with contextlib.suppress(OSError):
            self.from_child.close()

    def _close_own(self) -> None:
        self.control.close()
        os.close(self._notes)
        if self._preview >= 0:
            os.close(self._preview)

    def cause_of_death(self) -> SlotCrashed:
        """Return how it ended; it must have, or be about to."""
        try:
            status = self.process.wait(GOODBYE_S)
        except subprocess.TimeoutExpired:
            return SlotCrashed("the inference process sends no messages any more")
        if status >= 0:
            return SlotCrashed(f"the inference process ended with code {status}")
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = str(-status)
        return SlotCrashed(f"the inference process was ended by {name}")

    # ------------------------------------------------------------------ one file

    def take(self, ticket: Ticket, job: Job, deadline_at: float) -> None:
        """Give it a file."""
        self.ticket, self.deadline_at, self._job = ticket, deadline_at, job
        self.answered = False
        self.has_bytes()  # what it noted of the file before
        self.sha256 = None
        self._computed_before_s = self._computed_s()
        self._tasks.put(lambda: self._hand_out(ticket, job))

    def answer(self, *, known: bool, forgotten: bool) -> None:
        """Answer its question about the content that it has.

        Args:
            known: the content was assessed before.
            forgotten: it was purged.
        """
        place, sha256 = self._place, self.sha256
        kept = place is not None and sha256 is not None and previews.has_preview(place.folder, sha256)
        self.send(Known(known, forgotten, kept))

    def note_read(self, sha256: str) -> None:
        """Set the SHA-256 of the content that it has read."""
        self.sha256 = sha256

    def look_again(self, report: Report) -> None:
        """Check the file again and write the preview before the report counts."""
        ticket, job, status = self.ticket, self._job, self._status
        assert ticket is not None
        assert job is not None
        if status is None or self.answered:
            raise ValueError("a report of a file that the process was not given")
        self.answered = True
        preview = None
        if self._place is not None and job.preview and report.preview_bytes:
            # copied: the process could still write there while it is looked at
            preview = os.pread(self._preview, min(report.preview_bytes, previews.MAX_BYTES), 0)
        self._tasks.put(lambda: self._conclude(ticket, job, status, report, preview))

    def finish(self) -> Ticket:
        """Take the file from it; return its ticket."""
        ticket = self.ticket
        assert ticket is not None
        self.ticket, self.deadline_at, self._job, self._status = None, None, None, None
        self.answered = False
        if self.refused is not None:
            self.refused.count = 0
        return ticket

    # ------------------------------------------------------------------ on the process's thread

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def _hand_out(self, ticket: Ticket, job: Job) -> None:
        began = time.perf_counter()
        expected = Observation(protocol.to_path(job.path), job.size_bytes, job.mtime_ns)
        try:
            descriptor, status = safe_read.open_observed_file(protocol.to_path(job.root), expected, self._max_bytes)
        except TooManyBytes as error:
            ms = (time.perf_counter() - began) * 1000
            self._put(ticket, Report(Outcome.UNREADABLE, None, ms, code=error.code, reason=escape(str(error))))
            return
        except EnvironmentFault as error:
            self._put(ticket, error)
            return
        with self._lock:
            if not self._gone:
                self._status = status
                self.send(replace(job, root=""), descriptor)
        os.close(descriptor)

    def _conclude(
        self, ticket: Ticket, job: Job, status: os.stat_result, report: Report, preview: bytes | None
    ) -> None:
        try:
            # whatever was found holds only for a file that stood still meanwhile
            safe_read.check_file_unchanged(protocol.to_path(job.root), protocol.to_path(job.path), status)
        except EnvironmentFault as error:
            self._put(ticket, error)
            return
        place, sha256 = self._place, report.sha256
        if place is not None and sha256 is not None and preview is not None and not self._gone:
            kept = previews.has_preview(place.folder, sha256) or previews.store_preview(
                place.folder, sha256, preview, place.min_free_bytes
            )
            report = replace(report, preview_dropped=report.preview_dropped or not kept)
        self._put(ticket, report)

    def _put(self, ticket: Ticket, found: Report | EnvironmentFault) -> None:
        with self._lock:
            if not self._gone:
                self._results.put(FileChecked(self, ticket, found))


def _environment() -> dict[str, str]:
    """Return the environment of a process, without the worker's settings.

    One of them may hold the database's password.
    """
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # this very package, wherever the worker was started from
    return passed_on | _LIBRARY_SETTINGS | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
