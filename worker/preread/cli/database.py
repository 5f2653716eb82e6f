"""``preread db``: the database's schema, its backup, and the way back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import ArgumentError

from preread.admin import backup, purge_journal, transfer
from preread.admin.backup import Backup
from preread.cli import context as door
from preread.cli import in_use, output
from preread.cli import purge as forgetting
from preread.cli.invoking_user import actor
from preread.core.errors import BundleError, DatabaseBusy, SettingsError, UsageError
from preread.core.settings import Settings
from preread.db import audit_key, migrate
from preread.db.engine import compact as compact_file
from preread.db.engine import open_engine, sqlite_path
from preread.imaging import previews
from preread.model import bundles
from preread.review import audit_proof

app = typer.Typer(help="Create, upgrade, back up, restore or move the database.", no_args_is_help=True)


@app.command("upgrade")
def upgrade(
    context: typer.Context,
    backup: Annotated[
        Path | None,
        typer.Option(help="where the backup before a change of schema goes; default: beside the SQLite file"),
    ] = None,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="take none: there is one already")] = False,
    new: Annotated[
        bool, typer.Option("--new", help="make an empty database even where something of an earlier one lies")
    ] = False,
) -> None:
    """Create the schema, or upgrade it to this version.

    Makes a backup before it upgrades; does nothing if the schema is up to date.

    Where there is no database, but previews, hashes of purged files, a log or a backup of one lie, none is made: its
    disk is not mounted, or it is to be restored.

    The change is one transaction that looks whether everything is there before it ends. If anything fails, the database
    is as it was. Workers and the page may go on meanwhile.

    Exit code: 0 when it fits now; 1 when a migration failed; 2 when the database was made by a newer version or cannot
    be used; 3 when it is away or busy.
    """
    with door.unchecked_database(context) as (engine, url):
        migrate.check_remains(engine, forgetting.kept_beside(door.read_settings(context), engine), anew=new)
        if _will_change(engine) and not no_backup:
            _back_up_before(engine, backup)
        migrate.upgrade(engine)
        migrate.check_schema(engine)
        output.say(f"the schema of {url} fits this version")
        if sealed := audit_proof.accept(engine, actor()):
            output.say(f"the audit trail has a key now, and {sealed} results are sealed")
        _look_at_bundle(door.read_settings(context), engine)


def _look_at_bundle(settings: Settings, engine: Engine) -> None:
    """Say what a worker of this version would not start with: the bundle in use may have shipped with another one."""
    try:
        in_use.load(settings, engine)
    except BundleError as error:
        output.say(f"but no worker can start on this machine: {error} [{error.code}]")
        output.say(f"  {error.hint}")


@app.command("downgrade")
def downgrade(
    context: typer.Context,
    backup: Annotated[
        Path | None, typer.Option(help="where the backup before it goes; default: beside the SQLite file")
    ] = None,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="take none: there is one already")] = False,
) -> None:
    """Downgrade the schema by one step.

    For the version before this one; results, reviews and history stay.

    Seldom needed: a version works with the schema that is one step newer than its own. Run it with the newer version,
    then install the older. What only the newer schema could hold is lost, except from the backup.

    Exit code: 0 done; 1 when it failed, and nothing was changed; 2 when the schema is not this version's; 3 when the
    database is away or busy.
    """
    with door.unchecked_database(context) as (engine, url):
        migrate.check_schema(engine, exactly=True)
        if not no_backup:
            _back_up_before(engine, backup)
        revision = migrate.downgrade(engine)
    output.say(f"the schema of {url} is {revision} now: install the version before this one")


@app.command("check")
def check(context: typer.Context) -> None:
    """Check whether the schema fits this version.

    Exit code: 0 when it can; 2 when it is older, too new or missing; 3 when the database is away.
    """
    with door.unchecked_database(context) as (engine, url):
        migrate.check_schema(engine)
    output.say(f"the schema of {url} fits this version")


@app.command("backup")
def back_up(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="file to write")],
    replace: Annotated[bool, typer.Option("--replace", help="an older file of this name makes way")] = False,
) -> None:
    """Back up the database into one file.

    Workers and the page can go on meanwhile. The file holds patient data.

    It is read back and counted before it gets its name. For Postgres, pg_dump and pg_restore must be on the PATH. Films
    and previews are no part of it: previews are files that never change; copy their folder at any time, or do without.

    Exit code: 0 done; 1 when what was written is not what was read; 2 settings, or the file is there; 3 when the
    database is away or the file cannot be written.
    """
    with door.unchecked_database(context) as (engine, _):
        forgetting.remember(door.read_settings(context), engine)
        made = backup.back_up(engine, file, replace=replace)
    output.say(f"wrote {file}: {_say(made)}")
    output.say("films and previews are no part of it")


@app.command("restore")
def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="a file of `preread db backup`")],
    without_record: Annotated[
        bool,
        typer.Option(
            forgetting.WITHOUT_RECORD, help="go on where the file that remembers what was purged since is not here"
        ),
    ] = False,
) -> None:
    """Restore a backup into an empty database.

    The target is PREREAD_DATABASE_URL: a path where no file exists, or an empty Postgres database.

    The backup is read to its end first. An older schema is brought up to this version's; what was purged since the
    backup is purged again; whoever was at work at the moment of the backup counts as ended, and every session is
    closed. Only then may any program use it. Then start the worker: it finds by itself which films came since.

    Exit code: 0 done; 1 when the backup is damaged; 2 when the place is not empty, or the file that remembers what was
    purged (PREREAD_FORGOTTEN_FILE) is not here; 3 when it cannot be read or written.
    """
    with door.unchecked_database(context) as (engine, url):
        purged = forgetting.Restored(door.read_settings(context), engine, file, without_record=without_record)

        def prepare(restored: Engine) -> None:
            migrate.upgrade(restored)
            audit_proof.accept(restored, actor())  # as an upgrade does for what was written before there was a key
            backup.clear_runtime_state(restored)
            purged.forget(restored)

        found = backup.restore(engine, file, prepare, purged.find)
    output.say(f"restored {url}: {_say(found)}")
    purged.keep()
    output.say("start the worker; `preread reconcile --wait 60` then shows whether every film is accounted for")


@app.command("compact")
def compact(context: typer.Context) -> None:
    """Rewrite the SQLite file without deleted data.

    Afterwards neither the file nor its log (-wal) holds anything that was deleted.

    `preread purge` does so itself. This is for a purge with --no-compact, for one that could not do it, and, once, for
    what version 0.1.0 purged. It takes as much free space again as the file has, and other programs wait meanwhile. For
    Postgres: docs/explanation/security.md.

    Exit code: 0 done; 2 when it is no SQLite database; 3 when other programs were in the way or the disk is full.
    """
    with door.database(context) as engine:
        if sqlite_path(engine) is None:
            raise UsageError("this is for an SQLite file; for Postgres see docs/explanation/security.md")
        if not compact_file(engine):
            raise DatabaseBusy("other programs use the database, or its disk is full: try at a quiet moment")
    output.say("neither the database's file nor its log holds anything that was deleted")


@app.command("move")
def move(
    context: typer.Context,
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="where to: sqlite:////srv/preread.db or postgresql://user@host/name; - reads it from stdin",
        ),
    ],
) -> None:
    """Copy the database to another server or file.

    Copies everything into an empty database, from SQLite to Postgres or back, and compares both row by row.

    Stop worker, page and fleet first. It is one transaction at the target: all of it is there in the end, or nothing.
    The database in use is only read and stays as it is; the last lines say which settings to change.

    Exit code: 0 done, and equal; 1 when what was written is not what was read, and was taken back; 2 when the target is
    not empty or a worker is at work; 3 when one of them is away, full or takes no changes.
    """
    with door.unchecked_database(context) as (engine, shown):
        where = _target(url)
        target = open_engine(where, door.read_settings(context).audit_key_file)
        try:
            with output.progress("moving", transfer.count_tables) as step:
                moved = transfer.move(engine, target, step)
        finally:
            target.dispose()
    rows = ((one.table, str(one.rows), one.digest[:16]) for one in moved.tables)
    output.print_table(("table", "rows", "digest, the same in both"), rows, medical=False)
    output.say(f"moved {moved.rows} rows in {len(moved.tables)} tables from {shown} to {door.show_url(where)}")
    output.say(f"the audit trail is whole in both and ends at {moved.head}")
    if moved.key_file is not None:
        output.say(f"the key of the audit trail lies in {moved.key_file} for the other one")
    output.say("write into the settings, before worker and page are started:")
    for line in _settings_after(door.read_settings(context), engine, door.show_url(where)):
        output.print_text(line)
    output.say(f"{shown} is as it was: start nothing on it any more, and keep it until you trust the other one")


def _settings_after(settings: Settings, source: Engine, url: str) -> list[str]:
    """Return the lines for preread.toml with which an installation goes on with a database that was moved.

    What lay beside the SQLite file by itself has to be named from then on.
    """
    path = sqlite_path(source)
    lines = [f"database_url = {json.dumps(url, ensure_ascii=False)}"]
    if path is None:
        return lines
    beside = {
        "preview_dir": (settings.preview_dir, previews.preview_folder(None, path)),
        "bundle_dir": (settings.bundle_dir, bundles.added_bundle_folder(None, path)),
        "forgotten_file": (settings.forgotten_file, purge_journal.path_for(None, path)),
        "audit_key_file": (settings.audit_key_file, audit_key.default_path(path)),
    }
    unnamed = ((name, place) for name, (named, place) in beside.items() if named is None)
    return lines + [f"{name} = {json.dumps(str(place), ensure_ascii=False)}" for name, place in unnamed]


def _target(url: str) -> str:
    """Return where to move to, without a password on the command line."""
    if url == "-":
        return sys.stdin.readline().strip()

    try:
        password = make_url(url).password
    except (ArgumentError, ValueError) as error:
        raise SettingsError("that is no database URL such as sqlite:////srv/preread.db") from error
    if password is not None:
        raise UsageError(
            "a password on the command line shows in the list of processes: keep it in ~/.pgpass, or write - and give "
            "the URL on standard input"
        )
    return url


def _will_change(engine: Engine) -> bool:
    return migrate.revision_of(engine) in migrate.older_revisions()


def _back_up_before(engine: Engine, target: Path | None) -> None:
    """Take a backup; the one that an earlier try left makes way."""
    path = sqlite_path(engine)
    if target is None:
        if path is None:
            raise UsageError("say where the backup goes (--backup FILE), or that there is one (--no-backup)")
        target = path.with_name(f"{path.name}.{migrate.revision_of(engine)}.backup")
    made = backup.back_up(engine, target, replace=True)
    output.say(f"backed up to {target}: {_say(made)}")


def _say(made: Backup) -> str:
    return (
        f"{sum(made.rows.values())} rows in {len(made.rows)} tables, {made.rows.get('file', 0)} of them files, "
        f"schema {made.revision}, {made.size_bytes / 1e6:.1f} MB"
    )
