"""``preread requeue``: queue files to be assessed again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer
from sqlalchemy import Engine

from preread.cli.invoking_user import YES_OPTION
from preread.cli.messages import print_message
from preread.cli.selection_options import (
    CODE_OPTION,
    MAX_ID,
    ROOTS_OPTION,
    find_paths,
    format_file_count,
    requeue_files,
    root_ids_of,
    run_with_database,
)
from preread.core.errors import UsageError
from preread.core.types import FileState, Outcome
from preread.ledger.selection import REQUEUED_FROM, Selection, count_by_outcome


class StateName(StrEnum):
    """States from which a file can be requeued, as ``REQUEUED_FROM``."""

    DONE = "done"
    QUARANTINED = "quarantined"
    RETRY = "retry"


OutcomeName = Literal["assessed", "refused", "unreadable"]
_WHY_NOT = {
    "settling": "not complete yet, assessed as soon as they are",
    "ready": "already waiting to be assessed",
    "claimed": "being assessed now",
    "vanished": "no longer in the folder; their results stay",
    "missed": "deleted before assessment",
    "superseded": "replaced by a newer version",
    "ignored": "ignored by a rule (see `preread explain PATH`)",
}


def requeue(
    context: typer.Context,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH", help="files, and folders with everything below them")
    ] = None,
    ids: Annotated[
        list[int] | None, typer.Option("--id", min=1, max=MAX_ID, help="the ID of a result; may be repeated")
    ] = None,
    state: Annotated[list[StateName] | None, typer.Option(help="only files in this state; may be repeated")] = None,
    outcome: Annotated[OutcomeName | None, typer.Option(help="only files with this outcome")] = None,
    code: Annotated[str | None, CODE_OPTION] = None,
    root: Annotated[list[Path] | None, ROOTS_OPTION] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be assessed again, and exit")] = False,
    yes: Annotated[bool, YES_OPTION] = False,
) -> None:
    """Queue files to be assessed again.

    Files that are done, quarantined or waiting for a retry become ready for the worker at once.

    The present result is valid until the new one is committed, and stays in the history. The same bundle gives the same
    result for the same bytes: assess a file again if its bundle, the declaration of its folder or Preread has changed.

    Exit code: 0 if every selected file is ready now, or would be; 1 if there is none, if no watched folder knows a
    path, or if it was not confirmed.
    """
    if not any((paths, ids, state, outcome, code, root)):
        raise UsageError("select files with PATH, --id, --state, --outcome, --code or --root")

    def action(engine: Engine) -> bool:
        unknown, known = find_paths(engine, paths)
        if paths and not known:
            return False
        selection = Selection(
            file_ids=tuple(ids) if ids else None,
            paths=known,
            states=tuple(map(FileState, state)) if state else None,
            code=code,
            outcome=Outcome(outcome) if outcome else None,
            root_ids=root_ids_of(engine, root),
        )
        for group in count_by_outcome(engine, selection):
            if group.state not in REQUEUED_FROM:
                print_message(f"{format_file_count(group.files)} left unchanged: {_WHY_NOT[group.state.value]}")
        done = requeue_files(engine, selection, REQUEUED_FROM, "requeued", yes=yes, dry_run=dry_run)
        return done and not unknown

    run_with_database(context, action)
