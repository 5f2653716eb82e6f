"""``preread requeue``: having films read again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer
from sqlalchemy import Engine

from preread.cli import output
from preread.cli import selection_options as upkeep
from preread.cli.invoking_user import YES_OPTION
from preread.core.errors import UsageError
from preread.core.types import FileState, Outcome
from preread.ledger.selection import REQUEUED_FROM, Selection, groups


class StateName(StrEnum):
    """The states from which a film can be put back into the queue: ``upkeep.REQUEUED_FROM``."""

    DONE = "done"
    QUARANTINED = "quarantined"
    RETRY = "retry"


OutcomeName = Literal["assessed", "refused", "unreadable"]
_WHY_NOT = {
    "settling": "still settling, they are read as soon as they stand still",
    "ready": "ready already",
    "claimed": "being read now",
    "vanished": "no longer in the folder; they are as they were when they come back",
    "missed": "they went away before they were read",
    "superseded": "a newer version took their place",
    "ignored": "a rule leaves them out (`preread explain PATH` says which)",
}


def requeue(
    context: typer.Context,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH", help="films, and folders with everything below them")
    ] = None,
    ids: Annotated[
        list[int] | None, typer.Option("--id", min=1, max=upkeep.MAX_ID, help="the ID of a result, may be repeated")
    ] = None,
    state: Annotated[list[StateName] | None, typer.Option(help="only in this state, may be repeated")] = None,
    outcome: Annotated[OutcomeName | None, typer.Option(help="only what ended so")] = None,
    code: Annotated[str | None, upkeep.CODE_OPTION] = None,
    root: Annotated[list[Path] | None, upkeep.ROOTS_OPTION] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be read again, and end")] = False,
    yes: Annotated[bool, YES_OPTION] = False,
) -> None:
    """Queue files to be assessed again.

    Files that are done, quarantined or waiting for a retry become ready for the worker at once.

    What they were answered before stays in force until the new answer is there, and in their history afterwards. The
    same bundle gives the same bytes the same answer: a film is worth reading again when its bundle, its folder's
    declaration or Preread itself is another.

    Exit code: 0 when every film that was meant is ready now, or would be; 1 when there is none, when a path is known to
    no watched folder, or when it was declined.
    """
    if not any((paths, ids, state, outcome, code, root)):
        raise UsageError("say which films: PATH, --id, --state, --outcome, --code or --root")

    def act(engine: Engine) -> bool:
        unknown, known = upkeep.sort_paths(engine, paths)
        if paths and not known:
            return False
        selection = Selection(
            file_ids=tuple(ids) if ids else None,
            paths=known,
            states=tuple(map(FileState, state)) if state else None,
            code=code,
            outcome=Outcome(outcome) if outcome else None,
            root_ids=upkeep.root_ids_of(engine, root),
        )
        found = groups(engine, selection)
        meant = [group for group in found if group.state in REQUEUED_FROM]
        for group in found:
            if group not in meant:
                output.say(f"{upkeep.say_files(group.files)} left as they are: {_WHY_NOT[group.state.value]}")
        done = upkeep.reopen(engine, selection, meant, REQUEUED_FROM, "requeued", yes=yes, dry_run=dry_run)
        return done and not unknown

    upkeep.with_database(context, act)
