"""What a decoder that was taken over reaches from inside a confined inference process: it tries, and says.

::

    python -m tests.programs.payload [--unconfined]

prints a Markdown table of every attempt, as in docs/explanation/security.md. The process is the real one but for the
decoder of uncompressed images, which makes the attempt that an image's last bytes name. An attempt either is refused,
or ends the process. Each is harmless where it succeeds, as it does with ``--unconfined``: signal 0, invalid arguments,
own files.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = b"PAYLOAD "
X86 = platform.machine() == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
NULL = ctypes.c_void_p(0)
_KEY = 0x70726561  # nobody has anything there


@dataclass(frozen=True)
class Lab:
    """What there is to reach: a database, a share with another's image, listeners, and the worker itself."""

    folder: Path
    worker: int
    tcp: int
    udp: int

    @property
    def database(self) -> Path:
        return self.folder / "preread.db"

    @property
    def share(self) -> Path:
        return self.folder / "share"

    @property
    def other(self) -> Path:
        return self.share / "another patient.dcm"

    @property
    def abstract(self) -> str:
        return f"\0{self.folder / 'abstract'}"

    @property
    def local(self) -> str:
        return str(self.folder / "socket")


def call(number: int, *arguments: Any) -> int:
    """Make a system call; OSError where it fails."""
    given = [one if isinstance(one, ctypes._SimpleCData | ctypes.Array) else ctypes.c_long(one) for one in arguments]
    answer: int = libc.syscall(ctypes.c_long(number), *given)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def of(x86: int, arm: int) -> int:
    return x86 if X86 else arm


def opened(path: str | Path, flags: int = os.O_RDONLY) -> str:
    descriptor = os.open(path, flags, 0o600)
    os.close(descriptor)
    return "opened"


def forked() -> str:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "a process"


def shell_started() -> str:
    subprocess.run(["/bin/sh", "-c", "true"], check=True)
    return "started"


def left_behind(lab: Lab) -> str:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(0.2)
        (lab.folder / "still here").write_text("x")
        os._exit(0)
    return "a process that outlives this one"


def cloned(number: int, *arguments: Any) -> str:
    pid = call(number, *arguments)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "a process"


def descriptors() -> str:
    """Look what is open beside standard streams, the two pipes, the socket and the shared memory's mapping."""
    found = []
    for number in range(1024):
        try:
            mode = _mode_of(number)
        except OSError:
            continue
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
            found.append(number)
    if not found:
        raise PermissionError(errno.EPERM, "nothing but pipes, the socket and /dev/null is open")
    return f"open files: {found}"


def _mode_of(number: int) -> int:
    """As ``os.fstat``, which asks the kernel by a call that takes a path."""
    buffer = ctypes.create_string_buffer(256)
    call(of(5, 80), number, buffer)
    return int.from_bytes(buffer.raw[24:28] if X86 else buffer.raw[16:20], "little")


def worker_told() -> str:
    for number in range(64):
        try:
            if stat.S_ISSOCK(_mode_of(number)):
                os.write(number, b"x")
                return "written to the worker's socket"
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
    raise PermissionError(errno.EPERM, "no socket")


def executable() -> str:
    block = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    block.close()
    return "memory to write code into"


def made_executable() -> str:
    block = mmap.mmap(-1, 4096)
    at = ctypes.addressof(ctypes.c_char.from_buffer(block))
    call(of(10, 226), at, 4096, 5)
    return "written memory made executable"


def sent(kind: int, family: int, address: Any) -> str:
    with socket.socket(family, kind) as connection:
        connection.connect(address)
        connection.send(b"stolen")
    return "sent"


def pair_made() -> None:
    for one in socket.socketpair():
        one.close()


