"""Seccomp filters of an inference process (classic BPF).

An allow-list: reading an open file, memory, threads of its own, time and the end. Calls that no decoder has a use for
and that reach other processes, programs or networks end the process; whatever is left fails with EPERM, and the kernel
reports it to the worker. Numbers are those of Linux for x86-64 (``arch/x86/entry/syscalls/syscall_64.tbl``) and aarch64
(``include/uapi/asm-generic/unistd.h``).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_ALLOWED = {
    # name: (x86-64, aarch64)
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "recvmsg": (47, 212),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "set_robust_list": (273, 99),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "rseq": (334, 293),
}
# Allowed with certain arguments alone; see `_with_arguments`.
_MMAP, _MPROTECT, _CLONE, _TGKILL = (9, 222), (10, 226), (56, 220), (234, 131)
_CLONE3 = (435, 435)
_KILLED = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "recvfrom": (45, 207),
    "recvmmsg": (299, 243),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "open_by_handle_at": (304, 265),
    "personality": (135, 92),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "seccomp": (317, 277),
}
# What a process that was taken over tries first; others are told of by number.
_REFUSED = {
    "open": (2, None),
    "stat": (4, None),
    "lstat": (6, None),
    "poll": (7, None),
    "ioctl": (16, 29),
    "access": (21, None),
    "select": (23, None),
    "dup": (32, 23),
    "getsockname": (51, 204),
    "getsockopt": (55, 209),
    "fork": (57, None),
    "vfork": (58, None),
    "kill": (62, 129),
    "fcntl": (72, 25),
    "ftruncate": (77, 46),
    "getcwd": (79, 17),
    "rename": (82, None),
    "mkdir": (83, None),
    "unlink": (87, None),
    "readlink": (89, None),
    "chmod": (90, None),
    "getuid": (102, 174),
    "getppid": (110, 173),
    "setsid": (112, 157),
    "prctl": (157, 167),
    "setrlimit": (160, 164),
    "tkill": (200, 130),
    "getdents64": (217, 61),
    "epoll_wait": (232, None),
    "openat": (257, 56),
    "mkdirat": (258, 34),
    "newfstatat": (262, 79),
    "unlinkat": (263, 35),
    "readlinkat": (267, 78),
    "inotify_init1": (294, 26),
    "prlimit64": (302, 261),
    "renameat2": (316, 276),
    "statx": (332, 291),
    "openat2": (437, 437),
}
# Needed while the rest of the confinement is put in place, and by the second filter refused.
_WHILE_CONFINING = {
    "sendmsg": (46, 211),
    "prctl": (157, 167),
    "seccomp": (317, 277),
}

_PROT_EXEC = 0x4
# What glibc and musl start a thread with: CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID and
# CHILD_CLEARTID, musl with CLONE_DETACHED as well.
_THREAD_FLAGS = (0x3D0F00, 0x7D0F00)
_X32_BIT = 0x40000000

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
TELL = 0x7FC00000
"""``SECCOMP_RET_USER_NOTIF``: the call waits until whoever has the filter's listener answers."""
_ERRNO = 0x00050000
REFUSE = _ERRNO | errno.EPERM
_NO_SUCH_CALL = _ERRNO | errno.ENOSYS

_LOAD, _EQUAL, _GREATER_OR_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# struct seccomp_data: nr, arch, instruction pointer, six arguments of 64 bits.
_AT_NUMBER, _AT_ARCH, _AT_ARGUMENTS = 0, 4, 16


@dataclass(frozen=True, slots=True)
class Machine:
    """Architecture.

    Attributes:
        column: its place in the tables.
        audit_arch: its value in ``seccomp_data.arch``.
        has_x32: whether it has a second ABI.
    """

    column: int
    audit_arch: int
    has_x32: bool


MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine(0, 0xC000003E, has_x32=True),
    "aarch64": Machine(1, 0xC00000B7, has_x32=False),
}


