"""How far one distribution lies from another, and how far chance alone would take it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.model.distributions import (
    Distribution,
    compute_chance_level,
    compute_decile_histogram,
    compute_histogram,
    compute_stability_index,
)

_counts = st.lists(st.integers(0, 500), min_size=2, max_size=10)


def of(counts: list[int]) -> Distribution:
    return Distribution(tuple(map(float, range(len(counts) - 1))), tuple(counts))


@given(_counts)
def test_a_distribution_is_no_distance_from_itself(counts: list[int]) -> None:
    assert compute_stability_index(of(counts), of(counts)) == 0


@given(st.integers(2, 10).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 500), min_size=n, max_size=n)] * 2)))
def test_the_distance_is_the_same_both_ways_and_never_below_zero(pair: tuple[list[int], list[int]]) -> None:
    there, back = compute_stability_index(of(pair[0]), of(pair[1])), compute_stability_index(of(pair[1]), of(pair[0]))
    assert there == pytest.approx(back)
    assert there >= 0


def test_the_index_by_hand() -> None:
    expected, found = of([50, 50]), of([80, 20])
    p, q = np.array([50.5, 50.5]) / 101, np.array([80.5, 20.5]) / 101
    assert compute_stability_index(expected, found) == pytest.approx(float(((q - p) * np.log(q / p)).sum()))


@given(st.lists(st.floats(0, 1), max_size=200))
def test_every_value_has_one_bin(values: list[float]) -> None:
    found = compute_decile_histogram(values)
    assert found.total == len(values)
    assert compute_histogram(values, found.edges) == found
    assert not values or min(found.films) > 0


@pytest.mark.parametrize("films", [100, 1000])
def test_samples_of_one_population_exceed_what_chance_gives_once_in_twenty_times(films: int) -> None:
    random = np.random.default_rng(7)
    beyond = 0
    for _ in range(400):
        expected = compute_decile_histogram(random.normal(size=films).tolist())
        found = compute_histogram(random.normal(size=films).tolist(), expected.edges)
        beyond += compute_stability_index(expected, found) > compute_chance_level(expected, found)
    assert 5 <= beyond <= 40  # 20 are meant


def test_other_bins_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="different edges"):
        compute_stability_index(of([1, 2]), of([1, 2, 3]))


@pytest.mark.parametrize(
    "edges, films", [((1.0, 1.0), (1, 1, 1)), ((float("nan"),), (1, 1)), ((1.0,), (1,)), ((1.0,), (1, -1))]
)
def test_what_is_no_distribution_is_refused(edges: tuple[float, ...], films: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"edges|films"):
        Distribution(edges, films)
