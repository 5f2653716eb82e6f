"""Which paths are gone. Absence is never deletion: the ledger notes it and keeps every result."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator

from preread.ledger.ledger import Ledger
from preread.share.scanner import GONE_ERRNOS, FileSystem

_LOG = logging.getLogger(__name__)
_BATCH = 500


class Absence:
    """Compares complete scans of one root with what the ledger expects there.

    A path is gone when two complete scans in a row did not meet it (or one, after a look that did not find it either)
    and a last look does not find it. Met paths are kept as 64-bit hashes: a million of them take some 60 MB, and two
    paths with one hash can only hide an absence until one of them changes.
    """

    def __init__(self, system: FileSystem, root: bytes, root_id: int, ledger: Ledger) -> None:
        self._system = system
        self._root = root
        self._root_id = root_id
        self._ledger = ledger
        self._met: set[int] = set()
        self._missing: set[bytes] = set()

    @property
    def suspected(self) -> bool:
        """Whether paths wait for the next complete scan to confirm that they are gone."""
        return bool(self._missing)

    def start(self) -> None:
        """A scan begins."""
        self._met = set()

    def met(self, path: bytes) -> None:
        """The path is there."""
        self._met.add(hash(path))

    def suspect(self, path: bytes) -> None:
        """A look did not find the path."""
        self._missing.add(path)

    def judge(self) -> Iterator[None]:
        """A complete scan ended: tell the ledger what is gone, in steps."""
        missing: set[bytes] = set()
        page = self._ledger.live_paths(self._root_id)
        while page:
            missing.update(path for _, path in page if hash(path) not in self._met)
            yield
            page = self._ledger.live_paths(self._root_id, after_file_id=page[-1][0])
        self._met = set()
        gone = sorted(path for path in missing & self._missing if self._is_gone(path))
        for start in range(0, len(gone), _BATCH):
            count = self._ledger.absent(self._root_id, gone[start : start + _BATCH])
            _LOG.info("files_absent", extra={"root_id": self._root_id, "count": count})
            yield
        self._missing = missing.difference(gone)

    def _is_gone(self, path: bytes) -> bool:
        try:
            return stat.S_ISDIR(self._system.status_of_link(os.path.join(self._root, path)).st_mode)
        except OSError as error:
            return error.errno in GONE_ERRNOS
