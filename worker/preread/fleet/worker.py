"""Process of the fleet: pulls shards from the queue and runs them.

Shards run on the main thread. Procrastinate runs on a thread of its own, with its own event loop, and never touches a
share or an inference process: a process whose share hangs goes on with its heartbeats. A job whose process sends none
is put back by whichever process notices first, a bounded number of times.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import secrets
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import procrastinate
import psycopg
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status
from sqlalchemy import Engine

from preread.admin import bundle_registry
from preread.core.backoff import Backoff
from preread.core.errors import (
    BundleError,
    BundleMissing,
    BundleWithdrawn,
    DatabaseAway,
    InternalError,
    PrereadError,
    SettingsError,
    ShareDown,
)
from preread.core.signals import Signals, Timer, WakePipe
from preread.core.types import Outcome
from preread.fleet.queue import (
    HEARTBEAT_S,
    KEEP_FINISHED_H,
    MAX_ATTEMPTS,
    REAP_LOCK,
    FleetQueue,
    decode_job,
    name_queue,
)
from preread.fleet.shard_runner import SHARE_PATIENCE_S, ShardJob, ShardStopped, run_shard
from preread.ledger.archives import STALLED_S, TASK
from preread.ledger.ledger import Ledger
from preread.model.bundles import Bundle
from preread.runner.loop import Environment, ReaderLoop, RunOptions, ShadowBundle

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_RETRY_DELAY = Backoff(1.0, 300.0)
_PRUNE_S = 3600.0
_LOOK_UP_S = 0.5
_ENDS_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """Options of a fleet process.

    Attributes:
        heartbeat_s: seconds from one heartbeat to the next.
        stalled_s: after so many seconds without one the shard in hand is given to another process.
        share_patience_s: seconds to wait for a share that is away; then the process ends, and its shard goes back.
    """

    heartbeat_s: float = HEARTBEAT_S
    stalled_s: float = STALLED_S
    share_patience_s: float = SHARE_PATIENCE_S


def run_fleet_process(
    engine: Engine,
    bundles: Sequence[Bundle],
    options: RunOptions,
    fleet: FleetOptions | None = None,
    environment: Environment | None = None,
) -> int:
    """Run shards from the queue until SIGTERM or SIGINT.

    Only on the main thread.

    The first signal finishes the files in hand, the second gives them back.

    Args:
        engine: of the ledger's database.
        bundles: verified; shards of others are left to other machines.
        options: how to run.
        fleet: options of this process; ``None`` for the defaults.
        environment: notifier, counters and program of the inference processes; ``None`` for the defaults.

    Returns:
        0 after a signal.

    Raises:
        DatabaseUnsuitable, SettingsError: see ``FleetQueue``.
        DatabaseAway: at the start.
        BundleError, SlotCrashed: no process can start.
        ShareDown: a root has been away for ``share_patience_s``.
    """
    jobs = FleetQueue(engine)
    jobs.install()
    held = {bundle.digest: bundle for bundle in bundles}
    lacking: set[str] = set()
    fleet = fleet or FleetOptions()
    worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    ledger = Ledger(engine, worker_id=worker_id, lease_s=max(options.lease_s, 2 * options.deadline_s))
    ledger.heartbeat()  # first of all: a claim belongs to a worker that is known
    puller = _Puller(jobs, [name_queue(digest) for digest in held], fleet)
    with WakePipe() as wake, Signals(wake.set) as signals:
        loop = ReaderLoop(ledger, options, wake, signals, environment or Environment())
        _LOG.info("fleet_started", extra={"worker_id": worker_id, "slots": options.slots})
        puller.start()
        try:
            while not signals.count:
                puller.check()
                if (handed := puller.next(_LOOK_UP_S)) is None:
                    loop.rest()
                else:
                    run = partial(run_shard, loop, share_patience_s=fleet.share_patience_s)
                    _do(run, handed, held, partial(_in_shadow, engine, held, lacking))
        finally:
            puller.end()
            loop.close()
            with contextlib.suppress(DatabaseAway):  # a worker without heartbeats is known to be gone
                ledger.mark_worker_stopped()
            _LOG.info("fleet_stopped", extra={"worker_id": worker_id})
    return 0


@dataclass(frozen=True, slots=True)
class _Handed:
    """Shard on its way from the queue's thread to the main one.

    Attributes:
        answer: gets the end of the shard.
    """

    job: ShardJob
    answer: Future[None]


def _in_shadow(engine: Engine, held: Mapping[str, Bundle], lacking: set[str], active: str) -> ShadowBundle | None:
    """Return the bundle in the shadow of a shard's own, or ``None``.

    Args:
        engine: of the ledger's database.
        held: bundles of this machine, by digest.
        lacking: digests that this machine lacks, which are logged once.
        active: digest of the shard's bundle.
    """
    chosen = bundle_registry.current_selection(engine).shadow
    if chosen is None or chosen.bundle is None or chosen.bundle.digest == active:
        return None
    digest = chosen.bundle.digest
    if (bundle := held.get(digest)) is not None:
        return bundle, chosen.at
    if digest not in lacking:  # no file waits for a shadow
        lacking.add(digest)
        _LOG.error("bundle_not_usable", extra={"code": BundleMissing.code, "bundle": chosen.bundle.label})
    return None


def _do(
    run: Callable[[ShardJob, Bundle, ShadowBundle | None], dict[Outcome, int]],
    handed: _Handed,
    held: Mapping[str, Bundle],
    in_shadow: Callable[[str], ShadowBundle | None],
) -> None:
    job = handed.job
    try:
        if (bundle := held.get(job.digest)) is None:
            raise BundleMissing("the bundle of this shard is not installed here")
        done = run(job, bundle, in_shadow(job.digest))
    except BaseException as error:
        handed.answer.set_exception(error if isinstance(error, Exception) else InternalError())
        if isinstance(error, ShardStopped):
            return
        code = error.code if isinstance(error, PrereadError) else InternalError.code
        _LOG.warning("shard_failed", extra={"root_id": job.root_id, "code": code})
        of_the_shard = isinstance(error, PrereadError) and not isinstance(
            error, BundleError | SettingsError | ShareDown
        )
        if not (of_the_shard or isinstance(error, BundleMissing | BundleWithdrawn)):
            raise
    else:
        handed.answer.set_result(None)
        counts = {outcome.value: count for outcome, count in done.items()}
        _LOG.info("shard_done", extra={"root_id": job.root_id, "files": job.shard.files, "counts": counts})


class _Puller(threading.Thread):
    """Thread of the queue."""

    def __init__(self, jobs: FleetQueue, queues: Sequence[str], options: FleetOptions) -> None:
        super().__init__(name="fleet-queue", daemon=True)
        self._options = options
        self._queues = list(queues)
        self._handed: queue.SimpleQueue[_Handed] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._prune = Timer(_PRUNE_S)
        self._failure: BaseException | None = None
        connector = procrastinate.PsycopgConnector(
            kwargs=jobs.connection_arguments(), min_size=1, max_size=5, timeout=_ENDS_WITHIN_S
        )
        self._app = procrastinate.App(connector=connector)
        self._app.task(name=TASK, retry=_Retry())(self._hand_over)

    # ------------------------------------------------------------------ for the main thread

    def next(self, within_s: float) -> _Handed | None:
        """Return the next shard, if one comes in time."""
        with contextlib.suppress(queue.Empty):
            return self._handed.get(timeout=within_s)
        return None

    def check(self) -> None:
        """Raise the error that ended the thread, if any."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Pull no more, give back what was pulled, and end the thread."""
        with contextlib.suppress(RuntimeError):  # its loop is closed: it ended by itself
            self._loop.call_soon_threadsafe(self._ending.set)
        for _ in range(int(_ENDS_WITHIN_S / _LOOK_UP_S)):
            if not self.is_alive():
                return
            if (handed := self.next(_LOOK_UP_S)) is not None:
                handed.answer.set_exception(ShardStopped())

    # ------------------------------------------------------------------ on this thread

    def run(self) -> None:
        """Pull shards until ``end``; while the database is away, try again."""
        try:
            with contextlib.closing(self._loop):
                self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001  the main thread ends the process with it
            self._failure = error

    async def _hand_over(self, **arguments: Any) -> None:
        answer: Future[None] = Future()
        self._handed.put(_Handed(decode_job(arguments), answer))
        await asyncio.wrap_future(answer)

    async def _serve(self) -> None:
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        while not self._ending.is_set():
            try:
                async with self._app.open_async():
                    backoff.reset()
                    await self._pull()
            except (ConnectorException, psycopg.Error) as error:
                _LOG.warning("database_away", extra={"code": DatabaseAway.code, "why": type(error).__name__})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), backoff.next_s())

    async def _pull(self) -> None:
        worker = asyncio.create_task(
            self._app.run_worker_async(
                queues=self._queues,
                concurrency=1,
                install_signal_handlers=False,
                delete_jobs="never",
                fetch_job_polling_interval=min(5.0, self._options.stalled_s),
                update_heartbeat_interval=self._options.heartbeat_s,
                stalled_worker_timeout=self._options.stalled_s,
            )
        )
        others = [asyncio.create_task(self._ending.wait()), asyncio.create_task(self._reap_for_ever())]
        try:
            await asyncio.wait([worker, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (worker, *others):
                task.cancel()  # the worker takes this as: finish what runs, and end
            ended = await asyncio.gather(worker, *others, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _reap_for_ever(self) -> None:
        while True:
            await self._reap()
            if self._prune.due(self._loop.time()):
                await self._app.job_manager.delete_old_jobs(
                    nb_hours=KEEP_FINISHED_H,
                    include_failed=True,
                    include_cancelled=True,
                    include_aborted=True,
                )
            await asyncio.sleep(self._options.heartbeat_s)

    async def _reap(self) -> None:
        """Put back shards of processes without heartbeat; one process at a time."""
        connector = self._app.connector
        assert isinstance(connector, procrastinate.PsycopgConnector)
        async with connector.pool.connection() as connection:
            asked = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (REAP_LOCK,))
            if (row := await asked.fetchone()) is None or not row[0]:
                return
            stalled = await self._app.job_manager.get_stalled_jobs(
                task_name=TASK, seconds_since_heartbeat=self._options.stalled_s
            )
            for job in stalled:
                await self._put_back(job)

    async def _put_back(self, job: Job) -> None:
        may_retry = job.attempts + 1 < MAX_ATTEMPTS
        extra = {"attempts": job.attempts + 1, "retry": may_retry}
        try:
            if may_retry:
                await self._app.job_manager.retry_job(job)
            else:
                await self._app.job_manager.finish_job(job, status=Status.FAILED, delete_job=False)
        except ConnectorException:
            _LOG.info("shard_ended_meanwhile", extra=extra)
        else:
            _LOG.warning("shard_stalled", extra=extra)


class _Retry(procrastinate.BaseRetryStrategy):
    """Retries of shards: growing delays, bounded; at once after a stop."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> procrastinate.RetryDecision | None:
        if isinstance(exception, ShardStopped):
            return procrastinate.RetryDecision(retry_in={"seconds": 0})
        if job.attempts + 1 >= MAX_ATTEMPTS:
            return None
        return procrastinate.RetryDecision(retry_in={"seconds": int(_RETRY_DELAY.after(job.attempts + 1))})
