"""The person who runs a command: identity, confirmation and password."""

from __future__ import annotations

import getpass
import os
import sys

import typer

from preread.cli.messages import print_message
from preread.core.errors import UsageError

YES_OPTION = typer.Option("--yes", "-y", help="do not ask for confirmation")


def actor() -> str:
    """Return the user for the audit trail, as ``uid:NUMBER``."""
    return f"uid:{os.getuid()}"


def user_name() -> str:
    """Return the user's name for the history of a file."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return f"user {os.getuid()}"


def is_interactive() -> bool:
    """Return whether standard input is a terminal."""
    return sys.stdin.isatty()


def confirmed(question: str, *, yes: bool) -> bool:
    """Ask for confirmation at the terminal.

    Args:
        question: what is to be confirmed, as a whole sentence.
        yes: confirm without asking (``--yes``).

    Returns:
        Whether the user confirmed; if not, a message says that nothing was changed.

    Raises:
        UsageError: standard input is not a terminal and ``yes`` is not set.
    """
    if yes:
        return True
    if not is_interactive():
        raise UsageError(f"{question} Standard input is not a terminal: confirm with --yes")
    agreed = typer.confirm(question, err=True)
    if not agreed:
        print_message("nothing was changed")
    return agreed


def ask_password(prompt: str) -> str:
    """Ask for a password at the terminal, or read one line of standard input."""
    if is_interactive():
        return getpass.getpass(prompt)
    return sys.stdin.readline().rstrip("\r\n")
