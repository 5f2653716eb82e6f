"""Choice between the kernel's events and polling for one root."""

from __future__ import annotations

import logging
from collections.abc import Callable

from preread.core.filesystems import file_system_type
from preread.share.scanner import ScannedRoot
from preread.share.watcher import EventHints, NoEventHints

_LOG = logging.getLogger(__name__)


class EventSource:
    """Source of a root's file-system events: the kernel's, or polling.

    Args:
        poll: ``None`` decides from the mount table.
        watch: makes the kernel's events for a root.
        wake: called from another thread when there is an event.

    Attributes:
        chosen: ``choose_event_source`` was called.
        polled: no events come; quick scans take their place.
    """

    def __init__(
        self,
        root: ScannedRoot,
        poll: bool | None,
        watch: Callable[[bytes, Callable[[], None]], EventHints],
        wake: Callable[[], None],
    ) -> None:
        self.chosen = False
        self.polled = True
        self._root = root
        self._poll = poll
        self._watch = watch
        self._wake = wake
        self._hints: EventHints = NoEventHints()
        self._earlier_restarts = 0

    @property
    def restarts(self) -> int:
        """Number of restarts of the event watcher; safe from any thread."""
        return self._earlier_restarts + self._hints.restarts

    def choose_event_source(self) -> str | None:
        """Choose kernel events or polling by the root's present file system.

        Returns:
            The network file system's name; ``None`` for a local disk.
        """
        network = self._root.system.find_network_type(self._root.path)
        self._hints.stop_watching()
        self._earlier_restarts += self._hints.restarts
        self.chosen = True
        self.polled = network is not None if self._poll is None else self._poll
        self._hints = NoEventHints() if self.polled else self._watch(self._root.path, self._wake)
        if self._poll is not None:
            why = "as set"
        else:
            why = "a local disk" if network is None else "events of other hosts do not arrive"
        extra = {"root_id": self._root.root_id, "mode": "polling" if self.polled else "events", "why": why}
        _LOG.info("root_watched", extra=extra | {"fs_type": network or file_system_type(self._root.path)})
        return network

    def keep_watching(self, now: float) -> None:
        """Start the event watcher again if it has died.

        Args:
            now: monotonic seconds.
        """
        self._hints.keep_watching(now)

    def take_event_paths(self) -> tuple[list[bytes], bool]:
        """Return the paths of new file-system events, and if some were lost.

        Paths are relative to the root.
        """
        return self._hints.take_event_paths()

    def stop_watching(self) -> None:
        """End the threads of the event watcher."""
        self._hints.stop_watching()
