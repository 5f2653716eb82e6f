"""Run one shard of an archive, from its folder to committed outcomes.

A shard's entries are recorded in the ledger as backlog, looked at twice as ever, claimed by number and read by
inference processes. The ledger keeps everything: a shard that is run again, by two processes at once or after one of
them died, finds what is done already and does the rest.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, select

from preread.core.errors import ShareDown
from preread.core.signals import Timer
from preread.core.types import Outcome, Population
from preread.db import schema
from preread.db.engine import read
from preread.fleet.partition import Shard
from preread.fleet.shard_folder import ShardFolder, StablePeriods
from preread.ledger import archives
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim
from preread.model.bundles import Bundle
from preread.runner.loop import ReaderLoop, ShadowBundle
from preread.runner.outcomes import WatchedRoot
from preread.share.scanner import FileSystem, ScannedRoot, check_root_readable

_LOG = logging.getLogger(__name__)
_ROUNDS = 3
_TURN_S = 0.25
_CHECK_SHARE_EVERY_S = 5.0
# A share that is away for longer is another process's to try: perhaps it is not mounted here.
SHARE_PATIENCE_S = 300.0


class ShardStopped(Exception):
    """A signal stopped the shard; the next run goes on where it ended."""


@dataclass(frozen=True, slots=True)
class ShardJob:
    """Shard with its root and bundle.

    Attributes:
        root_id: number of the root in the ledger.
        digest: of the bundle that is to read it.
        again: files that have an outcome under another bundle are read again.
    """

    root_id: int
    digest: str
    again: bool
    shard: Shard


def run_shard(
    loop: ReaderLoop,
    job: ShardJob,
    bundle: Bundle,
    shadow: ShadowBundle | None = None,
    share_patience_s: float = SHARE_PATIENCE_S,
) -> dict[Outcome, int]:
    """Run one shard of an archive, on the main thread only.

    Args:
        loop: of this process.
        job: the shard.
        bundle: the bundle that the job names.
        shadow: a bundle in the shadow, which assesses the shard's files after the others; ``None`` for none.
        share_patience_s: seconds for which a share that is away is waited for.

    Returns:
        Number of files that ended here, by outcome.

    Raises:
        ShardStopped: a signal came.
        ShareDown: the root has been away for ``share_patience_s``.
        ScanIncomplete: folders in it could not be listed; what could be is done.
        BundleError, SlotCrashed: no inference process can start.
        DatabaseAway: see ``Ledger``.
    """
    return _OneShard(loop, job, bundle, shadow, share_patience_s).run()


class _OneShard:
    """The shard in hand."""

    def __init__(
        self,
        loop: ReaderLoop,
        job: ShardJob,
        bundle: Bundle,
        shadow: ShadowBundle | None,
        share_patience_s: float,
    ) -> None:
        ledger = loop.ledger
        row = read(ledger.engine, lambda connection: _root(connection, job.root_id))
        root = ScannedRoot(row.path, job.root_id, ledger, FileSystem())
        self._loop = loop
        self._job = job
        self._share = _ShareWatch(root, share_patience_s)
        self._folder = ShardFolder(
            root,
            job.shard,
            archives.shard_order_key(ledger.engine),
            StablePeriods(loop.options.settle_s, loop.options.network_settle_s),
            self._pause,
            # once a worker has counted what lay there, a file that the ledger does not know has just come: it is live
            backlog=row.counted_at is None,
        )
        replacing = ledger.register_bundle(**bundle.registration) if job.again else None
        self._claims = _ShardClaims(ledger, replacing)
        self._files: set[int] = set()
        watched = WatchedRoot(
            job.root_id, root.path, Population(row.population), row.path_pattern, lambda _: None, self._share.suspect
        )
        self._shadow = loop.begin(
            bundle, shadow, {job.root_id: watched}, once=True, source=self._claims, shadow_files=self._files
        )

    def run(self) -> dict[Outcome, int]:
        """See ``run_shard``."""
        folder = self._folder
        self._share.while_up(folder.take_in, self._pause)
        for _ in range(_ROUNDS):
            self._share.while_up(folder.settle, self._pause)
            self._read(folder.file_ids())
            folder.keep_unstable()
            if not folder.unstable:
                break
        if folder.unstable:
            # they are still being written: a worker that watches the root reads them, or the next backfill
            _LOG.warning("files_left_unsettled", extra={"count": folder.unstable, "root_id": self._job.root_id})
        if (fault := folder.fault()) is not None:
            raise fault
        return self._loop.dispatcher.outcomes.done

    def _pause(self, seconds: float) -> None:
        self._loop.rest(seconds)
        if self._loop.signals.count:
            raise ShardStopped

    def _read(self, file_ids: Sequence[int]) -> None:
        loop, dispatcher, shadow = self._loop, self._loop.dispatcher, self._shadow
        self._claims.add(file_ids)
        self._files.update(file_ids)
        if shadow is not None:
            shadow.exhausted = False
        while self._claims.left or not dispatcher.is_idle() or not (shadow is None or shadow.exhausted):
            loop.turn(_TURN_S)
            if loop.signals.count:
                loop.drain()
                raise ShardStopped
            dispatcher.work([self._job.root_id] if loop.pool.ever_ready and self._share.is_up() else ())
            loop.keep_up()


class _ShardClaims:
    """Claims the files of a shard by their numbers.

    Args:
        replacing: number of the bundle whose results are to take the place of others; ``None``: files without one.
    """

    def __init__(self, ledger: Ledger, replacing: int | None) -> None:
        self._ledger = ledger
        self._replacing = replacing
        self._pending: deque[int] = deque()
        self._asked: set[int] = set()
        self._ask_again_at = 0.0

    @property
    def left(self) -> bool:
        """Whether files are still to be claimed, or somebody else has them."""
        return bool(self._pending or self._asked)

    def add(self, file_ids: Collection[int]) -> None:
        """Take in those of these files that are pending."""
        self._pending = deque(sorted(self._ledger.find_pending(file_ids, self._replacing)))

    def claim(self, _root_ids: Sequence[int], limit: int, held: Sequence[Claim]) -> list[Claim]:
        """Claim the next files; files of other processes are tried again."""
        if not self._pending and self._asked and time.monotonic() >= self._ask_again_at:
            in_hand = {claim.file_id for claim in held}
            self._pending = deque(sorted(self._ledger.find_pending(self._asked, self._replacing) - in_hand))
            self._asked &= in_hand
            self._ask_again_at = time.monotonic() + _TURN_S
        chosen = [self._pending.popleft() for _ in range(min(limit, len(self._pending)))]
        if not chosen:
            return []
        # before the ledger is asked: if its answer is lost they stay here, to be claimed again
        self._asked.update(chosen)
        return self._ledger.claim_by_id(chosen, self._replacing)

    def attempt_lost(self) -> None:
        """Change nothing: the order of a shard does not depend on failures."""


class _ShareWatch:
    """Whether the share of a shard answers.

    Args:
        patience_s: seconds for which a share that is away is waited for.
    """

    def __init__(self, root: ScannedRoot, patience_s: float) -> None:
        self._root = root
        self._patience_s = patience_s
        self._suspected = False
        self._down_since: float | None = None
        self._check = Timer(_CHECK_SHARE_EVERY_S)

    def suspect(self) -> None:
        """Check the share before the next claim."""
        self._suspected = True

    def is_up(self) -> bool:
        """Return whether the share may be read; check a suspected one at times.

        Raises:
            ShareDown: it has been away for longer than ``patience_s``.
        """
        if self._suspected and self._check.due(time.monotonic()):
            try:
                check_root_readable(self._root.system, self._root.path)
            except ShareDown as error:
                self._note_down(error)
            else:
                self._suspected, self._down_since = False, None
        return not self._suspected

    def while_up(self, step: Callable[[], None], pause: Callable[[float], None]) -> None:
        """Do a step, again while the share is away.

        Raises:
            ShareDown: it has been away for longer than ``patience_s``.
        """
        while True:
            try:
                step()
            except ShareDown as error:
                self._note_down(error)
                pause(_TURN_S)
            else:
                self._down_since = None
                return

    def _note_down(self, error: ShareDown) -> None:
        now = time.monotonic()
        if self._down_since is None:
            self._down_since = now
            _LOG.warning("share_down", extra={"code": error.code, "root_id": self._root.root_id})
        elif now - self._down_since > self._patience_s:
            raise error


def _root(connection: Connection, root_id: int) -> Row[tuple[object, ...]]:
    return connection.execute(select(schema.root).where(schema.root.c.id == root_id)).one()