def name_system_call(number: int, machine: Machine) -> str:
    """Return the name of a call, or its number if the tables have none."""
    for table in (_KILLED, _REFUSED, _ALLOWED):
        for name, numbers in table.items():
            if numbers[machine.column] == number:
                return name
    extra = {"mmap": _MMAP, "mprotect": _MPROTECT, "clone": _CLONE, "tgkill": _TGKILL, "clone3": _CLONE3}
    return next((name for name, both in extra.items() if both[machine.column] == number), f"number {number}")


def build_allow_list(machine: Machine, own_pid: int, otherwise: int) -> bytes:
    """Return the filter that is put in place first, and stays.

    Args:
        machine: architecture.
        own_pid: of the process that is confined; it may send signals to its own threads, as ``abort`` does.
        otherwise: what becomes of a call that is on no list: ``TELL`` or ``REFUSE``.
    """
    allowed = {**_ALLOWED, **_WHILE_CONFINING}
    killed = [name for name in _KILLED if name not in _WHILE_CONFINING]
    return b"".join(
        (
            _prologue(machine),
            _each((numbers[machine.column] for numbers in allowed.values()), ALLOW),
            _with_arguments(machine, own_pid, otherwise),
            _each((_KILLED[name][machine.column] for name in killed), KILL_PROCESS),
            _return(otherwise),
        )
    )


def build_closing_filter(machine: Machine) -> bytes:
    """Return the filter that ends what only confining needed.

    Of two filters' answers the stricter one holds.
    """
    column = machine.column
    return b"".join(
        (
            _prologue(machine),
            _each((_KILLED[name][column] for name in _WHILE_CONFINING if name in _KILLED), KILL_PROCESS),
            _each((both[column] for name, both in _WHILE_CONFINING.items() if name not in _KILLED), REFUSE),
            _return(ALLOW),
        )
    )


def _prologue(machine: Machine) -> bytes:
    """End the process on a call of another ABI; load the call's number."""
    parts = [
        _instruction(_LOAD, _AT_ARCH),
        _instruction(_EQUAL, machine.audit_arch, 1, 0),
        _return(KILL_PROCESS),
        _instruction(_LOAD, _AT_NUMBER),
    ]
    if machine.has_x32:
        parts += [_instruction(_GREATER_OR_EQUAL, _X32_BIT, 0, 1), _return(KILL_PROCESS)]
    return b"".join(parts)


def _each(numbers: Iterable[int], action: int) -> bytes:
    return b"".join(_instruction(_EQUAL, number, 0, 1) + _return(action) for number in numbers)


def _with_arguments(machine: Machine, own_pid: int, otherwise: int) -> bytes:
    column = machine.column
    no_code = _argument(2) + _instruction(_ANY_BIT, _PROT_EXEC, 0, 1) + _return(otherwise) + _return(ALLOW)
    thread = (
        _argument(0, upper_half=True)
        + _instruction(_EQUAL, 0, 1, 0)
        + _return(otherwise)
        + _argument(0)
        + _each(_THREAD_FLAGS, ALLOW)
        + _return(otherwise)
    )
    to_itself = _argument(0) + _each([own_pid], ALLOW) + _return(otherwise)
    return b"".join(
        (
            _only(_MMAP[column], no_code),
            _only(_MPROTECT[column], no_code),
            _only(_CLONE[column], thread),
            _only(_TGKILL[column], to_itself),
            # its flags lie in memory, where no filter sees them; the C library then takes clone
            _each([_CLONE3[column]], _NO_SUCH_CALL),
        )
    )


def _only(number: int, body: bytes) -> bytes:
    """Run ``body``, which returns in every case, for this call alone."""
    return _instruction(_EQUAL, number, 0, len(body) // 8) + body


def _argument(index: int, *, upper_half: bool = False) -> bytes:
    return _instruction(_LOAD, _AT_ARGUMENTS + 8 * index + (4 if upper_half else 0))  # both machines: little endian


def _return(action: int) -> bytes:
    return _instruction(_RETURN, action)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
