"""``preread drift``: compare recent images with earlier ones."""

from __future__ import annotations

from typing import Annotated

import typer

from preread.cli import output
from preread.cli.context import command_database
from preread.cli.messages import print_message
from preread.monitoring.drift import PICTURE, Drift, Sample, describe, measures, report


def drift(
    context: typer.Context,
    days: Annotated[int, typer.Option(min=1, max=366, help="number of days to compare, including today")] = 7,
    json: Annotated[bool, typer.Option("--json", help="print one JSON record")] = False,
) -> None:
    """Compare recent images with earlier ones.

    Compares the live images of the last days with the bundle's reference and with the site's first days under this
    bundle.

    The measures are the probability of each finding, the share of refusals, and image statistics in grey levels of 0 to
    255 (mean, contrast, sharpness, border). Days are UTC. A difference does not concern a single image: check the
    device, its processing, and the selection of patients.

    Exit code: 0, also if there is a difference.
    """
    with command_database(context) as engine:
        found = report(engine, days=days)
    if json:
        output.print_json({} if found is None else found.to_json())
    elif found is None:
        print_message("no live image has an outcome yet: nothing to compare")
    else:
        _print(found)


def _print(found: Drift) -> None:
    names = measures([found.recent, *([] if found.baseline is None else [found.baseline])])

    def row(label: str, sample: Sample) -> tuple[str, ...]:
        means = ((name, sample.mean(name)) for name in names)
        shown = ("" if mean is None else f"{mean:.1f}" if name in PICTURE else f"{mean:.3f}" for name, mean in means)
        return (label, str(sample.assessed), str(sample.refused), *shown)

    rows = [row(f"{day.since:%Y-%m-%d}", day) for day in found.days]
    if found.baseline is not None:
        first = found.baseline
        rows.append(row(f"first days, {first.since:%Y-%m-%d} to {first.until:%Y-%m-%d}", first))
    output.print_table(("day", "assessed", "refused", *names), rows, medical=False)
    output.print_table(
        ("measure", "against", "images", "of", "index", "by chance", "verdict"),
        [
            (
                one.measure,
                one.against.value,
                str(one.films),
                str(one.reference_films),
                *((f"{one.psi:.3f}", f"{one.by_chance:.3f}") if one.verdict.is_conclusive else ("", "")),
                describe(one.verdict),
            )
            for one in found.shifts
        ],
        notes=_notes(found),
    )


def _notes(found: Drift) -> list[str]:
    notes = [f"bundle {found.bundle}; its reference: {found.reference or 'none; the bundle has no distributions'}"]
    if found.baseline is None:
        notes.append("these are the site's first days under this bundle: no site baseline to compare with yet")
    notes.append("figures of a day: means over its images; mean, contrast, sharpness, border: grey levels of 0 to 255")
    notes.append(
        "index: population stability index; from 0.1 on check again, from 0.25 on find the cause. by chance: the index "
        "that so few images exceed once in 20 times. The prevalence of the finding also changes the probability."
    )
    return notes
