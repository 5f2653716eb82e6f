"""Who may read what, and what a death costs: claims, leases, attempts, interruptions. On both databases."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, select, text, update

from preread.core.errors import (
    EnvironmentFault,
    FileChanged,
    FileLocked,
    FileVanished,
    ShareDown,
    SlotCrashed,
    SlotDeadline,
)
from preread.core.types import FileState, Outcome, RefusalCode
from preread.db import schema
from preread.db.engine import open_engine
from preread.ledger import claims, registry
from preread.ledger.failing_sources import Source
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim, ContentAssessment, Observation
from preread.ledger.transaction import Transaction
from tests.support.ledger import LedgerBench
from tests.support.outcomes import commit_assessed, commit_refused


def test_newest_first_up_to_the_limit(bench: LedgerBench) -> None:
    for number in range(5):
        bench.ready(b"%d" % number)
    assert [claim.path for claim in bench.claim(2)] == [b"4", b"3"]
    assert [claim.path for claim in bench.claim(9)] == [b"2", b"1", b"0"]
    assert bench.claim(9) == []


def test_what_failed_or_comes_from_where_much_fails_comes_after_others_of_its_lane(bench: LedgerBench) -> None:
    for path in (b"failed", b"old/failed"):
        bench.ledger.record_failure(bench.claimed(path), SlotCrashed(), retry_in_s=5)
    with bench.engine.begin() as connection:
        connection.execute(update(schema.file).where(schema.file.c.path == b"old/failed").values(backlog=True))
    for path in (b"old", b"a/old"):
        bench.ledger.settle(bench.ledger.observe(bench.root_id, [Observation(path, 100, 1)], backlog=True).values())
    for path in (b"new", b"a/new", b"a!/new"):
        bench.ready(path)
    bench.wait(5)

    def claimed(limit: int, behind_limit: int | None) -> list[bytes]:
        sources = [Source(bench.root_id, b"a"), Source(bench.root_id + 1, b"")]
        taken = bench.ledger.claim([bench.root_id], limit, sources=sources, behind_limit=behind_limit)
        for one in taken:
            bench.ledger.give_back(one, "the worker stops")
            assert one.failed is one.path.endswith(b"failed")
        return [one.path for one in taken]

    every = [b"a!/new", b"new", b"a/new", b"failed", b"old", b"a/old", b"old/failed"]
    assert claimed(9, None) == every
    assert claimed(4, None) == every[:4]
    assert claimed(9, 0) == claimed(9, -1) == [b"a!/new", b"new", b"old"]
    assert claimed(9, 1) == [b"a!/new", b"new", b"a/new", b"old"]
    assert claimed(9, 2) == [b"a!/new", b"new", b"a/new", b"failed", b"old"]


def test_nothing_is_claimed_for_nobody(bench: LedgerBench) -> None:
    bench.ready(b"a")
    assert bench.claim(0) == []
    assert bench.ledger.claim([], 5) == []


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_database_clock_that_is_set_holds_no_file_up(bench: LedgerBench, hours: int) -> None:
    assert bench.ledger.give_back(bench.claimed(), ShareDown(), retry_in_s=300) is FileState.RETRY
    assert bench.claim() == []
    bench.wait(3600 * hours)
    (claim,) = bench.claim()
    assert claim.attempts == 1


def test_attempts_are_counted_at_the_claim(bench: LedgerBench) -> None:
    claim = bench.claimed()
    assert (claim.attempts, claim.interruptions, claim.epoch, claim.alone) == (1, 0, 1, False)
    assert bench.attempts(claim.file_id) == (1, 0)
    row = bench.row(claim.file_id)
    assert row["owner"] == "one"
    assert row["lease_until"] is not None


def test_three_deaths_of_its_slot_set_a_file_aside(bench: LedgerBench) -> None:
    bench.ready(b"film.dcm")
    for number, error in enumerate([SlotCrashed(), SlotDeadline(), SlotCrashed("signal 11")], start=1):
        (claim,) = bench.claim()
        assert claim.attempts == number
        state = bench.ledger.record_failure(claim, error, retry_in_s=5)
        assert state is (FileState.RETRY if number < 3 else FileState.QUARANTINED)
        assert bench.claim() == [], "not before it is due"
        bench.wait(5)
    row = bench.row(claim.file_id)
    assert (row["outcome"], row["code"], row["reason"]) == (Outcome.UNREADABLE, "slot_crashed", "signal 11")
    assert bench.claim() == []


def test_a_second_deadline_sets_aside_and_a_first_is_tried_once_more(bench: LedgerBench) -> None:
    bench.ready(b"film.dcm")
    (claim,) = bench.claim()
    assert bench.ledger.record_failure(claim, SlotDeadline("longer than 60 s"), retry_in_s=5) is FileState.RETRY
    bench.wait(5)
    (claim,) = bench.claim()
    assert bench.ledger.record_failure(claim, SlotDeadline("longer than 60 s"), retry_in_s=5) is FileState.QUARANTINED
    row = bench.row(claim.file_id)
    assert (row["outcome"], row["code"]) == (Outcome.UNREADABLE, "slot_deadline")
    assert row["reason"] == "longer than 60 s; it is the second time for these bytes"


@pytest.mark.parametrize("again", ["copy.dcm", "film.dcm"])
def test_a_second_deadline_of_one_content_sets_aside_under_whatever_name(bench: LedgerBench, again: str) -> None:
    """A film that hangs and is sent again costs one deadline, whichever of the two is read next."""
    sha256 = "a" * 64
    assert bench.ledger.record_failure(bench.claimed(), SlotDeadline(), sha256=sha256, retry_in_s=5) is FileState.RETRY
    other = bench.claimed(b"other.dcm")
    assert bench.ledger.record_failure(other, SlotDeadline(), sha256="b" * 64, retry_in_s=99) is FileState.RETRY
    nameless = bench.claimed(b"nameless.dcm")
    assert bench.ledger.record_failure(nameless, SlotDeadline(), sha256=None, retry_in_s=99) is FileState.RETRY
    if again == "copy.dcm":
        claim = bench.claimed(b"copy.dcm")
    else:
        bench.wait(5)
        (claim,) = bench.claim()
    assert bench.ledger.record_failure(claim, SlotDeadline(), sha256=sha256) is FileState.QUARANTINED


def test_a_deadline_after_a_crash_is_the_first_and_a_crash_after_one_no_deadline(bench: LedgerBench) -> None:
    bench.ready(b"film.dcm")
    states = []
    for error in (SlotCrashed(), SlotDeadline(), SlotCrashed()):
        (claim,) = bench.claim()
        states.append(bench.ledger.record_failure(claim, error, retry_in_s=0))
    assert states == [FileState.RETRY, FileState.RETRY, FileState.QUARANTINED]


def test_a_deadline_of_the_share_is_none_of_the_film(bench: LedgerBench) -> None:
    """It was not handed out: it comes after others, and has both its tries still."""
    bench.ready(b"film.dcm")
    states = []
    for error in (EnvironmentFault("late"), SlotDeadline(), EnvironmentFault("late"), SlotDeadline()):
        (claim,) = bench.claim()
        bench.wait(1)
        if isinstance(error, SlotDeadline):
            states.append(bench.ledger.record_failure(claim, error, retry_in_s=0))
        else:
            states.append(bench.ledger.give_back(claim, error, retry_in_s=0.1, held_slot=True))
            assert bench.row(claim.file_id)["failed_at"] == bench.now
            bench.wait(1)
    assert states == [FileState.RETRY] * 3 + [FileState.QUARANTINED]


@pytest.mark.parametrize("fresh", ["opened again", "other bytes", "read well"])
def test_what_begins_anew_or_ends_well_has_no_deadline_behind_it(bench: LedgerBench, fresh: str) -> None:
    claim = bench.claimed()
    assert bench.ledger.record_failure(claim, SlotDeadline(), sha256="a" * 64, retry_in_s=0) is FileState.RETRY
    if fresh == "opened again":
        bench.ledger.requeue([claim.file_id], "the operator asked", states=(FileState.RETRY,))
        (claim,) = bench.claim()
    elif fresh == "other bytes":
        claim = bench.claimed(mtime_ns=2)
    else:
        (claim,) = bench.claim()
        assert commit_refused(bench.ledger, claim, bench.facts(), bench.bundle_id, RefusalCode.VIEW, "lateral")
        claim = bench.claimed(b"copy.dcm")
    sha256 = "c" * 64 if fresh == "other bytes" else "a" * 64
    assert bench.ledger.record_failure(claim, SlotDeadline(), sha256=sha256) is FileState.RETRY


@pytest.mark.parametrize("why", ["the worker stops", ShareDown()])
def test_a_fault_around_the_file_refunds_its_attempt(bench: LedgerBench, why: EnvironmentFault | str) -> None:
    bench.ready(b"film.dcm")
    for _ in range(5):
        (claim,) = bench.claim()
        assert claim.attempts == 1
        assert bench.ledger.give_back(claim, why) is FileState.READY
    assert bench.attempts(claim.file_id) == (0, 0)


def test_given_back_for_later(bench: LedgerBench) -> None:
    claim = bench.claimed()
    assert bench.ledger.give_back(claim, ShareDown(), retry_in_s=30) is FileState.RETRY
    bench.wait(29)
    assert bench.claim() == []
    bench.wait(1)
    assert bench.claim()[0].file_id == claim.file_id


def test_a_file_that_changed_while_it_was_read_settles_again(bench: LedgerBench) -> None:
    claim = bench.claimed()
    assert bench.ledger.give_back(claim, FileChanged()) is FileState.SETTLING
    grown = bench.see(b"film.dcm", 500, 9)
    assert grown.file_id == claim.file_id
    assert bench.ledger.settle([grown]) == 1
    assert bench.claim()[0].attempts == 1


def test_a_file_that_vanished_before_it_was_read_is_missed(bench: LedgerBench) -> None:
    assert bench.ledger.give_back(bench.claimed(), FileVanished()) is FileState.MISSED


@pytest.mark.parametrize("errors", [(FileLocked,), (EnvironmentFault,), (FileChanged, FileLocked), (FileVanished,)])
def test_what_cannot_be_read_is_set_aside_after_a_day_without_counting(
    bench: LedgerBench, errors: tuple[type[EnvironmentFault], ...]
) -> None:
    bench.ready(b"film.dcm")
    for hour in range(25):
        (claim,) = bench.claim()
        error = errors[hour % len(errors)]
        state = bench.ledger.give_back(claim, error(), retry_in_s=60)
        assert state is (FileState.RETRY if hour < 24 else FileState.QUARANTINED)
        assert bench.attempts(claim.file_id) == (0, 0)
        bench.wait(3600)
    assert bench.newest(b"film.dcm").code == errors[0].code


def test_a_day_of_refusals_is_no_day_of_settling(bench: LedgerBench) -> None:
    """What a version was refused before its bytes changed says nothing of the bytes that it has now."""
    bench.ledger.give_back(bench.claimed(), EnvironmentFault())
    bench.wait(23 * 3600)
    bench.ledger.give_back(bench.claim()[0], FileChanged())
    bench.ledger.settle([bench.see(b"film.dcm", 500, 9)])
    bench.wait(2 * 3600)
    assert bench.ledger.give_back(bench.claim()[0], EnvironmentFault()) is FileState.READY


def test_no_file_is_set_aside_for_its_share(bench: LedgerBench) -> None:
    bench.ready(b"film.dcm")
    for _ in range(30):
        assert bench.ledger.give_back(bench.claim()[0], ShareDown(), retry_in_s=60) is FileState.RETRY
        bench.wait(3600)


def test_a_lock_that_went_away_in_between_starts_a_new_day(bench: LedgerBench) -> None:
    (claim,) = [bench.claimed()]
    bench.ledger.give_back(claim, FileLocked())
    bench.wait(23 * 3600)
    bench.ledger.give_back(bench.claim()[0], ShareDown())
    bench.wait(2 * 3600)
    assert bench.ledger.give_back(bench.claim()[0], FileLocked()) is FileState.READY


def test_stops_and_kills_of_the_worker_do_not_prolong_a_files_day(bench: LedgerBench) -> None:
    """A worker that is started anew each night would else try a locked film for ever, and never say so."""
    claim, since = bench.claimed(), bench.now
    assert bench.ledger.give_back(claim, FileLocked(), retry_in_s=60) is FileState.RETRY
    bench.wait(8 * 3600)
    assert bench.ledger.give_back(bench.claim()[0], "the worker stops") is FileState.READY
    bench.claim()
    bench.wait(8 * 3600)
    assert bench.ledger.recover_interrupted() == 1
    assert bench.row(claim.file_id)["locked_since"] == since
    bench.wait(8 * 3600)
    assert bench.ledger.give_back(bench.claim()[0], FileLocked(), retry_in_s=60) is FileState.QUARANTINED


def test_a_file_whose_bytes_were_read_is_locked_no_longer(bench: LedgerBench) -> None:
    claim = bench.claimed()
    bench.ledger.give_back(claim, FileLocked())
    bench.wait(23 * 3600)
    bench.ledger.give_back(bench.claim()[0], "it settles for longer", retry_in_s=60, was_read=True)
    bench.wait(2 * 3600)
    assert bench.ledger.give_back(bench.claim()[0], FileLocked()) is FileState.READY
    assert bench.row(claim.file_id)["locked_since"] == bench.now
    bench.wait(60)
    assert commit_refused(bench.ledger, bench.claim()[0], bench.facts(), bench.bundle_id, RefusalCode.VIEW, "lateral")
    assert bench.row(claim.file_id)["locked_since"] is None


def test_set_aside_at_once_and_reopened(bench: LedgerBench) -> None:
    claim = bench.claimed()
    assert bench.ledger.quarantine(claim, FileLocked())
    assert bench.state() is FileState.QUARANTINED
    assert bench.ledger.requeue_quarantined([bench.root_id], "empty", "again") == 0
    assert bench.ledger.requeue_quarantined([bench.root_id], "locked", "the operator ran again") == 1
    (again,) = bench.claim()
    assert (again.attempts, again.interruptions) == (1, 0)
    row = bench.row(again.file_id)
    assert (row["outcome"], row["code"]) == (Outcome.UNREADABLE, "locked"), "what is read again keeps its last outcome"
    assert bench.ledger.requeue([again.file_id], "not quarantined") == 0


# ---------------------------------------------------------------------- leases and fencing


def test_a_lapsed_lease_is_an_interruption_and_fences_the_sleeper(
    bench: LedgerBench, content: ContentAssessment
) -> None:
    claim = bench.claimed()
    bench.wait(59)
    assert bench.ledger.recover_interrupted() == 0
    bench.wait(2)
    other = bench.worker("two")
    assert other.recover_interrupted() == 1
    assert bench.attempts(claim.file_id) == (0, 1)
    (taken,) = bench.claim(ledger=other)
    assert (taken.epoch, taken.attempts) == (claim.epoch + 1, 1)

    assert bench.ledger.renew([claim]) == set()
    assert not commit_assessed(bench.ledger, claim, bench.facts(), bench.bundle_id, content)
    assert not bench.ledger.quarantine(claim, FileLocked())
    assert bench.ledger.give_back(claim, "late") is None
    assert bench.ledger.record_failure(claim, SlotCrashed()) is None
    assert bench.count("assessment") == 0

    assert commit_assessed(other, taken, bench.facts(), bench.bundle_id, content)
    assert not commit_assessed(bench.ledger, claim, bench.facts(), bench.bundle_id, content)
    assert bench.count("assessment") == 1


def test_a_fenced_sleeper_cannot_commit_before_anyone_else_claims_either(
    bench: LedgerBench, content: ContentAssessment
) -> None:
    claim = bench.claimed()
    bench.wait(61)
    bench.ledger.recover_interrupted()
    assert not commit_assessed(bench.ledger, claim, bench.facts(), bench.bundle_id, content)
    assert bench.state() is FileState.READY


def test_renewing_keeps_the_claim(bench: LedgerBench) -> None:
    claim = bench.claimed()
    for _ in range(3):
        bench.wait(50)
        assert bench.ledger.renew([claim]) == {claim.file_id}
    bench.wait(59)
    assert bench.ledger.recover_interrupted() == 0
    bench.wait(2)
    assert bench.ledger.recover_interrupted() == 1


def test_after_three_interruptions_a_file_runs_alone_and_then_a_death_counts(bench: LedgerBench) -> None:
    bench.ready(b"film.dcm")
    for number in range(3):
        (claim,) = bench.claim()
        assert (claim.attempts, claim.interruptions, claim.alone) == (1, number, False)
        bench.wait(61)
        bench.ledger.recover_interrupted()
    assert bench.attempts(claim.file_id) == (0, 3)
    for number in range(1, 4):
        (claim,) = bench.claim()
        assert (claim.attempts, claim.alone) == (number, True)
        bench.wait(61)
        bench.ledger.recover_interrupted()
    row = bench.row(claim.file_id)
    assert (row["state"], row["code"], row["outcome"]) == (FileState.QUARANTINED, "slot_crashed", Outcome.UNREADABLE)
    assert "died three times" in str(row["reason"])


def _interrupted(bench: LedgerBench, path: bytes) -> None:
    bench.ready(path)
    for _ in range(3):
        bench.claim()
        bench.wait(61)
        bench.ledger.recover_interrupted()


def test_a_file_that_runs_alone_waits_for_the_others_and_keeps_them_out(bench: LedgerBench) -> None:
    _interrupted(bench, b"suspect.dcm")
    bench.ready(b"one.dcm")
    (other,) = bench.claim(5)
    assert other.path == b"one.dcm"
    assert bench.claim(5) == [], "not beside another"
    bench.ledger.give_back(other, FileVanished())
    (alone,) = bench.claim(5)
    assert (alone.path, alone.alone) == (b"suspect.dcm", True)
    bench.ready(b"two.dcm")
    assert bench.claim(5) == [], "nothing beside it"
    assert [claim.path for claim in bench.claim(5, bench.worker("elsewhere"))] == [b"two.dcm"]


def test_a_file_that_runs_alone_is_not_starved(bench: LedgerBench) -> None:
    _interrupted(bench, b"suspect.dcm")
    bench.ready(b"one.dcm", b"two.dcm")
    (first,) = bench.claim(1)
    bench.wait(61)
    bench.ledger.renew([first])
    assert bench.claim(1) == [], "it had waited long enough: the worker drains"
    bench.ledger.give_back(first, FileVanished())
    assert bench.claim(1)[0].path == b"suspect.dcm"


# ---------------------------------------------------------------------- dead workers


def _claim_and_hang(url: str, root_id: int, claimed: Any) -> None:
    engine = open_engine(url)
    ledger = Ledger(engine, worker_id="doomed", lease_s=3600)
    ledger.heartbeat()
    assert ledger.claim([root_id], 5)
    claimed.set()
    signal.pause()


def test_claims_of_a_killed_worker_come_back_before_their_lease_ends(bench: LedgerBench, database_url: str) -> None:
    (version,) = bench.ready(b"film.dcm")
    context = multiprocessing.get_context("spawn")
    claimed = context.Event()
    process = context.Process(target=_claim_and_hang, args=(database_url, bench.root_id, claimed))
    process.start()
    assert claimed.wait(timeout=60)
    assert bench.ledger.recover_interrupted() == 0, "it lives"
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert bench.ledger.recover_interrupted() == 1, "dead, though nobody has reaped it yet"
    process.join(timeout=60)
    assert bench.attempts(version.file_id) == (0, 1)
    assert bench.claim()[0].epoch == 2


def test_a_worker_that_stopped_leaves_nothing_behind(bench: LedgerBench) -> None:
    bench.ledger.heartbeat()
    bench.claimed()
    other = bench.worker("two")
    assert other.recover_interrupted() == 0
    bench.ledger.mark_worker_stopped()
    assert other.recover_interrupted() == 1


def test_workers_of_other_hosts_are_judged_by_their_lease_alone(
    bench: LedgerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "this_host", lambda: "elsewhere")
    bench.ledger.heartbeat()
    monkeypatch.undo()
    monkeypatch.setattr(registry, "process_token", lambda _pid: None)
    bench.claimed()
    assert bench.ledger.recover_interrupted() == 0
    bench.wait(61)
    assert bench.ledger.recover_interrupted() == 1


def test_a_heartbeat_is_one_row_that_moves(bench: LedgerBench) -> None:
    bench.ledger.heartbeat()
    bench.wait(10)
    bench.ledger.heartbeat()
    with bench.engine.connect() as connection:
        row = connection.execute(select(schema.worker)).one()
    assert (row.heartbeat_at - row.started_at).total_seconds() == 10
    assert row.pid == os.getpid()


# ---------------------------------------------------------------------- several processes


def _claim_all(url: str, worker_id: str, root_id: int, start: Any, answer: Any) -> None:
    engine = open_engine(url)
    ledger = Ledger(engine, worker_id=worker_id, lease_s=600)
    start.wait(60)
    taken: list[int] = []
    while batch := ledger.claim([root_id], 7):
        taken.extend(claim.file_id for claim in batch)
    answer.put(taken)
    engine.dispose()


def test_two_processes_never_share_a_file(bench: LedgerBench, database_url: str) -> None:
    versions = bench.ready(*[b"%d.dcm" % number for number in range(200)])
    context = multiprocessing.get_context("spawn")
    start, answer = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_claim_all, args=(database_url, name, bench.root_id, start, answer))
        for name in ("one", "two")
    ]
    for process in processes:
        process.start()
    taken = [answer.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    answer.close()
    answer.join_thread()
    assert sorted(taken[0] + taken[1]) == sorted(version.file_id for version in versions)


def _claim_newest(bench: LedgerBench, tx: Transaction) -> list[Claim]:
    return claims.claim(tx, [bench.root_id], 2)


def _claim_by_id(bench: LedgerBench, tx: Transaction) -> list[Claim]:
    ids = [
        version.file_id
        for version in bench.ledger.newest_versions(bench.root_id, [b"%d" % number for number in range(4)]).values()
    ]
    return claims.claim_by_id(tx, ids[:2] if tx.worker_id == "one" else ids)


@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
@pytest.mark.parametrize("state", [FileState.READY, FileState.RETRY])
@pytest.mark.parametrize("claim", [_claim_newest, _claim_by_id])
def test_claims_of_two_open_transactions_do_not_wait_for_each_other(
    bench: LedgerBench, claim: Callable[[LedgerBench, Transaction], list[Claim]], state: FileState
) -> None:
    versions = bench.ready(*[b"%d" % number for number in range(4)])
    if state is FileState.RETRY:
        for taken in bench.claim(4):
            bench.ledger.give_back(taken, ShareDown(), retry_in_s=1)
        bench.wait(1)
    with bench.engine.begin() as one, bench.engine.begin() as two:
        # an error instead of a test that hangs
        two.execute(text("SET LOCAL lock_timeout = '200ms'"))
        first = claim(bench, Transaction.of(bench.ledger, one, "1" * 32))
        second = claim(bench, Transaction.of(bench.worker("two"), two, "2" * 32))
    assert len(first) == 2
    if state is FileState.READY:
        assert len(second) == 2
        assert {taken.file_id for taken in (*first, *second)} == {version.file_id for version in versions}


# ---------------------------------------------------------------------- lost answers


class LostAnswer:
    """Lets commits through, and then says that they failed: what a broken connection looks like."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost = 0
        real = engine.dialect.do_commit

        def commit(connection: object) -> None:
            real(connection)  # type: ignore[arg-type]
            if self.lost == 0:
                self.lost += 1
                raise engine.dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(engine.dialect, "do_commit", commit)
        monkeypatch.setattr("preread.db.engine._FIRST_PAUSE_S", 0.0)


