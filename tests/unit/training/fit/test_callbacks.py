"""What a fit keeps of its epochs."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("deterministic_tensorflow")


def _epochs(folder: Path, *epochs: int) -> None:
    from preread_training.fit.callbacks import HISTORY_FILE, ProgressLog

    told = ProgressLog(9, folder / HISTORY_FILE, lambda _: None)
    for epoch in epochs:
        told.on_epoch_begin(epoch)
        told.on_epoch_end(epoch, {"loss": 1 / (epoch + 1)})


def test_the_history_names_its_columns(tmp_path: Path) -> None:
    from preread_training.fit.callbacks import HISTORY_FILE, read_history

    _epochs(tmp_path, 0, 1)
    lines = (tmp_path / HISTORY_FILE).read_text().splitlines()
    assert lines[0] == "epoch,loss,seconds"
    assert [line.split(",")[:2] for line in lines[1:]] == [["1", "1.000000"], ["2", "0.500000"]]
    assert [(epoch, loss) for epoch, loss, _ in read_history(tmp_path)] == [(1, 1.0), (2, 0.5)]


def test_a_history_without_header_goes_on(tmp_path: Path) -> None:
    """As version 0.1.0 wrote it; the epoch that was broken off is replaced."""
    from preread_training.fit.callbacks import HISTORY_FILE, read_history

    (tmp_path / HISTORY_FILE).write_text("1,0.7,3.0\n2,0.6,3.0\n")
    assert read_history(tmp_path) == [(1, 0.7, 3.0), (2, 0.6, 3.0)]
    _epochs(tmp_path, 1)
    assert (tmp_path / HISTORY_FILE).read_text().splitlines()[:2] == ["epoch,loss,seconds", "1,0.7,3.0"]
    assert [epoch for epoch, _, _ in read_history(tmp_path)] == [1, 2]
    assert read_history(tmp_path)[1][1] == 0.5
