"""List the entries of a root; symbolic links are not followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from preread.core import filesystems
from preread.core.errors import ScanIncomplete, ShareDown
from preread.ledger.ledger import Ledger
from preread.ledger.records import Observation
from preread.share.ignore_rules import mode_rule, name_rule

T = TypeVar("T")

# Answers of the share as a whole, not of one file in it (CIFS and NFS give them when the server is away).
SHARE_ERRNOS = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
        errno.ENETUNREACH, errno.ENOTCONN, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED,
        errno.ESHUTDOWN, errno.ENODEV, errno.ENXIO,
    }
)  # fmt: skip
GONE_ERRNOS = frozenset({errno.ENOENT, errno.ENOTDIR})


class FileSystem:
    """System calls by which a root is scanned; tests make them fail.

    Attributes:
        asked: number of calls that were made.
        answered: number of the last call that returned. While it is lower than ``asked``, a call waits in the kernel,
            where nothing can interrupt it; another thread reads here for how long the same one does.
    """

    asked = 0
    answered = 0

    def network(self, root: bytes) -> str | None:
        """Call ``filesystems.network_file_system``."""
        return self._ask(filesystems.network_file_system, root)

    def missing_mount(self, root: bytes) -> str | None:
        """Call ``filesystems.missing_mount``."""
        return self._ask(filesystems.missing_mount, root)

    def status(self, path: bytes) -> os.stat_result:
        """Return the status of a path; links are followed."""
        return self._ask(os.stat, path)

    def status_of_link(self, path: bytes) -> os.stat_result:
        """Return the status of a path; a link is not followed."""
        return self._ask(os.lstat, path)

    def entries(self, path: bytes) -> Iterator[os.DirEntry[bytes]]:
        """Yield the entries of one folder."""
        with self._ask(os.scandir, path) as listing:
            while (entry := self._ask(next, listing, None)) is not None:
                yield entry

    def status_of_entry(self, entry: os.DirEntry[bytes]) -> os.stat_result:
        """Return the status of a listed entry; a link is not followed."""
        return self._ask(partial(entry.stat, follow_symlinks=False))

    def _ask(self, call: Callable[..., T], *arguments: Any) -> T:
        self.asked += 1
        try:
            return call(*arguments)
        finally:
            self.answered = self.asked


@dataclass(frozen=True, slots=True)
class ScannedRoot:
    """A root with the ledger that it is recorded in.

    Attributes:
        path: absolute path, ``os.fsencode``d.
        root_id: its number in the ledger.
        system: the calls by which it is scanned.
    """

    path: bytes
    root_id: int
    ledger: Ledger
    system: FileSystem


@dataclass(slots=True)
class Listing:
    """Counts of one walk through a root.

    Attributes:
        files: entries that are no folders, ignored ones included.
        ignored_folders: folders that a rule leaves out; nothing in them is listed.
        failed_folders: folders that could not be listed to their end.
        failed_entries: entries whose ``stat`` failed.
        first_errno: of the first failure.
    """

    files: int = 0
    ignored_folders: int = 0
    failed_folders: int = 0
    failed_entries: int = 0
    first_errno: int | None = None

    @property
    def complete(self) -> bool:
        """Whether a path that this walk did not meet is absent."""
        return self.failed_folders == 0

    def fault(self) -> ScanIncomplete | None:
        """Return the error for an operator, ``None`` if nothing failed."""
        count = self.failed_folders + self.failed_entries
        if not count:
            return None
        why = os.strerror(self.first_errno) if self.first_errno else "another folder took the root's place"
        return ScanIncomplete(f"folders or files in it that cannot be read: {count} ({why})")


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """Listed entry that is no folder.

    Attributes:
        path: relative to the root.
        rule: rule that leaves it out by its name; ``None`` for most.
        entry: for its status.
    """

    path: bytes
    rule: str | None
    entry: os.DirEntry[bytes]


@dataclass(frozen=True, slots=True)
class EntryStatus:
    """Status of one entry.

    Attributes:
        rule: rule that leaves it out; ``None`` for a file to record.
    """

    observation: Observation
    rule: str | None = None


def walk(system: FileSystem, root: bytes, below: bytes, listing: Listing) -> Iterator[ListedEntry]:
    """Yield every entry at or below a folder that is no folder itself.

    Args:
        system: the system calls.
        root: absolute path of the root.
        below: relative path of the folder to begin with; empty for the root.
        listing: counts entries and failures.

    Raises:
        ShareDown: the first folder cannot be listed, or one below it fails in a way that means the whole share.
    """
    pending = [below]
    while pending:
        folder = pending.pop()
        prefix = folder + b"/" if folder else b""
        try:
            for entry in system.entries(os.path.join(root, folder) if folder else root):
                path = prefix + entry.name
                rule = name_rule(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    if rule is None:
                        pending.append(path)
                    else:
                        listing.ignored_folders += 1
                else:
                    listing.files += 1
                    yield ListedEntry(path, rule, entry)
        except OSError as error:
            note_failed_folder(system, root, folder, listing, error)


def note_failed_folder(system: FileSystem, root: bytes, folder: bytes, listing: Listing, error: OSError) -> None:
    """Count a folder that could not be listed to its end.

    Raises:
        ShareDown: it is the root, or the failure means the whole share.
    """
    if not folder:
        raise ShareDown(f"the folder cannot be listed: {error.strerror or type(error).__name__}") from error
    listing.failed_folders += 1
    listing.first_errno = listing.first_errno or error.errno
    if error.errno in SHARE_ERRNOS:
        check_root(system, root)


def look_at_entries(
    system: FileSystem,
    batch: Iterable[ListedEntry],
    listing: Listing,
    there: Callable[[bytes], object] = lambda _: None,
) -> list[EntryStatus]:
    """Return the status of each entry; one that is gone is left out.

    Args:
        system: the system calls.
        batch: listed entries.
        listing: counts entries whose status cannot be read.
        there: called with the path of such an entry.
    """
    looks = []
    for found in batch:
        try:
            looks.append(look_at_entry(system, found))
        except OSError as error:
            if error.errno not in GONE_ERRNOS:
                there(found.path)
                listing.failed_entries += 1
                listing.first_errno = listing.first_errno or error.errno
    return looks


def check_root(system: FileSystem, root: bytes) -> os.stat_result:
    """Return the root's status.

    Raises:
        ShareDown: it is not there, is no folder, or cannot be listed.
    """
    try:
        status = system.status(root)
        if not stat.S_ISDIR(status.st_mode):
            raise ShareDown("the root is not a folder")
        next(iter(system.entries(root)), None)
    except OSError as error:
        raise ShareDown(f"the folder cannot be listed: {error.strerror or type(error).__name__}") from error
    return status


def check_mounted(system: FileSystem, root: bytes, listing: Listing) -> None:
    """Check that a listed root is not the empty folder of an unmounted share.

    Raises:
        ShareDown: it is.
    """
    if listing.files == 0 and (point := system.missing_mount(root)):
        raise ShareDown(f"/etc/fstab names {point}, and nothing is mounted there")


def look_at_entry(system: FileSystem, found: ListedEntry) -> EntryStatus:
    """Return the status of a listed entry.

    Raises:
        OSError: as ``lstat``.
    """
    return _look(found.path, system.status_of_entry(found.entry), found.rule)


def look_at_path(system: FileSystem, root: bytes, path: bytes) -> EntryStatus | None:
    """Return the status of a path; ``None`` for a folder.

    Raises:
        OSError: as ``lstat``; a path through a link does not exist (``ENOTDIR``), as for the scan.
    """
    *folders, _ = path.split(b"/")
    for depth in range(1, len(folders) + 1):
        above = b"/".join(folders[:depth])
        if not stat.S_ISDIR(system.status_of_link(os.path.join(root, above)).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    status = system.status_of_link(os.path.join(root, path))
    return None if stat.S_ISDIR(status.st_mode) else _look(path, status, name_rule(path.rsplit(b"/", 1)[-1]))


def _look(path: bytes, status: os.stat_result, rule: str | None) -> EntryStatus:
    observation = Observation(path, status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
    return EntryStatus(observation, rule or mode_rule(status.st_mode))
