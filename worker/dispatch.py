"""From the ledger to the slots and back: claims, what slots say of them, and commits.

Nothing that a slot found is lost while the database is away: what is to be written waits here, in order, and nothing
new is claimed until it is written. If the worker dies meanwhile, the ledger gives the files out again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker import slot_messages
from worker.bundle import Bundle
from worker.domain import FORGOTTEN, Caveat, FileState, Outcome, Population, RefusalCode
from worker.entries import Claim
from worker.errors import (
    DatabaseAway,
    EnvironmentFault,
    FileChanged,
    FileLocked,
    FileVanished,
    ShareDown,
    SlotError,
    UnreadableError,
    named,
)
from worker.ledger import Ledger
from worker.shadowing import Shadow, ShadowFilm
from worker.slot_messages import Job, Report
from worker.slots import Broke, Done, Fault, Read, SlotPool

if TYPE_CHECKING:
    from worker.meters import Meters

_LOG = logging.getLogger(__name__)
_Ticket = Claim | ShadowFilm
_Event = Read[_Ticket] | Done[_Ticket] | Fault[_Ticket] | Broke[_Ticket]
_LOOK_FOR_WORK_S = 1.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LOCKED_FIRST_S = 2.0
_LOCKED_LONGEST_S = 300.0
# So often a film is taken to have changed, or to have gone, as its reader says; then the share contradicts itself.
_TRIES_AT_WORD = 3
_ONCE_LOCKED_TRIES = 3
_ONCE_LOCKED_S = 0.5
_REFUSALS_KEPT = 10_000
# A file that was given its full size at once looks complete while its end is still unwritten, and so all zero.
TAIL_ZERO_SETTLE_S = 60.0


@dataclass(frozen=True, slots=True)
class WatchedRoot:
    """What the dispatcher needs of a root.

    Attributes:
        look_again: asks the inbox for a look at one path.
        suspect: asks it whether the share still answers.
    """

    root_id: int
    path: bytes
    population: Population
    path_pattern: str | None
    look_again: Callable[[bytes], None]
    suspect: Callable[[], None]


class Dispatcher:
    """Keeps the slots busy with what the ledger owes.

    Args:
        once: the run ends: what is locked is set aside after a few tries, since no later one will come.
        shadow: what idle slots do for a bundle in the shadow.
        clock: monotonic seconds.
        claim: takes up to so many films of these roots; ``None``: ``Ledger.claim``.
        meters: count what ends; ``None`` where nobody asks.
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
    ) -> None:
        self.away_since: float | None = None
        self.previews_dropped = False
        self.done = dict.fromkeys(Outcome, 0)
        self._ledger = ledger
        self._pool = pool
        self._bundle = bundle
        self._bundle_id = bundle_id
        self._roots = roots
        self._once = once
        self._clock = clock
        self._shadow = shadow
        self._take = claim or ledger.claim
        self._meters = meters
        self._owed: deque[tuple[Claim, Callable[[], None]]] = deque()
        self._claim_at = float("-inf")
        self._pause_s = _FIRST_PAUSE_S
        self._try_at = float("-inf")
        self._refusals: dict[int, int] = {}
        self._assessing: dict[int, str] = {}
        self._waiting: list[tuple[Claim, str]] = []

    def is_idle(self) -> bool:
        """Return whether no slot has a file and nothing waits to be written."""
        return not self._pool.in_flight and not self._owed

    def next_at(self) -> float:
        """When ``work`` has something to do even if nothing happens (monotonic seconds)."""
        if self._owed:
            return self._try_at
        return max(self._claim_at, self._try_at) if self._pool.idle else float("inf")

    def work_appeared(self) -> None:
        """Files became READY: look for them at once."""
        self._claim_at = float("-inf")

    def work(self, root_ids: Sequence[int]) -> None:
        """Write what is owed, then claim as many files of these roots as slots are idle. Never waits."""
        if self._clock() < self._try_at:
            return
        try:
            if self.away_since is not None:
                self._ledger.heartbeat()  # where a disk is full, reading works and shows nothing
            while self._owed:
                claim, write = self._owed[0]
                write()
                self._owed.popleft()
                self._assessing.pop(claim.file_id, None)
            if self._pool.idle and self._clock() >= self._claim_at:
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
        match event:
            case Read():
                self._waiting.append((claim, event.sha256))
                self._answer_waiting()
                return
            case Done():
                self._owed.append((claim, lambda: self._commit(claim, event.report)))
            case Fault():
                self._owed.append((claim, lambda: self._give_back(claim, event.error)))
            case Broke():
                self._owed.append((claim, lambda: self._fail(claim, event.error)))
        self._waiting = [(other, sha256) for other, sha256 in self._waiting if other != claim]
        self._claim_at = float("-inf")

    def renew(self) -> None:
        """Extend the leases of what the slots have in hand."""
        held = [one for one in self._pool.in_flight if isinstance(one, Claim)]
        if held and not self._owed:
            fenced = len(held) - len(self._ledger.renew(held))
            if fenced:
                _LOG.warning("lease_lost", extra={"fenced": fenced})

    def release(self, tickets: Sequence[_Ticket]) -> None:
        """Give back what will not be finished because the worker stops."""
        for ticket in tickets:
            if isinstance(ticket, Claim):
                self._ledger.give_back(ticket, "the worker stops")

    # ------------------------------------------------------------------ inside

    def _claim(self, root_ids: Sequence[int]) -> None:
        claims = self._take(root_ids, self._pool.idle) if root_ids else []
        if not claims:
            self._claim_at = self._clock() + (_LOOK_FOR_WORK_S / 4 if self._once else _LOOK_FOR_WORK_S)
        for claim in claims:
            self._pool.submit(claim, self._job(claim, preview=claim.attempts == 1 and not claim.alone))
        if not claims and self._shadow is not None:
            self._work_in_shadow(self._shadow, root_ids)

    def _work_in_shadow(self, shadow: Shadow, root_ids: Sequence[int]) -> None:
        # where there are several slots, one stays free for a film that comes meanwhile
        spare = max(self._pool.idle - 1, 0 if self._pool.in_flight else 1)
        for film in shadow.films(root_ids, spare):
            self._pool.submit(film, self._job(film, shadow=True))

    def _job(self, ticket: _Ticket, *, preview: bool = False, shadow: bool = False) -> Job:
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
        )

    def _hear_of_shadow(self, event: Any, film: ShadowFilm) -> None:
        if isinstance(event, Read):
            self._pool.answer(film, known=False)
            return
        if self._shadow is not None:
            self._shadow.hear(event)
        self._claim_at = float("-inf")

    def _answer_waiting(self) -> None:
        """Tell slots whether to assess; of two that hold the same bytes the second waits for the first one's commit."""
        waiting, self._waiting = self._waiting, []
        for claim, sha256 in waiting:
            if self.away_since is None and sha256 in self._assessing.values():
                self._waiting.append((claim, sha256))
                continue
            if self._is_forgotten(sha256):
                self._pool.answer(claim, known=False, forgotten=True)
                continue
            known = self._is_known(sha256)
            if not known:
                self._assessing[claim.file_id] = sha256
            self._pool.answer(claim, known=known)

    def _is_forgotten(self, sha256: str) -> bool:
        try:
            return self._ledger.is_forgotten(sha256)
        except DatabaseAway:
            return False  # the commit looks again

    def _is_known(self, sha256: str) -> bool:
        try:
            return self._ledger.assessment_exists(sha256, self._bundle.digest)
        except DatabaseAway:
            return False  # then it is assessed again, and the commit keeps the first answer

    def _commit(self, claim: Claim, report: Report) -> None:
        if self._may_be_unwritten(claim, report):
            return
        if report.code == FORGOTTEN and report.sha256 is not None:
            if not self._ledger.forget(claim, report.sha256):
                self._give_back(claim, EnvironmentFault("it was taken for a film that was purged, and is none"))
            return
        population = self._roots[claim.root_id].population
        facts = report.facts(population)
        error = None
        began = self._clock()
        try:
            if report.outcome is Outcome.UNREADABLE:
                error = named(report.code or "", report.reason, UnreadableError)
                kept = self._ledger.commit_unreadable(claim, error, facts)
            elif facts is None:
                raise ValueError("an outcome that needs bytes came without any")
            elif report.outcome is Outcome.REFUSED:
                code = RefusalCode(report.code or "")
                kept = self._ledger.commit_refused(claim, facts, self._bundle_id, code, report.reason)
            else:
                kept = self._ledger.commit_assessed(claim, facts, self._bundle_id, report.assessment())
        except LookupError:
            # the assessment that made a second one needless went away meanwhile
            self._give_back(claim, EnvironmentFault("the assessment of these bytes is no longer there"))
            return
        self._refusals.pop(claim.file_id, None)
        ended_with = error.code if error is not None else report.code
        if kept:
            self.done[report.outcome] += 1
            if self._meters is not None:
                self._meters.film_ended(claim, report, ended_with, self._clock() - began)
        extra = {
            "file_id": claim.file_id,
            "outcome": report.outcome.value if kept else "fenced",
            "code": ended_with,
            "ms": round(report.ms, 1),
        }
        if report.preview_dropped:
            extra["dropped"] = "preview"
        self._note_preview(claim, report)
        _LOG.info("file_done", extra=extra)
        _LOG.debug("file_done_at", extra={"file_id": claim.file_id, "path": claim.path})

    def _note_preview(self, claim: Claim, report: Report) -> None:
        """Say once that previews are dropped, and once that they are kept again; of a known content none is written."""
        dropped = report.preview_dropped
        if dropped == self.previews_dropped or not (dropped or (report.content is not None and claim.attempts == 1)):
            return
        self.previews_dropped = dropped
        if dropped:
            _LOG.warning("previews_dropped", extra={"file_id": claim.file_id})
        else:
            _LOG.info("previews_kept", extra={"file_id": claim.file_id})

    def _may_be_unwritten(self, claim: Claim, report: Report) -> bool:
        """Have a film whose pixels end in zeros settle for longer, and be read again; black borders exist."""
        tail_zero = report.content is not None and Caveat.TAIL_ZERO in report.content.pixel_caveats
        wait_s = TAIL_ZERO_SETTLE_S - claim.settled_for_s
        # longer than the whole: the database's clock was set back meanwhile
        if self._once or not tail_zero or not 0 < wait_s <= TAIL_ZERO_SETTLE_S:
            return False
        state = self._ledger.give_back(
            claim,
            "its pixels end in zeros: is it still being written? It settles for longer",
            retry_in_s=wait_s,
            was_read=True,
        )
        extra = {"file_id": claim.file_id, "code": Caveat.TAIL_ZERO.value, "delay_s": round(wait_s, 1)}
        _LOG.info("file_delayed", extra=extra | {"state": state.value if state else "fenced"})
        return True

    def _give_back(self, claim: Claim, error: EnvironmentFault) -> None:
        root = self._roots[claim.root_id]
        tries = self._refusals.get(claim.file_id, 0) + 1
        extra = {"file_id": claim.file_id, "code": error.code, "tries": tries}
        if len(self._refusals) >= _REFUSALS_KEPT:
            self._refusals.clear()  # they only stretch the delays
        self._refusals[claim.file_id] = tries
        of_this_version = isinstance(error, FileChanged | FileVanished)
        if self._once and not isinstance(error, ShareDown) and tries >= _ONCE_LOCKED_TRIES:
            self._ledger.quarantine(claim, error)
            state: FileState | None = FileState.QUARANTINED
        elif of_this_version and tries < _TRIES_AT_WORD:
            state = self._ledger.give_back(claim, error)
        else:
            delay_s = (
                _ONCE_LOCKED_S if self._once else min(_LOCKED_FIRST_S * 2 ** min(tries - 1, 10), _LOCKED_LONGEST_S)
            )
            state = self._ledger.give_back(claim, error, retry_in_s=delay_s)
            extra["delay_s"] = delay_s
        if of_this_version:
            root.look_again(claim.path)
        elif not isinstance(error, FileLocked):
            root.suspect()
        _LOG.info("file_delayed", extra=extra | {"state": state.value if state else "fenced"})

    def _fail(self, claim: Claim, error: SlotError) -> None:
        state = self._ledger.fail(claim, error)
        if self._meters is not None:
            self._meters.attempt_lost(error.code)
        extra = {
            "file_id": claim.file_id,
            "code": error.code,
            "attempts": claim.attempts,
            "why": str(error),
            "state": state.value if state else "fenced",
        }
        _LOG.warning("slot_lost", extra=extra)

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
