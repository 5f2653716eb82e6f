"""Real child processes: whatever a film does to its slot, it costs that film only."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preread.core.errors import (
    BundleDamaged,
    BundleMismatch,
    EnvironmentFault,
    FileChanged,
    FileVanished,
    SlotCrashed,
    SlotMemory,
)
from preread.core.study_header import ELEMENT_BYTES_MAX, HEADER_BYTES_MAX
from preread.core.types import Caveat, Outcome, Population
from preread.model import bundles
from preread.model.bundles import Bundle
from preread.runner.child import protocol
from preread.runner.child.protocol import Job, Setup
from preread.runner.pool import COMMAND, SPAWN_PAUSE_S, Done, Fault, InferencePool, Lost, Read
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding
from tests.support.paths import STUB_SLOT

WITHIN_S = 120.0
DEADLINE_S = 1000.0  # on a clock that the test moves
MIB = 1024 * 1024
FILM = phantoms.to_jpeg(phantoms.draw_chest(1, rows=96, columns=96))


class Bench:
    """A pool of stub slots and a folder of films."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self.folder = folder
        self.inferences = folder.parent / "inferences"
        self.setup = Setup(
            bundle=protocol.path_to_text(os.fsencode(bundle.path)),
            digest=bundle.digest,
            memory_bytes=2048 * MIB,
            max_file_bytes=MIB,
            max_pixels=64_000_000,
            parent_pid=os.getpid(),
        )
        self.pools: list[InferencePool[str]] = []

    def pool(self, count: int = 1, deadline_s: float = 60.0, **changes: Any) -> InferencePool[str]:
        """A pool whose slots are ready."""
        command = changes.pop("command", (sys.executable, "-P", str(STUB_SLOT), str(self.inferences)))
        clock = changes.pop("clock", time.monotonic)
        pool: InferencePool[str] = InferencePool(
            replace(self.setup, **changes), count=count, deadline_s=deadline_s, command=command, clock=clock
        )
        self.pools.append(pool)
        return pool

    def ready(self, pool: InferencePool[str], count: int = 1) -> None:
        give_up_at = time.monotonic() + WITHIN_S
        while pool.idle < count and time.monotonic() < give_up_at:
            assert pool.poll(1.0) == []
        assert pool.idle == count

    def film(self, name: str | bytes, content: bytes = FILM, **changes: Any) -> Job:
        path = os.fsencode(name)
        full = os.path.join(os.fsencode(self.folder), path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        Path(os.fsdecode(full)).write_bytes(content)
        status = os.stat(full)
        job = Job(
            root=protocol.path_to_text(os.fsencode(self.folder)),
            path=protocol.path_to_text(path),
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            population=Population.CHILDREN_1_5Y,
            path_pattern=None,
        )
        return replace(job, **changes)

    def outcome(self, pool: InferencePool[str], job: Job, *, known: bool = False) -> Done[str] | Fault[str] | Lost[str]:
        """Take one film to its end."""
        self.ready(pool)
        pool.submit("the film", job)
        return self.wait(pool, known=known)["the film"]

    def wait(
        self, pool: InferencePool[str], count: int = 1, *, known: bool = False
    ) -> dict[str, Done[str] | Fault[str] | Lost[str]]:
        ended: dict[str, Done[str] | Fault[str] | Lost[str]] = {}
        give_up_at = time.monotonic() + WITHIN_S
        while len(ended) < count and time.monotonic() < give_up_at:
            for event in pool.poll(1.0):
                if isinstance(event, Read):
                    pool.answer(event.ticket, known=known)
                else:
                    ended[event.ticket] = event
        return ended


@pytest.fixture
def bench(tmp_path: Path, stub_bundle: Bundle) -> Iterator[Bench]:
    (tmp_path / "films").mkdir()
    bench = Bench(tmp_path / "films", stub_bundle)
    yield bench
    for pool in bench.pools:
        pool.close()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, stub_bundle: Bundle) -> Iterator[InferencePool[str]]:
    """A pool of one slot, for all tests that leave it alive: a job names its folder itself."""
    folder = tmp_path_factory.mktemp("lasting")
    pool = Bench(folder / "films", stub_bundle).pool()
    yield pool
    pool.close()


# --------------------------------------------------------------------------- what it answers


