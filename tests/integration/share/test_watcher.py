"""Events of the kernel, and what happens when they fail to come."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from preread.share.watcher import REBUILD_FIRST_S, TAKEN_AT_ONCE, Watcher

WITHIN_S = 30.0


class Bell:
    """A wake-up call that a test can wait for."""

    def __init__(self) -> None:
        self.rung = threading.Event()

    def __call__(self) -> None:
        self.rung.set()


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def watcher(tmp_path: Path, bell: Bell) -> Iterator[Watcher]:
    root = tmp_path / "root"
    root.mkdir()
    watcher = Watcher(os.fsencode(root), bell)
    watcher.keep_watching(0.0)
    watcher.take_event_paths()
    yield watcher
    watcher.stop_watching()


def heard(watcher: Watcher, bell: Bell, path: bytes) -> bool:
    """Wait until the path was hinted at."""
    give_up_at = time.monotonic() + WITHIN_S
    while time.monotonic() < give_up_at:
        if path in watcher.take_event_paths()[0]:
            return True
        bell.rung.wait(0.05)
        bell.rung.clear()
    return False


def create(root: Path) -> None:
    (root / "film").write_bytes(b"1")


def create_strange(root: Path) -> None:
    Path(os.fsdecode(os.path.join(os.fsencode(root), b"\xff\n"))).write_bytes(b"1")


def rename_within(root: Path) -> None:
    (root / "film.part").write_bytes(b"1")
    (root / "film.part").rename(root / "film")


def rename_into(root: Path) -> None:
    (root.parent / "film").write_bytes(b"1")
    (root.parent / "film").rename(root / "film")


def create_deep(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "film").write_bytes(b"1")


def append(root: Path) -> None:
    with (root / "there").open("ab") as stream:
        stream.write(b"2")


def link_hard(root: Path) -> None:
    (root / "film").hardlink_to(root / "there")


def move_tree_in(root: Path) -> None:
    (root.parent / "tree").mkdir()
    (root.parent / "tree" / "film").write_bytes(b"1")
    (root.parent / "tree").rename(root / "tree")


@pytest.mark.parametrize(
    "action,path",
    [
        (create, b"film"),
        (create_strange, b"\xff\n"),
        (rename_within, b"film"),
        (rename_into, b"film"),
        (create_deep, b"a"),
        (append, b"there"),
        (link_hard, b"film"),
        (move_tree_in, b"tree"),
    ],
)
def test_what_happens_in_the_folder_is_hinted_at(
    watcher: Watcher, bell: Bell, tmp_path: Path, action: Callable[[Path], None], path: bytes
) -> None:
    assert watcher.alive
    (tmp_path / "root" / "there").write_bytes(b"1")
    assert heard(watcher, bell, b"there")
    action(tmp_path / "root")
    assert heard(watcher, bell, path)


def test_a_root_that_is_a_link_is_watched(tmp_path: Path, bell: Bell) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    watcher = Watcher(os.fsencode(tmp_path / "link"), bell)
    watcher.keep_watching(0.0)
    try:
        (tmp_path / "link" / "film").write_bytes(b"1")
        assert heard(watcher, bell, b"film")
    finally:
        watcher.stop_watching()


def test_a_start_asks_for_a_scan(tmp_path: Path, bell: Bell) -> None:
    watcher = Watcher(os.fsencode(tmp_path), bell)
    watcher.keep_watching(0.0)
    try:
        assert watcher.take_event_paths() == ([], True)
        assert watcher.take_event_paths() == ([], False)
    finally:
        watcher.stop_watching()


def test_a_dead_emitter_is_noticed_and_replaced(watcher: Watcher, bell: Bell, tmp_path: Path) -> None:
    """watchdog's observer lives on without its emitter; nothing would ever arrive again."""
    observer = watcher._observer
    assert observer is not None
    for emitter in observer.emitters:
        emitter.stop()
        emitter.join(WITHIN_S)
    assert (observer.is_alive(), watcher.alive) == (True, False)
    watcher.keep_watching(REBUILD_FIRST_S + 1)
    assert watcher.alive
    assert watcher.restarts == 1
    assert watcher.take_event_paths()[1]
    (tmp_path / "root" / "film").write_bytes(b"1")
    assert heard(watcher, bell, b"film")


def test_a_storm_of_hints_comes_in_pieces_each_of_which_wakes(tmp_path: Path) -> None:
    woken = []
    watcher = Watcher(os.fsencode(tmp_path), lambda: woken.append(True))
    for number in range(2 * TAKEN_AT_ONCE):
        watcher._on_event(b"%b/film%d" % (os.fsencode(tmp_path), number))
    woken.clear()
    first, second = watcher.take_event_paths()[0], watcher.take_event_paths()[0]
    assert (len(first), len(woken)) == (TAKEN_AT_ONCE, 1), "the rest would wait for another event"
    assert (len({*first, *second}), watcher.take_event_paths()[0]) == (2 * TAKEN_AT_ONCE, [])


def test_a_root_that_is_not_there_is_tried_again_ever_more_rarely(tmp_path: Path, bell: Bell) -> None:
    watcher = Watcher(os.fsencode(tmp_path / "away"), bell)
    tries = []
    for second in range(1000):
        before = watcher.restarts
        watcher.keep_watching(float(second))
        if watcher.restarts > before:
            tries.append(second)
    assert len(tries) < 15
    (tmp_path / "away").mkdir()
    watcher.keep_watching(2000.0)
    assert watcher.alive
    watcher.stop_watching()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_without_watches_left_the_scan_goes_on_alone(tmp_path: Path, bell: Bell, number: int) -> None:
    class Exhausted:
        def schedule(self, *_: object, **__: object) -> None:
            raise OSError(number, "seam")

        def stop(self) -> None: ...

        def is_alive(self) -> bool:
            return False

    made: list[BaseObserver] = []

    def make() -> BaseObserver:
        observer = Exhausted() if not made else Observer()
        made.append(observer)  # type: ignore[arg-type]
        return observer  # type: ignore[return-value]

    watcher = Watcher(os.fsencode(tmp_path), bell, make_observer=make)
    watcher.keep_watching(0.0)
    assert (watcher.alive, watcher.take_event_paths()) == (False, ([], True))
    watcher.keep_watching(REBUILD_FIRST_S)
    assert watcher.alive
    watcher.stop_watching()


def test_an_overflow_asks_for_a_scan(watcher: Watcher, bell: Bell) -> None:
    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed; filesystem events were lost")
    assert bell.rung.is_set()
    assert watcher.take_event_paths()[1]


def test_after_the_end_nothing_listens(tmp_path: Path, bell: Bell) -> None:
    watcher = Watcher(os.fsencode(tmp_path), bell)
    before = set(threading.enumerate())
    watcher.keep_watching(0.0)
    watcher.stop_watching()
    assert set(threading.enumerate()) == before
    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed; filesystem events were lost")
    assert not bell.rung.is_set()
