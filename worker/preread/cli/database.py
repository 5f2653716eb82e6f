"""``preread db``: schema, backup, restore and move of the database."""

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
from preread.cli import output, purge
from preread.cli.context import command_database, read_settings, show_url, unchecked_database
from preread.cli.invoking_user import actor
from preread.cli.messages import print_message
from preread.cli.progress import progress
from preread.cli.selected_bundles import bundle_selection
from preread.core.errors import BundleError, DatabaseBusy, SettingsError, UsageError
from preread.core.settings import Settings
from preread.db import audit_key, migrate
from preread.db.engine import compact_sqlite as compact_file
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
        typer.Option(help="backup file to write before a change of schema; default: beside the SQLite file"),
    ] = None,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="do not make a backup")] = False,
    new: Annotated[
        bool, typer.Option("--new", help="create an empty database even if files of an earlier one exist")
    ] = False,
) -> None:
    """Create the schema, or upgrade it to this version.

    Makes a backup before it upgrades; does nothing if the schema is up to date.

    If the database does not exist, but its previews, hashes of purged files, log or a backup do, none is created: its
    disk may not be mounted, or it should be restored.

    The upgrade is one transaction that checks all rows before it commits. If anything fails, the database is unchanged.
    Workers and the page can go on meanwhile.

    Exit code: 0 if the schema fits now; 1 if a migration failed; 2 if the database was created by a newer version or
    cannot be used; 3 if it is not available or busy.
    """
    with unchecked_database(context) as (engine, url):
        migrate.refuse_remains(engine, purge.kept_beside(read_settings(context), engine), anew=new)
        if _will_change(engine) and not no_backup:
            _back_up_before(engine, backup)
        migrate.upgrade_schema(engine)
        migrate.check_schema(engine)
        print_message(f"the schema of {url} fits this version")
        if sealed := audit_proof.accept_unproven_rows(engine, actor()):
            print_message(f"the audit trail has a key now, and {sealed} results are sealed")
        _warn_if_unusable(read_settings(context), engine)


def _warn_if_unusable(settings: Settings, engine: Engine) -> None:
    """Warn if the bundle in use is not part of this version."""
    try:
        bundle_selection(settings, engine).load()
    except BundleError as error:
        print_message(f"but no worker can start on this machine: {error} [{error.code}]")
        print_message(f"  {error.hint}")


@app.command("downgrade")
def downgrade(
    context: typer.Context,
    backup: Annotated[
        Path | None, typer.Option(help="backup file to write first; default: beside the SQLite file")
    ] = None,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="do not make a backup")] = False,
) -> None:
    """Downgrade the schema by one step.

    For the version before this one; results, reviews and history stay.

    Seldom needed: a version works with a schema that is one step newer than its own. Run it with the newer version,
    then install the older one. Data that only the newer schema can hold is lost, except in the backup.

    Exit code: 0 success; 1 if it failed, and nothing was changed; 2 if the schema is not this version's; 3 if the
    database is not available or busy.
    """
    with unchecked_database(context) as (engine, url):
        migrate.check_schema(engine, exactly=True)
        if not no_backup:
            _back_up_before(engine, backup)
        revision = migrate.downgrade_schema(engine)
    print_message(f"the schema of {url} is {revision} now: install the version before this one")


@app.command("check")
def check(context: typer.Context) -> None:
    """Check whether the schema fits this version.

    Exit code: 0 if it does; 2 if it is older, too new or missing; 3 if the database is not available.
    """
    with unchecked_database(context) as (engine, url):
        migrate.check_schema(engine)
    print_message(f"the schema of {url} fits this version")


@app.command("backup")
def back_up(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="file to write")],
    replace: Annotated[bool, typer.Option("--replace", help="overwrite an existing file")] = False,
) -> None:
    """Back up the database into one file.

    Workers and the page can go on meanwhile. The file holds patient data.

    The backup is read back and its rows are counted before it gets its name. For Postgres, pg_dump and pg_restore must
    be on the PATH. Images and previews are not part of it: previews never change; copy their folder at any time.

    Exit code: 0 success; 1 if the backup differs from the database; 2 settings, or the file exists; 3 if the database
    is not available or the file cannot be written.
    """
    with unchecked_database(context) as (engine, _):
        purge.remember(read_settings(context), engine)
        made = backup.back_up(engine, file, replace=replace)
    print_message(f"wrote {file}: {_backup_text(made)}")
    print_message("images and previews are not part of it")


@app.command("restore")
def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="file written by `preread db backup`")],
    without_record: Annotated[
        bool,
        typer.Option(
            purge.WITHOUT_RECORD, help="restore even if the record of purges is missing, so that purged data may return"
        ),
    ] = False,
) -> None:
    """Restore a backup into an empty database.

    The target is PREREAD_DATABASE_URL: a path where no file exists, or an empty Postgres database.

    The backup is read to its end first. An older schema is upgraded; data that was purged since the backup is purged
    again; workers that ran at the time of the backup count as stopped, and every session is closed. Only then can other
    programs use the database. Then start the worker, which finds new files by itself.

    Exit code: 0 success; 1 if the backup is damaged; 2 if the target is not empty, or the record of purges
    (PREREAD_FORGOTTEN_FILE) is missing; 3 if a file cannot be read or written.
    """
    with unchecked_database(context) as (engine, url):
        purged = purge.Restored(read_settings(context), engine, file, without_record=without_record)

        def prepare(restored: Engine) -> None:
            migrate.upgrade_schema(restored)
            audit_proof.accept_unproven_rows(
                restored, actor()
            )  # as an upgrade does for rows that were written before there was a key
            backup.reset_restored_state(restored)
            purged.forget(restored)

        found = backup.restore(engine, file, prepare, purged.find)
    print_message(f"restored {url}: {_backup_text(found)}")
    purged.keep()
    print_message("start the worker; then `preread reconcile --wait 60` shows whether every file is accounted for")


