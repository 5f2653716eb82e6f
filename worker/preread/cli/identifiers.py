"""Patient identifiers from standard input.

Arguments stay in the shell's history and are visible in the list of processes.
"""

from __future__ import annotations

import sys

from preread.cli.messages import print_message
from preread.core.errors import UsageError


def read(option: str | None, flag: str, what: str) -> str | None:
    """Return an identifier, read from standard input if it is ``-``.

    An identifier as argument, as in version 0.1.0, is accepted for one more version, with a warning.

    Args:
        option: value of the option, or ``None`` if it is not given.
        flag: name of the option, for messages.
        what: name of the identifier, for messages.

    Returns:
        The identifier, or ``None`` if the option is not given.

    Raises:
        UsageError: the line is empty or not UTF-8.
    """
    if option is None:
        return None
    if option != "-":
        print_message(
            f"the {what} as an argument is visible in the shell's history and in the list of processes, and the next "
            f"version refuses it: use {flag} - and write it to standard input"
        )
        return option
    if sys.stdin.isatty():
        print_message(f"{what}:")
    try:
        identifier = sys.stdin.readline().strip("\r\n")
    except UnicodeDecodeError:
        raise UsageError(f"the {what} on standard input is not UTF-8 text") from None
    if not identifier.strip():
        raise UsageError(f"{flag} -: standard input holds no {what}")
    return identifier
