"""The command ``preread``.

Data is printed on standard output, messages on standard error.

Exit codes of every command:

====  ==============================================================================
0     success
1     finished with warnings (see the command's help), or standard output was closed
2     invalid command line or setting, or the database's schema does not fit this version
3     machine, watched folder or database not available: try again later
4     bundle missing, damaged or withdrawn, or its outputs differ on this machine
70    internal error
130   interrupted
====  ==============================================================================
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from preread.cli.messages import print_error, print_internal_error, print_message
from preread.core.errors import InternalError, PrereadError, UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``preread``; entry point of the script and of ``python -m preread``.

    Args:
        arguments: command line without the program's name; ``None`` for that of the process.

    Returns:
        The exit code. An expected failure prints one message on standard error: what failed, and what to do.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # a terminal that is not UTF-8 gets escapes for what it cannot show, not a failure
            stream.reconfigure(errors="backslashreplace")
    code = _run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader has closed the pipe; without this Python would print a warning when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or 1
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        from preread.cli.app import app  # noqa: PLC0415  a module that cannot be imported is reported below

        app(args=None if arguments is None else list(arguments), prog_name="preread")
    except SystemExit as end:  # typer ends so
        if end.code == UsageError.exit_code:
            _explain_option_order(sys.argv[1:] if arguments is None else arguments)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except PrereadError as error:
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  reported with its type and place, without any value of an image
        print_internal_error(error)
        return InternalError.exit_code
    return 0


def _explain_option_order(words: Sequence[str]) -> None:
    late = [word.split("=")[0] for word in words[1:] if word.split("=")[0] in {"--config", "--log-level"}]
    if late and not words[0].startswith("-"):
        print_message(f"  {late[0]} must stand before the command: preread {late[0]} ... {words[0]}")
