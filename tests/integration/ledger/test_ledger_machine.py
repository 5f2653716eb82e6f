"""The state machine against a small model of it: whatever happens in whatever order, the promises hold.

The model knows only what a person would say: what lies under which path, who holds it, what was assessed. Runs on
both databases.
"""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, func, select, text

from preread.core.errors import (
    EnvironmentFault,
    FileChanged,
    FileLocked,
    FileVanished,
    ShareDown,
    SlotCrashed,
    SlotDeadline,
    SlotError,
    UnknownFormat,
)
from preread.core.types import Answer, FileState, Finding, Outcome, RefusalCode
from preread.db import schema
from preread.db.engine import database_now, open_engine, read
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim, ContentAssessment, Ending, FileFacts, Observation
from tests.support.outcomes import commit_assessed, commit_refused, commit_unreadable, pending

PATHS = [b"a.dcm", b"b.dcm", b"\xff.dcm"]
CONTENTS = ["0" * 64, "1" * 64]
LEASE_S = 60

# Which moves there are at all. A move that is not here is a bug, whatever verb made it.
ALLOWED = {
    (None, FileState.SETTLING),
    (None, FileState.IGNORED),
    (FileState.SETTLING, FileState.READY),
    (FileState.SETTLING, FileState.QUARANTINED),
    (FileState.SETTLING, FileState.MISSED),
    (FileState.SETTLING, FileState.VANISHED),
    (FileState.SETTLING, FileState.SUPERSEDED),
    (FileState.SETTLING, FileState.IGNORED),
    (FileState.READY, FileState.CLAIMED),
    (FileState.READY, FileState.MISSED),
    (FileState.READY, FileState.VANISHED),
    (FileState.READY, FileState.SUPERSEDED),
    (FileState.READY, FileState.IGNORED),
    (FileState.CLAIMED, FileState.DONE),
    (FileState.CLAIMED, FileState.QUARANTINED),
    (FileState.CLAIMED, FileState.RETRY),
    (FileState.CLAIMED, FileState.READY),
    (FileState.CLAIMED, FileState.SETTLING),
    (FileState.CLAIMED, FileState.MISSED),
    (FileState.CLAIMED, FileState.VANISHED),
    (FileState.CLAIMED, FileState.SUPERSEDED),
    (FileState.RETRY, FileState.READY),
    (FileState.RETRY, FileState.MISSED),
    (FileState.RETRY, FileState.VANISHED),
    (FileState.RETRY, FileState.SUPERSEDED),
    (FileState.DONE, FileState.READY),
    (FileState.DONE, FileState.VANISHED),
    (FileState.DONE, FileState.SUPERSEDED),
    (FileState.QUARANTINED, FileState.VANISHED),
    (FileState.QUARANTINED, FileState.SUPERSEDED),
    (FileState.QUARANTINED, FileState.READY),
    (FileState.VANISHED, FileState.DONE),
    (FileState.VANISHED, FileState.QUARANTINED),
    (FileState.VANISHED, FileState.SUPERSEDED),
    (FileState.MISSED, FileState.MISSED),
    (FileState.MISSED, FileState.SETTLING),
    (FileState.MISSED, FileState.SUPERSEDED),
    (FileState.IGNORED, FileState.SETTLING),
    (FileState.IGNORED, FileState.SUPERSEDED),
    (FileState.SUPERSEDED, FileState.SETTLING),
}


