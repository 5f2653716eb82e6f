"""Progress of a fit on the terminal: steps, epochs, time left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Steps are slow and their time varies: the pace is taken from the last ten minutes.
_PACE_PERIOD_S = 600.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Position of a fit after a step.

    Attributes:
        epoch: epochs completed.
        epochs: meant.
        step: steps completed of the epoch that is running.
        steps: of an epoch.
        part: name of the network within its run.
        parts_left: networks still to be finished, this one included.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    part: str = ""
    parts_left: int = 1

    @property
    def done(self) -> int:
        """Number of steps of this network that are completed."""
        return self.epoch * self.steps + self.step


Advance = Callable[[Pace], None]


def ignore_progress(_pace: Pace) -> None:
    """Ignore the progress of a fit."""


class Bars:
    """Progress bars for the epoch and for everything that is left.

    Called after each step. If the console is no terminal it draws nothing; the log has a line for each epoch instead.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=_PACE_PERIOD_S,
        )
        self._at: tuple[str, int] | None = None
        self._epoch: TaskID | None = None
        self._whole: TaskID | None = None
        self._parts, self._before = 1, 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, pace: Pace) -> None:
        """Draw the position of the fit."""
        if self._epoch is None or self._whole is None:
            self._epoch = self._progress.add_task("", total=pace.steps)
            # Steps of an earlier command have no pace: the bar begins at what is left.
            self._parts, self._before = pace.parts_left, pace.done - 1
            whole = pace.parts_left * pace.epochs * pace.steps - self._before
            self._whole = self._progress.add_task("all that is left", total=whole)
        if self._at != (pace.part, pace.epoch):
            name = f"{pace.part} epoch {pace.epoch + 1} of {pace.epochs}".strip()
            self._progress.reset(self._epoch, total=pace.steps, description=name)
            self._at = (pace.part, pace.epoch)
        self._progress.update(self._epoch, completed=pace.step)
        finished = (self._parts - pace.parts_left) * pace.epochs * pace.steps
        self._progress.update(self._whole, completed=finished + pace.done - self._before)
