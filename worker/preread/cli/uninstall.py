"""``preread uninstall``: remove Preread's services from this host."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from preread.admin import install
from preread.admin.install import DATABASE_URL
from preread.admin.uninstall import Host
from preread.cli import invoking_user, output
from preread.cli.messages import print_message
from preread.core.errors import EnvironmentFault, SettingsError, UsageError
from preread.core.settings import Settings, load_settings


def uninstall(
    data: Annotated[
        bool, typer.Option("--data", help="also delete results, reviews, previews and settings; cannot be undone")
    ] = False,
    confirm: Annotated[
        str | None, typer.Option(help="with --data: the name of the data, as --dry-run prints it; default: ask")
    ] = None,
    root: Annotated[Path, typer.Option(help="uninstall from this directory tree, a system image")] = Path("/"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be removed, and remove nothing")] = False,
) -> None:
    """Remove Preread's services from this host.

    Stops the services, removes the units and files that setup created, and lists what is left and how to remove it.

    Database, previews and settings stay unless --data is given and confirmed with the name of the database. Nothing is
    deleted recursively: files that Preread did not create stay, as do the programs, the user and every watched folder.

    Exit code: 0 success; 2 without root privileges, or if the confirmation names something else; 3 if a file cannot be
    removed or systemd fails.
    """
    if not dry_run and os.geteuid() != 0:
        raise UsageError("uninstall removes units and files of root: run it with sudo, or use --dry-run")
    tree = Path(os.path.abspath(root))
    config = tree / install.CONFIG.relative_to("/")
    host = Host(_settings(config, must_be_known=data), tree)
    if confirm is not None and not data:
        raise UsageError("--confirm applies to --data: give both, or neither")
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
            print_message("nothing that setup created exists")
        left = host.remaining()
    except OSError as error:
        raise EnvironmentFault(f"{error.filename or tree}: {error.strerror or error}") from error
    if dry_run and data:
        print_message(f"--data must be confirmed with --confirm {host.name_of_data}")
    if not dry_run and tree == Path("/") and (systemctl := shutil.which("systemctl")):
        subprocess.run([systemctl, "daemon-reload"], check=False, stdin=subprocess.DEVNULL)
    if left:
        print_message("what stays now:" if dry_run else "what stays, and how to remove it:")
        output.print_table(("what stays", "removed by"), left, medical=False)


def _settings(config: Path, *, must_be_known: bool) -> Settings:
    """Read the settings of the installation, or assume the default ones.

    Args:
        config: settings file.
        must_be_known: raise instead of assuming, since data is to be deleted.

    Raises:
        SettingsError: the settings are invalid and ``must_be_known`` is set.
    """
    try:
        if config.exists():
            return load_settings(config)
    except SettingsError as error:
        if must_be_known:
            raise
        print_message(f"ignored: {error}")
    return Settings.model_construct(database_url=DATABASE_URL)


def _confirm(name: str, said: str | None) -> None:
    if said is None:
        if not invoking_user.is_interactive():
            raise UsageError(f"--data deletes {name} permanently: confirm with --confirm {name}")
        said = typer.prompt(
            f"This deletes results, reviews, previews and settings permanently. Enter {name} to continue", err=True
        )
    if said.strip() != name:
        raise UsageError(f"nothing was removed: the confirmation must be {name}")
