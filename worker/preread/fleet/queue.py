"""Queue of shards: jobs of Procrastinate in the ledger's Postgres.

They have a schema of their own. The queue holds only which process does what next: all else is found again from the
folder and the ledger, so that it may be emptied, restored from a backup, or deleted.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from importlib import resources
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from preread.core.errors import DatabaseUnsuitable, SettingsError
from preread.db.engine import read, write
from preread.fleet.partition import Place, Shard
from preread.fleet.shard_runner import ShardJob
from preread.ledger import archives
from preread.ledger.archives import SCHEMA, TASK, ArchiveProgress

MAX_ATTEMPTS = 10
HEARTBEAT_S = 10.0
KEEP_FINISHED_H = 7 * 24
_INSTALL_LOCK = 0x7072_6561_6671  # any number that no other program locks: "preafq"
REAP_LOCK = _INSTALL_LOCK + 1
_GRANT = "Let its owner run `GRANT CREATE ON DATABASE ... TO ...`, or make the schema preread_fleet for this user."
_NO_RIGHT = "42501"
# Shards of versions that named them by paths: `preread backfill` cuts them anew.
_DROP_PATHS = f"DELETE FROM {SCHEMA}.procrastinate_jobs WHERE task_name = :task AND args->>'until' IS NOT NULL"  # noqa: S608


class FleetQueue:
    """Queue in one database.

    Args:
        engine: of the ledger's database.

    Raises:
        DatabaseUnsuitable: the database is no Postgres.
        SettingsError: Procrastinate is not installed.
    """

    def __init__(self, engine: Engine) -> None:
        if engine.dialect.name != "postgresql":
            raise DatabaseUnsuitable(
                "an SQLite file serves one machine; a fleet shares the work through Postgres",
                "Name a Postgres database (PREREAD_DATABASE_URL), or let `preread run` here read the folder.",
            )
        if importlib.util.find_spec("procrastinate") is None:
            # no package index has this project: the file is named, not a name that somebody else may register
            raise SettingsError(
                "a fleet needs the extra `fleet`: pip install './preread-VERSION-py3-none-any.whl[fleet]', or "
                "'.[fleet]' in a checkout"
            )
        self._engine = engine

    def connection_arguments(self) -> dict[str, Any]:
        """Return psycopg's arguments for a connection to the queue's schema."""
        arguments = self._engine.dialect.create_connect_args(self._engine.url)[1]
        options = f"{arguments.get('options', '')} -c search_path={SCHEMA}".strip()
        return {**arguments, "options": options, "application_name": "preread fleet"}

    # ------------------------------------------------------------------ the schema

    def install(self) -> None:
        """Create or upgrade the queue's tables. Safe to run twice at once.

        Raises:
            DatabaseUnsuitable: a newer Procrastinate created them, or this user may not create them.
        """
        try:
            write(self._engine, _install)
        except ProgrammingError as error:
            if getattr(error.orig, "sqlstate", None) != _NO_RIGHT:
                raise
            raise DatabaseUnsuitable("the database's user may not make the fleet's tables", _GRANT) from error

    def is_installed(self) -> bool:
        """Return whether the queue has ever been installed here."""
        return read(self._engine, lambda connection: archives.applied_queue_migration(connection) is not None)

    # ------------------------------------------------------------------ what waits

    def submit(self, jobs: Iterable[ShardJob]) -> tuple[int, int, int]:
        """Add shards to the queue.

        Returns:
            Number of shards, of those that waited already, and of their files.
        """
        import procrastinate
        from procrastinate.exceptions import AlreadyEnqueued

        app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(kwargs=self.connection_arguments()))
        shards = waited = films = 0
        with app.open():
            for job in jobs:
                shards, films = shards + 1, films + job.shard.files
                try:
                    app.configure_task(
                        TASK, allow_unknown=True, queue=name_queue(job.digest), queueing_lock=_lock_of(job)
                    ).defer(**encode_job(job))
                except AlreadyEnqueued:
                    waited += 1
        return shards, waited, films

    def forget(self, root_id: int, digest: str, *, waiting: bool = False) -> int:
        """Remove jobs of an archive; running ones are left alone.

        Args:
            root_id: number of the root in the ledger.
            digest: of the bundle.
            waiting: those that wait, and not the finished ones.

        Returns:
            Number of removed jobs.
        """
        statuses = ["todo"] if waiting else ["succeeded", "failed", "cancelled", "aborted"]
        statement = text(
            f"DELETE FROM {SCHEMA}.procrastinate_jobs WHERE task_name = :task AND status::text = ANY(:statuses) "  # noqa: S608
            "AND (args->>'root_id')::bigint = :root_id AND args->>'digest' = :digest"
        )
        values = {"task": TASK, "statuses": statuses, "root_id": root_id, "digest": digest}

        def body(connection: Connection, _again: bool) -> int:
            connection.execute(text(f"SET LOCAL search_path = {SCHEMA}"))  # for the triggers
            return connection.execute(statement, values).rowcount

        return write(self._engine, body)

    def batches(self) -> list[ArchiveProgress]:
        """Return the progress of each archive, the oldest first."""
        return read(self._engine, archives.archive_progress) if self.is_installed() else []

    def processes(self) -> int:
        """Return the number of processes with a recent heartbeat."""
        return read(self._engine, archives.count_fleet_processes) if self.is_installed() else 0


# ---------------------------------------------------------------------- jobs


def name_queue(digest: str) -> str:
    """Return the name of a bundle's queue of shards.

    A process takes jobs of its bundles.
    """
    return f"archive-{digest[:16]}"


def encode_job(job: ShardJob) -> dict[str, Any]:
    """Encode a shard's job as the arguments of a Procrastinate job."""
    return {
        "root_id": job.root_id,
        "digest": job.digest,
        "again": job.again,
        "behind": None if job.shard.after is None else _to_text(job.shard.after),
        "last": _to_text(job.shard.until),
        "files": job.shard.files,
    }


def decode_job(arguments: dict[str, Any]) -> ShardJob:
    """Decode a shard's job from the arguments of a Procrastinate job."""
    after = arguments["behind"]
    shard = Shard(None if after is None else _to_place(after), _to_place(arguments["last"]), arguments["files"])
    return ShardJob(arguments["root_id"], arguments["digest"], arguments["again"], shard)


def _lock_of(job: ShardJob) -> str:
    bounds = "-".join((_to_text(job.shard.after or ()), _to_text(job.shard.until)))
    return f"{job.root_id}:{job.digest[:16]}:{int(job.again)}:{hashlib.sha256(bounds.encode()).hexdigest()[:32]}"


def _to_text(place: Place) -> str:
    return "/".join(digest.hex() for digest in place)


def _to_place(text: str) -> Place:
    return tuple(bytes.fromhex(digest) for digest in text.split("/"))


# ---------------------------------------------------------------------- inside


def list_queue_migrations() -> list[str]:
    """Return the names of Procrastinate's migrations, the oldest first."""
    folder = resources.files("procrastinate.sql") / "migrations"
    return sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))


def _install(connection: Connection, _again: bool) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _INSTALL_LOCK})
    applied, known = archives.applied_queue_migration(connection), list_queue_migrations()
    if applied != known[-1]:
        _bring_up(connection, applied, known)
    connection.execute(text(f"SET LOCAL search_path = {SCHEMA}"))  # for the triggers
    connection.execute(text(_DROP_PATHS), {"task": TASK})


def _bring_up(connection: Connection, applied: str | None, known: list[str]) -> None:
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
