"""How far a fit is: bars for a terminal, silence elsewhere, a history with each epoch once."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from preread_training.fit.progress import Bars, Pace

if TYPE_CHECKING:
    from preread_training.fit.callbacks import ProgressLog

pytestmark = pytest.mark.usefixtures("deterministic_tensorflow")


def _shown(terminal: bool, *paces: Pace) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, _environ={})
    with Bars(console) as bars:
        for pace in paces:
            bars(pace)
    return stream.getvalue()


def test_a_terminal_gets_the_epoch_and_all_that_is_left() -> None:
    shown = _shown(True, *(Pace(2, 5, step, 10, "fold-1", 2) for step in range(1, 8)))
    last = shown.split("fold-1 epoch 3 of 5")[-1]
    assert "7/10" in last
    assert "7/80" in last  # 2 parts of 5 epochs of 10 steps, 20 of which an earlier command did


def test_the_next_part_goes_on_with_the_same_bar() -> None:
    shown = _shown(True, Pace(0, 2, 1, 10, "fold-0", 2), Pace(1, 2, 10, 10, "fold-0", 2), Pace(0, 2, 5, 10, "all", 1))
    assert "25/40" in shown.split("all epoch 1 of 2")[-1]


def test_what_is_no_terminal_gets_no_bar() -> None:
    assert _shown(False, Pace(0, 1, 1, 2)) == "\n" * _shown(False, Pace(0, 1, 1, 2)).count("\n")


def _epoch(told: ProgressLog, epoch: int, loss: float) -> None:
    told.on_epoch_begin(epoch)
    told.on_epoch_end(epoch, {"loss": loss})


def test_an_epoch_that_is_done_again_stands_once_in_the_history(tmp_path: Path) -> None:
    from preread_training.fit.callbacks import ProgressLog

    history, said = tmp_path / "history.csv", list[str]()
    for epoch, loss in enumerate((0.5, 0.4)):
        _epoch(ProgressLog(3, history, said.append), epoch, loss)
    resumed = ProgressLog(3, history, said.append)  # broken off before the second epoch's checkpoint
    _epoch(resumed, 1, 0.39)
    _epoch(resumed, 2, 0.3)
    rows = [line.split(",")[:2] for line in history.read_text().splitlines()]
    assert rows == [["epoch", "loss"], ["1", "0.500000"], ["2", "0.390000"], ["3", "0.300000"]]
    assert [text.split(":")[0] for text in said[-2:]] == ["epoch 2 of 3", "epoch 3 of 3"]


def test_every_step_is_told(tmp_path: Path) -> None:
    from preread_training.fit.callbacks import ProgressLog

    paces: list[Pace] = []
    told = ProgressLog(2, tmp_path / "history.csv", lambda _: None, paces.append)
    told.set_params({"steps": 3})
    told.on_epoch_begin(1)
    for batch in range(3):
        told.on_train_batch_end(batch)
    assert [pace.done for pace in paces] == [4, 5, 6]
