"""Progress bar on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(what: str, count: Callable[[], int], *, printing: bool = False) -> Iterator[Callable[[], None]]:
    """Show a progress bar on standard error, if that is a terminal.

    Args:
        what: label of the bar.
        count: returns the number of steps; called only if a bar is shown.
        printing: data is printed at the same time; at a terminal it replaces the bar.

    Yields:
        A function to call after each step.
    """
    if not sys.stderr.isatty() or (printing and sys.stdout.isatty()):
        yield lambda: None
        return
    columns = (TextColumn(what, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # redirected, standard output would be printed through the bar's console: onto standard error
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=count())
        yield lambda: bar.advance(task)