def test_a_film_is_assessed(bench: Bench, lasting: InferencePool[str]) -> None:
    done = bench.outcome(lasting, bench.film(b"2026/\xff.jpg"))
    assert isinstance(done, Done)
    report = done.report
    assert (report.outcome, report.format, report.rows, report.columns) == (Outcome.ASSESSED, "JPEG", 96, 96)
    assert Caveat.AGE_DECLARED in report.gate_caveats
    assert Caveat.UNIDENTIFIED in report.gate_caveats
    content = report.assessment()
    assert content is not None
    assert content.activation_map.shape == (7, 7)
    assert content.findings[0].finding == "pneumonia"


def test_large_films_of_every_codec_are_read_one_after_the_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a whole slot: a codec that holds smaller copies of a film has decoders of its own for them."""
    monkeypatch.setattr("preread.runner.pool.MOST", 4)
    bundle = bundles.load_bundle(bundles.find_bundle())
    name = protocol.path_to_text(os.fsencode(bundle.path.resolve()))
    changes: dict[str, Any] = {"bundle": name, "digest": bundle.digest, "max_file_bytes": 64 * MIB}
    pool = bench.pool(command=COMMAND, **changes)
    drawn = phantoms.draw_chest(3, rows=520, columns=524).repeat(4, axis=0).repeat(4, axis=1)
    syntaxes = ("jpeg-2000", "jpeg-2000-lossless", "htj2k-lossless", "jpeg-ls", "jpeg-lossless", "rle", "explicit")
    films = {syntax: phantoms.to_dicom(drawn, Encoding(syntax)) for syntax in syntaxes}
    for round_ in range(3):
        for syntax, content in films.items():
            done = bench.outcome(pool, bench.film(f"{syntax} {round_}", content, threads=2))
            assert isinstance(done, Done), (syntax, done)
            assert done.report.outcome is Outcome.ASSESSED
            assert pool.idle == 1


def test_a_picture_that_is_no_chest_film_is_refused_by_its_pixels(bench: Bench, lasting: InferencePool[str]) -> None:
    """The stub's detector refuses what is nearly all white."""
    white = np.full((96, 96), 255, np.uint8)
    white[::8] = 240
    done = bench.outcome(lasting, bench.film("white.png", phantoms.to_png(white)))
    assert isinstance(done, Done)
    assert (done.report.outcome, done.report.code) == (Outcome.REFUSED, "not_chest")
    assert "frontal chest radiograph" in done.report.reason
    assert done.report.assessment() is None


def test_known_bytes_are_not_assessed_again(bench: Bench) -> None:
    pool = bench.pool()
    first = bench.outcome(pool, bench.film("film"))
    again = bench.outcome(pool, bench.film("copy"), known=True)
    assert isinstance(first, Done)
    assert isinstance(again, Done)
    assert again.report.outcome is Outcome.ASSESSED
    assert again.report.content is None
    assert again.report.sha256 == first.report.sha256
    assert again.report.gate_caveats == first.report.gate_caveats
    assert len(bench.inferences.read_text().split()) == 1


def test_known_bytes_are_still_screened(bench: Bench, lasting: InferencePool[str]) -> None:
    done = bench.outcome(lasting, bench.film("film", population=Population.UNDECLARED), known=True)
    assert isinstance(done, Done)
    assert (done.report.outcome, done.report.code) == (Outcome.REFUSED, "age_unknown")


def test_the_path_may_name_the_patient(bench: Bench, lasting: InferencePool[str]) -> None:
    done = bench.outcome(lasting, bench.film("P77/film.jpg", path_pattern="{patient_id}/*.jpg"))
    assert isinstance(done, Done)
    assert done.report.identity.patient_id == "P77"
    assert Caveat.UNIDENTIFIED not in done.report.gate_caveats


