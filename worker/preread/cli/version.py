"""``preread version`` and ``--version``."""

from __future__ import annotations

import sys

import typer


def print_version() -> None:
    """Print the version of Preread."""
    # a quarter of the time of `preread --help`, which does not need it
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        sys.stdout.write(f"preread {version('preread')}\n")
    except PackageNotFoundError:
        sys.stdout.write("preread (not installed: run from its source)\n")


def exit_with_version(requested: bool) -> None:
    """Print the version and exit if ``--version`` is given.

    Raises:
        typer.Exit: the option is given.
    """
    if requested:
        print_version()
        raise typer.Exit
