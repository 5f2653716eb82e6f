"""Child processes that read films: one file in flight each, a deadline, a memory limit, respawn.

The worker itself never touches a film's bytes. What a slot says is validated; a slot that dies, hangs or talks nonsense
costs the file that it had in hand, and the next slot takes its place. One in which a decoder failed ends before it
reads another film.
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
from preread.runner.child.handle import GOODBYE_S, Post, SlotChild, Ticket
from preread.runner.child.protocol import Job, Reply, Report, Say, Setup
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
    """The slot has the bytes and waits for ``SlotPool.answer``."""

    ticket: Ticket
    sha256: str


@dataclass(frozen=True, slots=True)
class Done(Generic[Ticket]):
    """The file has its outcome."""

    ticket: Ticket
    report: Report


@dataclass(frozen=True, slots=True)
class Fault(Generic[Ticket]):
    """The machine or the share is at fault; ``late``: the slot was held until its deadline."""

    ticket: Ticket
    error: EnvironmentFault
    late: bool = False


@dataclass(frozen=True, slots=True)
class Broke(Generic[Ticket]):
    """The slot died, or had to be killed, while it had this file; ``sha256`` of its content.

    ``computed_s``: for so long it had a processor meanwhile, all its threads together; 0 where that is not known.
    """

    ticket: Ticket
    error: SlotError
    sha256: str | None = None
    computed_s: float = 0.0


Ended: TypeAlias = Done[Ticket] | Fault[Ticket] | Broke[Ticket]
Event: TypeAlias = Read[Ticket] | Ended[Ticket]


class SlotPool(Generic[Ticket]):
    """All slots of one worker. For one thread, which must be the main one: a slot ends with the thread that started it.

    Args:
        setup: what each slot gets first.
        count: how many slots there are.
        deadline_s: a slot that has one file for longer is killed; before it has the bytes, the share is at fault.
        command: the slot's program; tests give another.
        clock: monotonic seconds.
        place: where previews are kept; ``None`` keeps none.

    Attributes:
        lacking: what of the confinement this machine does not have, as the last slot said that started.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        count: int,
        deadline_s: float,
        command: Sequence[str] = COMMAND,
        clock: Callable[[], float] = time.monotonic,
        place: PreviewStore | None = None,
    ) -> None:
        self._setup = setup
        self._count = count
        self.deadline_s = deadline_s
        self._command = command
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._slots: list[SlotChild[Ticket]] = []
        self._place = place
        self._unreaped: list[subprocess.Popen[bytes]] = []
        self._stuck: list[threading.Thread] = []
        self._post: Post[Ticket] = Post()
        self._selector.register(self._post.fd, selectors.EVENT_READ, self._take_post)
        self._failed_starts = 0
        self._start_at = float("-inf")
        self._spawn_at = float("-inf")
        self._unfit: PrereadError | None = None
        self._wake_fd: int | None = None
        self.events: deque[Event[Ticket]] = deque()
        self.deaths = 0
        self.lacking: tuple[str, ...] = ()
        self.ever_ready = False

    @property
    def idle(self) -> int:
        """How many slots wait for a job."""
        return sum(slot.started and slot.ticket is None for slot in self._slots)

    @property
    def alive(self) -> int:
        """How many slots could read a film: they have started, and their process lives."""
        return sum(slot.started and slot.process.poll() is None for slot in self._slots)

    def held_for(self, seconds: float) -> list[Ticket]:
        """Return what slots have had in hand for so long, or longer."""
        since = self._clock() + self.deadline_s - seconds
        late = [slot for slot in self._slots if slot.deadline_at is not None and slot.deadline_at <= since]
        return [slot.ticket for slot in late if slot.ticket is not None]

    @property
    def in_flight(self) -> list[Ticket]:
        """What the slots have in hand."""
        return [slot.ticket for slot in self._slots if slot.ticket is not None]

    def wake_on(self, fd: int) -> None:
        """Let ``poll`` return when this descriptor can be read; the caller reads it."""
        self._wake_fd = fd
        self._selector.register(fd, selectors.EVENT_READ, None)

    def submit(self, ticket: Ticket, job: Job) -> None:
        """Give a job to an idle slot; ``idle`` must be above 0."""
        slot = next(slot for slot in self._slots if slot.started and slot.ticket is None)
        slot.take(ticket, job, self._clock() + self.deadline_s)

    def answer(self, ticket: Ticket, *, known: bool, forgotten: bool = False) -> None:
        """Answer a ``Read``. Without effect when its slot has died since."""
        for slot in self._slots:
            if slot.ticket == ticket:
                slot.answer(known=known, forgotten=forgotten)

    def poll(self, timeout_s: float) -> list[Event[Ticket]]:
        """Keep the slots going and wait for news, at most ``timeout_s``.

        Raises:
            BundleError, PrereadError: a slot says why none can start.
            SlotCrashed: slots die, one after the other, before any could do anything.
        """
        self._spawn()
        now = self._clock()
        deadlines = [slot.deadline_at for slot in self._slots if slot.deadline_at is not None]
        wait_s = max(0.0, min([timeout_s, *(at - now for at in deadlines)]))
        for key, _ in self._selector.select(wait_s):
            if key.data is not None:
                key.data()
        now = self._clock()
        for slot in list(self._slots):
            if slot.deadline_at is not None and now >= slot.deadline_at:
                self._lose(slot, self._too_late(slot), late=True)
        self._reap()
        if self._unfit is not None:
            raise self._unfit
        events = list(self.events)
        self.events.clear()
        return events

    def abandon(self) -> list[Ticket]:
        """Kill every slot that has a file in hand, and return what they had."""
        tickets = self.in_flight
        for slot in [slot for slot in self._slots if slot.ticket is not None]:
            self._remove(slot)
        return tickets

    def close(self) -> None:
        """End all slots: those without a file by closing their pipe, the others at once."""
        for slot in self._slots:
            if slot.ticket is not None or not slot.started:
                slot.kill()
            self._unregister(slot)
            slot.close()
        give_up_at = time.monotonic() + GOODBYE_S
        for slot in self._slots:
            try:
                slot.process.wait(max(0.0, give_up_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                slot.kill()
                self._unreaped.append(slot.process)
        self._slots.clear()
        for process in self._unreaped:
            # a process that waits for a dead share cannot be reaped until the share answers; it dies then by itself
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GOODBYE_S)
        self._unreaped.clear()
        self._selector.close()
        self._post.close()

    # ------------------------------------------------------------------ inside

    def _spawn(self) -> None:
        if self._clock() < self._start_at:
            return
        # killed slots that hang in the kernel on a dead share count, as do their threads: else each deadline adds one
        for _ in range(self._count - len(self._slots)):
            hanging = max(len(self._unreaped), len(self._stuck))
            if len(self._slots) + hanging >= 2 * self._count or self._clock() < self._spawn_at:
                return
            try:
                slot: SlotChild[Ticket] = SlotChild(
                    self._command, self._setup, self._clock() + START_DEADLINE_S, self._post, self._place
                )
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                _LOG.warning("slot_not_started", extra={"errno": error.errno, "delay_s": SPAWN_PAUSE_S})
                self._spawn_at = self._clock() + SPAWN_PAUSE_S
                return
            self._slots.append(slot)
            self._selector.register(slot.from_slot, selectors.EVENT_READ, partial(self._hear, slot))
            self._selector.register(slot.control, selectors.EVENT_READ, partial(self._listen, slot))

    def _hear(self, slot: SlotChild[Ticket]) -> None:
        if slot not in self._slots:
            return
        try:
            for reply in slot.replies():
                if reply is None:
                    self._end(slot)
                    return
                self._take(slot, reply)
                if slot not in self._slots:
                    return
        except ValueError:
            self._lose(slot, SlotCrashed("the process that read this film said what no slot says"))

    def _end(self, slot: SlotChild[Ticket]) -> None:
        """Take in that a slot will say no more."""
        if slot.last or slot.answered:
            # it is removed once its film's file was looked at again
            self._selector.unregister(slot.from_slot)
            slot.ended = True
        else:
            self._lose(slot, self._death(slot))

    def _listen(self, slot: SlotChild[Ticket]) -> None:
        """Answer for a slot's calls from now on: those of its own test would else wait for ever."""
        if slot not in self._slots or not slot.starting:
            return
        slot.starting = False
        self._selector.unregister(slot.control)
        if slot.take_listener() and slot.refused is not None:
            self._selector.register(slot.refused.fd, selectors.EVENT_READ, partial(self._refuse, slot, slot.refused))

    def _refuse(self, slot: SlotChild[Ticket], calls: RefusedCalls) -> None:
        """Answer for a call that no slot makes."""
        if slot not in self._slots:
            return
        name = calls.answer()
        if name is not None:
            _LOG.warning("slot_call_refused", extra={"call": name, "pid": slot.process.pid})
        if calls.count > MOST:
            self._lose(slot, SlotCrashed(f"the process that read this film made {calls.count} calls that it may not"))

    def _take_post(self) -> None:
        """Take in what the slots' threads found of the files."""
        for looked in self._post.take():
            slot = looked.slot
            if slot not in self._slots or slot.ticket is not looked.ticket:
                continue
            ticket = slot.finish()
            if isinstance(looked.found, Report):
                self.events.append(Done(ticket, looked.found))
            else:
                self.events.append(Fault(ticket, looked.found))
            if slot.last or slot.ended:
                self._remove(slot)

    def _take(self, slot: SlotChild[Ticket], reply: Reply) -> None:
        if reply.say is Say.READY and not slot.started:
            self._listen(slot)  # whatever was to come is there
            slot.started, slot.deadline_at, slot.lacking = True, None, reply.lacking
            before, self.lacking = self.lacking, slot.lacking
            if slot.lacking and slot.lacking != before:
                level = logging.WARNING if ESSENTIAL.intersection(slot.lacking) else logging.INFO
                _LOG.log(level, "slots_confined_in_part", extra={"why": ", ".join(slot.lacking)})
            if not self.ever_ready:
                _LOG.info("worker_ready")
            self.ever_ready, self._failed_starts = True, 0
            return
        if reply.say is Say.UNFIT and not slot.started:
            self._unfit = error_from_code(reply.code or "", reply.message, PrereadError)
            return
        if slot.ticket is None or slot.answered:
            raise ValueError("a slot without a file speaks of one")
        if reply.say is Say.READ and reply.sha256 is not None:
            slot.note_read(reply.sha256)
            self.events.append(Read(slot.ticket, reply.sha256))
        elif reply.say is Say.DONE and reply.report is not None:
            slot.last = reply.last
            slot.look_again(reply.report)
        elif reply.say is Say.FAULT:
            error = error_from_code(reply.code or "", reply.message, EnvironmentFault)
            self.events.append(Fault(slot.finish(), error))
        elif reply.say is Say.BROKE:
            kind = SlotMemory if reply.code == SlotMemory.code else SlotCrashed
            self._lose(slot, kind(reply.message))
        else:
            raise ValueError("a slot's line lacks what its kind needs")

    def _death(self, slot: SlotChild[Ticket]) -> SlotError | EnvironmentFault:
        """Whose fault a death is: not the film's before its bytes were read, as when a slot died while it waited."""
        error = slot.cause_of_death()
        early = slot.ticket is not None and not slot.has_bytes()
        return EnvironmentFault(f"{error}, before it had its bytes") if early else error

    def _too_late(self, slot: SlotChild[Ticket]) -> SlotError | EnvironmentFault:
        """Whose fault a deadline is: the film's only once its bytes were read."""
        if slot.ticket is not None and (slot.answered or not slot.has_bytes()):
            return EnvironmentFault(f"the share did not hand out the film within {self.deadline_s:g} s")
        return SlotDeadline(f"reading the film took longer than {self.deadline_s:g} s")

    def _lose(self, slot: SlotChild[Ticket], error: SlotError | EnvironmentFault, *, late: bool = False) -> None:
        if (ticket := slot.ticket) is not None:
            if slot.sha256 is None:
                slot.has_bytes()
            if isinstance(error, SlotError):
                self.events.append(Broke(ticket, error, slot.sha256, slot.computed_s()))
            else:
                self.events.append(Fault(ticket, error, late))
        else:
            _LOG.warning("slot_lost", extra={"code": error.code, "why": str(error)})
        if not slot.started:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS_AT_MOST:
                self._start_fails(error)
        self._remove(slot)

    def _start_fails(self, error: PrereadError) -> None:
        if self.ever_ready:
            # the machine is at fault, which lacks memory or kills them, and not the bundle: try ever more rarely
            self._start_at = self._clock() + _START_DELAY.after(self._failed_starts - _STARTS_AT_MOST + 1)
        elif self._unfit is None:
            self._unfit = SlotCrashed(f"{_STARTS_AT_MOST} slots in a row died while they started: {error}")

    def _unregister(self, slot: SlotChild[Ticket]) -> None:
        if not slot.ended:
            self._selector.unregister(slot.from_slot)
        if slot.starting:
            self._selector.unregister(slot.control)
        if slot.refused is not None:
            self._selector.unregister(slot.refused.fd)

    def _remove(self, slot: SlotChild[Ticket]) -> None:
        self.deaths += not slot.last
        self._unregister(slot)
        slot.kill()
        slot.close()
        self._slots.remove(slot)
        self._unreaped.append(slot.process)
        self._stuck.append(slot.thread)

    def _reap(self) -> None:
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        self._unreaped = [process for process in self._unreaped if process.poll() is None]
