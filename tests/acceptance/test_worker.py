"""Real worker processes on real folders: whatever happens to them, each content gets one result."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select

from preread.core.types import FileState
from preread.db import schema
from preread_training.data import phantoms

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

from tests.support.worker_process import WITHIN_S, WorkerBench, film, large_film, on_sqlite, sha256

HUNG = (FileState.QUARANTINED, "slot_deadline")


# --------------------------------------------------------------------------- what is there


def test_every_file_ends_in_a_named_outcome(bench: WorkerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    chest = phantoms.draw_chest(3, rows=96, columns=96)
    good = {f"good/{seed}": large_film(seed) for seed in range(5)}
    for name, content in good.items():
        bench.write(name, content)
    bench.write("again", good["good/0"])
    bench.write("dicom", phantoms.to_dicom(chest))
    bench.write("lateral", phantoms.to_dicom(chest, ViewPosition="LL"))
    bench.write("cut.dcm", phantoms.to_dicom(chest)[:-4000])
    bench.write("empty", b"")
    bench.write("text.dcm", b"a letter")
    bench.write("cut.jpg", film(7)[:2000])
    bench.write("crash", film(8) + b"CRASH")
    bench.write("hang", film(9) + b"HANG")
    bench.write("eat", film(10) + b"EAT")
    bench.write("raise", film(11) + b"RAISE")
    bench.write(b"\xff\xfe\n", film(12))
    bench.write("film.part", film(13))
    bench.write(".hidden/film", film(13))
    (bench.inbox / "link").symlink_to("/etc/passwd")
    os.mkfifo(bench.inbox / "pipe")
    monkeypatch.chdir(bench.inbox)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        bench.once(deadline_s=6.0)
    rows = bench.rows()
    quarantined, ignored = FileState.QUARANTINED, FileState.IGNORED
    assert rows == {
        **{name.encode(): (FileState.DONE, None) for name in good},
        b"again": (FileState.DONE, None),
        b"dicom": (FileState.DONE, None),
        b"lateral": (FileState.DONE, "view"),
        b"cut.dcm": (quarantined, "truncated"),
        b"empty": (quarantined, "empty"),
        b"text.dcm": (quarantined, "unknown_format"),
        b"cut.jpg": (quarantined, "truncated"),
        b"crash": (quarantined, "slot_crashed"),
        b"hang": (quarantined, "slot_deadline"),
        b"eat": (quarantined, "slot_memory"),
        b"raise": (quarantined, "slot_crashed"),
        b"\xff\xfe\n": (FileState.DONE, None),
        b"film.part": (ignored, "temporary_name"),
        b"link": (ignored, "symbolic_link"),
        b"pipe": (ignored, "not_regular"),
        b"socket": (ignored, "not_regular"),
    }
    assert set(bench.assessed_sha256().values()) == {1}
    assert bench.inferred()[sha256(good["good/0"])] == 1
    log = bench.workers[0].log.read_bytes()
    assert b"good/" not in log
    assert str(bench.folder).encode() not in log


def test_a_folder_whose_films_hang_never_has_all_processes_even_after_a_restart(
    bench: WorkerBench, eventually: Callable[..., None]
) -> None:
    """The first few cost what they cost; then others are read at once, while such films come and come."""
    bench.write("good/0", film(0))
    for number in range(3):
        bench.write(f"bad/{number}", film(number) + b"%dHANG" % number)
    worker = bench.start(deadline_s=2.0)
    # each is tried once more and then set aside, however often such films are sent again
    eventually(lambda: [bench.rows().get(b"bad/%d" % number) for number in range(3)] == [HUNG] * 3)
    with bench.engine.connect() as connection:
        c = schema.transition.c
        assert connection.execute(select(func.count()).where(c.to_state == FileState.RETRY)).scalar_one() == 3
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0
    for number in range(3, 9):
        bench.write(f"bad/{number}", film(number) + b"%dHANG" % number)
    bench.start(deadline_s=300.0)
    eventually(lambda: FileState.CLAIMED in bench.states(b"bad/"))
    for number in range(1, 9):
        bench.write(f"good/{number}", film(100 + number))
        eventually(lambda number=number: bench.state(b"good/%d" % number) == FileState.DONE)
        assert bench.states(b"bad/").count(FileState.CLAIMED) == 1, "of two processes"
    assert bench.states(b"bad/").count(FileState.READY) == 5


@on_sqlite
def test_a_second_run_has_nothing_to_do(bench: WorkerBench) -> None:
    for seed in range(3):
        bench.write(f"{seed}", film(seed))
    bench.write("text", b"a letter")
    bench.once()
    inferred, transitions = bench.inferred(), bench.count(schema.transition)
    bench.once()
    assert bench.inferred() == inferred
    assert bench.count(schema.transition) == transitions


@on_sqlite
def test_an_empty_root_ends_at_once(bench: WorkerBench) -> None:
    bench.once()
    assert bench.rows() == {}


@on_sqlite
def test_several_roots_of_which_one_is_away(bench: WorkerBench) -> None:
    bench.write("film", film(1))
    worker = bench.start(bench.inbox, bench.folder / "away", once=True)
    assert worker.ends() == 3
    assert bench.state(b"film") == FileState.DONE
    assert any(event["event"] == "share_down" for event in worker.events())


@on_sqlite
def test_new_bytes_under_a_name_are_a_new_version(bench: WorkerBench) -> None:
    bench.write("film", film(1))
    bench.once()
    bench.write("film", film(2))
    bench.once()
    assert set(bench.assessed_sha256()) == {sha256(film(1)), sha256(film(2))}
    with bench.engine.connect() as connection:
        states = Counter(connection.execute(select(schema.file.c.state)).scalars())
    assert states == {FileState.DONE: 1, FileState.SUPERSEDED: 1}


@on_sqlite
def test_one_instance_uid_with_other_pixels_is_kept_and_marked(bench: WorkerBench) -> None:
    uid: dict[str, Any] = {"SOPInstanceUID": "1.2.826.0.1.3680043.10.99999.1"}
    for seed in (1, 2):
        bench.write(f"{seed}.dcm", phantoms.to_dicom(phantoms.draw_chest(seed, rows=96, columns=96), **uid))
    bench.once()
    assert len(bench.assessed_sha256()) == 2
    with bench.engine.connect() as connection:
        assert any(connection.execute(select(schema.file.c.uid_conflict)).scalars())


# --------------------------------------------------------------------------- what arrives


@on_sqlite
def test_a_slow_writer_is_waited_for(bench: WorkerBench, eventually: Callable[..., None]) -> None:
    """The result belongs to the whole file, however the writer dawdles."""
    worker = bench.start(settle_s=1.0)
    content = film(1)
    path = bench.inbox / "film.jpg"

    def size_in_ledger() -> int | None:
        with bench.engine.connect() as connection:
            return connection.execute(select(schema.file.c.size_bytes).where(schema.file.c.newest)).scalar()

    with path.open("wb", buffering=0) as stream:
        for start in range(0, len(content), len(content) // 4):
            stream.write(content[start : start + len(content) // 4])
            eventually(lambda: size_in_ledger() == path.stat().st_size, WITHIN_S)
    eventually(lambda: bench.state(b"film.jpg") == FileState.DONE, WITHIN_S)
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0
    assert bench.assessed_sha256()[sha256(content)] == 1
    with bench.engine.connect() as connection:
        newest = select(schema.instance.c.sha256).join(schema.file, schema.file.c.instance_id == schema.instance.c.id)
        assert connection.execute(newest.where(schema.file.c.newest)).scalar_one() == sha256(content)


@on_sqlite
@pytest.mark.parametrize("poll", [False, True])
def test_a_rename_into_place_is_one_film(bench: WorkerBench, eventually: Callable[..., None], poll: bool) -> None:
    worker = bench.start(poll=poll)
    eventually(lambda: any(event["event"] == "root_watched" for event in worker.events()), WITHIN_S)
    (mode,) = {event["mode"] for event in worker.events() if event["event"] == "root_watched"}
    assert mode == ("polling" if poll else "events")
    part = bench.write("film.jpg.part", film(1))
    part.rename(bench.inbox / "film.jpg")
    outside = bench.folder / "film2.jpg"
    outside.write_bytes(film(2))
    outside.rename(bench.inbox / "film2.jpg")
    eventually(lambda: bench.done() == 2, WITHIN_S)
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0
    assert bench.inferred() == {sha256(film(1)): 1, sha256(film(2)): 1}


@on_sqlite
def test_an_event_is_faster_than_the_scan(bench: WorkerBench, eventually: Callable[..., None]) -> None:
    """With an hour between scans a film is still answered at once: events work; a tree moved in counts as well."""
    worker = bench.start(scan_interval_s=3600.0)
    eventually(worker.started, WITHIN_S)
    bench.write("one", film(1))
    eventually(lambda: bench.done() == 1, WITHIN_S)
    tree = bench.folder / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "film").write_bytes(film(2))
    tree.rename(bench.inbox / "tree")
    eventually(lambda: bench.done() == 2, WITHIN_S)


@on_sqlite
def test_a_share_that_goes_and_comes_back(bench: WorkerBench, eventually: Callable[..., None]) -> None:
    bench.write("film", film(1))
    worker = bench.start()
    eventually(lambda: bench.done() == 1, WITHIN_S)
    bench.inbox.rename(bench.folder / "elsewhere")
    eventually(lambda: any(event["event"] == "share_down" for event in worker.events()), WITHIN_S)
    assert bench.rows() == {b"film": (FileState.DONE, None)}
    (bench.folder / "elsewhere" / "second").write_bytes(film(2))
    (bench.folder / "elsewhere").rename(bench.inbox)
    eventually(lambda: bench.done() == 2, WITHIN_S)
    assert bench.inferred() == {sha256(film(1)): 1, sha256(film(2)): 1}


# --------------------------------------------------------------------------- what ends it


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_is_in_hand(bench: WorkerBench, eventually: Callable[..., None], number: int) -> None:
    bench.write("slow", film(1) + b"SLOW")
    worker = bench.start(slots=1)
    eventually(lambda: bench.state(b"slow") == FileState.CLAIMED, WITHIN_S)
    bench.write("later", film(2))
    worker.signal(number)
    assert worker.ends() == 0
    assert bench.state(b"slow") == FileState.DONE
    assert bench.state(b"later") != FileState.CLAIMED
    assert worker.events()[-1]["event"] == "worker_stopped"


@on_sqlite
def test_a_second_signal_hurries(bench: WorkerBench, eventually: Callable[..., None]) -> None:
    bench.write("hang", film(1) + b"HANG")
    worker = bench.start(deadline_s=600.0)
    eventually(lambda: bench.state(b"hang") == FileState.CLAIMED, WITHIN_S)
    worker.signal(signal.SIGTERM)
    eventually(lambda: any(event["event"] == "worker_stopping" for event in worker.events()), WITHIN_S)
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0
    assert bench.state(b"hang") == FileState.READY


def test_a_worker_that_is_killed_loses_and_doubles_nothing(bench: WorkerBench, eventually: Callable[..., None]) -> None:
    contents = [film(seed) + (b"SLOW" if seed % 3 == 0 else b"") for seed in range(12)]
    for number, content in enumerate(contents):
        bench.write(f"{number}", content)
    for killed_after in (1, 4, 8):
        worker = bench.start()
        eventually(lambda wanted=killed_after: bench.done() >= wanted, WITHIN_S)
        worker.signal(signal.SIGKILL)
        worker.ends()
    bench.once()
    assert {state for state, _ in bench.rows().values()} == {FileState.DONE}
    assert bench.assessed_sha256() == {sha256(content): 1 for content in contents}
    with bench.engine.connect() as connection:
        assert connection.execute(select(func.max(schema.file.c.attempts))).scalar_one() == 1


def test_two_workers_share_one_folder(bench: WorkerBench) -> None:
    contents = [film(seed) for seed in range(16)]
    for number, content in enumerate(contents):
        bench.write(f"{number}", content)
    workers = [bench.start(once=True, slots=1) for _ in range(2)]
    assert [worker.ends() for worker in workers] == [0, 0]
    assert bench.assessed_sha256() == {sha256(content): 1 for content in contents}
    assert bench.inferred() == {sha256(content): 1 for content in contents}


@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
def test_a_database_that_goes_away_is_waited_for(
    bench: WorkerBench, postgres_server: PostgresServer, eventually: Callable[..., None]
) -> None:
    """A film that a slot has in hand and one that arrives meanwhile: neither is lost, neither is done twice."""
    bench.write("slow", film(1) + b"SLOW")
    worker = bench.start()
    eventually(lambda: bench.state(b"slow") == FileState.CLAIMED, WITHIN_S)
    postgres_server.stop()
    try:
        bench.write("meanwhile", film(2))
        eventually(lambda: any(event["event"] == "database_away" for event in worker.events()), WITHIN_S)
    finally:
        postgres_server.start()
    bench.engine.dispose()
    eventually(lambda: bench.done() == 2, WITHIN_S)
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0
    assert bench.inferred() == {sha256(film(1) + b"SLOW"): 1, sha256(film(2)): 1}


@on_sqlite
def test_the_source_is_left_as_it_was(bench: WorkerBench) -> None:
    paths = [bench.write("film", film(1)), bench.write("bad", b"text"), bench.write("crash", film(2) + b"CRASH")]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}
    bench.once()
    assert sorted(bench.inbox.iterdir()) == sorted(paths)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in paths} == before
