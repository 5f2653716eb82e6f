"""What the commands share that act on single films: which ones, counted, asked for, done."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import typer
from sqlalchemy import Engine

from preread.cli import context as door
from preread.cli import output
from preread.cli.invoking_user import confirmed, user_name
from preread.cli.views import local
from preread.core.errors import UsageError
from preread.core.jsonable import reversible_path
from preread.core.types import FileState, JSONObject
from preread.ledger.ledger import Ledger
from preread.ledger.selection import Entry, Group, Selection, entries, groups, root_id_of
from preread.review.results import iso

PAGE = 500
MAX_ID = 2**63 - 1
CODE_OPTION = typer.Option(help="only with this code, e.g. slot_crashed or age_unknown")
ROOTS_OPTION = typer.Option("--root", help="only in this watched folder, may be repeated")


def with_database(context: typer.Context, act: Callable[[Engine], bool]) -> None:
    """Run ``act`` on the database; exit code 1 unless it returns that all went as meant."""
    with door.database(context) as engine:
        done = act(engine)
    if not done:
        raise typer.Exit(1)


def reopen(
    engine: Engine,
    selection: Selection,
    meant: Sequence[Group],
    states: Sequence[FileState],
    verb: str,
    *,
    yes: bool,
    dry_run: bool = False,
) -> bool:
    """Count what is meant, ask, and make it READY."""
    total = sum(group.files for group in meant)
    if not total:
        output.say("no file matches that could be read again")
        return False
    rows = ((str(g.files), g.state.value, g.outcome.value if g.outcome else "", g.code or "") for g in meant)
    output.print_table(("files", "state", "outcome until now", "code"), rows, medical=False)
    if dry_run:
        output.say(f"{say_files(total)} would be read again")
        return True
    if not confirmed(f"have {say_files(total)} read again?", yes=yes):
        return False
    ledger, why = ledger_of(engine), f"{verb} by {user_name()}"
    chosen = dataclasses.replace(selection, states=_both(selection.states, states))
    moved = after = 0
    while page := entries(engine, chosen, after_file_id=after, limit=PAGE):
        after = page[-1].file_id
        moved += ledger.reopen([one.file_id for one in page], why, states=states)
    output.say(f"{say_files(moved)} ready to be read again")
    if moved < total:
        output.say(f"{say_files(total - moved)} changed state meanwhile and were left as they are")
    return moved == total


def _both(chosen: Sequence[FileState] | None, possible: Sequence[FileState]) -> tuple[FileState, ...]:
    return tuple(state for state in possible if chosen is None or state in chosen)


def ledger_of(engine: Engine) -> Ledger:
    """Return the verbs, for a command."""
    return Ledger(engine, worker_id=f"operator-{os.getpid()}", lease_s=60.0)


def sort_paths(engine: Engine, paths: Sequence[str] | None) -> tuple[list[str], tuple[bytes, ...] | None]:
    """Return the paths that no watched folder knows, and the others as the database spells them."""
    if not paths:
        return [], None

    unknown: list[str] = []
    known: list[bytes] = []
    for path in paths:
        folder, name = os.path.split(os.path.abspath(path))
        # a root may be registered by its real path, and the caller may stand behind a link
        spellings = {os.path.join(folder, name), os.path.join(os.path.realpath(folder), name)}
        found = tuple(one for one in map(os.fsencode, sorted(spellings)) if groups(engine, Selection(paths=(one,))))
        if found:
            known.extend(found)
        else:
            unknown.append(path)
            output.say(f"no watched folder of this database knows {path}: `preread explain` tells more")
    return unknown, tuple(known)


def root_ids_of(engine: Engine, roots: Sequence[Path] | None) -> tuple[int, ...] | None:
    """Return the ids of these watched folders, ``None`` where none is named."""
    if not roots:
        return None

    ids = []
    for path in roots:
        root_id = root_id_of(engine, os.fsencode(os.path.abspath(path)))
        if root_id is None:
            raise UsageError(f"this database knows no watched folder {path}")
        ids.append(root_id)
    return tuple(ids)


def all_entries(engine: Engine, selection: Selection) -> Iterator[Entry]:
    """Yield a whole selection, page by page."""
    after = 0
    while page := entries(engine, selection, after_file_id=after, limit=PAGE):
        yield from page
        after = page[-1].file_id


def print_entries(engine: Engine, selection: Selection, nothing: str, *, json: bool) -> None:
    """Print a selection as a table, or as JSON Lines."""
    found = all_entries(engine, selection)
    if json:
        for one in found:
            output.print_json(_record(one))
        return
    rows = [
        (str(one.file_id), local(one.since), f"{one.root_text}/{one.path_text}", one.code or "", one.reason or "")
        for one in found
    ]
    if rows:
        output.print_table(("id", "since", "file", "code", "reason"), rows, medical=False)
        output.say(say_files(len(rows)))
    else:
        output.say(nothing)


def _record(entry: Entry) -> JSONObject:
    return {
        "id": entry.file_id,
        "root": entry.root_text,
        "path": reversible_path(entry.path),
        "state": entry.state.value,
        "code": entry.code,
        "reason": entry.reason,
        "size_bytes": entry.size_bytes,
        "attempts": entry.attempts,
        "since": iso(entry.since),
    }


def say_files(count: int) -> str:
    """Say how many files."""
    return "1 file" if count == 1 else f"{count} files"
