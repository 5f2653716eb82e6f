"""One root on a real folder and a real ledger, on a clock that the test moves."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from preread.core import filesystems
from preread.core.errors import DatabaseAway, UnknownFormat
from preread.core.types import FileState
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim, Version
from preread.share import root_monitor
from preread.share.root_monitor import MonitorHooks, MonitorOptions, RootMonitor
from preread.share.scanner import FileSystem
from preread.share.scans import BATCH
from preread.share.stability import StabilityTracker
from tests.support.outcomes import commit_unreadable


@pytest.fixture
def database_kind() -> str:
    """The verbs are tested on both databases; here the folder is what varies."""
    return "sqlite"


class FailingFileSystem(FileSystem):
    """A share on which chosen paths fail, and which counts how often it was asked."""

    def __init__(self) -> None:
        self.fail_listing: dict[bytes, int] = {}
        self.fail_status: dict[bytes, int] = {}
        self.missing: str | None = None
        self.statuses = 0

    def find_missing_mount(self, root: bytes) -> str | None:
        return self.missing

    def list_entries(self, path: bytes) -> Iterator[os.DirEntry[bytes]]:
        if path in self.fail_listing:
            raise OSError(self.fail_listing[path], "seam")
        return super().list_entries(path)

    def read_listed_status(self, entry: os.DirEntry[bytes]) -> os.stat_result:
        self.statuses += 1
        if entry.name in self.fail_status:
            raise OSError(self.fail_status[entry.name], "seam")
        return super().read_listed_status(entry)


class ScriptedHints:
    """Hints that a test gives."""

    def __init__(self, *_: object) -> None:
        self.paths: list[bytes] = []
        self.lost = False
        self.restarts = 0
        self.stopped = False

    def keep_watching(self, now: float) -> None: ...

    def take_event_paths(self) -> tuple[list[bytes], bool]:
        taken, self.paths = (self.paths, self.lost), []
        self.lost = False
        return taken

    def stop_watching(self) -> None:
        self.stopped = True


@dataclass
class Desk:
    """An inbox with its folder, and a clock."""

    folder: Path
    ledger: Ledger
    options: MonitorOptions
    now: float = 1000.0
    wall: datetime = field(default_factory=lambda: datetime.now(UTC))
    system: FailingFileSystem = field(default_factory=FailingFileSystem)
    hints: ScriptedHints = field(default_factory=ScriptedHints)

    def __post_init__(self) -> None:
        self.root = os.fsencode(self.folder)
        self.root_id = self.ledger.register_root(self.root)
        self.start()

    def start(self) -> None:
        """A new process: nothing in memory."""
        self.inbox = RootMonitor(
            self.root,
            self.root_id,
            self.ledger,
            self.options,
            MonitorHooks(watch=lambda *_: self.hints, wall=lambda: self.wall),
            self.system,
        )

    def is_down(self) -> bool:
        return self.inbox.share_down is not None

    def pass_time(self, seconds: float = 0.0) -> None:
        """Let the clock run, ticking whenever the inbox asks for it."""
        end = self.now + seconds
        for _ in range(100_000):
            delay = self.inbox.run_step(self.now)
            if delay > 0 and self.now + delay > end:
                break
            self.now += delay
        else:
            pytest.fail("the inbox wants to be called for ever")
        self.now = end
        self.wall += timedelta(seconds=seconds)

    def write(self, name: str, content: bytes = b"film", mtime_ns: int | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if mtime_ns is not None:
            os.utime(path, ns=(mtime_ns, mtime_ns))
        return path

    def version(self, path: bytes) -> Version | None:
        return self.ledger.newest_versions(self.root_id, [path]).get(path)

    def state(self, path: bytes) -> FileState | None:
        version = self.version(path)
        return version.state if version else None

    def states(self) -> dict[FileState, int]:
        return {state: count for state, count in self.ledger.count_versions([self.root_id]).items() if count}

    def claim(self) -> Claim:
        (claim,) = self.ledger.claim([self.root_id], 1)
        return claim

    def finish(self) -> Claim:
        """Take one READY file to an outcome."""
        claim = self.claim()
        assert commit_unreadable(self.ledger, claim, UnknownFormat())
        return claim


@pytest.fixture
def make_desk(tmp_path: Path, engine: Engine) -> Callable[..., Desk]:
    def make(**options: Any) -> Desk:
        folder = tmp_path / "inbox"
        folder.mkdir(exist_ok=True)
        ledger = Ledger(engine, worker_id="one", lease_s=60)
        return Desk(folder, ledger, MonitorOptions(**{"settle_s": 2.0, "scan_interval_s": 30.0, **options}))

    return make


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()


# --------------------------------------------------------------------------- settling


def test_a_file_settles_after_two_equal_looks(desk: Desk) -> None:
    desk.write("2026/film.dcm")
    desk.pass_time(1.9)
    assert desk.state(b"2026/film.dcm") is FileState.SETTLING
    desk.pass_time(0.2)
    assert desk.state(b"2026/film.dcm") is FileState.READY


def test_a_start_settles_anew(desk: Desk) -> None:
    desk.write("film")
    desk.pass_time(1.9)
    desk.start()
    desk.pass_time(1.9)
    assert desk.state(b"film") is FileState.SETTLING
    desk.pass_time(0.2)
    assert desk.state(b"film") is FileState.READY


def test_a_slow_writer_is_waited_for_as_long_as_it_takes(desk: Desk) -> None:
    for size in range(1, 400):
        desk.write("film", b"x" * size, mtime_ns=7)
        desk.pass_time(1.8)
        assert desk.state(b"film") is FileState.SETTLING
    desk.pass_time(4.1)
    version = desk.version(b"film")
    assert version is not None
    assert (version.state, version.size_bytes) == (FileState.READY, 399)
    assert desk.states() == {FileState.READY: 1}


def test_a_writer_that_pauses_and_goes_on_makes_a_new_version(desk: Desk) -> None:
    desk.write("film", b"half")
    desk.pass_time(5)
    desk.finish()
    desk.write("film", b"half and the rest")
    desk.pass_time(35)
    assert desk.state(b"film") is FileState.READY
    assert desk.states() == {FileState.READY: 1, FileState.SUPERSEDED: 1}


@pytest.mark.parametrize("mtime_s", [-10, 0, 1, 946_684_800, 4_102_444_800])
def test_time_stamps_are_compared_for_equality_only(desk: Desk, mtime_s: int) -> None:
    desk.write("film", mtime_ns=mtime_s * 10**9 + 7)
    desk.pass_time(2.1)
    assert desk.state(b"film") is FileState.READY


def test_an_older_time_stamp_is_a_new_version_too(desk: Desk) -> None:
    desk.write("film", b"abcd", mtime_ns=10**18)
    desk.pass_time(3)
    desk.finish()
    desk.write("film", b"efgh", mtime_ns=10**9)
    desk.pass_time(33)
    version = desk.version(b"film")
    assert version is not None
    assert (version.state, version.mtime_ns) == (FileState.READY, 10**9)


def test_another_file_under_the_name_starts_again(desk: Desk) -> None:
    film = desk.write("film", b"abcd", mtime_ns=5)
    desk.pass_time(1.5)
    other = desk.folder / ".other"
    other.write_bytes(b"efgh")
    os.utime(other, ns=(5, 5))
    other.rename(film)
    desk.pass_time(1.5)
    assert desk.state(b"film") is FileState.SETTLING
    desk.pass_time(2)
    assert desk.state(b"film") is FileState.READY


@pytest.mark.parametrize("gone_for_s", [0, 120])
def test_films_whose_names_were_swapped_are_read_again_and_no_other(desk: Desk, gone_for_s: int) -> None:
    """Uncompressed films of one second have one size and one time: only the file itself tells them apart."""
    for name in ("left", "right", "alone"):
        desk.write(name, name.encode().ljust(8), mtime_ns=5)
    desk.pass_time(3)
    for _ in range(3):
        desk.finish()
    alone, away = desk.folder / "alone", desk.folder.with_name("away")
    alone.chmod(0o600)  # another change time, and the same file
    os.rename(desk.folder / "left", away)
    os.rename(desk.folder / "right", desk.folder / "left")
    desk.pass_time(gone_for_s)
    os.rename(away, desk.folder / "right")
    desk.pass_time(31)
    desk.pass_time(3)
    assert [desk.state(name) for name in (b"left", b"right", b"alone")] == [
        FileState.READY,
        FileState.READY,
        FileState.QUARANTINED,
    ]
    assert {desk.finish().path, desk.finish().path} == {b"left", b"right"}
    desk.pass_time(90)
    assert desk.states() == {FileState.QUARANTINED: 3}


def test_an_empty_file_waits_a_day_and_a_write_revives_it(desk: Desk) -> None:
    desk.write("film", b"")
    desk.pass_time(60)
    assert desk.state(b"film") is FileState.SETTLING
    desk.wall += timedelta(hours=24)
    desk.pass_time(130)
    version = desk.version(b"film")
    assert version is not None
    assert (version.state, version.code) == (FileState.QUARANTINED, "empty")
    desk.write("film", b"at last")
    desk.pass_time(35)
    assert desk.state(b"film") is FileState.READY


def test_an_empty_file_is_judged_at_once_where_the_run_ends(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(once=True)
    desk.write("film", b"")
    desk.pass_time(1)
    assert not desk.inbox.quiet
    desk.pass_time(5)
    assert desk.state(b"film") is FileState.QUARANTINED
    assert desk.inbox.quiet


def test_many_files_in_batches(desk: Desk) -> None:
    for number in range(1203):
        desk.write(f"{number % 3}/{number}")
    desk.pass_time(3)
    assert desk.states() == {FileState.READY: 1203}


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_step_of_the_wall_clock_settles_nothing_and_holds_nothing_up(desk: Desk, hours: int) -> None:
    """Summer time, or a server's clock that is set: settling is counted on this process's own clock."""
    desk.write("film", mtime_ns=int((desk.wall + timedelta(hours=hours)).timestamp() * 10**9))
    desk.write("empty", b"")
    desk.pass_time(1.5)
    desk.wall += timedelta(hours=hours)
    desk.pass_time(0.4)
    assert desk.state(b"film") is FileState.SETTLING
    desk.pass_time(0.2)
    assert desk.state(b"film") is FileState.READY
    assert desk.state(b"empty") is FileState.SETTLING


# --------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.dcm", b"new\nline", b"x" * 255, b"; rm -rf *", "u\u0308.dcm".encode(), "ü.dcm".encode(), b"\\a"]
)
def test_any_name_is_kept_as_its_bytes(desk: Desk, name: bytes) -> None:
    Path(os.fsdecode(os.path.join(desk.root, name))).write_bytes(b"film")
    desk.pass_time(3)
    assert desk.state(name) is FileState.READY
    assert desk.claim().path == name


def test_what_is_no_film_is_named_with_its_rule(desk: Desk) -> None:
    os.mkfifo(desk.folder / "pipe")
    (desk.folder / "link").symlink_to("/etc/passwd")
    (desk.folder / "folder-link").symlink_to("/etc")
    (desk.folder / "loop").symlink_to("loop")
    desk.write("film.part")
    desk.write(".hidden/film")
    desk.pass_time(40)
    codes = {path: desk.version(path) for path in (b"pipe", b"link", b"folder-link", b"loop", b"film.part")}
    assert {path: version.code for path, version in codes.items() if version} == {
        b"pipe": "not_regular",
        b"link": "symbolic_link",
        b"folder-link": "symbolic_link",
        b"loop": "symbolic_link",
        b"film.part": "temporary_name",
    }
    assert desk.states() == {FileState.IGNORED: 5}


def test_a_temporary_name_is_read_once_it_is_renamed(desk: Desk) -> None:
    part = desk.write("film.dcm.part")
    desk.pass_time(40)
    part.rename(desk.folder / "film.dcm")
    desk.pass_time(40)
    assert desk.state(b"film.dcm") is FileState.READY
    assert desk.state(b"film.dcm.part") is FileState.IGNORED


def test_a_link_replaced_by_a_file_is_read(desk: Desk) -> None:
    (desk.folder / "film").symlink_to("/etc/passwd")
    desk.pass_time(3)
    (desk.folder / "film").unlink()
    desk.write("film")
    desk.pass_time(35)
    assert desk.state(b"film") is FileState.READY


# --------------------------------------------------------------------------- hints and scans


def test_a_hint_is_looked_at_at_once(desk: Desk) -> None:
    desk.pass_time(3)
    desk.write("film")
    desk.hints.paths = [b"film"] * 1000
    desk.pass_time(2.1)
    assert desk.state(b"film") is FileState.READY


def test_a_hinted_folder_is_listed(desk: Desk) -> None:
    desk.pass_time(3)
    desk.write("new/deep/film")
    desk.hints.paths = [b"new"]
    desk.pass_time(2.1)
    assert desk.state(b"new/deep/film") is FileState.READY


def test_hints_lead_nowhere_they_should_not(desk: Desk) -> None:
    (desk.folder / "link").symlink_to("/etc")
    desk.pass_time(3)
    desk.hints.paths = [b"gone", b"x.tmp", b"link", b"link/passwd"]
    desk.pass_time(2.1)
    assert desk.states() == {FileState.IGNORED: 1}


def test_without_any_hint_the_scan_finds_it(desk: Desk) -> None:
    desk.pass_time(3)
    desk.write("film")
    desk.pass_time(26)
    assert desk.state(b"film") is None
    desk.pass_time(4)
    assert desk.state(b"film") is FileState.READY


def test_lost_events_bring_the_scan_forward(desk: Desk) -> None:
    desk.pass_time(3)
    desk.write("film")
    desk.hints.lost = True
    desk.pass_time(3.1)
    assert desk.state(b"film") is FileState.READY


def test_a_polled_root_is_seen_soon_and_asks_little(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(poll=True, poll_s=5.0, scan_interval_s=600.0)
    for number in range(50):
        desk.write(f"old{number}")
    desk.pass_time(10)
    assert desk.states() == {FileState.READY: 50}
    desk.system.statuses = 0
    desk.write("film")
    desk.pass_time(8)
    assert desk.state(b"film") is FileState.READY
    assert desk.system.statuses <= 3


@pytest.mark.parametrize("poll,network,polled", [(None, "cifs", True), (None, None, False), (False, "cifs", False)])
def test_the_mount_table_decides_unless_told(
    make_desk: Callable[..., Desk],
    monkeypatch: pytest.MonkeyPatch,
    poll: bool | None,
    network: str | None,
    polled: bool,
) -> None:
    monkeypatch.setattr(filesystems, "network_file_system", lambda *_: network)
    desk = make_desk(poll=poll, scan_interval_s=600.0, network_settle_s=10.0)
    desk.pass_time(1)
    desk.write("film")
    desk.pass_time(30)
    assert (desk.state(b"film") is not None) == polled


def test_a_network_share_settles_longer(make_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystems, "network_file_system", lambda *_: "cifs")
    desk = make_desk(network_settle_s=10.0)
    desk.write("film")
    desk.pass_time(9.9)
    assert desk.state(b"film") is FileState.SETTLING
    desk.pass_time(0.2)
    assert desk.state(b"film") is FileState.READY


def test_a_scan_after_the_database_was_away_finds_what_was_not_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.pass_time(3)
    desk.write("film")
    desk.hints.paths = [b"film"]

    def away(*_: object, **__: object) -> Any:
        raise DatabaseAway

    with monkeypatch.context() as patch:
        for verb in ("newest_versions", "observe", "record_scan_start"):
            patch.setattr(desk.ledger, verb, away)
        with pytest.raises(DatabaseAway):
            desk.inbox.run_step(desk.now)
        with pytest.raises(DatabaseAway):
            desk.inbox.run_step(desk.now + 2)
    desk.now += 3
    desk.pass_time(3.1)
    assert desk.state(b"film") is FileState.READY


def test_what_comes_between_any_two_steps_of_the_start_is_found(desk: Desk, eventually: Callable[..., None]) -> None:
    """The watcher starts before the first scan: with an hour between scans, no film falls between the two."""
    written: list[bytes] = []

    class Meddling(FileSystem):
        """A film arrives at every call, as long as the inbox starts."""

        def _ask(self, call: Any, *arguments: Any) -> Any:
            answer = super()._ask(call, *arguments)
            if len(written) < 40:
                written.append(b"%d" % len(written))
                (desk.folder / os.fsdecode(written[-1])).write_bytes(b"film")
            return answer

    for number in range(3):
        desk.write(f"before{number}")
    inbox = RootMonitor(desk.root, desk.root_id, desk.ledger, MonitorOptions(scan_interval_s=3600.0), system=Meddling())

    def all_found() -> bool:
        desk.now += 0.01
        inbox.run_step(desk.now)
        return desk.ledger.count_versions([desk.root_id])[FileState.SETTLING] == 43

    try:
        eventually(all_found)
    finally:
        inbox.stop_watching()
    assert len(written) == 40
    assert set(desk.ledger.newest_versions(desk.root_id, written)) == set(written)


# --------------------------------------------------------------------------- what lay there before


def lanes(desk: Desk, *paths: bytes) -> list[bool]:
    known = desk.ledger.newest_versions(desk.root_id, paths)
    return [known[path].backlog for path in paths]


def test_what_lies_there_at_the_first_start_is_backlog_and_what_comes_later_is_not(desk: Desk) -> None:
    desk.write("old/film")
    desk.pass_time(3)
    desk.write("hinted")
    desk.hints.paths = [b"hinted"]
    desk.pass_time(3)
    desk.write("scanned")
    desk.start()
    desk.pass_time(3)
    assert desk.states() == {FileState.READY: 3}
    assert lanes(desk, b"old/film", b"hinted", b"scanned") == [True, False, False]
    assert [desk.claim().path for _ in range(3)] == [b"scanned", b"hinted", b"old/film"]


def test_a_backlog_may_be_asked_to_be_as_new(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(include_existing=True)
    desk.write("old")
    desk.pass_time(3)
    assert lanes(desk, b"old") == [False]


def test_a_film_that_comes_or_changes_during_the_first_scan_is_no_backlog(desk: Desk) -> None:
    for name in ("hinted", "changed", "old"):
        desk.write(name, b"one", mtime_ns=1)
    desk.pass_time(0)
    assert lanes(desk, b"hinted", b"changed", b"old") == [True, True, True]
    desk.write("changed", b"other", mtime_ns=2)
    desk.hints.paths = [b"hinted"]
    desk.pass_time(40)
    assert lanes(desk, b"hinted", b"changed", b"old") == [False, False, True]


def test_a_folder_that_can_never_be_listed_does_not_make_every_scan_the_first(desk: Desk) -> None:
    desk.write("closed/film")
    desk.system.fail_listing[os.path.join(desk.root, b"closed")] = errno.EACCES
    desk.pass_time(3)
    assert desk.inbox.complete_scans == 0
    desk.write("film")
    desk.start()
    desk.pass_time(3)
    assert lanes(desk, b"film") == [False]


def test_a_backlog_beyond_the_room_is_fed_from_the_ledger(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root_monitor, "StabilityTracker", partial(StabilityTracker, capacity=2 * BATCH))
    for number in range(3 * BATCH):
        desk.write(f"{number}")
    desk.write("empty", b"")
    desk.pass_time(1)
    desk.write("new")
    desk.hints.paths = [b"new"]
    desk.pass_time(2.5)
    assert desk.state(b"new") is FileState.READY
    scans = desk.inbox.scans
    desk.pass_time(10)
    assert desk.states() == {FileState.READY: 3 * BATCH + 1, FileState.SETTLING: 1}
    assert desk.inbox.scans == scans


# --------------------------------------------------------------------------- absence and the share


def test_what_two_scans_miss_is_noted(desk: Desk) -> None:
    done = desk.write("done")
    desk.pass_time(3)
    desk.finish()
    waiting = desk.write("waiting")
    desk.pass_time(35)
    assert desk.state(b"waiting") is FileState.READY
    done.unlink()
    waiting.unlink()
    desk.pass_time(31)
    assert desk.states() == {FileState.QUARANTINED: 1, FileState.READY: 1}
    desk.pass_time(31)
    assert desk.states() == {FileState.VANISHED: 1, FileState.MISSED: 1}
    desk.write("waiting")
    desk.pass_time(35)
    assert desk.state(b"waiting") is FileState.READY


def test_a_folder_moved_away_and_back_changes_nothing_for_long(desk: Desk) -> None:
    desk.write("2026/film")
    desk.pass_time(3)
    desk.finish()
    (desk.folder / "2026").rename(desk.folder.parent / "elsewhere")
    desk.pass_time(65)
    assert desk.state(b"2026/film") is FileState.VANISHED
    (desk.folder.parent / "elsewhere").rename(desk.folder / "2026")
    desk.pass_time(35)
    assert desk.states() == {FileState.QUARANTINED: 1}


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_an_incomplete_scan_says_nothing_of_absence(desk: Desk, number: int) -> None:
    desk.write("good/film")
    desk.write("bad/film")
    gone = desk.write("good/gone")
    desk.pass_time(3)
    gone.unlink()
    desk.system.fail_listing[os.path.join(desk.root, b"bad")] = number
    desk.write("good/new")
    desk.pass_time(150)
    assert desk.states() == {FileState.READY: 4}
    assert not desk.is_down()
    desk.system.fail_listing.clear()
    desk.pass_time(65)
    assert desk.states() == {FileState.READY: 3, FileState.MISSED: 1}


def test_an_entry_that_cannot_be_looked_at_is_not_absent(desk: Desk) -> None:
    desk.write("film")
    desk.pass_time(3)
    desk.system.fail_status[b"film"] = errno.EIO
    desk.pass_time(120)
    assert desk.state(b"film") is FileState.READY


@pytest.mark.parametrize("number", [errno.EHOSTDOWN, errno.ENOENT, errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_share_that_is_down_changes_nothing_and_comes_back(desk: Desk, number: int) -> None:
    desk.write("done")
    desk.pass_time(3)
    desk.finish()
    desk.write("waiting")
    desk.pass_time(35)
    before = desk.states()
    desk.system.fail_listing[desk.root] = number
    desk.pass_time(400)
    assert desk.is_down()
    assert not desk.inbox.quiet
    assert desk.states() == before
    desk.system.fail_listing.clear()
    desk.write("new")
    desk.pass_time(40)
    assert not desk.is_down()
    assert desk.state(b"new") is FileState.READY
    assert desk.states() == {FileState.QUARANTINED: 1, FileState.READY: 2}


def test_a_share_that_fails_within_a_scan_is_down(desk: Desk) -> None:
    desk.write("folder/film")
    desk.pass_time(3)
    desk.system.fail_listing[os.path.join(desk.root, b"folder")] = errno.EHOSTDOWN
    really_entries = desk.system.list_entries

    def entries(path: bytes) -> Iterator[os.DirEntry[bytes]]:
        if path in desk.system.fail_listing:
            desk.system.fail_listing[desk.root] = errno.EHOSTDOWN
        return really_entries(path)

    desk.system.list_entries = entries  # type: ignore[method-assign]
    desk.pass_time(31)
    assert desk.is_down()


def test_an_empty_mount_point_is_no_empty_share(desk: Desk) -> None:
    desk.write("film")
    desk.pass_time(3)
    desk.folder.rename(desk.folder.parent / "unmounted")
    desk.folder.mkdir()
    desk.pass_time(200)
    assert desk.is_down()
    assert desk.state(b"film") is FileState.READY
    desk.folder.rmdir()
    (desk.folder.parent / "unmounted").rename(desk.folder)
    desk.pass_time(40)
    assert not desk.is_down()
    assert desk.state(b"film") is FileState.READY


def test_a_share_that_is_not_mounted_when_the_worker_starts_is_down_and_no_empty_folder(desk: Desk) -> None:
    """As after a reboot while the file server is away: fstab(5) with ``nofail``, and a worker without memory."""
    desk.write("film")
    desk.pass_time(3)
    desk.folder.rename(desk.folder.parent / "unmounted")
    desk.folder.mkdir()
    desk.system.missing = str(desk.folder)
    desk.start()
    desk.pass_time(200)
    assert "/etc/fstab has a share at" in str(desk.inbox.share_down)
    assert desk.inbox.complete_scans == 0
    assert desk.state(b"film") is FileState.READY
    chosen_before, desk.hints = desk.hints, ScriptedHints()
    desk.folder.rmdir()
    (desk.folder.parent / "unmounted").rename(desk.folder)
    desk.system.missing = None
    desk.pass_time(40)
    assert not desk.is_down()
    assert desk.state(b"film") is FileState.READY
    assert chosen_before.stopped, "a network share would be watched as the local folder that lay below it"


def test_another_share_with_films_is_watched_anew(desk: Desk) -> None:
    desk.write("film")
    desk.pass_time(3)
    first, desk.hints = desk.hints, ScriptedHints()
    first.restarts = 2
    desk.folder.rename(desk.folder.parent / "before")
    desk.folder.mkdir()
    desk.write("other")
    desk.pass_time(40)
    assert first.stopped
    assert desk.inbox.watcher_restarts == 2
    assert desk.state(b"other") is FileState.READY


def test_a_root_that_is_not_there_yet(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.folder.rmdir()
    desk.pass_time(100)
    assert desk.is_down()
    desk.folder.mkdir()
    desk.write("film")
    desk.pass_time(35)
    assert desk.state(b"film") is FileState.READY


def test_a_file_that_goes_away_while_it_settles_ends_a_single_run(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(once=True)
    film = desk.write("film")
    desk.pass_time(1)
    film.unlink()
    desk.pass_time(6)
    assert desk.state(b"film") is FileState.MISSED
    assert desk.inbox.quiet


def test_the_daemon_may_ask_for_a_look(desk: Desk) -> None:
    desk.write("film", b"one", mtime_ns=1)
    desk.pass_time(3)
    claim = desk.claim()
    desk.write("film", b"other", mtime_ns=2)
    desk.inbox.request_path_check(claim.path)
    desk.pass_time(2.1)
    version = desk.version(b"film")
    assert version is not None
    assert (version.state, version.size_bytes) == (FileState.READY, 5)
