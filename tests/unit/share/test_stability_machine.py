"""StabilityTracker against a plain model of it, on a folder that anyone may change at any time.

The model is what a person would say: a path settles at the second of two equal looks that lie far enough apart, and at
no other moment; of more paths than there is room for nothing is remembered, and that is said.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from preread.ledger.records import Observation
from preread.share.stability import StabilityTracker

SETTLE_S = 3.0
CAPACITY = 4
PATHS = [b"a", b"b", b"c", b"d", b"e", b"f"]
paths = st.sampled_from(PATHS)


class SettlingMachine(RuleBasedStateMachine):
    """A folder, and an inbox that looks at its files as the real one does: by scans, hints, and when a path is due."""

    def __init__(self) -> None:
        super().__init__()
        self.settling = StabilityTracker(SETTLE_S, capacity=CAPACITY)
        self.now = 100.0
        self.writes = 0
        self.folder: dict[bytes, Observation] = {}
        self.backlog: set[bytes] = set()
        self.settled: dict[bytes, Observation] = {}
        # the model: since when each remembered path was seen as it is
        self.since: dict[bytes, tuple[Observation, float]] = {}
        self.turned_away = False

    # ------------------------------------------------------------------ the folder

    @rule(path=paths, size_bytes=st.integers(0, 2), backlog=st.booleans())
    def write(self, path: bytes, size_bytes: int, backlog: bool) -> None:
        self.writes += 1
        self.folder[path] = Observation(path, size_bytes, self.writes)
        (self.backlog.add if backlog else self.backlog.discard)(path)

    @rule(path=paths)
    def remove(self, path: bytes) -> None:
        self.folder.pop(path, None)

    # ------------------------------------------------------------------ the inbox

    def _look(self, path: bytes) -> None:
        seen = self.folder.get(path)
        if seen is None or self.settled.get(path) == seen:
            self.settling.forget_path(path)
            self.since.pop(path, None)
            return
        may_settle, backlog = seen.size_bytes > 0, path in self.backlog
        before = self.since.get(path)
        settles = self.settling.record_observation(seen, self.now, may_settle=may_settle, backlog=backlog)
        equal_since = before[1] if before is not None and before[0] == seen else None
        assert settles == (equal_since is not None and may_settle and self.now - equal_since >= SETTLE_S)
        room = CAPACITY // 2 if backlog else CAPACITY
        if settles:
            self.settled[path] = seen
            del self.since[path]
        elif before is None and len(self.since) >= room:
            self.turned_away = True
        elif equal_since is None:
            self.since[path] = (seen, self.now)

    @rule()
    def scan(self) -> None:
        for path in PATHS:
            self._look(path)

    @rule(path=paths)
    def hint(self, path: bytes) -> None:
        self._look(path)

    @rule(path=paths)
    def a_look_fails(self, path: bytes) -> None:
        self.settling.delay_recheck(path, self.now)

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.9, 3.0, 61.0]), limit=st.integers(1, 6))
    def time_passes(self, seconds: float, limit: int) -> None:
        self.now += seconds
        due = self.settling.list_due_paths(self.now, limit)
        assert len(due) <= limit
        assert set(due) <= self.since.keys()
        for path in due:
            self._look(path)

    @rule()
    def a_new_process(self) -> None:
        self.settling = StabilityTracker(SETTLE_S, capacity=CAPACITY)
        self.since.clear()
        self.turned_away = False

    @precondition(lambda self: self.turned_away)
    @rule()
    def room_is_said_once(self) -> None:
        room = len(self.since) <= CAPACITY // 2
        assert self.settling.has_room_again() == room
        self.turned_away = self.turned_away and not room
        assert not self.settling.has_room_again()

    # ------------------------------------------------------------------ what must always hold

    @invariant()
    def it_remembers_what_the_model_does(self) -> None:
        assert len(self.settling) == len(self.since) <= CAPACITY
        assert {path for path in PATHS if path in self.settling} == self.since.keys()
        assert self.settling.room_for_backlog == max(0, CAPACITY // 2 - len(self.since))

    @invariant()
    def every_remembered_path_is_looked_at_again(self) -> None:
        at = self.settling.next_recheck_at()
        assert at is not None or not self.since

    def teardown(self) -> None:
        """Once the folder stands still, every file that has bytes settles as it is, whatever came before."""
        for _ in range(20):
            self.time_passes(SETTLE_S + 1, len(PATHS))
            if self.settling.has_room_again() or not self.since:
                self.turned_away = False
                self.scan()
            self.folder = {path: seen for path, seen in self.folder.items() if seen.size_bytes}
        assert {path: self.settled.get(path) for path in self.folder} == self.folder


SettlingMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSettling = SettlingMachine.TestCase