def refused(lab: Lab) -> dict[str, Callable[[], object]]:
    """Attempts that are to fail, one after the other in one process."""
    proc = f"/proc/{lab.worker}"
    return {
        "read the worker's environment": lambda: len(Path(f"{proc}/environ").read_bytes()),
        "open the worker's memory to write": lambda: opened(f"{proc}/mem", os.O_RDWR),
        "open its own memory to write": lambda: opened("/proc/self/mem", os.O_RDWR),
        "open the database to write": lambda: opened(lab.database, os.O_RDWR),
        "see whether the database is there": lambda: os.stat(lab.database).st_size,
        "truncate the database": lambda: os.truncate(lab.database, 0),
        "write a file beside the database": lambda: opened(lab.folder / "planted", os.O_WRONLY | os.O_CREAT),
        "write a file into the share": lambda: opened(lab.share / "planted.dcm", os.O_WRONLY | os.O_CREAT),
        "list the share": lambda: os.listdir(lab.share),
        "read another patient's image": lambda: len(lab.other.read_bytes()),
        "write another patient's image": lambda: opened(lab.other, os.O_WRONLY),
        "read another patient's image by openat2": lambda: call(
            437, -100, ctypes.create_string_buffer(os.fsencode(lab.other)), ctypes.create_string_buffer(24), 24
        ),
        "rename another patient's image": lambda: os.rename(lab.other, lab.other),
        "link another patient's image": lambda: os.link(lab.other, lab.folder / "linked"),
        "change the mode of another patient's image": lambda: os.chmod(lab.other, 0o644),
        "read /etc/passwd": lambda: len(Path("/etc/passwd").read_bytes()),
        "read its own environment": lambda: len(Path("/proc/self/environ").read_bytes()),
        "read the list of processes": lambda: len(os.listdir("/proc")),
        "make a folder": lambda: os.mkdir(lab.folder / "made"),
        "make a device or pipe": lambda: os.mkfifo(lab.folder / "pipe"),
        "make a symbolic link": lambda: os.symlink("/", lab.folder / "link"),
        "change the working folder": lambda: os.chdir("/"),
        "watch the share for changes": lambda: call(of(294, 26), 0),
        "watch the whole file system": lambda: call(of(300, 262), 0, 0),
        "ask a handle for a path": lambda: call(
            of(303, 264),
            -100,
            ctypes.create_string_buffer(b"/"),
            ctypes.create_string_buffer(b"\x80" + bytes(200)),
            ctypes.create_string_buffer(8),
            0,
        ),
        "find an open file among its descriptors": descriptors,
        "send the worker something through its socket": worker_told,
        "duplicate a descriptor": lambda: os.dup(1),
        "command a device": lambda: fcntl.ioctl(1, 0x5401, bytes(64)),
        "have a descriptor signal the worker": lambda: fcntl.fcntl(1, fcntl.F_SETOWN, lab.worker),
        "write a file of 5 GiB": lambda: os.ftruncate(os.open(lab.folder / "big", os.O_RDWR | os.O_CREAT), 5 << 30),
        "signal the worker": lambda: os.kill(lab.worker, 0),
        "signal a thread of the worker": lambda: call(of(234, 131), lab.worker, lab.worker, 0),
        "signal everybody": lambda: os.kill(-1, 0),
        "queue a signal for the worker": lambda: call(of(129, 138), lab.worker, 0, ctypes.create_string_buffer(128)),
        "start a shell": shell_started,
        "fork": forked,
        "fork by the raw call": lambda: cloned(of(56, 220), 17, 0, 0, 0, 0),
        "fork into a user namespace": lambda: cloned(of(56, 220), 0x10000011, 0, 0, 0, 0),
        "leave a process behind": lambda: left_behind(lab),
        "start a process by clone3": lambda: cloned(
            435, ctypes.create_string_buffer(bytes(32) + b"\x11" + bytes(55)), 88
        ),
        "start a session": os.setsid,
        "become another user": lambda: os.setuid(os.geteuid()),
        "get capabilities": lambda: call(of(126, 91), ctypes.create_string_buffer(24), ctypes.create_string_buffer(24)),
        "change the worker's limits": lambda: resource.prlimit(lab.worker, resource.RLIMIT_NOFILE),
        "raise its own limits": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
        "change the worker's priority": lambda: os.setpriority(os.PRIO_PROCESS, lab.worker, 0),
        "put the worker on another core": lambda: os.sched_setaffinity(lab.worker, os.sched_getaffinity(0)),
        "become dumpable again": lambda: call(of(157, 167), 4, 1, 0, 0, 0),
        "outlive the worker": lambda: call(of(157, 167), 1, 0, 0, 0, 0),
        "write executable code": executable,
        "make written memory executable": made_executable,
        "open shared memory of System V": lambda: call(of(29, 194), _KEY, 1, 0),
        "open a queue of System V": lambda: call(of(68, 186), _KEY, 0),
        "open a semaphore of System V": lambda: call(of(64, 190), _KEY, 1, 0),
        "open a POSIX queue": lambda: call(of(240, 180), ctypes.create_string_buffer(b"preread"), 0, 0, NULL),
        "read the kernel's log": lambda: call(of(103, 116), 10, 0, 0),
        "read another process's page tables": lambda: opened(f"{proc}/pagemap"),
        "loosen Landlock": lambda: call(444, 0, 0, 1),
        "wait for a descriptor of the worker": lambda: call(of(233, 21), 0, 1, 1, ctypes.create_string_buffer(12)),
    }


