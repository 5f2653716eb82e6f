"""``preread uninstall``: take Preread off this host."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from preread.admin import install
from preread.admin import uninstall as uninstalling
from preread.admin.install import DATABASE_URL
from preread.cli import invoking_user, output
from preread.core.errors import EnvironmentFault, SettingsError, UsageError
from preread.core.settings import Settings, load


def uninstall(
    data: Annotated[
        bool, typer.Option("--data", help="delete results, reviews, previews and settings too; there is no way back")
    ] = False,
    confirm: Annotated[
        str | None, typer.Option(help="with --data: the name of what goes, as --dry-run prints it; else it is asked")
    ] = None,
    root: Annotated[Path, typer.Option(help="uninstall from this tree, an image")] = Path("/"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be removed, and remove nothing")] = False,
) -> None:
    """Remove Preread's services from this host.

    Stops the services, removes the units and files that setup created, and lists what is left and how to remove it.

    Database, previews and settings stay unless --data is said and the database is named. Nothing is deleted
    recursively: what Preread did not make stays in its place, as do the programs, the user and every watched folder.

    Exit code: 0 done; 1 when it was not confirmed; 2 without the rights to do it, or when something else was named; 3
    when a file cannot be removed or systemd fails.
    """
    if not dry_run and os.geteuid() != 0:
        raise UsageError("uninstall removes units and files of root's: run it with sudo, or look with --dry-run")
    tree = Path(os.path.abspath(root))
    config = tree / install.CONFIG.relative_to("/")
    host = uninstalling.Host(_settings(config, must_be_known=data), tree)
    if confirm is not None and not data:
        raise UsageError("--confirm names what --data deletes: say both, or neither")
    if data and not dry_run:
        _confirm(host.name_of_data, confirm)
    try:
        if not dry_run:
            host.stop()
        removed = 0
        for step in list(host.steps(data=data)):
            removed += 1
            output.print_text(f"{'would remove' if dry_run else 'remove'} {step.what}")
            if not dry_run:
                step.do()
        if not removed:
            output.say("nothing that setup made is there")
        left = host.remaining()
    except OSError as error:
        raise EnvironmentFault(f"{error.filename or tree}: {error.strerror or error}") from error
    if dry_run and data:
        output.say(f"--data wants to be confirmed: --confirm {host.name_of_data}")
    if not dry_run and tree == Path("/") and (systemctl := shutil.which("systemctl")):
        subprocess.run([systemctl, "daemon-reload"], check=False, stdin=subprocess.DEVNULL)
    if left:
        output.say("what stays now" if dry_run else "what stays, and how it goes:")
        output.print_table(("what stays", "removed by"), left, medical=False)


def _settings(config: Path, *, must_be_known: bool) -> Settings:
    """Read the settings of the installation that goes; where they cannot be read, they matter for data alone."""
    try:
        if config.exists():
            return load(config)
    except SettingsError as error:
        if must_be_known:
            raise
        output.say(f"passed over: {error}")
    return Settings.model_construct(database_url=DATABASE_URL)


def _confirm(name: str, said: str | None) -> None:
    if said is None:
        if not invoking_user.is_interactive():
            raise UsageError(f"--data deletes {name} for good: name it with --confirm")
        said = typer.prompt(
            f"This deletes results, reviews, previews and settings for good. Write {name} to go on", err=True
        )
    if said.strip() != name:
        raise UsageError(f"nothing was removed: what goes is {name}, and something else was named")
