"""The schema of the database: brought up to this program's, taken back one step, and looked at before any work.

A change is one transaction on both databases, and looks whether everything is there before it commits: whatever goes
wrong, the database is as it was, with all that workers wrote meanwhile.
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
from preread.db.engine import GIVE_RIGHTS, read, refuse_place, say_missing, sqlite_path, write

# Alembic is loaded where a schema is changed, or is newer: every command looks at the schema, and nearly always it is
# as it should be.
if TYPE_CHECKING:
    from alembic.config import Config

_LOG = logging.getLogger(__name__)
LOCK_TIMEOUT_S = 5
_UPGRADE_LOCK = 0x7072_6561_6421  # any number that no other program locks: "pread!"
_REVISION_FILE = re.compile(r"(\d{4})_\w+\.py")
UNFINISHED = "preread_unfinished"
_BEGIN_ANEW = "Wait for it; where it was broken off, make an empty database and begin anew."
_MOUNT_OR_MAKE = "Mount its disk, or correct PREREAD_DATABASE_URL; only a new installation runs `preread db upgrade`."
_ANEW = (
    "Mount its disk or restore its backup (`preread db restore`); an empty one is made by `preread db upgrade --new`."
)
_MOVE_ASIDE = "Bring the database back to which it belongs, or move it aside."
_MAKE_FOLDER = "Make that folder, or name another database (PREREAD_DATABASE_URL)."


def migrations_folder() -> Path:
    """Return where the migrations lie: inside the installed package, or beside it in a checkout."""
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


def upgrade(engine: Engine) -> None:
    """Create the database file if there is none, and bring the schema to this program's. Safe to run twice at once.

    One transaction, checked before it is committed: it is done whole or not at all. The next program's schema is left
    as it is.

    Raises:
        SchemaTooNew: a newer program made it.
        UpgradeFailed: a migration failed, or rows were lost: the database is as it was.
        DatabaseAway: it does not answer.
        DatabaseUnsuitable: the folder for the SQLite file does not exist or may not be written, or what lies at its
            path is no database.
    """
    path = sqlite_path(engine)
    if path is not None:
        refuse_place(path)
        try:
            # patient data: nobody but the owner reads it (the log and its index inherit these rights)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except FileNotFoundError as error:
            raise DatabaseUnsuitable(f"there is no folder {path.parent} for the database", _MAKE_FOLDER) from error
        except OSError as error:
            raise DatabaseUnsuitable(f"{path} cannot be written: {error.strerror}", GIVE_RIGHTS) from error
    _migrate(engine)


def refuse_remains(engine: Engine, kept: Iterable[Path] = (), *, anew: bool = False) -> None:
    """Refuse to make a database where something of another one lies: its disk is more likely away than it is new.

    Args:
        kept: where previews and the hashes of purged files lie.
        anew: an empty one is meant; SQLite's own log of another file is refused all the same, which would go into it.

    Raises:
        DatabaseUnsuitable: names what lies there.
        DatabaseAway: the database does not answer.
    """
    if revision_of(engine) is not None:
        return
    path = sqlite_path(engine)
    found = [one for one in kept if _holds_something(one)]
    if path is not None:
        for log in (Path(f"{path}-wal"), Path(f"{path}-journal")):
            if _holds_something(log):
                raise DatabaseUnsuitable(f"{log} lies there without its database: it holds committed rows", _MOVE_ASIDE)
        found += [Path(f"{path}-shm")] if os.path.lexists(f"{path}-shm") else []
        found += sorted(path.parent.glob(f"{glob.escape(path.name)}.*.backup"))
    if anew:
        return
    if found:
        where = "the database that is named" if path is None else f"{path}"
        raise DatabaseUnsuitable(f"{where} is not there or empty, and {found[0]} of an earlier one lies here", _ANEW)
    if path is not None and missing_mount(path):
        raise DatabaseUnsuitable(say_missing(path), _ANEW)


def _holds_something(path: Path) -> bool:
    """Tell whether a file has bytes, or a folder entries."""
    try:
        if path.is_dir():
            with os.scandir(path) as listing:
                return next(listing, None) is not None
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DatabaseUnsuitable(f"{path} cannot be looked at: {error.strerror}", GIVE_RIGHTS) from error


def downgrade(engine: Engine) -> str:
    """Take the schema back to the revision before this program's, for the program before it; return that revision.

    Every row of the tables that stay is kept; what only the newer revision could hold is lost.

    Raises:
        SchemaOutdated, SchemaTooNew: the schema is not this program's.
        UpgradeFailed: nothing was changed.
        DatabaseAway: it does not answer.
    """
    check_schema(engine, exactly=True)
    before = _revisions()[1]
    _migrate(engine, down_to=before)
    return before


def _migrate(engine: Engine, down_to: str | None = None) -> None:
    """Change the schema, look whether all is there, and commit; else everything is as it was before."""

    def body(connection: Connection, _again: bool) -> None:
        if connection.dialect.name != "sqlite":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
            # a table that somebody holds: what waits for it would make all others wait behind it
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
        if _ahead(connection) or (down_to is None and _revision(connection) == _revisions()[0]):
            return
        from preread.db import schema_diff

        kept = schema_diff.rows_kept(connection)
        if down_to is None:
            create(connection)
        else:
            from alembic import command

            config = _config()
            config.attributes["connection"] = connection
            command.downgrade(config, down_to)
        faults = schema_diff.losses(connection, kept)
        if down_to is None:
            faults += schema_diff.differences(connection)
        if faults:
            raise UpgradeFailed(f"after the change of schema {'; '.join(faults)}: it was taken back")

    try:
        write(engine, body)
    except (DatabaseAway, DatabaseUnsuitable, SchemaTooNew, UpgradeFailed):
        raise
    except Exception as error:
        _LOG.exception("migration_failed")
        raise UpgradeFailed(f"a migration failed ({type(error).__name__}): it was taken back") from error


def set_unfinished(engine: Engine, what: str | None) -> None:
    """Have ``check_schema`` refuse a Postgres database until this is called with ``None``: it is being filled.

    A table of its own, so that nothing shows before all is there, and a program that was killed leaves it refused.
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
    raise DatabaseUnsuitable(f"{what or 'a change'} of this database has not come to its end", _BEGIN_ANEW)


