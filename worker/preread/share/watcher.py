"""Watch a root by kernel events, which shorten the wait for a scan.

The handler does nothing but append to a queue. An emitter that died (watchdog's observer lives on without it), a queue
that overflowed, or watches that the kernel refused are each noticed, and each asks for a full scan.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from preread.core.backoff import Backoff

_LOG = logging.getLogger(__name__)
_OVERFLOW_LOGGER = "watchdog.observers.inotify_c"
MAX_HINTS = 50_000
TAKEN_AT_ONCE = 500
REBUILD_FIRST_S = 1.0
REBUILD_LONGEST_S = 300.0
# The kernel has no watches (ENOSPC) or instances (EMFILE) left: scanning alone does the work.
_EXHAUSTED = frozenset({errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
# Never FileModified: a slow writer would send one for each block. Never wait for FileClosed: only inotify has it.
_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent, FileMovedEvent, FileClosedEvent, DirCreatedEvent, DirMovedEvent,
]  # fmt: skip


class EventHints(Protocol):
    """Source of hints: paths that file-system events name."""

    @property
    def restarts(self) -> int: ...
    def keep_watching(self, now: float) -> None: ...
    def take_event_paths(self) -> tuple[list[bytes], bool]: ...
    def stop_watching(self) -> None: ...


class NoEventHints:
    """Source of hints of a polled root: there are none."""

    restarts = 0

    def keep_watching(self, now: float) -> None:
        """Do nothing."""

    def take_event_paths(self) -> tuple[list[bytes], bool]:
        """Return no paths of events, and that none was lost."""
        return [], False

    def stop_watching(self) -> None:
        """Do nothing."""


class Watcher:
    """Source of hints from the kernel's file-system events in a root.

    Args:
        root: absolute path; may be a symbolic link.
        wake: called from watchdog's thread when there is a hint.
        make_observer: tests give one that fails.
    """

    def __init__(
        self, root: bytes, wake: Callable[[], None], *, make_observer: Callable[[], BaseObserver] = Observer
    ) -> None:
        self._root = root
        self._wake = wake
        self._make_observer = make_observer
        self._hints: deque[bytes] = deque(maxlen=MAX_HINTS)
        self._lost = threading.Event()
        self._observer: BaseObserver | None = None
        self._resolved = root
        self._next_try_at = 0.0
        self._backoff = Backoff(REBUILD_FIRST_S, REBUILD_LONGEST_S)
        self._overflows = _OverflowListener(self._on_overflow)
        self._starts = 0

    @property
    def restarts(self) -> int:
        """Number of restarts, failed ones included. Safe from another thread."""
        return max(0, self._starts - 1)

    @property
    def alive(self) -> bool:
        """``True`` if events can arrive: observer and all emitters run."""
        observer = self._observer
        if observer is None or not observer.is_alive():
            return False
        emitters = observer.emitters
        return bool(emitters) and all(emitter.is_alive() for emitter in emitters)

    def keep_watching(self, now: float) -> None:
        """Start the event watcher, again after a pause if it has died.

        Each start asks for a full scan.

        Args:
            now: monotonic seconds.
        """
        if self.alive:
            self._backoff.reset()
            return
        if now < self._next_try_at:
            return
        self._next_try_at = now + self._backoff.next_s()
        self._starts += 1
        self._stop_observer()
        try:
            self._start()
        except (OSError, RuntimeError) as error:  # the latter where no thread can be started
            number = getattr(error, "errno", None)
            why = "no watches left" if number in _EXHAUSTED else "cannot watch"
            extra = {"why": why, "errno": number, "restarts": self.restarts}
            _LOG.warning("watcher_failed", extra=extra)
            self._stop_observer()
        else:
            _LOG.info("watcher_started", extra={"restarts": self.restarts})
        self._lost.set()

    def take_event_paths(self) -> tuple[list[bytes], bool]:
        """Return the paths of new events, and if some were lost.

        Paths are relative to the root, at most ``TAKEN_AT_ONCE``, so that a storm does not delay other work; for the
        rest ``wake`` is called again.
        """
        lost = self._lost.is_set()
        self._lost.clear()
        paths: dict[bytes, None] = {}
        while self._hints and len(paths) < TAKEN_AT_ONCE:
            paths[self._hints.popleft()] = None
        if self._hints:
            self._wake()
        return list(paths), lost

    def stop_watching(self) -> None:
        """End the threads of the event watcher."""
        self._stop_observer()

    def _start(self) -> None:
        # inotify does not follow a link that is the root itself
        self._resolved = os.path.realpath(self._root)
        observer = self._make_observer()
        self._observer = observer
        observer.schedule(_Handler(self._on_event), os.fsdecode(self._resolved), recursive=True, event_filter=_EVENTS)
        logging.getLogger(_OVERFLOW_LOGGER).addHandler(self._overflows)
        observer.start()

    def _stop_observer(self) -> None:
        observer, self._observer = self._observer, None
        logging.getLogger(_OVERFLOW_LOGGER).removeHandler(self._overflows)
        if observer is not None:
            observer.stop()
            if observer.is_alive():
                observer.join(5.0)

    def _on_event(self, path: bytes) -> None:
        prefix = self._resolved.rstrip(b"/") + b"/"
        if not path.startswith(prefix):
            return
        if len(self._hints) >= MAX_HINTS:
            self._lost.set()
        else:
            self._hints.append(path[len(prefix) :])
        self._wake()

    def _on_overflow(self) -> None:
        _LOG.warning("watcher_overflowed", extra={"watcher": "inotify"})
        self._lost.set()
        self._wake()


class _Handler(FileSystemEventHandler):
    def __init__(self, on_path: Callable[[bytes], None]) -> None:
        self._on_path = on_path

    def on_any_event(self, event: FileSystemEvent) -> None:
        # of a rename the new name counts; one that left the root has none
        self._on_path(os.fsencode(event.dest_path or event.src_path))


class _OverflowListener(logging.Handler):
    """Detects an overflow, which watchdog only logs."""

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._on_overflow = on_overflow

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in str(record.msg).lower():
            self._on_overflow()
