"""Real inference processes, confined as on this machine, and as on one that lacks something."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.errors import EnvironmentFault, SlotCrashed
from preread.core.types import Outcome, PixelArray, Population
from preread.imaging import previews
from preread.imaging.preview_png import encode_preview
from preread.ledger.records import Observation
from preread.model import bundles
from preread.runner.child import protocol
from preread.runner.child.protocol import Job, Setup
from preread.runner.confine import confinement
from preread.runner.confine.confinement import Unconfined
from preread.runner.pool import COMMAND, Done, Fault, InferencePool, Lost, Read
from preread.share import safe_read
from preread_training.data import phantoms
from tests.programs import payload
from tests.support.paths import REPOSITORY

WITHOUT = Path(payload.__file__).with_name("without.py")
WITHIN_S = 120.0
DEADLINE_S = 1000.0  # on a clock that the test moves
FILM = phantoms.to_dicom(phantoms.draw_chest(1, rows=96, columns=96))
Ended = Done[str] | Fault[str] | Lost[str]


class Bench:
    """Pools of real slots, and a folder of films."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        bundle = bundles.load_bundle(bundles.find_bundle(None))
        self.setup = Setup(
            bundle=protocol.path_to_text(os.fsencode(bundle.path.resolve())),
            digest=bundle.digest,
            memory_bytes=2**31,
            max_file_bytes=2**22,
            max_pixels=2**22,
            parent_pid=os.getpid(),
        )
        self.pools: list[InferencePool[str]] = []

    def pool(
        self,
        count: int = 1,
        deadline_s: float = 60.0,
        command: tuple[str, ...] = COMMAND,
        *,
        require_confinement: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> InferencePool[str]:
        setup = replace(self.setup, require_confinement=require_confinement)
        pool: InferencePool[str] = InferencePool(
            setup,
            count=count,
            deadline_s=deadline_s,
            command=command,
            clock=clock,
            place=previews.PreviewStore(self.folder / "previews"),
        )
        self.pools.append(pool)
        return pool

    def without(self, what: str) -> tuple[str, ...]:
        return (sys.executable, str(WITHOUT), what, *COMMAND)

    def ready(self, pool: InferencePool[str], count: int = 1) -> InferencePool[str]:
        give_up_at = time.monotonic() + WITHIN_S
        while pool.idle < count:
            assert time.monotonic() < give_up_at
            assert pool.poll(1.0) == []
        return pool

    def job(self, content: bytes = FILM, name: str = "film", **changes: Any) -> Job:
        (self.folder / name).write_bytes(content)
        status = os.stat(self.folder / name)
        root = protocol.path_to_text(os.fsencode(self.folder))
        made = Job(root, name, status.st_size, status.st_mtime_ns, Population.CHILDREN_1_5Y, None, preview=True)
        return replace(made, **changes)

    def ends(self, pool: InferencePool[str], ticket: str = "film") -> Ended:
        give_up_at = time.monotonic() + WITHIN_S
        while time.monotonic() < give_up_at:
            for event in pool.poll(1.0):
                if not isinstance(event, Read):
                    assert event.ticket == ticket
                    return event
                pool.answer(event.ticket, known=False)
        raise AssertionError("it did not end in time")

    def outcome(self, pool: InferencePool[str], content: bytes = FILM) -> Ended:
        self.ready(pool).submit("film", self.job(content))
        return self.ends(pool)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for pool in bench.pools:
        pool.close()


def pid_of(pool: InferencePool[str]) -> int:
    (process,) = pool.processes
    return process.pid


# --------------------------------------------------------------------------- what it takes away, and what not


def test_every_codec_is_read_by_a_confined_process_without_a_refused_call(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    pool = bench.ready(bench.pool())
    assert pool.lacking == () or confinement.ESSENTIAL.isdisjoint(pool.lacking)
    status = Path(f"/proc/{pid_of(pool)}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    limits = Path(f"/proc/{pid_of(pool)}/limits").read_text()
    for limit in ("Max file size             0 ", "Max open files            64 ", "Max core file size        0 "):
        assert limit in limits
    pixels = phantoms.draw_chest(2, rows=300, columns=300)
    films = [
        phantoms.to_dicom(pixels, phantoms.Encoding(name, bits=8 if name == "jpeg-baseline" else 12))
        for name in (
            "explicit",
            "rle",
            "jpeg-baseline",
            "jpeg-lossless",
            "jpeg-ls",
            "jpeg-2000-lossless",
            "htj2k-lossless",
        )
    ]
    for content in (*films, phantoms.to_jpeg(pixels), phantoms.to_png(pixels)):
        first = pid_of(bench.ready(pool))
        bench.ready(pool).submit("film", replace(bench.job(content), threads=3))
        done = bench.ends(pool)
        assert isinstance(done, Done)
        assert done.report.outcome is Outcome.ASSESSED
        assert not done.report.preview_dropped
        assert previews.has_preview(bench.folder / "previews", str(done.report.sha256))
        assert pid_of(pool) == first
    assert [record for record in caplog.records if record.getMessage() == "slot_call_refused"] == []


@pytest.mark.parametrize(
    "what, lacking",
    [
        ("landlock", (confinement.LANDLOCK,)),
        ("seccomp", (confinement.SECCOMP,)),
        ("newer seccomp", (confinement.CALLS_UNTOLD,)),
        ("listener", (confinement.CALLS_UNTOLD,)),
    ],
)
def test_a_machine_that_lacks_something_says_so_and_reads_films_all_the_same(
    bench: Bench, what: str, lacking: tuple[str, ...]
) -> None:
    pool = bench.ready(bench.pool(command=bench.without(what)))
    assert set(lacking) <= set(pool.lacking)
    done = bench.outcome(pool)
    assert isinstance(done, Done)
    assert done.report.outcome is Outcome.ASSESSED


@pytest.mark.parametrize("what", ["landlock", "seccomp"])
def test_where_confinement_is_required_a_machine_that_lacks_it_starts_no_slot(bench: Bench, what: str) -> None:
    with pytest.raises(Unconfined, match=what if what == "seccomp" else "landlock"):
        bench.ready(bench.pool(command=bench.without(what), require_confinement=True))


def test_a_call_that_a_decoder_needs_and_does_not_get_shows_at_the_start(bench: Bench) -> None:
    pool = bench.pool(command=(sys.executable, "-P", "-m", "tests.programs.payload", "needs a file"))
    with pytest.raises(Unconfined, match="JPEG-LS"):
        bench.ready(pool)


# --------------------------------------------------------------------------- after a decoder failed


def damaged(name: str) -> bytes:
    """A film that is whole but for zeros amid its pixels, at which the decoder fails and nothing before it."""
    pixels = phantoms.draw_chest(3, rows=200, columns=200)
    whole = phantoms.to_png(pixels) if name == "png" else phantoms.to_dicom(pixels, phantoms.Encoding(name, bits=12))
    half = len(whole) // 2
    return whole[:half] + bytes(40) + whole[half + 40 :]


@pytest.mark.parametrize("name", ["jpeg-ls", "png"])
def test_a_process_in_which_a_decoder_failed_reads_no_other_film(bench: Bench, name: str) -> None:
    pool = bench.pool()
    first = pid_of(bench.ready(pool))
    done = bench.outcome(pool, damaged(name))
    assert isinstance(done, Done)
    assert (done.report.outcome, done.report.code) == (Outcome.UNREADABLE, "decode_failed")
    assert pool.processes == []
    assert isinstance(bench.outcome(pool), Done)
    assert pid_of(pool) != first
    assert pool.deaths == 0


def test_a_film_that_is_refused_before_any_decoder_runs_costs_no_process(bench: Bench) -> None:
    pool = bench.pool()
    first = pid_of(bench.ready(pool))
    for content in (b"no film at all", FILM[:-3000], damaged("png")[:-2000]):
        done = bench.outcome(pool, content)
        assert isinstance(done, Done)
        assert done.report.outcome is Outcome.UNREADABLE
        assert pid_of(pool) == first


# --------------------------------------------------------------------------- a share that hangs at opening


def test_a_share_that_hangs_while_a_film_is_opened_costs_one_slot(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    hangs, answers, now = threading.Event(), threading.Event(), [0.0]
    really_open = safe_read.open_observed_file

    def open_file(root: bytes, expected: Observation, max_bytes: int) -> tuple[int, os.stat_result]:
        if expected.path.endswith(b".stall"):
            hangs.set()
            answers.wait(WITHIN_S)
        return really_open(root, expected, max_bytes)

    monkeypatch.setattr(safe_read, "open_observed_file", open_file)
    pool = bench.ready(bench.pool(count=2, deadline_s=DEADLINE_S, clock=lambda: now[0]), 2)
    pool.submit("stalled", bench.job(name="film.stall"))
    pool.submit("film", bench.job())
    assert isinstance(bench.ends(pool, "film"), Done)
    assert hangs.wait(WITHIN_S)
    now[0] = DEADLINE_S
    fault = bench.ends(pool, "stalled")
    assert isinstance(fault, Fault)
    assert type(fault.error) is EnvironmentFault
    assert fault.late
    assert pool.hanging == 1
    answers.set()
    eventually(lambda: pool.poll(0.1) == [] and pool.hanging == 0)
    bench.ready(pool, 2)
    pool.submit("again", bench.job(name="film.stall"))
    assert isinstance(bench.ends(pool, "again"), Done)


def test_a_share_that_hangs_when_it_is_looked_at_again_is_at_fault_and_not_the_film(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, answers = threading.Event(), threading.Event()

    def check_unchanged(*_: object) -> None:
        hangs.set()
        answers.wait(WITHIN_S)

    monkeypatch.setattr(safe_read, "check_file_unchanged", check_unchanged)
    pool = bench.ready(bench.pool(deadline_s=DEADLINE_S, clock=lambda: DEADLINE_S if hangs.is_set() else 0.0))
    pool.submit("film", bench.job())
    fault = bench.ends(pool)
    answers.set()
    assert isinstance(fault, Fault)
    assert fault.late
    assert not (bench.folder / "previews").exists()


# --------------------------------------------------------------------------- what comes back is looked at


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    at=st.integers(0, 10**6),
    change=st.integers(1, 255),
)
def test_of_a_preview_that_was_touched_none_is_kept(rows: int, columns: int, at: int, change: int) -> None:
    pixels: PixelArray = phantoms.draw_chest(1, rows=96, columns=96)[:rows, :columns]
    content = encode_preview(pixels)
    assert previews.is_preview_png(content)
    touched = bytearray(content)
    touched[at % len(touched)] ^= change
    assert not previews.is_preview_png(bytes(touched))
    assert not previews.is_preview_png(content[:-1])
    assert not previews.is_preview_png(content + b"\0")


@given(content=st.binary(max_size=200))
def test_any_bytes_may_be_asked_about(content: bytes) -> None:
    assert not previews.is_preview_png(content)
    assert not previews.is_preview_png(previews.PNG_START + content)


def test_a_preview_larger_than_any_is_none() -> None:
    pixels: PixelArray = phantoms.draw_chest(1, rows=1024, columns=1024)
    content = encode_preview(pixels)
    assert previews.is_preview_png(content)
    assert len(content) < previews.MAX_BYTES
    assert not previews.is_preview_png(content.replace((1024).to_bytes(4, "big"), (1025).to_bytes(4, "big")))


# --------------------------------------------------------------------------- a decoder that was taken over


@pytest.fixture(scope="module")
def taken_over(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, str], Path]:
    """What each attempt came to; see ``tests/programs/payload.py``."""
    folder = tmp_path_factory.mktemp("lab")
    with payload.lab_in(folder) as lab:
        reached, ends = payload.run(lab, confined=True)
    return reached, ends, folder


def test_a_decoder_that_was_taken_over_reaches_nothing(taken_over: tuple[dict[str, str], dict[str, str], Path]) -> None:
    reached, ends, folder = taken_over
    assert {what: said for what, said in reached.items() if said} == {}
    assert {what: said for what, said in ends.items() if said != "SIGSYS"} == {}
    assert sorted(os.listdir(folder)) == ["heard", "preread.db", "share", "socket"]
    assert sorted(os.listdir(folder / "share")) == ["another patient.dcm", "film"]
    assert (folder / "heard").read_text() == "0"
    assert (folder / "preread.db").read_bytes() == b"SQLite format 3\0"


def test_the_documents_list_every_attempt(taken_over: tuple[dict[str, str], dict[str, str], Path]) -> None:
    reached, ends, _ = taken_over
    assert payload.rows(reached, ends) in (REPOSITORY / "docs" / "explanation" / "security.md").read_text()


def test_the_same_attempts_reach_much_where_nothing_is_confined(tmp_path: Path) -> None:
    with payload.lab_in(tmp_path) as lab:
        reached, _ = payload.run(lab, confined=False, ends=False)
    assert {
        "read the worker's environment",
        "open the database to write",
        "write a file into the share",
        "read another patient's image",
        "start a shell",
        "fork",
        "signal the worker",
        "write executable code",
    } <= {what for what, said in reached.items() if said}


def test_refused_calls_are_named_once_and_too_many_end_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with payload.lab_in(tmp_path) as lab:
        event = payload.insist(lab)
    assert isinstance(event, Lost)
    assert isinstance(event.error, SlotCrashed)
    assert "system calls that are refused" in str(event.error)
    assert [record.call for record in caplog.records if record.getMessage() == "slot_call_refused"] == ["openat"]  # type: ignore[attr-defined]
