"""``preread assess``: what the bundle says of these files, without a database."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from preread.cli import context as door
from preread.cli import in_use, output
from preread.cli.roots import PopulationName
from preread.core.errors import UsageError
from preread.core.settings import Settings
from preread.core.text.escaping import display_path
from preread.core.text.wording import caveat_codes, caveat_notes, format_finding, predictive_value_notes
from preread.core.types import Caveat, Declared, Finding, Outcome, Population, RootSpec
from preread.imaging.radiograph import Limits
from preread.model import bundles
from preread.runner.assess_files import FileResult, Processes, assess_files, find_files


def assess(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="FILE_OR_DIR...", help="films, and folders of films")],
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record a file")] = False,
    population: Annotated[
        PopulationName | None,
        typer.Option(
            help="what is declared of films whose tags do not say it; default: what the settings declare of the root "
            "that holds them, else undeclared"
        ),
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="bundle to use; default: the setting PREREAD_BUNDLE")] = None,
) -> None:
    """Assess files immediately, without a database.

    Where no tag tells the patient's age, 1 to 5 years is assumed and the caveat age_assumed says so, unless the root
    that holds the film, or --population, declares it.

    Films are read in processes of their own, PREREAD_SLOTS at once, with a deadline and a memory limit: a film that
    ends its process is named slot_crashed, slot_deadline or slot_memory, and the others get their answers.

    Exit code: 0 when every file was assessed, refused or found unreadable for what is in it; 1 when a path does not
    exist or may not be read, when a film ended its process, or when there was no file at all.
    """
    settings = door.read_settings(context)

    chosen = bundles.load(bundles.resolve(in_use.named(settings, bundle or settings.bundle)))
    assumed, why = _declared(settings, paths, population)
    declared = Declared(population=assumed, assume_age=True)
    limits = Limits(max_bytes=settings.max_file_bytes, max_pixels=settings.max_pixels)
    processes = Processes(
        settings.slots, settings.deadline_s, settings.slot_memory_bytes, limits, settings.require_confinement
    )
    counts: Counter[Outcome] = Counter()
    codes: dict[Outcome, Counter[str]] = {}
    not_judged = 0
    caveats: set[Caveat] = set()
    rows = []
    answered: set[tuple[str, Finding]] = set()
    with (
        output.progress("assessing", lambda: sum(1 for _ in find_files(paths)), printing=json) as step,
        contextlib.closing(assess_files(paths, chosen, declared, processes, settings.roots)) as results,
    ):
        for result in results:
            counts[result.outcome] += 1
            codes.setdefault(result.outcome, Counter()).update([result.code] if result.code else [])
            if not result.judged:
                not_judged += 1
                output.say(f"{os.fsencode(result.path).decode('utf-8', 'surrogateescape')}: {result.reason}")
            if json:
                output.print_json(result.to_json())
            else:
                rows.append(_row(result))
                caveats.update(result.caveats)
                answered.update((result.bundle, finding) for finding in result.findings)
            step()
    if rows:
        columns = ("file", "outcome", "what it says", "caveats", "ms")
        notes = (*predictive_value_notes(answered), *caveat_notes(caveats))
        output.print_table(columns, rows, notes=notes)
    if counts.total() and population is None:
        output.say(f"population {assumed.value}: {why}")
    _summarise(counts, codes, chosen.label)
    if not_judged or not counts.total():
        raise typer.Exit(1)


def _declared(settings: Settings, paths: Sequence[str], named: PopulationName | None) -> tuple[Population, str]:
    """Return what is declared of these files, and why it is that.

    Raises:
        UsageError: they lie in roots that declare different populations.
    """
    if named is not None:
        return Population(named), "said by --population"
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
        kinds = ", ".join(f"{kind.value} ({root or 'in no root of the settings'})" for kind, root in found.items())
        raise UsageError(f"these files lie under different declarations: {kinds}; say which with --population")
    ((kind, root),) = found.items()
    if root:
        return kind, f"declared by the settings of the root {root}; --population says another"
    return kind, "no root of the settings holds these files; --population says what is known of them"


def _places_of(root: RootSpec) -> tuple[str, str]:
    return os.path.abspath(root.path), os.path.realpath(root.path)


def _row(result: FileResult) -> tuple[str, ...]:
    says = "; ".join(map(format_finding, result.findings)) if result.findings else f"{result.code}: {result.reason}"
    return (
        display_path(os.fsencode(result.path)),
        result.outcome.value,
        says,
        caveat_codes(result.caveats),
        f"{result.ms:.0f}",
    )


def _summarise(counts: Counter[Outcome], codes: Mapping[Outcome, Counter[str]], bundle: str) -> None:
    if not counts.total():
        output.say("no file was found")
        return
    outcomes = []
    for outcome, count in sorted(counts.items()):
        why = ", ".join(f"{code} {times}" for code, times in codes[outcome].most_common())
        outcomes.append(f"{count} {outcome.value}{f' ({why})' if why else ''}")
    files = "1 file" if counts.total() == 1 else f"{counts.total()} files"
    output.say(f"{files}: {', '.join(outcomes)}; bundle {bundle}")
