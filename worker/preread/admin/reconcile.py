"""Comparison of the watched folders with the ledger.

Changes nothing and uses no state of a worker: lists the folders, compares every entry with the newest version of its
path, and checks the ledger's own invariants (``ledger.invariants``).
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice
from operator import itemgetter

from sqlalchemy import Connection, Engine, select

from preread.core.errors import EnvironmentFault, ScanIncomplete, ShareDown, TooManyBytes
from preread.core.text.escaping import display_path
from preread.core.types import FORGOTTEN, OPEN_STATES, FileState
from preread.db import schema
from preread.db.engine import database_now, read
from preread.db.statements import chunks, keyset_pages
from preread.ledger import discovery, invariants
from preread.ledger.invariants import Difference
from preread.ledger.records import Observation, Version
from preread.ledger.transitions import normalise_root_path, path_key
from preread.share import safe_read
from preread.share.scanner import (
    GONE_ERRNOS,
    EntryStatus,
    FileSystem,
    ScanCounts,
    check_root_readable,
    check_share_mounted,
    list_files,
    read_entry_status,
    read_path_status,
)

_BATCH = 500
_LOOK_AGAIN_S = 1.0
_GONE = frozenset({FileState.VANISHED, FileState.MISSED})
_WITH_CONTENT = frozenset({FileState.DONE, FileState.QUARANTINED})


@dataclass(slots=True)
class Reconciliation:
    """Differences between watched folders and database.

    Attributes:
        differences: deviations of folders and ledger, or within the ledger.
        unproven: folders and files that could not be checked, with the reason.
        files: files found that no ignore rule excludes.
        owed: number of these without an outcome, by state.
        contents: files whose bytes have the hash of their result.
    """

    differences: list[Difference] = field(default_factory=list)
    unproven: list[EnvironmentFault] = field(default_factory=list)
    files: int = 0
    owed: Counter[FileState] = field(default_factory=Counter)
    contents: int = 0


@dataclass(frozen=True, slots=True)
class ReconcileOptions:
    """Options of a comparison of watched folders with the database.

    Attributes:
        wait_s: how long to repeat the comparison of what differs, in seconds: a running worker may only be behind.
        read_up_to_bytes: also hash files that have a result, up to this size; ``None`` reads no file.
        system: file-system calls.
        sleep: waits the given seconds.
        progress: called with a line of text after every few hundred files.
        clock: returns the database's time, for leases.
    """

    wait_s: float = 0.0
    read_up_to_bytes: int | None = None
    system: FileSystem = field(default_factory=FileSystem)
    sleep: Callable[[float], None] = time.sleep
    progress: Callable[[str], None] = lambda _: None
    clock: Callable[[Connection], datetime] = database_now


def compare_with_ledger(
    engine: Engine, roots: Sequence[bytes], options: ReconcileOptions = ReconcileOptions()
) -> Reconciliation:
    """Compare watched folders with the database; return the differences.

    Args:
        engine: database.
        roots: absolute paths, ``os.fsencode``d.
        options: options of the comparison.

    Returns:
        Differences and what could not be checked.

    Raises:
        DatabaseAway, DatabaseUnsuitable, SchemaOutdated: the database cannot be read.
    """
    result = Reconciliation()
    system, limit = options.system, options.read_up_to_bytes
    checks = [_Root(engine, path, system, result, limit) for path in map(normalise_root_path, roots)]
    for root in checks:
        root.compare(options.progress)
    options.progress("checking the ledger")
    give_up_at = time.monotonic() + options.wait_s
    while True:
        # a file that changed while the folders were listed does not differ: check every difference once more
        result.differences = [difference for root in checks for difference in root.look_again()]
        root_ids = [root.root_id for root in checks if root.root_id is not None]
        check = partial(invariants.check_invariants, root_ids=root_ids, clock=options.clock)
        result.differences += read(engine, check)
        if not result.differences or time.monotonic() >= give_up_at:
            return result
        options.sleep(_LOOK_AGAIN_S)


class _Root:
    """One watched folder and its rows in the ledger."""

    def __init__(
        self, engine: Engine, path: bytes, system: FileSystem, result: Reconciliation, read_up_to_bytes: int | None
    ) -> None:
        self._engine = engine
        self._path = path
        self._text = display_path(path)
        self._system = system
        self._result = result
        self._read_up_to_bytes = read_up_to_bytes
        self._differing: dict[bytes, Difference] = {}
        self.root_id = read(engine, self._find)

    def _find(self, connection: Connection) -> int | None:
        c = schema.root.c
        return connection.execute(select(c.id).where(c.path_key == path_key(self._path))).scalar_one_or_none()

    def compare(self, progress: Callable[[str], None]) -> None:
        """List the folder and record what differs."""
        listing, met = ScanCounts(), set[int]()
        try:
            check_root_readable(self._system, self._path)
            entries = list_files(self._system, self._path, b"", listing)
            while batch := list(islice(entries, _BATCH)):
                looks = []
                for entry in batch:
                    # as in ``absence``: hashes of a million paths take 60 MB; a collision can only hide a difference
                    met.add(hash(entry.path))
                    try:
                        looks.append(read_entry_status(self._system, entry))
                    except OSError as error:
                        if error.errno not in GONE_ERRNOS:
                            listing.failed_entries += 1
                            listing.first_errno = listing.first_errno or error.errno
                self._compare(looks)
                progress(f"{self._text}: {listing.files:,} files compared")
            check_share_mounted(self._system, self._path, listing)
        except ShareDown as error:
            self._result.unproven.append(type(error)(f"{self._text}: {error}"))
            return
        if (fault := listing.build_error()) is not None:
            self._result.unproven.append(ScanIncomplete(f"{self._text}: {fault}"))
        if listing.complete:
            self._find_absent(met)

    def look_again(self) -> list[Difference]:
        """Check every differing path again and return remaining differences."""
        if self.root_id is None:
            self.root_id = read(self._engine, self._find)  # a worker may have begun to watch it
        paths = list(self._differing)
        remaining: dict[bytes, Difference] = {}
        for batch in chunks(paths, _BATCH):
            looks: dict[bytes, EntryStatus | None] = {}
            for path in batch:
                try:
                    looks[path] = read_path_status(self._system, self._path, path)
                except OSError as error:
                    if error.errno in GONE_ERRNOS:
                        looks[path] = None
                    else:
                        remaining[path] = self._differing[path]
            # read the ledger after the folder, since it follows the folder
            known = self._known(list(looks))
            for path, look in looks.items():
                if (difference := self._difference(path, look, known.get(path))) is not None:
                    remaining[path] = difference
        self._differing = remaining
        return list(remaining.values())

    def _known(self, paths: Sequence[bytes]) -> dict[bytes, Version]:
        root_id = self.root_id
        return {} if root_id is None else discovery.newest_versions(self._engine, root_id, paths)

    def _compare(self, looks: Iterable[EntryStatus]) -> None:
        by_path = {look.observation.path: look for look in looks}
        known = self._known(list(by_path))
        same: list[tuple[Observation, Version]] = []
        for path, look in by_path.items():
            version = known.get(path)
            if look.rule is None:
                self._result.files += 1
                self._result.owed.update([version.state] if version and version.state in OPEN_STATES else [])
            if (difference := self._difference(path, look, version)) is not None:
                self._differing[path] = difference
            elif look.rule is None and version is not None and version.state in _WITH_CONTENT:
                same.append((look.observation, version))
        if self._read_up_to_bytes is not None:
            self._compare_contents(same, self._read_up_to_bytes)

    def _difference(self, path: bytes, look: EntryStatus | None, version: Version | None) -> Difference | None:
        """Return how one path differs, or ``None``.

        Args:
            path: path below the root.
            look: current state of the file, or ``None`` if it does not exist.
            version: newest version in the ledger, or ``None`` if there is none.
        """
        code = text = ""
        file_id = None if version is None else version.file_id
        if look is None:
            if version is not None and version.state not in {*_GONE, FileState.IGNORED}:
                code, text = "not_on_share", f"not in the folder, but {version.state} in the ledger"
        elif look.rule is not None:
            if version is not None and version.state in OPEN_STATES:
                code, text = "owed_wrongly", f"ignored by rule {look.rule}, but {version.state} in the ledger"
        elif version is None:
            code, text = "not_in_ledger", "in the folder, but not in the ledger"
        elif not version.matches(look.observation):
            code, text = "other_version", "size or time differ from the ledger's newest version"
        elif version.state in _GONE:
            code, text = "thought_gone", f"in the folder, but {version.state} in the ledger"
        elif version.state in {FileState.IGNORED, FileState.SUPERSEDED} and version.code != FORGOTTEN:
            code, text = "not_owed", f"not ignored by any rule, but {version.state} in the ledger"
        elif (earlier := self._differing.get(path)) is not None and earlier.code == "other_content":
            return earlier
        return Difference(code, text, self._text, path, file_id) if code else None

    def _find_absent(self, met: set[int]) -> None:
        root_id = self.root_id
        if root_id is None:
            return

        def page(after: int) -> list[tuple[int, bytes]]:
            return discovery.expected_paths(self._engine, root_id, after_file_id=after, limit=_BATCH)

        for entries in keyset_pages(page, itemgetter(0), 0):
            for file_id, path in entries:
                if hash(path) not in met:
                    self._differing[path] = Difference("not_on_share", "", self._text, path, file_id)

    def _compare_contents(self, same: Sequence[tuple[Observation, Version]], max_bytes: int) -> None:
        ids = [version.file_id for _, version in same]
        expected = read(self._engine, lambda connection: _hashes(connection, ids))
        for observation, version in same:
            if version.file_id not in expected:
                continue  # quarantined before its bytes were read
            try:
                data = safe_read.read_file(self._path, observation, max_bytes).data
            except (EnvironmentFault, TooManyBytes) as error:
                name = f"{self._text}: {display_path(observation.path)}"
                self._result.unproven.append(EnvironmentFault(f"{name}: {error}"))
                continue
            if hashlib.sha256(data).hexdigest() == expected[version.file_id]:
                self._result.contents += 1
            else:
                text = "size and time are unchanged, but the bytes are not those of its result"
                difference = Difference("other_content", text, self._text, observation.path, version.file_id)
                self._differing[observation.path] = difference


def _hashes(connection: Connection, file_ids: Sequence[int]) -> dict[int, str]:
    """Return the SHA-256 of the results' contents, by file id."""
    c, instance = schema.file.c, schema.instance.c
    joined = schema.file.join(schema.instance, instance.id == c.instance_id)
    rows = connection.execute(select(c.id, instance.sha256).select_from(joined).where(c.id.in_(file_ids)))
    return {row.id: row.sha256 for row in rows}
