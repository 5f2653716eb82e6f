"""The command ``preread``: reads settings, calls the rest, prints. Data on standard output, talk on standard error.

Exit codes of every command:

====  ==============================================================================
0     done
1     done, but something was wrong that the command's help names; or the reader of the output went away
2     the command line or a setting cannot be meant; the database's schema does not fit
3     the machine, a share or the database is at fault: try again when it is back
4     the bundle is missing, damaged, or gives other results on this machine
70    Preread failed in a way that nobody foresaw
130   interrupted
====  ==============================================================================
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from preread.core.errors import InternalError, PrereadError, UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``preread``; the entry of the script and of ``python -m worker``.

    Returns:
        The exit code. An expected failure is one message on standard error: what happened, and what to do next.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # a terminal that is not UTF-8 gets escapes for what it cannot show, not a failure
            stream.reconfigure(errors="backslashreplace")
    code = _run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # nobody reads any more; without this Python would complain about it when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or 1
    return code


def _run(arguments: Sequence[str] | None) -> int:
    from preread.cli.app import app

    try:
        app(args=None if arguments is None else list(arguments), prog_name="preread")
    except SystemExit as end:  # how typer says that it is done
        if end.code == UsageError.exit_code:
            _say_where_options_go(sys.argv[1:] if arguments is None else arguments)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except PrereadError as error:
        tell(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  the last door: named, without any value of a film
        _tell_unforeseen(error)
        return InternalError.exit_code
    return 0


def _say_where_options_go(words: Sequence[str]) -> None:
    from preread.cli.output import say

    late = [word.split("=")[0] for word in words[1:] if word.split("=")[0] in {"--config", "--log-level"}]
    if late and not words[0].startswith("-"):
        say(f"  {late[0]} stands before the command: preread {late[0]} ... {words[0]}")


def tell(error: PrereadError, program: str = "preread") -> None:
    """Print an expected failure on standard error: what happened, its code, and what to do next."""
    from preread.cli.output import say

    say(f"{program}: {error} [{error.code}]")
    if error.hint:
        say(f"  {error.hint}")


def _tell_unforeseen(error: Exception) -> None:
    from preread.cli.output import say
    from preread.core.log import describe_exception

    described = describe_exception(error)
    say("\n".join(f"  {place}" for place in described["at"]))
    cause = f", caused by {described['cause']}" if "cause" in described else ""
    say(f"preread: an unforeseen {described['exception']}{cause} at the place above [{InternalError.code}]")
    say(f"  {InternalError.hint}")
