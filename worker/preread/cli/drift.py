"""``preread drift``: are the films, and what is said of them, still what they were?"""

from __future__ import annotations

from typing import Annotated

import typer

from preread.cli import context as door
from preread.cli import output
from preread.monitoring import drift as drifts
from preread.monitoring.drift import PICTURE, Drift, Sample, describe, measures


def drift(
    context: typer.Context,
    days: Annotated[int, typer.Option(min=1, max=366, help="compare so many days, today included")] = 7,
    json: Annotated[bool, typer.Option("--json", help="print one JSON record")] = False,
) -> None:
    """Compare recent images with earlier ones.

    Compares the live images of the last days with the bundle's reference and with the site's first days under this
    bundle.

    Probability of each finding, share of refusals, and what the pictures are like (grey levels of 255: mean, contrast,
    sharpness, border). Days are UTC. A difference says nothing of any one film: it is a reason to look at the device,
    at its processing, and at who is sent for a film.

    Exit code: 0, whatever is found.
    """
    with door.database(context) as engine:
        found = drifts.report(engine, days=days)
    if json:
        output.print_json({} if found is None else found.to_json())
    elif found is None:
        output.say("no live film has an outcome yet: there is nothing to compare")
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
        ("measure", "against", "films", "of", "index", "by chance", "it"),
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
    notes = [f"bundle {found.bundle}; its reference: {found.reference or 'none; it brings no distribution'}"]
    if found.baseline is None:
        notes.append(
            "the site's first days under this bundle are these days: there is nothing of its own to compare yet"
        )
    notes.append("figures of a day are means over its films; mean, contrast, sharpness, border: grey levels of 255")
    notes.append(
        "index: population stability index; from 0.1 on look again, from 0.25 on find out why. by chance: what so few "
        "films reach once in 20 times. How many of the patients are ill moves the probability as well."
    )
    return notes
