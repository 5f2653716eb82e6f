"""``preread audit``: verify the audit trail and the rows that it protects."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated

import typer

from preread.cli import output
from preread.cli.context import command_database
from preread.cli.invoking_user import YES_OPTION, actor, confirmed
from preread.cli.messages import print_message
from preread.core.errors import AuditBroken, UsageError
from preread.db import audit_key
from preread.review import audit_proof
from preread.review.audit import AuditHead
from preread.review.audit_proof import Proof

app = typer.Typer(help="Verify the audit trail.", no_args_is_help=True)
_HEAD = re.compile(r"(\d{1,18}):([0-9a-f]{64})")
_LOGGED_HEAD = re.compile(rf"audit[ _]head\W+(?:audit_head\W+)?{_HEAD.pattern}(?: key ([0-9a-f]{{16}}))?")
_JOURNAL = ("journalctl", "--identifier=preread", "--output=cat", "--no-pager", "--quiet")
_JOURNAL_S = 60
_SHOWN = 20


@app.command("verify")
def verify(
    context: typer.Context,
    head: Annotated[
        str | None,
        typer.Option(metavar="NUMBER:HASH", help="a head from the system log, which the trail must still contain"),
    ] = None,
    journal: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="file with heads from the system log, `-` for standard input; default: those of journalctl",
        ),
    ] = None,
) -> None:
    """Verify the audit trail.

    Checks the hash chain, and compares reviews, viewings, accounts and results with it.

    The head of the chain is written to the system log every 100 entries, at the start of `preread web` and daily
    (facility auth, `audit head NUMBER:HASH`). Without such heads, entries missing at the end are not detected.

    Exit code: 0 if everything is unchanged; 1 if something was changed, removed or inserted, or cannot be verified; 2
    if the head or the file of heads is invalid.
    """
    with command_database(context) as engine:
        heads = _heads(head, journal, audit_key.keyring_of(engine).keys())
        found = audit_proof.verify_audited_rows(engine, heads)
    _print_details(found)
    if found.faults:
        raise AuditBroken(f"{len(found.faults)} rows differ from the audit trail; the first: {found.faults[0]}")
    unproven = sum(last - first + 1 for first, last in found.chain.unproven)
    if unproven or found.unsealed:
        raise AuditBroken(
            f"{unproven} audit entries and {found.unsealed} results were written without a key of this installation: "
            "they cannot be verified. Accept them with `preread audit rekey` if you know the reason."
        )
    head_now = found.chain.head
    output.print_text(
        f"the audit trail is unchanged: {head_now.rows} entries, {found.chain.keyed} with a key, head {head_now}"
    )


@app.command("rekey")
def rekey(context: typer.Context, yes: Annotated[bool, YES_OPTION] = False) -> None:
    """Create a new key for the audit trail.

    Accepts everything that is stored now as it is.

    Use it if others may know the key, if its file was lost, or if a part was written without it. Run `preread audit
    verify` first: earlier changes cannot be detected afterwards.

    Exit code: 0 success; 1 if it was not confirmed; 2 if no file for the key is set or it cannot be written.
    """
    with command_database(context) as engine:
        if not confirmed("create a new key and accept reviews, accounts and results as they are now?", yes=yes):
            raise typer.Exit(1)
        sealed = audit_proof.accept_unproven_rows(engine, actor(), anew=True)
    print_message(f"the audit trail has a new key, and {sealed} results are sealed: keep a copy of the key file")


def _print_details(found: Proof) -> None:
    for fault in found.faults[:_SHOWN]:
        output.print_text(fault)
    for first, last in found.chain.unproven[:_SHOWN]:
        output.print_text(
            f"entries {first} to {last} of the audit trail were written without a key of this installation"
        )
    if found.unsealed:
        output.print_text(f"{found.unsealed} results have no seal that a key of this installation can verify")
    if not found.chain.keyed:
        print_message("the audit trail has no key: anybody with write access to the database can forge it")


def _heads(head: str | None, journal: str | None, own: Collection[str]) -> list[AuditHead]:
    heads = []
    if head is not None:
        written = _HEAD.fullmatch(head)
        if written is None:
            raise UsageError(f"{head!r} is not a head: write NUMBER:HASH")
        heads.append(AuditHead(int(written[1]), written[2]))
    if journal is not None:
        logged = list(_logged_heads(_lines(journal)))
        if not logged:
            raise UsageError(f"{journal} contains no line with `audit head NUMBER:HASH`")
        heads += logged
    elif head is None and shutil.which(_JOURNAL[0]) is not None:
        # the journal may hold heads of other databases
        heads += [logged for logged in _logged_heads(_journalctl()) if logged.key_id in own]
    print_message(f"compared with {len(heads)} heads from the system log")
    return heads


def _logged_heads(lines: Iterator[str]) -> Iterator[AuditHead]:
    for line in lines:
        if (found := _LOGGED_HEAD.search(line)) is not None:
            yield AuditHead(int(found[1]), found[2], found[3])


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
        print_message(f"the journal cannot be read: {error}")
        return
    yield from done.stdout.decode(errors="replace").splitlines()
