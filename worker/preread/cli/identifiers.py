"""Identifiers of patients on standard input: an argument stays in the shell's history and in the list of processes."""

from __future__ import annotations

import sys

from preread.cli import output
from preread.core.errors import UsageError


def read(option: str | None, flag: str, what: str) -> str | None:
    """Return what an option names: the next line of standard input where it is ``-``.

    What version 0.1.0 took as an argument is taken for one more version, and told.

    Raises:
        UsageError: standard input holds none, or no text.
    """
    if option is None:
        return None
    if option != "-":
        output.say(
            f"{what} on the command line stays in the shell's history and shows in the list of processes; the next "
            f"version refuses it: write {flag} - and give it on standard input"
        )
        return option
    if sys.stdin.isatty():
        output.say(f"{what}:")
    try:
        identifier = sys.stdin.readline().strip("\r\n")
    except UnicodeDecodeError:
        raise UsageError(f"the {what} on standard input is not UTF-8 text") from None
    if not identifier.strip():
        raise UsageError(f"{flag} - found no {what} on standard input")
    return identifier
