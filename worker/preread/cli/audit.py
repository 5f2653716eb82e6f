"""``preread audit``: is the record of who did what whole, and what it is about as it was?"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated

import typer

from preread.cli import context as door
from preread.cli import output
from preread.cli.invoking_user import YES_OPTION, actor, confirmed
from preread.core.errors import AuditBroken, UsageError
from preread.db import audit_key
from preread.review import audit_proof
from preread.review.audit import Head
from preread.review.audit_proof import Proof

app = typer.Typer(help="Verify the audit trail.", no_args_is_help=True)
_HEAD = re.compile(r"(\d{1,18}):([0-9a-f]{64})")
_TOLD = re.compile(rf"audit[ _]head\W+(?:audit_head\W+)?{_HEAD.pattern}(?: key ([0-9a-f]{{16}}))?")
_JOURNAL = ("journalctl", "--identifier=preread", "--output=cat", "--no-pager", "--quiet")
_JOURNAL_S = 60
_SHOWN = 20


@app.command("verify")
def verify(
    context: typer.Context,
    head: Annotated[
        str | None,
        typer.Option(metavar="NUMBER:HASH", help="a head from the system log, which the trail must still hold"),
    ] = None,
    journal: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="lines of the system log with heads, `-` for standard input; default: what journalctl has, if it runs",
        ),
    ] = None,
) -> None:
    """Verify the audit trail.

    Checks the hash chain, and compares reviews, viewings, accounts and results with it.

    The head of the chain goes to the system log every 100 entries, at the start of `preread web` and daily (facility
    auth, `audit head NUMBER:HASH`). Without such heads a trail that was cut off at its end looks whole.

    Exit code: 0 when all is as it was written; 1 when something was changed, removed or put in, or cannot be proven; 2
    when the head or the file of heads is none.
    """
    with door.database(context) as engine:
        heads = _heads(head, journal, audit_key.of(engine).keys())
        found = audit_proof.verify(engine, heads)
    _say(found)
    if found.faults:
        raise AuditBroken(f"{len(found.faults)} rows are not what the audit trail says; the first: {found.faults[0]}")
    if found.chain.unproven or found.unsealed:
        raise AuditBroken("a part of the audit trail or of the results was written without its key, and proves nothing")
    whole = found.chain.head
    output.print_text(f"the audit trail is whole: {whole.rows} rows, {found.chain.keyed} with a key, head {whole}")


@app.command("rekey")
def rekey(context: typer.Context, yes: Annotated[bool, YES_OPTION] = False) -> None:
    """Create a new key for the audit trail.

    Accepts everything that is stored now as it is.

    For when the key may be known to others, when its file was lost, or when a part was written without it. Look at what
    `preread audit verify` says before: afterwards nothing of it can be told any more.

    Exit code: 0 done; 1 when it was not confirmed; 2 when no file for the key is named or it cannot be written.
    """
    with door.database(context) as engine:
        if not confirmed("make a new key and take readings, accounts and results as they are now?", yes=yes):
            raise typer.Exit(1)
        sealed = audit_proof.accept(engine, actor(), anew=True)
    output.say(f"the audit trail has a new key, and {sealed} results are sealed: keep a copy of its file")


def _say(found: Proof) -> None:
    for fault in found.faults[:_SHOWN]:
        output.print_text(fault)
    for first, last in found.chain.unproven[:_SHOWN]:
        output.print_text(f"rows {first} to {last} of the audit trail were written without a key that is here")
    if found.unsealed:
        output.print_text(f"{found.unsealed} results carry no seal that a key here can check")
    if not found.chain.keyed:
        output.say("the trail has no key: whoever can write to the database could have written it anew")


def _heads(head: str | None, journal: str | None, own: Collection[str]) -> list[Head]:
    heads = []
    if head is not None:
        written = _HEAD.fullmatch(head)
        if written is None:
            raise UsageError(f"{head!r} is no head: it is written NUMBER:HASH")
        heads.append(Head(int(written[1]), written[2]))
    if journal is not None:
        told = list(_told(_lines(journal)))
        if not told:
            raise UsageError(f"{journal} holds no line with `audit head NUMBER:HASH`")
        heads += told
    elif head is None and shutil.which(_JOURNAL[0]) is not None:
        # another database may tell its heads on this machine
        heads += [one for one in _told(_journalctl()) if one.key_id in own]
    output.say(f"compared with {len(heads)} heads that were written down")
    return heads


def _told(lines: Iterator[str]) -> Iterator[Head]:
    for line in lines:
        if (found := _TOLD.search(line)) is not None:
            yield Head(int(found[1]), found[2], found[3])


def _lines(journal: str) -> Iterator[str]:
    try:
        if journal == "-":
            yield from sys.stdin
            return
        with Path(journal).open(encoding="utf-8", errors="replace") as stream:
            yield from stream
    except OSError as error:
        raise UsageError(f"{journal} cannot be read: {error.strerror}") from error


def _journalctl() -> Iterator[str]:
    try:
        done = subprocess.run(_JOURNAL, check=False, capture_output=True, timeout=_JOURNAL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        output.say(f"the journal was not read: {error}")
        return
    yield from done.stdout.decode(errors="replace").splitlines()