@app.command("compact")
def compact(context: typer.Context) -> None:
    """Rewrite the SQLite file without deleted data.

    Afterwards neither the file nor its log (-wal) holds anything that was deleted.

    `preread purge` does this itself. Use it after a purge with --no-compact or one that could not do it, and once for
    data purged by version 0.1.0. It needs as much free space as the file has, and other programs wait meanwhile. For
    Postgres: docs/explanation/security.md.

    Exit code: 0 success; 2 if it is not an SQLite database; 3 if other programs use the database or the disk is full.
    """
    with command_database(context) as engine:
        if sqlite_path(engine) is None:
            raise UsageError("this is for an SQLite file; for Postgres see docs/explanation/security.md")
        if not compact_file(engine):
            raise DatabaseBusy("other programs use the database, or its disk is full: try again later")
    print_message("the database file and its log hold no deleted data any more")


@app.command("move")
def move(
    context: typer.Context,
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="target: sqlite:////srv/preread.db or postgresql://user@host/name; - reads it from standard input",
        ),
    ],
) -> None:
    """Copy the database to another server or file.

    Copies everything into an empty database, from SQLite to Postgres or back, and compares both row by row.

    Stop worker, page and fleet first. The copy is one transaction: it is complete, or the target stays empty. The
    database in use is only read; the last lines name the settings to change.

    Exit code: 0 success; 1 if the copy differs and was rolled back; 2 if the target is not empty or a worker is
    running; 3 if one of them is not available, full or read-only.
    """
    with unchecked_database(context) as (engine, shown):
        where = _target(url)
        target = open_engine(where, read_settings(context).audit_key_file)
        try:
            with progress("moving", transfer.count_copied_tables) as step:
                moved = transfer.copy_database(engine, target, step)
        finally:
            target.dispose()
    rows = ((table.table, str(table.rows), table.digest[:16]) for table in moved.tables)
    output.print_table(("table", "rows", "digest (equal in both)"), rows, medical=False)
    print_message(f"copied {moved.rows} rows in {len(moved.tables)} tables from {shown} to {show_url(where)}")
    print_message(f"the audit trail is unchanged in both and ends at {moved.head}")
    if moved.key_file is not None:
        print_message(f"the key of the audit trail for the target is in {moved.key_file}")
    print_message("change the settings before you start worker and page:")
    for line in _settings_after(read_settings(context), engine, show_url(where)):
        output.print_text(line)
    print_message(f"{shown} is unchanged: do not use it any more, and keep it until the new one is verified")


def _settings_after(settings: Settings, source: Engine, url: str) -> list[str]:
    """Return the settings with which an installation uses the copy.

    Paths whose default was beside the SQLite file must be set from then on.
    """
    path = sqlite_path(source)
    lines = [f"database_url = {json.dumps(url, ensure_ascii=False)}"]
    if path is None:
        return lines
    beside = {
        "preview_dir": (settings.preview_dir, previews.locate_preview_folder(None, path)),
        "bundle_dir": (settings.bundle_dir, bundles.locate_added_bundles(None, path)),
        "forgotten_file": (settings.forgotten_file, purge_journal.purge_journal_path(None, path)),
        "audit_key_file": (settings.audit_key_file, audit_key.default_audit_key_path(path)),
    }
    unnamed = ((name, place) for name, (named, place) in beside.items() if named is None)
    return lines + [f"{name} = {json.dumps(str(place), ensure_ascii=False)}" for name, place in unnamed]


def _target(url: str) -> str:
    """Return the target URL, read from standard input if it is ``-``.

    Raises:
        SettingsError: it is not a database URL.
        UsageError: the argument contains a password.
    """
    if url == "-":
        return sys.stdin.readline().strip()

    try:
        password = make_url(url).password
    except (ArgumentError, ValueError) as error:
        raise SettingsError("the target is not a database URL such as sqlite:////srv/preread.db") from error
    if password is not None:
        raise UsageError(
            "a password as an argument is visible in the list of processes: keep it in ~/.pgpass, or use - and write "
            "the URL to standard input"
        )
    return url


def _will_change(engine: Engine) -> bool:
    return migrate.schema_revision(engine) in migrate.older_revisions()


def _back_up_before(engine: Engine, target: Path | None) -> None:
    """Make a backup, and overwrite the one of an earlier attempt."""
    path = sqlite_path(engine)
    if target is None:
        if path is None:
            raise UsageError("name the backup file (--backup FILE), or skip the backup (--no-backup)")
        target = path.with_name(f"{path.name}.{migrate.schema_revision(engine)}.backup")
    made = backup.back_up(engine, target, replace=True)
    print_message(f"backed up to {target}: {_backup_text(made)}")


def _backup_text(made: Backup) -> str:
    return (
        f"{sum(made.rows.values())} rows in {len(made.rows)} tables, {made.rows.get('file', 0)} of them files, "
        f"schema {made.revision}, {made.size_bytes / 1e6:.1f} MB"
    )
