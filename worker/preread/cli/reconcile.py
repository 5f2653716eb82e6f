"""``preread reconcile``: compare the watched folders with the database."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from preread.admin.reconcile import ReconcileOptions, Reconciliation
from preread.admin.reconcile import compare_with_ledger as compare
from preread.cli import output
from preread.cli.context import open_database, read_settings, watched_paths
from preread.cli.messages import print_message
from preread.core.errors import EnvironmentFault, SettingsError
from preread.core.jsonable import reversible_path
from preread.core.text.escaping import display_path
from preread.review.history import list_root_paths

_PROGRESS_EVERY_S = 5.0


def reconcile(
    context: typer.Context,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            "--root", help="only this folder; may be repeated; default: those of the settings, else all of the database"
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0.0, max=86_400.0, metavar="SECONDS", help="check differences again for this time, while a worker runs"
        ),
    ] = 0.0,
    read: Annotated[
        bool, typer.Option("--read", help="also read every file and compare its hash with that of its result")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record per difference")] = False,
) -> None:
    """Compare the watched folders with the database.

    Lists every file that the folders and the database do not agree on, and every inconsistency within the database.
    Changes nothing. A new file is a difference until the worker has seen it: use --wait 60.

    Exit code: 0 if nothing differs; 1 if something does; 3 if nothing does, but a folder or a file could not be read.
    """
    settings = read_settings(context)

    engine = open_database(settings)
    try:
        roots = watched_paths(settings, root) or list_root_paths(engine)
        if not roots:
            raise SettingsError("no folder to compare: name one with --root or in PREREAD_ROOTS")
        limit = settings.max_file_bytes if read else None
        found = compare(engine, roots, ReconcileOptions(wait, limit, progress=_Progress()))
    finally:
        engine.dispose()
    _print(found, json=json)
    if found.differences:
        raise typer.Exit(1)
    if found.unproven:
        raise typer.Exit(EnvironmentFault.exit_code)


class _Progress:
    """Prints the progress every few seconds."""

    def __init__(self) -> None:
        self._next_at = time.monotonic() + _PROGRESS_EVERY_S

    def __call__(self, line: str) -> None:
        if time.monotonic() >= self._next_at:
            print_message(line)
            self._next_at = time.monotonic() + _PROGRESS_EVERY_S


def _print(found: Reconciliation, *, json: bool) -> None:
    if json:
        for difference in found.differences:
            output.print_json(
                asdict(difference) | {"path": None if difference.path is None else reversible_path(difference.path)}
            )
    elif found.differences:
        rows = (
            (
                difference.code,
                str(difference.file_id or ""),
                f"{difference.root}/{display_path(difference.path)}" if difference.path else difference.root,
                difference.what,
            )
            for difference in found.differences
        )
        output.print_table(("difference", "id", "file", "what"), rows, medical=False)
    for fault in found.unproven:
        print_message(f"{fault} [{fault.code}]")
    pending = ", ".join(f"{count} {state.value}" for state, count in sorted(found.owed.items()))
    print_message(f"{found.files} files in the folders; pending: {pending or 'none'}")
    if found.contents:
        print_message(f"{found.contents} files were read and have the content of their result")
    kinds = Counter(difference.code for difference in found.differences)
    summary = ", ".join(f"{code} {count}" for code, count in kinds.most_common())
    print_message(f"{kinds.total()} differences: {summary}" if kinds else "nothing differs")
