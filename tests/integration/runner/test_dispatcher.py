"""Claims, commits and what happens to them while the database or a file is not to be had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, select, update

from preread.admin import purge
from preread.core.errors import (
    DatabaseAway,
    EnvironmentFault,
    FileChanged,
    FileLocked,
    FileVanished,
    ShareDown,
    SlotCrashed,
    SlotDeadline,
)
from preread.core.types import Answer, Caveat, FileState, Finding, Identity, ImageStatistics, Outcome, Population
from preread.db import schema
from preread.imaging import previews
from preread.imaging.preview_png import encode_preview
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim, Observation
from preread.model.bundles import Bundle
from preread.review import results
from preread.runner.child import protocol
from preread.runner.child.protocol import Content, Job, Report
from preread.runner.dispatcher import Dispatcher
from preread.runner.outcomes import TAIL_ZERO_SETTLE_S, RunContext, WatchedRoot
from preread.runner.pool import Done, Fault, Lost, Read
from preread.runner.shadow import ShadowFile

PICTURE = ImageStatistics(mean=120.0, contrast=50.0, sharpness=4.0, border=20.0)


class ScriptedPool:
    """Slots that say what a test wants."""

    deadline_s = 60.0

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.jobs: dict[int, tuple[Claim, Job]] = {}
        self.answers: list[bool] = []
        self.long: list[Claim] = []

    def held_for(self, _seconds: float) -> list[Claim]:
        return [claim for claim in self.in_flight if claim in self.long]

    @property
    def idle(self) -> int:
        return self.count - len(self.jobs)

    @property
    def in_flight(self) -> list[Claim]:
        return [claim for claim, _ in self.jobs.values()]

    def submit(self, claim: Claim, job: Job) -> None:
        assert self.idle > 0
        self.jobs[claim.file_id] = claim, job

    def answer(self, claim: Claim, *, known: bool) -> None:
        self.answers.append(known)


@dataclass
class Desk:
    """A dispatcher over a real ledger."""

    engine: Engine
    bundle: Bundle
    once: bool = False
    wall: datetime = datetime(2026, 3, 1, tzinfo=UTC)
    now: float = 100.0
    pool: ScriptedPool = field(default_factory=ScriptedPool)
    looked_at: list[bytes] = field(default_factory=list)
    suspected: int = 0
    preview_dir: Path | None = None
    shadow: Any = None

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.engine, worker_id="one", lease_s=3600, clock=lambda _: self.wall)
        self.root_id = self.ledger.register_root(b"/srv/inbox", population=Population.CHILDREN_1_5Y)
        self.bundle_id = self.ledger.register_bundle(name="stub", version="1", digest=self.bundle.digest)
        root = WatchedRoot(
            self.root_id, b"/srv/inbox", Population.CHILDREN_1_5Y, None, self.looked_at.append, self._suspect
        )
        run = RunContext(
            self.ledger,
            self.bundle,
            self.bundle_id,
            {self.root_id: root},
            once=self.once,
            clock=lambda: self.now,
            preview_dir=self.preview_dir,
        )
        self.dispatcher = Dispatcher(run, self.pool, shadow=self.shadow)  # type: ignore[arg-type]

    def _suspect(self) -> None:
        self.suspected += 1

    def ready(self, *paths: bytes) -> None:
        seen = self.ledger.observe(self.root_id, [Observation(path, 10, 1) for path in paths])
        self.ledger.settle(seen.values())

    def work(self) -> None:
        """Let a minute pass on all clocks, then write and claim."""
        self.now += 60.0
        self.wall += timedelta(seconds=60)
        self.dispatcher.work([self.root_id])

    def claimed(self, path: bytes = b"film") -> Claim:
        for _ in range(3):
            if any(claim.path == path for claim in self.pool.in_flight):
                break
            self.work()
        return next(claim for claim in self.pool.in_flight if claim.path == path)

    def says(self, claim: Claim, event: Any) -> None:
        del self.pool.jobs[claim.file_id]
        self.dispatcher.handle(event)

    def database_is_away(self) -> bool:
        return self.dispatcher.database.away_since is not None

    def state(self, path: bytes = b"film") -> FileState:
        return self.ledger.newest_versions(self.root_id, [path])[path].state


def report(sha256: str | None = "a" * 64, **changes: Any) -> Report:
    values: dict[str, Any] = {"outcome": Outcome.ASSESSED, "sha256": sha256, "ms": 5.0, "format": "JPEG"}
    values["content"] = Content((Finding("pneumonia", 1.0, 0.7, 0.5, Answer.FLAGGED),), (), "pillow", [[0.0]], PICTURE)
    return Report(**(values | changes))


@pytest.fixture
def make_desk(engine: Engine, stub_bundle: Bundle) -> Callable[..., Desk]:
    return lambda **options: Desk(engine, stub_bundle, **options)


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    desk = make_desk()
    desk.ready(b"film")
    return desk


def test_as_many_are_claimed_as_slots_are_idle(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.ready(b"a", b"b", b"c")
    desk.work()
    assert len(desk.pool.jobs) == 2
    assert desk.ledger.count_versions()[FileState.READY] == 1
    assert desk.dispatcher.next_at() == float("inf")


def test_an_empty_ledger_is_not_asked_all_the_time(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.work()
    desk.ready(b"film")
    desk.dispatcher.work([desk.root_id])
    assert not desk.pool.jobs
    desk.dispatcher.claim_soon()
    desk.dispatcher.work([desk.root_id])
    assert len(desk.pool.jobs) == 1


def test_a_root_that_is_down_gets_no_claims(desk: Desk) -> None:
    desk.dispatcher.work([])
    assert not desk.pool.jobs
    assert desk.dispatcher.next_at() > desk.now


def test_outcomes_are_committed(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.ready(b"a", b"b")
    desk.work()
    first, second = desk.claimed(b"a"), desk.claimed(b"b")
    desk.says(first, Done(first, report()))
    desk.says(second, Done(second, report(outcome=Outcome.REFUSED, code="view", content=None)))
    desk.ready(b"c", b"d")
    desk.work()
    assert (desk.state(b"a"), desk.state(b"b")) == (FileState.DONE, FileState.DONE)
    third, fourth = desk.claimed(b"c"), desk.claimed(b"d")
    desk.says(third, Done(third, report(sha256=None, outcome=Outcome.UNREADABLE, code="too_many_bytes", content=None)))
    desk.says(fourth, Done(fourth, report(identity=Identity(patient_id="P1"), content=None)))
    desk.work()
    assert (desk.state(b"c"), desk.state(b"d")) == (FileState.QUARANTINED, FileState.DONE)
    assert desk.dispatcher.outcomes.done == {Outcome.ASSESSED: 2, Outcome.REFUSED: 1, Outcome.UNREADABLE: 1}


def test_known_bytes_are_said_to_be_known(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.ready(b"a", b"b")
    first, second = desk.claimed(b"a"), desk.claimed(b"b")
    desk.dispatcher.handle(Read(first, "a" * 64))
    desk.says(first, Done(first, report()))
    desk.work()
    desk.dispatcher.handle(Read(second, "a" * 64))
    assert desk.pool.answers == [False, True]


def test_the_same_bytes_in_two_slots_are_assessed_once(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.ready(b"a", b"b")
    first, second = desk.claimed(b"a"), desk.claimed(b"b")
    desk.dispatcher.handle(Read(first, "a" * 64))
    desk.dispatcher.handle(Read(second, "a" * 64))
    assert desk.pool.answers == [False]
    desk.says(first, Done(first, report()))
    assert desk.pool.answers == [False]
    desk.dispatcher.work([])
    assert desk.pool.answers == [False, True]


@pytest.mark.parametrize("ended", [Lost, Fault])
def test_who_waits_for_another_slot_goes_on_when_that_one_fails(make_desk: Callable[..., Desk], ended: Any) -> None:
    desk = make_desk()
    desk.ready(b"a", b"b")
    first, second = desk.claimed(b"a"), desk.claimed(b"b")
    desk.dispatcher.handle(Read(first, "a" * 64))
    desk.dispatcher.handle(Read(second, "a" * 64))
    error = SlotCrashed("dead") if ended is Lost else FileChanged("x")
    desk.says(first, ended(first, error))
    desk.dispatcher.work([])
    assert desk.pool.answers == [False, False]


def test_a_fenced_result_is_dropped(desk: Desk) -> None:
    claim = desk.claimed()
    desk.ledger.give_back(claim, "taken away")
    desk.says(claim, Done(claim, report()))
    desk.dispatcher.work([])
    assert desk.state() is FileState.READY
    assert sum(desk.dispatcher.outcomes.done.values()) == 0


def test_slot_deaths_count_and_the_third_sets_aside(desk: Desk) -> None:
    for attempt in range(1, 4):
        claim = desk.claimed()
        assert claim.attempts == attempt
        desk.says(claim, Lost(claim, SlotCrashed("dead")))
        desk.dispatcher.work([])
    version = desk.ledger.newest_versions(desk.root_id, [b"film"])[b"film"]
    assert (version.state, version.code) == (FileState.QUARANTINED, "slot_crashed")


@pytest.mark.parametrize("error,state", [(FileChanged("x"), FileState.SETTLING), (FileVanished("x"), FileState.MISSED)])
def test_what_changed_or_went_away_is_looked_at_again(desk: Desk, error: EnvironmentFault, state: FileState) -> None:
    claim = desk.claimed()
    desk.says(claim, Fault(claim, error))
    desk.dispatcher.work([])
    assert desk.state() is state
    assert desk.looked_at == [b"film"]


@pytest.mark.parametrize("once", [False, True])
def test_pixels_that_end_in_zeros_settle_for_longer_and_are_read_again(
    make_desk: Callable[..., Desk], once: bool
) -> None:
    """A file that was given its full size before it was filled looks like this; so does a film with a black border."""
    desk = make_desk(once=once)
    desk.ready(b"film")
    content = Content(
        (Finding("pneumonia", 1.0, 0.7, 0.5, Answer.FLAGGED),), (Caveat.TAIL_ZERO,), "numpy", [[0.0]], PICTURE
    )
    tries = 0
    while desk.state() is not FileState.DONE:
        desk.wall += timedelta(seconds=1)
        desk.now += 1
        desk.dispatcher.work([desk.root_id])
        for claim in desk.pool.in_flight:
            tries += 1
            assert claim.attempts == 1
            desk.says(claim, Done(claim, report(content=content)))
    assert tries == (1 if once else 2)
    (row,) = results.query_results(desk.engine)
    assert Caveat.TAIL_ZERO in row.caveats
    assert (row.committed_at - row.first_seen_at >= timedelta(seconds=TAIL_ZERO_SETTLE_S)) is not once


def test_a_locked_file_waits_alone_and_uncounted(desk: Desk) -> None:
    for _ in range(5):
        desk.wall += timedelta(seconds=300)
        claim = desk.claimed()
        assert claim.attempts == 1
        desk.says(claim, Fault(claim, FileLocked("x")))
        desk.dispatcher.work([])
        assert desk.state() is FileState.RETRY
    desk.ready(b"other")
    desk.claimed(b"other")
    assert desk.suspected == 0


def test_another_fault_also_asks_whether_the_share_answers(desk: Desk) -> None:
    claim = desk.claimed()
    desk.says(claim, Fault(claim, ShareDown("x")))
    desk.dispatcher.work([])
    assert desk.state() is FileState.RETRY
    assert desk.suspected == 1


@pytest.mark.parametrize("error", [FileChanged, FileVanished])
def test_a_share_that_contradicts_itself_delays_that_file_alone(desk: Desk, error: type[EnvironmentFault]) -> None:
    """It lists what its reader is told has changed, or is not there: believed twice, then it waits like a lock."""
    states = []
    for _ in range(5):
        desk.wall += timedelta(seconds=300)
        claim = desk.claimed()
        desk.says(claim, Fault(claim, error("x")))
        desk.dispatcher.work([])
        states.append(desk.state())
        desk.ready(b"film")  # the scan meets it as it was
    assert states[2:] == [FileState.RETRY] * 3
    assert FileState.RETRY not in states[:2]
    assert desk.looked_at == [b"film"] * 5
    assert desk.suspected == 0


@pytest.mark.parametrize("error", [FileLocked, EnvironmentFault, FileChanged, FileVanished])
def test_what_cannot_be_read_is_set_aside_where_the_run_ends(
    make_desk: Callable[..., Desk], error: type[EnvironmentFault]
) -> None:
    desk = make_desk(once=True)
    desk.ready(b"film")
    tries = 0
    while desk.state() is not FileState.QUARANTINED:
        desk.ready(b"film")
        desk.work()
        for claim in desk.pool.in_flight:
            tries += 1
            desk.says(claim, Fault(claim, error("x")))
    version = desk.ledger.newest_versions(desk.root_id, [b"film"])[b"film"]
    assert (tries, version.code) == (3, error.code)
    assert desk.ledger.requeue_quarantined([desk.root_id], error.code, "the worker started") == 1
    assert desk.state() is FileState.READY


def test_while_the_database_is_away_results_wait_and_nothing_is_claimed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = desk.claimed()
    tried = []

    def away(*_: object, **__: object) -> Any:
        tried.append(desk.now)
        raise DatabaseAway

    with monkeypatch.context() as patch:
        for verb in ("commit", "claim", "content_status", "renew"):
            patch.setattr(desk.ledger, verb, away)
        desk.dispatcher.handle(Read(claim, "a" * 64))
        assert desk.pool.answers == [False]
        desk.says(claim, Done(claim, report()))
        tried.clear()
        for _ in range(3000):
            desk.now += 0.1
            desk.dispatcher.work([desk.root_id])
        assert desk.database_is_away()
        assert not desk.dispatcher.is_idle()
        assert 5 < len(tried) < 20
    desk.work()
    assert desk.state() is FileState.DONE
    assert not desk.database_is_away()
    assert desk.dispatcher.is_idle()


def another_worker(desk: Desk) -> None:
    """Take the place of a worker that ended, on the same ledger."""
    wall, now = desk.wall, desk.now
    desk.pool = ScriptedPool()
    desk.__post_init__()
    desk.wall, desk.now = wall, now


@pytest.mark.parametrize("begun_anew", [False, True])
def test_films_that_held_a_slot_until_its_deadline_never_have_all_slots(desk: Desk, begun_anew: bool) -> None:
    """Else a few films that hang hold up every other one, a deadline long, again and again."""
    for path in (b"older", b"hangs", b"stalls"):
        desk.ready(path)
    hangs, stalls = desk.claimed(b"hangs"), desk.claimed(b"stalls")
    desk.says(hangs, Lost(hangs, SlotDeadline()))
    desk.says(stalls, Fault(stalls, EnvironmentFault("it was not handed out"), late=True))
    desk.dispatcher.work([])
    if begun_anew:
        another_worker(desk)
    for expected in ({b"film", b"older"}, {b"stalls"}, {b"hangs"}):  # one slot is left for what comes
        desk.work()
        desk.work()
        assert {claim.path for claim in desk.pool.in_flight} == expected
        for claim in desk.pool.in_flight:
            desk.says(claim, Done(claim, report()))


def fails(desk: Desk, *paths: bytes) -> None:
    for path in paths:
        desk.ready(path)
        claim = desk.claimed(path)
        desk.says(claim, Lost(claim, SlotCrashed()))
        desk.dispatcher.work([])
        desk.ledger.requeue([claim.file_id], "so that it is in nobody's way", states=[FileState.RETRY])
        with desk.engine.begin() as connection:
            failed = update(schema.file).where(schema.file.c.id == claim.file_id)
            connection.execute(failed.values(state=FileState.MISSED, failed_at=desk.wall))


@pytest.mark.parametrize("begun_anew", [False, True])
def test_films_from_where_many_fail_never_have_all_slots_and_come_after_others(desk: Desk, begun_anew: bool) -> None:
    film = desk.claimed()
    desk.says(film, Done(film, report()))
    fails(desk, b"ct/1", b"ct/2", b"ct/3")
    if begun_anew:
        another_worker(desk)
    desk.ready(b"quick")
    desk.ready(b"ct/4", b"ct/5")
    desk.work()
    assert {claim.path for claim in desk.pool.in_flight} == {b"quick", b"ct/5"}
    quick = desk.claimed(b"quick")
    desk.says(quick, Done(quick, report()))
    desk.work()
    assert {claim.path for claim in desk.pool.in_flight} == {b"ct/5"}, "a process stays free for others"
    desk.claimed(b"ct/5")
    desk.ready(b"quick2")
    desk.claimed(b"quick2")
    desk.wall += timedelta(hours=2)  # nothing failed for so long
    another = desk.claimed(b"quick2")
    desk.says(another, Done(another, report()))
    desk.work()
    assert {claim.path for claim in desk.pool.in_flight} == {b"ct/5", b"ct/4"}


def test_what_failed_waits_while_another_film_is_read_for_long(desk: Desk) -> None:
    """It may hang as well: then no process would be left for what comes."""
    desk.ready(b"failed")
    claim = desk.claimed(b"failed")
    desk.says(claim, Lost(claim, SlotCrashed()))
    desk.dispatcher.work([])
    long = desk.claimed()
    desk.pool.long.append(long)
    desk.work()
    desk.work()
    assert desk.pool.in_flight == [long]
    desk.says(long, Done(long, report()))
    desk.claimed(b"failed")


@pytest.mark.parametrize("once", [False, True])
def test_a_first_deadline_is_tried_again_once_and_not_at_once(make_desk: Callable[..., Desk], once: bool) -> None:
    """What kept the machine busy may have passed a deadline later; where the run ends nothing is waited for."""
    desk = make_desk(once=once)
    desk.ready(b"film")
    claim = desk.claimed()
    desk.says(claim, Lost(claim, SlotDeadline(), "a" * 64))
    desk.dispatcher.work([])
    with desk.engine.connect() as connection:
        row = connection.execute(select(schema.file)).one()
    assert (row.retry_at - desk.wall).total_seconds() == (1.0 if once else desk.pool.deadline_s)
    assert (row.failed_code, row.failed_sha256) == ("slot_deadline", "a" * 64)
    claim = desk.claimed()
    desk.ready(b"copy")
    copy = desk.claimed(b"copy")
    desk.says(copy, Lost(copy, SlotDeadline(), "a" * 64))
    desk.says(claim, Lost(claim, SlotDeadline(), "a" * 64))
    desk.work()
    assert desk.state(b"film") is desk.state(b"copy") is FileState.QUARANTINED


def test_where_there_is_one_slot_it_takes_what_hung_when_nothing_else_waits(desk: Desk) -> None:
    desk.pool.count = 1
    desk.ready(b"hangs")
    claim = desk.claimed(b"hangs")
    desk.says(claim, Lost(claim, SlotDeadline()))
    desk.dispatcher.work([])
    film = desk.claimed()
    desk.says(film, Done(film, report()))
    desk.claimed(b"hangs")


@pytest.mark.parametrize("busy", [0.7, 0.9])
def test_a_film_whose_process_computed_until_its_deadline_is_not_tried_again(desk: Desk, busy: float) -> None:
    """The machine held nothing up; another try would take a process for as long, and end alike."""
    claim = desk.claimed()
    desk.says(claim, Lost(claim, SlotDeadline(), "a" * 64, busy * desk.pool.deadline_s))
    desk.dispatcher.work([])
    assert desk.state() is (FileState.QUARANTINED if busy > 0.8 else FileState.RETRY)
    assert desk.ledger.newest_versions(desk.root_id, [b"film"])[b"film"].code == (
        "slot_deadline" if busy > 0.8 else None
    )


def goes_well(desk: Desk) -> None:
    """Let everything that is there, and films enough for claiming ahead, end well."""
    desk.ready(*(b"calm%d" % number for number in range(32)))
    desk.work()
    while in_flight := desk.pool.in_flight:
        desk.says(in_flight[0], Done(in_flight[0], report(in_flight[0].path.hex().zfill(64))))
        desk.work()


def test_while_films_queue_some_are_claimed_ahead_and_outcomes_written_together(desk: Desk) -> None:
    desk.ready(*(b"first%d" % number for number in range(9)))
    desk.work()
    assert len(desk.dispatcher.held) == 2  # nothing is claimed ahead before films went well
    goes_well(desk)
    desk.ready(*(b"film%02d" % number for number in range(30)))
    desk.work()
    assert len(desk.pool.in_flight) == 2
    assert len(desk.dispatcher.held) == 12
    first, second = desk.pool.in_flight
    desk.says(first, Done(first, report("a" * 64)))
    desk.dispatcher.work([desk.root_id])
    assert len(desk.pool.in_flight) == 2  # the next film did not wait for the commit
    assert desk.state(first.path) is FileState.CLAIMED
    desk.says(second, Done(second, report("b" * 64)))
    desk.dispatcher.work([desk.root_id])
    assert {desk.state(first.path), desk.state(second.path)} == {FileState.CLAIMED}
    assert desk.now < desk.dispatcher.next_at() <= desk.now + 0.2
    desk.now = desk.dispatcher.next_at()
    desk.dispatcher.work([desk.root_id])
    assert {desk.state(first.path), desk.state(second.path)} == {FileState.DONE}


def test_a_single_film_is_written_at_once(desk: Desk) -> None:
    goes_well(desk)
    desk.ready(b"single")
    claim = desk.claimed(b"single")
    desk.says(claim, Done(claim, report()))
    assert desk.dispatcher.next_at() <= desk.now
    desk.dispatcher.work([desk.root_id])
    assert desk.state(b"single") is FileState.DONE


def test_what_waits_for_a_slot_is_given_back_when_its_folder_is_not_read_now(desk: Desk) -> None:
    goes_well(desk)
    desk.ready(*(b"film%02d" % number for number in range(30)))
    desk.work()
    assert len(desk.dispatcher.held) == 10
    in_slots = desk.pool.in_flight
    waited = [claim for claim in desk.dispatcher.held if claim not in in_slots]
    desk.dispatcher.work([])
    assert desk.dispatcher.held == in_slots
    assert {desk.state(claim.path) for claim in waited} == {FileState.READY}
    (again,) = desk.ledger.claim([desk.root_id], 1)
    assert (again.path, again.attempts) == (waited[0].path, 1)


def test_after_a_slot_died_nothing_is_claimed_ahead(desk: Desk) -> None:
    goes_well(desk)
    desk.ready(*(b"film%02d" % number for number in range(30)))
    claim = desk.claimed(b"film29")
    desk.says(claim, Lost(claim, SlotCrashed()))
    while len(desk.dispatcher.held) > 2:
        claim = desk.pool.in_flight[0]
        desk.says(claim, Fault(claim, ShareDown("away")))
        desk.work()
    desk.work()
    assert len(desk.dispatcher.held) == 2


def test_of_two_films_with_the_same_bytes_the_second_waits_for_no_other_outcome(desk: Desk) -> None:
    goes_well(desk)
    desk.ready(*(b"film%02d" % number for number in range(30)))
    desk.work()
    first, second = desk.pool.in_flight
    desk.dispatcher.handle(Read(first, "a" * 64))
    desk.dispatcher.handle(Read(second, "a" * 64))
    asked = len(desk.pool.answers)
    desk.says(first, Done(first, report("a" * 64)))
    desk.dispatcher.work([desk.root_id])
    assert desk.state(first.path) is FileState.DONE
    assert desk.pool.answers[asked:] == [True]


def test_nothing_stays_of_a_film_that_was_purged_while_a_slot_read_it(
    make_desk: Callable[..., Desk], tmp_path: Path
) -> None:
    """The purge cannot know its bytes yet, and its preview is drawn before it is committed."""
    desk = make_desk(preview_dir=tmp_path)
    desk.ready(b"purged", b"fenced")
    claims = {claim.path: claim for claim in (desk.claimed(b"purged"), desk.claimed(b"fenced"))}
    for path, sha256 in ((b"purged", "a" * 64), (b"fenced", "b" * 64)):
        assert previews.store_preview(tmp_path, sha256, encode_preview(np.zeros((9, 9), np.uint8)), 0)
        if path == b"purged":
            request = purge.PurgeRequest("uid:0", "purged", readings=False, journal=None, preview_dir=tmp_path)
            purge.purge_files(desk.engine, request, [claims[path].file_id])
        else:
            desk.ledger.give_back(claims[path], "taken away")
        desk.says(claims[path], Done(claims[path], report(sha256)))
    desk.work()
    assert not previews.has_preview(tmp_path, "a" * 64)
    assert previews.has_preview(tmp_path, "b" * 64), "another worker may be about to commit it"


def test_slots_ask_whether_a_film_is_known_unless_it_is_small_and_nothing_was_ever_purged(desk: Desk) -> None:
    def asks() -> dict[bytes, bool]:
        jobs = [job for _, job in desk.pool.jobs.values()]
        desk.dispatcher.release(desk.pool.in_flight)
        desk.pool.jobs.clear()
        return {protocol.text_to_path(job.path): job.ask for job in jobs}

    seen = desk.ledger.observe(desk.root_id, [Observation(b"small", 65_535, 1), Observation(b"large", 65_536, 1)])
    desk.ledger.settle(seen.values())
    desk.work()
    assert asks() == {b"small": False, b"large": True}
    purge.purge_files(
        desk.engine, purge.PurgeRequest("uid:0", "other", readings=False, journal=None, preview_dir=None), [99]
    )
    desk.work()
    assert asks() == {b"small": True, b"large": True}


def test_a_film_that_comes_alone_may_use_the_cores_of_idle_slots(desk: Desk) -> None:
    claim = desk.claimed()
    assert desk.pool.jobs[claim.file_id][1].threads == 2
    desk.says(claim, Done(claim, report()))
    desk.ready(b"one", b"two")
    desk.work()
    assert [job.threads for _, job in desk.pool.jobs.values()] == [1, 1]


def test_what_will_not_be_finished_is_given_back(desk: Desk) -> None:
    claim = desk.claimed()
    desk.dispatcher.release([claim])
    assert desk.state() is FileState.READY
    (again,) = desk.ledger.claim([desk.root_id], 1)
    assert (again.attempts, again.interruptions) == (1, 0)


def test_a_shadow_works_while_no_film_waits_and_one_slot_stays_free(make_desk: Callable[..., Desk]) -> None:
    asked: list[Any] = []

    class Waiting:
        """A shadow that always has a film."""

        def films(self, _root_ids: list[int], count: int) -> list[ShadowFile]:
            asked.append(count)
            return [film] * count

        def handle(self, event: Any) -> None:
            asked.append(event)

    desk = make_desk(shadow=Waiting())
    film = ShadowFile(70, 70, desk.root_id, b"old", 10, 1, "a" * 64)
    desk.ready(b"film")
    live = desk.claimed()
    assert asked == []
    desk.work()
    assert asked == [0]
    desk.says(live, Done(live, report()))
    desk.work()
    assert asked == [0, 1]
    assert desk.pool.in_flight == [film]  # type: ignore[comparison-overlap]
    desk.ready(b"next")
    desk.claimed(b"next")
    desk.dispatcher.renew()
    desk.dispatcher.release([film])
    answered = Done(film, report())
    desk.says(film, answered)  # type: ignore[arg-type]
    assert asked[-1] is answered
    assert desk.ledger.count_versions()[FileState.DONE] == 1
