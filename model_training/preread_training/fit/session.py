"""Settings of one fit: folder, seed, limits, callbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from preread_training.fit.progress import Advance, ignore_progress


def ignore_log_line(_line: str) -> None:
    """Ignore a line of the log."""


@dataclass(frozen=True, slots=True)
class Session:
    """One fit, or all fits of a run.

    Attributes:
        folder: of the network, or of the run with a folder for each network.
        seed: of initial weights and batches.
        steps_per_epoch: shortens each epoch, for a trial; ``None``: one pass over the images.
        minutes: after them a fit ends with the step in progress; ``None``: no limit.
        log: called with a line of text after each epoch.
        advance: called after each step.
    """

    folder: Path
    seed: int = 0
    steps_per_epoch: int | None = None
    minutes: float | None = None
    log: Callable[[str], None] = ignore_log_line
    advance: Advance = ignore_progress
