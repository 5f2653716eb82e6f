"""Confine the calling process: seccomp, Landlock, resource limits.

Everything that reading an open file does not need is taken away for good.

By seccomp, Landlock, resource limits and ``PR_SET_DUMPABLE``, through ``ctypes`` and without any privilege. To be
called once everything is imported and loaded: no file can be opened afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import socket
import struct
from functools import cache

from preread.core.errors import SettingsError
from preread.runner.confine import syscalls
from preread.runner.confine.syscalls import Machine

SECCOMP, LANDLOCK = "seccomp", "landlock"
ESSENTIAL = frozenset({SECCOMP, LANDLOCK})
"""Without these a process counts as not confined; what else may be lacking is defence in depth."""
CALLS_UNTOLD = "refused_calls_untold"
NEWEST_ABI_USED = 6
_OLD_ABI = "landlock_abi_"
_MOST_DESCRIPTORS = 64
_MOST_TASKS = 4096

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_MODE_FILTER = 2
_SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER = 1
# struct stat of both machines has these fields at the same places.
_FSTAT_CALL = {"x86_64": 5, "aarch64": 80}
_STAT_BYTES, _SIZE_AT, _MODIFIED_AT = 256, 48, 88
# The mitigation that seccomp turns on in older kernels guards secrets of a process from code inside it, of which there
# are none here, and slows decoders.
_ALL_THREADS, _NO_SPECULATION_GUARD, _NEW_LISTENER, _THREADS_AS_ERROR = 1, 4, 8, 16
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_ASK_ABI = 1
_FILE_RIGHTS_OF_ABI_1 = (1 << 13) - 1
# Right by right, the ABI that brought it: refer, truncate, ioctl on devices.
_LATER_FILE_RIGHTS = ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
_NET_SINCE, _NET_RIGHTS = 4, 0b11
_SCOPE_SINCE, _SCOPES = 6, 0b11


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def describe_lacking_part(lacking: str) -> str:
    """Return the name of a lacking part, for people."""
    if lacking.startswith(_OLD_ABI):
        return f"Landlock of ABI {NEWEST_ABI_USED} (it has ABI {lacking.removeprefix(_OLD_ABI)})"
    return {SECCOMP: "seccomp", LANDLOCK: "Landlock", CALLS_UNTOLD: "word of refused calls"}.get(lacking, lacking)


class Unconfined(SettingsError):
    """An inference process cannot be confined here, or cannot work so."""

    code = "unconfined"
    hint = "Use a kernel with seccomp and Landlock (5.13 or later), or unset PREREAD_REQUIRE_CONFINEMENT."


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def confine_process(control: socket.socket) -> tuple[str, ...]:
    """Confine the calling process: seccomp, Landlock, resource limits.

    It can then read what it has open, compute, write into its pipes and end.

    Args:
        control: a connected socket. Whoever has its other end gets the descriptor by which the kernel tells of each
            call that was refused, and answers for it; see ``preread.runner.confine.refused_calls``.

    Returns:
        What this machine lacks: ``SECCOMP``, ``LANDLOCK``, ``landlock_abi_`` and a number, ``CALLS_UNTOLD``.
    """
    libc = _libc()
    machine = syscalls.MACHINES.get(platform.machine())
    program = None if machine is None else _Filters(machine)
    _limit_resources()
    _prctl(libc, _PR_SET_DUMPABLE, 0)
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    lacking = [] if (landlock := _restrict_by_landlock(libc)) is None else [landlock]
    if program is None or (untold := program.install(libc, control)) is None:
        return (SECCOMP, *lacking)
    return (*lacking, CALLS_UNTOLD) if untold else tuple(lacking)


def _limit_resources() -> None:
    # threads count as well, and a decoder may start some: fork is refused by the filter
    for limit, most in (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _MOST_DESCRIPTORS),
        (resource.RLIMIT_NPROC, _MOST_TASKS),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        lower = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (lower, lower))


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")


def _restrict_by_landlock(libc: ctypes.CDLL) -> str | None:
    """Deny files, TCP, signals and abstract sockets to the outside.

    Returns:
        What the kernel lacks for it, ``None`` if nothing.
    """
    abi = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_ABI))
    if abi < 1:  # not built in, not enabled at boot, or refused by a container's filter
        return LANDLOCK
    rights = _FILE_RIGHTS_OF_ABI_1
    for since, right in _LATER_FILE_RIGHTS:
        rights |= right if abi >= since else 0
    rules = _Ruleset(rights, _NET_RIGHTS if abi >= _NET_SINCE else 0, _SCOPES if abi >= _SCOPE_SINCE else 0)
    size = 8 * (1 + (abi >= _NET_SINCE) + (abi >= _SCOPE_SINCE))
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return LANDLOCK
    try:
        # no rule is added: nothing is beneath any path that may be opened
        if libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) != 0:
            return LANDLOCK
    finally:
        os.close(ruleset)
    return None if abi >= NEWEST_ABI_USED else f"{_OLD_ABI}{abi}"


class _Filters:
    """The seccomp filters of one machine, made before anything is taken away."""

    def __init__(self, machine: Machine) -> None:
        self._number = _SECCOMP_CALL[platform.machine()]
        pid = os.getpid()
        self._telling = syscalls.build_allow_list(machine, pid, syscalls.TELL)
        self._silent = syscalls.build_allow_list(machine, pid, syscalls.REFUSE)
        self._closing = syscalls.build_closing_filter(machine)

    def install(self, libc: ctypes.CDLL, control: socket.socket) -> bool | None:
        """Put both in place, and give the listener away between them.

        Returns:
            Whether the kernel, or what runs around this process, cannot tell of refused calls; ``None`` if it has no
            filters at all.
        """
        from preread.runner.child import protocol  # loads numpy, which `preread status` needs not

        flags = _ALL_THREADS | _NO_SPECULATION_GUARD
        listener = self._set(libc, self._telling, flags | _NEW_LISTENER | _THREADS_AS_ERROR)
        if listener is None and self._set(libc, self._silent, flags) is None:
            return None
        if listener is not None:
            # whoever holds it may let a refused call through: it must be gone before a file is read
            protocol.send_message(control, b"refused calls", [listener])
            os.close(listener)
        if self._set(libc, self._closing, flags) is None:
            raise OSError(errno.EPERM, "the second seccomp filter was not taken")
        return listener is None

    def _set(self, libc: ctypes.CDLL, code: bytes, flags: int) -> int | None:
        kept = ctypes.create_string_buffer(code, len(code))
        program = _Program(len(code) // 8, ctypes.cast(kept, ctypes.c_void_p))
        answer: int = libc.syscall(
            self._number, ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(flags), ctypes.byref(program)
        )
        if answer < 0 and not flags & _NEW_LISTENER:
            # an older call, and the only one that a filter around this process may let through
            answer = libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)
        return answer if answer >= 0 else None


def read_file_key(file_fd: int) -> tuple[int, int, int, int]:
    """Return the ``safe_read.FileKey`` of an open file.

    The C library's ``fstat`` makes a call that takes a path, which a confined process may not make.

    Raises:
        OSError: the descriptor is none.
    """
    number = _FSTAT_CALL.get(platform.machine())
    if number is None:
        status = os.fstat(file_fd)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    found = ctypes.create_string_buffer(_STAT_BYTES)
    if _libc().syscall(number, ctypes.c_int(file_fd), found) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    device, inode = struct.unpack_from("=QQ", found, 0)
    (size,) = struct.unpack_from("=q", found, _SIZE_AT)
    seconds, nanoseconds = struct.unpack_from("=qq", found, _MODIFIED_AT)
    return device, inode, size, seconds * 1_000_000_000 + nanoseconds
