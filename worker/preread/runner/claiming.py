"""Choice and number of files to claim, by pace and failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from preread.ledger.failing_sources import Source
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim
from preread.runner.pool import Done, Ended, InferencePool, Lost

# Claimed ahead is what takes this long at the pace of the last files; a file that arrives meanwhile waits no longer.
_AHEAD_S = 0.2
_MOST_AHEAD = 32
# Whatever is claimed when a worker dies counts as having taken part, so more is claimed ahead the more files went well.
_SUCCESSES_EACH = 4
_WEIGHT_OF_LAST = 0.2
_SOURCES_EVERY_S = 10.0
# A file that holds a process for longer is counted with those that fail: most files take a tenth of it.
_LONG_S = 5.0


class Pace:
    """Number of files to claim ahead, from how the last ones went."""

    def __init__(self) -> None:
        self._file_s: float | None = None
        self._successes = 0

    def note(self, event: Ended[Claim]) -> None:
        """Record the end of a file: a lost process, or the seconds it took."""
        if isinstance(event, Lost):
            self._successes = 0
        elif isinstance(event, Done):
            self._successes += 1
            took_s = event.report.ms / 1000
            before_s = took_s if self._file_s is None else self._file_s
            self._file_s = before_s + _WEIGHT_OF_LAST * (took_s - before_s)

    def most_ahead(self, processes: int) -> int:
        """Return the number of files to claim ahead, 0 to 32."""
        if self._file_s is None:
            return 0
        of_pace = int(_AHEAD_S * processes / max(self._file_s, 0.001))
        return min(_MOST_AHEAD, self._successes // _SUCCESSES_EACH, of_pace)


class ClaimSource(Protocol):
    """Source of the dispatcher's claims."""

    def claim(self, root_ids: Sequence[int], limit: int, held: Sequence[Claim]) -> list[Claim]:
        """Claim up to ``limit`` files of these roots; ``held``: in hand."""
        ...

    def attempt_lost(self) -> None:
        """Record that an inference process was lost with its file."""
        ...


class NewestFirst:
    """Claims in the order of the ledger, failing files limited.

    Files that fail or take long never hold all inference processes.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, ledger: Ledger, pool: InferencePool[Any], clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._pool = pool
        self._clock = clock
        self._failing: list[Source] = []
        self._query_at = float("-inf")

    def claim(self, root_ids: Sequence[int], limit: int, held: Sequence[Claim]) -> list[Claim]:
        """Claim up to ``limit`` files, few of them likely to fail.

        Raises:
            DatabaseAway: see ``Ledger``.
        """
        if self._clock() >= self._query_at:
            self._failing = self._ledger.failing_sources(root_ids)
            self._query_at = self._clock() + _SOURCES_EVERY_S
        behind = {claim.file_id for claim in held if self._comes_last(claim)}
        behind |= {claim.file_id for claim in self._pool.held_for(_LONG_S) if isinstance(claim, Claim)}
        behind_limit = max(1, self._pool.idle + len(self._pool.in_flight) - 1) - len(behind)
        return self._ledger.claim(root_ids, limit, sources=self._failing, behind_limit=behind_limit)

    def attempt_lost(self) -> None:
        """Query the failing sources again at the next claim."""
        self._query_at = float("-inf")

    def _comes_last(self, claim: Claim) -> bool:
        return claim.failed or any(source.covers(claim.root_id, claim.path) for source in self._failing)