def test_a_claim_whose_answer_was_lost_is_found_again(bench: LedgerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.ready(b"one.dcm")
    bench.ready(b"two.dcm")
    lost = LostAnswer(bench.engine, monkeypatch)
    (claim,) = bench.claim(1)
    assert lost.lost == 1
    assert (claim.path, claim.attempts, claim.epoch) == (b"two.dcm", 1, 1)
    assert bench.state(b"one.dcm") is FileState.READY


def test_a_commit_whose_answer_was_lost_is_found_again(
    bench: LedgerBench, content: ContentAssessment, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = bench.claimed()
    lost = LostAnswer(bench.engine, monkeypatch)
    assert commit_assessed(bench.ledger, claim, bench.facts(), bench.bundle_id, content)
    assert lost.lost == 1
    assert bench.count("assessment") == 1
    assert bench.count("finding") == 1
    assert len(bench.moves(claim.file_id)) == 4


@pytest.mark.parametrize(
    "end, expected",
    [
        (lambda b, c: b.ledger.give_back(c, "stop"), FileState.READY),
        (lambda b, c: b.ledger.record_failure(c, SlotCrashed()), FileState.RETRY),
        (lambda b, c: b.ledger.quarantine(c, FileLocked()), True),
        (lambda b, c: b.ledger.recover_interrupted(), 0),
    ],
)
def test_other_ends_whose_answer_was_lost_happen_once(
    bench: LedgerBench, end: Any, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = bench.claimed()
    bench.wait(61)
    LostAnswer(bench.engine, monkeypatch)
    assert end(bench, claim) == expected, "a count tells what the last try did"
    assert len(bench.moves(claim.file_id)) == 4
    assert bench.attempts(claim.file_id)[1] == (1 if expected == 0 else 0)
