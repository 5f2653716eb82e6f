"""What is owed, computed anew from the folders and the database, against what the ledger says: the difference.

Nothing is changed here, and nothing of what a worker remembers is used: the folders are listed, every entry is compared
with the newest version of its path, and the ledger with itself (``ledger_check``).
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

from sqlalchemy import Connection, Engine, select

from preread.core.errors import EnvironmentFault, ScanIncomplete, ShareDown, TooManyBytes
from preread.core.text.escaping import display_path
from preread.core.types import FORGOTTEN, OPEN_STATES, FileState
from preread.db import schema
from preread.db.engine import database_now, read
from preread.ledger import discovery
from preread.ledger import invariants as ledger_check
from preread.ledger.invariants import Difference
from preread.ledger.records import Observation, Version
from preread.ledger.transitions import absolute, path_key
from preread.share import safe_read as beneath
from preread.share.scanner import (
    GONE_ERRNOS,
    FileSystem,
    Listing,
    Look,
    check_mounted,
    check_root,
    look_at_entry,
    look_at_path,
    walk,
)

_BATCH = 500
_LOOK_AGAIN_S = 1.0
_GONE = frozenset({FileState.VANISHED, FileState.MISSED})
_WITH_CONTENT = frozenset({FileState.DONE, FileState.QUARANTINED})


@dataclass(slots=True)
class Reconciliation:
    """What was found.

    Attributes:
        differences: what is not as it should be.
        unproven: what could not be looked at, and why.
        files: entries met that are no folders and that no rule leaves out.
        owed: of these, how many wait for an outcome, by state.
        contents: files that were read and have the bytes of their result.
    """

    differences: list[Difference] = field(default_factory=list)
    unproven: list[EnvironmentFault] = field(default_factory=list)
    files: int = 0
    owed: Counter[FileState] = field(default_factory=Counter)
    contents: int = 0


def reconcile(
    engine: Engine,
    roots: Sequence[bytes],
    *,
    wait_s: float = 0.0,
    read_up_to_bytes: int | None = None,
    system: FileSystem | None = None,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[Connection], datetime] = database_now,
) -> Reconciliation:
    """Compare these roots with the ledger.

    Args:
        roots: absolute paths, ``os.fsencode``d.
        wait_s: how long to look again at what differs: a worker that runs may only not be there yet.
        read_up_to_bytes: read the files that have a result too, up to this size, and compare their hashes.
        system: the calls by which a root is looked at.
        progress: gets, after every few hundred files, a line that says how far it is.
        clock: the database's, for the leases; tests give another.

    Raises:
        DatabaseAway, DatabaseUnsuitable, SchemaOutdated: see ``engine.read``.
    """
    found = Reconciliation()
    looks = [_Root(engine, path, system or FileSystem(), found, read_up_to_bytes) for path in map(absolute, roots)]
    for one in looks:
        one.compare(progress)
    progress("the ledger is compared with itself")
    give_up_at = time.monotonic() + wait_s
    while True:
        # what moved while the folders were listed is no difference: everything that was found is looked at once more
        found.differences = [difference for one in looks for difference in one.look_again()]
        root_ids = [one.root_id for one in looks if one.root_id is not None]
        check = partial(ledger_check.check, root_ids=root_ids, clock=clock)
        found.differences += read(engine, check)
        if not found.differences or time.monotonic() >= give_up_at:
            return found
        sleep(_LOOK_AGAIN_S)


class _Root:
    """One folder and what the ledger has of it."""

    def __init__(
        self, engine: Engine, path: bytes, system: FileSystem, found: Reconciliation, read_up_to_bytes: int | None
    ) -> None:
        self._engine = engine
        self._path = path
        self._text = display_path(path)
        self._system = system
        self._found = found
        self._read_up_to_bytes = read_up_to_bytes
        self._differing: dict[bytes, Difference] = {}
        self.root_id = read(engine, self._find)

    def _find(self, connection: Connection) -> int | None:
        c = schema.root.c
        return connection.execute(select(c.id).where(c.path_key == path_key(self._path))).scalar_one_or_none()

    def compare(self, progress: Callable[[str], None]) -> None:
        """List the folder and note what differs."""
        listing, met = Listing(), set[int]()
        try:
            check_root(self._system, self._path)
            entries = walk(self._system, self._path, b"", listing)
            while batch := list(islice(entries, _BATCH)):
                looks = []
                for entry in batch:
                    # as in ``absence``: hashes of a million paths take some 60 MB, and can only hide a difference
                    met.add(hash(entry.path))
                    try:
                        looks.append(look_at_entry(self._system, entry))
                    except OSError as error:
                        if error.errno not in GONE_ERRNOS:
                            listing.failed_entries += 1
                            listing.first_errno = listing.first_errno or error.errno
                self._compare(looks)
                progress(f"{self._text}: {listing.files:,} files compared")
            check_mounted(self._system, self._path, listing)
        except ShareDown as error:
            self._found.unproven.append(type(error)(f"{self._text}: {error}"))
            return
        if (fault := listing.fault()) is not None:
            self._found.unproven.append(ScanIncomplete(f"{self._text}: {fault}"))
        if listing.complete:
            self._find_absent(met)

    def look_again(self) -> list[Difference]:
        """Look once more at every path that differed, and return what still does."""
        if self.root_id is None:
            self.root_id = read(self._engine, self._find)  # a worker may have begun to watch it
        paths = list(self._differing)
        still: dict[bytes, Difference] = {}
        for start in range(0, len(paths), _BATCH):
            looks: dict[bytes, Look | None] = {}
            for path in paths[start : start + _BATCH]:
                try:
                    looks[path] = look_at_path(self._system, self._path, path)
                except OSError as error:
                    if error.errno in GONE_ERRNOS:
                        looks[path] = None
                    else:
                        still[path] = self._differing[path]
            # the ledger after the folder: it follows it
            known = self._known(list(looks))
            for path, look in looks.items():
                if (difference := self._difference(path, look, known.get(path))) is not None:
                    still[path] = difference
        self._differing = still
        return list(still.values())

    def _known(self, paths: Sequence[bytes]) -> dict[bytes, Version]:
        root_id = self.root_id
        return {} if root_id is None else read(self._engine, lambda c: discovery.known(c, root_id, paths))

    def _compare(self, looks: Iterable[Look]) -> None:
        by_path = {look.observation.path: look for look in looks}
        known = self._known(list(by_path))
        same: list[tuple[Observation, Version]] = []
        for path, look in by_path.items():
            version = known.get(path)
            if look.rule is None:
                self._found.files += 1
                self._found.owed.update([version.state] if version and version.state in OPEN_STATES else [])
            if (difference := self._difference(path, look, version)) is not None:
                self._differing[path] = difference
            elif look.rule is None and version is not None and version.state in _WITH_CONTENT:
                same.append((look.observation, version))
        if self._read_up_to_bytes is not None:
            self._compare_contents(same, self._read_up_to_bytes)

    def _difference(self, path: bytes, look: Look | None, version: Version | None) -> Difference | None:
        """Say how one path differs; ``look`` is ``None`` where there is no file."""
        code = what = ""
        file_id = None if version is None else version.file_id
        if look is None:
            if version is not None and version.state not in {*_GONE, FileState.IGNORED}:
                code, what = "not_on_share", f"it is not in the folder, and the ledger has it as {version.state}"
        elif look.rule is not None:
            if version is not None and version.state in OPEN_STATES:
                code, what = "owed_wrongly", f"the rule {look.rule} leaves it out, and it is {version.state}"
        elif version is None:
            code, what = "not_in_ledger", "it is in the folder, and the ledger does not know it"
        elif not version.matches(look.observation):
            code, what = "other_version", "it has another size or time than the ledger's newest version"
        elif version.state in _GONE:
            code, what = "thought_gone", f"it is in the folder, and the ledger has it as {version.state}"
        elif version.state in {FileState.IGNORED, FileState.SUPERSEDED} and version.code != FORGOTTEN:
            code, what = "not_owed", f"it should be read, and the ledger has it as {version.state}"
        elif (earlier := self._differing.get(path)) is not None and earlier.code == "other_content":
            return earlier
        return Difference(code, what, self._text, path, file_id) if code else None

    def _find_absent(self, met: set[int]) -> None:
        root_id, after = self.root_id, 0
        while root_id is not None:
            page = read(self._engine, lambda c, i=root_id, a=after: discovery.live_paths(c, i, a, _BATCH))  # type: ignore[misc]
            if not page:
                return
            after = page[-1][0]
            for file_id, path in page:
                if hash(path) not in met:
                    self._differing[path] = Difference("not_on_share", "", self._text, path, file_id)

    def _compare_contents(self, same: Sequence[tuple[Observation, Version]], max_bytes: int) -> None:
        ids = [version.file_id for _, version in same]
        expected = read(self._engine, lambda connection: _hashes(connection, ids))
        for seen, version in same:
            if version.file_id not in expected:
                continue  # set aside before its bytes were read
            try:
                data = beneath.read(self._path, seen, max_bytes).data
            except (EnvironmentFault, TooManyBytes) as error:
                where = f"{self._text}: {display_path(seen.path)}"
                self._found.unproven.append(EnvironmentFault(f"{where}: {error}"))
                continue
            if hashlib.sha256(data).hexdigest() == expected[version.file_id]:
                self._found.contents += 1
            else:
                what = "its bytes are not those of its result, with the same size and time"
                difference = Difference("other_content", what, self._text, seen.path, version.file_id)
                self._differing[seen.path] = difference


def _hashes(connection: Connection, file_ids: Sequence[int]) -> dict[int, str]:
    c, instance = schema.file.c, schema.instance.c
    joined = schema.file.join(schema.instance, instance.id == c.instance_id)
    rows = connection.execute(select(c.id, instance.sha256).select_from(joined).where(c.id.in_(file_ids)))
    return {row.id: row.sha256 for row in rows}