def create(connection: Connection) -> None:
    """Bring the schema to this program's in the transaction of the caller, who commits it."""
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def check_schema(engine: Engine, *, exactly: bool = False) -> None:
    """Make sure that this program can work with the schema: it is its own, or the next one, which only adds to it.

    Args:
        exactly: it must be its own.

    Raises:
        SchemaOutdated: it is older, or there is none.
        SchemaTooNew: a newer program made it.
        DatabaseAway: the database does not answer.
        DatabaseUnsuitable: it is no SQLite database, is damaged, or lies where it cannot be kept.
    """
    path = sqlite_path(engine)
    if path is not None and not os.path.exists(path):
        refuse_place(path)
        missing = SchemaOutdated(say_missing(path))
        missing.hint = _MOUNT_OR_MAKE
        raise missing
    try:
        ahead, revision = read(engine, _look)
    except DatabaseAway:
        if path is not None:
            refuse_place(path)  # nothing that passes by itself, where a program starts
        raise
    if ahead and exactly:
        raise SchemaTooNew
    if not ahead and revision != _revisions()[0]:
        raise SchemaOutdated


def revision_of(engine: Engine) -> str | None:
    """Return the revision of the schema; ``None`` where there is none, or no database file.

    Raises:
        DatabaseAway: the database does not answer.
        DatabaseUnsuitable: what lies at the path of the SQLite file cannot be one.
    """
    path = sqlite_path(engine)
    if path is not None:
        refuse_place(path)
        if not os.path.exists(path):
            return None
    return read(engine, _revision)


def older_revisions() -> list[str]:
    """Return the revisions that this program can upgrade from."""
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
    """Tell whether the schema is the one after this program's, with which it can work.

    Raises:
        SchemaTooNew: it is newer than this program, and not such a one.
    """
    revision, known = _revision(connection), _revisions()
    if revision is None or revision in known:
        return False
    from preread.db import schema_diff

    if not schema_diff.is_next(revision, known[0]):
        raise SchemaTooNew(f"the schema is {revision}, and this program's is {known[0]}: too far ahead of it")
    if found := schema_diff.hindrances(connection):
        raise SchemaTooNew(f"the schema is {revision}, with which this program cannot work: {'; '.join(found)}")
    _LOG.warning("schema_newer", extra={"schema_revision": revision})
    return True


def _revisions() -> list[str]:
    """Return this program's revisions, newest first: the numbers that the names of the migrations begin with."""
    names = (_REVISION_FILE.fullmatch(path.name) for path in (migrations_folder() / "versions").iterdir())
    return sorted((name[1] for name in names if name is not None), reverse=True)
