"""``preread setup``: a place for Preread on this host."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from worker.cli import output


def setup(
    share: Annotated[
        list[Path] | None, typer.Option(help="folder of films for the new file of settings, may be repeated")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="database for the new file of settings; default: SQLite in /var/lib/preread")
    ] = None,
    root: Annotated[Path, typer.Option(help="install into this tree, for an image")] = Path("/"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be made, and make nothing")] = False,
) -> None:
    """Make the user preread, its folders, settings, database and the units of worker and page; needs root and systemd.

    What is there already stays, so that it may run again at any time: settings are never written over; units are (make
    changes with `systemctl edit`). Nothing is started: it prints what is left to do.

    Exit code: 0 done; 2 without the rights to do it; 3 when a program of systemd's is missing or fails.
    """
    from worker import installing
    from worker.errors import UsageError

    if not dry_run and os.geteuid() != 0:
        raise UsageError("setup makes a user, folders and units: run it with sudo, or look with --dry-run")
    tree = Path(os.path.abspath(root))
    place = installing.Place(tree, database_url or installing.DATABASE_URL, share or ())
    made = 0
    for step in place.steps():
        if step.is_done():
            continue
        made += 1
        output.print_text(f"{'would make' if dry_run else 'make'} {step.what}")
        if not dry_run:
            step.do()
    if not made:
        output.say("everything is there already")
    if dry_run:
        return
    if tree == Path("/") and os.path.isdir("/run/systemd/system") and (systemctl := shutil.which("systemctl")):
        subprocess.run([systemctl, "daemon-reload"], check=False, stdin=subprocess.DEVNULL)
    _warn_of_a_closed_folder(place.programs)
    output.say(f"next: name the folders of films in {installing.CONFIG}, then")
    output.say("  systemctl enable --now preread-worker preread-web")
    output.say(f"  sudo -u preread {place.programs}/preread --config {installing.CONFIG} users add NAME --role reader")


def _warn_of_a_closed_folder(programs: Path) -> None:
    for folder in (programs, *programs.parents):
        if os.stat(folder).st_mode & 0o005 != 0o005 or folder in {Path("/home"), Path("/root")}:
            output.say(f"the service may not enter {folder}: install Preread in /opt/preread, and run setup from there")
            return
