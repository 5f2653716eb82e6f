"""Choice between the kernel's events and polling for one root."""

from __future__ import annotations

import logging
from collections.abc import Callable

from preread.core.filesystems import file_system_type
from preread.share.scanner import ScannedRoot
from preread.share.watcher import Hints, NoHints

_LOG = logging.getLogger(__name__)


class EventSource:
    """Chooses how a root is watched, and counts how often watching began anew.

    Args:
        poll: ``None`` decides from the mount table.
        watch: makes the kernel's events for a root.
        wake: called from another thread when there is an event.

    Attributes:
        chosen: whether ``choose`` was called.
        polled: no events come; quick scans take their place.
    """

    def __init__(
        self,
        root: ScannedRoot,
        poll: bool | None,
        watch: Callable[[bytes, Callable[[], None]], Hints],
        wake: Callable[[], None],
    ) -> None:
        self.chosen = False
        self.polled = True
        self._root = root
        self._poll = poll
        self._watch = watch
        self._wake = wake
        self._hints: Hints = NoHints()
        self._earlier_restarts = 0

    @property
    def restarts(self) -> int:
        """How often watching had to begin anew. Safe from another thread."""
        return self._earlier_restarts + self._hints.restarts

    def choose(self) -> str | None:
        """Choose between events and polling for the file system that is there now.

        Returns:
            The network file system's name and why; ``None`` for a local disk.
        """
        network = self._root.system.network(self._root.path)
        self._hints.stop()
        self._earlier_restarts += self._hints.restarts
        self.chosen = True
        self.polled = network is not None if self._poll is None else self._poll
        self._hints = NoHints() if self.polled else self._watch(self._root.path, self._wake)
        if self._poll is not None:
            why = "as set"
        else:
            why = "a local disk" if network is None else "events of other hosts do not arrive"
        extra = {"root_id": self._root.root_id, "mode": "polling" if self.polled else "events", "why": why}
        _LOG.info("root_watched", extra=extra | {"fs_type": network or file_system_type(self._root.path)})
        return network

    def supervise(self, now: float) -> None:
        """Start watching again if it has died. ``now``: monotonic seconds."""
        self._hints.supervise(now)

    def take(self) -> tuple[list[bytes], bool]:
        """Return paths of events, and whether some were lost.

        Paths are relative to the root.
        """
        return self._hints.take()

    def stop(self) -> None:
        """End the watcher's threads."""
        self._hints.stop()
