"""``preread setup``: install Preread's services on this host."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from preread.admin import install
from preread.cli import invoking_user, output
from preread.cli.messages import print_message
from preread.cli.roots import PopulationName
from preread.core.errors import EnvironmentFault, UsageError
from preread.core.types import Population
from preread.db.engine import open_engine

_POPULATIONS: tuple[PopulationName, ...] = ("children-1-5y", "undeclared", "research")
_TRIES = 5
_WHO = """\
Whose images arrive in {folders}? Preread was made for children of 1 to 5 years, and many images name no age.
  children-1-5y  It is certain that every patient there is 1 to 5 years old. An image that names no age is then answered
                 as a child's. If images of adults arrive there too, they are answered as if they were children's.
  undeclared     It is not certain. An image that names no age is not analysed.
  research       Images outside the intended age or view are analysed too, with that limitation; not for care.
"""


def setup(
    share: Annotated[
        list[Path] | None, typer.Option(help="watched folder for the new settings file; may be repeated")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="database for the new settings file; default: SQLite in /var/lib/preread")
    ] = None,
    population: Annotated[
        PopulationName | None,
        typer.Option(
            help="population of all images in the folders of --share; asked if not given. children-1-5y: an image "
            "without an age, even of an adult, is assessed as a child's"
        ),
    ] = None,
    root: Annotated[Path, typer.Option(help="install into this directory tree, for a system image")] = Path("/"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be created, and create nothing")] = False,
) -> None:
    """Install Preread's services on this host.

    Creates the user preread, its folders, settings, database and systemd units, and a command for root. Needs root and
    systemd.

    It can be repeated at any time: existing settings are never overwritten; units are (change them with
    `systemctl edit`). Nothing is started: it prints what is left to do.

    Exit code: 0 success; 2 without root privileges or for an invalid option; 3 if a file cannot be written or a program
    of systemd is missing or fails.
    """
    if not dry_run and os.geteuid() != 0:
        raise UsageError("setup creates a user, folders and units: run it with sudo, or use --dry-run")
    tree = Path(os.path.abspath(root))
    place = install.Installation(tree, database_url or install.DATABASE_URL, share or ())
    open_engine(place.database_url).dispose()  # before anything is created: is the URL valid?
    created = 0
    try:
        if place.has_settings():
            if share or database_url or population:
                print_message(f"{install.CONFIG} exists and is not changed: write the values of these options into it")
        elif population and not share:
            raise UsageError("--population applies to the folders of --share: give both")
        elif share and not (dry_run and population is None):
            place = replace(place, population=Population(population or _ask_population(share)))
        for step in place.steps():
            if step.is_done():
                continue
            created += 1
            output.print_text(f"{'would create' if dry_run else 'create'} {step.what}")
            if not dry_run:
                step.do()
    except OSError as error:
        raise EnvironmentFault(f"{error.filename or tree}: {error.strerror or error}") from error
    if not created:
        print_message("everything exists already")
    if dry_run:
        return
    if tree == Path("/") and os.path.isdir("/run/systemd/system") and (systemctl := shutil.which("systemctl")):
        subprocess.run([systemctl, "daemon-reload"], check=False, stdin=subprocess.DEVNULL)
    _warn_if_inaccessible(place.programs)
    _print_next_steps(has_folders=bool(share))


def _print_next_steps(*, has_folders: bool) -> None:
    if has_folders:
        print_message(f"next: check the population of each folder in {install.CONFIG}, then")
    else:
        print_message(f"next: write the watched folders and their populations into {install.CONFIG}, then")
    print_message("  systemctl enable --now preread-worker preread-web")
    print_message(f"  {install.COMMAND} check")
    print_message(f"  {install.COMMAND} users add NAME --role reader")


def _ask_population(shares: list[Path]) -> PopulationName:
    """Ask for the population of the images, without a default.

    Raises:
        UsageError: standard input is not a terminal, or no valid answer was given.
    """
    said = _WHO.format(folders=", ".join(map(str, shares)))
    if not invoking_user.is_interactive():
        raise UsageError(f"{said}Standard input is not a terminal: use --population")
    print_message(said)
    for _ in range(_TRIES):
        answer = typer.prompt(f"population ({', '.join(_POPULATIONS)})", err=True)
        for name in _POPULATIONS:
            if answer.strip() == name:
                return name
        print_message("enter one of these words in full")
    raise UsageError("no population was given: nothing was created")


def _warn_if_inaccessible(programs: Path) -> None:
    for folder in (programs, *programs.parents):
        if os.stat(folder).st_mode & 0o005 != 0o005 or folder in {Path("/home"), Path("/root")}:
            print_message(
                f"the service cannot access {folder}: install Preread in /opt/preread and run setup from there"
            )
            return
