"""Read one regular, unchanged file beneath a root, following no links.

Each component is opened from the descriptor of the folder above it and no link is followed, so that nothing a writer
puts into the share can lead outside it, not even between looking and opening. The handle is closed as soon as the bytes
are in memory: on a Windows share an open handle hinders the sender's rename or delete. The process that reads a file is
not the one that opens it: see ``preread.runner.child.handle``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from preread.core.errors import EnvironmentFault, FileChanged, FileLocked, FileVanished, ShareDown, TooManyBytes
from preread.ledger.records import Observation

# Nearly every file comes in one piece, which is then not copied again.
_CHUNK_BYTES = 64 * 1024 * 1024
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_LOCKED = frozenset({errno.EACCES, errno.EPERM, errno.EBUSY, errno.ETXTBSY, errno.EAGAIN, errno.EDEADLK, errno.ENOLCK})
_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR})
# a link, folder, socket or device took the file's place
_REPLACED = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})


Key = tuple[int, int, int, int]
"""Device, inode, size and modification time (ns): what makes a file version the same as another."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Bytes of one file version and its status.

    Attributes:
        status: of the open file, before and after reading alike.
    """

    data: bytes
    status: os.stat_result


def read(root: bytes, expected: Observation, max_bytes: int) -> Contents:
    """Read an observed file.

    Args:
        root: absolute path.
        expected: path relative to the root, size and modification time; the inode is not compared.
        max_bytes: a larger file is not read.

    Raises:
        TooManyBytes: the file is larger than ``max_bytes``.
        EnvironmentFault: by subclass, the file is another one, gone, locked, or reading failed.
    """
    file_fd, status = open_file(root, expected, max_bytes)
    try:
        return Contents(read_open(file_fd, expected), status)
    finally:
        os.close(file_fd)


def open_file(root: bytes, expected: Observation, max_bytes: int) -> tuple[int, os.stat_result]:
    """Open an observed file, and read nothing of it.

    Args, Raises:
        As ``read``.

    Returns:
        Its descriptor, which is the caller's to close, and its status.
    """
    try:
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ShareDown(f"the root cannot be opened: {error.strerror}") from error
    try:
        folder_fd = _open_folder(root_fd, expected.path)
        try:
            return _open(folder_fd, expected, max_bytes)
        finally:
            os.close(folder_fd)
    except OSError as error:
        raise fault_of(error) from error
    finally:
        os.close(root_fd)


def _key_of(file_fd: int) -> Key:
    return _key(os.fstat(file_fd))


def read_open(file_fd: int, expected: Observation, key_of: Callable[[int], Key] = _key_of) -> bytes:
    """Read an open file whole.

    Args:
        file_fd: descriptor of the file, at its start.
        expected: size and modification time that it had when it was observed.
        key_of: returns device, inode, size and modification time of a descriptor.

    Raises:
        EnvironmentFault: by subclass, the file changed meanwhile, or reading failed.
    """
    try:
        before = key_of(file_fd)
        if before[2:] != (expected.size_bytes, expected.mtime_ns):
            raise FileChanged("the file changed before it was read")
        data = read_up_to(file_fd, expected.size_bytes + 1)
        after = key_of(file_fd)
    except OSError as error:
        raise fault_of(error) from error
    if before != after or len(data) != expected.size_bytes:
        raise FileChanged("the file changed while it was read")
    return data


def check_unchanged(root: bytes, path: bytes, status: os.stat_result) -> None:
    """Check that the path still leads to the file that was read, unchanged.

    Raises:
        FileChanged: another file lies there, or its size or modification time is another.
        EnvironmentFault: by subclass, it is gone or its status cannot be read.
    """
    try:
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            folder_fd = _open_folder(root_fd, path)
            try:
                now = os.stat(path.rsplit(b"/", 1)[-1], dir_fd=folder_fd, follow_symlinks=False)
            finally:
                os.close(folder_fd)
        finally:
            os.close(root_fd)
    except OSError as error:
        raise fault_of(error) from error
    if _key(now) != _key(status):
        raise FileChanged("the file changed after it was read")


def fault_of(error: OSError) -> EnvironmentFault:
    """Return the error for a failed system call.

    None of these counts as an attempt.
    """
    answer = error.strerror or type(error).__name__
    if error.errno in _VANISHED:
        return FileVanished(f"the file went away: {answer}")
    if error.errno in _REPLACED:
        return FileChanged(f"something else took the file's place: {answer}")
    if error.errno in _LOCKED:
        return FileLocked(f"the file may not be read now: {answer}")
    return EnvironmentFault(f"the file cannot be read now: {answer}")


def _open_folder(root_fd: int, path: bytes) -> int:
    *folders, name = path.split(b"/")
    if any(part in {b"", b".", b".."} for part in (*folders, name)):
        raise FileVanished("the path does not lie below its root")
    folder_fd = os.dup(root_fd)
    for part in folders:
        try:
            below_fd = os.open(part, _FOLDER_FLAGS, dir_fd=folder_fd)
        finally:
            os.close(folder_fd)
        folder_fd = below_fd
    return folder_fd


def _open(folder_fd: int, expected: Observation, max_bytes: int) -> tuple[int, os.stat_result]:
    name = expected.path.rsplit(b"/", 1)[-1]
    # asked before opening: opening a device can already do something to it
    _check_expected(os.stat(name, dir_fd=folder_fd, follow_symlinks=False), expected)
    file_fd = os.open(name, _FILE_FLAGS, dir_fd=folder_fd)
    try:
        status = os.fstat(file_fd)
        _check_expected(status, expected)
        if status.st_size > max_bytes:
            raise TooManyBytes(f"The file has {status.st_size} bytes; the limit is {max_bytes}.")
    except BaseException:
        os.close(file_fd)
        raise
    return file_fd, status


def _check_expected(status: os.stat_result, expected: Observation) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileChanged("something that is no file took its place")
    found = Observation(expected.path, status.st_size, status.st_mtime_ns)
    if (found.size_bytes, found.mtime_ns) != (expected.size_bytes, expected.mtime_ns):
        raise FileChanged("the file changed before it was read")


def read_up_to(file_fd: int, count: int) -> bytes:
    """Return the bytes of a descriptor up to its end, at most ``count``."""
    chunks = []
    while count > 0 and (chunk := os.read(file_fd, min(count, _CHUNK_BYTES))):
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def _key(status: os.stat_result) -> Key:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