class LedgerMachine(RuleBasedStateMachine):
    """Two workers, three paths, two contents, one folder."""

    engine: Engine

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        with self.engine.begin() as connection:
            # what people sign may not be deleted, and none of it is here
            for table in reversed(schema.metadata.sorted_tables):
                if connection.execute(select(func.count()).select_from(table)).scalar_one():
                    connection.execute(text(f"DELETE FROM {table.name}"))
        self.now: datetime = read(self.engine, database_now)
        self.workers = [
            Ledger(self.engine, worker_id=name, lease_s=LEASE_S, clock=lambda _connection: self.now)
            for name in ("one", "two")
        ]
        self.root_id = self.workers[0].register_root(b"/srv/inbox")
        self.bundle_id = self.workers[0].register_bundle(name="films", version="1", digest="d" * 64)
        # the model: what lies in the folder, which claims still hold, how often a version's slot died
        self.folder: dict[bytes, tuple[int, int]] = {}
        self.holders: dict[int, Claim] = {}
        self.leases: dict[int, datetime] = {}
        self.assessed: set[str] = set()

    # ------------------------------------------------------------------ the folder and its scanner

    @rule(path=st.sampled_from(PATHS), size_bytes=st.integers(0, 2), mtime_ns=st.integers(1, 2))
    def write(self, path: bytes, size_bytes: int, mtime_ns: int) -> None:
        self.folder[path] = (size_bytes, mtime_ns)
        self.observe()

    @rule(first=st.booleans())
    def observe(self, first: bool = False) -> None:
        seen = [Observation(path, *version) for path, version in self.folder.items()]
        told = self.workers[0].observe(self.root_id, seen, backlog=first)
        waiting = [one for one in told.values() if one.state in {FileState.SETTLING, FileState.READY}]
        assert first or not any(one.backlog for one in waiting)
        assert {path: (one.size_bytes, one.mtime_ns) for path, one in told.items()} == self.folder
        self._drop_fenced()

    @rule(path=st.sampled_from(PATHS))
    def remove(self, path: bytes) -> None:
        self.folder.pop(path, None)
        self.workers[0].record_absent(self.root_id, [path])

    @rule()
    def settle(self) -> None:
        known = self.workers[0].newest_versions(self.root_id, PATHS).values()
        self.workers[0].settle([one for one in known if one.size_bytes])
        self._drop_fenced()

    @rule()
    def give_up_on_empty_files(self) -> None:
        self.workers[0].quarantine_empty(self.workers[0].newest_versions(self.root_id, PATHS).values())
        self._drop_fenced()

    @rule(path=st.sampled_from(PATHS))
    def ignore(self, path: bytes) -> None:
        if path in self.folder:
            self.workers[0].record_ignored(self.root_id, [Observation(path, *self.folder[path])], "rule")

    @rule()
    def operator_reopens(self) -> None:
        known = self.workers[0].newest_versions(self.root_id, PATHS).values()
        self.workers[0].requeue([one.file_id for one in known], "the operator asked")

    @rule(state=st.sampled_from([FileState.DONE, FileState.RETRY]))
    def operator_has_it_read_again(self, state: FileState) -> None:
        known = self.workers[0].newest_versions(self.root_id, PATHS).values()
        moved = self.workers[0].requeue([one.file_id for one in known], "the operator asked", states=(state,))
        assert moved == sum(one.state is state for one in known)

    @rule()
    def operator_acknowledges(self) -> None:
        known = self.workers[0].newest_versions(self.root_id, PATHS).values()
        missed = sum(one.state is FileState.MISSED and one.code is None for one in known)
        assert self.workers[0].acknowledge_missed([one.file_id for one in known], "alice knows") == missed

    # ------------------------------------------------------------------ claims

    @rule(target=claims, number=st.integers(0, 1), limit=st.integers(1, 3))
    def claim(self, number: int, limit: int) -> Any:
        taken = self.workers[number].claim([self.root_id], limit)
        for one in taken:
            assert one.file_id not in self.holders, "two live claims of one version"
            assert self.folder.get(one.path) in {None, (one.size_bytes, one.mtime_ns)}, (
                "an outdated version was claimed"
            )
            assert 1 <= one.attempts <= 3
            self.holders[one.file_id] = one
            self.leases[one.file_id] = self.now + timedelta(seconds=LEASE_S)
        if any(one.alone for one in taken):
            assert len(taken) == 1
        elif taken:
            rows = {row.id: row for row in self._files()}
            left = [row for row in rows.values() if row.state == FileState.READY and not row.alone]
            last = max(_order(rows[one.file_id]) for one in taken)
            assert all(_order(row) > last for row in left), "live before backlog, then what never failed, newest first"
        return multiple(*taken)

    def _holds(self, claim: Claim) -> bool:
        return self.holders.get(claim.file_id) == claim

    def _ended(self, claim: Claim, told: object) -> None:
        """A verb must have said that it did something exactly when the claim held."""
        assert bool(told) == self._holds(claim)
        if self._holds(claim):
            del self.holders[claim.file_id]

    def _drop_fenced(self) -> None:
        """A newer version that settled takes the claim of the older away."""
        superseded = {row.id for row in self._files() if row.state == FileState.SUPERSEDED}
        for file_id in superseded & self.holders.keys():
            del self.holders[file_id]

    @rule(claim=consumes(claims), content=st.sampled_from(CONTENTS))
    def assess(self, claim: Claim, content: str) -> None:
        finding = Finding("pneumonia", 1.0, 0.7, 0.3, Answer.FLAGGED)
        said = ContentAssessment((finding,), (), "none", np.zeros((7, 7, 1), np.float32))
        held = self._holds(claim)
        told = commit_assessed(self.workers[0], claim, FileFacts(sha256=content), self.bundle_id, said)
        self._ended(claim, told)
        if held:
            self.assessed.add(content)

    @rule(first=consumes(claims), second=consumes(claims), third=consumes(claims), content=st.sampled_from(CONTENTS))
    def end_together(self, first: Claim, second: Claim, third: Claim, content: str) -> None:
        finding = Finding("pneumonia", 1.0, 0.7, 0.3, Answer.FLAGGED)
        said = ContentAssessment((finding,), (), "none", np.zeros((7, 7, 1), np.float32))
        facts = FileFacts(sha256=content)
        endings = [
            Ending(first, Outcome.ASSESSED, facts, content=said),
            Ending(second, Outcome.REFUSED, facts, RefusalCode.VIEW, "lateral"),
            Ending(third, Outcome.UNREADABLE, None, UnknownFormat.code, "what is it?"),
        ]
        if self._holds(first):
            self.assessed.add(content)
        for claim, told in zip((first, second, third), self.workers[0].commit(self.bundle_id, endings), strict=True):
            self._ended(claim, told)

    @rule(claim=consumes(claims))
    def refuse(self, claim: Claim) -> None:
        facts = FileFacts(sha256=CONTENTS[0])
        self._ended(claim, commit_refused(self.workers[0], claim, facts, self.bundle_id, RefusalCode.VIEW, "lateral"))

    @rule(claim=consumes(claims))
    def find_unreadable(self, claim: Claim) -> None:
        self._ended(claim, commit_unreadable(self.workers[0], claim, UnknownFormat()))

    @rule(
        claim=consumes(claims),
        error=st.sampled_from([SlotCrashed(), SlotDeadline()]),
        content=st.sampled_from([None, *CONTENTS]),
    )
    def slot_dies(self, claim: Claim, error: SlotError, content: str | None) -> None:
        late = {row for row in self._files() if row.failed_code == SlotDeadline.code}
        again = any(row.id == claim.file_id or (content and row.failed_sha256 == content) for row in late)
        state = self.workers[0].record_failure(claim, error, retry_in_s=5, sha256=content)
        self._ended(claim, state)
        last = claim.attempts == 3 or (isinstance(error, SlotDeadline) and again)
        if state is FileState.QUARANTINED:
            assert last
        elif state is FileState.RETRY:
            assert not last

    @rule(
        claim=consumes(claims),
        fault=st.sampled_from([FileLocked(), FileVanished(), FileChanged(), ShareDown()]),
        retry_in_s=st.sampled_from([0.0, 5.0]),
        held_slot=st.booleans(),
    )
    def environment_fails(self, claim: Claim, fault: EnvironmentFault, retry_in_s: float, held_slot: bool) -> None:
        self._ended(claim, self.workers[0].give_back(claim, fault, retry_in_s=retry_in_s, held_slot=held_slot))

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        kept = self.workers[0].renew([claim])
        assert kept == ({claim.file_id} if self._holds(claim) else set())
        if kept:
            self.leases[claim.file_id] = self.now + timedelta(seconds=LEASE_S)

    @rule(seconds=st.sampled_from([1, 10, LEASE_S + 1]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def recover(self) -> None:
        lapsed = {file_id for file_id in self.holders if self.leases[file_id] < self.now}
        assert self.workers[1].recover_interrupted() == len(lapsed)
        for file_id in lapsed:
            del self.holders[file_id]

    # ------------------------------------------------------------------ what must always hold

    def _files(self) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(select(schema.file)).all())

    @invariant()
    def every_claim_is_known_to_the_model(self) -> None:
        claimed = {row.id: row for row in self._files() if row.state == FileState.CLAIMED}
        assert claimed.keys() == self.holders.keys()
        for file_id, row in claimed.items():
            held = self.holders[file_id]
            assert (row.epoch, row.attempts, row.lease_until) == (held.epoch, held.attempts, self.leases[file_id])
        assert all(row.owner is None for row in self._files() if row.state != FileState.CLAIMED)

    @invariant()
    def each_content_has_one_assessment(self) -> None:
        with self.engine.connect() as connection:
            statement = select(schema.instance.c.sha256).join_from(schema.assessment, schema.instance)
            assert sorted(connection.execute(statement).scalars()) == sorted(self.assessed)

    @invariant()
    def state_and_outcome_agree(self) -> None:
        for row in self._files():
            state = FileState(row.state)
            assert (row.outcome is None) == (row.committed_at is None)
            if state in {FileState.MISSED, FileState.IGNORED}:
                assert row.outcome is None
            if state is FileState.DONE:
                assert row.outcome in {Outcome.ASSESSED, Outcome.REFUSED}
            if state is FileState.QUARANTINED:
                assert row.outcome == Outcome.UNREADABLE
                assert row.code
            if state is FileState.VANISHED:
                assert row.outcome is not None
            assert (row.outcome == Outcome.ASSESSED) <= (row.assessment_id is not None)
            assert (state is FileState.RETRY) == (row.retry_at is not None)
            assert 0 <= row.attempts <= 3
            assert row.alone == (row.interruptions >= 3)
            assert (row.failed_code is None) <= (row.failed_sha256 is None)
            assert row.failed_code is None or row.failed_at is not None
            assert state is not FileState.DONE or row.failed_at is None

    @invariant()
    def no_outcome_is_ever_lost(self) -> None:
        columns = schema.transition.c
        ends = columns.to_state.in_([FileState.DONE, FileState.QUARANTINED])
        committed = columns.from_state.in_([FileState.CLAIMED, FileState.SETTLING])
        with self.engine.connect() as connection:
            made = connection.execute(select(func.count()).where(ends, committed)).scalar_one()
            past = connection.execute(select(func.count()).select_from(schema.past_outcome)).scalar_one()
        assert made == past + sum(row.outcome is not None for row in self._files())

    @invariant()
    def every_path_has_one_newest_version_that_shows_the_folder(self) -> None:
        newest = {row.path: row for row in self._files() if row.newest}
        for path, version in self.folder.items():
            assert (newest[path].size_bytes, newest[path].mtime_ns) == version
            # MISSED, VANISHED: its slot found it gone; the next look at the folder mends that
            assert newest[path].state != FileState.SUPERSEDED
        assert all(row.newest or row.state not in {FileState.READY, FileState.RETRY} for row in self._files())

    @invariant()
    def transitions_are_an_unbroken_story(self) -> None:
        columns = schema.transition.c
        with self.engine.connect() as connection:
            rows = connection.execute(select(schema.transition).order_by(columns.file_id, columns.id)).all()
        last: dict[int, str] = {}
        for row in rows:
            assert row.from_state == last.get(row.file_id)
            assert (row.from_state, row.to_state) in ALLOWED, (row.from_state, row.to_state, row.why)
            last[row.file_id] = row.to_state
        assert last == {row.id: row.state for row in self._files()}

    def teardown(self) -> None:
        """Whatever happened: let everyone work it off, and every file in the folder ends with an outcome."""
        self.now += timedelta(seconds=LEASE_S + 1)
        ledger = self.workers[1]
        ledger.recover_interrupted()
        for _ in range(20):
            self.observe()
            self.settle()
            self.give_up_on_empty_files()
            for one in ledger.claim([self.root_id], 5):
                assert commit_unreadable(ledger, one, UnknownFormat())
            self.now += timedelta(seconds=61)
        assert pending(ledger, [self.root_id]) == 0
        known = ledger.newest_versions(self.root_id, list(self.folder))
        assert {one.state for one in known.values()} <= {FileState.DONE, FileState.QUARANTINED}


def _order(row: Any) -> tuple[bool, bool, int]:
    return (row.backlog, row.failed_at is not None, -row.id)


def _run(engine: Engine, examples: int) -> None:
    machine = type("Machine", (LedgerMachine,), {"engine": engine})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(300)
def test_the_ledger_is_its_model_on_sqlite(migrated_sqlite: Path, tmp_path: Path) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "preread.db")
    engine = open_engine(f"sqlite:///{tmp_path / 'preread.db'}")
    _run(engine, 40)
    engine.dispose()


@pytest.mark.timeout(300)
def test_the_ledger_is_its_model_on_postgres(postgres_server: Any, migrated_postgres: str) -> None:
    name = postgres_server.create(migrated_postgres)
    engine = open_engine(postgres_server.url(name))
    _run(engine, 25)
    engine.dispose()
    postgres_server.drop(name)
