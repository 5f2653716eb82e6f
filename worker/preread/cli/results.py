"""``preread results`` and ``preread explain``: what is committed, for people and for programs."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

import typer
from sqlalchemy import Engine

from preread.cli import context as door
from preread.cli import identifiers, output, views
from preread.cli.invoking_user import actor
from preread.cli.times import since
from preread.core.errors import UsageError
from preread.core.text.wording import caveat_notes, predictive_value_notes
from preread.core.types import Answer, Caveat, Finding, Outcome
from preread.db.engine import write
from preread.review import audit, disclosures, history
from preread.review import results as stored
from preread.review.history import Explanation, ResultDetail, detail_to_json, root_paths
from preread.review.results import ResultFilter, result_to_json
from preread.share.ignore_rules import RULES, path_rule

T = TypeVar("T")
AnswerName = Literal["flagged", "uncertain", "not_flagged"]
OutcomeName = Literal["assessed", "refused", "unreadable"]
TABLE_LIMIT = 100

app = typer.Typer(invoke_without_command=True)
_SINCE_HELP = "a time (2026-03-31, 2026-03-31T14:00) or how long ago (2h, 3d)"


@app.callback()
def results(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(metavar="TIME", help=f"committed since: {_SINCE_HELP}")] = None,
    acquired_since: Annotated[
        str | None, typer.Option(metavar="TIME", help="taken since, on the modality's clock: the same")
    ] = None,
    answer: Annotated[AnswerName | None, typer.Option(help="only films with this answer")] = None,
    outcome: Annotated[OutcomeName | None, typer.Option(help="only films that ended so")] = None,
    code: Annotated[str | None, typer.Option(help="only films refused or unreadable with this code")] = None,
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
        typer.Option(min=0, help=f"the newest so many; 0 for all; default {TABLE_LIMIT}, all with --json, --csv"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record a file")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="print CSV, one row a finding")] = False,
) -> None:
    """List stored results, or show one in full.

    The newest result comes first. `preread results show ID` shows one with its history.

    Exit code: 0, also when nothing matches; 2 or 3 when the database cannot be used.
    """
    if context.invoked_subcommand is not None:
        return

    if json and csv:
        raise UsageError("--json and --csv exclude each other")
    all_by_default = None if json or csv else TABLE_LIMIT
    now = datetime.now(UTC)
    wanted = ResultFilter(
        since=_time(since, now),
        acquired_since=_time(acquired_since, now),
        answer=Answer(answer) if answer else None,
        outcome=Outcome(outcome) if outcome else None,
        code=code,
        patient_id=_read_patient_id(patient),
        accession_number=identifiers.read(accession, "--accession", "Accession Number"),
        limit=all_by_default if limit is None else (limit or None),
    )
    _with_database(context, lambda engine: _print(engine, wanted, json=json, csv=csv))


@app.command("show")
def show(
    context: typer.Context,
    result_id: Annotated[
        int, typer.Argument(metavar="ID", min=1, max=2**63 - 1, help="the number in the first column of `results`")
    ],
    json: Annotated[bool, typer.Option("--json", help="print one JSON record")] = False,
) -> None:
    """Show one result in full, with its history.

    Exit code: 0; 2 when there is no result with this ID.
    """

    def look(engine: Engine) -> ResultDetail | None:
        found = history.show(engine, result_id)
        if found is not None:
            seen = f"film:{result_id}"
            write(engine, lambda connection, _: audit.append(connection, actor(), audit.Action.VIEW, seen))
        return found

    detail = _with_database(context, look)
    if detail is None:
        raise UsageError(f"there is no result {result_id}: `preread results` lists them")
    if json:
        output.print_json(detail_to_json(detail))
    else:
        output.print_pairs(views.detail_pairs(detail))


def explain(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="a file in a watched folder, also one that is gone")],
    json: Annotated[
        bool, typer.Option("--json", help="print JSON Lines, one record for each root that knows it")
    ] = False,
) -> None:
    """Explain why a file has a result, or has none.

    Prints one sentence and the history of the file.

    Exit code: 0; 1 when no watched folder knows the path.
    """
    found, known = _with_database(
        context, lambda engine: (_explanations(engine, path), [os.fsdecode(root) for root in root_paths(engine)])
    )
    for explanation in found:
        if json:
            output.print_json(views.explanation_to_json(explanation))
        else:
            output.print_text(views.sentence(explanation))
            output.print_table(("when", "version", "state", "why"), views.history_rows(explanation))
    if not found:
        # a folder that only `--root` named stands in no settings
        named = [str(root.path) for root in door.read_settings(context).roots]
        output.say(_unknown(path, list({os.path.abspath(root): root for root in (*known, *named)}.values())))
        raise typer.Exit(1)


def _print(engine: Engine, wanted: ResultFilter, *, json: bool, csv: bool) -> None:
    found = disclosures.record_all(engine, actor(), stored.stream(engine, wanted))
    if csv:
        output.print_csv(views.CSV_COLUMNS, (row for one in found for row in views.csv_rows(one)))
    elif json:
        for one in found:
            output.print_json(result_to_json(one))
    else:
        narrow = output.is_narrow()
        rows = []
        caveats: set[Caveat] = set()
        answered: set[tuple[str, Finding]] = set()
        for one in found:
            rows.append(views.result_block(one) if narrow else views.result_row(one))
            caveats.update(one.caveats)
            answered.update((one.bundle or "", finding) for finding in one.findings)
        if not rows:
            output.say("no result matches")
            return
        notes = (*predictive_value_notes(answered), *caveat_notes(caveats))
        if narrow:
            output.print_blocks(rows, notes=notes)
        else:
            output.print_table(views.TABLE_COLUMNS, rows, notes=notes)
        if len(rows) == wanted.limit:
            output.say(f"these are the newest {len(rows)}; --limit 0 shows all")


def _with_database(context: typer.Context, action: Callable[[Engine], T]) -> T:
    settings = door.read_settings(context)
    engine = door.open_database(settings)
    try:
        return action(engine)
    finally:
        engine.dispose()


def _time(text: str | None, now: datetime) -> datetime | None:
    return None if text is None else since(text, now)


def _read_patient_id(option: str | None) -> str | None:
    if option is None:
        return None
    if option != "-":
        raise UsageError(
            "a patient ID on the command line stays in the shell's history and shows in the list of processes: "
            "write --patient - and give the ID on standard input"
        )
    return identifiers.read(option, "--patient", "Patient ID")


def _explanations(engine: Engine, path: str) -> list[Explanation]:
    folder, name = os.path.split(os.path.abspath(path))
    # a root may be registered by its real path, and the caller may stand behind a link
    candidates = [os.path.join(folder, name), os.path.join(os.path.realpath(folder), name), path]
    for candidate in dict.fromkeys(candidates):
        if found := history.explain(engine, os.fsencode(candidate)):
            return found
    return []


def _unknown(path: str, roots: Sequence[str]) -> str:
    """Say what is known of a path that no scan has met.

    Args:
        roots: the folders of the settings and of the database.
    """
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        there = f"It cannot be found ({error.strerror})."
    else:
        there = "It is there." if stat.S_ISREG(mode) else "It is there, but it is no regular file."
    said = f"No watched folder of this database knows {path}. {there}"
    whole = os.path.abspath(path)
    # as in _explanations: the root may be known by its real path, and the caller may stand behind a link
    real = os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
    for root, candidate in itertools.product(roots, dict.fromkeys((whole, real))):
        inside = os.path.relpath(candidate, os.path.abspath(root))
        if inside.split(os.sep)[0] == os.pardir:
            continue
        rule = path_rule(os.fsencode(inside))
        why = f"it is left out: {RULES[rule]}" if rule else "no scan has met it yet: is `preread run` at work?"
        return f"{said} It lies in the root {root}; {why}"
    return f"{said} It lies in none of the roots of the settings and of this database ({len(roots)} in all)"
