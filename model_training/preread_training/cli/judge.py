"""``preread-train judge``: compare runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from preread.core.errors import UsageError
from preread.core.types import JSONObject
from preread_training.cli.base import DataOption, RecordedAbsentOption, import_tensorflow, read_data_set_of_run, talk


def judge(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs on the same data; each is compared with the first.")
    ],
    data: DataOption,
    finding: Annotated[str | None, typer.Option(help="Of the runs' findings; default: the first.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    absent: RecordedAbsentOption = None,
) -> None:
    """Compare runs by four measures on images that they had not seen.

    A run is better only if it gains on a measure and loses on none; intervals are of 95 %, by patient.

    Raises:
        UsageError: the data set does not have the finding.
    """
    import_tensorflow()
    from preread_training.fit.candidates import FOLDS_MIN, compare_candidates, load_candidates

    data_set = read_data_set_of_run(runs[0], data, absent=absent)
    if finding is not None and finding not in data_set.findings:
        raise UsageError(f"{data} has no finding {finding!r}: choose one of {', '.join(data_set.findings)}")
    column = data_set.findings.index(finding) if finding is not None else 0
    found = compare_candidates(load_candidates(runs, data_set, column), data_set, column)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for table in _tables(found):
        Console().print(table)
    if found["folds"] < FOLDS_MIN:
        text = f"the runs have {found['folds']} finished folds in common, too few to decide: fit at least {FOLDS_MIN}"
        talk.print(f"{text} of each", markup=False)


def _tables(found: JSONObject) -> list[Table]:
    """Return the measures of the runs, then the differences from the first."""
    from preread_training.fit.candidates import MEASURES

    def figure(one: JSONObject | None, form: str) -> str:
        return "-" if one is None else f"{one['value']:{form}} ({one['low']:{form}} to {one['high']:{form}})"

    measured = Table("run", *MEASURES, "smallest", title=f"AUC on {found['images']} images of {found['folds']} folds")
    apart = Table("run", *MEASURES, "verdict", title=f"less {next(iter(found['runs']))}")
    for name, of in found["runs"].items():
        smallest = figure(None, "") if of["smallest"] is None else f"{of['smallest']:.4f}"
        measured.add_row(name, *(figure(of["auc"][measure], ".4f") for measure in MEASURES), smallest)
        if "difference" in of:
            apart.add_row(name, *(figure(of["difference"][measure], "+.4f") for measure in MEASURES), of["verdict"])
    return [measured, apart] if apart.rows else [measured]
