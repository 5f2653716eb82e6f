"""Messages for people on standard error."""

from __future__ import annotations

import sys

from preread.core.errors import InternalError, PrereadError
from preread.core.text.escaping import escape


def print_message(text: str) -> None:
    """Print text on standard error, control characters escaped."""
    sys.stderr.write("".join(f"{escape(line)}\n" for line in text.splitlines()))
    sys.stderr.flush()


def print_error(error: PrereadError, program: str = "preread") -> None:
    """Print an expected failure, its code, and what to do about it.

    Args:
        error: failure to print.
        program: name of the program, which stands first.
    """
    print_message(f"{program}: {error} [{error.code}]")
    if error.hint:
        print_message(f"  {error.hint}")


def print_internal_error(error: Exception) -> None:
    """Print the type and the places of an unexpected error.

    Its values are not printed, since they may be a patient's.
    """
    # imports logging, which `preread --help` does not need
    from preread.core.log import describe_exception  # noqa: PLC0415

    described = describe_exception(error)
    print_message("\n".join(f"  {place}" for place in described["at"]))
    cause = f", caused by {described['cause']}" if "cause" in described else ""
    print_message(f"preread: unexpected {described['exception']}{cause} at the place above [{InternalError.code}]")
    print_message(f"  {InternalError.hint}")
