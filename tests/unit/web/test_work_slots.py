"""Places for work are bounded: in all, by source, and in their queue."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preread.web.limits.work_slots import NoSlotError, RequestRate, WorkSlots


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=60), st.integers(1, 5), st.integers(1, 3), st.integers(0, 6))
def test_never_more_than_allowed_and_nothing_is_left(sources: list[str], at_once: int, each: int, waiting: int) -> None:
    places = WorkSlots(at_once=at_once, each=each, waiting=waiting, waiting_in_all=100, within_s=60)
    working: Counter[str] = Counter()
    done: Counter[str] = Counter()
    refused: Counter[str] = Counter()

    async def work(source: str) -> None:
        try:
            async with places.slot(source):
                working[source] += 1
                assert working[source] <= each
                assert working.total() <= at_once
                await asyncio.sleep(0)
                working[source] -= 1
                done[source] += 1
        except NoSlotError:
            refused[source] += 1

    async def everybody() -> None:
        await asyncio.gather(*map(work, sources))

    asyncio.run(everybody())
    for source, asked in Counter(sources).items():
        assert done[source] + refused[source] == asked
        assert done[source] >= min(asked, each + waiting)
    assert (places.taken, places._sources) == (0, {})


def test_who_waits_too_long_is_refused_and_takes_no_place() -> None:
    async def wait() -> None:
        places = WorkSlots(at_once=1, each=1, waiting=1, waiting_in_all=1, within_s=0.01)
        async with places.slot("a"):
            with pytest.raises(NoSlotError):
                async with places.slot("b"):
                    pass
            with pytest.raises(NoSlotError):
                async with places.slot("a"):
                    pass
        async with places.slot("b"):
            pass
        assert (places.taken, places._sources) == (0, {})

    asyncio.run(wait())


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 0.5)), max_size=120))
def test_a_pace_is_kept_whoever_comes(coming: list[tuple[str, float]]) -> None:
    now = 1000.0
    pace = RequestRate(each_s=10, in_all_s=20, burst_s=1, longest_s=3, clock=lambda: now)
    turns: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    for source, later in coming:
        now += later
        delay, may_go_on = pace.delay_s(source)
        assert 0 <= delay <= 3
        if may_go_on:
            turns[source].append(now + delay)
    for at in turns.values():
        for first in range(len(at)):
            for last in range(first, len(at)):
                # what may come at once, and from then on no faster than the rate
                assert last - first + 1 <= 10 * (at[last] - at[first]) + 11.001
    assert sum(map(len, turns.values())) <= 20 * (now - 1000 + 1 + 3) + 1.001


def test_who_comes_slowly_never_waits() -> None:
    now = 1000.0
    pace = RequestRate(each_s=10, in_all_s=20, burst_s=1, longest_s=3, clock=lambda: now)
    for _ in range(1000):
        assert pace.delay_s("a") == (0.0, True)
        now += 0.11
    for number in range(30_000):
        pace.delay_s(f"from {number}")
    assert len(pace._turns) <= RequestRate._SOURCES_AT_MOST
