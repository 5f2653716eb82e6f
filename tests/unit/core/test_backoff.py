"""Retry delays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from preread.core.backoff import Backoff


def test_delays_double_up_to_the_limit_and_begin_again_after_a_reset() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.failures == 5
    backoff.reset()
    assert backoff.next_s() == 0.5


@given(st.integers(1, 10**9))
def test_any_count_of_failures_gives_a_delay_within_the_limits(failures: int) -> None:
    backoff = Backoff(1.0, 300.0)
    assert 1.0 <= backoff.after(failures) <= 300.0
    assert backoff.failures == 0
