"""A device that changes is noticed, and one that does not raises few alarms: both counted in simulations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from preread.monitoring import devices
from preread.monitoring.devices import DAYS, LEAST_EARLIER, WINDOW, find_changed_codes, is_unusual

Draws: TypeAlias = NDArray[np.bool_]
Draw: TypeAlias = Callable[[np.random.Generator, float, int], Draws]
# Shares of the codes of one device: refusals and caveats from rare to nearly always.
SHARES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.98)
A_DAY = 20


def independent(chance: np.random.Generator, share: float, count: int) -> Draws:
    return chance.random(count) < share


def in_pairs(chance: np.random.Generator, share: float, count: int) -> Draws:
    """Each examination has two images, which have the same codes."""
    return independent(chance, share, count // 2 + 1).repeat(2)[:count]


def by_day(chance: np.random.Generator, share: float, count: int) -> Draws:
    """The odds of a day are about 1.6 times those of another, as on weekends."""
    odds = share / (1 - share) * np.exp(chance.normal(0, 0.5, count // A_DAY + 1)).repeat(A_DAY)[:count]
    return chance.random(count) < odds / (1 + odds)


def alarm_days(draw: Draw, days: int, chance: np.random.Generator) -> int:
    """Count the days on which a stable device raises an alarm, with whichever code, after any of its images."""
    known = DAYS * A_DAY
    alarmed: set[int] = set()
    for share in SHARES:
        images = draw(chance, share, known + days * A_DAY)
        sums = np.concatenate([[0], np.cumsum(images)])
        ends = np.arange(known + 1, len(images) + 1)
        found, earlier = sums[ends] - sums[ends - WINDOW], sums[ends - WINDOW] - sums[ends - known]
        pairs, which = np.unique(np.stack([found, earlier]), axis=1, return_inverse=True)
        beyond = [devices._is_beyond(int(one), int(of_known), known - WINDOW, 1.0) for one, of_known in pairs.T]
        for end in ends[np.array(beyond)[which.ravel()]]:
            before = [bool(image) for image in images[end - known : end - WINDOW]]
            if is_unusual(int(images[end - WINDOW : end].sum()), before):
                alarmed.add((end - 1) // A_DAY)
    return len(alarmed)


@pytest.mark.parametrize("draw, most", [(independent, 10), (in_pairs, 100), (by_day, 100)])
def test_a_stable_device_raises_no_more_alarms_than_stated(draw: Draw, most: int) -> None:
    """Of 10,000 days, as the module states them: 1 in 1,000 for independent images, 1 in 100 for others."""
    assert alarm_days(draw, 10_000, np.random.default_rng(20261130)) <= most


@pytest.mark.parametrize(
    "draw, earlier, seen",
    [
        (independent, 100, 0.88),
        (independent, 200, 0.95),
        (independent, 600, 0.98),
        (independent, 1800, 0.98),
        (in_pairs, 600, 0.8),
        (in_pairs, 1800, 0.8),
    ],
)
def test_a_change_from_2_to_60_percent_is_seen_within_20_images(draw: Draw, earlier: int, seen: float) -> None:
    chance = np.random.default_rng(earlier)
    found = 0
    for _ in range(300):
        images = np.concatenate([draw(chance, 0.02, earlier), independent(chance, 0.6, 20)])
        ends = range(len(images) - 19, len(images) + 1)
        found += any(is_unusual(int(images[end - WINDOW : end].sum()), images[: end - WINDOW].tolist()) for end in ends)
    assert found / 300 >= seen


@given(
    earlier=st.integers(600, 2000),
    positions=st.sets(st.integers(0, 599), max_size=14),
    order=st.permutations([True] * 12 + [False] * 8),
)
def test_twelve_of_twenty_are_always_seen(earlier: int, positions: set[int], order: list[bool]) -> None:
    """As many as 60 %, in any order, after at most 2 % in any places."""
    before = [number in positions for number in range(earlier)]
    assert is_unusual(sum(order), before)


@given(st.integers(LEAST_EARLIER, 3000), st.floats(0.0, 1.0), st.integers(0, 2**32))
def test_the_usual_number_is_never_unusual_and_both_directions_agree(earlier: int, share: float, seed: int) -> None:
    before = independent(np.random.default_rng(seed), share, earlier).tolist()
    assert not is_unusual(round(WINDOW * sum(before) / earlier), before)
    inverted = [not image for image in before]
    for found in range(WINDOW + 1):
        assert is_unusual(found, before) == is_unusual(WINDOW - found, inverted)


@given(st.integers(LEAST_EARLIER, 1000), st.integers(0, 1000), st.floats(1.0, 5.0))
def test_what_is_further_away_is_no_less_unusual(total: int, known: int, dispersion: float) -> None:
    known = min(known, total)
    beyond = [devices._is_beyond(found, known, total, dispersion) for found in range(WINDOW + 1)]
    middle = round(WINDOW * known / total)
    assert not beyond[middle]
    assert beyond[middle:] == sorted(beyond[middle:])
    assert beyond[: middle + 1] == sorted(beyond[: middle + 1], reverse=True)


def images(*shares: tuple[int, set[str]]) -> list[frozenset[str]]:
    return [frozenset(codes) for count, codes in shares for _ in range(count)]


def test_a_device_is_judged_code_by_code_and_needs_earlier_images() -> None:
    changed = images((8, {"no_window"}), (12, {"view", "no_window"}), (LEAST_EARLIER, {"lossy", "no_window"}))
    assert [(one.code, one.images, one.share) for one in find_changed_codes("ROOM 1", changed)] == [
        ("lossy", 0, 1.0),
        ("view", 12, 0.0),
    ]
    assert list(find_changed_codes("ROOM 1", changed[:-1])) == []
    assert list(find_changed_codes("ROOM 1", [])) == []
