"""The shards that wait for a process: jobs of Procrastinate, in a schema of their own in the ledger's Postgres.

The queue only says who does what next. Whatever it forgets is found again from the folder and the ledger, so that it
may be emptied, restored from a backup, or thrown away. The only module that imports Procrastinate.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import ProgrammingError

from worker import schema, store
from worker.domain import JSONObject
from worker.errors import DatabaseUnsuitable, SettingsError
from worker.shard_work import ShardJob
from worker.shards import Shard
from worker.slot_messages import to_path, to_text

SCHEMA = "preread_fleet"
TASK = "preread.shard"
MAX_ATTEMPTS = 10
STALLED_S = 30.0
HEARTBEAT_S = 10.0
KEEP_FINISHED_H = 7 * 24
_INSTALL_LOCK = 0x7072_6561_6671  # any number that no other program locks: "preafq"
REAP_LOCK = _INSTALL_LOCK + 1
_RATE_WINDOW_S = 1800
_GRANT = "Let its owner run `GRANT CREATE ON DATABASE ... TO ...`, or make the schema preread_fleet for this user."
_OPEN = ("todo", "doing")
_NO_RIGHT = "42501"


@dataclass(frozen=True, slots=True)
class Batch:
    """How far one archive is with one bundle; shards and films by what became of their job.

    Attributes:
        root: as it is shown to people.
        bundle: ``name/version``.
        digest: of the bundle.
        stalled: of the shards in hand, those whose process has said nothing for ``STALLED_S``.
        films_s: films a second over the last half hour; ``None`` while no shard has ended.
        left_s: how long the rest takes at this rate.
    """

    root: str
    bundle: str
    digest: str
    shards: dict[str, int]
    films: dict[str, int]
    stalled: int
    films_s: float | None
    left_s: float | None

    def to_json(self) -> JSONObject:
        """Return the record that ``preread fleet status --json`` prints."""
        return {name: getattr(self, name) for name in self.__slots__}


class FleetQueue:
    """The queue in one database.

    Args:
        engine: of the ledger's database.

    Raises:
        DatabaseUnsuitable: it is no Postgres.
        SettingsError: Procrastinate is not installed.
    """

    def __init__(self, engine: Engine) -> None:
        if engine.dialect.name != "postgresql":
            raise DatabaseUnsuitable(
                "an SQLite file serves one machine; a fleet shares the work through Postgres",
                "Name a Postgres database (PREREAD_DATABASE_URL), or let `preread run` here read the folder.",
            )
        if importlib.util.find_spec("procrastinate") is None:
            raise SettingsError("a fleet needs the extra `fleet`: pip install 'preread[fleet]'")
        self._engine = engine

    def connection_arguments(self) -> dict[str, Any]:
        """Return what psycopg needs to connect to the queue's own schema."""
        arguments = self._engine.dialect.create_connect_args(self._engine.url)[1]
        options = f"{arguments.get('options', '')} -c search_path={SCHEMA}".strip()
        return {**arguments, "options": options, "application_name": "preread fleet"}

    # ------------------------------------------------------------------ the schema

    def install(self) -> None:
        """Make the queue's tables, or bring those of an older Procrastinate up to date. Safe to run twice at once.

        Raises:
            DatabaseUnsuitable: a newer one made them, or this user may not make them.
        """
        try:
            store.write(self._engine, _install)
        except ProgrammingError as error:
            if getattr(error.orig, "sqlstate", None) != _NO_RIGHT:
                raise
            raise DatabaseUnsuitable("the database's user may not make the fleet's tables", _GRANT) from error

    def is_installed(self) -> bool:
        """Tell whether anything was ever handed to a fleet here."""
        return store.read(self._engine, lambda connection: _applied(connection) is not None)

    # ------------------------------------------------------------------ what waits

    def submit(self, jobs: Iterable[ShardJob]) -> tuple[int, int, int]:
        """Hand shards over, as they come; return how many, how many of them waited already, and their films."""
        import procrastinate
        from procrastinate.exceptions import AlreadyEnqueued

        app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(kwargs=self.connection_arguments()))
        shards = waited = films = 0
        with app.open():
            for job in jobs:
                shards, films = shards + 1, films + job.shard.files
                try:
                    app.configure_task(
                        TASK, allow_unknown=True, queue=queue_of(job.digest), queueing_lock=_lock_of(job)
                    ).defer(**to_arguments(job))
                except AlreadyEnqueued:
                    waited += 1
        return shards, waited, films

    def forget(self, root_id: int, digest: str, *, waiting: bool = False) -> int:
        """Remove the finished jobs of a batch, or those that wait; return how many. What runs is left alone."""
        statuses = ["todo"] if waiting else ["succeeded", "failed", "cancelled", "aborted"]
        statement = text(
            f"DELETE FROM {SCHEMA}.procrastinate_jobs WHERE task_name = :task AND status::text = ANY(:statuses) "  # noqa: S608
            "AND (args->>'root_id')::bigint = :root_id AND args->>'digest' = :digest"
        )
        values = {"task": TASK, "statuses": statuses, "root_id": root_id, "digest": digest}

        def body(connection: Connection, _again: bool) -> int:
            connection.execute(text(f"SET LOCAL search_path = {SCHEMA}"))  # for the triggers
            return connection.execute(statement, values).rowcount

        return store.write(self._engine, body)

    def batches(self) -> list[Batch]:
        """Return how far each archive is, the oldest first."""
        return store.read(self._engine, _batches) if self.is_installed() else []

    def processes(self) -> int:
        """Return how many processes said within ``STALLED_S`` that they live."""
        statement = text(
            f"SELECT count(*) FROM {SCHEMA}.procrastinate_workers "  # noqa: S608
            "WHERE last_heartbeat > now() - make_interval(secs => :stalled_s)"
        )
        if not self.is_installed():
            return 0
        count: int = store.read(self._engine, lambda c: c.execute(statement, {"stalled_s": STALLED_S}).scalar_one())
        return count


