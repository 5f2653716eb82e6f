"""``preread reconcile``: what is owed, computed anew from folders and database, and how the ledger differs from it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from preread.admin.reconcile import Options, Reconciliation
from preread.admin.reconcile import reconcile as compare
from preread.cli import context as door
from preread.cli import output
from preread.core.errors import EnvironmentFault, SettingsError
from preread.core.jsonable import reversible_path
from preread.core.text.escaping import display_path
from preread.review.history import root_paths

_SAID_EVERY_S = 5.0


def reconcile(
    context: typer.Context,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            "--root", help="only this folder, may be repeated; default: those of the settings, else all that are known"
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0.0, max=86_400.0, metavar="SECONDS", help="look again for so long at what differs, while a worker runs"
        ),
    ] = 0.0,
    read: Annotated[
        bool, typer.Option("--read", help="also read every file again and compare it with its result")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record a difference")] = False,
) -> None:
    """Compare the watched folders with the database.

    Lists every file that the folders and the database do not agree on, and every inconsistency within the database.
    Changes nothing. A film that came a moment ago is a difference until the worker has seen it: --wait 60 gives it
    time.

    Exit code: 0 when nothing differs; 1 when something does; 3 when nothing does, but a folder or a file could not be
    looked at.
    """
    settings = door.read_settings(context)

    engine = door.open_database(settings)
    try:
        roots = door.root_paths(settings, root) or root_paths(engine)
        if not roots:
            raise SettingsError("there is no folder to compare: name one with --root or in PREREAD_ROOTS")
        limit = settings.max_file_bytes if read else None
        found = compare(engine, roots, Options(wait, limit, progress=_Progress()))
    finally:
        engine.dispose()
    _print(found, json=json)
    if found.differences:
        raise typer.Exit(1)
    if found.unproven:
        raise typer.Exit(EnvironmentFault.exit_code)


class _Progress:
    """Says every few seconds how far it is: a million files on a share take long."""

    def __init__(self) -> None:
        self._next_at = time.monotonic() + _SAID_EVERY_S

    def __call__(self, line: str) -> None:
        if time.monotonic() >= self._next_at:
            output.say(line)
            self._next_at = time.monotonic() + _SAID_EVERY_S


def _print(found: Reconciliation, *, json: bool) -> None:
    if json:
        for one in found.differences:
            output.print_json(asdict(one) | {"path": None if one.path is None else reversible_path(one.path)})
    elif found.differences:
        rows = (
            (
                one.code,
                str(one.file_id or ""),
                f"{one.root}/{display_path(one.path)}" if one.path else one.root,
                one.what,
            )
            for one in found.differences
        )
        output.print_table(("difference", "id", "file", "what"), rows, medical=False)
    for fault in found.unproven:
        output.say(f"{fault} [{fault.code}]")
    owed = ", ".join(f"{count} {state.value}" for state, count in sorted(found.owed.items()))
    output.say(f"{found.files} files in the folders; owed: {owed or 'none'}")
    if found.contents:
        output.say(f"{found.contents} files were read and have the bytes of their result")
    kinds = Counter(one.code for one in found.differences)
    said = ", ".join(f"{code} {count}" for code, count in kinds.most_common())
    output.say(f"{kinds.total()} differences: {said}" if kinds else "nothing differs")
