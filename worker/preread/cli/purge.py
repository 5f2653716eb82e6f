"""``preread purge`` and ``preread export-patient``: what is held of films and patients, forgotten or handed out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from preread.admin import patient_export, purge_journal
from preread.admin import purge as purging
from preread.admin.backup import Backup
from preread.admin.purge import PatientQuery, PurgeCounts
from preread.cli import context as door
from preread.cli import identifiers, output
from preread.cli.invoking_user import YES_OPTION, actor, confirmed
from preread.cli.selection_options import say_files
from preread.core.errors import PrereadError, SettingsError, UsageError
from preread.core.settings import Settings
from preread.db.engine import sqlite_path
from preread.imaging import previews

_PATIENT_HELP = (
    "the Patient ID, read from standard input: write `-`, never the ID. A second line may hold its issuer, a third the "
    "birth date as the films have it"
)
_ACCEPT = "or say --without-record, and take back what was purged by hand after a restore"
WITHOUT_RECORD = "--without-record"
_PROMPTS = ("Patient ID:", "Issuer of the Patient ID, empty for any:", "Birth date (YYYYMMDD), empty for any:")


def purge(
    context: typer.Context,
    older_than: Annotated[
        float | None,
        typer.Option(metavar="DAYS", min=0, help="films whose last result, or arrival without one, is older"),
    ] = None,
    patient: Annotated[str | None, typer.Option(metavar="-", help=_PATIENT_HELP)] = None,
    study: Annotated[
        str | None, typer.Option(metavar="-", help="films of the Study Instance UID on standard input")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="what was purged before and came back with a restored backup")
    ] = False,
    readings: Annotated[
        bool, typer.Option("--readings", help="what readers signed goes too; else it stays, and names no patient")
    ] = False,
    clean: Annotated[
        bool,
        typer.Option(
            "--compact/--no-compact", help="write the SQLite file anew afterwards, or leave it to `db compact`"
        ),
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and change nothing")] = False,
    without_record: Annotated[
        bool, typer.Option(WITHOUT_RECORD, help="go on where no file remembers it: a restored backup brings it back")
    ] = False,
    yes: Annotated[bool, YES_OPTION] = False,
) -> None:
    """Delete what is stored about images.

    Their rows and previews are deleted, and a keyed hash stays, so that no scan or restore brings them back.

    The files themselves are never touched: one that still lies in its folder is known, and not read. Without this
    command everything is kept. An SQLite file is written anew at the end, so that no byte of it holds anything of them;
    that takes as much free space again as it has, and other programs wait meanwhile.

    Exit code: 0; 1 when no film matches or it was not confirmed; 2 when more than one thing may be meant, or when no
    file would remember what was purged (PREREAD_FORGOTTEN_FILE).
    """
    settings = door.read_settings(context)

    if sum([older_than is not None, patient is not None, study is not None, again]) != 1:
        raise UsageError("say which films: one of --older-than, --patient -, --study - and --again")
    person = None if patient is None else _read_person(patient)
    study = identifiers.read(study, "--study", "Study Instance UID")
    with door.database(context) as engine:
        if again:
            if _journal(engine, settings) is None:
                raise SettingsError(f"nothing remembers what was purged: {purge_journal.write_obstacle(None)}")
            if not forget_again(settings, engine).films:
                output.say("nothing that was purged is there")
                raise typer.Exit(1)
        else:
            journal = _journal(engine, settings)
            hindrance = purge_journal.write_obstacle(journal)
            if hindrance is not None and without_record:
                journal = hindrance = None
            _purge(
                engine,
                settings,
                older_than,
                person,
                study,
                journal,
                hindrance,
                readings=readings,
                clean=clean,
                dry_run=dry_run,
                yes=yes,
            )


def export_patient(
    context: typer.Context,
    patient: Annotated[str, typer.Argument(metavar="-", help=_PATIENT_HELP)],
    images: Annotated[Path | None, typer.Option(help="folder for the films' previews")] = None,
) -> None:
    """Print everything stored about one patient as JSON.

    The audit trail records the request.

    Exit code: 0; 1 when nothing is held; 2 when more than one person may be meant.
    """
    settings = door.read_settings(context)
    person = _read_person(patient)

    with door.database(context) as engine:
        films = purging.select_patient(engine, person)
        if not films:
            output.say("nothing is held of this patient")
            raise typer.Exit(1)
        record = patient_export.export(engine, actor(), films)
        saved = None
        if images is not None:
            folder = previews.preview_folder(settings.preview_dir, sqlite_path(engine))
            saved = patient_export.save_images(images, record, folder)
    sys.stdout.write(patient_export.to_text(record) + "\n")
    output.say(f"{say_files(len(films))}" + ("" if saved is None else f", {saved} previews in {images}"))


def forget_again(settings: Settings, engine: Engine) -> PurgeCounts:
    """Forget what was purged before, where an older backup brought it back."""
    database = sqlite_path(engine)
    journal = _journal(engine, settings)
    return _replay(settings, engine, database, [] if journal is None else [journal])


def remember(settings: Settings, engine: Engine) -> None:
    """Give the database and its journal their key, so that a backup of now finds what is purged later.

    A journal that cannot be written is no reason to go without a backup: that is only said.
    """
    journal = _journal(engine, settings)
    if (hindrance := purge_journal.write_obstacle(journal)) is None:
        try:
            assert journal is not None
            purging.prepare_journal(engine, journal)
        except PrereadError as error:
            hindrance = str(error)
    if hindrance is not None:
        output.say(f"{hindrance}: {purge_journal.WHY}")


class Restored:
    """What was purged since a backup: looked for before it is restored, forgotten again before anybody may see it."""

    def __init__(self, settings: Settings, engine: Engine, file: Path, *, without_record: bool) -> None:
        self._settings = settings
        self._database = sqlite_path(engine)
        self._own = purge_journal.path_for(settings.forgotten_file, self._database)
        self._folders = [path.absolute().parent for path in (self._own, file) if path is not None]
        self._without_record = without_record
        self._journals: list[Path] = []

    def find(self, backup: Backup) -> None:
        """Find the files that remember what this backup's database forgot.

        Raises:
            SettingsError: its database had one, and it is not here; or it cannot be told which it is.
        """
        there = purge_journal.find_journals(self._folders)
        own = self._own
        written = None if own is None else purge_journal.read_key(own)
        if own is not None and written is not None:
            if backup.purge_key not in {None, written}:
                raise SettingsError(f"{own} is another database's: name this one's (PREREAD_FORGOTTEN_FILE)")
            self._journals = [own, *(path for path in there if path != own and _has_key(path, written))]
            return
        key = backup.purge_key
        self._journals = [path for path in there if key is not None and _has_key(path, key)]
        if self._journals or self._without_record:
            return
        if key is not None:
            where = "PREREAD_FORGOTTEN_FILE names none" if own is None else f"{own} is not there"
            raise SettingsError(
                f"the file that remembers what was purged from this database is not here ({where}): without it "
                f"{purge_journal.WHY}. Name it in PREREAD_FORGOTTEN_FILE, {_ACCEPT}"
            )
        if there:
            raise SettingsError(
                f"{there[0]} may remember what was purged from this database: name it in PREREAD_FORGOTTEN_FILE if it "
                f"does; {_ACCEPT}"
            )

    def forget(self, restored: Engine) -> None:
        """Forget again what they name."""
        _replay(self._settings, restored, self._database, self._journals)

    def keep(self) -> None:
        """Let the file of the restored database remember all of it from now on."""
        if self._own is not None and self._journals:
            purge_journal.merge_journals(self._own, self._journals)
        if (hindrance := purge_journal.write_obstacle(self._own)) is not None:
            output.say(f"{hindrance}: {purge_journal.WHY}")


def kept_beside(settings: Settings, engine: Engine) -> list[Path]:
    """Return where this installation keeps what belongs to its database: previews, and hashes of what was purged."""
    folder = previews.preview_folder(settings.preview_dir, sqlite_path(engine))
    return [path for path in (folder, _journal(engine, settings)) if path is not None]


def _has_key(path: Path, key: str) -> bool:
    """Tell whether a file beside the database or the backup is a journal with this key; anything may lie there."""
    try:
        return purge_journal.read_key(path) == key
    except SettingsError as error:
        output.say(f"passed over: {error}")
        return False


def _journal(engine: Engine, settings: Settings) -> Path | None:
    return purge_journal.path_for(settings.forgotten_file, sqlite_path(engine))


def _replay(settings: Settings, engine: Engine, database: Path | None, journals: list[Path]) -> PurgeCounts:
    folder = previews.preview_folder(settings.preview_dir, database)
    done = purging.PurgeCounts()
    for journal in journals:
        done.add(purging.replay(engine, actor(), journal, folder))
    if done.films:
        output.say("a restored backup brought back what was purged:")
        _tell(done)
    return done


def _purge(
    engine: Engine,
    settings: Settings,
    older_than: float | None,
    person: PatientQuery | None,
    study: str | None,
    journal: Path | None,
    hindrance: str | None,
    *,
    readings: bool,
    clean: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    if older_than is not None:
        films, why = purging.select_older_than(engine, older_than), f"purged: older than {older_than:g} days"
    elif study is not None:
        films, why = purging.select_study(engine, study), "purged: its study"
    else:
        assert person is not None
        films, why = purging.select_patient(engine, person), "purged: its patient"
    if not films:
        output.say("no film matches")
        raise typer.Exit(1)
    signed, waiting = purging.count_affected(engine, films)
    what = f"{say_files(len(films))} with {signed} signed readings, {'which go too' if readings else 'which stay'}"
    if waiting:
        what += f"; {waiting} wait to be read, and will not be"
    if dry_run:
        output.say(f"would forget {what}")
        if hindrance is not None:
            output.say(
                f"but {hindrance}: {purge_journal.WHY}. Without --dry-run nothing is forgotten before that is mended"
            )
        return
    if hindrance is not None:
        raise SettingsError(
            f"nothing was forgotten: {hindrance}, and {purge_journal.WHY}. Name a file that can be written "
            f"(PREREAD_FORGOTTEN_FILE), {_ACCEPT}"
        )
    if not confirmed(f"forget {what}? There is no way back.", yes=yes):
        raise typer.Exit(1)
    folder = previews.preview_folder(settings.preview_dir, sqlite_path(engine))
    with output.progress("forgetting", lambda: len(films)) as step:
        request = purging.PurgeRequest(actor(), why, readings, journal, folder, clean)
        done = purging.purge(engine, request, films, step)
    _tell(done)


def _tell(done: PurgeCounts) -> None:
    output.say(
        f"forgotten: {say_files(done.films)}, {done.contents} contents, {done.previews} previews, "
        f"{done.readings} readings; {done.readings_kept} readings were kept"
    )
    if done.uncleaned:
        output.say(
            "but the database's file could not be written anew, since other programs use it or its disk is full: it "
            "and its log (-wal) may still hold what was forgotten. Run `preread db compact` at a quiet moment"
        )


def _read_person(option: str) -> PatientQuery:
    if option != "-":
        raise UsageError(
            "a patient ID on the command line stays in the shell's history and shows in the list of processes: "
            "write - and give the ID on standard input"
        )
    lines = []
    try:
        if sys.stdin.isatty():
            for prompt in _PROMPTS:
                output.say(prompt)
                lines.append(sys.stdin.readline())
        else:
            lines = sys.stdin.read().splitlines()
    except UnicodeDecodeError:
        raise UsageError("the patient ID on standard input is not UTF-8 text") from None
    given = [line.strip() for line in lines]
    if any(given[len(_PROMPTS) :]) or not given or not given[0]:
        raise UsageError("standard input holds a Patient ID, then, where needed, its issuer and the birth date")
    patient_id, issuer, birth_date = [*given, "", ""][: len(_PROMPTS)]
    return PatientQuery(patient_id, issuer or None, birth_date or None)
