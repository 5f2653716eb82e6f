"""Record scan results in the ledger: new, ignored and stable files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from preread.core.errors import UNREAD_CODES
from preread.core.types import FORGOTTEN, FileState
from preread.ledger.records import Observation, Version
from preread.share.absence import AbsenceTracker
from preread.share.scanner import GONE_ERRNOS, EntryStatus, ScannedRoot, check_root_readable, read_path_status
from preread.share.stability import StabilityTracker

EMPTY_PATIENCE = timedelta(hours=24)
_COME_BACK = frozenset({FileState.VANISHED, FileState.MISSED})
_ENDED = frozenset({FileState.DONE, FileState.QUARANTINED})
_WAITING = frozenset({FileState.SETTLING, FileState.READY})


@dataclass(slots=True)
class RecheckedPaths:
    """Rechecked paths that are no files any more.

    Attributes:
        gone: nothing lies there.
        folders: a folder lies there.
    """

    gone: list[bytes] = field(default_factory=list)
    folders: list[bytes] = field(default_factory=list)


class FileRecorder:
    """Recorder of a watched folder's files in the ledger.

    Args:
        on_settled: called when files became READY.
        wall: the time of day, only for how long ago the ledger first saw an empty file.
        judge_empty: empty files are quarantined as soon as they are stable, and not after a day.

    Attributes:
        absence: gets every path that is there, and those that are missing.
        settling: files that are not stable yet.
        backlog_taken_in: number of paths that became known as backlog.
    """

    def __init__(
        self,
        root: ScannedRoot,
        absence: AbsenceTracker,
        on_settled: Callable[[], None],
        wall: Callable[[], datetime],
        *,
        judge_empty: bool,
    ) -> None:
        self.settling = StabilityTracker(0.0)
        self.backlog_taken_in = 0
        self._root = root
        self.absence = absence
        self._on_settled = on_settled
        self._wall = wall
        self._judge_empty = judge_empty

    def recheck_paths(self, paths: Iterable[bytes], now: float, *, backlog: bool = False) -> RecheckedPaths:
        """Read the status of unstable files again, and record it.

        Args:
            paths: relative to the root.
            now: monotonic seconds.
            backlog: see ``record``.

        Raises:
            ShareDown: a look failed, and so does the root.
            DatabaseAway: see ``Ledger``.
        """
        looks = []
        rechecked = RecheckedPaths()
        for path in paths:
            try:
                look = read_path_status(self._root.system, self._root.path, path)
            except OSError as error:
                if error.errno in GONE_ERRNOS:
                    self.settling.forget_path(path)
                    self.absence.record_missing(path)
                    rechecked.gone.append(path)
                else:
                    check_root_readable(self._root.system, self._root.path)
                    self.settling.delay_recheck(path, now)
                continue
            if look is None:
                self.settling.forget_path(path)
                rechecked.folders.append(path)
            else:
                looks.append(look)
        if looks:
            self.record_entries(now, looks, backlog=backlog)
        return rechecked

    def record_entries(
        self, now: float, looks: Iterable[EntryStatus], *, backlog: bool = False, hinted: bool = False
    ) -> None:
        """Record scanned files in the ledger: new, ignored or stable.

        Args:
            now: when they were looked at (monotonic seconds).
            looks: the entries.
            backlog: new files lay there before Preread first looked.
            hinted: something happened to these paths just now: they are live, whatever the first scan took them for.

        Raises:
            DatabaseAway: see ``Ledger``.
        """
        ignored: dict[str, list[Observation]] = {}
        watched: list[Observation] = []
        for look in looks:
            self.absence.record_present(look.observation.path)
            if look.rule is None:
                watched.append(look.observation)
            else:
                ignored.setdefault(look.rule, []).append(look.observation)
                self.settling.forget_path(look.observation.path)
        for rule, observations in ignored.items():
            self._ignore(rule, observations)
        if not watched:
            return
        known = self._root.ledger.newest_versions(self._root.root_id, [seen.path for seen in watched])
        changed = [seen for seen in watched if _is_news(known.get(seen.path), seen, hinted=hinted)]
        if changed:
            self.backlog_taken_in += sum(backlog and seen.path not in known for seen in changed)
            known |= self._root.ledger.observe(self._root.root_id, changed, backlog=backlog)
        self._settle([known[seen.path] for seen in watched if self._is_stable(seen, known[seen.path], now)])

    def _ignore(self, rule: str, observations: list[Observation]) -> None:
        known = self._root.ledger.newest_versions(self._root.root_id, [seen.path for seen in observations])
        new = [seen for seen in observations if not _is_ignored(known.get(seen.path))]
        if new:
            self._root.ledger.record_ignored(self._root.root_id, new, rule)

    def _is_stable(self, seen: Observation, version: Version, now: float) -> bool:
        if version.state is not FileState.SETTLING:
            self.settling.forget_path(seen.path)
            return False
        may_settle = seen.size_bytes > 0 or self._judge_empty or self._wall() - version.first_seen_at >= EMPTY_PATIENCE
        if version.backlog and not may_settle:
            return False  # it would hold its place for a day; the next scan looks at it again
        return self.settling.record_observation(seen, now, may_settle=may_settle, backlog=version.backlog)

    def _settle(self, versions: list[Version]) -> None:
        empty = [version for version in versions if version.size_bytes == 0]
        full = [version for version in versions if version.size_bytes > 0]
        if empty:
            self._root.ledger.quarantine_empty(empty)
        if full and self._root.ledger.settle(full):
            self._on_settled()


def needs_status(version: Version | None) -> bool:
    """Return whether a quick scan reads the status of a listed file."""
    return version is None or version.state is FileState.SETTLING or version.state in _COME_BACK


def _is_news(version: Version | None, seen: Observation, *, hinted: bool) -> bool:
    return (
        version is None
        or (hinted and version.backlog and version.state in _WAITING)
        or not version.matches(seen)
        or version.state in _COME_BACK
        or (version.state is FileState.IGNORED and version.code != FORGOTTEN)
        or (_is_unread(version) and version.ctime_ns != seen.ctime_ns)
        or (version.state in _ENDED and version.is_another_file(seen))
        or (version.state is FileState.SETTLING and version.inode != seen.inode)
    )


def _is_unread(version: Version) -> bool:
    return version.state is FileState.QUARANTINED and version.code in UNREAD_CODES


def _is_ignored(version: Version | None) -> bool:
    return version is not None and version.state is FileState.IGNORED