def ending(lab: Lab) -> dict[str, Callable[[], object]]:
    """Attempts that are to end the process, one each."""
    inet, unix = socket.AF_INET, socket.AF_UNIX
    path = ctypes.create_string_buffer(b"/bin/true")
    attempts: dict[str, Callable[[], object]] = {
        "become another program": lambda: os.execv("/bin/true", ["true"]),
        "run a program from a descriptor": lambda: call(of(322, 281), 1, ctypes.create_string_buffer(1), 0, 0, 0x1000),
        "make a program in memory": lambda: os.memfd_create("program"),
        "connect by TCP": lambda: sent(socket.SOCK_STREAM, inet, ("127.0.0.1", lab.tcp)),
        "send by UDP": lambda: sent(socket.SOCK_DGRAM, inet, ("127.0.0.1", lab.udp)),
        "connect to a local socket": lambda: sent(socket.SOCK_STREAM, unix, lab.local),
        "connect to an abstract socket": lambda: sent(socket.SOCK_DGRAM, unix, lab.abstract),
        "ask the kernel by netlink": lambda: socket.socket(16, socket.SOCK_RAW, 0).close(),
        "make a pair of sockets": pair_made,
        "send a descriptor": lambda: call(of(46, 211), 0, NULL, 0),
        "listen on a descriptor": lambda: call(of(50, 201), 0, 1),
        "trace the worker": lambda: call(of(101, 117), 0x4206, lab.worker, 0, 0),
        "read the worker's memory": lambda: _vm(of(310, 270), lab.worker),
        "write the worker's memory": lambda: _vm(of(311, 271), lab.worker),
        "advise the worker's memory": lambda: call(440, -1, NULL, 0, 0, 0),
        "get a handle of the worker": lambda: os.close(os.pidfd_open(lab.worker)),
        "take a descriptor of the worker": lambda: call(438, -1, 0, 0),
        "signal the worker by its handle": lambda: call(424, -1, 0, NULL, 0),
        "compare itself with the worker": lambda: call(of(312, 272), os.getpid(), lab.worker, 1, 0, 0),
        "load a BPF program": lambda: call(of(321, 280), -1, NULL, 0),
        "read performance counters": lambda: call(of(298, 241), NULL, 0, -1, -1, 0),
        "catch page faults": lambda: call(of(323, 282), 1 << 30),
        "set up io_uring": lambda: call(425, 1, ctypes.create_string_buffer(120)),
        "enter io_uring": lambda: call(426, -1, 0, 0, 0, NULL, 0),
        "read a key": lambda: call(of(250, 219), 0, -3, 0),
        "add a key": lambda: call(of(248, 217), NULL, NULL, NULL, 0, 0),
        "mount": lambda: call(of(165, 40), path, path, path, 0, NULL),
        "open a mount": lambda: call(428, -100, path, 0),
        "make a file system": lambda: call(430, path, 0),
        "leave its root": lambda: call(of(161, 51), path),
        "leave its namespaces": lambda: call(of(272, 97), 0),
        "enter another's namespaces": lambda: call(of(308, 268), -1, 0),
        "open a file by its handle": lambda: call(of(304, 265), -1, NULL, 0),
        "load a kernel module": lambda: call(of(313, 273), -1, NULL, 0),
        "load another kernel": lambda: call(of(320, 294), -1, -1, 0, NULL, 1 << 30),
        "turn the machine off": lambda: call(of(169, 142), 0, 0, 0, NULL),
        "set the clock": lambda: call(of(164, 170), NULL, ctypes.create_string_buffer(b"\xff\xff\xff\x7f" * 2)),
        "put up another filter": lambda: call(of(317, 277), 2, 0, NULL),
        "change its personality": lambda: call(of(135, 92), 0xFFFFFFFF),
    }
    if X86:
        attempts["call the kernel by the x32 interface"] = lambda: call(0x40000000 | 39)
    return attempts


