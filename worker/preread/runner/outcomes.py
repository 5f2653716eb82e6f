"""Write outcomes to the ledger: commit, retry later, count an attempt."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from preread.core.backoff import Backoff
from preread.core.errors import (
    DatabaseAway,
    EnvironmentFault,
    FileChanged,
    FileLocked,
    FileVanished,
    ShareDown,
    SlotDeadline,
    UnreadableError,
    UsageError,
    error_from_code,
)
from preread.core.types import FORGOTTEN, Caveat, FileState, Outcome, Population, RefusalCode
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim, Ending
from preread.model.bundles import Bundle
from preread.runner.child.protocol import Report
from preread.runner.pool import Done, Ended, Fault, Lost

if TYPE_CHECKING:
    from preread.runner.counters import Counters

_LOG = logging.getLogger(__name__)
MOST_TOGETHER = 32
"""Most outcomes that one transaction writes."""
_LOCKED_DELAY = Backoff(2.0, 300.0)
# Reports that a file changed or vanished are believed this often; then the share contradicts itself.
_TRIES_AT_WORD = 3
_ONCE_LOCKED_TRIES = 3
_ONCE_LOCKED_S = 0.5
_RETRY_S = 1.0
# A process that computed for this part of its deadline was not delayed by the machine: the file takes that long.
_BUSY = 0.8
_REFUSALS_KEPT = 10_000
_FENCED_KEPT = 1000
# A file that was given its full size at once looks complete while its end is still unwritten, and so all zero.
TAIL_ZERO_SETTLE_S = 60.0


@dataclass(frozen=True, slots=True)
class WatchedRoot:
    """Root of a run.

    Attributes:
        request_path_check: requests a look at one path.
        suspect: requests a check whether the share answers.
    """

    root_id: int
    path: bytes
    population: Population
    path_pattern: str | None
    request_path_check: Callable[[bytes], None]
    suspect: Callable[[], None]


@dataclass(frozen=True, slots=True)
class RunContext:
    """Constants of one run of the worker, or one shard of the fleet.

    Attributes:
        bundle: the bundle in use.
        bundle_id: its number in the ledger.
        roots: the folders, by their number in the ledger.
        once: the run ends: a file that is locked is quarantined after a few tries, since no later one will come.
        clock: monotonic seconds.
        counters: of this process; ``None`` where nobody reads them.
        preview_dir: where previews are kept; ``None`` keeps none.
    """

    ledger: Ledger
    bundle: Bundle
    bundle_id: int
    roots: Mapping[int, WatchedRoot]
    once: bool = False
    clock: Callable[[], float] = time.monotonic
    counters: Counters | None = None
    preview_dir: Path | None = None


class OutcomeWriter:
    """Writes the outcomes of files to the ledger.

    Args:
        deadline_s: seconds for which a file may hold its inference process.

    Attributes:
        done: number of files that ended, by outcome.
        previews_dropped: the last preview that was asked for could not be kept.
    """

    def __init__(self, run: RunContext, deadline_s: float) -> None:
        self.done = dict.fromkeys(Outcome, 0)
        self.previews_dropped = False
        self._run = run
        self._ledger = run.ledger
        self._deadline_s = deadline_s
        self._refusals: dict[int, int] = {}
        self._fenced: deque[tuple[int, str]] = deque(maxlen=_FENCED_KEPT)

    def write(self, events: Sequence[Ended[Claim]]) -> int:
        """Write the first outcomes, as many as one transaction takes.

        Returns:
            Number of outcomes that were written, 1 or more.

        Raises:
            DatabaseAway: none was written.
        """
        written = self._write(events)
        # after a failure the next one looks at it; what was written is not written again for this
        with contextlib.suppress(DatabaseAway):
            self._drop_previews()
        return written

    def _write(self, events: Sequence[Ended[Claim]]) -> int:
        plain = [event for event in islice(takewhile(self._is_plain, events), MOST_TOGETHER) if isinstance(event, Done)]
        if plain:
            return self._commit(plain)
        match events[0]:
            case Done(ticket=claim, report=report) if report.code == FORGOTTEN and report.sha256 is not None:
                if not self._ledger.discard_purged(claim, report.sha256):
                    self._give_back(
                        claim, EnvironmentFault("its content was taken for a purged one, and was not purged")
                    )
            case Done(ticket=claim, report=report):
                self._let_settle(claim, report)
            case Fault(ticket=claim, error=fault, late=late):
                self._give_back(claim, fault, held_slot=late)
            case Lost():
                self._fail(events[0])
        return 1

    # ------------------------------------------------------------------ commits

    def _is_plain(self, event: Done[Claim] | Fault[Claim] | Lost[Claim]) -> bool:
        return (
            isinstance(event, Done)
            and event.report.code != FORGOTTEN
            and not self._may_be_unwritten(event.ticket, event.report)
        )

    def _commit(self, events: Sequence[Done[Claim]]) -> int:
        endings = [self._ending(event.ticket, event.report) for event in events]
        began = self._run.clock()
        try:
            kept = self._ledger.commit(self._run.bundle_id, endings)
        except LookupError:
            if len(events) > 1:
                return self._commit(events[:1])
            # the assessment that made a second one needless went away meanwhile
            self._give_back(events[0].ticket, EnvironmentFault("the assessment of these bytes is no longer there"))
            return 1
        for event, ending, is_kept in zip(events, endings, kept, strict=True):
            self._note(event.ticket, event.report, ending.code, (self._run.clock() - began) / len(events), is_kept)
        return len(events)

    def _ending(self, claim: Claim, report: Report) -> Ending:
        facts = report.facts(self._run.roots[claim.root_id].population)
        if report.outcome is Outcome.UNREADABLE:
            error = error_from_code(report.code or "", report.reason, UnreadableError)
            return Ending(claim, report.outcome, facts, error.code, str(error))
        if report.outcome is Outcome.REFUSED:
            return Ending(claim, report.outcome, facts, RefusalCode(report.code or ""), report.reason)
        return Ending(claim, report.outcome, facts, content=report.assessment())

    def _note(self, claim: Claim, report: Report, code: str | None, commit_s: float, kept: bool) -> None:
        self._refusals.pop(claim.file_id, None)
        if kept:
            self.done[report.outcome] += 1
            if self._run.counters is not None:
                self._run.counters.file_ended(claim, report, code, commit_s)
        extra = {
            "file_id": claim.file_id,
            "outcome": report.outcome.value if kept else "fenced",
            "code": code,
            "ms": round(report.ms, 1),
        }
        if report.preview_dropped:
            extra["dropped"] = "preview"
        self._note_preview(claim, report)
        self._note_fenced(claim, report, fenced=not kept)
        _LOG.info("file_done", extra=extra)
        _LOG.debug("file_done_at", extra={"file_id": claim.file_id, "path": claim.path})

    def _note_preview(self, claim: Claim, report: Report) -> None:
        """Log once that previews are dropped, and once that they are kept again."""
        dropped = report.preview_dropped
        if dropped == self.previews_dropped or not (dropped or (report.content is not None and claim.attempts == 1)):
            return
        self.previews_dropped = dropped
        if dropped:
            _LOG.warning("previews_dropped", extra={"file_id": claim.file_id})
        else:
            _LOG.info("previews_kept", extra={"file_id": claim.file_id})

    def _note_fenced(self, claim: Claim, report: Report, *, fenced: bool) -> None:
        if fenced and self._run.preview_dir is not None and report.sha256 is not None:
            self._fenced.append((claim.file_id, report.sha256))

    def _drop_previews(self) -> None:
        """Delete previews of files that were purged while they were read.

        The purge did not know their content.
        """
        while self._fenced:
            file_id, sha256 = self._fenced[0]
            if self._ledger.preview_is_orphaned(file_id, sha256):
                from preread.imaging import previews  # not before: a worker draws none itself

                try:
                    previews.delete_preview(self._run.preview_dir, sha256)
                except UsageError:
                    _LOG.warning("preview_not_deleted", extra={"file_id": file_id})
            self._fenced.popleft()

    # ------------------------------------------------------------------ what is to be read again

    def _may_be_unwritten(self, claim: Claim, report: Report) -> bool:
        """Return whether a file whose pixels end in zeros may be incomplete.

        It is read again once it has been stable for a minute; black borders exist.
        """
        tail_zero = report.content is not None and Caveat.TAIL_ZERO in report.content.pixel_caveats
        # longer than the whole: the database's clock was set back meanwhile
        return not self._run.once and tail_zero and 0 < TAIL_ZERO_SETTLE_S - claim.settled_for_s <= TAIL_ZERO_SETTLE_S

    def _let_settle(self, claim: Claim, report: Report) -> None:
        wait_s = TAIL_ZERO_SETTLE_S - claim.settled_for_s
        state = self._ledger.give_back(
            claim,
            "its pixels end in zeros: is it still being written? It settles for longer",
            retry_in_s=wait_s,
            was_read=True,
        )
        self._note_fenced(claim, report, fenced=state is None)
        extra = {"file_id": claim.file_id, "code": Caveat.TAIL_ZERO.value, "delay_s": round(wait_s, 1)}
        _LOG.info("file_delayed", extra=extra | {"state": state.value if state else "fenced"})

    def _give_back(self, claim: Claim, error: EnvironmentFault, *, held_slot: bool = False) -> None:
        root = self._run.roots[claim.root_id]
        tries = self._refusals.get(claim.file_id, 0) + 1
        extra = {"file_id": claim.file_id, "code": error.code, "tries": tries}
        if len(self._refusals) >= _REFUSALS_KEPT:
            self._refusals.clear()  # they only stretch the delays
        self._refusals[claim.file_id] = tries
        of_this_version = isinstance(error, FileChanged | FileVanished)
        if self._run.once and not isinstance(error, ShareDown) and tries >= _ONCE_LOCKED_TRIES:
            self._ledger.quarantine(claim, error)
            state: FileState | None = FileState.QUARANTINED
        elif of_this_version and tries < _TRIES_AT_WORD:
            state = self._ledger.give_back(claim, error)
        else:
            delay_s = _ONCE_LOCKED_S if self._run.once else _LOCKED_DELAY.after(tries)
            state = self._ledger.give_back(claim, error, retry_in_s=delay_s, held_slot=held_slot)
            extra["delay_s"] = delay_s
        if of_this_version:
            root.request_path_check(claim.path)
        elif not isinstance(error, FileLocked):
            root.suspect()
        _LOG.info("file_delayed", extra=extra | {"state": state.value if state else "fenced"})

    def _fail(self, event: Lost[Claim]) -> None:
        claim, error = event.ticket, event.error
        retry_in_s, final = _RETRY_S, False
        if isinstance(error, SlotDeadline):
            if not self._run.once:
                retry_in_s = self._deadline_s  # its only other try: what keeps the machine busy may have passed by then
            final = event.computed_s >= _BUSY * self._deadline_s
        state = self._ledger.record_failure(claim, error, retry_in_s=retry_in_s, sha256=event.sha256, final=final)
        if self._run.counters is not None:
            self._run.counters.attempt_lost(error.code)
        extra = {
            "file_id": claim.file_id,
            "code": error.code,
            "attempts": claim.attempts,
            "why": str(error),
            "state": state.value if state else "fenced",
        }
        _LOG.warning("slot_lost", extra=extra)
