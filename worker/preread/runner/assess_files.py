"""Assess files of a command in inference processes, without a database.

Results come in the order of the files. A file that ends its process, holds it until the deadline or needs too much
memory has no result; the others have theirs. Folders are walked in the order of their names; symbolic links, pipes,
sockets and devices in them are named and not opened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import stat
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TypeAlias

from preread.core.errors import (
    EnvironmentFault,
    FileLocked,
    FileVanished,
    NotAFile,
    PrereadError,
    SlotCrashed,
    UnreadableError,
    error_from_code,
)
from preread.core.jsonable import finding_to_json, reversible_path
from preread.core.types import Caveat, Declared, Finding, JSONObject, Outcome, RootSpec, StatedTags
from preread.imaging.radiograph import DEFAULT_LIMITS, ImageLimits
from preread.model.bundles import Bundle
from preread.runner.child import protocol
from preread.runner.child.protocol import Job, Report, Setup
from preread.runner.pool import Done, Fault, InferencePool, Lost
from preread.runner.pool import Read as Asked

ASSUME_AGE = Declared(assume_age=True)
# Files taken in beyond the first that has no result yet, so that one file delays no other.
_MOST_AHEAD = 1000
# To start a process costs as much as to read so many files.
_FILES_EACH = 16
# A process that dies before it has a file's bytes is not the file's fault.
_TRIES = 3
_STARTS_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class InputFile:
    """Name to read, or the reason why there is no file.

    Attributes:
        path: as ``os`` gives it (bytes that are not UTF-8 as surrogates, PEP 383).
        named: the caller named this very path, so a link is followed; one found in a folder is not.
        fault: why nothing can be read here.
    """

    path: str
    named: bool = False
    fault: PrereadError | None = None


@dataclass(frozen=True, slots=True)
class FileResult:
    """Result of one file.

    Attributes:
        path: as ``InputFile.path``.
        sha256: hex, of the bytes that were read; ``None`` when there were none to read.
        code: why it was refused or is unreadable; ``None`` when assessed.
        reason: the same in a sentence; ``None`` when assessed.
        bundle: ``name/version``.
        ms: milliseconds for this file, reading included.
        tags: what the image states about age, view, body part, modality and species; ``None`` if it was not checked.
        judged: ``False`` if the machine, the share, the caller or Preread was at fault and not the bytes.
    """

    path: str
    sha256: str | None
    outcome: Outcome
    code: str | None
    reason: str | None
    findings: tuple[Finding, ...]
    caveats: tuple[Caveat, ...]
    bundle: str
    ms: float
    judged: bool = True
    tags: StatedTags | None = None

    def to_json(self) -> JSONObject:
        """Return the record of ``preread assess --json``."""
        return {
            "path": reversible_path(self.path),
            "sha256": self.sha256,
            "outcome": self.outcome.value,
            "code": self.code,
            "reason": self.reason,
            "findings": [finding_to_json(finding) for finding in self.findings],
            "caveats": [caveat.value for caveat in self.caveats],
            "tags": None if self.tags is None else dataclasses.asdict(self.tags),
            "bundle": self.bundle,
            "ms": round(self.ms, 3),
        }


@dataclass(frozen=True, slots=True)
class Processes:
    """Number and limits of a command's inference processes.

    Defaults are those of the settings.

    Attributes:
        count: at most; for few files fewer are started.
        deadline_s: for each file.
        memory_bytes: address space of each.
        require_confinement: see ``Setup``.
        vocabulary: see ``Setup``.
    """

    count: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    deadline_s: float = 60.0
    memory_bytes: int = 2048 * 1024 * 1024
    limits: ImageLimits = DEFAULT_LIMITS
    require_confinement: bool = False
    vocabulary: str = ""


@dataclass(frozen=True, slots=True)
class FileRead:
    """Report of one file, or the error that kept it from one.

    Attributes:
        sha256: of its bytes, where they were read.
        ms: milliseconds for this file.
    """

    found: InputFile
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
    """Assess files and every file in folders.

    Close the generator to end its processes early.

    Args:
        paths: files and folders.
        bundle: the model bundle.
        declared: by default an unknown age is assumed to be the intended one, with a caveat that says so.
        processes: number and limits of inference processes; ``None`` for the defaults.
        roots: watched folders, whose path patterns name the patients of files in them.

    Yields:
        One result each, in the order of ``find_files``.

    Raises:
        BundleError: the bundle gives other results on this machine.
        SlotCrashed: no process can be started.
    """
    return assess_input_files(find_files(paths), bundle, declared, processes, roots)


def assess_input_files(
    found: Iterable[InputFile],
    bundle: Bundle,
    declared: Declared = ASSUME_AGE,
    processes: Processes | None = None,
    roots: Sequence[RootSpec] = (),
) -> Generator[FileResult, None, None]:
    """Assess input files of a command in inference processes.

    As ``assess_files``, for the names that ``find_files`` yields.
    """
    with contextlib.closing(_read(found, bundle, declared, processes or Processes(), roots)) as reads:
        for file_read in reads:
            yield _result(file_read, bundle.label)


def decode_training_images(found: Iterable[InputFile], processes: Processes | None = None) -> Reads:
    """Decode files for training; each report has its ``picture``.

    See ``assess_files``.
    """
    return _read(found, None, Declared(), processes or Processes())


def _result(file_read: FileRead, bundle: str) -> FileResult:
    path, sha256, ms = file_read.found.path, file_read.sha256, file_read.ms
    if isinstance(file_read.ended, PrereadError):
        code, reason, judged = file_read.ended.code, str(file_read.ended), isinstance(file_read.ended, UnreadableError)
        return FileResult(path, sha256, Outcome.UNREADABLE, code, reason, (), (), bundle, ms, judged)
    report = file_read.ended
    if report.content is not None:
        caveats = (*report.gate_caveats, *report.content.pixel_caveats)
        findings = report.content.findings
        return FileResult(path, sha256, report.outcome, None, None, findings, caveats, bundle, ms, tags=report.tags)
    refused = FileResult(path, sha256, report.outcome, report.code, report.reason, (), report.gate_caveats, bundle, ms)
    return dataclasses.replace(refused, tags=report.tags)


def _read(
    found: Iterable[InputFile],
    bundle: Bundle | None,
    declared: Declared,
    processes: Processes,
    roots: Sequence[RootSpec] = (),
) -> Reads:
    names = iter(found)
    first = list(islice(names, _FILES_EACH * processes.count))
    count = max(1, -(-len(first) // _FILES_EACH))
    setup = Setup(
        bundle="" if bundle is None else protocol.path_to_text(os.fsencode(bundle.path.resolve())),
        digest="" if bundle is None else bundle.digest,
        memory_bytes=processes.memory_bytes,
        max_file_bytes=processes.limits.max_bytes,
        max_pixels=processes.limits.max_pixels,
        parent_pid=os.getpid(),
        require_confinement=processes.require_confinement,
        vocabulary=processes.vocabulary,
        pictures=bundle is None,
    )
    pool: InferencePool[int] = InferencePool(setup, count=count, deadline_s=processes.deadline_s)
    try:
        yield from _FileQueue(pool, chain(first, names), declared, max(1, processes.count // count), roots).reads()
    finally:
        pool.close()


@dataclass(slots=True)
class _UnderWay:
    """File that has no result yet.

    Attributes:
        began: when it was taken in or given to a process (monotonic seconds).
        tries: number of processes that it was given to.
    """

    found: InputFile
    job: Job
    began: float
    tries: int = 1


class _FileQueue:
    """The files of one command on their way through its processes.

    Args:
        threads: see ``Job``.
    """

    def __init__(
        self,
        pool: InferencePool[int],
        names: Iterator[InputFile],
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
        self._under_way: dict[int, _UnderWay] = {}
        self._ended: dict[int, FileRead] = {}
        self._alive_at = time.monotonic()

    def reads(self) -> Iterator[FileRead]:
        """Yield the result of each file in order, once a process is ready."""
        while True:
            self._feed()
            while self._pool.ever_ready and self._next in self._ended:
                yield self._ended.pop(self._next)
                self._next += 1
            if self._pool.ever_ready and self._all_named and self._next == self._count:
                return
            for event in self._pool.poll(1.0):
                self._handle(event)
            self._look_after_pool()

    def _feed(self) -> None:
        # one file waits while all processes are busy, so that the last one's end is known to be that
        while self._due or (self._count - self._next < _MOST_AHEAD and self._name_next()):
            if not self._pool.idle:
                return
            number = self._due.popleft()
            file = self._under_way[number]
            file.began = time.monotonic()
            self._pool.submit(number, file.job)

    def _name_next(self) -> bool:
        """Take in names up to the next file; return whether there is one."""
        for found in self._names:
            number = self._count
            self._count += 1
            began = time.monotonic()
            try:
                self._under_way[number] = _UnderWay(found, self._job(found), began)
            except PrereadError as error:
                self._ended[number] = FileRead(found, error, None, (time.monotonic() - began) * 1000)
            else:
                self._due.append(number)
                return True
        self._all_named = True
        return False

    def _job(self, found: InputFile) -> Job:
        folder, name, status = locate_input_file(found)
        folder, name, pattern = self._within_root(folder, name)
        return Job(
            root=protocol.path_to_text(os.fsencode(folder)),
            path=protocol.path_to_text(os.fsencode(name)),
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            population=self._declared.population,
            assume_age=self._declared.assume_age,
            path_pattern=pattern,
            ask=False,
            threads=self._threads,
        )

    def _within_root(self, folder: str, name: str) -> tuple[str, str, str | None]:
        """Return root, relative path and path pattern of a file.

        Folder and name without a pattern if it lies in no root that has one.
        """
        path = os.path.join(os.path.realpath(folder), name)
        for root, pattern in self._patterns:
            if path.startswith(os.path.join(root, "")):
                return root, os.path.relpath(path, root), pattern
        return folder, name, None

    def _handle(self, event: Asked[int] | Done[int] | Fault[int] | Lost[int]) -> None:
        number = event.ticket
        file = self._under_way[number]
        match event:
            case Done(report=report):
                self._end(number, report, report.sha256)
            case Lost(error=error, sha256=sha256):
                self._end(number, error, sha256)
            case Fault(error=fault, late=late):
                if type(fault) is EnvironmentFault and not late and file.tries < _TRIES:
                    file.tries += 1
                    self._due.append(number)
                else:
                    self._end(number, fault, None)

    def _end(self, number: int, ended: Report | PrereadError, sha256: str | None) -> None:
        file = self._under_way.pop(number)
        ms = (time.monotonic() - file.began) * 1000
        if isinstance(ended, Report):
            ms = ended.ms
            if ended.outcome is Outcome.UNREADABLE:
                ended = error_from_code(ended.code or "", ended.reason, UnreadableError)
        self._ended[number] = FileRead(file.found, ended, sha256, ms)

    def _look_after_pool(self) -> None:
        now = time.monotonic()
        if self._pool.alive or not self._pool.ever_ready:
            self._alive_at = now
        elif now - self._alive_at > _STARTS_WITHIN_S:
            raise SlotCrashed(f"no inference process could be started for {_STARTS_WITHIN_S:g} s")


# ---------------------------------------------------------------------- names


def find_files(paths: Iterable[str | os.PathLike[str]]) -> Iterator[InputFile]:
    """Find the files of a command's paths, those of folders by name.

    Every entry that is no folder is yielded once.
    """
    for given in paths:
        path = os.fspath(given)
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        except FileNotFoundError:
            yield InputFile(path, named=True, fault=FileVanished("there is no such file or folder"))
        except OSError as error:
            yield InputFile(path, named=True, fault=_environment_fault(error))
        else:
            if is_folder:
                yield from _walk(path)
            else:
                yield InputFile(path, named=True)


def _walk(folder: str) -> Iterator[InputFile]:
    pending = [folder]
    while pending:
        path = pending.pop()
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            yield InputFile(path, fault=_environment_fault(error, "the folder cannot be listed"))
            continue
        folders = []
        for entry in entries:
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
            except OSError as error:
                yield InputFile(entry.path, fault=_environment_fault(error))
                continue
            if is_folder:
                folders.append(entry.path)
            else:
                yield InputFile(entry.path)
        pending.extend(reversed(folders))


def locate_input_file(found: InputFile) -> tuple[str, str, os.stat_result]:
    """Return the folder of a file, its name there, and its status.

    Raises:
        NotAFile: it is a link, folder, pipe, socket or device.
        EnvironmentFault: by subclass, it is gone or its status may not be read.
        PrereadError: the fault of ``found``.
    """
    if found.fault is not None:
        raise found.fault
    try:
        # asked before opening: to open a pipe or a device can already do something to it
        status = os.stat(found.path, follow_symlinks=found.named)
        _refuse_irregular(status)
        path = os.path.realpath(found.path) if found.named else os.path.join(os.getcwd(), found.path)
    except OSError as error:
        raise _environment_fault(error) from None
    return *os.path.split(path), status


def _refuse_irregular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotAFile


def _environment_fault(error: OSError, what: str = "the file cannot be read") -> PrereadError:
    detail = f"{what}: {error.strerror or type(error).__name__}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return FileVanished(detail)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EBUSY, errno.ETXTBSY):
        return FileLocked(detail)
    if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
        return NotAFile()
    return EnvironmentFault(detail)
