"""Start an inference process on a machine that lacks something: ``without.py WHAT COMMAND...``.

A seccomp filter put up before the program, as containers have one, answers as such a kernel or container would.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

from preread.runner.confine import syscalls
from preread.runner.confine.syscalls import ALLOW, MACHINES

_ANSWER = 0x00050000
WHAT, *COMMAND = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
machine = MACHINES[platform.machine()]
SECCOMP = syscalls._KILLED["seccomp"][machine.column]


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def put_up(body: bytes, flags: int = 0) -> None:
    code = syscalls._prologue(machine) + body + syscalls._return(ALLOW)
    kept = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.cast(kept, ctypes.c_void_p))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    answer = libc.syscall(SECCOMP, 1, flags, ctypes.byref(program))
    assert answer >= 0, os.strerror(ctypes.get_errno())
    if answer:
        os.set_inheritable(answer, True)  # an outer watcher lives as long as its process


match WHAT:
    case "landlock":
        put_up(syscalls._each([444, 445, 446], _ANSWER | errno.EOPNOTSUPP))
    case "seccomp":
        refuse = syscalls._return(_ANSWER | errno.EINVAL)
        by_prctl = syscalls._argument(0) + syscalls._instruction(0x15, 22, 0, 1) + refuse + syscalls._return(ALLOW)
        prctl = syscalls._WHILE_CONFINING["prctl"][machine.column]
        put_up(syscalls._each([SECCOMP], _ANSWER | errno.EINVAL) + syscalls._only(prctl, by_prctl))
    case "newer seccomp":
        put_up(syscalls._each([SECCOMP], _ANSWER | errno.EPERM))
    case "listener":
        put_up(b"", flags=8)
os.execv(COMMAND[0], COMMAND)
