"""Progress of archives in the fleet's queue, and the fleet's health.

Read from the queue's tables without Procrastinate, as ``preread status`` runs on machines that do not have it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, or_, select, text

from preread.core.text.wording import format_duration
from preread.core.types import FileState, JSONObject
from preread.db import schema
from preread.db.engine import read, write
from preread.db.review_schema import secret
from preread.db.statements import insert_new

SCHEMA = "preread_fleet"
TASK = "preread.shard"
STALLED_S = 30.0
_RATE_WINDOW_S = 1800
OPEN = ("todo", "doing")
_ORDER_KEY = "shards"
_KEY_BYTES = 32
# A share that is away is waited for, and a failed shard is tried again after minutes.
_PATIENCE_S = 600.0
_MOVES_LOOKED_AT = 10_000


@dataclass(frozen=True, slots=True)
class ArchiveProgress:
    """Progress of one archive with one bundle in the fleet's queue.

    Attributes:
        root: path of the archive, safe to print.
        bundle: ``name/version``.
        digest: of the bundle, in hex.
        shards, files: numbers of shards and of their files, by status of the job.
        stalled: shards in progress whose process has sent no heartbeat for ``STALLED_S``.
        files_per_s: files per second over the last half hour; ``None`` before a shard has ended.
        left_s: seconds for the rest at this rate; ``None`` if there is no rate.
    """

    root: str
    bundle: str
    digest: str
    shards: dict[str, int]
    files: dict[str, int]
    stalled: int
    files_per_s: float | None
    left_s: float | None

    def to_json(self) -> JSONObject:
        """Return the record that ``preread fleet status --json`` prints."""
        return {
            "root": self.root,
            "bundle": self.bundle,
            "digest": self.digest,
            "shards": self.shards,
            "films": self.files,
            "stalled": self.stalled,
            "films_s": self.files_per_s,
            "left_s": self.left_s,
        }


@dataclass(frozen=True, slots=True)
class FleetHealth:
    """Health of the fleet at one folder that no worker watches.

    Attributes:
        shards: numbers by status of the job, with all bundles.
        stalled: see ``Batch``.
        processes: live processes of the fleet, for any folder.
        busy: one of them works on a shard of some folder.
        progress_age_s: seconds since a file of the folder was claimed or done, or a shard of it in progress began;
            without such a shard, since anything changed in the queue. ``None`` if that was long ago.
    """

    shards: dict[str, int] = field(default_factory=dict)
    stalled: int = 0
    processes: int = 0
    busy: bool = False
    progress_age_s: float | None = None

    @property
    def open_shards(self) -> int:
        """Number of shards in the fleet's queue that are not done."""
        return sum(self.shards.get(status, 0) for status in OPEN)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield code and description of each problem of the fleet."""
        age_s = self.progress_age_s
        since = "for long" if age_s is None else f"for {format_duration(age_s)}"
        if self.open_shards and not self.processes:
            yield "fleet_idle", f"{self.open_shards} shards wait, and no fleet process runs: start `preread fleet work`"
        elif (
            self.open_shards and (age_s is None or age_s > _PATIENCE_S) and (self.shards.get("doing") or not self.busy)
        ):
            yield "fleet_stalled", f"{self.open_shards} shards wait, and none has made progress {since}"
        if failed := self.shards.get("failed"):
            yield "shards_failed", f"{failed} shards failed: see `preread fleet status`"


# ---------------------------------------------------------------------- the queue's tables


def applied_queue_migration(connection: Connection) -> str | None:
    """Return the last Procrastinate migration of the fleet's queue.

    ``None`` if there is no queue.
    """
    if connection.dialect.name != "postgresql":
        return None
    statement = text("SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = :name")
    found: str | None = connection.execute(statement, {"name": SCHEMA}).scalar_one_or_none()
    return found


def shard_order_key(engine: Engine) -> bytes:
    """Return the database's key for the order of an archive's shards.

    Created once per database, for all machines; see ``fleet.partition``.
    """
    wanted = select(secret.c.value).where(secret.c.name == _ORDER_KEY)

    def make(connection: Connection, _again: bool) -> str:
        fresh = {"name": _ORDER_KEY, "value": secrets.token_hex(_KEY_BYTES)}
        connection.execute(insert_new(connection, secret), fresh)
        value: str = connection.execute(wanted).scalar_one()
        return value

    found = read(engine, lambda connection: connection.execute(wanted).scalar_one_or_none())
    return bytes.fromhex(found or write(engine, make))


_COUNTS = f"""
SELECT (args->>'root_id')::bigint AS root_id, args->>'digest' AS digest, jobs.status::text AS status,
       count(*) AS shards, sum((args->>'files')::bigint) AS files,
       count(*) FILTER (WHERE jobs.status = 'doing' AND (workers.id IS NULL OR
           workers.last_heartbeat < now() - make_interval(secs => :stalled_s))) AS stalled
FROM {SCHEMA}.procrastinate_jobs AS jobs LEFT JOIN {SCHEMA}.procrastinate_workers AS workers
    ON workers.id = jobs.worker_id
