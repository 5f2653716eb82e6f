"""``preread assess``: assess files without a database."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from preread.cli import output
from preread.cli.context import read_settings
from preread.cli.messages import print_message
from preread.cli.progress import progress
from preread.cli.roots import PopulationName
from preread.cli.selected_bundles import bundle_selection
from preread.cli.selection_options import format_file_count
from preread.core.errors import UsageError
from preread.core.settings import Settings
from preread.core.text.escaping import display_path
from preread.core.text.vocabulary import read_file
from preread.core.text.wording import caveat_codes, caveat_notes, format_finding, predictive_value_notes
from preread.core.types import Caveat, Declared, Finding, Outcome, Population, RootSpec
from preread.imaging.radiograph import ImageLimits
from preread.runner.assess_files import FileResult, Processes, assess_files, find_files


def assess(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="FILE_OR_DIR...", help="files, and folders of files")],
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record per file")] = False,
    population: Annotated[
        PopulationName | None,
        typer.Option(
            help="population of the images; default: the population of the watched folder that contains them, else "
            "undeclared"
        ),
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="bundle to use; default: the setting PREREAD_BUNDLE")] = None,
) -> None:
    """Assess files immediately, without a database.

    If an image does not state the patient's age, 1 to 5 years is assumed with the caveat age_assumed, unless the
    watched folder that contains the file, or --population, declares the age.

    Images are read in PREREAD_SLOTS confined processes with a deadline and a memory limit. An image that ends its
    process gets the code slot_crashed, slot_deadline or slot_memory, and the others are assessed.

    Exit code: 0 if every file was assessed, refused, or unreadable because of its content; 1 if a path does not exist
    or cannot be read, if an image ended its process, or if there was no file.
    """
    settings = read_settings(context)

    chosen = bundle_selection(settings).load_named(bundle or settings.bundle)
    assumed, why = _declared(settings, paths, population)
    declared = Declared(population=assumed, assume_age=True)
    limits = ImageLimits(max_bytes=settings.max_file_bytes, max_pixels=settings.max_pixels)
    processes = Processes(
        settings.slots,
        settings.deadline_s,
        settings.slot_memory_bytes,
        limits,
        settings.require_confinement,
        read_file(settings.vocabulary_file),
    )
    tally = _Tally()
    with (
        progress("assessing", lambda: sum(1 for _ in find_files(paths)), printing=json) as step,
        contextlib.closing(assess_files(paths, chosen, declared, processes, settings.roots)) as results,
    ):
        for result in results:
            tally.count(result)
            if not result.judged:
                print_message(f"{os.fsencode(result.path).decode('utf-8', 'surrogateescape')}: {result.reason}")
            if json:
                output.print_json(result.to_json())
            else:
                tally.add_row(result)
            step()
    tally.print_table()
    if tally.files and population is None:
        print_message(f"population {assumed.value}: {why}")
    print_message(f"{tally.summary()}; bundle {chosen.label}" if tally.files else "no file found")
    if tally.not_judged or not tally.files:
        raise typer.Exit(1)


class _Tally:
    """Counts of outcomes and codes, and the rows of the table."""

    def __init__(self) -> None:
        self.not_judged = 0
        self._codes: dict[Outcome, Counter[str | None]] = {}
        self._rows: list[tuple[str, ...]] = []
        self._caveats: set[Caveat] = set()
        self._answered: set[tuple[str, Finding]] = set()

    @property
    def files(self) -> int:
        """Number of results."""
        return sum(codes.total() for codes in self._codes.values())

    def count(self, result: FileResult) -> None:
        """Count a result by outcome and code."""
        self._codes.setdefault(result.outcome, Counter())[result.code] += 1
        self.not_judged += not result.judged

    def add_row(self, result: FileResult) -> None:
        """Add a result to the table."""
        self._rows.append(_row(result))
        self._caveats.update(result.caveats)
        self._answered.update((result.bundle, finding) for finding in result.findings)

    def print_table(self) -> None:
        """Print the table, if it has rows."""
        if self._rows:
            columns = ("file", "outcome", "result", "caveats", "ms")
            notes = (*predictive_value_notes(self._answered), *caveat_notes(self._caveats))
            output.print_table(columns, self._rows, notes=notes)

    def summary(self) -> str:
        """Return the number of files, and of each outcome with its codes."""
        outcomes = []
        for outcome, codes in sorted(self._codes.items()):
            why = ", ".join(f"{code} {times}" for code, times in codes.most_common() if code)
            outcomes.append(f"{codes.total()} {outcome.value}{f' ({why})' if why else ''}")
        return f"{format_file_count(self.files)}: {', '.join(outcomes)}"


def _declared(settings: Settings, paths: Sequence[str], named: PopulationName | None) -> tuple[Population, str]:
    """Return the population of these files, and its source in words.

    Args:
        settings: declare the populations of the watched folders.
        paths: the files and folders.
        named: value of ``--population``, or ``None``.

    Raises:
        UsageError: the files lie in watched folders with different populations.
    """
    if named is not None:
        return Population(named), "from --population"
    found: dict[Population, str] = {}
    for path in paths:
        places = {Path(os.path.abspath(path)), Path(os.path.realpath(path))}
        holding = [
            root
            for root in settings.roots
            if any(place.is_relative_to(where) for place in places for where in _places_of(root))
        ]
        said = holding[0].population if holding else Population.UNDECLARED
        found.setdefault(said, str(holding[0].path) if holding else "")
    if len(found) > 1:
        kinds = ", ".join(f"{kind.value} ({root or 'in no watched folder'})" for kind, root in found.items())
        raise UsageError(f"these files have different declared populations: {kinds}; choose one with --population")
    ((kind, root),) = found.items()
    if root:
        return kind, f"declared for the watched folder {root}; --population overrides it"
    return kind, "these files are in no watched folder of the settings; --population declares one"


def _places_of(root: RootSpec) -> tuple[str, str]:
    return os.path.abspath(root.path), os.path.realpath(root.path)


def _row(result: FileResult) -> tuple[str, ...]:
    text = "; ".join(map(format_finding, result.findings)) if result.findings else f"{result.code}: {result.reason}"
    return (
        display_path(os.fsencode(result.path)),
        result.outcome.value,
        text,
        caveat_codes(result.caveats),
        f"{result.ms:.0f}",
    )
