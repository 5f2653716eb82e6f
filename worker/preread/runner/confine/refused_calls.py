"""Refuse and name the system calls of a confined process (seccomp)."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import struct

from preread.runner.confine import syscalls

# struct seccomp_notif: id, pid, flags, then struct seccomp_data; struct seccomp_notif_resp: id, value, error, flags.
_REQUEST_BYTES, _NUMBER_AT = 80, 16
_RECEIVE, _ANSWER = 0xC0502100, 0xC0182101
_PASSED = frozenset({errno.ENOENT, errno.EINTR, errno.EAGAIN})
MOST = 100
"""Most refused calls for one image; a process that makes more is ended."""


class RefusedCalls:
    """Refused system calls of one process.

    Args:
        listener: the descriptor that the process sent; closed by ``close``.
    """

    def __init__(self, listener: int) -> None:
        self.fd = listener
        self.count = 0
        self._machine = syscalls.MACHINES[platform.machine()]
        self._names: set[str] = set()

    def answer(self) -> str | None:
        """Refuse the call that waits.

        Returns:
            Its name, the first time that this process makes it.
        """
        request = bytearray(_REQUEST_BYTES)
        try:
            fcntl.ioctl(self.fd, _RECEIVE, request)
            number: int = struct.unpack_from("=i", request, _NUMBER_AT)[0]
            answer = struct.pack("=QqiI", *struct.unpack_from("=Q", request), 0, -errno.EPERM, 0)
            fcntl.ioctl(self.fd, _ANSWER, answer)
        except OSError as error:
            if error.errno not in _PASSED:
                raise
            return None  # the process was killed meanwhile
        self.count += 1
        name = syscalls.name_system_call(number, self._machine)
        if name in self._names:
            return None
        self._names.add(name)
        return name

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)