@pytest.mark.parametrize(
    "content,code",
    [
        (b"", "empty"),
        (b"just text", "unknown_format"),
        (FILM[: len(FILM) // 2], "truncated"),
        (b"\0" * (MIB + 1), "too_many_bytes"),
    ],
)
def test_bytes_at_fault_have_their_code(bench: Bench, lasting: InferencePool[str], content: bytes, code: str) -> None:
    done = bench.outcome(lasting, bench.film("film.dcm", content))
    assert isinstance(done, Done)
    assert (done.report.outcome, done.report.code) == (Outcome.UNREADABLE, code)
    assert (done.report.facts(Population.UNDECLARED) is None) == (code == "too_many_bytes")


def of_one_level(*, brightest: int, share: float) -> bytes:
    """A film of 600 px a side at grey level 100 but for a corner."""
    pixels = np.full((600, 600), 100, np.uint8)
    side = max(1, round(600 * share))
    pixels[:side, :side] = brightest
    return phantoms.to_png(pixels)


@pytest.mark.parametrize("brightest, share, blank", [(107, 0.5, True), (108, 0.5, False), (108, 0.0, False)])
def test_a_film_is_blank_where_all_its_own_pixels_are_alike(
    bench: Bench, lasting: InferencePool[str], brightest: int, share: float, blank: bool
) -> None:
    """A single pixel, which nothing smaller shows, is enough."""
    done = bench.outcome(lasting, bench.film("film", of_one_level(brightest=brightest, share=share)))
    assert isinstance(done, Done)
    assert (done.report.code == "blank") == blank
    assert ("100 and 107" in done.report.reason) == blank


def test_a_damaged_film_still_belongs_to_its_patient(bench: Bench, lasting: InferencePool[str]) -> None:
    whole = phantoms.to_dicom(phantoms.draw_chest(2, rows=96, columns=96), PatientID="P12")
    done = bench.outcome(lasting, bench.film("film", whole[:-3000]))
    assert isinstance(done, Done)
    assert (done.report.outcome, done.report.code) == (Outcome.UNREADABLE, "truncated")
    assert done.report.identity.patient_id == "P12"


def test_the_header_comes_with_every_outcome(bench: Bench) -> None:
    pool = bench.pool()
    tags: dict[str, Any] = {"PatientName": "Doe^Jane", "StudyID": "77", "StudyDate": None}
    tags["PatientBirthDate"] = "20210110"
    chest = phantoms.to_dicom(phantoms.draw_chest(2, rows=96, columns=96), **tags)
    lateral = phantoms.to_dicom(phantoms.draw_chest(2, rows=96, columns=96), ViewPosition="LL", **tags)
    for known, content, outcome in (
        (False, chest, Outcome.ASSESSED),
        (True, chest, Outcome.ASSESSED),
        (False, lateral, Outcome.REFUSED),
        (False, chest[:-3000], Outcome.UNREADABLE),
    ):
        done = bench.outcome(pool, bench.film("film", content), known=known)
        assert isinstance(done, Done)
        facts = done.report.facts(Population.UNDECLARED)
        assert facts is not None
        assert (done.report.outcome, done.report.identity.study_date) == (outcome, None)
        assert facts.study_header is not None
        assert (facts.study_header.text("StudyID"), facts.study_header.text("StudyDate")) == ("77", None)
    done = bench.outcome(pool, bench.film("film.jpg"))
    assert isinstance(done, Done)
    assert done.report.study_header is None


@pytest.mark.parametrize(
    "header",
    [
        {"elements": json.dumps({"00104000": {"vr": "LT", "Value": ["a comment"]}})},
        {"elements": json.dumps({"00100010": {"vr": "PN", "Value": ["x" * ELEMENT_BYTES_MAX]}})},
        {"elements": " " * HEADER_BYTES_MAX + "{}"},
        {"elements": "[" * HEADER_BYTES_MAX},
        {"elements": "{}", "left_out": ["Doe^Jane"]},
    ],
)
def test_a_header_beyond_its_limits_is_no_message(header: dict[str, Any]) -> None:
    """A process has read hostile bytes: the worker believes none of it unchecked."""
    report = {"outcome": "refused", "sha256": "0" * 64}
    said = json.dumps({"kind": "done", "report": report | {"study_header": {"elements": "{}"}}}).encode()
    assert protocol.decode_reply(said).report is not None
    with pytest.raises(ValueError, match="study_header"):
        protocol.decode_reply(json.dumps({"kind": "done", "report": report | {"study_header": header}}).encode())


def test_a_change_after_the_look_is_a_fault_of_nobody(bench: Bench, lasting: InferencePool[str]) -> None:
    job = bench.film("film")
    bench.film("film", FILM + b"more")
    fault = bench.outcome(lasting, job)
    assert isinstance(fault, Fault)
    assert type(fault.error) is FileChanged
    (bench.folder / "film").unlink()
    fault = bench.outcome(lasting, job)
    assert isinstance(fault, Fault)
    assert type(fault.error) is FileVanished
    assert lasting.deaths == 0


def test_a_change_during_the_work_is_seen(bench: Bench, lasting: InferencePool[str]) -> None:
    bench.ready(lasting)
    lasting.submit("the film", bench.film("film"))
    (event,) = lasting.poll(WITHIN_S)
    assert isinstance(event, Read)
    bench.film("film", FILM + b"more")
    lasting.answer("the film", known=False)
    fault = bench.wait(lasting)["the film"]
    assert isinstance(fault, Fault)
    assert type(fault.error) is FileChanged


def test_printing_does_not_reach_the_worker(bench: Bench, lasting: InferencePool[str]) -> None:
    assert isinstance(bench.outcome(lasting, bench.film("film", FILM + b"PRINT")), Done)


def test_decoders_hear_how_many_threads_a_film_may_use(bench: Bench) -> None:
    broke = bench.outcome(bench.pool(), bench.film("film", FILM + b"THREADS", threads=3))
    assert isinstance(broke, Lost)
    assert "ended with code 3" in str(broke.error)


# --------------------------------------------------------------------------- what kills it


@pytest.mark.parametrize(
    "trick,kind,says",
    [
        (b"CRASH", SlotCrashed, "SIGSEGV"),
        (b"ABORT", SlotCrashed, "SIGABRT"),
        (b"LEAVE", SlotCrashed, "ended with code 0"),
        (b"EAT", SlotMemory, "memory"),
        (b"RAISE", SlotCrashed, "KeyError"),
        (b"BABBLE", SlotCrashed, "invalid message"),
    ],
)
def test_a_slot_that_dies_costs_its_film_only(bench: Bench, trick: bytes, kind: type[Exception], says: str) -> None:
    pool = bench.pool()
    broke = bench.outcome(pool, bench.film("bad", FILM + trick))
    assert isinstance(broke, Lost)
    assert type(broke.error) is kind
    assert says in str(broke.error)
    assert "patient" not in str(broke.error)
    assert isinstance(bench.outcome(pool, bench.film("good")), Done)
    assert pool.deaths == 1


def test_a_film_that_hangs_is_killed_at_its_deadline_and_holds_nobody_up(bench: Bench) -> None:
    now = [0.0]
    pool = bench.pool(count=2, deadline_s=DEADLINE_S, clock=lambda: now[0])
    bench.ready(pool, 2)
    pool.submit("bad", bench.film("bad", FILM + b"HANG"))
    (event,) = pool.poll(WITHIN_S)
    assert isinstance(event, Read)
    pool.answer("bad", known=False)
    for number in range(3):
        pool.submit(f"good{number}", bench.film(f"good{number}", FILM + bytes([number])))
        ended = bench.wait(pool)
        assert list(ended) == [f"good{number}"]
        assert pool.in_flight == ["bad"]
    now[0] = DEADLINE_S
    broke = bench.wait(pool)["bad"]
    assert isinstance(broke, Lost)
    assert broke.error.code == "slot_deadline"
    assert broke.sha256 == hashlib.sha256(FILM + b"HANG").hexdigest()


def late(bench: Bench, word: bytes, until: Callable[[int], bool]) -> Lost[str]:
    """Return how a film ends whose deadline passes when a condition on its process holds."""
    now = [0.0]
    pool = bench.pool(deadline_s=DEADLINE_S, clock=lambda: now[0])
    assert isinstance(bench.outcome(pool, bench.film("before")), Done)
    bench.ready(pool)
    (process,) = pool.processes
    pool.submit("late", bench.film("late", FILM + word))
    (event,) = pool.poll(WITHIN_S)
    assert isinstance(event, Read)
    pool.answer("late", known=False)
    give_up_at = time.monotonic() + WITHIN_S
    while not until(process.pid):
        assert pool.poll(0.02) == []
        assert time.monotonic() < give_up_at
    now[0] = DEADLINE_S
    broke = bench.wait(pool)["late"]
    assert isinstance(broke, Lost)
    assert broke.error.code == "slot_deadline"
    return broke


def computed_s(pid: int) -> float:
    """Processor seconds of a process: utime and stime of proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_film_that_is_late_and_had_a_processor_is_known_by_it(bench: Bench) -> None:
    seen: list[float] = []

    def has_computed(pid: int) -> bool:
        seen.append(computed_s(pid))
        return seen[-1] - seen[0] >= 0.5

    assert 0.5 <= late(bench, b"SPIN", has_computed).computed_s <= 6.5


def test_a_film_that_is_late_and_had_no_processor_is_known_by_it(bench: Bench) -> None:
    def hangs(pid: int) -> bool:
        (blocked,) = re.findall(r"^SigBlk:\s+(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return bool(int(blocked, 16) >> (signal.SIGTERM - 1) & 1)

    assert 0.0 <= late(bench, b"HANG", hangs).computed_s <= 0.3


def test_what_a_slot_has_held_for_long_is_known(bench: Bench) -> None:
    now = [0.0]
    pool = bench.pool(count=2, deadline_s=1000.0, clock=lambda: now[0])
    bench.ready(pool, 2)
    assert pool.held_for(0.0) == []
    pool.submit("first", bench.film("bad", FILM + b"HANG"))
    now[0] = 5.0
    pool.submit("second", bench.film("worse", FILM + b"HANG2HANG"))
    assert pool.held_for(5.0) == ["first"]
    assert pool.held_for(5.1) == []


def test_a_share_that_does_not_hand_out_a_film_is_at_fault_and_not_the_film(bench: Bench) -> None:
    hang = bench.folder.with_name("films.hang")
    hang.touch()
    now = [0.0]
    pool = bench.pool(deadline_s=DEADLINE_S, clock=lambda: now[0])
    bench.ready(pool)
    pool.submit("the film", bench.film("film.stall"))
    assert pool.poll(0.1) == []
    now[0] = DEADLINE_S
    fault = bench.wait(pool)["the film"]
    assert isinstance(fault, Fault)
    assert type(fault.error) is EnvironmentFault
    assert fault.late
    assert pool.deaths == 1
    hang.unlink()
    assert isinstance(bench.outcome(pool, bench.film("film.stall")), Done)


def test_a_slot_that_dies_idle_is_replaced(bench: Bench) -> None:
    pool = bench.pool()
    bench.ready(pool)
    os.kill(pool.processes[0].pid, signal.SIGKILL)
    assert pool.poll(WITHIN_S) == []
    assert isinstance(bench.outcome(pool, bench.film("film")), Done)


def test_signals_for_the_worker_do_not_end_a_slot(bench: Bench) -> None:
    pool = bench.pool()
    bench.ready(pool)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pool.processes[0].pid, number)
    assert isinstance(bench.outcome(pool, bench.film("film")), Done)
    assert pool.deaths == 0


# --------------------------------------------------------------------------- how it starts and ends


def test_a_damaged_network_is_named(bench: Bench) -> None:
    """The stub bundle holds no network: the real slot says so."""
    pool = bench.pool(command=COMMAND)
    with pytest.raises(BundleDamaged):
        bench.ready(pool)


def test_a_bundle_that_was_exchanged_is_named(bench: Bench) -> None:
    pool = bench.pool(command=COMMAND, digest="0" * 64)
    with pytest.raises(BundleMismatch):
        bench.ready(pool)


def test_too_little_memory_to_start_ends_the_attempts(bench: Bench) -> None:
    pool = bench.pool(memory_bytes=64 * MIB)
    with pytest.raises((SlotCrashed, SlotMemory)):
        bench.ready(pool)


def test_a_machine_without_room_for_a_process_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now, refused = [0.0], [0]
    really_popen = subprocess.Popen

    def popen(*arguments: Any, **options: Any) -> Any:
        if now[0] < 3 * SPAWN_PAUSE_S:
            refused[0] += 1
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return really_popen(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    pool = bench.pool(count=2, clock=lambda: now[0])
    while now[0] < 3 * SPAWN_PAUSE_S:
        assert pool.poll(0.0) == []
        now[0] += 0.5
    assert refused[0] == 3
    bench.ready(pool, 2)


def test_slots_that_die_at_the_start_are_not_started_for_ever(bench: Bench) -> None:
    pool = bench.pool(command=(sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(SlotCrashed, match="3 inference processes in a row"):
        bench.ready(pool)


def test_a_slot_is_confined(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, no descriptors but its pipes, no core file, a memory limit, first to go."""
    monkeypatch.setenv("PREREAD_DATABASE_URL", "postgresql://user:secret@host/db")
    kept_open = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(kept_open, True)
    pool = bench.pool()
    bench.ready(pool)
    os.close(kept_open)
    process = Path("/proc") / str(pool.processes[0].pid)
    assert b"secret" not in (process / "environ").read_bytes()
    limits = (process / "limits").read_text()
    assert f"Max address space         {2048 * MIB}" in limits
    assert "Max core file size        0" in limits
    assert (process / "oom_score_adj").read_text().strip() == "1000"
    targets = [os.readlink(path) for path in (process / "fd").iterdir()]
    assert sorted({target.split(":")[0] for target in targets}) == ["/dev/null", "pipe", "socket"]
    assert os.getpgid(int(process.name)) == int(process.name)


def test_closing_ends_every_slot(bench: Bench) -> None:
    pool = bench.pool(count=2)
    bench.ready(pool, 2)
    pool.submit("bad", bench.film("bad", FILM + b"HANG"))
    pids = [process.pid for process in pool.processes]
    pool.close()
    bench.pools.clear()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_film_does_not_answer_for_a_slot_that_died_while_it_waited(bench: Bench) -> None:
    pool = bench.pool()
    bench.ready(pool)
    pool.processes[0].kill()
    pool.processes[0].wait(WITHIN_S)
    pool.submit("the film", bench.film("film"))
    fault = bench.wait(pool)["the film"]
    assert isinstance(fault, Fault)
    assert (fault.error.code, str(fault.error)[-23:]) == ("environment", "before it had its bytes")
    assert isinstance(bench.outcome(pool, bench.film("film")), Done)


def test_a_film_that_need_not_be_asked_about_is_assessed_at_once_and_answers_for_its_slot(bench: Bench) -> None:
    pool = bench.pool()
    bench.ready(pool)
    for name, content, ends in (("film", FILM, Done), ("bad", FILM + b"ABORT", Lost), ("after", FILM, Done)):
        bench.ready(pool)
        pool.submit(name, bench.film(name, content, ask=False))
        give_up_at = time.monotonic() + WITHIN_S
        while not (events := pool.poll(1.0)):
            assert time.monotonic() < give_up_at
        assert [(type(event), event.ticket) for event in events] == [(ends, name)]


def test_slots_that_die_while_they_start_are_tried_again_once_any_was_ready(
    bench: Bench, tmp_path: Path, eventually: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """A machine that is out of memory for a while kills what starts; that is no fault of the bundle."""
    out_of_memory = tmp_path / "out of memory"
    program = tmp_path / "slot.py"
    stub = [sys.executable, "-P", str(STUB_SLOT), str(bench.inferences)]
    program.write_text(
        f"import os, sys\nif os.path.exists({str(out_of_memory)!r}):\n    os.abort()\nos.execv({stub[0]!r}, {stub!r})\n"
    )
    pool = bench.pool(command=(sys.executable, str(program)))
    bench.ready(pool)
    out_of_memory.touch()
    pool.processes[0].kill()
    eventually(lambda: pool.poll(0.1) == [] and pool.deaths >= 5, WITHIN_S)
    assert [record.getMessage() for record in caplog.records].count("slot_lost") == pool.deaths
    out_of_memory.unlink()
    bench.ready(pool)


def test_slots_end_with_a_worker_that_is_killed(bench: Bench, eventually: Callable[..., None]) -> None:
    """Neither an idle slot nor one that hangs in a film may outlive its worker."""
    job = bench.film("bad", FILM + b"HANG")
    program = textwrap.dedent(
        f"""
        import json, os, sys
        from dataclasses import replace
        from preread.runner.child import protocol as m
        from preread.runner.pool import InferencePool
        setup = m.decode_setup({protocol.encode_message(bench.setup)!r})
        pool = InferencePool(replace(setup, parent_pid=os.getpid()), count=2, deadline_s=600,
                        command={(sys.executable, "-P", str(STUB_SLOT), str(bench.inferences))!r})
        while pool.idle < 2:
            pool.poll(1)
        pool.submit("bad", m.decode_job({protocol.encode_message(job)!r}))
        pool.poll(60)
        pool.answer("bad", known=False)
        print(json.dumps([process.pid for process in pool.processes]), flush=True)
        sys.stdin.read()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=STUB_SLOT.parent.parent.parent,
    ) as worker:
        assert worker.stdout is not None
        pids = json.loads(worker.stdout.readline())
        worker.kill()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
