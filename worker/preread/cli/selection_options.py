"""Options and actions of the commands that select single files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import typer
from sqlalchemy import Engine

from preread.cli import output
from preread.cli.context import command_database
from preread.cli.formatting import local_time
from preread.cli.invoking_user import confirmed, user_name
from preread.cli.messages import print_message
from preread.core.errors import UsageError
from preread.core.jsonable import reversible_path
from preread.core.types import FileState, JSONObject
from preread.ledger.ledger import Ledger
from preread.ledger.selection import Entry, Selection, count_by_outcome, find_root_id, read_entry_pages
from preread.review.results import format_utc

MAX_ID = 2**63 - 1
CODE_OPTION = typer.Option(help="only files with this code, e.g. slot_crashed or age_unknown")
ROOTS_OPTION = typer.Option("--root", help="only files in this watched folder; may be repeated")


def run_with_database(context: typer.Context, action: Callable[[Engine], bool]) -> None:
    """Run an action on the database of the settings.

    Args:
        context: context of the command.
        action: returns whether everything was done as requested.

    Raises:
        typer.Exit: with code 1 if the action returns ``False``.
    """
    with command_database(context) as engine:
        done = action(engine)
    if not done:
        raise typer.Exit(1)


def requeue_files(
    engine: Engine,
    selection: Selection,
    states: Sequence[FileState],
    verb: str,
    *,
    yes: bool,
    dry_run: bool = False,
) -> bool:
    """Count the selected files, ask for confirmation, and make them READY.

    Args:
        engine: database.
        selection: the files.
        states: states from which a file may be requeued; files in other states are left unchanged.
        verb: participle for the history, as "requeued".
        yes: do not ask.
        dry_run: only count.

    Returns:
        ``True`` if every selected file is ready now, or would be; ``False`` if there is none, if the user declined, or
        if a file changed its state in the meantime.
    """
    selected = [group for group in count_by_outcome(engine, selection) if group.state in states]
    total = sum(group.files for group in selected)
    if not total:
        print_message("no file matches that can be assessed again")
        return False
    rows = ((str(g.files), g.state.value, g.outcome.value if g.outcome else "", g.code or "") for g in selected)
    output.print_table(("files", "state", "outcome until now", "code"), rows, medical=False)
    if dry_run:
        print_message(f"{format_file_count(total)} would be assessed again")
        return True
    if not confirmed(f"assess {format_file_count(total)} again?", yes=yes):
        return False
    ledger, why = operator_ledger(engine), f"{verb} by {user_name()}"
    chosen = dataclasses.replace(selection, states=_intersection(selection.states, states))
    moved = 0
    for page in read_entry_pages(engine, chosen):
        moved += ledger.requeue([entry.file_id for entry in page], why, states=states)
    print_message(f"{format_file_count(moved)} ready to be assessed again")
    if moved < total:
        print_message(f"{format_file_count(total - moved)} changed state in the meantime and were left unchanged")
    return moved == total


def _intersection(chosen: Sequence[FileState] | None, possible: Sequence[FileState]) -> tuple[FileState, ...]:
    return tuple(state for state in possible if chosen is None or state in chosen)


def operator_ledger(engine: Engine) -> Ledger:
    """Return a ledger for a command of an operator."""
    return Ledger(engine, worker_id=f"operator-{os.getpid()}", lease_s=60.0)


def find_paths(engine: Engine, paths: Sequence[str] | None) -> tuple[list[str], tuple[bytes, ...] | None]:
    """Look up paths in the database; unknown ones are named on standard error.

    Args:
        engine: database.
        paths: files and folders of the command line.

    Returns:
        The paths that no watched folder of the database contains, and the others as the database spells them;
        ``None`` instead of the latter if no path is given.
    """
    if not paths:
        return [], None
    unknown: list[str] = []
    known: list[bytes] = []
    for path in paths:
        folder, name = os.path.split(os.path.abspath(path))
        # a watched folder may be registered by its real path, while the path leads through a symbolic link
        spellings = {os.path.join(folder, name), os.path.join(os.path.realpath(folder), name)}
        found = tuple(
            spelling
            for spelling in map(os.fsencode, sorted(spellings))
            if count_by_outcome(engine, Selection(paths=(spelling,)))
        )
        if found:
            known.extend(found)
        else:
            unknown.append(path)
            print_message(f"no watched folder of this database knows {path}: see `preread explain {path}`")
    return unknown, tuple(known)


def root_ids_of(engine: Engine, roots: Sequence[Path] | None) -> tuple[int, ...] | None:
    """Return the database IDs of watched folders; ``None`` if none is given.

    Raises:
        UsageError: the database does not know one of them.
    """
    if not roots:
        return None
    ids = []
    for path in roots:
        root_id = find_root_id(engine, os.fsencode(os.path.abspath(path)))
        if root_id is None:
            raise UsageError(f"this database knows no watched folder {path}")
        ids.append(root_id)
    return tuple(ids)


def all_entries(engine: Engine, selection: Selection) -> Iterator[Entry]:
    """Yield the files of a selection by ascending ID."""
    return chain.from_iterable(read_entry_pages(engine, selection))


def report_unselected(ids: Sequence[int] | None, found: Sequence[int], state: str) -> bool:
    """Print the requested IDs that are not among the selected files.

    Args:
        ids: IDs of the command line.
        found: IDs of the selected files.
        state: adjective for the message, as "quarantined".
    """
    unselected = sorted(set(ids or ()) - set(found))
    for file_id in unselected:
        print_message(f"{file_id} is not among the selected {state} files")
    return bool(unselected)


def print_entries(engine: Engine, selection: Selection, if_empty: str, *, json: bool) -> None:
    """Print the files of a selection as a table, or as JSON Lines.

    Args:
        engine: database.
        selection: the files.
        if_empty: message if there is none.
        json: print JSON Lines.
    """
    found = all_entries(engine, selection)
    if json:
        for entry in found:
            output.print_json(_to_json(entry))
        return
    rows = [
        (
            str(entry.file_id),
            local_time(entry.since),
            f"{entry.root_text}/{entry.path_text}",
            entry.code or "",
            entry.reason or "",
        )
        for entry in found
    ]
    if rows:
        output.print_table(("id", "since", "file", "code", "reason"), rows, medical=False)
        print_message(format_file_count(len(rows)))
    else:
        print_message(if_empty)


def _to_json(entry: Entry) -> JSONObject:
    return {
        "id": entry.file_id,
        "root": entry.root_text,
        "path": reversible_path(entry.path),
        "state": entry.state.value,
        "code": entry.code,
        "reason": entry.reason,
        "size_bytes": entry.size_bytes,
        "attempts": entry.attempts,
        "since": format_utc(entry.since),
    }


def format_file_count(count: int) -> str:
    """Return a number of files with its noun."""
    return "1 file" if count == 1 else f"{count} files"
