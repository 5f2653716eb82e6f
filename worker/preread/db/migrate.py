"""Migrations of the database schema, and its check before any work.

A migration is one transaction on both databases, checked before it is committed: if it fails, the database is as it
was, with all that workers wrote meanwhile.
"""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from preread.core.errors import DatabaseAway, DatabaseUnsuitable, SchemaOutdated, SchemaTooNew, UpgradeFailed
from preread.core.filesystems import missing_mount
from preread.db.engine import GIVE_RIGHTS, check_sqlite_place, describe_missing_sqlite, read, sqlite_path, write

# Alembic is loaded if a schema is changed or newer; every command checks the schema, which is nearly always current.
if TYPE_CHECKING:
    from alembic.config import Config

_LOG = logging.getLogger(__name__)
LOCK_TIMEOUT_S = 5
_UPGRADE_LOCK = 0x7072_6561_6421  # any number that no other program locks: "pread!"
_REVISION_FILE = re.compile(r"(\d{4})_\w+\.py")
UNFINISHED = "preread_unfinished"
_BEGIN_ANEW = "Wait for its end; if it was interrupted, create an empty database and start again."
_MOUNT_OR_MAKE = "Mount its disk, or correct PREREAD_DATABASE_URL; only a new installation runs `preread db upgrade`."
_ANEW = "Mount its disk or restore its backup (`preread db restore`); `preread db upgrade --new` creates an empty one."
_MOVE_ASIDE = "Restore the database to which it belongs, or move the file to another folder."
_MAKE_FOLDER = "Create that folder, or name another database (PREREAD_DATABASE_URL)."


def migrations_folder() -> Path:
    """Return the folder of the database migrations.

    Inside the installed package, or beside it in a checkout.
    """
    here = Path(__file__).resolve()
    inside = here.parent / "migrations"
    return inside if inside.is_dir() else here.parents[3] / "migrations"


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    # alembic reads a percent sign in its options as the start of an interpolation
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade_schema(engine: Engine) -> None:
    """Upgrade the database schema to this program's revision.

    One transaction, safe to run twice at once. The schema of the next program is left as it is.

    Raises:
        DatabaseAway: the database does not answer.
        DatabaseUnsuitable: the folder of the SQLite file does not exist or may not be written, or the file is no
            database.
        SchemaTooNew: a newer program made the schema.
        UpgradeFailed: a migration failed, or rows were lost; the database is as it was.
    """
    path = sqlite_path(engine)
    if path is not None:
        check_sqlite_place(path)
        try:
            # patient data: nobody but the owner reads it (the log and its index inherit these rights)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except FileNotFoundError as error:
            raise DatabaseUnsuitable(
                f"the folder {path.parent} for the database does not exist", _MAKE_FOLDER
            ) from error
        except OSError as error:
            raise DatabaseUnsuitable(f"{path} cannot be written: {error.strerror}", GIVE_RIGHTS) from error
    _migrate(engine)


def refuse_remains(engine: Engine, kept: Iterable[Path] = (), *, anew: bool = False) -> None:
    """Raise an error if remains of another database lie beside a new one.

    The disk of the other one is probably not mounted.

    Args:
        engine: the database.
        kept: folders of previews and the file with the hashes of purged files.
        anew: create an empty database all the same; SQLite's log of another file is refused even then, as its rows
            would get into the new one.

    Raises:
        DatabaseAway: the database does not answer.
        DatabaseUnsuitable: something of another database was found.
    """
    if schema_revision(engine) is not None:
        return
    path = sqlite_path(engine)
    found = [path for path in kept if _holds_something(path)]
    if path is not None:
        for log in (Path(f"{path}-wal"), Path(f"{path}-journal")):
            if _holds_something(log):
                raise DatabaseUnsuitable(f"{log} exists without its database, and holds committed rows", _MOVE_ASIDE)
        found += [Path(f"{path}-shm")] if os.path.lexists(f"{path}-shm") else []
        found += sorted(path.parent.glob(f"{glob.escape(path.name)}.*.backup"))
    if anew:
        return
    if found:
        where = "the database" if path is None else f"{path}"
        raise DatabaseUnsuitable(f"{where} is missing or empty, but {found[0]} of an earlier database exists", _ANEW)
    if path is not None and missing_mount(path):
        raise DatabaseUnsuitable(describe_missing_sqlite(path), _ANEW)


def _holds_something(path: Path) -> bool:
    """Return whether a file has bytes, or a folder entries."""
    try:
        if path.is_dir():
            with os.scandir(path) as listing:
                return next(listing, None) is not None
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DatabaseUnsuitable(f"{path} cannot be read: {error.strerror}", GIVE_RIGHTS) from error


def downgrade_schema(engine: Engine) -> str:
    """Downgrade the database schema by one revision; return that revision.

    For the release before this one. Rows of tables that stay are kept; what only the newer revision can hold is lost.

    Raises:
        DatabaseAway: the database does not answer.
        SchemaOutdated, SchemaTooNew: the schema is not this program's.
        UpgradeFailed: a migration failed, or rows were lost; the database is as it was.
    """
    check_schema(engine, exactly=True)
    before = _revisions()[1]
    _migrate(engine, down_to=before)
    return before


