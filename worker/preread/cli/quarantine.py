"""``preread quarantine`` and ``preread missed``: files that were set aside, and films that went away unread."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from preread.cli import output, views
from preread.cli import selection_options as upkeep
from preread.cli.invoking_user import YES_OPTION, confirmed, user_name
from preread.core.errors import PrereadError, UsageError, error_from_code
from preread.core.types import FileState
from preread.ledger.selection import Selection, groups
from preread.review import history
from preread.review.history import detail_to_json

quarantine = typer.Typer(help="List, show and release quarantined files.", no_args_is_help=True)
missed = typer.Typer(help="List files that were deleted before assessment.", no_args_is_help=True)
_JSON = typer.Option("--json", help="print JSON Lines, one record a file")
_IDS = typer.Argument(metavar="ID", help="the number in the first column of the list")


# ---------------------------------------------------------------------- quarantine


@quarantine.command("list")
def list_quarantined(
    context: typer.Context,
    code: Annotated[str | None, upkeep.CODE_OPTION] = None,
    root: Annotated[list[Path] | None, upkeep.ROOTS_OPTION] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """List quarantined files, by ascending ID.

    Exit code: 0, also when nothing is.
    """

    def act(engine: Engine) -> bool:
        selection = Selection(states=(FileState.QUARANTINED,), code=code, root_ids=upkeep.root_ids_of(engine, root))
        upkeep.print_entries(engine, selection, "nothing is quarantined", json=json)
        return True

    upkeep.with_database(context, act)


@quarantine.command("show")
def show_quarantined(
    context: typer.Context,
    file_id: Annotated[
        int, typer.Argument(metavar="ID", min=1, max=upkeep.MAX_ID, help="the number in the first column")
    ],
    json: Annotated[bool, typer.Option("--json", help="print one JSON record")] = False,
) -> None:
    """Show why a file is quarantined, and what to do.

    Exit code: 0; 2 when no quarantined file has this ID.
    """

    def act(engine: Engine) -> bool:
        detail = history.show(engine, file_id)
        if detail is None or detail.row.state is not FileState.QUARANTINED:
            raise UsageError(f"no quarantined file has the ID {file_id}: `preread quarantine list` shows those that do")
        remedy = error_from_code(detail.row.code or "", "", PrereadError).hint
        if json:
            output.print_json({**detail_to_json(detail), "remedy": remedy})
        else:
            output.print_pairs([*views.detail_pairs(detail), ("what to do", remedy)])
        return True

    upkeep.with_database(context, act)


@quarantine.command("release")
def release(
    context: typer.Context,
    ids: Annotated[list[int] | None, _IDS] = None,
    code: Annotated[str | None, upkeep.CODE_OPTION] = None,
    root: Annotated[list[Path] | None, upkeep.ROOTS_OPTION] = None,
    every: Annotated[bool, typer.Option("--all", help="everything that is quarantined")] = False,
    yes: Annotated[bool, YES_OPTION] = False,
) -> None:
    """Queue quarantined files to be assessed again.

    Their count of attempts starts at zero; a file that fails again is quarantined again.

    Exit code: 0 when all that were meant are ready now; 1 when there is none, when an ID is not quarantined, or when it
    was declined.
    """
    if not any((ids, code, root, every)):
        raise UsageError("say which files: ID, --code, --root or --all")

    def act(engine: Engine) -> bool:
        states = (FileState.QUARANTINED,)
        selection = Selection(
            tuple(ids) if ids else None, None, states, code, root_ids=upkeep.root_ids_of(engine, root)
        )
        strangers = (
            sorted(set(ids or ()) - {one.file_id for one in upkeep.all_entries(engine, selection)}) if ids else []
        )
        for stranger in strangers:
            output.say(f"{stranger} is not among the quarantined files that are meant")
        found = groups(engine, selection)
        return upkeep.reopen(engine, selection, found, states, "released from quarantine", yes=yes) and not strangers

    upkeep.with_database(context, act)


# ---------------------------------------------------------------------- missed


@missed.command("list")
def list_missed(
    context: typer.Context,
    root: Annotated[list[Path] | None, upkeep.ROOTS_OPTION] = None,
    every: Annotated[bool, typer.Option("--all", help="also what is acknowledged, and what was only renamed")] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """List files that were deleted before assessment.

    Exit code: 0, also when there is none.
    """

    def act(engine: Engine) -> bool:
        roots = upkeep.root_ids_of(engine, root)
        selection = Selection(states=(FileState.MISSED,), root_ids=roots, unknown_only=not every)
        upkeep.print_entries(engine, selection, "no film was missed", json=json)
        return True

    upkeep.with_database(context, act)


@missed.command("acknowledge")
def acknowledge(
    context: typer.Context,
    ids: Annotated[list[int] | None, _IDS] = None,
    root: Annotated[list[Path] | None, upkeep.ROOTS_OPTION] = None,
    every: Annotated[bool, typer.Option("--all", help="all that `preread missed list` shows")] = False,
    yes: Annotated[bool, YES_OPTION] = False,
) -> None:
    """Acknowledge missed files.

    They stay in the history, and `preread status` no longer reports them as critical.

    Exit code: 0 when all that were meant are acknowledged; 1 when there is none, when an ID is not among them, or when
    it was declined.
    """
    if not any((ids, root, every)):
        raise UsageError("say which films: ID, --root or --all")

    def act(engine: Engine) -> bool:
        roots = upkeep.root_ids_of(engine, root)
        selection = Selection(tuple(ids) if ids else None, None, (FileState.MISSED,), root_ids=roots, unknown_only=True)
        found = [one.file_id for one in upkeep.all_entries(engine, selection)]
        strangers = sorted(set(ids or ()) - set(found))
        for stranger in strangers:
            output.say(f"{stranger} is not among the missed films that are meant")
        if not found:
            output.say("no missed film matches")
            return False
        if not confirmed(f"acknowledge {upkeep.say_files(len(found))} that went away before being read?", yes=yes):
            return False
        ledger, why = upkeep.ledger_of(engine), f"acknowledged by {user_name()}"
        count = sum(
            ledger.acknowledge_missed(found[at : at + upkeep.PAGE], why) for at in range(0, len(found), upkeep.PAGE)
        )
        output.say(f"{upkeep.say_files(count)} acknowledged")
        return count == len(found) and not strangers

    upkeep.with_database(context, act)
