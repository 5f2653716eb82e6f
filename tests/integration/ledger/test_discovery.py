"""What is seen becomes owed exactly once: observing, settling, versions, absence. On both databases."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from preread.core.errors import FileChanged, FileLocked, UnknownFormat
from preread.core.types import FileState, Outcome
from preread.ledger.records import Claim, ContentAssessment, Observation
from tests.support.ledger import LedgerBench
from tests.support.outcomes import commit_assessed, commit_unreadable, pending


def test_a_new_path_settles_and_is_ready(bench: LedgerBench) -> None:
    version = bench.see(b"film.dcm", 7, 8, 9)
    assert (version.state, version.size_bytes, version.mtime_ns, version.inode) == (FileState.SETTLING, 7, 8, 9)
    assert version.settled_at is None
    assert bench.ledger.settle([version]) == 1
    assert bench.state() is FileState.READY
    assert bench.newest(b"film.dcm").settled_at == bench.now
    assert bench.moves(version.file_id) == [(None, "settling"), ("settling", "ready")]


def test_telling_the_same_again_changes_nothing(bench: LedgerBench) -> None:
    (version,) = bench.ready(b"film.dcm")
    for _ in range(3):
        assert bench.see(b"film.dcm").file_id == version.file_id
    assert bench.state() is FileState.READY
    assert len(bench.moves(version.file_id)) == 2
    assert bench.ledger.settle([version]) == 0


def test_the_same_path_twice_in_one_batch_is_one_version(bench: LedgerBench) -> None:
    seen = bench.ledger.observe(bench.root_id, [Observation(b"a", 1, 1), Observation(b"a", 2, 2)])
    assert seen[b"a"].size_bytes == 2
    assert bench.count("file") == 1


def test_a_growing_file_stays_one_version(bench: LedgerBench) -> None:
    first = bench.see(b"film.dcm", 10, 1)
    later = bench.see(b"film.dcm", 20, 2)
    assert later.file_id == first.file_id
    assert bench.ledger.settle([first]) == 0, "a version that changed since must not settle"
    assert bench.ledger.settle([later]) == 1
    assert bench.count("file") == 1


def test_a_version_changed_after_settling_is_replaced_unread(bench: LedgerBench) -> None:
    (old,) = bench.ready(b"film.dcm", size_bytes=10)
    new = bench.see(b"film.dcm", 20, 2)
    assert new.file_id != old.file_id
    assert bench.row(old.file_id)["state"] == FileState.SUPERSEDED
    assert bench.claim() == []


def test_a_result_stands_until_the_newer_version_settles(bench: LedgerBench) -> None:
    file_id = bench.assess(b"film.dcm")
    new = bench.see(b"film.dcm", 200, 2)
    assert bench.row(file_id)["state"] == FileState.DONE
    bench.ledger.settle([new])
    old = bench.row(file_id)
    assert (old["state"], old["outcome"]) == (FileState.SUPERSEDED, Outcome.ASSESSED)
    assert old["assessment_id"] is not None, "the result is kept"


def test_a_slot_that_reads_a_superseded_version_is_fenced(bench: LedgerBench, content: ContentAssessment) -> None:
    claim = bench.claimed()
    bench.ledger.settle([bench.see(b"film.dcm", 200, 2)])
    assert not commit_assessed(bench.ledger, claim, bench.facts(), bench.bundle_id, content)
    assert bench.count("assessment") == 0
    assert bench.row(claim.file_id)["state"] == FileState.SUPERSEDED


def test_a_claimed_version_with_a_newer_one_settling_is_not_run_again(bench: LedgerBench) -> None:
    def worker_dies(_claim: Claim) -> None:
        bench.wait(61)
        bench.ledger.recover_interrupted()

    ends: list[Callable[[Claim], object]] = [
        lambda claim: bench.ledger.give_back(claim, FileChanged()),
        lambda claim: bench.ledger.give_back(claim, "the worker stops"),
        worker_dies,
    ]
    for number, end in enumerate(ends):
        path = b"film%d" % number
        claim = bench.claimed(path)
        bench.see(path, 200, 2)
        end(claim)
        assert bench.row(claim.file_id)["state"] == FileState.SUPERSEDED
        assert bench.claim() == []


def test_changed_back_to_an_earlier_version_is_read_again(bench: LedgerBench) -> None:
    file_id = bench.assess(b"film.dcm")
    bench.ledger.settle([bench.see(b"film.dcm", 200, 2)])
    back = bench.see(b"film.dcm")
    assert (back.file_id, back.state) == (file_id, FileState.SETTLING)
    assert bench.row(file_id)["outcome"] == Outcome.ASSESSED, "its last outcome stands until the next one"
    assert bench.ledger.settle([back]) == 1
    assert bench.claim()[0].file_id == file_id
    assert bench.ledger.count_versions()[FileState.SUPERSEDED] == 1


def test_changed_back_before_the_newer_settled_keeps_the_result(bench: LedgerBench) -> None:
    file_id = bench.assess(b"film.dcm")
    newer = bench.see(b"film.dcm", 200, 2)
    assert bench.see(b"film.dcm").file_id == file_id
    assert bench.state() is FileState.DONE
    assert bench.row(newer.file_id)["state"] == FileState.SUPERSEDED


def test_absence_deletes_nothing_and_coming_back_costs_nothing(bench: LedgerBench) -> None:
    done = bench.assess(b"done.dcm")
    claim = bench.claimed(b"text.dcm")
    commit_unreadable(bench.ledger, claim, UnknownFormat())
    bench.ready(b"ready.dcm")
    bench.see(b"settling.dcm")
    paths = [b"done.dcm", b"text.dcm", b"ready.dcm", b"settling.dcm", b"never.dcm"]
    assert bench.ledger.record_absent(bench.root_id, paths) == 4
    assert [bench.state(path) for path in paths[:4]] == [
        FileState.VANISHED,
        FileState.VANISHED,
        FileState.MISSED,
        FileState.MISSED,
    ]
    assert bench.row(done)["outcome"] == Outcome.ASSESSED
    assert bench.ledger.expected_paths(bench.root_id) == []
    assert bench.ledger.record_absent(bench.root_id, paths) == 0
    assert [bench.see(path).state for path in paths[:4]] == [
        FileState.DONE,
        FileState.QUARANTINED,
        FileState.SETTLING,
        FileState.SETTLING,
    ]
    assert bench.claim() == [], "what has its outcome is not read again"


def test_a_claimed_version_is_left_to_its_slot_when_it_is_absent(bench: LedgerBench) -> None:
    bench.claimed()
    assert bench.ledger.record_absent(bench.root_id, [b"film.dcm"]) == 0
    assert bench.state() is FileState.CLAIMED


def test_absence_reaches_the_older_result_of_a_missed_version(bench: LedgerBench) -> None:
    file_id = bench.assess(b"film.dcm")
    bench.see(b"film.dcm", 200, 2)
    assert bench.ledger.record_absent(bench.root_id, [b"film.dcm"]) == 2
    assert bench.row(file_id)["state"] == FileState.VANISHED
    assert bench.see(b"film.dcm").file_id == file_id
    assert bench.state() is FileState.DONE


def test_live_paths_come_in_pages(bench: LedgerBench) -> None:
    names = [b"%03d" % number for number in range(7)]
    bench.ready(*names)
    bench.ledger.record_ignored(bench.root_id, [Observation(b".hidden", 1, 1)], "hidden")
    met: list[bytes] = []
    after = 0
    while page := bench.ledger.expected_paths(bench.root_id, after_file_id=after, limit=3):
        met += [path for _, path in page]
        after = page[-1][0]
    assert met == names


def test_ignored_entries_are_counted_with_their_rule_and_reconsidered(bench: LedgerBench) -> None:
    litter = [Observation(b"a.part", 1, 1), Observation(b"pipe", 0, 1)]
    assert bench.ledger.record_ignored(bench.root_id, litter, "temporary_name") == 2
    assert bench.ledger.record_ignored(bench.root_id, litter, "temporary_name") == 0
    assert bench.newest(b"pipe").code == "temporary_name"
    assert bench.claim() == []
    again = bench.see(b"pipe", 0, 1)
    assert (again.state, again.code) == (FileState.SETTLING, None)


def test_a_result_is_never_ignored_away(bench: LedgerBench) -> None:
    file_id = bench.assess(b"film.dcm")
    assert bench.ledger.record_ignored(bench.root_id, [Observation(b"film.dcm", 100, 1)], "rule") == 0
    assert bench.row(file_id)["state"] == FileState.DONE


def test_an_empty_file_settles_until_it_is_set_aside_and_new_bytes_revive_it(bench: LedgerBench) -> None:
    empty, full = bench.see(b"empty.dcm", 0), bench.see(b"full.dcm", 5)
    assert bench.ledger.quarantine_empty([empty, full]) == 1
    assert (bench.newest(b"empty.dcm").state, bench.newest(b"empty.dcm").code) == (FileState.QUARANTINED, "empty")
    assert bench.row(empty.file_id)["outcome"] == Outcome.UNREADABLE
    assert bench.state(b"full.dcm") is FileState.SETTLING
    bench.ledger.settle([bench.see(b"empty.dcm", 9, 2)])
    assert bench.state(b"empty.dcm") is FileState.READY
    assert bench.row(empty.file_id)["state"] == FileState.SUPERSEDED


@pytest.mark.parametrize(
    "path",
    [
        bytes(range(1, 47)) + bytes(range(48, 256)),
        b"\xff",
        b"a\nb",
        "é".encode(),
        "e\u0301".encode(),
        b"x" * 255,
        b"'; --",
    ],
)
def test_any_name_goes_in_and_comes_out_as_it_was(bench: LedgerBench, path: bytes) -> None:
    assert bench.claimed(path).path == path
    assert bench.newest(path).path == path


def test_names_that_look_alike_are_different_files(bench: LedgerBench) -> None:
    names = [b"A.dcm", b"a.dcm", "é".encode(), "e\u0301".encode()]
    bench.ready(*names)
    assert len({claim.file_id for claim in bench.claim(9)}) == len(names)


def test_a_path_longer_than_an_index_entry(bench: LedgerBench) -> None:
    path = b"/".join(bytes([65 + number]) * 250 for number in range(16))
    assert bench.claimed(path).path == path


@pytest.mark.parametrize("mtime_ns", [0, -1, 2**63 - 1, -(2**63), 2**70, -(2**70)])
def test_hostile_times_and_inodes(bench: LedgerBench, mtime_ns: int) -> None:
    seen = Observation(b"film.dcm", 2**62, mtime_ns, 2**64 - 1)
    version = bench.ledger.observe(bench.root_id, [seen])[b"film.dcm"]
    assert version.matches(seen)


def test_registering_a_root_again_renews_what_it_declares(bench: LedgerBench) -> None:
    from preread.core.types import Population

    again = bench.ledger.register_root(b"/srv/inbox/", population=Population.RESEARCH, path_pattern="{patient_id}/*")
    assert again == bench.root_id
    assert bench.ledger.register_root(b"/srv/other") != bench.root_id


def test_two_roots_keep_their_files_apart(bench: LedgerBench) -> None:
    other = bench.ledger.register_root(b"/srv/other")
    bench.ready(b"film.dcm")
    bench.ledger.observe(other, [Observation(b"film.dcm", 100, 1)])
    assert pending(bench.ledger, [other]) == 1
    assert bench.ledger.claim([other], 5) == []
    assert bench.ledger.count_versions([other])[FileState.SETTLING] == 1
    assert pending(bench.ledger) == 2


def test_scans_are_noted(bench: LedgerBench) -> None:
    bench.ledger.record_scan_start(bench.root_id)
    bench.wait(5)
    bench.ledger.record_scan_end(bench.root_id, files_seen=12)
    from sqlalchemy import select

    from preread.db import schema

    with bench.engine.connect() as connection:
        root = connection.execute(select(schema.root)).one()
    assert (root.last_scan_completed_at - root.last_scan_started_at).total_seconds() == 5
    assert root.last_scan_files == 12


def test_big_batches_go_in_chunks(bench: LedgerBench) -> None:
    batch = [Observation(b"%05d.dcm" % number, 5, number) for number in range(1203)]
    seen = bench.ledger.observe(bench.root_id, batch)
    assert len(seen) == 1203
    assert bench.ledger.settle(seen.values()) == 1203
    assert bench.ledger.record_absent(bench.root_id, seen) == 1203


def test_a_locked_file_that_changes_is_revived(bench: LedgerBench) -> None:
    claim = bench.claimed()
    assert bench.ledger.quarantine(claim, FileLocked())
    bench.ledger.settle([bench.see(b"film.dcm", 300, 4)])
    assert bench.claim()[0].size_bytes == 300
