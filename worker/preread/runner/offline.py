"""Files and folders by name, and how each ended, without a database: what ``preread assess`` and evaluation run on.

Folders are walked in the order of their names; symbolic links, pipes, sockets and devices in them are named and not
opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from preread.core.errors import EnvironmentFault, FileLocked, FileVanished, NotAFile, PrereadError
from preread.core.jsonable import finding_to_json, reversible_path
from preread.core.types import Caveat, Finding, JSONObject, Outcome


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


def locate(found: Found) -> tuple[str, str, os.stat_result]:
    """Return the folder of a file, its name there, and what it is now.

    Raises:
        NotAFile: it is a link, folder, pipe, socket or device.
        EnvironmentFault: a subclass says that it is gone or may not be looked at.
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