WHERE task_name = :task GROUP BY 1, 2, 3 ORDER BY min(jobs.id)
"""  # noqa: S608  the schema's name is a constant
_RATE = f"""
WITH ended AS (
    SELECT jobs.id, (args->>'files')::bigint AS files FROM {SCHEMA}.procrastinate_jobs AS jobs
    JOIN {SCHEMA}.procrastinate_events AS events ON events.job_id = jobs.id
    WHERE task_name = :task AND jobs.status = 'succeeded' AND events.type = 'succeeded'
      AND events.at > now() - make_interval(secs => :window_s)
      AND (args->>'root_id')::bigint = :root_id AND args->>'digest' = :digest)
SELECT (SELECT sum(files) FROM ended) / extract(epoch FROM now() - greatest(
    now() - make_interval(secs => :window_s),
    (SELECT min(at) FROM {SCHEMA}.procrastinate_events WHERE type = 'started' AND job_id IN (SELECT id FROM ended))))
"""  # noqa: S608
_PROCESSES = f"""
SELECT count(*) FROM {SCHEMA}.procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => :stalled_s)
"""  # noqa: S608
_IN_HAND_SINCE = f"""
SELECT (args->>'root_id')::bigint AS root_id, max(events.at) AS at FROM {SCHEMA}.procrastinate_jobs AS jobs
JOIN {SCHEMA}.procrastinate_events AS events ON events.job_id = jobs.id
WHERE task_name = :task AND jobs.status = 'doing' GROUP BY 1
"""  # noqa: S608
_LAST_EVENT = f"SELECT at FROM {SCHEMA}.procrastinate_events ORDER BY id DESC LIMIT 1"  # noqa: S608


def archive_progress(connection: Connection) -> list[ArchiveProgress]:
    """Return the progress of each archive in the fleet's queue, oldest first."""
    found: dict[tuple[int, str], list[Any]] = {}
    for row in _counts(connection):
        found.setdefault((row.root_id, row.digest), []).append(row)
    return [_batch(connection, root_id, digest, rows) for (root_id, digest), rows in found.items()]


def count_fleet_processes(connection: Connection) -> int:
    """Count the fleet processes with a heartbeat within ``STALLED_S``."""
    count: int = connection.execute(text(_PROCESSES), {"stalled_s": STALLED_S}).scalar_one()
    return count


def fleet_health(connection: Connection, now: datetime) -> dict[int, FleetHealth] | None:
    """Return the fleet's health by id of watched folder; ``None`` if no queue."""
    if applied_queue_migration(connection) is None:
        return None
    rows = _counts(connection)
    if not rows:
        return {}
    alive = count_fleet_processes(connection)
    busy = any(row.status == "doing" and row.stalled < row.shards for row in rows)
    begun = {row.root_id: row.at for row in connection.execute(text(_IN_HAND_SINCE), {"task": TASK})}
    last = connection.execute(text(_LAST_EVENT)).scalar_one_or_none()
    root_ids = {row.root_id for row in rows}
    moved = _last_moves(connection, root_ids)
    found = {}
    for root_id in root_ids:
        shards: dict[str, int] = {}
        for row in rows:
            if row.root_id == root_id:
                shards[row.status] = shards.get(row.status, 0) + row.shards
        at = max((at for at in (moved.get(root_id), begun.get(root_id, last)) if at is not None), default=None)
        found[root_id] = FleetHealth(
            shards=shards,
            stalled=sum(row.stalled for row in rows if row.root_id == root_id),
            processes=alive,
            busy=busy,
            progress_age_s=None if at is None else round((now - at).total_seconds(), 1),
        )
    return found


def _counts(connection: Connection) -> list[Any]:
    return list(connection.execute(text(_COUNTS), {"task": TASK, "stalled_s": STALLED_S}))


def _batch(connection: Connection, root_id: int, digest: str, rows: list[Any]) -> ArchiveProgress:
    root = connection.execute(select(schema.root.c.path_text).where(schema.root.c.id == root_id)).scalar_one()
    bundle = connection.execute(select(schema.bundle).where(schema.bundle.c.digest == digest)).one_or_none()
    values = {"task": TASK, "window_s": _RATE_WINDOW_S, "root_id": root_id, "digest": digest}
    rate = connection.execute(text(_RATE), values).scalar_one()
    files = {row.status: int(row.files) for row in rows}
    left = sum(files.get(status, 0) for status in OPEN)
    return ArchiveProgress(
        root=root,
        bundle=digest[:12] if bundle is None else f"{bundle.name}/{bundle.version}",
        digest=digest,
        shards={row.status: row.shards for row in rows},
        files=files,
        stalled=sum(row.stalled for row in rows),
        files_per_s=None if not rate else round(float(rate), 2),
        left_s=None if not rate else round(left / float(rate), 1),
    )


def _last_moves(connection: Connection, root_ids: set[int]) -> dict[int, datetime]:
    """Return the time of the last claim or end of a file by root id.

    Among the newest transitions alone.
    """
    t, f = schema.transition.c, schema.file.c
    newest = connection.execute(select(func.max(t.id))).scalar_one() or 0
    moves = (
        select(f.root_id, func.max(t.at).label("at"))
        .join(schema.file, f.id == t.file_id)
        .where(t.id > newest - _MOVES_LOOKED_AT, f.root_id.in_(root_ids))
        .where(or_(t.from_state == FileState.CLAIMED, t.to_state == FileState.CLAIMED))
        .group_by(f.root_id)
    )
    return {row.root_id: row.at for row in connection.execute(moves)}
