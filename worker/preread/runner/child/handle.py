"""One slot as its worker sees it: a child process, what leads to it, and the film that it has in hand.

The slot opens nothing. A thread here, one for each slot, opens the film beneath its root and sends the descriptor; when
the slot has answered, it looks whether the path still leads to that file, and writes the preview. A share that hangs
holds this thread and its slot, not the worker.
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
from preread.runner.child import protocol as slot_messages
from preread.runner.child.protocol import MAX_LINE_BYTES, Job, Known, Reply, Report, Setup
from preread.runner.confine.refused_calls import RefusedCalls
from preread.share import safe_read as beneath

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


@dataclass(frozen=True, slots=True)
class Looked(Generic[Ticket]):
    """What a slot's thread found: how the film ended, or why it could not be handed out or is another one by now."""

    slot: SlotChild[Ticket]
    ticket: Ticket
    found: Report | EnvironmentFault


class Post(Generic[Ticket]):
    """Takes in what the threads of all slots found; ``fd`` can be read when there is something."""

    def __init__(self) -> None:
        self._found: SimpleQueue[Looked[Ticket]] = SimpleQueue()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def put(self, looked: Looked[Ticket]) -> None:
        self._found.put(looked)
        os.eventfd_write(self.fd, 1)

    def take(self) -> Iterator[Looked[Ticket]]:
        """Yield what came since."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        while not self._found.empty():
            yield self._found.get()

    def close(self) -> None:
        os.close(self.fd)


class SlotChild(Generic[Ticket]):
    """One child process: what leads to it, what it has in hand, and how it died.

    Raises:
        OSError: there is no room for another process.
    """

    def __init__(
        self, command: Sequence[str], setup: Setup, start_by: float, post: Post[Ticket], place: PreviewStore | None
    ) -> None:
        # what comes through there wakes nobody: it is looked at only once the slot is dead or late
        self._notes, notes_fd = os.pipe()
        os.set_blocking(self._notes, False)
        self.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._preview = -1 if place is None else os.memfd_create("preview", os.MFD_CLOEXEC)
        given = [notes_fd]
        try:
            if self._preview >= 0:
                os.ftruncate(self._preview, previews.MAX_BYTES)
                given.append(self._preview)
            self.process = subprocess.Popen(
                command,
                stdin=control.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # what decoders print there can quote a film
                env=_environment(),
                close_fds=True,
                pass_fds=given,
                start_new_session=True,
            )
        except OSError:
            self._close_own()
            raise
        finally:
            control.close()
            os.close(notes_fd)
        assert self.process.stdout is not None
        self.from_slot = self.process.stdout
        os.set_blocking(self.from_slot.fileno(), False)
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
        """The slot has said how the film ended, and its thread looks at the file again."""
        self.last = False
        """It ends by itself, since a decoder failed in it."""
        self.ended = False
        """It has said all that it will."""
        self._post = post
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

    def send(self, message: Setup | Job | Known, *descriptors: int) -> None:
        """Send it a message. One that is gone, or does not read what it is sent, shows at its other pipe or is late."""
        with contextlib.suppress(OSError):
            slot_messages.send(self.control, slot_messages.encode(message), descriptors)

    def take_listener(self) -> bool:
        """Take what comes through the socket while it starts: the descriptor by which the kernel tells of its calls.

        Returns:
            Whether it came now. Nothing more comes through the socket then.
        """
        try:
            _, descriptor = slot_messages.receive(self.control, 64, socket.MSG_DONTWAIT)
        except OSError:
            descriptor = None
        if descriptor is not None:
            self.refused = RefusedCalls(descriptor)
        self.control.shutdown(socket.SHUT_RD)
        return self.refused is not None

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

    def computed_s(self) -> float:
        """Return for how many seconds it has computed since it has the film in hand; 0 where that is not known."""
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
        """Let go of all that led to it; its thread ends when the share lets it."""
        with self._lock:
            self._gone = True
        self._tasks.put(None)
        self._close_own()
        if self.refused is not None:
            self.refused.close()
        with contextlib.suppress(OSError):
            self.from_slot.close()

    def _close_own(self) -> None:
        self.control.close()
        os.close(self._notes)
        if self._preview >= 0:
            os.close(self._preview)

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

    # ------------------------------------------------------------------ one film

    def take(self, ticket: Ticket, job: Job, deadline_at: float) -> None:
        """Give it a film."""
        self.ticket, self.deadline_at, self._job = ticket, deadline_at, job
        self.answered = False
        self.has_bytes()  # what it noted of the film before
        self.sha256 = None
        self._computed_before_s = self._computed_s()
        self._tasks.put(lambda: self._hand_out(ticket, job))

    def answer(self, *, known: bool, forgotten: bool) -> None:
        """Answer what it asked of the bytes that it has."""
        place, sha256 = self._place, self.sha256
        kept = place is not None and sha256 is not None and previews.exists(place.folder, sha256)
        self.send(Known(known, forgotten, kept))

    def note_read(self, sha256: str) -> None:
        """Take in what it said that it has read."""
        self.sha256 = sha256

    def look_again(self, report: Report) -> None:
        """Have the file looked at once more, and the preview written, before the report counts."""
        ticket, job, status = self.ticket, self._job, self._status
        assert ticket is not None
        assert job is not None
        if status is None or self.answered:
            raise ValueError("the slot answers for a film that it was not given")
        self.answered = True
        preview = None
        if self._place is not None and job.preview and report.preview_bytes:
            # copied: the slot could still write there while it is looked at
            preview = os.pread(self._preview, min(report.preview_bytes, previews.MAX_BYTES), 0)
        self._tasks.put(lambda: self._conclude(ticket, job, status, report, preview))

    def finish(self) -> Ticket:
        """Take the film from it."""
        ticket = self.ticket
        assert ticket is not None
        self.ticket, self.deadline_at, self._job, self._status = None, None, None, None
        self.answered = False
        if self.refused is not None:
            self.refused.count = 0
        return ticket

    # ------------------------------------------------------------------ on the slot's thread

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def _hand_out(self, ticket: Ticket, job: Job) -> None:
        began = time.perf_counter()
        expected = Observation(slot_messages.to_path(job.path), job.size_bytes, job.mtime_ns)
        try:
            descriptor, status = beneath.open_file(slot_messages.to_path(job.root), expected, self._max_bytes)
        except TooManyBytes as error:
            ms = (time.perf_counter() - began) * 1000
            self._tell(ticket, Report(Outcome.UNREADABLE, None, ms, code=error.code, reason=escape(str(error))))
            return
        except EnvironmentFault as error:
            self._tell(ticket, error)
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
            beneath.check_unchanged(slot_messages.to_path(job.root), slot_messages.to_path(job.path), status)
        except EnvironmentFault as error:
            self._tell(ticket, error)
            return
        place, sha256 = self._place, report.sha256
        if place is not None and sha256 is not None and preview is not None and not self._gone:
            kept = previews.exists(place.folder, sha256) or previews.save(
                place.folder, sha256, preview, place.min_free_bytes
            )
            report = replace(report, preview_dropped=report.preview_dropped or not kept)
        self._tell(ticket, report)

    def _tell(self, ticket: Ticket, found: Report | EnvironmentFault) -> None:
        with self._lock:
            if not self._gone:
                self._post.put(Looked(self, ticket, found))


def _environment() -> dict[str, str]:
    """None of the worker's settings, one of which may hold the database's password."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # this very package, wherever the worker was started from
    return passed_on | _FOR_SLOTS | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
