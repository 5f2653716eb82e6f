"""What ``preread status`` and ``/health`` say of a database that a worker wrote, or did not. On both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from preread.core.errors import (
    EnvironmentFault,
    FileChanged,
    FileLocked,
    FileVanished,
    ScanIncomplete,
    ShareDown,
    UnknownFormat,
)
from preread.core.types import FileState
from preread.ledger import registry
from preread.ledger.records import Observation, Pulse, RootPulse
from preread.monitoring import health
from preread.monitoring.health import Health, Level
from tests.support.ledger import LedgerBench
from tests.support.outcomes import commit_unreadable

ROOT = b"/srv/inbox"
INTERVAL_S = 30.0


def look(bench: LedgerBench, roots: list[bytes] | None = None) -> Health:
    return health.report(bench.engine, roots=roots, scan_interval_s=INTERVAL_S, clock=bench._clock)


def codes(bench: LedgerBench, roots: list[bytes] | None = None) -> dict[str, Level]:
    return {problem.code: problem.level for problem in look(bench, roots).problems}


def beat(
    bench: LedgerBench,
    *,
    moves: bool = True,
    fault: EnvironmentFault | None = None,
    slots_alive: int = 2,
    of: Any = None,
) -> None:
    roots = (RootPulse(bench.root_id, moves, fault),)
    (of or bench.ledger).heartbeat(Pulse(INTERVAL_S, 2, slots_alive, roots))


def scan(bench: LedgerBench, seconds: float = 0.0) -> None:
    bench.ledger.record_scan_start(bench.root_id)
    bench.wait(seconds)
    bench.ledger.record_scan_end(bench.root_id, files_seen=1)


@pytest.fixture
def watched(bench: LedgerBench) -> LedgerBench:
    """A worker that is well."""
    beat(bench)
    scan(bench)
    return bench


def test_where_no_worker_ever_ran(bench: LedgerBench) -> None:
    assert codes(bench) == {"no_worker": Level.CRITICAL}


def test_nothing_is_wrong(watched: LedgerBench) -> None:
    watched.assess(b"film.dcm")
    found = look(watched)
    assert (found.level, found.problems) == (Level.OK, ())
    assert found.counts[FileState.DONE] == 1
    assert (found.workers[0].alive, found.workers[0].slots_alive) == (True, 2)
    assert (found.roots[0].watched, found.roots[0].files, found.roots[0].scan_age_s) == (True, 1, 0.0)
    assert found.to_json()["status"] == "ok"


@pytest.mark.parametrize("how", ["stopped", "died", "silent"])
def test_a_worker_that_is_gone(watched: LedgerBench, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "stopped":
        watched.ledger.mark_worker_stopped()
    elif how == "died":
        monkeypatch.setattr(registry, "process_token", lambda _pid: None)
    else:
        watched.wait(2 * INTERVAL_S + 1)
    expected = "worker_silent" if how == "silent" else "no_worker"
    assert codes(watched) == {expected: Level.CRITICAL}
    assert codes(watched, [ROOT]) == {expected: Level.CRITICAL}


def test_red_within_two_scan_intervals_when_the_look_at_a_folder_hangs(watched: LedgerBench) -> None:
    for _ in range(12):
        watched.wait(5)
        beat(watched, moves=False)
    assert codes(watched) == {}
    watched.wait(5)
    beat(watched, moves=False)
    assert codes(watched) == {"scan_stalled": Level.CRITICAL}


def test_red_when_no_scan_is_complete_though_scanning_goes_on(watched: LedgerBench) -> None:
    for seconds in (60, 1):
        assert codes(watched) == {}
        watched.wait(seconds)
        beat(watched)
    assert codes(watched) == {"scan_overdue": Level.CRITICAL}
    scan(watched)
    assert codes(watched) == {}


def test_a_scan_may_take_as_long_as_it_takes(watched: LedgerBench) -> None:
    scan(watched, seconds=300)
    watched.wait(2 * 30 + 2 * 300)
    beat(watched)
    assert codes(watched) == {}
    watched.wait(1)
    assert codes(watched) == {"scan_overdue": Level.CRITICAL}


def test_a_first_scan_is_waited_for_while_it_moves(bench: LedgerBench) -> None:
    beat(bench)
    assert codes(bench) == {}
    bench.wait(61)
    beat(bench)
    assert codes(bench) == {"first_scan": Level.WARNING}


@pytest.mark.parametrize("fault", [ShareDown("not mounted"), ScanIncomplete("2 folders\x1b[2J")])
def test_a_share_that_cannot_be_listed(watched: LedgerBench, fault: EnvironmentFault) -> None:
    beat(watched, fault=fault)
    watched.wait(20)
    beat(watched, fault=fault)
    found = look(watched)
    assert [(one.level, one.code) for one in found.problems] == [(Level.CRITICAL, fault.code)]
    assert "\x1b" not in found.problems[0].what
    assert found.roots[0].fault_age_s == 20
    beat(watched)
    assert codes(watched) == {}


def test_slots_that_do_not_start(watched: LedgerBench) -> None:
    beat(watched, slots_alive=0)
    assert codes(watched) == {}, "they may still be starting"
    watched.wait(61)
    scan(watched)
    for alive, expected in ((0, {"no_slots": Level.CRITICAL}), (1, {"slots_missing": Level.WARNING}), (2, {})):
        beat(watched, slots_alive=alive)
        assert codes(watched) == expected


def test_files_that_wait_while_nothing_moves(watched: LedgerBench) -> None:
    watched.ready(b"a", b"b")
    watched.wait(60)
    beat(watched)
    scan(watched)
    assert codes(watched) == {}
    assert look(watched).ready_age_s == 60
    watched.wait(1)
    assert codes(watched) == {"stalled": Level.CRITICAL}
    watched.claim()
    assert codes(watched) == {}, "the other one waits its turn"


def test_a_missed_film_is_red_until_acknowledged(watched: LedgerBench) -> None:
    watched.ready(b"early.dcm")
    watched.ledger.record_absent(watched.root_id, [b"early.dcm"])
    claim = watched.claimed(b"late.dcm")
    assert watched.ledger.give_back(claim, FileVanished()) is FileState.MISSED
    assert codes(watched) == {"missed": Level.CRITICAL}
    assert look(watched).missed == 2
    early = watched.newest(b"early.dcm").file_id
    assert watched.ledger.acknowledge_missed([early], "alice knows") == 1
    assert watched.ledger.acknowledge_missed([early], "alice knows") == 0
    assert look(watched).missed == 1
    assert watched.ledger.acknowledge_missed([claim.file_id], "alice knows") == 1
    assert codes(watched) == {}
    assert watched.moves(early)[-1] == ("missed", "missed")


def test_a_renamed_film_is_not_missed_and_one_that_went_away_under_its_new_name_is(watched: LedgerBench) -> None:
    def see(path: bytes, inode: int = 77) -> None:
        seen = watched.ledger.observe(watched.root_id, [Observation(path, 100, 1, inode)])
        watched.ledger.settle(seen.values())

    see(b"x.new")
    watched.ledger.record_absent(watched.root_id, [b"x.new"])
    see(b"other.dcm", inode=78)
    assert look(watched).missed == 1
    see(b"x.dcm")
    assert look(watched).missed == 0
    watched.ledger.record_absent(watched.root_id, [b"x.dcm"])
    assert look(watched).missed == 2


def test_a_film_with_an_earlier_result_is_not_missed(watched: LedgerBench) -> None:
    file_id = watched.assess(b"film.dcm")
    assert watched.ledger.requeue([file_id], "again", states=[FileState.DONE]) == 1
    watched.ledger.record_absent(watched.root_id, [b"film.dcm"])
    assert watched.state() is FileState.VANISHED
    assert look(watched).missed == 0


@pytest.mark.parametrize("error", [FileLocked, EnvironmentFault, FileChanged, FileVanished])
def test_a_film_that_cannot_be_read_shows_and_is_set_aside_after_a_day(
    watched: LedgerBench, error: type[EnvironmentFault]
) -> None:
    claim = watched.claimed()
    watched.ledger.give_back(claim, error("Permission denied"), retry_in_s=60)
    assert codes(watched) == {"locked": Level.WARNING}
    assert look(watched).locked == 1
    watched.wait(24 * 3600)
    assert watched.ledger.give_back(watched.claim()[0], error(), retry_in_s=60) is FileState.QUARANTINED
    beat(watched)
    scan(watched)
    assert codes(watched) == {"quarantined": Level.WARNING}
    assert look(watched).quarantined == {error.code: 1}


@pytest.mark.parametrize("error", [FileLocked, EnvironmentFault, FileChanged, FileVanished])
def test_a_film_that_could_not_be_read_is_revived_by_any_change(
    watched: LedgerBench, error: type[EnvironmentFault]
) -> None:
    (version,) = watched.ready(b"film.dcm")
    assert watched.ledger.quarantine(watched.claim()[0], error())
    same = Observation(b"film.dcm", 100, 1, ctime_ns=0)
    watched.ledger.observe(watched.root_id, [same])
    assert watched.state() is FileState.QUARANTINED
    watched.ledger.observe(watched.root_id, [Observation(b"film.dcm", 100, 1, ctime_ns=5)])
    assert watched.state() is FileState.READY
    (claim,) = watched.claim()
    assert (claim.file_id, claim.attempts) == (version.file_id, 1)


def test_what_was_read_is_not_revived_by_its_rights(watched: LedgerBench) -> None:
    assert commit_unreadable(watched.ledger, watched.claimed(), UnknownFormat())
    watched.ledger.observe(watched.root_id, [Observation(b"film.dcm", 100, 1, ctime_ns=5)])
    assert watched.state() is FileState.QUARANTINED
    assert codes(watched) == {}, "bytes that are no film are nobody's alarm"
    assert look(watched).quarantined == {"unknown_format": 1}


def test_watching_that_began_anew_is_counted_and_said_where_it_happens_often(watched: LedgerBench) -> None:
    for restarts, warns in ((1, False), (1, False), (3, True)):
        watched.wait(5)
        watched.ledger.heartbeat(Pulse(INTERVAL_S, 2, 2, (RootPulse(watched.root_id, True),), restarts))
        assert codes(watched) == ({"watcher_fails": Level.WARNING} if warns else {})
    watched.wait(20 * 60)
    watched.ledger.heartbeat(Pulse(INTERVAL_S, 2, 2, (RootPulse(watched.root_id, True),), 3))
    scan(watched)
    assert codes(watched) == {}
    (worker,) = look(watched).workers
    assert (worker.watcher_restarts, worker.watcher_restart_age_s) == (3, 1200.0)


def test_previews_that_cannot_be_kept_are_said_with_their_beginning(watched: LedgerBench) -> None:
    for dropped, said in ((True, ["for 0 s"]), (True, ["for 5 s"]), (False, [])):
        watched.wait(5)
        pulse = Pulse(INTERVAL_S, 2, 2, (RootPulse(watched.root_id, True),), previews_dropped=dropped)
        watched.ledger.heartbeat(pulse)
        assert codes(watched) == ({"previews_dropped": Level.WARNING} if dropped else {})
        assert [one in problem.what for one, problem in zip(said, look(watched).problems, strict=True)] == [True] * len(
            said
        )


@pytest.mark.parametrize(
    "lacking, level",
    [(("seccomp",), Level.WARNING), (("landlock", "x"), Level.WARNING), (("landlock_abi_2",), Level.OK)],
)
def test_slots_that_are_confined_in_part_are_said(watched: LedgerBench, lacking: tuple[str, ...], level: Level) -> None:
    for slots_lack in (lacking, ()):
        watched.wait(5)
        watched.ledger.heartbeat(Pulse(INTERVAL_S, 2, 2, (RootPulse(watched.root_id, True),), slots_lack=slots_lack))
        assert codes(watched) == ({"degraded": level} if slots_lack else {})
        assert look(watched).level is (level if slots_lack else Level.OK)


def test_a_writer_that_is_stuck(watched: LedgerBench) -> None:
    watched.see(b"growing.dcm", 5)
    watched.see(b"empty.dcm", 0)
    watched.wait(15 * 60)
    beat(watched)
    scan(watched)
    assert codes(watched) == {}
    watched.wait(1)
    assert codes(watched) == {"stuck_settling": Level.WARNING}
    watched.see(b"growing.dcm", 6, 2)
    assert codes(watched) == {"stuck_settling": Level.WARNING}, "it is still the same film"


def test_a_folder_that_should_be_watched_and_is_not(watched: LedgerBench) -> None:
    assert codes(watched, [ROOT, b"/srv/other"]) == {"unwatched": Level.CRITICAL}
    watched.ledger.register_root(b"/srv/other")
    assert codes(watched, [ROOT, b"/srv/other/"]) == {"unwatched": Level.CRITICAL}
    assert codes(watched) == {}, "where none is named, those of living workers count"


def test_a_worker_that_died_is_no_alarm_once_another_took_over(
    watched: LedgerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.wait(120)
    beat(watched, of=watched.worker("two"))
    scan(watched)
    assert codes(watched) == {}
    assert [one.worker_id for one in look(watched).workers] == ["two"]


def test_a_short_scan_interval_does_not_make_it_nervous(bench: LedgerBench) -> None:
    bench.ledger.heartbeat(Pulse(0.5, 2, 2, (RootPulse(bench.root_id, moves=True),)))
    scan(bench)
    bench.wait(health.LEAST_PATIENCE_S)
    assert codes(bench) == {}
    bench.now += timedelta(seconds=1)
    assert codes(bench) == {"worker_silent": Level.CRITICAL}


def test_a_database_that_cannot_be_asked() -> None:
    found = health.unavailable(ShareDown("it is away"))
    assert (found.level, found.to_json()["problems"][0]["code"]) == (Level.CRITICAL, "share_down")
