"""Files of a command to answers: read in inference processes as the worker reads them, and yielded in their order.

A file that ends its process, holds it until the deadline or wants too much memory has no answer, and the others have
theirs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TypeAlias

from preread.core.errors import EnvironmentFault, PrereadError, SlotCrashed, UnreadableError, error_from_code
from preread.core.types import Declared, Outcome, RootSpec
from preread.imaging.radiograph import DEFAULT_LIMITS, Limits
from preread.model.bundles import Bundle
from preread.runner import pool as slots
from preread.runner.child import protocol as slot_messages
from preread.runner.child.protocol import Job, Report, Setup
from preread.runner.offline import FileResult, Found, find_files, locate
from preread.runner.pool import Broke, Done, Fault, SlotPool
from preread.runner.pool import Read as Asked

ASSUME_AGE = Declared(assume_age=True)
# Taken in beyond the first that has no answer yet, so that one film holds no other up.
_MOST_AHEAD = 1000
# To start a process costs as much as to read so many files.
_FILES_EACH = 16
# A process that dies before it has a file's bytes is not the file's fault.
_TRIES = 3
_STARTS_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Processes:
    """How many inference processes a command has, and what each may take; by default as the settings say by default.

    Attributes:
        count: at most; for few files fewer are started.
        deadline_s: for each file.
        memory_bytes: address space of each.
        require_confinement: see ``Setup``.
    """

    count: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    deadline_s: float = 60.0
    memory_bytes: int = 2048 * 1024 * 1024
    limits: Limits = DEFAULT_LIMITS
    require_confinement: bool = False


@dataclass(frozen=True, slots=True)
class FileRead:
    """How one file ended: with a report, or with the error that kept it from one.

    Attributes:
        sha256: of its bytes, where they were read.
        ms: milliseconds for this file.
    """

    found: Found
    ended: Report | PrereadError
    sha256: str | None
    ms: float


Reads: TypeAlias = Generator[FileRead, None, None]


def assess_files(
    paths: Iterable[str | os.PathLike[str]],
    bundle: Bundle,
    declared: Declared = ASSUME_AGE,
    processes: Processes | None = None,
    roots: Sequence[RootSpec] = (),
) -> Generator[FileResult, None, None]:
    """Assess files and every file in folders; yields one result each, in the order of ``find_files``.

    Close the generator to end its processes early.

    Args:
        declared: by default an unknown age is assumed to be the intended one, with a caveat that says so.
        roots: watched folders, whose path patterns name the patients of files in them.

    Raises:
        BundleError: the bundle gives other results on this machine.
        SlotCrashed: no process can be started.
    """
    return assess_found(find_files(paths), bundle, declared, processes, roots)


def assess_found(
    found: Iterable[Found],
    bundle: Bundle,
    declared: Declared = ASSUME_AGE,
    processes: Processes | None = None,
    roots: Sequence[RootSpec] = (),
) -> Generator[FileResult, None, None]:
    """Assess names of ``find_files``; see ``assess_files``."""
    with contextlib.closing(_read(found, bundle, declared, processes or Processes(), roots)) as reads:
        for one in reads:
            yield _result(one, bundle.label)


def pictures_of(found: Iterable[Found], processes: Processes | None = None) -> Reads:
    """Decode files for training: each report has its ``picture``; see ``assess_files``."""
    return _read(found, None, Declared(), processes or Processes())


def _result(one: FileRead, bundle: str) -> FileResult:
    path, sha256, ms = one.found.path, one.sha256, one.ms
    if isinstance(one.ended, PrereadError):
        code, reason, judged = one.ended.code, str(one.ended), isinstance(one.ended, UnreadableError)
        return FileResult(path, sha256, Outcome.UNREADABLE, code, reason, (), (), bundle, ms, judged)
    report = one.ended
    if report.content is not None:
        caveats = (*report.gate_caveats, *report.content.pixel_caveats)
        return FileResult(path, sha256, report.outcome, None, None, report.content.findings, caveats, bundle, ms)
    return FileResult(path, sha256, report.outcome, report.code, report.reason, (), (), bundle, ms)


def _read(
    found: Iterable[Found],
    bundle: Bundle | None,
    declared: Declared,
    processes: Processes,
    roots: Sequence[RootSpec] = (),
) -> Reads:
    names = iter(found)
    first = list(islice(names, _FILES_EACH * processes.count))
    count = max(1, -(-len(first) // _FILES_EACH))
    setup = Setup(
        bundle="" if bundle is None else slot_messages.to_text(os.fsencode(bundle.path.resolve())),
        digest="" if bundle is None else bundle.digest,
        memory_bytes=processes.memory_bytes,
        max_file_bytes=processes.limits.max_bytes,
        max_pixels=processes.limits.max_pixels,
        parent_pid=os.getpid(),
        require_confinement=processes.require_confinement,
        pictures=bundle is None,
    )
    pool: SlotPool[int] = SlotPool(setup, count=count, deadline_s=processes.deadline_s, command=slots.COMMAND)
    try:
        yield from _Reading(pool, chain(first, names), declared, max(1, processes.count // count), roots).reads()
    finally:
        pool.close()


class _Reading:
    """The files of one command on their way through its processes.

    Args:
        threads: see ``Job``.
    """

    def __init__(
        self,
        pool: SlotPool[int],
        names: Iterator[Found],
        declared: Declared,
        threads: int,
        roots: Sequence[RootSpec] = (),
    ) -> None:
        self._pool = pool
        self._names = names
        self._declared = declared
        self._threads = threads
        self._patterns = [
            (os.path.realpath(root.path), root.path_pattern) for root in roots if root.path_pattern is not None
        ]
        self._all_named = False
        self._count = 0
        self._next = 0
        self._due: deque[int] = deque()
        self._under_way: dict[int, tuple[Found, Job, int]] = {}
        self._began: dict[int, float] = {}
        self._ended: dict[int, FileRead] = {}
        self._alive_at = time.monotonic()

    def reads(self) -> Iterator[FileRead]:
        """Yield how each file ended, in their order, once a process is ready."""
        while True:
            self._feed()
            while self._pool.ever_ready and self._next in self._ended:
                yield self._ended.pop(self._next)
                self._next += 1
            if self._pool.ever_ready and self._all_named and self._next == self._count:
                return
            for event in self._pool.poll(1.0):
                self._hear(event)
            self._look_after_pool()

    def _feed(self) -> None:
        # one file waits while all processes are busy, so that the last one's end is known to be that
        while self._due or (self._count - self._next < _MOST_AHEAD and self._name_next()):
            if not self._pool.idle:
                return
            number = self._due.popleft()
            self._began[number] = time.monotonic()
            self._pool.submit(number, self._under_way[number][1])

    def _name_next(self) -> bool:
        """Take in names until one leads to a file; return whether one does. What leads to none has ended."""
        for found in self._names:
            number = self._count
            self._count += 1
            self._began[number] = time.monotonic()
            try:
                self._under_way[number] = (found, self._job(found), 1)
            except PrereadError as error:
                self._end(number, found, error, None)
            else:
                self._due.append(number)
                return True
        self._all_named = True
        return False

    def _job(self, found: Found) -> Job:
        folder, name, status = locate(found)
        folder, name, pattern = self._within_root(folder, name)
        return Job(
            root=slot_messages.to_text(os.fsencode(folder)),
            path=slot_messages.to_text(os.fsencode(name)),
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            population=self._declared.population,
            assume_age=self._declared.assume_age,
            path_pattern=pattern,
            ask=False,
            threads=self._threads,
        )

    def _within_root(self, folder: str, name: str) -> tuple[str, str, str | None]:
        """Return root, path beneath it, and its pattern, of a file in a root that has one; else folder and name."""
        path = os.path.join(os.path.realpath(folder), name)
        for root, pattern in self._patterns:
            if path.startswith(os.path.join(root, "")):
                return root, os.path.relpath(path, root), pattern
        return folder, name, None

    def _hear(self, event: Asked[int] | Done[int] | Fault[int] | Broke[int]) -> None:
        number = event.ticket
        found, job, tries = self._under_way[number]
        match event:
            case Done(report=report):
                self._end(number, found, report, report.sha256)
            case Broke(error=error, sha256=sha256):
                self._end(number, found, error, sha256)
            case Fault(error=fault, late=late):
                if type(fault) is EnvironmentFault and not late and tries < _TRIES:
                    self._under_way[number] = (found, job, tries + 1)
                    self._due.append(number)
                else:
                    self._end(number, found, fault, None)

    def _end(self, number: int, found: Found, ended: Report | PrereadError, sha256: str | None) -> None:
        self._under_way.pop(number, None)
        ms = (time.monotonic() - self._began.pop(number)) * 1000
        if isinstance(ended, Report):
            ms = ended.ms
            if ended.outcome is Outcome.UNREADABLE:
                ended = error_from_code(ended.code or "", ended.reason, UnreadableError)
        self._ended[number] = FileRead(found, ended, sha256, ms)

    def _look_after_pool(self) -> None:
        now = time.monotonic()
        if self._pool.alive or not self._pool.ever_ready:
            self._alive_at = now
        elif now - self._alive_at > _STARTS_WITHIN_S:
            raise SlotCrashed(f"no inference process could be started for {_STARTS_WITHIN_S:g} s")
