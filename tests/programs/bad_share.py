"""A share that hangs or fails on demand: ``install`` puts it in the place of the calls by which a root is looked at.

While a file named ``.hang`` lies beside a root (``<root>.hang``), every question to that root waits until it is gone,
as on a hard mount whose server is away. In a slot, a film whose name ends in ``.stall`` waits for the same file, and
one whose name ends in ``.eio`` cannot be read while ``<root>.eio`` is there.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from preread.share import safe_read, scanner

T = TypeVar("T")


def wait_while_it_hangs(root: bytes) -> None:
    while os.path.exists(root + b".hang"):
        time.sleep(0.05)


class BadFileSystem(scanner.FileSystem):
    """Asks the share only when it does not hang."""

    roots: tuple[bytes, ...] = ()

    def read_status(self, path: bytes) -> os.stat_result:
        return self._ask(partial(self._when_it_answers, path, super().read_status, path))

    def read_link_status(self, path: bytes) -> os.stat_result:
        return self._ask(partial(self._when_it_answers, path, super().read_link_status, path))

    def read_listed_status(self, entry: os.DirEntry[bytes]) -> os.stat_result:
        return self._ask(partial(self._when_it_answers, entry.path, super().read_listed_status, entry))

    def list_entries(self, path: bytes) -> Iterator[os.DirEntry[bytes]]:
        self._ask(partial(self._when_it_answers, path, int))
        yield from super().list_entries(path)

    def _when_it_answers(self, path: bytes, call: Callable[..., T], *arguments: Any) -> T:
        for root in self.roots:
            if path == root or path.startswith(root + b"/"):
                wait_while_it_hangs(root)
        return call(*arguments)


def install(roots: list[bytes]) -> None:
    """Let these roots hang on demand, in a worker."""
    from preread.share import root_monitor  # a slot, which needs none, would take twice as long to start

    BadFileSystem.roots = tuple(roots)
    vars(root_monitor)["FileSystem"] = BadFileSystem


def install_in_slot() -> None:
    """Let reading a film hang or fail on demand, by its name."""
    really_read_up_to = safe_read.read_bytes_up_to

    def read_up_to(file_fd: int, count: int) -> bytes:
        path = os.fsencode(os.readlink(f"/proc/self/fd/{file_fd}"))
        root = os.path.dirname(path)
        if path.endswith(b".stall"):
            wait_while_it_hangs(root)
        if path.endswith(b".eio") and os.path.exists(root + b".eio"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return really_read_up_to(file_fd, count)

    safe_read.read_bytes_up_to = read_up_to
