"""What asks the worker to end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from preread.core.signals import Signals


@pytest.fixture
def hang_up() -> Iterator[Callable[[signal.Handlers], int]]:
    """Close the terminal under what was started so; return how often it was asked to end."""

    def count(started_with: signal.Handlers) -> int:
        signal.signal(signal.SIGHUP, started_with)
        with Signals(lambda: None) as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            asked = signals.count
        assert signal.getsignal(signal.SIGHUP) == started_with
        return asked

    before = signal.getsignal(signal.SIGHUP)
    yield count
    signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_closed_asks_to_finish(hang_up: Callable[[signal.Handlers], int]) -> None:
    assert hang_up(signal.SIG_DFL) == 1


def test_what_was_started_with_nohup_goes_on(hang_up: Callable[[signal.Handlers], int]) -> None:
    assert hang_up(signal.SIG_IGN) == 0
