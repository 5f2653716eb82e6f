"""Files and folders to results, one by one and without a database: what ``preread assess`` and evaluation run on.

Every file ends in a named outcome, and none ends the batch. Folders are walked in the order of their names; symbolic
links, pipes, sockets and devices in them are named and not opened. The bytes are read once, from a regular file only.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from worker.assess import assess
from worker.beneath import read_up_to
from worker.classifier import Classifier
from worker.domain import Assessment, Caveat, Declared, Finding, JSONObject, Outcome
from worker.errors import (
    EnvironmentFault,
    FileChanged,
    FileLocked,
    FileVanished,
    InternalError,
    NotAFile,
    PrereadError,
    TooManyBytes,
    UnreadableError,
)
from worker.radiograph import DEFAULT_LIMITS, Limits
from worker.records import finding_to_json, reversible_path

_LOG = logging.getLogger(__name__)
# O_NONBLOCK: a pipe that took the file's place must not make us wait for a writer.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
ASSUME_AGE = Declared(assume_age=True)


@dataclass(frozen=True, slots=True)
class Found:
    """One name to read, or the reason why a name leads to nothing.

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
    """How one file ended.

    Attributes:
        path: as ``Found.path``.
        sha256: hex, of the bytes that were read; ``None`` when there were none to read.
        code: why it was refused or is unreadable; ``None`` when assessed.
        reason: the same in a sentence; ``None`` when assessed.
        bundle: ``name/version``.
        ms: milliseconds for this file, reading included.
        judged: ``False`` when the machine, the share, the caller or Preread was at fault and not the bytes.
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

    def to_json(self) -> JSONObject:
        """Return the record that ``preread assess --json`` prints, one line a file."""
        return {
            "path": reversible_path(self.path),
            "sha256": self.sha256,
            "outcome": self.outcome.value,
            "code": self.code,
            "reason": self.reason,
            "findings": [finding_to_json(finding) for finding in self.findings],
            "caveats": [caveat.value for caveat in self.caveats],
            "bundle": self.bundle,
            "ms": round(self.ms, 3),
        }


def find_files(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Found]:
    """Walk files and folders in the order of their names; every entry that is no folder comes out once."""
    for given in paths:
        path = os.fspath(given)
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        except FileNotFoundError:
            yield Found(path, named=True, fault=FileVanished("there is no such file or folder"))
        except OSError as error:
            yield Found(path, named=True, fault=_environment_fault(error))
        else:
            if is_folder:
                yield from _walk(path)
            else:
                yield Found(path, named=True)


def _walk(folder: str) -> Iterator[Found]:
    pending = [folder]
    while pending:
        path = pending.pop()
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            yield Found(path, fault=_environment_fault(error, "the folder cannot be listed"))
            continue
        folders = []
        for entry in entries:
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
            except OSError as error:
                yield Found(entry.path, fault=_environment_fault(error))
                continue
            if is_folder:
                folders.append(entry.path)
            else:
                yield Found(entry.path)
        pending.extend(reversed(folders))


def read_regular_file(path: str, max_bytes: int, *, follow: bool = False) -> bytes:
    """Read a whole regular file once.

    Args:
        max_bytes: more than this is not read.
        follow: whether ``path`` itself may be a symbolic link.

    Raises:
        NotAFile: it is a link, folder, pipe, socket or device.
        TooManyBytes: it is larger than ``max_bytes``.
        EnvironmentFault: a subclass says that it is gone, may not be read, changed meanwhile, or that reading failed.
    """
    try:
        # asked before opening: to open a pipe or a device can already do something to it
        _refuse_irregular(os.stat(path, follow_symlinks=follow))
        descriptor = os.open(path, _OPEN_FLAGS | (0 if follow else _O_NOFOLLOW))
        try:
            before = os.fstat(descriptor)
            _refuse_irregular(before)
            if before.st_size > max_bytes:
                raise TooManyBytes(f"the file has {before.st_size} bytes; {max_bytes} are read at most")
            data = read_up_to(descriptor, max_bytes + 1)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _environment_fault(error) from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(data) != before.st_size:
        raise FileChanged("the file changed while it was read; try again when it is whole")
    return data


def assess_files(
    paths: Iterable[str | os.PathLike[str]],
    classifier: Classifier,
    declared: Declared = ASSUME_AGE,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[FileResult]:
    """Assess files and every file in folders; yields one result each as it is done.

    Args:
        declared: by default an unknown age is assumed to be the intended one, with a caveat that says so.
    """
    for found in find_files(paths):
        yield assess_found(found, classifier, declared, limits)


def assess_found(
    found: Found, classifier: Classifier, declared: Declared = ASSUME_AGE, limits: Limits = DEFAULT_LIMITS
) -> FileResult:
    """Assess one name of ``find_files``; never raises for what is wrong with the file."""
    began = time.perf_counter()
    sha256 = None
    try:
        if found.fault is not None:
            raise found.fault
        data = read_regular_file(found.path, limits.max_bytes, follow=found.named)
        sha256 = hashlib.sha256(data).hexdigest()
        answer = assess(data, classifier, declared, limits, sha256=sha256)
    except PrereadError as error:
        outcome, code, reason = Outcome.UNREADABLE, error.code, str(error)
        judged = isinstance(error, UnreadableError)
    except Exception as error:  # noqa: BLE001  one bad file must not end the others; it is named and logged
        _LOG.exception("assess_failed", extra={"sha256": sha256})
        outcome, code, judged = Outcome.UNREADABLE, InternalError.code, False
        reason = f"Preread failed on this file ({type(error).__name__})"
    else:
        ms = (time.perf_counter() - began) * 1000
        if isinstance(answer, Assessment):
            return FileResult(
                found.path, sha256, Outcome.ASSESSED, None, None, answer.findings, answer.caveats, answer.bundle, ms
            )
        return FileResult(
            found.path, sha256, Outcome.REFUSED, answer.code.value, answer.reason, (), (), answer.bundle, ms
        )
    ms = (time.perf_counter() - began) * 1000
    return FileResult(found.path, sha256, outcome, code, reason, (), (), classifier.bundle.label, ms, judged)


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
