"""Detect paths that are gone, from two complete scans; results are kept."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from operator import itemgetter

from preread.db.statements import chunks, keyset_pages
from preread.share.scanner import GONE_ERRNOS, ScannedRoot

_LOG = logging.getLogger(__name__)
_BATCH = 500


class AbsenceTracker:
    """Tracker of absent files: what complete scans of a root did not find.

    A path is gone when two complete scans in a row did not meet it (or one, after a look that did not find it either)
    and a last look does not find it. Met paths are kept as 64-bit hashes: a million of them take some 60 MB, and two
    paths with one hash can only hide an absence until one of them changes.
    """

    def __init__(self, root: ScannedRoot) -> None:
        self._root = root
        self._met: set[int] = set()
        self._missing: set[bytes] = set()

    @property
    def has_missing_paths(self) -> bool:
        """``True`` if missing paths wait for a complete scan to confirm it."""
        return bool(self._missing)

    def begin_scan(self) -> None:
        """Begin a scan: forget which paths the last one found present."""
        self._met = set()

    def record_present(self, path: bytes) -> None:
        """Record that a scan found the path present."""
        self._met.add(hash(path))

    def record_missing(self, path: bytes) -> None:
        """Record that a path is missing; the next complete scan confirms it."""
        self._missing.add(path)

    def record_absent_files(self) -> Iterator[None]:
        """Record absent files in the ledger after a complete scan, in steps."""
        missing: set[bytes] = set()
        ledger, root_id = self._root.ledger, self._root.root_id
        live = keyset_pages(lambda after: ledger.expected_paths(root_id, after_file_id=after), itemgetter(0), 0)
        for page in live:
            missing.update(path for _, path in page if hash(path) not in self._met)
            yield
        self._met = set()
        gone = sorted(path for path in missing & self._missing if self._is_gone(path))
        for batch in chunks(gone, _BATCH):
            count = ledger.record_absent(root_id, batch)
            _LOG.info("files_absent", extra={"root_id": root_id, "count": count})
            yield
        self._missing = missing.difference(gone)

    def _is_gone(self, path: bytes) -> bool:
        try:
            return stat.S_ISDIR(self._root.system.read_link_status(os.path.join(self._root.path, path)).st_mode)
        except OSError as error:
            return error.errno in GONE_ERRNOS
