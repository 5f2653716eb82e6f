"""From the ledger to the slots and back: claims, what slots say of them, and when it is written.

Nothing that a slot found is lost while the database is away: what is to be written waits here, in order, and nothing
new is claimed until it is written. If the worker dies meanwhile, the ledger gives the files out again.

While films queue, a few more than the slots have in hand are claimed, so that no slot waits for the database, and what
ended within a moment is committed together. A single film is claimed and committed at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from preread.core.errors import DatabaseAway
from preread.ledger.failing_sources import Source
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim
from preread.model.bundles import Bundle
from preread.runner.child import protocol as slot_messages
from preread.runner.child.protocol import Job
from preread.runner.outcomes import MOST_TOGETHER, Endings, WatchedRoot
from preread.runner.pool import Broke, Done, Fault, Read, SlotPool
from preread.runner.shadow import Shadow, ShadowFilm

if TYPE_CHECKING:
    from pathlib import Path

    from preread.runner.counters import Meters

_LOG = logging.getLogger(__name__)
_Ticket = Claim | ShadowFilm
_Event = Read[_Ticket] | Done[_Ticket] | Fault[_Ticket] | Broke[_Ticket]
_LOOK_FOR_WORK_S = 1.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
# Films are claimed ahead for so long at the pace of the last ones: who comes meanwhile waits no longer than that.
_AHEAD_S = 0.2
_MOST_AHEAD = 32
# What is claimed while a worker dies counts as having taken part: the more films went well, the more are claimed ahead.
_CALM_FILMS = 4
# An outcome waits for others so long, and only while films are claimed ahead.
_TOGETHER_S = 0.2
# To assess a smaller film once more takes no longer than to ask whether it was; the commit keeps the first assessment.
_ASK_FROM_BYTES = 64 * 1024
_PACE_OF_LAST = 0.2
_LOOK_AT_SOURCES_S = 10.0
# Whatever a slot has had for longer is counted with what fails: most films take a tenth of it.
_LONG_S = 5.0


class Dispatcher:
    """Keeps the slots busy with what the ledger owes.

    Args:
        once: the run ends: what is locked is set aside after a few tries, since no later one will come.
        shadow: what idle slots do for a bundle in the shadow.
        clock: monotonic seconds.
        claim: takes up to so many films of these roots; ``None``: ``Ledger.claim``.
        meters: count what ends; ``None`` where nobody asks.
        preview_dir: where slots keep previews; ``None`` where they keep none.
    """

    def __init__(
        self,
        ledger: Ledger,
        pool: SlotPool[_Ticket],
        bundle: Bundle,
        bundle_id: int,
        roots: Mapping[int, WatchedRoot],
        *,
        once: bool,
        clock: Callable[[], float],
        shadow: Shadow | None = None,
        claim: Callable[[Sequence[int], int], list[Claim]] | None = None,
        meters: Meters | None = None,
        preview_dir: Path | None = None,
    ) -> None:
        self.away_since: float | None = None
        self.endings = Endings(
            ledger,
            bundle_id,
            roots,
            once=once,
            deadline_s=pool.deadline_s,
            clock=clock,
            meters=meters,
            preview_dir=preview_dir,
        )
        self._ledger = ledger
        self._pool = pool
        self._bundle = bundle
        self._roots = roots
        self._once = once
        self._clock = clock
        self._shadow = shadow
        self._take = claim or self._newest
        self._sources: list[Source] = []
        self._look_at_sources_at = float("-inf")
        self._ahead: deque[Claim] = deque()
        self._film_s: float | None = None
        self._calm = 0
        self._owed: deque[Done[Claim] | Fault[Claim] | Broke[Claim]] = deque()
        self._write_at = float("-inf")
        self._claim_at = float("-inf")
        self._pause_s = _FIRST_PAUSE_S
        self._try_at = float("-inf")
        self._assessing: dict[int, str] = {}
        self._waiting: list[tuple[Claim, str]] = []

    @property
    def held(self) -> list[Claim]:
        """Every claim whose film is waiting for a slot, in one, or ended and not yet written."""
        in_slots = [one for one in self._pool.in_flight if isinstance(one, Claim)]
        return [*self._ahead, *in_slots, *(event.ticket for event in self._owed)]

    def is_idle(self) -> bool:
        """Return whether no film is in hand and nothing waits to be written."""
        return not (self._pool.in_flight or self._ahead or self._owed)

    def next_at(self) -> float:
        """When ``work`` has something to do even if nothing happens (monotonic seconds)."""
        write_at = self._write_at if self._owed else float("inf")
        claim_at = self._claim_at if self._wants_films() else float("inf")
        return max(min(write_at, claim_at), self._try_at)

    def work_appeared(self) -> None:
        """Files became READY: look for them at once."""
        self._claim_at = float("-inf")

    def work(self, root_ids: Sequence[int]) -> None:
        """Give claimed films of these roots to idle slots, write what is owed, and claim what is wanted. Never waits.

        What was claimed of other roots, and no slot has yet, is given back.
        """
        if self._clock() < self._try_at:
            return
        try:
            if self.away_since is not None:
                self._ledger.heartbeat()  # where a disk is full, reading works and shows nothing
            self._turn_away(root_ids)
            self._feed()
            if self._clock() >= self._write_at:
                self._write()
            if self._wants_films() and self._clock() >= self._claim_at:
                self._claim(root_ids)
        except DatabaseAway as error:
            self.database_failed(error)
        else:
            self._database_answers()
        self._answer_waiting()

    def hear(self, event: _Event) -> None:
        """Take in what a slot said."""
        claim = event.ticket
        if isinstance(claim, ShadowFilm):
            self._hear_of_shadow(event, claim)
            return
        if isinstance(event, Read):
            self._waiting.append((claim, event.sha256))
            self._answer_waiting()
            return
        self._waiting = [(other, sha256) for other, sha256 in self._waiting if other != claim]
        self._note_pace(event)
        together = self._ahead and not self._waiting and len(self._owed) + 1 < MOST_TOGETHER
        if not together:
            self._write_at = float("-inf")
        elif not self._owed:
            self._write_at = self._clock() + _TOGETHER_S
        self._owed.append(event)  # type: ignore[arg-type]  # its ticket is a claim
        if not self._ahead:
            self._claim_at = float("-inf")
        if self.away_since is None:
            self._feed()

    def renew(self) -> None:
        """Extend the leases of what is in hand."""
        if held := self.held:
            fenced = len(held) - len(self._ledger.renew(held))
            if fenced:
                _LOG.warning("lease_lost", extra={"fenced": fenced})

    def release(self, tickets: Sequence[_Ticket]) -> None:
        """Give back what will not be finished because the worker stops."""
        for ticket in tickets:
            if isinstance(ticket, Claim):
                self._ledger.give_back(ticket, "the worker stops")

    # ------------------------------------------------------------------ films to the slots

    def _slots(self) -> int:
        return self._pool.idle + len(self._pool.in_flight)

    def _most_ahead(self) -> int:
        if self._film_s is None:
            return 0
        return min(_MOST_AHEAD, self._calm // _CALM_FILMS, int(_AHEAD_S * self._slots() / max(self._film_s, 0.001)))

    def _wants_films(self) -> bool:
        return self._pool.idle > 0 or 2 * len(self._ahead) < self._most_ahead()

    def _note_pace(self, event: _Event) -> None:
        if isinstance(event, Broke):
            self._calm = 0
            self._look_at_sources_at = float("-inf")
        elif isinstance(event, Done):
            self._calm += 1
            took_s = event.report.ms / 1000
            before_s = took_s if self._film_s is None else self._film_s
            self._film_s = before_s + _PACE_OF_LAST * (took_s - before_s)

    def _newest(self, root_ids: Sequence[int], limit: int) -> list[Claim]:
        """Claim. What failed, or comes from where much fails, never has all slots: else it holds up the rest."""
        if self._clock() >= self._look_at_sources_at:
            self._sources = self._ledger.failing_sources(root_ids)
            self._look_at_sources_at = self._clock() + _LOOK_AT_SOURCES_S
        behind = {one.file_id for one in self.held if self._comes_last(one)}
        behind |= {one.file_id for one in self._pool.held_for(_LONG_S) if isinstance(one, Claim)}
        behind_limit = max(1, self._slots() - 1) - len(behind)
        return self._ledger.claim(root_ids, limit, sources=self._sources, behind_limit=behind_limit)

    def _comes_last(self, claim: Claim) -> bool:
        return claim.failed or any(one.covers(claim.root_id, claim.path) for one in self._sources)

    def _turn_away(self, root_ids: Sequence[int]) -> None:
        for claim in [one for one in self._ahead if one.root_id not in root_ids]:
            self._ledger.give_back(claim, "no slot had it yet, and its folder is not read now")
            self._ahead.remove(claim)

    def _feed(self) -> None:
        while self._ahead and self._pool.idle:
            claim = self._ahead.popleft()
            # while no film waits, the cores of idle slots are free
            threads = max(1, self._pool.idle - len(self._ahead))
            preview = claim.attempts == 1 and not claim.alone
            self._pool.submit(claim, self._job(claim, preview=preview, threads=threads))

    def _claim(self, root_ids: Sequence[int]) -> None:
        wanted = self._pool.idle + self._most_ahead() - len(self._ahead)
        claims = self._take(root_ids, wanted) if root_ids else []
        if len(claims) < wanted:
            self._claim_at = self._clock() + (_LOOK_FOR_WORK_S / 4 if self._once else _LOOK_FOR_WORK_S)
        self._ahead.extend(claims)
        self._feed()
        if not claims and self._pool.idle and self._shadow is not None:
            self._work_in_shadow(self._shadow, root_ids)

    def _job(self, ticket: _Ticket, *, preview: bool = False, shadow: bool = False, threads: int = 1) -> Job:
        root = self._roots[ticket.root_id]
        return Job(
            root=slot_messages.to_text(root.path),
            path=slot_messages.to_text(ticket.path),
            size_bytes=ticket.size_bytes,
            mtime_ns=ticket.mtime_ns,
            population=root.population,
            path_pattern=root.path_pattern,
            preview=preview,
            shadow=shadow,
            threads=threads,
            ask=isinstance(ticket, Claim) and (ticket.size_bytes >= _ASK_FROM_BYTES or ticket.forgets),
        )

    # ------------------------------------------------------------------ the shadow

    def _work_in_shadow(self, shadow: Shadow, root_ids: Sequence[int]) -> None:
        # where there are several slots, one stays free for a film that comes meanwhile
        spare = max(self._pool.idle - 1, 0 if self._pool.in_flight else 1)
        for film in shadow.films(root_ids, spare):
            self._pool.submit(film, self._job(film, shadow=True))

    def _hear_of_shadow(self, event: Any, film: ShadowFilm) -> None:
        if self._shadow is not None:
            self._shadow.hear(event)
        self._claim_at = float("-inf")

    # ------------------------------------------------------------------ slots' questions

    def _answer_waiting(self) -> None:
        """Tell slots whether to assess; of two that hold the same bytes the second waits for the first one's commit."""
        waiting, self._waiting = self._waiting, []
        for claim, sha256 in waiting:
            if self.away_since is None and sha256 in self._assessing.values():
                self._waiting.append((claim, sha256))
                self._write_at = float("-inf")
                continue
            known, forgotten = self._what_is_known(sha256)
            if forgotten:
                self._pool.answer(claim, known=False, forgotten=True)
                continue
            if not known:
                self._assessing[claim.file_id] = sha256
            self._pool.answer(claim, known=known)

    def _what_is_known(self, sha256: str) -> tuple[bool, bool]:
        try:
            return self._ledger.what_is_known(sha256, self._bundle.digest)
        except DatabaseAway:
            return False, False  # then it is assessed again, and the commit looks again and keeps the first answer

    # ------------------------------------------------------------------ to the database

    def _write(self) -> None:
        while self._owed:
            for _ in range(self.endings.write(self._owed)):
                self._assessing.pop(self._owed.popleft().ticket.file_id, None)

    def database_failed(self, error: DatabaseAway) -> None:
        """Claim nothing until the database takes changes again; said once, and once when it does."""
        now = self._clock()
        if self.away_since is None:
            self.away_since = now
            _LOG.error("database_away", extra={"code": error.code, "owed": len(self._owed)})
        self._try_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _database_answers(self) -> None:
        self._pause_s = _FIRST_PAUSE_S
        if self.away_since is not None:
            _LOG.info("database_back", extra={"duration_s": round(self._clock() - self.away_since, 1)})
            self.away_since = None
