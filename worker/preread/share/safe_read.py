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


FileKey = tuple[int, int, int, int]
"""Device, inode, size and modification time (ns), by which a file version is told from another."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Bytes of one file version and its status.

    Attributes:
        data: all bytes of the file.
        status: of the open file, before and after reading alike.
    """

    data: bytes
    status: os.stat_result


def read_file(root: bytes, expected: Observation, max_bytes: int) -> Contents:
    """Read a watched folder's file if it is unchanged, following no links.

    Args:
        root: absolute path.
        expected: path relative to the root, size and modification time; the inode is not compared.
        max_bytes: a larger file is not read.

    Raises:
        TooManyBytes: the file is larger than ``max_bytes``.
        EnvironmentFault: by subclass, the file is another one, gone, locked, or reading failed.
    """
    file_fd, status = open_observed_file(root, expected, max_bytes)
    try:
        return Contents(read_opened_file(file_fd, expected), status)
    finally:
        os.close(file_fd)


def open_observed_file(root: bytes, expected: Observation, max_bytes: int) -> tuple[int, os.stat_result]:
    """Open a watched folder's file if it is unchanged, following no links.

    Nothing of it is read.

    Args:
        root: absolute path.
        expected: path relative to the root, size and modification time; the inode is not compared.
        max_bytes: a larger file is not opened.

    Raises:
        ShareDown: the root cannot be opened.
        TooManyBytes: the file is larger than ``max_bytes``.
        EnvironmentFault: by subclass, the file is another one, gone, locked, or opening failed.

    Returns:
        Its descriptor, which is the caller's to close, and its status.
    """
    try:
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ShareDown(f"the watched folder cannot be opened: {error.strerror}") from error
    try:
        folder_fd = _open_folder(root_fd, expected.path)
        try:
            return _open(folder_fd, expected, max_bytes)
        finally:
            os.close(folder_fd)
    except OSError as error:
        raise convert_read_error(error) from error
    finally:
        os.close(root_fd)


def _key_of(file_fd: int) -> FileKey:
    return _key(os.fstat(file_fd))


def read_opened_file(file_fd: int, expected: Observation, key_of: Callable[[int], FileKey] = _key_of) -> bytes:
    """Read all bytes of an open file, and check that it did not change.

    Args:
        file_fd: descriptor of the file, at its start.
        expected: size and modification time that it had when it was observed.
        key_of: returns device, inode, size and modification time of a descriptor.

    Raises:
        FileChanged: its size or modification time is not the expected one, or changed while it was read.
        EnvironmentFault: by subclass, reading failed.
    """
    try:
        before = key_of(file_fd)
        if before[2:] != (expected.size_bytes, expected.mtime_ns):
            raise FileChanged(_changed("before", expected.size_bytes, before[2]))
        data = read_bytes_up_to(file_fd, expected.size_bytes + 1)
        after = key_of(file_fd)
    except OSError as error:
        raise convert_read_error(error) from error
    if before != after or len(data) != expected.size_bytes:
        raise FileChanged(_changed("while", expected.size_bytes, max(after[2], len(data))))
    return data


def check_file_unchanged(root: bytes, path: bytes, status: os.stat_result) -> None:
    """Check that a path still leads to the file that was read, unchanged.

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
        raise convert_read_error(error) from error
    if _key(now) != _key(status):
        raise FileChanged(_changed("after", status.st_size, now.st_size))


def convert_read_error(error: OSError) -> EnvironmentFault:
    """Convert the error of a system call on a file to an error of Preread.

    None of these counts as an attempt.
    """
    answer = error.strerror or type(error).__name__
    if error.errno in _VANISHED:
        return FileVanished(f"the file no longer exists: {answer}")
    if error.errno in _REPLACED:
        return FileChanged(f"the path is no longer a file but a link, folder, socket or device: {answer}")
    if error.errno in _LOCKED:
        return FileLocked(f"the file is locked, or its permissions do not allow reading: {answer}")
    return EnvironmentFault(f"the file cannot be read: {answer}")


def _changed(when: str, before_bytes: int, now_bytes: int) -> str:
    if before_bytes == now_bytes:
        return f"the file changed {when} it was read: its modification time or its inode is another"
    return f"the file changed {when} it was read: it had {before_bytes} bytes and has {now_bytes}"


def _open_folder(root_fd: int, path: bytes) -> int:
    *folders, name = path.split(b"/")
    if any(part in {b"", b".", b".."} for part in (*folders, name)):
        raise FileVanished("the path has an empty, `.` or `..` component and does not lie within its watched folder")
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
        raise FileChanged(
            f"the path is no longer a regular file: its type is {stat.S_IFMT(status.st_mode):o}, not {stat.S_IFREG:o}"
        )
    found = Observation(expected.path, status.st_size, status.st_mtime_ns)
    if (found.size_bytes, found.mtime_ns) != (expected.size_bytes, expected.mtime_ns):
        raise FileChanged(_changed("before", expected.size_bytes, found.size_bytes))


def read_bytes_up_to(file_fd: int, count: int) -> bytes:
    """Read the bytes of an open file up to its end, at most ``count``."""
    chunks = []
    while count > 0 and (chunk := os.read(file_fd, min(count, _CHUNK_BYTES))):
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def _key(status: os.stat_result) -> FileKey:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
