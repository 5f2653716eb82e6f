"""``preread purge`` and ``preread export-patient``: stored data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from preread.admin import patient_export, purge_journal
from preread.admin.backup import Backup
from preread.admin.purge import (
    PatientQuery,
    PurgeCounts,
    PurgeRequest,
    count_affected,
    prepare_purge_journal,
    replay_purges,
    select_old_files,
    select_patient_files,
    select_study_files,
)
from preread.admin.purge import purge_files as purge_images
from preread.cli import identifiers
from preread.cli.context import command_database, read_settings
from preread.cli.invoking_user import YES_OPTION, actor, confirmed
from preread.cli.messages import print_message
from preread.cli.progress import progress
from preread.cli.selection_options import format_file_count
from preread.core.errors import PrereadError, SettingsError, UsageError
from preread.core.settings import Settings
from preread.db.engine import sqlite_path
from preread.imaging import previews

_PATIENT_HELP = (
    "read the Patient ID from standard input: write `-`, never the ID. The second line may be its issuer, the third "
    "the birth date as in the images"
)
_ACCEPT = "or use --without-record, and purge the same data again by hand after a restore"
WITHOUT_RECORD = "--without-record"
_PROMPTS = ("Patient ID:", "Issuer of the Patient ID, empty for any:", "Birth date (YYYYMMDD), empty for any:")


def purge(
    context: typer.Context,
    older_than: Annotated[
        float | None,
        typer.Option(metavar="DAYS", min=0, help="images with no result or arrival in the last DAYS"),
    ] = None,
    patient: Annotated[str | None, typer.Option(metavar="-", help=_PATIENT_HELP)] = None,
    study: Annotated[
        str | None, typer.Option(metavar="-", help="images of the Study Instance UID on standard input")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="data that was purged before and returned with a restored backup")
    ] = False,
    readings: Annotated[
        bool, typer.Option("--readings", help="also delete signed reviews; else they stay without patient data")
    ] = False,
    clean: Annotated[
        bool,
        typer.Option("--compact/--no-compact", help="rewrite the SQLite file afterwards, or leave it to `db compact`"),
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be deleted, and delete nothing")] = False,
    without_record: Annotated[
        bool,
        typer.Option(WITHOUT_RECORD, help="purge without a record: a restored backup brings the data back"),
    ] = False,
    yes: Annotated[bool, YES_OPTION] = False,
) -> None:
    """Delete what is stored about images.

    Their rows and previews are deleted, and a keyed hash stays, so that no scan or restore brings them back.

    The files themselves are never touched; a purged file that is still in its folder is not assessed again. Without
    this command all data is kept. An SQLite file is rewritten at the end, so that it holds no deleted data; that needs
    as much free space as the file has, and other programs wait meanwhile.

    Exit code: 0; 1 if no image matches or it was not confirmed; 2 if the selection is ambiguous, or if the record of
    purges (PREREAD_FORGOTTEN_FILE) cannot be written.
    """
    settings = read_settings(context)

    if sum([older_than is not None, patient is not None, study is not None, again]) != 1:
        raise UsageError("select images with exactly one of --older-than, --patient -, --study - and --again")
    person = None if patient is None else _read_person(patient)
    study = identifiers.read(study, "--study", "Study Instance UID")
    with command_database(context) as engine:
        if again:
            if _journal(engine, settings) is None:
                raise SettingsError(f"there is no record of purges: {purge_journal.find_write_obstacle(None)}")
            if not forget_again(settings, engine).films:
                print_message("no purged data is in the database")
                raise typer.Exit(1)
        else:
            images, why = _select(engine, older_than, person, study)
            journal = _journal(engine, settings)
            obstacle = purge_journal.find_write_obstacle(journal)
            if obstacle is not None and without_record:
                journal = obstacle = None
            folder = previews.locate_preview_folder(settings.preview_dir, sqlite_path(engine))
            request = PurgeRequest(actor(), why, readings, journal, folder, clean)
            _purge(engine, images, request, obstacle, dry_run=dry_run, yes=yes)


def export_patient(
    context: typer.Context,
    patient: Annotated[str, typer.Argument(metavar="-", help=_PATIENT_HELP)],
    images: Annotated[Path | None, typer.Option(help="folder for the previews of the images")] = None,
) -> None:
    """Print everything stored about one patient as JSON.

    The audit trail records the request.

    Exit code: 0; 1 if nothing is stored; 2 if several patients match.
    """
    settings = read_settings(context)
    person = _read_person(patient)

    with command_database(context) as engine:
        films = select_patient_files(engine, person)
        if not films:
            print_message("nothing is stored about this patient")
            raise typer.Exit(1)
        record = patient_export.export_patient_data(engine, actor(), films)
        saved = None
        if images is not None:
            folder = previews.locate_preview_folder(settings.preview_dir, sqlite_path(engine))
            saved = patient_export.save_exported_previews(images, record, folder)
    sys.stdout.write(patient_export.format_exported_data(record) + "\n")
    print_message(f"{format_file_count(len(films))}" + ("" if saved is None else f", {saved} previews in {images}"))


def forget_again(settings: Settings, engine: Engine) -> PurgeCounts:
    """Delete purged data again that returned with a backup."""
    database = sqlite_path(engine)
    journal = _journal(engine, settings)
    return _replay(settings, engine, database, [] if journal is None else [journal])


def remember(settings: Settings, engine: Engine) -> None:
    """Prepare the record of purges, so that a later restore can use it.

    A record that cannot be written gives a message only, since a backup without it is better than none.
    """
    journal = _journal(engine, settings)
    if (obstacle := purge_journal.find_write_obstacle(journal)) is None:
        try:
            assert journal is not None
            prepare_purge_journal(engine, journal)
        except PrereadError as error:
            obstacle = str(error)
    if obstacle is not None:
        print_message(f"{obstacle}: {purge_journal.WHY}")


class Restored:
    """Records of purges since a backup, applied while it is restored."""

    def __init__(self, settings: Settings, engine: Engine, file: Path, *, without_record: bool) -> None:
        self._settings = settings
        self._database = sqlite_path(engine)
        self._own = purge_journal.purge_journal_path(settings.forgotten_file, self._database)
        self._folders = [path.absolute().parent for path in (self._own, file) if path is not None]
        self._without_record = without_record
        self._journals: list[Path] = []

    def find(self, backup: Backup) -> None:
        """Find the records of purges that belong to this backup's database.

        Raises:
            SettingsError: its record is missing, or belongs to another database, or it is unclear which one it is.
        """
        there = purge_journal.find_journals(self._folders)
        own = self._own
        written = None if own is None else purge_journal.read_journal_key(own)
        if own is not None and written is not None:
            if backup.purge_key not in {None, written}:
                raise SettingsError(
                    f"{own} belongs to another database: set PREREAD_FORGOTTEN_FILE to the record of this one"
                )
            self._journals = [own, *(path for path in there if path != own and _has_key(path, written))]
            return
        key = backup.purge_key
        self._journals = [path for path in there if key is not None and _has_key(path, key)]
        if self._journals or self._without_record:
            return
        if key is not None:
            where = "PREREAD_FORGOTTEN_FILE is not set" if own is None else f"{own} does not exist"
            raise SettingsError(
                f"the record of purges of this database is missing ({where}): without it {purge_journal.WHY}. Set "
                f"PREREAD_FORGOTTEN_FILE, {_ACCEPT}"
            )
        if there:
            raise SettingsError(
                f"{there[0]} may be the record of purges of this database: set PREREAD_FORGOTTEN_FILE to it, {_ACCEPT}"
            )

    def forget(self, restored: Engine) -> None:
        """Delete again what the records name."""
        _replay(self._settings, restored, self._database, self._journals)

    def keep(self) -> None:
        """Copy the entries of all records into that of the restored database."""
        if self._own is not None and self._journals:
            purge_journal.merge_journals(self._own, self._journals)
        if (obstacle := purge_journal.find_write_obstacle(self._own)) is not None:
            print_message(f"{obstacle}: {purge_journal.WHY}")


def kept_beside(settings: Settings, engine: Engine) -> list[Path]:
    """Return the paths of previews and of the record of purges."""
    folder = previews.locate_preview_folder(settings.preview_dir, sqlite_path(engine))
    return [path for path in (folder, _journal(engine, settings)) if path is not None]


def _has_key(path: Path, key: str) -> bool:
    """Return whether a file is a record of purges with this key."""
    try:
        return purge_journal.read_journal_key(path) == key
    except SettingsError as error:
        print_message(f"ignored: {error}")
        return False


def _journal(engine: Engine, settings: Settings) -> Path | None:
    return purge_journal.purge_journal_path(settings.forgotten_file, sqlite_path(engine))


def _replay(settings: Settings, engine: Engine, database: Path | None, journals: list[Path]) -> PurgeCounts:
    folder = previews.locate_preview_folder(settings.preview_dir, database)
    done = PurgeCounts()
    for journal in journals:
        done.add(replay_purges(engine, actor(), journal, folder))
    if done.films:
        print_message("a restored backup had brought back purged data:")
        _print_deleted(done)
    return done


def _select(
    engine: Engine, older_than: float | None, person: PatientQuery | None, study: str | None
) -> tuple[list[int], str]:
    """Return the IDs of the selected images, and the reason for the audit trail.

    Raises:
        UsageError: several patients match.
        typer.Exit: no image matches.
    """
    if older_than is not None:
        images, why = select_old_files(engine, older_than), f"purged: older than {older_than:g} days"
    elif study is not None:
        images, why = select_study_files(engine, study), "purged: its study"
    else:
        assert person is not None
        images, why = select_patient_files(engine, person), "purged: its patient"
    if not images:
        print_message("no image matches")
        raise typer.Exit(1)
    return images, why


def _purge(
    engine: Engine, images: list[int], request: PurgeRequest, obstacle: str | None, *, dry_run: bool, yes: bool
) -> None:
    signed, waiting = count_affected(engine, images)
    fate = "which are deleted too" if request.readings else "which stay"
    what = f"{format_file_count(len(images))} with {signed} signed reviews, {fate}"
    if waiting:
        what += f"; {waiting} wait for a review, which they will not get"
    if dry_run:
        print_message(f"would delete {what}")
        if obstacle is not None:
            print_message(
                f"but {obstacle}: {purge_journal.WHY}. Without --dry-run nothing is deleted until this is fixed"
            )
        return
    if obstacle is not None:
        raise SettingsError(
            f"nothing was deleted: {obstacle}, and {purge_journal.WHY}. Set PREREAD_FORGOTTEN_FILE to a writable "
            f"file, {_ACCEPT}"
        )
    if not confirmed(f"delete {what}? This cannot be undone.", yes=yes):
        raise typer.Exit(1)
    with progress("deleting", lambda: len(images)) as step:
        done = purge_images(engine, request, images, step)
    _print_deleted(done)


def _print_deleted(done: PurgeCounts) -> None:
    print_message(
        f"deleted: {format_file_count(done.films)}, {done.contents} contents, {done.previews} previews, "
        f"{done.readings} reviews; {done.readings_kept} reviews were kept"
    )
    if done.uncleaned:
        print_message(
            "but the database file could not be rewritten, since other programs use it or its disk is full: it and its "
            "log (-wal) may still hold deleted data. Run `preread db compact` later"
        )


def _read_person(option: str) -> PatientQuery:
    if option != "-":
        raise UsageError(
            "a Patient ID as an argument is visible in the shell's history and in the list of processes: use - and "
            "write the ID to standard input"
        )
    lines = []
    try:
        if sys.stdin.isatty():
            for prompt in _PROMPTS:
                print_message(prompt)
                lines.append(sys.stdin.readline())
        else:
            lines = sys.stdin.read().splitlines()
    except UnicodeDecodeError:
        raise UsageError("the Patient ID on standard input is not UTF-8 text") from None
    given = [line.strip() for line in lines]
    if any(given[len(_PROMPTS) :]) or not given or not given[0]:
        raise UsageError("standard input must hold a Patient ID, then optionally its issuer and the birth date")
    patient_id, issuer, birth_date = [*given, "", ""][: len(_PROMPTS)]
    return PatientQuery(patient_id, issuer or None, birth_date or None)
