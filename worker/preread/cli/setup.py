"""``preread setup``: a place for Preread on this host."""

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
        list[Path] | None, typer.Option(help="folder of films for the new file of settings, may be repeated")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="database for the new file of settings; default: SQLite in /var/lib/preread")
    ] = None,
    population: Annotated[
        PopulationName | None,
        typer.Option(
            help="what is certain of every image in the folders of --share; asked where it is not given. "
            "children-1-5y: images that name no age are answered as children's, those of adults too"
        ),
    ] = None,
    root: Annotated[Path, typer.Option(help="install into this tree, for an image")] = Path("/"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be made, and make nothing")] = False,
) -> None:
    """Install Preread's services on this host.

    Creates the user preread, its folders, settings, database and systemd units, and a command for root. Needs root and
    systemd.

    What is there already stays, so that it may run again at any time: settings are never written over; units are (make
    changes with `systemctl edit`). Nothing is started: it prints what is left to do.

    Exit code: 0 done; 2 without the rights to do it, or when an option cannot be meant; 3 when a file cannot be written
    or a program of systemd's is missing or fails.
    """
    if not dry_run and os.geteuid() != 0:
        raise UsageError("setup makes a user, folders and units: run it with sudo, or look with --dry-run")
    tree = Path(os.path.abspath(root))
    place = install.Installation(tree, database_url or install.DATABASE_URL, share or ())
    open_engine(place.database_url).dispose()  # before anything is made: is it one?
    made = 0
    try:
        if place.has_settings():
            if share or database_url or population:
                output.say(f"{install.CONFIG} is there and stays: write into it what these options say")
        elif population and not share:
            raise UsageError("--population says what is certain of the images of --share: name the folder too")
        elif share and not (dry_run and population is None):
            place = replace(place, population=Population(population or _asked(share)))
        for step in place.steps():
            if step.is_done():
                continue
            made += 1
            output.print_text(f"{'would make' if dry_run else 'make'} {step.what}")
            if not dry_run:
                step.do()
    except OSError as error:
        raise EnvironmentFault(f"{error.filename or tree}: {error.strerror or error}") from error
    if not made:
        output.say("everything is there already")
    if dry_run:
        return
    if tree == Path("/") and os.path.isdir("/run/systemd/system") and (systemctl := shutil.which("systemctl")):
        subprocess.run([systemctl, "daemon-reload"], check=False, stdin=subprocess.DEVNULL)
    _warn_of_a_closed_folder(place.programs)
    if not share:
        output.say(f"next: say in {install.CONFIG} which folders hold films and what is certain of them, then")
    else:
        output.say(f"next: see that {install.CONFIG} says of each folder what is certain of its films, then")
    output.say("  systemctl enable --now preread-worker preread-web")
    output.say(f"  {install.COMMAND} check")
    output.say(f"  {install.COMMAND} users add NAME --role reader")


def _asked(shares: list[Path]) -> PopulationName:
    """Ask what is certain of the films; no answer is preset, since each is wrong for somebody."""
    said = _WHO.format(folders=", ".join(map(str, shares)))
    if not invoking_user.is_interactive():
        raise UsageError(f"{said}There is no terminal to ask at: say it with --population")
    output.say(said)
    for _ in range(_TRIES):
        answer = typer.prompt(f"population ({', '.join(_POPULATIONS)})", err=True)
        for name in _POPULATIONS:
            if answer.strip() == name:
                return name
        output.say("write one of these words out")
    raise UsageError("no population was given: nothing was made")


def _warn_of_a_closed_folder(programs: Path) -> None:
    for folder in (programs, *programs.parents):
        if os.stat(folder).st_mode & 0o005 != 0o005 or folder in {Path("/home"), Path("/root")}:
            output.say(f"the service may not enter {folder}: install Preread in /opt/preread, and run setup from there")
            return
