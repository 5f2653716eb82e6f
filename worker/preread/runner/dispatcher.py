"""Dispatch claimed files to inference processes and collect outcomes.

While the database is away no outcome is lost: outcomes wait here, in order, and nothing new is claimed until they are
written. If the worker dies meanwhile, the ledger gives the files out again.

While files queue, a few more are claimed than the processes have in hand, so that none waits for the database, and
outcomes of the same moment are committed together. A single file is claimed and committed at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias, cast

from preread.core.errors import DatabaseAway
from preread.ledger.records import Claim
from preread.runner.child import protocol
from preread.runner.child.protocol import Job
from preread.runner.claiming import ClaimSource, NewestFirst, Pace
from preread.runner.content_gate import ContentGate
from preread.runner.outcomes import OutcomeWriter, RunContext
from preread.runner.pool import Ended, Event, InferencePool, Lost, Read
from preread.runner.shadow import Shadow, ShadowFile
from preread.runner.writing import DatabaseState, WriteBuffer

_LOG = logging.getLogger(__name__)
Ticket: TypeAlias = Claim | ShadowFile
_CLAIM_EVERY_S = 1.0
# A smaller file is assessed again in the time that the question takes; the commit keeps the first assessment.
_ASK_FROM_BYTES = 64 * 1024


class Dispatcher:
    """Keeps the inference processes busy with what is pending in the ledger.

    Args:
        shadow: work of idle processes for a second bundle; ``None`` for none.
        source: where claims come from; ``None``: newest files of the roots first.

    Attributes:
        outcomes: what ended so far.
        database: whether the database answers.
    """

    def __init__(
        self,
        run: RunContext,
        pool: InferencePool[Ticket],
        *,
        shadow: Shadow | None = None,
        source: ClaimSource | None = None,
    ) -> None:
        self.outcomes = OutcomeWriter(run, pool.deadline_s)
        self.database = DatabaseState(run.clock)
        self._run = run
        self._pool = pool
        self._shadow = shadow
        self._source = source or NewestFirst(run.ledger, pool, run.clock)
        self._pace = Pace()
        self._ahead: deque[Claim] = deque()
        self._unwritten = WriteBuffer(run.clock)
        self._gate = ContentGate(run.ledger, pool, run.bundle.digest)
        self._claim_at = float("-inf")

    @property
    def held(self) -> list[Claim]:
        """Claims that wait for a process, are in one, or are not yet written."""
        in_processes = [ticket for ticket in self._pool.in_flight if isinstance(ticket, Claim)]
        return [*self._ahead, *in_processes, *self._unwritten.claims]

    def is_idle(self) -> bool:
        """Return whether no file is in hand and no outcome waits to be written."""
        return not (self._pool.in_flight or self._ahead or self._unwritten)

    def next_at(self) -> float:
        """Return when to call ``work`` if nothing happens (monotonic seconds)."""
        claim_at = self._claim_at if self._needs_claims() else float("inf")
        return max(min(self._unwritten.next_at(), claim_at), self.database.retry_at)

    def claim_soon(self) -> None:
        """Claim at the next ``work``, since files became READY."""
        self._claim_at = float("-inf")

    def work(self, root_ids: Sequence[int]) -> None:
        """Give jobs to idle processes, write due outcomes, claim more files.

        Never waits. Claims of other roots that no process has yet are given back.
        """
        if self._run.clock() < self.database.retry_at:
            return
        try:
            if self.database.away_since is not None:
                self._run.ledger.heartbeat()  # on a full disk reading works and shows nothing
            self._give_back_others(root_ids)
            self._feed()
            for claim in self._unwritten.write(self.outcomes):
                self._gate.committed(claim)
            if self._needs_claims() and self._run.clock() >= self._claim_at:
                self._claim(root_ids)
        except DatabaseAway as error:
            self.database_failed(error)
        else:
            self.database.answered()
        self._answer()

    def handle(self, event: Event[Ticket]) -> None:
        """Handle an event of an inference process."""
        if isinstance(event.ticket, ShadowFile):
            if self._shadow is not None:
                self._shadow.handle(cast("Event[ShadowFile]", event))
            self.claim_soon()
        elif isinstance(event, Read):
            self._gate.ask(event.ticket, event.sha256)
            self._answer()
        else:
            self._end(cast("Ended[Claim]", event))

    def database_failed(self, error: DatabaseAway) -> None:
        """Claim nothing until the database takes changes again."""
        self.database.failed(error, len(self._unwritten))

    def renew(self) -> None:
        """Extend the leases of the files in hand."""
        if held := self.held:
            fenced = len(held) - len(self._run.ledger.renew(held))
            if fenced:
                _LOG.warning("lease_lost", extra={"fenced": fenced})

    def release(self, tickets: Sequence[Ticket]) -> None:
        """Give back files that will not be finished because the worker stops."""
        for ticket in tickets:
            if isinstance(ticket, Claim):
                self._run.ledger.give_back(ticket, "the worker stops")

    # ------------------------------------------------------------------ inside

    def _end(self, event: Ended[Claim]) -> None:
        self._gate.withdraw(event.ticket)
        self._pace.note(event)
        if isinstance(event, Lost):
            self._source.attempt_lost()
        self._unwritten.add(event, may_wait=bool(self._ahead) and not self._gate.waiting)
        if not self._ahead:
            self.claim_soon()
        if self.database.away_since is None:
            self._feed()

    def _answer(self) -> None:
        if self._gate.answer(database_away=self.database.away_since is not None):
            self._unwritten.write_soon()

    def _most_ahead(self) -> int:
        return self._pace.most_ahead(self._pool.idle + len(self._pool.in_flight))

    def _needs_claims(self) -> bool:
        return self._pool.idle > 0 or 2 * len(self._ahead) < self._most_ahead()

    def _give_back_others(self, root_ids: Sequence[int]) -> None:
        for claim in [claim for claim in self._ahead if claim.root_id not in root_ids]:
            self._run.ledger.give_back(claim, "no inference process had it yet, and its watched folder is not read now")
            self._ahead.remove(claim)

    def _feed(self) -> None:
        while self._ahead and self._pool.idle:
            claim = self._ahead.popleft()
            # while no file waits, the cores of idle processes are free
            threads = max(1, self._pool.idle - len(self._ahead))
            preview = claim.attempts == 1 and not claim.alone
            self._pool.submit(claim, self._job(claim, preview=preview, threads=threads))

    def _claim(self, root_ids: Sequence[int]) -> None:
        limit = self._pool.idle + self._most_ahead() - len(self._ahead)
        claims = self._source.claim(root_ids, limit, self.held) if root_ids else []
        if len(claims) < limit:
            self._claim_at = self._run.clock() + (_CLAIM_EVERY_S / 4 if self._run.once else _CLAIM_EVERY_S)
        self._ahead.extend(claims)
        self._feed()
        if not claims and self._pool.idle and self._shadow is not None:
            # where there are several processes, one stays free for a file that arrives meanwhile
            spare = max(self._pool.idle - 1, 0 if self._pool.in_flight else 1)
            for film in self._shadow.films(root_ids, spare):
                self._pool.submit(film, self._job(film, shadow=True))

    def _job(self, ticket: Ticket, *, preview: bool = False, shadow: bool = False, threads: int = 1) -> Job:
        root = self._run.roots[ticket.root_id]
        return Job(
            root=protocol.path_to_text(root.path),
            path=protocol.path_to_text(ticket.path),
            size_bytes=ticket.size_bytes,
            mtime_ns=ticket.mtime_ns,
            population=root.population,
            path_pattern=root.path_pattern,
            preview=preview,
            shadow=shadow,
            threads=threads,
            ask=isinstance(ticket, Claim) and (ticket.size_bytes >= _ASK_FROM_BYTES or ticket.forgets),
        )
