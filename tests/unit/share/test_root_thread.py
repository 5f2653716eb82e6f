"""A share that leaves a question unanswered counts as down, as another thread sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from preread.core.errors import ShareDown
from preread.share.root_monitor import MonitorOptions
from preread.share.root_thread import STALL_S, RootThread


@pytest.fixture
def thread(tmp_path: Path) -> RootThread:
    """Not started: nothing is asked but what a test asks."""
    return RootThread(os.fsencode(tmp_path), 1, None, MonitorOptions(), lambda: None)  # type: ignore[arg-type]


def during(thread: RootThread, call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something while the share has not answered."""

    def lstat(_path: bytes) -> Any:
        call()
        raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", lstat)
        with pytest.raises(FileNotFoundError):
            thread.monitor._root.system.read_link_status(b"film")


def test_a_share_that_answers_is_not_down(thread: RootThread, monkeypatch: pytest.MonkeyPatch) -> None:
    for second in range(0, 1000, 10):
        during(thread, partial(thread.check_share, second), monkeypatch)
    assert thread.check_share(1000.0) is None


def test_one_question_unanswered_for_long_is_a_stall_until_the_answer(
    thread: RootThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[ShareDown | None] = []

    def wait() -> None:
        said.extend(thread.check_share(100.0 + seconds) for seconds in (0.0, STALL_S - 0.1, STALL_S, 10 * STALL_S))

    during(thread, wait, monkeypatch)
    assert [error and error.code for error in said] == [None, None, "share_stalled", "share_stalled"]
    assert thread.check_share(2000.0) is None


def test_a_share_that_is_down_is_said_to_be_so(thread: RootThread) -> None:
    thread.monitor._share.record_failure(ShareDown("it is not mounted"))
    assert str(thread.check_share(0.0)) == "it is not mounted"
