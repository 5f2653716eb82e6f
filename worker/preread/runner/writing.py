"""Buffer of outcomes while the database is away or files queue."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator

from preread.core.backoff import Backoff
from preread.core.errors import DatabaseAway
from preread.ledger.records import Claim
from preread.runner.outcomes import MOST_TOGETHER, OutcomeWriter
from preread.runner.pool import Ended

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
# An outcome waits this long for others, and only while files are claimed ahead.
_TOGETHER_S = 0.2


class DatabaseState:
    """State of the database: if it takes changes, and the next try.

    Args:
        clock: monotonic seconds.

    Attributes:
        away_since: when it first failed (monotonic seconds); ``None`` while it answers.
        retry_at: nothing is tried before (monotonic seconds).
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.away_since: float | None = None
        self.retry_at = float("-inf")
        self._clock = clock
        self._pause = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)

    def failed(self, error: DatabaseAway, unwritten: int) -> None:
        """Record a failure; logged once until the database is back.

        Args:
            error: what failed.
            unwritten: number of outcomes that wait.
        """
        now = self._clock()
        if self.away_since is None:
            self.away_since = now
            _LOG.error("database_away", extra={"code": error.code, "owed": unwritten})
        self.retry_at = now + self._pause.next_s()

    def answered(self) -> None:
        """Record a success."""
        self._pause.reset()
        if self.away_since is not None:
            _LOG.info("database_back", extra={"duration_s": round(self._clock() - self.away_since, 1)})
            self.away_since = None


class WriteBuffer:
    """Outcomes that are not in the ledger yet, in order.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: deque[Ended[Claim]] = deque()
        self._write_at = float("-inf")

    def __len__(self) -> int:
        return len(self._events)

    @property
    def claims(self) -> list[Claim]:
        """Claims of the files that have ended."""
        return [event.ticket for event in self._events]

    def add(self, event: Ended[Claim], *, may_wait: bool) -> None:
        """Add an outcome.

        Args:
            event: how the file ended.
            may_wait: it may be written together with others, a moment later.
        """
        if not may_wait or len(self._events) + 1 >= MOST_TOGETHER:
            self.write_soon()
        elif not self._events:
            self._write_at = self._clock() + _TOGETHER_S
        self._events.append(event)

    def write_soon(self) -> None:
        """Let nothing wait for other outcomes."""
        self._write_at = float("-inf")

    def next_at(self) -> float:
        """Return when to write (monotonic seconds); infinity if empty."""
        return self._write_at if self._events else float("inf")

    def write(self, writer: OutcomeWriter) -> Iterator[Claim]:
        """Write everything in order if it is due; yield the written claims.

        Raises:
            DatabaseAway: what was not yielded is still here.
        """
        if self._clock() < self._write_at:
            return
        while self._events:
            for _ in range(writer.write(self._events)):
                yield self._events.popleft().ticket
