"""Table, page, JSON and figure of a comparison, from its rows alone."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from preread.core.types import JSONObject
from preread_training.data.atomic_files import write_bytes_atomically
from preread_training.report.comparison import BASELINES, PRODUCT
from preread_training.report.figure_style import (
    ABSENT,
    BORDER,
    CATEGORIES,
    INK,
    MUTED,
    NETWORK,
    PRESENT,
    apply_style,
    draw_grid,
    encode_svg,
)

NAME = "compare"
# Legend and colour of a reported number, by the row's ``measured_on``.
_REPORTED = {
    "test films": ("reported: on test images", ABSENT),
    "16 validation films": ("reported: on 16 validation images", CATEGORIES[2]),
    "training films": ("reported: on training images", CATEGORIES[4]),
    "nothing": ("reported: void", BORDER),
}
_HEAD = (
    "",
    "system",
    "reported",
    "what that was",
    "AUC",
    "accuracy",
    "sensitivity",
    "specificity",
    "AUC, hard negatives",
    "s an epoch",
    "epochs",
    "parameters",
)
_LAW = """\
# The reference systems under one protocol

Written by `preread-train compare`; do not edit it. The systems are those of five published student projects on these
images (A1 to K3), rebuilt from their code, beside the product's own network and four baselines that need no network.

![Reported and honest accuracy of each system](compare.svg)

## How each was fitted and measured

{protocol}

What this table cannot say: one hold-out and one seed, so that two systems whose intervals overlap are not told apart.
The hold-out is framed like the images of the fit. The official test images are framed otherwise, and were not opened
for this: a number reported on them is not to be compared with the accuracy beside it. The AUC on hard negatives shows
best here what another framing does to a system. L4 and L5 take the same 600 steps and count their epochs otherwise, so
that the same seed gives the same network.

## The table

"""
_MENDED = """
## What was mended

A system is built as its authors built it; where the protocol around it was flawed, that was not repeated.

"""
_PARTS = """\
Several processes may share the work, each with systems of its own (`--recipe A5 --recipe K1 ...`) and one `--runs`;
what is there already is not fitted again. Without `--data` the page is written from the finished rows alone.

