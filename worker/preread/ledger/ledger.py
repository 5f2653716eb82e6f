"""The ledger: what exists, what is owed, who has it, how it ended. Every change of a version's state is a verb here.

::

    observe ──► SETTLING ── settle ──► READY ── claim ──► CLAIMED ── commit ──► DONE
                  ▲  │                  ▲ ▲                 │ │ └─ commit (unreadable), last fail ──► QUARANTINED(code)
                  │  └ quarantine_empty │ └── give_back ────┤ └─── fail, give_back(retry_in_s) ► RETRY(retry_at) ► READY
                  └── give_back(FileChanged)                └ recover_interrupted ──► READY (attempt refunded)

    absent:  SETTLING, READY, RETRY ──► MISSED;  with an outcome ──► VANISHED (it is kept)
    register_root: DONE, refused for age or view under another declaration ──► READY
    reopen:  QUARANTINED, DONE, RETRY ──► READY;  QUARANTINED('locked' and the like), seen with other rights ──► READY
    ignore:  nothing, SETTLING, READY ──► IGNORED(rule);  purged (forget): any state ──► IGNORED('forgotten')
    observe with a new size or mtime: a new version; the older becomes SUPERSEDED when the newer settles

Each verb is one transaction, guarded by the expected state (and epoch), that appends a row to ``transition`` for each
move. A verb may be repeated safely: when the answer to a commit was lost, it looks by id and epoch at what became of it
before it tries again. Leases run on the database's clock. Every verb raises ``DatabaseAway`` when the database does not
answer within its bounded retries; then nothing, or everything, of that verb was committed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection, Engine

from preread.core.errors import EnvironmentFault, PrereadError, SlotError, UnreadableError
from preread.core.types import FileState, Outcome, Population, RefusalCode
from preread.db.engine import database_now, new_token, read, write
from preread.ledger import claims, commits, discovery, shard_claims, workers
from preread.ledger import failing_sources as failing
from preread.ledger import registry as roots
from preread.ledger import tombstones as forgetting
from preread.ledger.failing_sources import Source
from preread.ledger.records import Claim, ContentAssessment, Ending, FileFacts, Observation, Pulse, Version

__all__ = ["Claim", "ContentAssessment", "Ending", "FileFacts", "Ledger", "Observation", "Version"]

T = TypeVar("T")


class Ledger:
    """The verbs of one worker on one database. Safe to share between threads; not across a fork.

    Args:
        engine: from ``engine.open_engine``, its schema up to date.
        worker_id: unique to this run of this process (e.g. host, process id and start time).
        lease_s: how long a claim holds without ``renew``; longer than the deadline of one file.
        clock: the database's clock as an aware UTC datetime; tests give another.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        worker_id: str,
        lease_s: float,
        clock: Callable[[Connection], datetime] = database_now,
    ) -> None:
        self.engine = engine
        self.worker_id = worker_id
        self.lease_s = lease_s
        self._clock = clock

    # ------------------------------------------------------------------ roots, bundles, workers

    def register_root(
        self, path: bytes, *, population: Population = Population.UNDECLARED, path_pattern: str | None = None
    ) -> int:
        """Make the root known (or renew what it declares) and return its id. ``path`` is absolute, ``os.fsencode``d.

        Newest versions that were refused for their age or view under another declaration become READY, to be judged
        anew. What was assessed stands, with the declaration under which it was.
        """

        def register(connection: Connection, _again: bool) -> int:
            now = self._clock(connection)
            claims.reopen_refused(connection, now, path, population, path_pattern)
            return roots.register_root(connection, now, path, population, path_pattern)

        return self._write(register)

    def register_bundle(self, *, name: str, version: str, digest: str, manifest: str = "{}") -> int:
        """Make the bundle known, return its id. ``digest``: sha256 hex of its manifest; ``manifest``: its JSON text.

        Raises:
            BundleWithdrawn: it was withdrawn, and assesses nothing any more.
        """
        return self._write(lambda c, _: commits.register_bundle(c, self._clock(c), name, version, digest, manifest))

    def heartbeat(self, pulse: Pulse | None = None) -> None:
        """Say that this worker lives, and how: its claims are recovered when it dies, and ``status`` tells of it."""
        self._write(lambda c, _: workers.heartbeat(c, self._clock(c), self.worker_id, pulse))

    def stop(self) -> None:
        """Say that this worker ends in good order. Claims that it still holds become recoverable at once."""
        self._write(lambda c, _: workers.stop(c, self._clock(c), self.worker_id))

    def scan_started(self, root_id: int) -> bool:
        """Note that a full scan of the root began; return whether it is to take in what lay there before."""
        return self._write(lambda c, _: roots.scan_started(c, self._clock(c), root_id))

    def existing_counted(self, root_id: int) -> None:
        """Note that what lay in the root before was taken in: what a later scan finds is new, wherever it lies."""
        self._write(lambda c, _: roots.existing_counted(c, self._clock(c), root_id))

    def scan_completed(self, root_id: int, *, files_seen: int = 0) -> None:
        """Note that a full scan of the root listed every directory."""
        self._write(lambda c, _: roots.scan_completed(c, self._clock(c), root_id, files_seen))

    # ------------------------------------------------------------------ discovery

    def known(self, root_id: int, paths: Iterable[bytes]) -> dict[bytes, Version]:
        """Return the newest version of each path that the ledger knows; unknown paths are left out."""
        return read(self.engine, lambda c: discovery.known(c, root_id, list(paths)))

    def live_paths(self, root_id: int, *, after_file_id: int = 0, limit: int = 1000) -> list[tuple[int, bytes]]:
        """Return one page of ``(file_id, path)`` that a complete scan should have met, by rising id.

        Those are newest versions, not IGNORED, MISSED or VANISHED. Go on with the last id until a page is empty.
        """
        return read(self.engine, lambda c: discovery.live_paths(c, root_id, after_file_id, limit))

    def unsettled(self, root_id: int, *, after_file_id: int = 0, limit: int = 500) -> list[tuple[int, bytes]]:
        """Return one page of ``(file_id, path)`` of what is SETTLING, by rising id; go on with the last id."""
        return read(self.engine, lambda c: discovery.unsettled(c, root_id, after_file_id, limit))

    def observe(
        self, root_id: int, observations: Iterable[Observation], *, backlog: bool = False
    ) -> dict[bytes, Version]:
        """Tell what was seen; return the newest version of each path afterwards.

        A path with a new size or mtime gets a new version, SETTLING (a version that was itself still SETTLING is
        changed in place, so that a growing file is one row). MISSED and IGNORED versions seen again settle again; a
        VANISHED one gets back the state of its outcome. Telling the same again changes nothing.

        Args:
            backlog: the root's first scan met them: paths that are new to the ledger lay there before, and are claimed
                after live films. ``False`` makes backlog that still waits (SETTLING, READY) live.
        """
        batch = list(observations)
        return self._write(lambda c, _: discovery.observe(c, self._clock(c), root_id, batch, backlog))

    def settle(self, versions: Iterable[Version]) -> int:
        """SETTLING to READY for the versions that still have this size and mtime; return how many.

        Every other version of those paths becomes SUPERSEDED; a slot that still reads one is fenced.
        """
        batch = list(versions)
        return self._write(lambda c, _: discovery.settle(c, self._clock(c), batch))

    def quarantine_empty(self, versions: Iterable[Version]) -> int:
        """SETTLING to QUARANTINED('empty') for the versions without bytes; return how many.

        When it is time for that is the inbox's to say: after 24 h, or at once where a run ends (``--once``).
        """
        batch = list(versions)
        return self._write(lambda c, _: discovery.quarantine_empty(c, self._clock(c), batch))

    def ignore(self, root_id: int, observations: Iterable[Observation], rule: str) -> int:
        """Note entries that a rule leaves out (``rule`` is its code, e.g. ``not_regular``); return how many are new."""
        batch = list(observations)
        return self._write(lambda c, _: discovery.ignore(c, self._clock(c), root_id, batch, rule))

    def absent(self, root_id: int, paths: Iterable[bytes]) -> int:
        """Note paths that complete scans no longer met; return how many versions moved. Nothing is deleted.

        What was never read becomes MISSED, what has an outcome VANISHED. Claimed ones are left alone.
        """
        batch = list(paths)
        return self._write(lambda c, _: discovery.absent(c, self._clock(c), root_id, batch))

    def reopen(
        self, file_ids: Collection[int], why: str, *, states: Collection[FileState] = (FileState.QUARANTINED,)
    ) -> int:
        """READY again, from one of these states, with a fresh start (no attempts, no interruptions); return how many.

        Only the newest version of a path is. The outcome that it has stands until the next one is committed, and is
        kept as a past one then.
        """
        batch = list(file_ids)
        return self._write(lambda c, _: claims.reopen(c, self._clock(c), batch, why, tuple(states)))

    def acknowledge_missed(self, file_ids: Collection[int], why: str) -> int:
        """Note that a person knows of these MISSED versions: they stay listed, and alarm no more; return how many."""
        batch = list(file_ids)
        return self._write(lambda c, _: claims.acknowledge_missed(c, self._clock(c), batch, why))

    def reopen_code(self, root_ids: Sequence[int], code: str, why: str) -> int:
        """Like ``reopen``, for the newest versions that are QUARANTINED with this code, e.g. ``locked`` at a start."""
        return self._write(lambda c, _: claims.reopen_code(c, self._clock(c), list(root_ids), code, why))

    # ------------------------------------------------------------------ claims

    def claim(
        self,
        root_ids: Sequence[int],
        limit: int,
        *,
        sources: Sequence[Source] = (),
        behind_limit: int | None = None,
    ) -> list[Claim]:
        """Take up to ``limit`` READY versions, live before backlog, newest first; committed before it returns.

        Each gets attempts + 1, epoch + 1 and a lease. RETRY versions whose time has come are READY first. No two claims
        of one version are ever live at once, in whatever process or on whatever machine. See ``Claim.alone``.

        Args:
            sources: what lies in these comes after the others of its lane, however new; after those what failed itself.
            behind_limit: how many that come after others to take at most; ``None``: ``limit``.
        """
        token, last = new_token(), list(sources)
        return self._write(
            lambda c, again: claims.claim(
                c, self._clock(c), self.worker_id, self.lease_s, list(root_ids), limit, last, behind_limit, token, again
            )
        )

    def failing_sources(self, root_ids: Sequence[int]) -> list[Source]:
        """Return the folders whose files lately ended their inference process, or held it until its deadline, often.

        None where every folder of these roots that files came from is such a one.
        """
        batch = list(root_ids)
        return read(self.engine, lambda c: failing.failing_sources(c, self._clock(c), batch))

    def claim_these(self, file_ids: Sequence[int], bundle_id: int | None = None) -> list[Claim]:
        """Take of these versions those that are READY, or RETRY and due, whatever their lane; see ``claim``.

        Args:
            bundle_id: also those that are DONE under another bundle; their outcome stands until the next is committed.
        """
        token, batch = new_token(), list(file_ids)
        return self._write(
            lambda c, again: shard_claims.claim_these(
                c, self._clock(c), self.worker_id, self.lease_s, batch, bundle_id, token, again
            )
        )

    def owed_of(self, file_ids: Collection[int], bundle_id: int | None = None) -> set[int]:
        """Return which of these versions are READY, CLAIMED or RETRY, or would be claimed for this bundle."""
        batch = sorted(file_ids)
        return read(self.engine, lambda c: shard_claims.owed_of(c, batch, bundle_id))

    def renew(self, batch: Collection[Claim]) -> set[int]:
        """Extend the leases; return the file ids that are still these claims'. The others were fenced: drop them."""
        held = list(batch)
        return self._write(lambda c, _: claims.renew(c, self._clock(c), self.lease_s, held))

    def give_back(
        self,
        claim: Claim,
        why: EnvironmentFault | str,
        *,
        retry_in_s: float = 0.0,
        was_read: bool = False,
        held_slot: bool = False,
    ) -> FileState | None:
        """Give up a claim for which the file is not to blame; its attempt is refunded.

        The new state: READY, or RETRY when ``retry_in_s`` is above 0; without it ``FileChanged`` SETTLING and
        ``FileVanished`` MISSED. A version that nothing but such errors has met for 24 h is QUARANTINED with the last
        one's code; ``was_read`` (its bytes were) begins a new day, and ``ShareDown``, which is no file's own. Whatever
        the error, SUPERSEDED when a newer version of the path is known. A plain ``str`` is the reason, e.g. ``"the
        worker stops"``, and says nothing of the file. ``held_slot``: until the deadline; the version comes after others
        then.

        Returns:
            The new state; ``None`` when the claim was fenced.
        """
        return self._write(
            lambda c, again: claims.give_back(c, self._clock(c), claim, why, retry_in_s, was_read, held_slot, again)
        )

    def fail(
        self,
        claim: Claim,
        error: SlotError,
        *,
        retry_in_s: float = 1.0,
        sha256: str | None = None,
        final: bool = False,
    ) -> FileState | None:
        """Note that the slot died while this worker lived: the attempt stays counted.

        Args:
            sha256: of what it had in hand, where that is known.
            final: another try would end alike.

        Returns:
            RETRY (due in ``retry_in_s``); QUARANTINED(code) if ``final``, at the third attempt, and at the second
            deadline of the version or of the content; ``None`` when the claim was fenced.
        """
        return self._write(
            lambda c, again: claims.fail(c, self._clock(c), claim, error, retry_in_s, sha256, final, again)
        )

    def quarantine(self, claim: Claim, error: PrereadError) -> bool:
        """Set a claimed version aside for a person to look at, at once, with the error's code; ``False`` when fenced.

        For what would else be tried again, where no later try will come: a locked file when ``--once`` ends.
        """
        return self._write(lambda c, again: claims.quarantine(c, self._clock(c), claim, error, again))

    def recover_interrupted(self) -> int:
        """Give back claims of workers that died on this host, that stopped, or whose lease ran out; return how many.

        READY, interruptions + 1, attempt refunded. After three interruptions a version runs alone, and then its
        attempts stay counted: the third such death quarantines it as ``slot_crashed``. Call it at start and every few
        seconds.
        """
        return self._write(lambda c, _: claims.recover_interrupted(c, self._clock(c)))

    # ------------------------------------------------------------------ commits

    def what_is_known(self, sha256: str, bundle_digest: str) -> tuple[bool, bool]:
        """Tell of some bytes whether they were assessed with this bundle, and whether films with them were purged.

        Of what was assessed header and gate suffice; of what was purged nothing more is looked at or kept.
        """
        return read(self.engine, lambda c: commits.what_is_known(c, sha256, bundle_digest))

    def forget(self, claim: Claim, sha256: str) -> bool:
        """IGNORED('forgotten'): the version holds bytes that were purged; ``False`` when it does not, or was fenced."""
        return self._write(lambda c, _: commits.forget_again(c, self._clock(c), claim, sha256))

    def is_left_behind(self, file_id: int, sha256: str) -> bool:
        """Tell whether this version was purged and no film holds these bytes: what a slot wrote of them is to go."""
        return read(self.engine, lambda c: forgetting.is_left_behind(c, file_id, sha256))

    def commit(self, bundle_id: int, endings: Sequence[Ending]) -> list[bool]:
        """DONE or QUARANTINED(code): the outcomes of some claims, all of them in one transaction.

        Instance, assessment and findings are written once for each content and bundle: when another worker committed
        the same content meanwhile, theirs is kept and this one is linked to it.

        Args:
            bundle_id: what the films were read with.
            endings: of different claims; some dozen at most.

        Returns:
            Of each whether it was written: ``False`` where the claim was fenced, or the film purged meanwhile.

        Raises:
            LookupError: one comes without content, and there is no such assessment; then nothing was written.
        """
        return self._write(lambda c, again: commits.commit(c, self._clock(c), bundle_id, endings, again))

    def commit_assessed(
        self, claim: Claim, facts: FileFacts, bundle_id: int, content: ContentAssessment | None = None
    ) -> bool:
        """DONE, assessed; see ``commit``. ``content``: ``None`` where ``what_is_known`` said so."""
        return self.commit(bundle_id, [Ending(claim, Outcome.ASSESSED, facts, content=content)])[0]

    def commit_refused(self, claim: Claim, facts: FileFacts, bundle_id: int, code: RefusalCode, reason: str) -> bool:
        """DONE, refused, with its code and reason; see ``commit``."""
        return self.commit(bundle_id, [Ending(claim, Outcome.REFUSED, facts, code, reason)])[0]

    def commit_unreadable(self, claim: Claim, error: UnreadableError, facts: FileFacts | None = None) -> bool:
        """QUARANTINED(error.code), unreadable; see ``commit``.

        ``facts`` as far as they are known: a file whose header was read still belongs to its patient.
        """
        return self.commit(0, [Ending(claim, Outcome.UNREADABLE, facts, error.code, str(error))])[0]

    # ------------------------------------------------------------------ counts

    def counts(self, root_ids: Sequence[int] | None = None) -> dict[FileState, int]:
        """Return how many versions are in each state (every state is a key), of these roots or of all."""
        return read(self.engine, lambda c: discovery.counts(c, None if root_ids is None else list(root_ids)))

    def owed(self, root_ids: Sequence[int] | None = None) -> int:
        """Return how many versions are SETTLING, READY, CLAIMED or RETRY: ``--once`` ends at 0."""
        return read(self.engine, lambda c: discovery.owed(c, None if root_ids is None else list(root_ids)))

    def _write(self, body: Callable[[Connection, bool], T]) -> T:
        return write(self.engine, body)
