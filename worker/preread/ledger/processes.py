"""Whether a worker process that is named in the database still runs on this host."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_PROC = Path("/proc")


def this_host() -> str:
    """Return a name under which process numbers mean the same: host, boot and process-number namespace.

    Two containers, or one host before and after a restart, have different names; a dead worker of another name is
    recovered when its lease runs out.
    """
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()} {boot} {namespace}"


def process_token(pid: int) -> str | None:
    """Return what tells this process from a later one with its number (its start in clock ticks after boot).

    ``None`` when there is no such process or it only waits to be reaped. Without ``/proc``: ``""`` for a live one.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None if (_PROC / "self").exists() else _token_without_proc(pid)
    # the command's name, in parentheses, may itself hold spaces and parentheses: proc_pid_stat(5)
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in {b"Z", b"X"} else fields[19].decode("ascii")


def _token_without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""