# ---------------------------------------------------------------------- jobs


def queue_of(digest: str) -> str:
    """Return the queue of a bundle: a process takes only what it has the bundle for."""
    return f"archive-{digest[:16]}"


def to_arguments(job: ShardJob) -> dict[str, Any]:
    """Return what a job carries. Paths one character a byte: a name need not be text."""
    return {
        "root_id": job.root_id,
        "digest": job.digest,
        "again": job.again,
        "after": None if job.shard.after is None else to_text(job.shard.after),
        "until": to_text(job.shard.until),
        "files": job.shard.files,
    }


def from_arguments(arguments: dict[str, Any]) -> ShardJob:
    """Return the job again."""
    after = arguments["after"]
    shard = Shard(None if after is None else to_path(after), to_path(arguments["until"]), arguments["files"])
    return ShardJob(arguments["root_id"], arguments["digest"], arguments["again"], shard)


def _lock_of(job: ShardJob) -> str:
    bounds = hashlib.sha256(b"\0".join((job.shard.after or b"", job.shard.until))).hexdigest()
    return f"{job.root_id}:{job.digest[:16]}:{int(job.again)}:{bounds[:32]}"


# ---------------------------------------------------------------------- inside


def migrations() -> list[str]:
    """Return the names of Procrastinate's changes of its schema, the oldest first."""
    folder = resources.files("procrastinate.sql") / "migrations"
    return sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))


def _applied(connection: Connection) -> str | None:
    """Return the last of Procrastinate's migrations that the schema has: it stands in its comment."""
    statement = text("SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = :name")
    applied: str | None = connection.execute(statement, {"name": SCHEMA}).scalar_one_or_none()
    return applied


def _install(connection: Connection, _again: bool) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _INSTALL_LOCK})
    applied, known = _applied(connection), migrations()
    if applied == known[-1]:
        return
    folder = resources.files("procrastinate.sql")
    if applied is None:
        scripts = [folder / "schema.sql"]
    elif applied in known:
        scripts = [folder / "migrations" / name for name in known if name > applied]
    else:
        raise DatabaseUnsuitable(
            "a newer version made the fleet's tables", "Install the version of Preread that the other machines have."
        )
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    connection.execute(text(f"SET LOCAL search_path = {SCHEMA}"))
    driver: Any = connection.connection.driver_connection
    for script in scripts:
        driver.execute(script.read_text(encoding="utf-8"))
    connection.execute(text(f"COMMENT ON SCHEMA {SCHEMA} IS '{known[-1]}'"))


_COUNTS = f"""
SELECT (args->>'root_id')::bigint AS root_id, args->>'digest' AS digest, jobs.status::text AS status,
       count(*) AS shards, sum((args->>'files')::bigint) AS films,
       count(*) FILTER (WHERE jobs.status = 'doing' AND (workers.id IS NULL OR
           workers.last_heartbeat < now() - make_interval(secs => :stalled_s))) AS stalled
FROM {SCHEMA}.procrastinate_jobs AS jobs LEFT JOIN {SCHEMA}.procrastinate_workers AS workers
    ON workers.id = jobs.worker_id
WHERE task_name = :task GROUP BY 1, 2, 3 ORDER BY min(jobs.id)
"""  # noqa: S608  the schema's name is a constant
_RATE = f"""
WITH ended AS (
    SELECT jobs.id, (args->>'files')::bigint AS films FROM {SCHEMA}.procrastinate_jobs AS jobs
    JOIN {SCHEMA}.procrastinate_events AS events ON events.job_id = jobs.id
    WHERE task_name = :task AND jobs.status = 'succeeded' AND events.type = 'succeeded'
      AND events.at > now() - make_interval(secs => :window_s)
      AND (args->>'root_id')::bigint = :root_id AND args->>'digest' = :digest)
SELECT (SELECT sum(films) FROM ended) / extract(epoch FROM now() - greatest(
    now() - make_interval(secs => :window_s),
    (SELECT min(at) FROM {SCHEMA}.procrastinate_events WHERE type = 'started' AND job_id IN (SELECT id FROM ended))))
"""  # noqa: S608


def _batches(connection: Connection) -> list[Batch]:
    found: dict[tuple[int, str], list[Any]] = {}
    for row in connection.execute(text(_COUNTS), {"task": TASK, "stalled_s": STALLED_S}):
        found.setdefault((row.root_id, row.digest), []).append(row)
    return [_batch(connection, root_id, digest, rows) for (root_id, digest), rows in found.items()]


def _batch(connection: Connection, root_id: int, digest: str, rows: list[Any]) -> Batch:
    root = connection.execute(select(schema.root.c.path_text).where(schema.root.c.id == root_id)).scalar_one()
    bundle = connection.execute(select(schema.bundle).where(schema.bundle.c.digest == digest)).one_or_none()
    values = {"task": TASK, "window_s": _RATE_WINDOW_S, "root_id": root_id, "digest": digest}
    rate = connection.execute(text(_RATE), values).scalar_one()
    films = {row.status: int(row.films) for row in rows}
    left = sum(films.get(status, 0) for status in _OPEN)
    return Batch(
        root=root,
        bundle=digest[:12] if bundle is None else f"{bundle.name}/{bundle.version}",
        digest=digest,
        shards={row.status: row.shards for row in rows},
        films=films,
        stalled=sum(row.stalled for row in rows),
        films_s=None if not rate else round(float(rate), 2),
        left_s=None if not rate else round(left / float(rate), 1),
    )