def _vm(number: int, pid: int) -> int:
    return call(number, pid, NULL, 0, NULL, 0, 0)


def attempt(action: Callable[[], object]) -> str:
    """Return what it reached; empty where it was refused."""
    try:
        return f"reached: {action()}"
    except (OSError, ValueError):  # the second from `resource`, whose limits may not be raised
        return ""


# --------------------------------------------------------------------------- the process


def serve(lab: Lab, *, confined: bool) -> int:
    """Be an inference process whose decoder of uncompressed images makes attempts."""
    from preread.core.errors import UnsupportedPixels
    from preread.imaging.codecs import decoders
    from preread.runner.child import main

    one_by_one, all_at_once = ending(lab), refused(lab)
    really_native = decoders._native

    def native(file: Any, module: Any) -> Any:
        _, found, name = file.body.rpartition(MARK)
        if not found:
            return really_native(file, module)
        if name.rstrip(b"\0") == b"insist":
            for _ in range(1000):
                attempt(lambda: os.open("/etc/passwd", os.O_RDONLY))
        if name.rstrip(b"\0") == b"all":
            reached = {what: said for what, action in all_at_once.items() if (said := attempt(action))}
            raise UnsupportedPixels(json.dumps(reached))
        what = list(one_by_one)[int(name.rstrip(b"\0"))]
        said = attempt(one_by_one[what])
        raise UnsupportedPixels(json.dumps({what: said or "refused, and the process lives"}))

    decoders._native = native
    return main.main(confined=confined)


def need_a_file() -> int:
    """Be an inference process whose decoder of JPEG-LS needs what no confined one has."""
    from preread.imaging.codecs import decoders
    from preread.runner.child import main

    really_jpeg_ls = decoders._jpeg_ls

    def jpeg_ls(frame: bytes, module: decoders.PixelModule) -> decoders._Decoded:
        opened(os.devnull)
        return really_jpeg_ls(frame, module)

    decoders._jpeg_ls = jpeg_ls
    return main.main()


# --------------------------------------------------------------------------- the worker


@contextmanager
def lab_in(folder: Path) -> Iterator[Lab]:
    """Lay out what there is to reach."""
    folder.chmod(0o755)
    (folder / "share").mkdir()
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as local,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract,
    ):
        udp.bind(("127.0.0.1", 0))
        abstract.bind(f"\0{folder / 'abstract'}")
        lab = Lab(folder, os.getpid(), tcp.getsockname()[1], udp.getsockname()[1])
        local.bind(lab.local)
        local.listen()
        lab.database.write_bytes(b"SQLite format 3\0")
        lab.other.write_bytes(b"another patient's image")
        yield lab
        for one in (tcp, udp, local, abstract):
            one.settimeout(0)
        heard = [one for one in (tcp, local) if _accepts(one)] + [one for one in (udp, abstract) if _receives(one)]
        (folder / "heard").write_text(str(len(heard)))


