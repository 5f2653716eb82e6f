"""The inbox against a plain model of its folder, on a real folder and a real ledger.

The model knows what lies under each path, and since when it stands still. Whatever order things happen in: nothing is
handed out that had not stood still, and once the folder is left alone, the ledger says exactly what lies there.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from preread.core.errors import FileChanged, FileVanished, UnknownFormat
from preread.core.types import FileState
from preread.db.engine import open_engine
from preread.ledger.ledger import Ledger
from preread.share.root_monitor import MonitorHooks, MonitorOptions, RootMonitor
from tests.support.outcomes import commit_unreadable, pending

NAMES = [b"a", b"b", b"\xff", b"folder/c", b"folder/d.part", b"folder/e"]
SETTLE_S, SCAN_S = 2.0, 30.0
UNSEEN = {FileState.MISSED, FileState.VANISHED}
names = st.sampled_from(NAMES)


class Hints:
    """What the machine says that happened."""

    restarts = 0

    def __init__(self) -> None:
        self.paths: list[bytes] = []

    def keep_watching(self, now: float) -> None: ...

    def take_event_paths(self) -> tuple[list[bytes], bool]:
        taken, self.paths = self.paths, []
        return taken, False

    def stop_watching(self) -> None: ...


class InboxMachine(RuleBasedStateMachine):
    """One folder, one inbox that may be started anew, one slot."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        folder = Path(self.place.name)
        shutil.copy(self.template, folder / "preread.db")
        self.engine = open_engine(f"sqlite:///{folder / 'preread.db'}")
        self.root = os.fsencode(folder / "inbox")
        os.makedirs(os.path.join(self.root, b"folder"))
        self.now, self.wall = 1000.0, datetime.now(UTC)
        self.ledger = Ledger(self.engine, worker_id="one", lease_s=3600)
        self.root_id = self.ledger.register_root(self.root)
        self.numbers = itertools.count(1)
        # the model: size and mtime under each path, and since when
        self.folder: dict[bytes, tuple[int, int, float]] = {}
        self.begin()

    def begin(self) -> None:
        self.hints = Hints()
        options = MonitorOptions(settle_s=SETTLE_S, scan_interval_s=SCAN_S)
        self.inbox = RootMonitor(
            self.root,
            self.root_id,
            self.ledger,
            options,
            MonitorHooks(watch=lambda *_: self.hints, wall=lambda: self.wall),
        )

    # ------------------------------------------------------------------ the folder

    def _where(self, name: bytes) -> bytes:
        return os.path.join(self.root, name)

    @rule(name=names, size_bytes=st.integers(1, 3), noticed=st.booleans())
    def write(self, name: bytes, size_bytes: int, noticed: bool) -> None:
        mtime_ns = next(self.numbers)
        with open(self._where(name), "wb") as stream:
            stream.write(b"x" * size_bytes)
        os.utime(self._where(name), ns=(mtime_ns, mtime_ns))
        self.folder[name] = (size_bytes, mtime_ns, self.now)
        self._notice(name, noticed=noticed)

    @rule(name=names, to=names, noticed=st.booleans())
    def rename(self, name: bytes, to: bytes, noticed: bool) -> None:
        if name in self.folder and name != to:
            os.rename(self._where(name), self._where(to))
            size_bytes, mtime_ns, _ = self.folder.pop(name)
            self.folder[to] = (size_bytes, mtime_ns, self.now)
            self._notice(to, noticed=noticed)

    @rule(name=names)
    def remove(self, name: bytes) -> None:
        if self.folder.pop(name, None):
            os.unlink(self._where(name))

    def _notice(self, name: bytes, *, noticed: bool) -> None:
        if noticed:
            self.hints.paths.append(name)

    # ------------------------------------------------------------------ the inbox and the slot

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.9, 2.1, 31.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(10_000):
            delay = self.inbox.run_step(self.now)
            if delay > 0 and self.now + delay > end:
                break
            self.now += delay
        else:
            pytest.fail("the inbox wants to be called for ever")
        self.now, self.wall = end, self.wall + timedelta(seconds=seconds)

    @rule()
    def a_new_process(self) -> None:
        self.begin()

    @rule()
    def a_slot_reads(self) -> None:
        for claim in self.ledger.claim([self.root_id], 1):
            there = self.folder.get(claim.path)
            if there is None:
                self.ledger.give_back(claim, FileVanished())
                self.inbox.request_path_check(claim.path)
            elif there[:2] != (claim.size_bytes, claim.mtime_ns):
                self.ledger.give_back(claim, FileChanged())
                self.inbox.request_path_check(claim.path)
            else:
                assert self.now - there[2] >= SETTLE_S, "handed out before it stood still"
                assert commit_unreadable(self.ledger, claim, UnknownFormat())

    @invariant()
    def nothing_is_ready_that_had_not_stood_still(self) -> None:
        for name, version in self.ledger.newest_versions(self.root_id, NAMES).items():
            there = self.folder.get(name)
            if version.state is FileState.READY and there is not None and version.settled_at is not None:
                current = there[:2] == (version.size_bytes, version.mtime_ns)
                assert not current or self.now - there[2] >= SETTLE_S

    def teardown(self) -> None:
        """The folder is left alone: two scans later the ledger says what lies there, and nothing waits."""
        try:
            for _ in range(4):
                self.time_passes(SCAN_S + 1)
                for _ in NAMES:
                    self.a_slot_reads()
            known = self.ledger.newest_versions(self.root_id, NAMES)
            for name, (size_bytes, mtime_ns, _) in self.folder.items():
                expected = FileState.IGNORED if name.endswith(b".part") else FileState.QUARANTINED
                assert (known[name].size_bytes, known[name].mtime_ns) == (size_bytes, mtime_ns) or (
                    expected is FileState.IGNORED
                )
                assert known[name].state is expected
            gone = known.keys() - self.folder.keys()
            assert all(known[name].state in UNSEEN | {FileState.IGNORED} for name in gone)
            assert pending(self.ledger, [self.root_id]) == 0
        finally:
            self.engine.dispose()
            self.place.cleanup()


def test_the_inbox_is_its_model(migrated_sqlite: Path) -> None:
    machine = type("Machine", (InboxMachine,), {"template": migrated_sqlite})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
