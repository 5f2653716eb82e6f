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
from preread.share.ignore_rules import match_mode_rule, match_name_rule

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
    """System calls by which a root is scanned; each is counted.

    Attributes:
        asked: number of calls that were made.
        answered: number of the last call that returned. While it is lower than ``asked``, a call waits in the kernel,
            where nothing can interrupt it; another thread reads here for how long the same one does.
    """

    asked = 0
    answered = 0

    def find_network_type(self, root: bytes) -> str | None:
        """Return the type of the root's network file system, or ``None``."""
        return self._ask(filesystems.network_file_system, root)

    def find_missing_mount(self, root: bytes) -> str | None:
        """Return the mount point of the root's share if it is not mounted."""
        return self._ask(filesystems.missing_mount, root)

    def read_status(self, path: bytes) -> os.stat_result:
        """Read the status of a path; symbolic links are followed."""
        return self._ask(os.stat, path)

    def read_link_status(self, path: bytes) -> os.stat_result:
        """Read the status of a path; a symbolic link is not followed."""
        return self._ask(os.lstat, path)

    def list_entries(self, path: bytes) -> Iterator[os.DirEntry[bytes]]:
        """List the entries of one folder, one at a time."""
        with self._ask(os.scandir, path) as listing:
            while (entry := self._ask(next, listing, None)) is not None:
                yield entry

    def read_listed_status(self, entry: os.DirEntry[bytes]) -> os.stat_result:
        """Read the status of a listed entry; a link is not followed."""
        return self._ask(partial(entry.stat, follow_symlinks=False))

    def _ask(self, call: Callable[..., T], *arguments: Any) -> T:
        self.asked += 1
        try:
            return call(*arguments)
        finally:
            self.answered = self.asked


@dataclass(frozen=True, slots=True)
class ScannedRoot:
    """Root to scan, with the ledger in which its files are recorded.

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
class ScanCounts:
    """Counts of one scan of a root: files, ignored folders, failures.

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
        """``True`` if every folder was listed: an unlisted file is absent."""
        return self.failed_folders == 0

    def build_error(self) -> ScanIncomplete | None:
        """Build the error of an incomplete scan; ``None`` if nothing failed."""
        count = self.failed_folders + self.failed_entries
        if not count:
            return None
        why = os.strerror(self.first_errno) if self.first_errno else "another folder took the root's place"
        return ScanIncomplete(
            f"{self.failed_folders} folders and "
            f"{self.failed_entries} files in the watched folder cannot be read ({why})"
        )


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


def list_files(system: FileSystem, root: bytes, below: bytes, listing: ScanCounts) -> Iterator[ListedEntry]:
    """List the files of a watched folder and of the folders in it.

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
            for entry in system.list_entries(os.path.join(root, folder) if folder else root):
                path = prefix + entry.name
                rule = match_name_rule(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    if rule is None:
                        pending.append(path)
                    else:
                        listing.ignored_folders += 1
                else:
                    listing.files += 1
                    yield ListedEntry(path, rule, entry)
        except OSError as error:
            count_failed_folder(system, root, folder, listing, error)


def count_failed_folder(system: FileSystem, root: bytes, folder: bytes, listing: ScanCounts, error: OSError) -> None:
    """Count a folder that a scan could not list to its end.

    Raises:
        ShareDown: it is the root, or the failure means the whole share.
    """
    if not folder:
        raise ShareDown(f"the watched folder cannot be listed: {error.strerror or type(error).__name__}") from error
    listing.failed_folders += 1
    listing.first_errno = listing.first_errno or error.errno
    if error.errno in SHARE_ERRNOS:
        check_root_readable(system, root)


def read_entry_statuses(
    system: FileSystem,
    batch: Iterable[ListedEntry],
    listing: ScanCounts,
    there: Callable[[bytes], object] = lambda _: None,
) -> list[EntryStatus]:
    """Read the status of each listed file; absent ones are left out.

    Args:
        system: the system calls.
        batch: listed entries.
        listing: counts entries whose status cannot be read.
        there: called with the path of such an entry.
    """
    looks = []
    for found in batch:
        try:
            looks.append(read_entry_status(system, found))
        except OSError as error:
            if error.errno not in GONE_ERRNOS:
                there(found.path)
                listing.failed_entries += 1
                listing.first_errno = listing.first_errno or error.errno
    return looks


def check_root_readable(system: FileSystem, root: bytes) -> os.stat_result:
    """Check that a root is a folder that can be listed; return its status.

    Raises:
        ShareDown: it is not there, is no folder, or cannot be listed.
    """
    try:
        status = system.read_status(root)
        if not stat.S_ISDIR(status.st_mode):
            raise ShareDown("the watched folder's path is not a folder")
        next(iter(system.list_entries(root)), None)
    except OSError as error:
        raise ShareDown(f"the watched folder cannot be listed: {error.strerror or type(error).__name__}") from error
    return status


def check_share_mounted(system: FileSystem, root: bytes, listing: ScanCounts) -> None:
    """Check that an empty root is not the mount point of an absent share.

    Raises:
        ShareDown: it is.
    """
    if listing.files == 0 and (point := system.find_missing_mount(root)):
        raise ShareDown(f"/etc/fstab has a share at {point}, but nothing is mounted there")


def read_entry_status(system: FileSystem, found: ListedEntry) -> EntryStatus:
    """Read the status of one listed file, with the rule that ignores it.

    Raises:
        OSError: as ``lstat``.
    """
    return _look(found.path, system.read_listed_status(found.entry), found.rule)


def read_path_status(system: FileSystem, root: bytes, path: bytes) -> EntryStatus | None:
    """Read the status of one path in a root; ``None`` for a folder.

    Raises:
        OSError: as ``lstat``; a path through a link does not exist (``ENOTDIR``), as for the scan.
    """
    *folders, _ = path.split(b"/")
    for depth in range(1, len(folders) + 1):
        above = b"/".join(folders[:depth])
        if not stat.S_ISDIR(system.read_link_status(os.path.join(root, above)).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    status = system.read_link_status(os.path.join(root, path))
    return None if stat.S_ISDIR(status.st_mode) else _look(path, status, match_name_rule(path.rsplit(b"/", 1)[-1]))


def _look(path: bytes, status: os.stat_result, rule: str | None) -> EntryStatus:
    observation = Observation(path, status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
    return EntryStatus(observation, rule or match_mode_rule(status.st_mode))
