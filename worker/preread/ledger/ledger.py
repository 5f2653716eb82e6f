"""State machine of file versions; each change of state is a verb.

::

    observe ──► SETTLING ── settle ──► READY ── claim ──► CLAIMED ── commit ──► DONE
                  ▲  │                  ▲ ▲                 │ │ └─ commit (unreadable), 3rd failure ► QUARANTINED(code)
                  │  └ quarantine_empty │ └── give_back ────┤ └─── record_failure, give_back(retry) ► RETRY(at) ► READY
                  └── give_back(FileChanged)                └ recover_interrupted ──► READY (attempt refunded)

    record_absent: SETTLING, READY, RETRY ──► MISSED;  with an outcome ──► VANISHED (it is kept)
    register_root: DONE, refused for age or view under another declaration ──► READY
    requeue: QUARANTINED, DONE, RETRY ──► READY;  QUARANTINED('locked' and the like), seen with other rights ──► READY
    record_ignored: nothing, SETTLING, READY ──► IGNORED(rule)
    replace_with_stubs (purge): any state ──► IGNORED('forgotten')
    observe with a new size or mtime: a new version; the older becomes SUPERSEDED when the newer is READY

Each verb is one transaction, guarded by the expected state (and epoch), that appends a row to ``transition`` for each
move. A verb may be repeated safely: if the reply to a commit was lost, it looks by id and epoch at the version before
it tries again. Leases run on the database's clock. Every verb raises ``DatabaseAway`` if the database does not answer
within its bounded retries; then nothing, or everything, of that verb was committed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Connection, Engine

from preread.db.engine import database_now
from preread.ledger import claims, commits, discovery, failing_sources, registry, tombstones


class Ledger:
    """The state machine of file versions, for one worker on one database.

    Safe to share between threads; not across a fork.

    Each verb is documented where it is defined, as a function of a ``Transaction`` in place of the ledger.

    Args:
        engine: from ``engine.open_engine``, its schema up to date.
        worker_id: unique to this run of this process (e.g. host, process id and start time).
        lease_s: seconds for which a claim holds without ``renew``; longer than the deadline of one file.
        clock: returns the time of the database as an aware UTC datetime; tests give another.
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
        self.clock = clock

    register_root = registry.register_root
    record_scan_start = registry.record_scan_start
    record_backlog_listed = registry.record_backlog_listed
    record_scan_end = registry.record_scan_end
    heartbeat = registry.heartbeat
    mark_worker_stopped = registry.mark_worker_stopped

    newest_versions = discovery.newest_versions
    expected_paths = discovery.expected_paths
    incomplete_paths = discovery.incomplete_paths
    count_versions = discovery.count_versions
    observe = discovery.observe
    settle = discovery.settle
    quarantine_empty = discovery.quarantine_empty
    record_ignored = discovery.record_ignored
    record_absent = discovery.record_absent

    failing_sources = failing_sources.failing_sources
    claim = claims.claim
    claim_by_id = claims.claim_by_id
    find_pending = claims.find_pending
    renew = claims.renew
    give_back = claims.give_back
    record_failure = claims.record_failure
    quarantine = claims.quarantine
    recover_interrupted = claims.recover_interrupted
    requeue = claims.requeue
    requeue_quarantined = claims.requeue_quarantined
    acknowledge_missed = claims.acknowledge_missed

    register_bundle = commits.register_bundle
    content_status = commits.content_status
    commit = commits.commit
    discard_purged = commits.discard_purged
    preview_is_orphaned = tombstones.preview_is_orphaned
