"""``preread quarantine`` and ``preread missed``: files to look after."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from preread.cli import formatting, output
from preread.cli.invoking_user import YES_OPTION, confirmed, user_name
from preread.cli.messages import print_message
from preread.cli.selection_options import (
    CODE_OPTION,
    MAX_ID,
    ROOTS_OPTION,
    all_entries,
    format_file_count,
    operator_ledger,
    print_entries,
    report_unselected,
    requeue_files,
    root_ids_of,
    run_with_database,
)
from preread.core.errors import PrereadError, UsageError, error_from_code
from preread.core.types import FileState
from preread.db.statements import chunks
from preread.ledger.selection import Selection
from preread.review import history
from preread.review.history import detail_to_json

quarantine = typer.Typer(help="List, show and release quarantined files.", no_args_is_help=True)
missed = typer.Typer(help="List files that were deleted before assessment.", no_args_is_help=True)
_JSON = typer.Option("--json", help="print JSON Lines, one record per file")
_IDS = typer.Argument(metavar="ID", help="the number in the first column of the list")


# ---------------------------------------------------------------------- quarantine


@quarantine.command("list")
def list_quarantined(
    context: typer.Context,
    code: Annotated[str | None, CODE_OPTION] = None,
    root: Annotated[list[Path] | None, ROOTS_OPTION] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """List quarantined files, by ascending ID.

    Exit code: 0, also if there is none.
    """

    def action(engine: Engine) -> bool:
        selection = Selection(states=(FileState.QUARANTINED,), code=code, root_ids=root_ids_of(engine, root))
        print_entries(engine, selection, "no file is quarantined", json=json)
        return True

    run_with_database(context, action)


@quarantine.command("show")
def show_quarantined(
    context: typer.Context,
    file_id: Annotated[int, typer.Argument(metavar="ID", min=1, max=MAX_ID, help="the number in the first column")],
    json: Annotated[bool, typer.Option("--json", help="print one JSON record")] = False,
) -> None:
    """Show why a file is quarantined, and what to do.

    Also shows the history of the file.

    Exit code: 0; 2 if no quarantined file has this ID.
    """

    def action(engine: Engine) -> bool:
        detail = history.load_result(engine, file_id)
        if detail is None or detail.row.state is not FileState.QUARANTINED:
            raise UsageError(f"no quarantined file has the ID {file_id}: `preread quarantine list` prints the IDs")
        remedy = error_from_code(detail.row.code or "", "", PrereadError).hint
        if json:
            output.print_json({**detail_to_json(detail), "remedy": remedy})
        else:
            output.print_pairs([*formatting.detail_pairs(detail), ("what to do", remedy)])
        return True

    run_with_database(context, action)


@quarantine.command("release")
def release(
    context: typer.Context,
    ids: Annotated[list[int] | None, _IDS] = None,
    code: Annotated[str | None, CODE_OPTION] = None,
    root: Annotated[list[Path] | None, ROOTS_OPTION] = None,
    every: Annotated[bool, typer.Option("--all", help="all quarantined files")] = False,
    yes: Annotated[bool, YES_OPTION] = False,
) -> None:
    """Queue quarantined files to be assessed again.

    Their count of attempts starts at zero; a file that fails again is quarantined again.

    Exit code: 0 if all selected files are ready now; 1 if there is none, if an ID is not quarantined, or if it was not
    confirmed.
    """
    if not any((ids, code, root, every)):
        raise UsageError("select files with ID, --code, --root or --all")

    def action(engine: Engine) -> bool:
        states = (FileState.QUARANTINED,)
        selection = Selection(tuple(ids) if ids else None, None, states, code, root_ids=root_ids_of(engine, root))
        found = [entry.file_id for entry in all_entries(engine, selection)] if ids else []
        unselected = report_unselected(ids, found, "quarantined")
        done = requeue_files(engine, selection, states, "released from quarantine", yes=yes)
        return done and not unselected

    run_with_database(context, action)


# ---------------------------------------------------------------------- missed


@missed.command("list")
def list_missed(
    context: typer.Context,
    root: Annotated[list[Path] | None, ROOTS_OPTION] = None,
    every: Annotated[bool, typer.Option("--all", help="also acknowledged files, and files that were renamed")] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """List files that were deleted before assessment.

    They are listed by ascending ID.

    Exit code: 0, also if there is none.
    """

    def action(engine: Engine) -> bool:
        roots = root_ids_of(engine, root)
        selection = Selection(states=(FileState.MISSED,), root_ids=roots, unknown_only=not every)
        print_entries(engine, selection, "no file was missed", json=json)
        return True

    run_with_database(context, action)


@missed.command("acknowledge")
def acknowledge(
    context: typer.Context,
    ids: Annotated[list[int] | None, _IDS] = None,
    root: Annotated[list[Path] | None, ROOTS_OPTION] = None,
    every: Annotated[bool, typer.Option("--all", help="all files that `preread missed list` prints")] = False,
    yes: Annotated[bool, YES_OPTION] = False,
) -> None:
    """Acknowledge missed files.

    They stay in the history, and `preread status` no longer reports them as critical.

    Exit code: 0 if all selected files are acknowledged; 1 if there is none, if an ID is not among them, or if it was
    not confirmed.
    """
    if not any((ids, root, every)):
        raise UsageError("select files with ID, --root or --all")

    def action(engine: Engine) -> bool:
        roots = root_ids_of(engine, root)
        selection = Selection(tuple(ids) if ids else None, None, (FileState.MISSED,), root_ids=roots, unknown_only=True)
        found = [entry.file_id for entry in all_entries(engine, selection)]
        unselected = report_unselected(ids, found, "missed")
        if not found:
            print_message("no missed file matches")
            return False
        question = f"acknowledge {format_file_count(len(found))} deleted before assessment?"
        if not confirmed(question, yes=yes):
            return False
        ledger, why = operator_ledger(engine), f"acknowledged by {user_name()}"
        count = sum(ledger.acknowledge_missed(batch, why) for batch in chunks(found))
        print_message(f"{format_file_count(count)} acknowledged")
        return count == len(found) and not unselected

    run_with_database(context, action)