def _accepts(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _receives(server: socket.socket) -> bool:
    try:
        return bool(server.recv(64))
    except BlockingIOError:
        return False


@contextmanager
def tries(lab: Lab, *, confined: bool) -> Iterator[Callable[[str], Any]]:
    """Start processes; what is given has one make an attempt, by its name, and returns how the image ended."""
    from preread.core.types import Population
    from preread.model import bundles
    from preread.runner.child import protocol
    from preread.runner.pool import Done, Fault, InferencePool, Lost, Read
    from preread_training.data import phantoms

    bundle = bundles.load_bundle(bundles.find_bundle(None))
    setup = protocol.Setup(
        bundle=protocol.path_to_text(os.fsencode(bundle.path.resolve())),
        digest=bundle.digest,
        memory_bytes=2**31,
        max_file_bytes=2**20,
        max_pixels=2**20,
        parent_pid=os.getpid(),
    )
    given = [str(lab.folder), str(lab.worker), str(lab.tcp), str(lab.udp)]
    command = (sys.executable, "-P", "-m", "tests.programs.payload", "slot" if confined else "open", *given)
    pool: InferencePool[str] = InferencePool(setup, count=1, deadline_s=30.0, command=command)
    film = phantoms.to_dicom(phantoms.draw_chest(1, rows=64, columns=64))

    def tried(name: str) -> Done[str] | Fault[str] | Lost[str]:
        (lab.share / "film").write_bytes(film + MARK + name.encode())
        status = os.stat(lab.share / "film")
        while not pool.idle:
            pool.poll(1.0)
        job = protocol.Job(
            protocol.path_to_text(os.fsencode(lab.share)),
            "film",
            status.st_size,
            status.st_mtime_ns,
            Population.CHILDREN_1_5Y,
            None,
        )
        pool.submit("film", job)
        while True:
            for event in pool.poll(1.0):
                if not isinstance(event, Read):
                    return event
                pool.answer("film", known=False)

    try:
        yield tried
    finally:
        pool.close()


def run(lab: Lab, *, confined: bool, ends: bool = True) -> tuple[dict[str, str], dict[str, str]]:
    """Make every attempt.

    Args:
        ends: those of the second list as well.

    Returns:
        What each of the first list reached, and how the process ended at each of the second.
    """
    from preread.runner.pool import Done

    with tries(lab, confined=confined) as tried:
        event = tried("all")
        assert isinstance(event, Done), event
        reached = json.loads(event.report.reason)
        ended = {}
        for number, what in enumerate(ending(lab) if ends else ()):
            event = tried(str(number))
            if isinstance(event, Done):
                ended[what] = json.loads(event.report.reason)[what]
            else:
                ended[what] = str(event.error).rpartition("was ended by ")[2]
    return {what: reached.get(what, "") for what in refused(lab)}, ended


def insist(lab: Lab) -> Any:
    """Have a process make one refused call again and again; return how its image ended."""
    with tries(lab, confined=True) as tried:
        return tried("insist")


def rows(reached: dict[str, str], ends: dict[str, str]) -> str:
    """Return the rows of the table."""
    said = [(what, outcome or "refused") for what, outcome in reached.items()]
    said += [(what, "process ended" if outcome == "SIGSYS" else outcome) for what, outcome in ends.items()]
    return "\n".join(f"| {what} | {outcome} |" for what, outcome in said)


if __name__ == "__main__":
    if sys.argv[1:] == ["needs a file"]:
        os._exit(need_a_file())
    if sys.argv[1:2] and sys.argv[1] in {"slot", "open"}:
        kind, where, *numbers = sys.argv[1:]
        os._exit(serve(Lab(Path(where), *map(int, numbers)), confined=kind == "slot"))
    with tempfile.TemporaryDirectory() as temporary, lab_in(Path(temporary)) as one_lab:
        print("| attempt | outcome |\n| --- | --- |")
        print(rows(*run(one_lab, confined="--unconfined" not in sys.argv)))
