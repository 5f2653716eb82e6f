"""Printing: data on standard output, talk on standard error; nothing that is printed can steer a terminal or a sheet.

File names and tags are written by anyone: in tables they are plain text (no rich markup) with control characters
escaped, in CSV nothing is a formula (``sheets``), in JSON everything beyond ASCII is escaped by JSON itself.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from preread.core.text import csv_cells
from preread.core.text.confusables import printable
from preread.core.text.escaping import escape

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from preread.core.types import JSONObject

# A pipe has no width: wide enough that each row stays on one line, for grep and the like.
_PIPE_WIDTH = 1_000
# Below this many columns a table of results takes six lines and more a row.
_WIDE_TABLE = 140


def console() -> Console:
    """Return a console for data, without markup, emoji or guessing at what could be coloured."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(file=sys.stdout, markup=False, emoji=False, highlight=False, width=width)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, notes: Iterable[str] = (), medical: bool = True
) -> None:
    """Print a table for people and the notes below it; with ``medical`` the last line says what Preread is not."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from preread.core.text.wording import NO_DEVICE

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    _print([table, *(Text(printable(note)) for note in notes), *([Text(NO_DEVICE)] if medical else [])])


def _print(parts: Iterable[RenderableType]) -> None:
    """Print what rich lays out, without the blanks with which it fills each line."""
    target = console()
    with target.capture() as captured:
        for part in parts:
            target.print(part)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def is_narrow() -> bool:
    """Whether data goes to a terminal on which a wide table would fold every row over many lines."""
    return console().width < _WIDE_TABLE


def print_blocks(blocks: Iterable[Sequence[str]], *, notes: Iterable[str] = (), medical: bool = True) -> None:
    """Print for each record a few lines instead of a row, the first at the margin, the others set in; they fold."""
    from preread.core.text.wording import NO_DEVICE

    width = console().width

    def fill(text: str, indent: str = "") -> None:
        folded = textwrap.wrap(printable(text), width, initial_indent=indent, subsequent_indent=f"{indent}  ")
        sys.stdout.write("".join(f"{line}\n" for line in folded))

    for first, *rest in blocks:
        fill(first)
        for text in rest:
            fill(text, "  ")
    sys.stdout.write("\n")
    for text in (*notes, *([NO_DEVICE] if medical else [])):
        fill(text)


def print_pairs(pairs: Iterable[tuple[str, str]], *, medical: bool = True) -> None:
    """Print names and values, one pair a line."""
    from rich.table import Table
    from rich.text import Text

    from preread.core.text.wording import NO_DEVICE

    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(Text(printable(name)), Text(printable(value)))
    _print([table, *([Text(NO_DEVICE)] if medical else [])])


def print_text(text: str) -> None:
    """Print one line of data as it is, control characters escaped."""
    sys.stdout.write(printable(text) + "\n")


def print_json(record: JSONObject) -> None:
    """Print one record of JSON Lines at once, so that a reader of a pipe has it."""
    sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a header and rows as CSV, control characters escaped; see ``sheets``."""
    shown = ([printable(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    csv_cells.write_rows(sys.stdout, columns, shown)


def say(text: str) -> None:
    """Say something to a person, on standard error."""
    sys.stderr.write("".join(f"{escape(line)}\n" for line in text.splitlines()))
    sys.stderr.flush()


@contextmanager
def progress(what: str, count: Callable[[], int], *, printing: bool = False) -> Iterator[Callable[[], None]]:
    """Show a bar on standard error while something long runs; on a terminal only.

    Args:
        count: tells how many steps there are; asked only when a bar is shown.
        printing: data is printed meanwhile; where it goes to a terminal too, it is progress enough.

    Yields:
        A function to call after each step.
    """
    if not sys.stderr.isatty() or (printing and sys.stdout.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # redirected, standard output would be printed through the bar's console: onto standard error
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=count())
        yield lambda: bar.advance(task)
