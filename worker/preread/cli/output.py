"""Data on standard output: tables, pairs, JSON Lines and CSV.

File names and tags are untrusted: in tables they are plain text (no rich markup) with control characters escaped, in
CSV no cell is a formula (``csv_cells``), in JSON everything beyond ASCII is escaped.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from preread.core.text import csv_cells
from preread.core.text.confusables import printable
from preread.core.text.wording import NO_DEVICE
from preread.core.types import JSONObject

# A pipe has no width: wide enough that each row stays on one line, for grep and the like.
_PIPE_WIDTH = 1_000
# At less columns a table of results needs six or more lines per row.
_WIDE_TABLE = 140


def console() -> Console:
    """Return a console for data, without markup, emoji and highlighting."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(file=sys.stdout, markup=False, emoji=False, highlight=False, width=width)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, notes: Iterable[str] = (), medical: bool = True
) -> None:
    """Print a table and notes below it.

    Args:
        columns: headings.
        rows: cells; control characters are escaped.
        notes: lines below the table.
        medical: print as last line that Preread is not a medical device.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    _print([table, *(Text(printable(note)) for note in notes), *([Text(NO_DEVICE)] if medical else [])])


def _print(parts: Iterable[RenderableType]) -> None:
    """Print renderables without trailing blanks."""
    target = console()
    with target.capture() as captured:
        for part in parts:
            target.print(part)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def is_narrow() -> bool:
    """Return whether a wide table would fold every row over many lines."""
    return console().width < _WIDE_TABLE


def print_blocks(blocks: Iterable[Sequence[str]], *, notes: Iterable[str] = (), medical: bool = True) -> None:
    """Print each record as folded lines; all but the first are indented."""
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
    """Print one record of JSON Lines and flush standard output."""
    sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a header and rows as CSV; see ``csv_cells``."""
    shown = ([printable(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    csv_cells.write_rows(sys.stdout, columns, shown)
