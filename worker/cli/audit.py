"""``preread audit``: is the record of who did what whole?"""

from __future__ import annotations

import re
from typing import Annotated

import typer

from worker.cli import door, output

app = typer.Typer(help="The record of who did what.", no_args_is_help=True)


@app.command("verify")
def verify(
    context: typer.Context,
    head: Annotated[
        str | None,
        typer.Option(metavar="NUMBER:HASH", help="a head from the system log, which the trail must still hold"),
    ] = None,
) -> None:
    """Follow the chain of the audit trail from its first row to its last.

    `preread web` writes the head of the chain to the system log at its start and daily (facility auth, `audit head
    NUMBER:HASH`). Without such a head a trail that was cut off at its end, or written anew as a whole, looks whole.

    Exit code: 0 when it is whole; 1 when a row was changed, removed or put in; 2 when the head is none.
    """
    from worker import audit
    from worker.errors import UsageError

    known = None
    if head is not None:
        written = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", head)
        if written is None:
            raise UsageError(f"{head!r} is no head: it is written NUMBER:HASH")
        known = audit.Head(int(written[1]), written[2])
    with door.database(context) as engine:
        found = audit.verify(engine, known)
    output.print_text(f"the audit trail is whole: {found.rows} rows, head {found}")
