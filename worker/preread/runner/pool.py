"""Pool of inference processes, with deadline, memory limit and restart.

The worker itself never touches a file's bytes. Messages of a process are validated; a process that dies, hangs or sends
an invalid message costs the file that it had in hand, and a new one takes its place. One in which a decoder failed ends
before it reads another file.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeAlias

from preread.core.backoff import Backoff
from preread.core.errors import (
    EnvironmentFault,
    PrereadError,
    SlotCrashed,
    SlotDeadline,
    SlotError,
    SlotMemory,
    error_from_code,
)
from preread.imaging.previews import PreviewStore
from preread.runner.child.file_thread import Ticket
from preread.runner.child.handle import GOODBYE_S, InferenceProcess, ResultQueue
from preread.runner.child.protocol import Job, Reply, ReplyKind, Report, Setup
from preread.runner.confine.confinement import ESSENTIAL
from preread.runner.confine.refused_calls import MOST, RefusedCalls

_LOG = logging.getLogger(__name__)
START_DEADLINE_S = 120.0
SPAWN_PAUSE_S = 5.0
# No memory, processes or descriptors left on the machine: that passes.
_NO_ROOM = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_STARTS_AT_MOST = 3
_START_DELAY = Backoff(1.0, 32.0)
COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "preread.runner.child.main")


@dataclass(frozen=True, slots=True)
class Read(Generic[Ticket]):
    """The process has the bytes and waits for ``InferencePool.answer``."""

    ticket: Ticket
    sha256: str


@dataclass(frozen=True, slots=True)
class Done(Generic[Ticket]):
    """The file has its outcome."""

    ticket: Ticket
    report: Report


@dataclass(frozen=True, slots=True)
class Fault(Generic[Ticket]):
    """The machine or the share is at fault, and not the file.

    Attributes:
        late: the process was held until its deadline.
    """

    ticket: Ticket
    error: EnvironmentFault
    late: bool = False


@dataclass(frozen=True, slots=True)
class Lost(Generic[Ticket]):
    """The process died, or had to be killed, while it had this file.

    Attributes:
        sha256: of the content; ``None`` if it is not known.
        computed_s: processor seconds of the process for this file, all threads together; 0 if not known.
    """

    ticket: Ticket
    error: SlotError
    sha256: str | None = None
    computed_s: float = 0.0


Ended: TypeAlias = Done[Ticket] | Fault[Ticket] | Lost[Ticket]
Event: TypeAlias = Read[Ticket] | Ended[Ticket]


class InferencePool(Generic[Ticket]):
    """All inference processes of one worker.

    For the main thread alone: a process ends with the thread that started it.

    Args:
        setup: first message to each process.
        count: number of processes.
        deadline_s: a process that has one file for longer is killed; before it has the bytes, the share is at fault.
        command: program of the processes; ``None`` for ``COMMAND``; tests give another.
        clock: monotonic seconds.
        place: where previews are kept; ``None`` keeps none.

    Attributes:
        events: of the processes, until ``poll`` returns them.
        deaths: number of processes that died or were killed.
        lacking: parts of the confinement that this machine does not have, from the last process that started.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        count: int,
        deadline_s: float,
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        place: PreviewStore | None = None,
    ) -> None:
        self.deadline_s = deadline_s
        self.events: deque[Event[Ticket]] = deque()
        self.deaths = 0
        self.lacking: tuple[str, ...] = ()
        self._count = count
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._children: list[InferenceProcess[Ticket]] = []
        self._results: ResultQueue[Ticket] = ResultQueue()
        self._selector.register(self._results.fd, selectors.EVENT_READ, self._take_results)
        self._start = partial(InferenceProcess[Ticket], command or COMMAND, setup, results=self._results, store=place)
        self._starts = _StartLimits(clock)
        self._leftovers = _Leftovers()

    @property
    def idle(self) -> int:
        """Number of processes that wait for a job."""
        return sum(child.started and child.ticket is None for child in self._children)

    @property
    def alive(self) -> int:
        """Number of processes that have started and are alive."""
        return sum(child.started and child.process.poll() is None for child in self._children)

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """The running child processes."""
        return [child.process for child in self._children]

    @property
    def ever_ready(self) -> bool:
        """``True`` if an inference process has ever been ready."""
        return self._starts.ever_ready

    @property
    def hanging(self) -> int:
        """Number of killed processes that hang, or whose thread hangs."""
        return self._leftovers.hanging

    def held_for(self, seconds: float) -> list[Ticket]:
        """Return the tickets that processes have had for so many seconds or more."""
        since = self._clock() + self.deadline_s - seconds
        late = [child for child in self._children if child.deadline_at is not None and child.deadline_at <= since]
        return [child.ticket for child in late if child.ticket is not None]

    @property
    def in_flight(self) -> list[Ticket]:
        """Tickets of the files that the processes have in hand."""
        return [child.ticket for child in self._children if child.ticket is not None]

    def wake_on(self, fd: int) -> None:
        """Let ``poll`` return when this descriptor is readable.

        The caller reads it.
        """
        self._selector.register(fd, selectors.EVENT_READ, None)

    def submit(self, ticket: Ticket, job: Job) -> None:
        """Give a job to an idle process; ``idle`` must be above 0."""
        child = next(child for child in self._children if child.started and child.ticket is None)
        child.start_file(ticket, job, self._clock() + self.deadline_s)

    def answer(self, ticket: Ticket, *, known: bool, forgotten: bool = False) -> None:
        """Answer a ``Read``; without effect if its process has died since.

        Args:
            ticket: of the file.
            known: the content was assessed before.
            forgotten: it was purged.
        """
        for child in self._children:
            if child.ticket == ticket:
                child.send_known(known=known, forgotten=forgotten)

    def poll(self, timeout_s: float) -> list[Event[Ticket]]:
        """Keep the processes going; return events within ``timeout_s``.

        Raises:
            BundleError, PrereadError: why no process can start.
            SlotCrashed: processes died, one after the other, before any was ready.
        """
        self._spawn()
        now = self._clock()
        deadlines = [child.deadline_at for child in self._children if child.deadline_at is not None]
        wait_s = max(0.0, min([timeout_s, *(at - now for at in deadlines)]))
        for key, _ in self._selector.select(wait_s):
            if key.data is not None:
                key.data()
        now = self._clock()
        for child in list(self._children):
            if child.deadline_at is not None and now >= child.deadline_at:
                self._lose(child, self._too_late(child), late=True)
        self._leftovers.reap()
        if self._starts.unfit is not None:
            raise self._starts.unfit
        events = list(self.events)
        self.events.clear()
        return events

    def abandon(self) -> list[Ticket]:
        """Kill every process that has a file in hand, and return their tickets."""
        tickets = self.in_flight
        for child in [child for child in self._children if child.ticket is not None]:
            self._remove(child)
        return tickets

    def close(self) -> None:
        """End all processes, at once those that have a file.

        The others end by themselves when their pipe is closed.
        """
        for child in self._children:
            if child.ticket is not None or not child.started:
                child.kill_process()
            self._unregister(child)
            child.close()
        give_up_at = time.monotonic() + GOODBYE_S
        for child in self._children:
            try:
                child.process.wait(max(0.0, give_up_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill_process()
                self._leftovers.add(child)
        self._children.clear()
        self._leftovers.wait()
        self._selector.close()
        self._results.close()

    # ------------------------------------------------------------------ inside

    def _spawn(self) -> None:
        for _ in range(self._count - len(self._children)):
            # killed ones that hang in the kernel on a dead share count, else each deadline adds one
            if len(self._children) + self.hanging >= 2 * self._count or not self._starts.allowed():
                return
            try:
                child = self._start(start_by=self._clock() + START_DEADLINE_S)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                _LOG.warning("slot_not_started", extra={"errno": error.errno, "delay_s": SPAWN_PAUSE_S})
                self._starts.pause(SPAWN_PAUSE_S)
                return
            self._children.append(child)
            self._selector.register(child.channel.from_child, selectors.EVENT_READ, partial(self._read, child))
            self._selector.register(child.channel.control, selectors.EVENT_READ, partial(self._take_listener, child))

    def _read(self, child: InferenceProcess[Ticket]) -> None:
        if child not in self._children:
            return
        try:
            for reply in child.channel.read_replies():
                if reply is None:
                    self._end(child)
                    return
                self._take(child, reply)
                if child not in self._children:
                    return
        except ValueError:
            self._lose(child, SlotCrashed("the inference process sent an invalid message"))

    def _end(self, child: InferenceProcess[Ticket]) -> None:
        """Handle the end of a process's messages."""
        if child.last or child.has_answered:
            # it is removed once its file's file was looked at again
            self._selector.unregister(child.channel.from_child)
            child.ended = True
        else:
            self._lose(child, self._death(child))

    def _take_listener(self, child: InferenceProcess[Ticket]) -> None:
        """Take the listener for a process's refused calls while it starts.

        The calls of its self-test would else wait for ever.
        """
        if child not in self._children or not child.starting:
            return
        child.starting = False
        self._selector.unregister(child.channel.control)
        if child.channel.receive_listener() and child.channel.refused is not None:
            self._selector.register(
                child.channel.refused.fd, selectors.EVENT_READ, partial(self._refuse, child, child.channel.refused)
            )

    def _refuse(self, child: InferenceProcess[Ticket], calls: RefusedCalls) -> None:
        """Refuse a system call of a process."""
        if child not in self._children:
            return
        name = calls.answer()
        if name is not None:
            _LOG.warning("slot_call_refused", extra={"call": name, "pid": child.process.pid})
        if calls.count > MOST:
            self._lose(child, SlotCrashed(f"the inference process made {calls.count} system calls that are refused"))

    def _take_results(self) -> None:
        """Handle what the processes' threads found of the files."""
        for looked in self._results.take_results():
            child = looked.child
            if child not in self._children or child.ticket is not looked.ticket:
                continue
            ticket = child.finish_file()
            if isinstance(looked.found, Report):
                self.events.append(Done(ticket, looked.found))
            else:
                self.events.append(Fault(ticket, looked.found))
            if child.last or child.ended:
                self._remove(child)

    def _take(self, child: InferenceProcess[Ticket], reply: Reply) -> None:
        if reply.kind is ReplyKind.READY and not child.started:
            self._take_listener(child)  # whatever was to come is there
            child.started, child.deadline_at = True, None
            before, self.lacking = self.lacking, reply.lacking
            if reply.lacking and reply.lacking != before:
                level = logging.WARNING if ESSENTIAL.intersection(reply.lacking) else logging.INFO
                _LOG.log(level, "slots_confined_in_part", extra={"why": ", ".join(reply.lacking)})
            if not self.ever_ready:
                _LOG.info("worker_ready")
            self._starts.succeeded()
            return
        if reply.kind is ReplyKind.UNFIT and not child.started:
            self._starts.unfit = error_from_code(reply.code or "", reply.message, PrereadError)
            return
        if child.in_hand is None or child.has_answered:
            raise ValueError("a message about a file from a process that has none")
        if reply.kind is ReplyKind.READ and reply.sha256 is not None:
            child.in_hand.sha256 = reply.sha256
            self.events.append(Read(child.in_hand.ticket, reply.sha256))
        elif reply.kind is ReplyKind.DONE and reply.report is not None:
            child.last = reply.last
            child.end_reading(reply.report)
        elif reply.kind is ReplyKind.FAULT:
            error = error_from_code(reply.code or "", reply.message, EnvironmentFault)
            self.events.append(Fault(child.finish_file(), error))
        elif reply.kind is ReplyKind.BROKE:
            kind = SlotMemory if reply.code == SlotMemory.code else SlotCrashed
            self._lose(child, kind(reply.message))
        else:
            raise ValueError("a message lacks a field that its kind needs")

    def _death(self, child: InferenceProcess[Ticket]) -> SlotError | EnvironmentFault:
        """Return the error for a death; no file's fault before it was read."""
        error = child.wait_for_death()
        early = child.ticket is not None and not child.has_bytes()
        return EnvironmentFault(f"{error}, before it had its bytes") if early else error

    def _too_late(self, child: InferenceProcess[Ticket]) -> SlotError | EnvironmentFault:
        """Return the error for a deadline; the file's fault only once it was read."""
        if child.ticket is not None and (child.has_answered or not child.has_bytes()):
            return EnvironmentFault(f"the share did not deliver the file within {self.deadline_s:g} s")
        return SlotDeadline(f"reading the file took longer than {self.deadline_s:g} s")

    def _lose(
        self, child: InferenceProcess[Ticket], error: SlotError | EnvironmentFault, *, late: bool = False
    ) -> None:
        if (file := child.in_hand) is not None:
            if file.sha256 is None:
                child.has_bytes()
            if isinstance(error, SlotError):
                self.events.append(Lost(file.ticket, error, file.sha256, child.measure_computed_s()))
            else:
                self.events.append(Fault(file.ticket, error, late))
        else:
            _LOG.warning("slot_lost", extra={"code": error.code, "why": str(error)})
        if not child.started:
            self._starts.failed(error)
        self._remove(child)

    def _unregister(self, child: InferenceProcess[Ticket]) -> None:
        if not child.ended:
            self._selector.unregister(child.channel.from_child)
        if child.starting:
            self._selector.unregister(child.channel.control)
        if child.channel.refused is not None:
            self._selector.unregister(child.channel.refused.fd)

    def _remove(self, child: InferenceProcess[Ticket]) -> None:
        self.deaths += not child.last
        self._unregister(child)
        child.kill_process()
        child.close()
        self._children.remove(child)
        self._leftovers.add(child)


class _StartLimits:
    """Limits on starting processes after failures.

    Args:
        clock: monotonic seconds.

    Attributes:
        ever_ready: whether a process has ever been ready.
        unfit: why no process can start; ``None`` while some may.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.ever_ready = False
        self.unfit: PrereadError | None = None
        self._clock = clock
        self._failures = 0
        self._not_before = float("-inf")

    def allowed(self) -> bool:
        """Return whether a process may be started now."""
        return self._clock() >= self._not_before

    def pause(self, seconds: float) -> None:
        """Start no process for so long."""
        self._not_before = max(self._not_before, self._clock() + seconds)

    def succeeded(self) -> None:
        """Record that a process is ready."""
        self.ever_ready, self._failures = True, 0

    def failed(self, error: PrereadError) -> None:
        """Record that a process ended before it was ready."""
        self._failures += 1
        if self._failures < _STARTS_AT_MOST:
            return
        if self.ever_ready:
            # the machine is at fault, which lacks memory or kills them, and not the bundle: try ever more rarely
            self.pause(_START_DELAY.after(self._failures - _STARTS_AT_MOST + 1))
        elif self.unfit is None:
            self.unfit = SlotCrashed(f"{_STARTS_AT_MOST} inference processes in a row died while they started: {error}")


class _Leftovers:
    """Killed processes and threads, some hanging in the kernel.

    They do so while they wait for a dead share.
    """

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []

    @property
    def hanging(self) -> int:
        """Number of processes that are not gone yet, or whose thread is not."""
        return max(len(self._processes), len(self._threads))

    def add(self, child: InferenceProcess[Ticket]) -> None:
        """Keep a killed process until it is gone."""
        self._processes.append(child.process)
        self._threads.append(child.files.thread)

    def reap(self) -> None:
        """Forget what is gone."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._processes = [process for process in self._processes if process.poll() is None]

    def wait(self) -> None:
        """Wait a moment for each process.

        One that hangs dies by itself when the share answers.
        """
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GOODBYE_S)
        self._processes.clear()