"""


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"  # noqa: RUF001 - a dash for what there is not


def _interval(measure: JSONObject) -> str:
    return f"{_figure(measure['value'])} ({_figure(measure['low'])} to {_figure(measure['high'])})"


def _reached(row: JSONObject) -> str:
    if "epochs_meant" not in row:
        return ""
    reached = f"{row['epochs']:.3g} of {row['epochs_meant']}"
    return {"early": f"{reached}, stopped early", "time": f"{reached}, time over"}.get(row["ended"], reached)


def _cells(row: JSONObject) -> list[str]:
    system = row["system"]
    if row.get("imagenet") is False:
        system += "; here without ImageNet weights, from random ones"
    if row.get("candidates"):
        system += f"; chosen {row['layers']}, {row['epochs_meant']} epochs"
    cells = [row["name"], system, row.get("reported", ""), row.get("really", "")]
    figures = row["measured"]
    if figures is None:
        cells += [f"the fit failed: {row['failed']}", "", "", "", ""]
    else:
        cells += [_interval(figures["auc"])]
        cells += [_figure(figures[name]["value"]) for name in ("accuracy", "sensitivity", "specificity")]
        cells += [_interval(figures["auc_conflict_normals"])]
    seconds = row.get("seconds_per_epoch")
    parameters = row.get("parameters")
    cells += ["" if seconds is None else f"{seconds:.1f}", _reached(row)]
    return [*cells, "" if parameters is None else f"{parameters:,}"]


def format_table(rows: Sequence[JSONObject]) -> str:
    """Format the rows of a comparison as a table in Markdown."""
    lines = [_HEAD, ["---"] * 4 + ["---:"] * (len(_HEAD) - 4), *map(_cells, rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _said_of(protocol: JSONObject) -> str:
    said = (
        f"Fold 0 of {protocol['folds']} patient-wise folds is held out: {protocol['films_held_out']:,} images of "
        f"{protocol['patients_held_out']:,} patients, {protocol['with_finding_held_out']:,} of them with pneumonia. "
        f"The other {protocol['films_fitted']:,} images, of {protocol['patients_fitted']:,} other patients, are fitted "
        f"to, all with seed {protocol['seed']}; early stopping and best epochs look at a part of these patients, never "
        "at the hold-out. Every number right of 'what that was' is of these held-out images and of a probability of "
        "one half. Intervals (95 %) are drawn by patient; `compare.json` beside this page has them for every figure. "
        "Hard negatives are images without pneumonia that a linear model calls pneumonia by their border alone, here "
        f"{protocol['conflict_normals_held_out']} of them, against all images with it."
    )
    return textwrap.fill(said, 120)


def _joined(values: set[str]) -> str:
    return " or ".join(sorted(values))


def _command(rows: Sequence[JSONObject]) -> str:
    """Return the command that makes these rows, with words for the paths."""
    protocol = rows[0]["protocol"]
    words = ["preread-train compare --data DATA --runs RUNS --out docs/explanation \\\n "]
    words += [f"--folds {protocol['folds']} --seed {protocol['seed']}"]
    for option, void in (("--minutes", False), ("--void-minutes", True)):
        allowed = {
            row["minutes_allowed"] for row in rows if row.get("void", False) is void and "minutes_allowed" in row
        }
        words += [f"{option} {minutes:g}" for minutes in sorted(allowed - {None})[-1:]]
    threads = {row["environment"]["threads"] for row in rows if "minutes_allowed" in row and row["measured"]}
    words += [f"--threads {count}" for count in sorted(threads)[:1]]
    return " ".join(words + ["--own RUN" for row in rows if row["name"] == PRODUCT])


def format_page(rows: Sequence[JSONObject]) -> str:
    """Format the page of a comparison in Markdown."""
    protocol = rows[0]["protocol"]
    fitted = [row for row in rows if row.get("environment")]
    minutes = _joined({f"{row['minutes_allowed']:g}" for row in fitted if row.get("minutes_allowed")})
    threads = _joined({str(row["environment"]["threads"]) for row in fitted})
    mended = [f"| {row['name']} | {'; '.join(row['mended'])} |" for row in rows if row.get("mended")]
    text = _LAW.format(protocol=_said_of(protocol))
    text += format_table(rows)
    text += "\n" + textwrap.fill(
        "`reported` and `what that was`: as the authors gave it, and where their number came from. `epochs`: reached "
        f"of meant; a fit ended where its minutes were over (allowed: {minutes or 'any'}), or where its early stopping "
        f"said so. Threads: {threads or 'none'}; times are there to compare the rows.",
        120,
    )
    text += "\n" + _MENDED
    text += "\n".join(["| system | flaw and remedy |", "| --- | --- |", *mended])
    versions = sorted({json.dumps(row["environment"], sort_keys=True) for row in fitted})
    text += "\n\n## The command that makes it\n\n```\n" + _command(rows) + "\n```\n\n" + _PARTS
    text += f"Digest of images, labels, patients and folds: `{protocol['digest']}`."
    return text + "".join(f" Environment: `{version}`." for version in versions) + "\n"


def _accuracies(axes: Axes, rows: Sequence[JSONObject]) -> None:
    shown: set[str] = set()
    for place, row in enumerate(rows):
        reported = row.get("reported_accuracy")
        if reported is not None:
            source = row["measured_on"]
            legend, colour = _REPORTED[source]
            label = None if source in shown else legend
            shown.add(source)
            axes.plot(reported, place, "o", mfc="white", mec=colour, mew=1.5, ms=6, label=label, zorder=3)
        if row["measured"] is None:
            continue
        figure = row["measured"]["accuracy"]
        if reported is not None:
            axes.plot([reported, figure["value"]], [place, place], color=MUTED, linewidth=0.7, zorder=1)
        axes.plot([figure["low"], figure["high"]], [place, place], color=NETWORK, linewidth=2.2, alpha=0.45, zorder=2)
        label = None if "honest" in shown else "honest, 95 % interval"
        shown.add("honest")
        axes.plot(figure["value"], place, "o", color=NETWORK, ms=5, label=label, zorder=4)
    axes.set_xlabel("accuracy")


def _areas(axes: Axes, rows: Sequence[JSONObject]) -> None:
    for name, colour, marker, lift, label in (
        ("auc", NETWORK, "o", -0.13, "all held-out images"),
        ("auc_conflict_normals", PRESENT, "D", 0.13, "hard negatives against pneumonia"),
    ):
        named = False
        for place, row in enumerate(rows):
            figure = row["measured"] and row["measured"][name]
            if not figure or figure["value"] is None:
                continue
            line = [place + lift, place + lift]
            axes.plot([figure["low"], figure["high"]], line, color=colour, linewidth=2.0, alpha=0.4, zorder=2)
            axes.plot(figure["value"], line[0], marker, color=colour, ms=4.5, label=None if named else label, zorder=3)
            named = True
    axes.set_xlabel("AUC, 95 % interval")


@apply_style
def draw_comparison(rows: Sequence[JSONObject]) -> Figure:
    """Draw reported and measured accuracy, and both AUC, of each system."""
    drawn = Figure(figsize=(9.4, 1.5 + 0.27 * len(rows)), layout="constrained")
    FigureCanvasAgg(drawn)
    left, right = drawn.subplots(1, 2, sharey=True)
    _accuracies(left, rows)
    _areas(right, rows)
    for axes in (left, right):
        axes.set_axisbelow(True)
        draw_grid(axes, "x")
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8, labelcolor=INK)
    left.set_yticks(range(len(rows)), [row["name"] for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    for place, row in enumerate(rows):
        if place and (row["name"] in BASELINES) != (rows[place - 1]["name"] in BASELINES):
            for axes in (left, right):
                axes.axhline(place - 0.5, color=MUTED, linewidth=0.6)
    return drawn


def write_comparison(rows: Sequence[JSONObject], folder: Path) -> list[Path]:
    """Write ``compare.md``, ``compare.json``, ``compare.svg`` of a comparison.

    Args:
        rows: of ``comparison.read_rows``.
        folder: made if it does not exist.

    Returns:
        The paths.

    Raises:
        NotKept: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        folder / f"{NAME}.md": format_page(rows).encode(),
        folder / f"{NAME}.json": (json.dumps({"rows": list(rows)}, indent=1) + "\n").encode(),
        folder / f"{NAME}.svg": encode_svg(draw_comparison(rows)),
    }
    for path, content in files.items():
        write_bytes_atomically(path, content)
    return list(files)
