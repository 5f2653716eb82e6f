"""From looks at a root to the ledger: what is new, what is ignored, what has settled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from preread.core.errors import UNREAD_CODES
from preread.core.types import FORGOTTEN, FileState
from preread.ledger.ledger import Ledger
from preread.ledger.records import Observation, Version
from preread.share.absence import Absence
from preread.share.scanner import Look
from preread.share.stability import Settling

EMPTY_PATIENCE = timedelta(hours=24)
_COME_BACK = frozenset({FileState.VANISHED, FileState.MISSED})
_ENDED = frozenset({FileState.DONE, FileState.QUARANTINED})
_WAITING = frozenset({FileState.SETTLING, FileState.READY})


class Teller:
    """Brings the ledger up to date with what was seen in one root.

    Args:
        absence: hears of every path that is there.
        on_settled: called when files became READY.
        wall: the time of day, only to tell how long ago the ledger first saw an empty file.
        judge_empty: whether empty files are set aside as soon as they settled, and not after a day.

    Attributes:
        backlog_taken_in: how many paths became known as backlog.
    """

    def __init__(
        self,
        root_id: int,
        ledger: Ledger,
        absence: Absence,
        on_settled: Callable[[], None],
        wall: Callable[[], datetime],
        *,
        judge_empty: bool,
    ) -> None:
        self.settling = Settling(0.0)
        self.backlog_taken_in = 0
        self._root_id = root_id
        self._ledger = ledger
        self._absence = absence
        self._on_settled = on_settled
        self._wall = wall
        self._judge_empty = judge_empty

    def tell(self, now: float, looks: Iterable[Look], *, backlog: bool = False, hinted: bool = False) -> None:
        """Take in a batch of looks made at ``now`` (monotonic seconds).

        Args:
            backlog: what is new lay there before Preread first looked.
            hinted: something happened to these paths just now: they are live, whatever the first scan took them for.
        """
        ignored: dict[str, list[Observation]] = {}
        watched: list[Observation] = []
        for look in looks:
            self._absence.met(look.observation.path)
            if look.rule is None:
                watched.append(look.observation)
            else:
                ignored.setdefault(look.rule, []).append(look.observation)
                self.settling.forget(look.observation.path)
        for rule, observations in ignored.items():
            self._ignore(rule, observations)
        if not watched:
            return
        known = self._ledger.known(self._root_id, [one.path for one in watched])
        news = [one for one in watched if _is_news(known.get(one.path), one, hinted=hinted)]
        if news:
            self.backlog_taken_in += sum(backlog and one.path not in known for one in news)
            known |= self._ledger.observe(self._root_id, news, backlog=backlog)
        self._settle([known[one.path] for one in watched if self._stands_still(one, known[one.path], now)])

    def _ignore(self, rule: str, observations: list[Observation]) -> None:
        known = self._ledger.known(self._root_id, [one.path for one in observations])
        new = [one for one in observations if not _is_ignored(known.get(one.path))]
        if new:
            self._ledger.ignore(self._root_id, new, rule)

    def _stands_still(self, seen: Observation, version: Version, now: float) -> bool:
        if version.state is not FileState.SETTLING:
            self.settling.forget(seen.path)
            return False
        may_settle = seen.size_bytes > 0 or self._judge_empty or self._wall() - version.first_seen_at >= EMPTY_PATIENCE
        if version.backlog and not may_settle:
            return False  # it would hold its place for a day; the next scan looks at it again
        return self.settling.note(seen, now, may_settle=may_settle, backlog=version.backlog)

    def _settle(self, versions: list[Version]) -> None:
        empty = [version for version in versions if version.size_bytes == 0]
        full = [version for version in versions if version.size_bytes > 0]
        if empty:
            self._ledger.quarantine_empty(empty)
        if full and self._ledger.settle(full):
            self._on_settled()


def wants_a_look(version: Version | None) -> bool:
    """Tell whether a quick scan asks for the status of a path that is listed."""
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
