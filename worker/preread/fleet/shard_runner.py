"""One shard's films, from the folder to their outcomes: what a job of the fleet does.

A shard's entries are told to the ledger as backlog, looked at twice as ever, claimed by number and read by slots. The
ledger keeps everything: a shard that is done again, by two processes at once or after one of them died, finds what is
done already and does the rest.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, select

from preread.core.errors import ShareDown
from preread.core.signals import Signals, Timer, WakePipe
from preread.core.types import FileState, Outcome, Population
from preread.db import schema
from preread.db.engine import read
from preread.fleet import partition as shards
from preread.fleet.partition import Shard
from preread.ledger import archives as batches
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim
from preread.model.bundles import Bundle
from preread.runner import pool as slots
from preread.runner.child.protocol import Setup
from preread.runner.dispatcher import Dispatcher
from preread.runner.heartbeat import Housekeeping
from preread.runner.outcomes import WatchedRoot
from preread.runner.pool import SlotPool
from preread.runner.service import RunOptions, preview_place, slot_setup
from preread.runner.shadow import Shadow
from preread.share.absence import Absence
from preread.share.recorder import Teller
from preread.share.scanner import GONE_ERRNOS, FileSystem, Listing, Look, check_root, look_at_entries, look_at_path
from preread.share.stability import Settling

if TYPE_CHECKING:
    from preread.runner.counters import Meters

_LOG = logging.getLogger(__name__)
_BATCH = 500
_ROUNDS = 3
_LOOK_UP_S = 0.25
_LOOK_AT_SHARE_S = 5.0
# A share that is away for longer is another process's to try: perhaps it is not mounted here.
SHARE_PATIENCE_S = 300.0
_DRAIN_SLACK_S = 30.0


class ShardStopped(Exception):
    """The process was told to stop before the shard was done; the next one goes on where it ended."""


@dataclass(frozen=True, slots=True)
class ShardJob:
    """What a job names.

    Attributes:
        root_id: of the ledger.
        digest: of the bundle that is to read it.
        again: films that have an outcome under another bundle are read again.
    """

    root_id: int
    digest: str
    again: bool
    shard: Shard


class ShardWork:
    """Does shards, one after the other, with slots of its own. For the main thread.

    Args:
        ledger: of this process.
        signals: the first one has the films in hand finished, the second one has them given back.
        share_patience_s: for so long a share that is away is waited for.
        slot_command: the slots' program; tests give another.
        meters: count what ends; ``None`` where nobody asks.
    """

    def __init__(
        self,
        ledger: Ledger,
        options: RunOptions,
        wake: WakePipe,
        signals: Signals,
        *,
        share_patience_s: float = SHARE_PATIENCE_S,
        slot_command: Sequence[str] = slots.COMMAND,
        meters: Meters | None = None,
    ) -> None:
        self._ledger = ledger
        self._options = options
        self.meters = meters
        self._wake = wake
        self._signals = signals
        self._share_patience_s = share_patience_s
        self._slot_command = slot_command
        self._pool: SlotPool[Any] | None = None
        self._setup: Setup | None = None
        self._deaths = 0  # of slots in earlier pools
        self._house = Housekeeping(ledger)

    def do(self, job: ShardJob, bundle: Bundle, shadow: tuple[Bundle, datetime] | None = None) -> dict[Outcome, int]:
        """Do one shard; return how many films ended here, by outcome.

        Args:
            shadow: a bundle that works in the shadow, and since when: it assesses the shard's films after the others.

        Raises:
            ShardStopped: a signal came.
            ShareDown: the root has been away for ``share_patience_s``.
            ScanIncomplete: folders in it could not be listed; what could be is done.
            BundleError, SlotCrashed: no slot can start.
            DatabaseAway: see ``Ledger``.
        """
        pool = self._pool_for(bundle, shadow)
        return _OneShard(self, self._ledger, self._options, job, pool, bundle, shadow).done()

    def rest(self) -> None:
        """Between two shards: say that this process lives, and keep its slots going."""
        if self._pool is not None:
            self._pool.poll(0.0)
        self.keep_house(None)

    def close(self) -> None:
        """End the slots."""
        if self._pool is not None:
            self._deaths += self._pool.deaths
            self._pool.close()
            self._pool = None

    # ------------------------------------------------------------------ for the shard in hand

    @property
    def stopping(self) -> int:
        """How many signals came."""
        return self._signals.count

    @property
    def share_patience_s(self) -> float:
        """For how long a share that is away is waited for."""
        return self._share_patience_s

    def keep_house(self, dispatcher: Dispatcher | None) -> None:
        """See ``Housekeeping.keep``."""
        if self.meters is not None and self._pool is not None:
            deaths = self._deaths + self._pool.deaths
            self.meters.note_slots(self._options.slots, self._pool.alive, deaths)
        self._house.keep(dispatcher)

    def clear_wake(self) -> None:
        """Take note of a wake-up."""
        self._wake.clear()

    def _pool_for(self, bundle: Bundle, shadow: tuple[Bundle, datetime] | None) -> SlotPool[Any]:
        setup = slot_setup(bundle, self._options, shadow[0] if shadow else None)
        if self._pool is None or self._setup != setup:
            self.close()
            self._setup = setup
            self._pool = SlotPool(
                setup,
                count=self._options.slots,
                deadline_s=self._options.deadline_s,
                command=self._slot_command,
                place=preview_place(self._options),
            )
            self._pool.wake_on(self._wake.fd)
            if self.meters is not None:
                self.meters.note_bundle(bundle.label, bundle.digest)
        return self._pool


class _OneShard:
    """The shard in hand."""

    def __init__(
        self,
        work: ShardWork,
        ledger: Ledger,
        options: RunOptions,
        job: ShardJob,
        pool: SlotPool[Any],
        bundle: Bundle,
        shadow: tuple[Bundle, datetime] | None,
    ) -> None:
        self._work = work
        self._ledger = ledger
        self._options = options
        self._job = job
        self._pool = pool
        root = read(ledger.engine, lambda connection: _root(connection, job.root_id))
        self._root: bytes = root.path
        self._order_key = batches.order_key(ledger.engine)
        # once a worker has taken in what lay there, whatever the ledger does not know has just come: it is live
        self._backlog = root.counted_at is None
        bundle_id = ledger.register_bundle(**bundle.registration)
        self._replacing = bundle_id if job.again else None
        self._shadow: Shadow | None = None
        self._films: set[int] = set()
        if shadow is not None:
            shadow_id = ledger.register_bundle(**shadow[0].registration)
            self._shadow = Shadow(ledger.engine, bundle_id, shadow_id, shadow[1], within=self._films)
        watched = WatchedRoot(
            job.root_id, root.path, Population(root.population), root.path_pattern, lambda _: None, self._suspect
        )
        self._dispatcher = Dispatcher(
            ledger,
            pool,
            bundle,
            bundle_id,
            {job.root_id: watched},
            once=True,
            clock=time.monotonic,
            shadow=self._shadow,
            claim=self._claim,
            meters=work.meters,
            preview_dir=options.preview_dir,
        )
        self._system = FileSystem()
        absence = Absence(self._system, root.path, job.root_id, ledger)
        self._teller = Teller(job.root_id, ledger, absence, lambda: None, lambda: datetime.now(UTC), judge_empty=True)
        self._paths: list[bytes] = []
        self._listing = Listing()
        self._todo: deque[int] = deque()
        self._waiting: set[int] = set()
        self._ask_again_at = 0.0
        self._suspected = False
        self._down_since: float | None = None
        self._look_at_share = Timer(_LOOK_AT_SHARE_S)

    def done(self) -> dict[Outcome, int]:
        """See ``ShardWork.do``."""
        self._while_up(self._take_in)
        for _ in range(_ROUNDS):
            self._while_up(self._settle)
            versions = self._ledger.known(self._job.root_id, self._paths)
            self._read([version.file_id for version in versions.values()])
            versions = self._ledger.known(self._job.root_id, self._paths)
            self._paths = [path for path, version in versions.items() if version.state is FileState.SETTLING]
            if not self._paths:
                break
        if self._paths:
            # they are still being written: whoever watches the root reads them, or the next backfill
            _LOG.warning("files_left_unsettled", extra={"count": len(self._paths), "root_id": self._job.root_id})
        if (fault := self._listing.fault()) is not None:
            raise fault
        return self._dispatcher.endings.done

    # ------------------------------------------------------------------ the folder

    def _take_in(self) -> None:
        network = self._system.network(self._root)
        settle_s = self._options.settle_s if network is None else self._options.network_settle_s
        self._teller.settling = Settling(settle_s, capacity=4 * shards.MAX_FILES)
        self._listing, self._paths = Listing(), []
        entries = shards.walk(self._system, self._root, self._job.shard, self._listing, self._order_key)
        while batch := list(islice(entries, _BATCH)):
            looks = look_at_entries(self._system, batch, self._listing)
            self._teller.tell(time.monotonic(), looks, backlog=self._backlog)
            self._paths += [look.observation.path for look in looks if look.rule is None]
            self._between()

    def _settle(self) -> None:
        """Look again at what is new, until it stands still or shows that it does not."""
        settling = self._teller.settling
        give_up_at = time.monotonic() + 2 * self._options.network_settle_s + 1.0
        versions = self._ledger.known(self._job.root_id, self._paths)
        unsettled = {path for path, version in versions.items() if version.state is FileState.SETTLING}
        self._tell_of(path for path in unsettled if path not in settling)
        while (at := settling.next_at()) is not None and time.monotonic() < give_up_at:
            if (wait_s := at - time.monotonic()) > 0:
                self._pool.poll(min(wait_s, _LOOK_UP_S))
            else:
                self._tell_of(settling.due(time.monotonic(), _BATCH))
            self._between()

    def _tell_of(self, paths: Iterator[bytes] | Sequence[bytes]) -> None:
        looks: list[Look] = []
        for path in paths:
            try:
                look = look_at_path(self._system, self._root, path)
            except OSError as error:
                if error.errno in GONE_ERRNOS:
                    self._teller.settling.forget(path)
                else:
                    check_root(self._system, self._root)
                    self._teller.settling.put_off(path, time.monotonic())
                continue
            if look is None:
                self._teller.settling.forget(path)
            else:
                looks.append(look)
        if looks:
            self._teller.tell(time.monotonic(), looks, backlog=self._backlog)

    def _while_up(self, step: Callable[[], None]) -> None:
        """Do a step again while the share is away."""
        while True:
            try:
                step()
            except ShareDown as error:
                self._note_down(error)
                self._pool.poll(_LOOK_UP_S)
                self._between()
            else:
                self._down_since = None
                return

    def _suspect(self) -> None:
        self._suspected = True

    def _is_up(self) -> bool:
        if self._suspected and self._look_at_share.due(time.monotonic()):
            try:
                check_root(self._system, self._root)
            except ShareDown as error:
                self._note_down(error)
            else:
                self._suspected, self._down_since = False, None
        return not self._suspected

    def _note_down(self, error: ShareDown) -> None:
        now = time.monotonic()
        if self._down_since is None:
            self._down_since = now
            _LOG.warning("share_down", extra={"code": error.code, "root_id": self._job.root_id})
        elif now - self._down_since > self._work.share_patience_s:
            raise error

    def _between(self) -> None:
        self._work.clear_wake()
        self._work.keep_house(None)
        if self._work.stopping:
            raise ShardStopped

    # ------------------------------------------------------------------ the films

    def _read(self, file_ids: Sequence[int]) -> None:
        self._todo = deque(sorted(self._ledger.owed_of(file_ids, self._replacing)))
        self._films.update(file_ids)
        dispatcher, shadow = self._dispatcher, self._shadow
        if shadow is not None:
            shadow.exhausted = False
        while self._todo or self._waiting or not dispatcher.is_idle() or not (shadow is None or shadow.exhausted):
            self._turn(dispatcher.next_at())
            if self._work.stopping:
                self._drain()
                raise ShardStopped
            up = self._pool.ever_ready and self._is_up()
            dispatcher.work([self._job.root_id] if up else ())
            self._work.keep_house(dispatcher)

    def _turn(self, next_at: float) -> None:
        wait_s = min(_LOOK_UP_S, max(0.0, next_at - time.monotonic()))
        for event in self._pool.poll(wait_s):
            self._dispatcher.hear(event)
        self._work.clear_wake()

    def _claim(self, _root_ids: Sequence[int], limit: int) -> list[Claim]:
        """Claim the next films; whoever has those that cannot be claimed is asked again until nobody does."""
        if not self._todo and self._waiting and time.monotonic() >= self._ask_again_at:
            held = {claim.file_id for claim in self._dispatcher.held}
            self._todo = deque(sorted(self._ledger.owed_of(self._waiting, self._replacing) - held))
            self._waiting &= held
            self._ask_again_at = time.monotonic() + _LOOK_UP_S
        chosen = [self._todo.popleft() for _ in range(min(limit, len(self._todo)))]
        if not chosen:
            return []
        # before it is asked for: an answer that is lost leaves them here, to be asked for again
        self._waiting.update(chosen)
        return self._ledger.claim_these(chosen, self._replacing)

    def _drain(self) -> None:
        """Let the slots finish, and write what they found."""
        dispatcher = self._dispatcher
        give_up_at = time.monotonic() + self._options.deadline_s + _DRAIN_SLACK_S
        while not dispatcher.is_idle() and self._work.stopping < 2 and time.monotonic() < give_up_at:
            self._turn(dispatcher.next_at())
            dispatcher.work(())
            self._work.keep_house(dispatcher)
        if not dispatcher.is_idle():
            dispatcher.release(self._pool.abandon())


def _root(connection: Connection, root_id: int) -> Row[tuple[object, ...]]:
    return connection.execute(select(schema.root).where(schema.root.c.id == root_id)).one()