def _migrate(engine: Engine, down_to: str | None = None) -> None:
    """Change the schema in one transaction, and check it before the commit."""

    def body(connection: Connection, _again: bool) -> None:
        if connection.dialect.name != "sqlite":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
            # waiting for a locked table would make all others wait behind this transaction
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
        if _ahead(connection) or (down_to is None and _revision(connection) == _revisions()[0]):
            return
        from preread.db import schema_diff

        kept = schema_diff.count_kept_rows(connection)
        if down_to is None:
            create_schema(connection)
        else:
            from alembic import command

            config = _config()
            config.attributes["connection"] = connection
            command.downgrade(config, down_to)
        faults = schema_diff.find_losses(connection, kept)
        if down_to is None:
            faults += schema_diff.schema_differences(connection)
        if faults:
            raise UpgradeFailed(f"the changed schema is not correct and was rolled back: {'; '.join(faults)}")

    try:
        write(engine, body)
    except (DatabaseAway, DatabaseUnsuitable, SchemaTooNew, UpgradeFailed):
        raise
    except Exception as error:
        _LOG.exception("migration_failed")
        raise UpgradeFailed(f"a migration failed ({type(error).__name__}) and was rolled back") from error


def mark_unfinished(engine: Engine, what: str | None) -> None:
    """Mark a Postgres database as being filled; ``None`` removes the mark.

    ``check_schema`` refuses a marked database.

    The mark is a table of its own: a program that is killed leaves the database refused.
    """

    def body(connection: Connection, _again: bool) -> None:
        connection.execute(text(f"DROP TABLE IF EXISTS {UNFINISHED}"))
        if what is not None:
            connection.execute(text(f"CREATE TABLE {UNFINISHED} (what text)"))
            connection.execute(text(f"INSERT INTO {UNFINISHED} VALUES (:what)"), {"what": what})  # noqa: S608

    write(engine, body)


def _refuse_unfinished(connection: Connection) -> None:
    if connection.dialect.name == "sqlite" or not inspect(connection).has_table(UNFINISHED):
        return
    what = connection.execute(text(f"SELECT what FROM {UNFINISHED}")).scalar()  # noqa: S608
    raise DatabaseUnsuitable(f"{what or 'a change'} of this database is not complete", _BEGIN_ANEW)


def create_schema(connection: Connection) -> None:
    """Upgrade the database schema in the caller's transaction."""
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def check_schema(engine: Engine, *, exactly: bool = False) -> None:
    """Raise an error if this program cannot work with the database schema.

    It must be its own, or the next one if that only adds to it.

    Args:
        engine: the database.
        exactly: accept this program's schema alone.

    Raises:
        DatabaseAway: the database does not answer.
        DatabaseUnsuitable: not an SQLite database, damaged, or at a path where none can be kept.
        SchemaOutdated: an older schema, or none.
        SchemaTooNew: a newer program made the schema.
    """
    path = sqlite_path(engine)
    if path is not None and not os.path.exists(path):
        check_sqlite_place(path)
        missing = SchemaOutdated(describe_missing_sqlite(path))
        missing.hint = _MOUNT_OR_MAKE
        raise missing
    try:
        ahead, revision = read(engine, _look)
    except DatabaseAway:
        if path is not None:
            check_sqlite_place(path)  # a permanent fault is raised as such at the start of a program
        raise
    if ahead and exactly:
        raise SchemaTooNew
    if not ahead and revision != _revisions()[0]:
        raise SchemaOutdated


def schema_revision(engine: Engine) -> str | None:
    """Return the revision of the database schema; ``None`` if it has none.

    Raises:
        DatabaseAway: the database does not answer.
        DatabaseUnsuitable: no SQLite file can be kept at the path, or the file is none.
    """
    path = sqlite_path(engine)
    if path is not None:
        check_sqlite_place(path)
        if not os.path.exists(path):
            return None
    return read(engine, _revision)


def older_revisions() -> list[str]:
    """Return the schema revisions that can be upgraded, newest first."""
    return _revisions()[1:]


def _look(connection: Connection) -> tuple[bool, str | None]:
    _refuse_unfinished(connection)
    return _ahead(connection), _revision(connection)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return found


def _ahead(connection: Connection) -> bool:
    """Return whether the schema is a newer one that this program can use.

    Raises:
        SchemaTooNew: the schema is newer, and this program cannot work with it.
    """
    revision, known = _revision(connection), _revisions()
    if revision is None or revision in known:
        return False
    from preread.db import schema_diff

    if not schema_diff.is_next_revision(revision, known[0]):
        raise SchemaTooNew(
            f"the schema has revision {revision}; this program works with {known[0]} and the one after it"
        )
    if found := schema_diff.newer_schema_obstacles(connection):
        raise SchemaTooNew(
            f"the schema has revision {revision}, with which this program cannot work: {'; '.join(found)}"
        )
    _LOG.warning("schema_newer", extra={"schema_revision": revision})
    return True


def _revisions() -> list[str]:
    """Return this program's revisions, newest first.

    From the names of the migrations.
    """
    names = (_REVISION_FILE.fullmatch(path.name) for path in (migrations_folder() / "versions").iterdir())
    return sorted((name[1] for name in names if name is not None), reverse=True)
