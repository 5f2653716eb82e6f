"""State machine of file versions; each change of a state is a verb.

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
move. A verb may be repeated safely: if the answer to a commit was lost, it looks by id and epoch at the version before
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
    """The verbs of one worker on one database.

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
    scan_started = registry.scan_started
    existing_counted = registry.existing_counted
    scan_completed = registry.scan_completed
    heartbeat = registry.heartbeat
    stop = registry.stop

    known = discovery.known
    live_paths = discovery.live_paths
    unsettled = discovery.unsettled
    counts = discovery.counts
    observe = discovery.observe
    settle = discovery.settle
    quarantine_empty = discovery.quarantine_empty
    ignore = discovery.ignore
    absent = discovery.absent

    failing_sources = failing_sources.failing_sources
    claim = claims.claim
    claim_these = claims.claim_these
    owed_of = claims.owed_of
    renew = claims.renew
    give_back = claims.give_back
    fail = claims.fail
    quarantine = claims.quarantine
    recover_interrupted = claims.recover_interrupted
    reopen = claims.reopen
    reopen_code = claims.reopen_code
    acknowledge_missed = claims.acknowledge_missed

    register_bundle = commits.register_bundle
    what_is_known = commits.what_is_known
    commit = commits.commit
    forget = commits.forget
    is_left_behind = tombstones.is_left_behind
