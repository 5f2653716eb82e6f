"""Two equal observations, far enough apart, and nothing else settles a file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from preread.ledger.records import Observation
from preread.share.stability import StabilityTracker


def look(path: bytes = b"a", size_bytes: int = 10, mtime_ns: int = 1, inode: int = 1) -> Observation:
    return Observation(path, size_bytes, mtime_ns, inode)


def test_one_look_settles_nothing_and_says_when_to_come_back() -> None:
    settling = StabilityTracker(2.0)
    assert not settling.record_observation(look(), 100.0)
    assert settling.next_recheck_at() == 102.0
    assert settling.list_due_paths(101.9, 10) == []
    assert settling.list_due_paths(102.0, 10) == [b"a"]
    assert settling.record_observation(look(), 102.0)
    assert len(settling) == 0


def test_looks_in_between_do_not_move_the_date() -> None:
    settling = StabilityTracker(2.0)
    for now in (0.0, 0.5, 1.0, 1.9):
        assert not settling.record_observation(look(), now)
    assert settling.record_observation(look(), 2.0)


def test_two_looks_at_one_moment_are_one_look() -> None:
    settling = StabilityTracker(0.0)
    assert not settling.record_observation(look(), 5.0)
    assert not settling.record_observation(look(), 5.0)
    assert settling.record_observation(look(), 5.1)


def test_any_change_starts_again() -> None:
    for changed in (look(size_bytes=11), look(mtime_ns=-5), look(inode=2)):
        settling = StabilityTracker(2.0)
        settling.record_observation(look(), 0.0)
        assert not settling.record_observation(changed, 2.0)
        assert not settling.record_observation(changed, 3.9)
        assert settling.record_observation(changed, 4.0)


def test_there_is_no_giving_up() -> None:
    settling = StabilityTracker(2.0)
    for second in range(0, 100_000, 2):
        assert not settling.record_observation(look(size_bytes=second), float(second))
    assert settling.record_observation(look(size_bytes=99_998), 100_001.0)


def test_what_may_not_settle_is_looked_at_ever_more_rarely() -> None:
    settling = StabilityTracker(2.0)
    now, looks = 0.0, 0
    while now < 3600:
        assert not settling.record_observation(look(size_bytes=0), now, may_settle=False)
        looks += 1
        now = settling.next_recheck_at() or 0.0
        settling.list_due_paths(now, 10)
    assert 60 < looks < 80
    assert settling.record_observation(look(size_bytes=0), now)


def test_beyond_its_capacity_it_asks_for_another_scan() -> None:
    settling = StabilityTracker(1.0, capacity=4)
    for number in range(6):
        settling.record_observation(look(bytes([65 + number])), 0.0)
    assert len(settling) == 4
    assert not settling.has_room_again()
    for number in range(2):
        assert settling.record_observation(look(bytes([65 + number])), 1.0)
    assert settling.has_room_again()
    assert not settling.has_room_again()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=60))
def test_against_a_model(steps: list[tuple[int, int]]) -> None:
    """A look settles if and only if an equal run of looks began at least ``settle_s`` ago."""
    settling, now, since, before = StabilityTracker(3.0), 0.0, None, None
    for wait, size in steps:
        now += wait
        expected = before == size and since is not None and now > since and now - since >= 3.0
        if before != size or since is None:
            since = now
        before = size
        assert settling.record_observation(look(size_bytes=size), now) == expected
        if expected:
            since = before = None
