"""``preread results`` and ``preread explain``: stored results."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, TypeVar

import typer
from sqlalchemy import Engine

from preread.cli import formatting, identifiers, output
from preread.cli.context import open_database, read_settings
from preread.cli.invoking_user import actor
from preread.cli.messages import print_message
from preread.core.errors import UsageError
from preread.core.text.wording import caveat_notes, predictive_value_notes
from preread.core.types import Answer, Caveat, Finding, Outcome
from preread.db.engine import write
from preread.review import audit, disclosures, history
from preread.review.history import Explanation, ResultDetail, detail_to_json, list_root_paths
from preread.review.results import ResultFilter, result_to_json, stream_results
from preread.share.ignore_rules import RULES, match_path_rule

T = TypeVar("T")
AnswerName = Literal["flagged", "uncertain", "not_flagged"]
OutcomeName = Literal["assessed", "refused", "unreadable"]
TABLE_LIMIT = 100
_AGO = re.compile(r"(\d{1,6})\s*(s|m|min|h|d|w)")
_UNIT = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}

app = typer.Typer(invoke_without_command=True)
_SINCE_HELP = "a time (2026-03-31, 2026-03-31T14:00) or how long ago (2h, 3d)"


@app.callback()
def results(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(metavar="TIME", help=f"committed since: {_SINCE_HELP}")] = None,
    acquired_since: Annotated[
        str | None, typer.Option(metavar="TIME", help="acquired since, on the modality's clock: as --since")
    ] = None,
    answer: Annotated[AnswerName | None, typer.Option(help="only images with this AI result")] = None,
    outcome: Annotated[OutcomeName | None, typer.Option(help="only files with this outcome")] = None,
    code: Annotated[str | None, typer.Option(help="only files refused or unreadable with this code")] = None,
    patient: Annotated[
        str | None,
        typer.Option(metavar="-", help="only this Patient ID, read from standard input: write `-`, never the ID"),
    ] = None,
    accession: Annotated[
        str | None,
        typer.Option(metavar="-", help="only this Accession Number, on standard input, after the Patient ID if any"),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=0, help=f"number of results; 0 for all; default {TABLE_LIMIT}, all with --json, --csv"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record per file")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="print CSV, one row per finding")] = False,
) -> None:
    """List stored results, or show one in full.

    The newest result comes first. `preread results show ID` shows one with its history.

    Exit code: 0, also if nothing matches; 2 or 3 if the database cannot be used.
    """
    if context.invoked_subcommand is not None:
        return

    if json and csv:
        raise UsageError("--json and --csv cannot be combined: give one of them")
    all_by_default = None if json or csv else TABLE_LIMIT
    now = datetime.now(UTC)
    wanted = ResultFilter(
        since=None if since is None else parse_time(since, now),
        acquired_since=None if acquired_since is None else parse_time(acquired_since, now),
        answer=Answer(answer) if answer else None,
        outcome=Outcome(outcome) if outcome else None,
        code=code,
        patient_id=_read_patient_id(patient),
        accession_number=identifiers.read(accession, "--accession", "Accession Number"),
        limit=all_by_default if limit is None else (limit or None),
    )
    _on_database(context, lambda engine: _print(engine, wanted, json=json, csv=csv))


@app.command("show")
def show(
    context: typer.Context,
    result_id: Annotated[
        int, typer.Argument(metavar="ID", min=1, max=2**63 - 1, help="the number in the first column of `results`")
    ],
    json: Annotated[bool, typer.Option("--json", help="print one JSON record")] = False,
) -> None:
    """Show one result in full, with its history.

    Exit code: 0; 2 if there is no result with this ID.
    """

    def look(engine: Engine) -> ResultDetail | None:
        found = history.load_result(engine, result_id)
        if found is not None:
            seen = f"film:{result_id}"
            write(engine, lambda connection, _: audit.append_entry(connection, actor(), audit.Action.VIEW, seen))
        return found

    detail = _on_database(context, look)
    if detail is None:
        raise UsageError(f"there is no result {result_id}: `preread results` lists them")
    if json:
        output.print_json(detail_to_json(detail))
    else:
        output.print_pairs(formatting.detail_pairs(detail))


def explain(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="a file in a watched folder, even if it was deleted")],
    json: Annotated[
        bool, typer.Option("--json", help="print JSON Lines, one record per watched folder that knows it")
    ] = False,
) -> None:
    """Explain why a file has a result, or has none.

    Prints one sentence and the history of the file.

    Exit code: 0; 1 if no watched folder knows the path.
    """
    found, known = _on_database(
        context, lambda engine: (_explanations(engine, path), [os.fsdecode(root) for root in list_root_paths(engine)])
    )
    for explanation in found:
        if json:
            output.print_json(formatting.explanation_to_json(explanation))
        else:
            output.print_text(formatting.explanation_text(explanation))
            output.print_table(("when", "version", "state", "why"), formatting.history_rows(explanation))
    if not found:
        # a folder given by `--root` only is not in the settings
        named = [str(root.path) for root in read_settings(context).roots]
        print_message(_unknown(path, list({os.path.abspath(root): root for root in (*known, *named)}.values())))
        raise typer.Exit(1)


def _print(engine: Engine, wanted: ResultFilter, *, json: bool, csv: bool) -> None:
    found = disclosures.record_while_listing(engine, actor(), stream_results(engine, wanted))
    if csv:
        output.print_csv(formatting.CSV_COLUMNS, (row for result in found for row in formatting.csv_rows(result)))
    elif json:
        for result in found:
            output.print_json(result_to_json(result))
    else:
        narrow = output.is_narrow()
        rows = []
        caveats: set[Caveat] = set()
        answered: set[tuple[str, Finding]] = set()
        for result in found:
            rows.append(formatting.result_block(result) if narrow else formatting.result_row(result))
            caveats.update(result.caveats)
            answered.update((result.bundle or "", finding) for finding in result.findings)
        if not rows:
            print_message("no result matches")
            return
        notes = (*predictive_value_notes(answered), *caveat_notes(caveats))
        if narrow:
            output.print_blocks(rows, notes=notes)
        else:
            output.print_table(formatting.TABLE_COLUMNS, rows, notes=notes)
        if len(rows) == wanted.limit:
            print_message(f"these are the newest {len(rows)}; use --limit 0 for all")


def _on_database(context: typer.Context, action: Callable[[Engine], T]) -> T:
    settings = read_settings(context)
    engine = open_database(settings)
    try:
        return action(engine)
    finally:
        engine.dispose()


def parse_time(text: str, now: datetime) -> datetime:
    """Parse a point in time: ISO 8601, or a duration before now.

    Args:
        text: ``2h``, ``3d``, ``2026-03-31``, ``2026-03-31T14:00`` or the same with an offset.
        now: aware time from which a duration is counted back.

    Returns:
        An aware time; one without an offset is this machine's local time.

    Raises:
        UsageError: the text is none of these.
    """
    stripped = text.strip()
    try:
        if ago := _AGO.fullmatch(stripped.lower()):
            return now - timedelta(**{_UNIT[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(stripped).astimezone()
    except (ValueError, OverflowError):
        raise UsageError(f"invalid time {text!r}: write 2h, 3d, 2026-03-31 or 2026-03-31T14:00") from None


def _read_patient_id(option: str | None) -> str | None:
    if option is None:
        return None
    if option != "-":
        raise UsageError(
            "a Patient ID as an argument is visible in the shell's history and in the list of processes: use "
            "--patient - and write the ID to standard input"
        )
    return identifiers.read(option, "--patient", "Patient ID")


def _explanations(engine: Engine, path: str) -> list[Explanation]:
    folder, name = os.path.split(os.path.abspath(path))
    # a watched folder may be registered by its real path, while the path leads through a symbolic link
    candidates = [os.path.join(folder, name), os.path.join(os.path.realpath(folder), name), path]
    for candidate in dict.fromkeys(candidates):
        if found := history.explain_path(engine, os.fsencode(candidate)):
            return found
    return []


def _unknown(path: str, roots: Sequence[str]) -> str:
    """Return a message about a path that no scan has seen.

    Args:
        path: the path of the command line.
        roots: the watched folders of the settings and of the database.
    """
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        there = f"It cannot be accessed ({error.strerror})."
    else:
        there = "It exists." if stat.S_ISREG(mode) else "It exists, but is not a regular file."
    said = f"No watched folder of this database knows {path}. {there}"
    whole = os.path.abspath(path)
    # as in _explanations
    real = os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
    for root, candidate in itertools.product(roots, dict.fromkeys((whole, real))):
        inside = os.path.relpath(candidate, os.path.abspath(root))
        if inside.split(os.sep)[0] == os.pardir:
            continue
        rule = match_path_rule(os.fsencode(inside))
        why = f"it is ignored: {RULES[rule]}" if rule else "no scan has seen it yet: check with `preread status`"
        return f"{said} It is in the watched folder {root}; {why}"
    return f"{said} It is in none of the {len(roots)} watched folders of the settings and of this database"
