"""Every file of a folder ends in a named outcome, whatever lies in it, and the files beside it are unaffected."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from preread.core.errors import BundleMismatch, BundleMissing, FileLocked, FileVanished, NotAFile, SlotCrashed
from preread.core.jsonable import reversible_path
from preread.core.settings import Settings
from preread.core.types import Answer, Caveat, Declared, Outcome, Population
from preread.imaging.radiograph import ImageLimits
from preread.model.bundles import Bundle
from preread.runner import pool
from preread.runner.assess_files import ASSUME_AGE, InputFile, Processes, assess_files, find_files, locate_input_file
from preread.runner.child.protocol import Job
from preread.runner.pool import InferencePool
from preread_training.data import phantoms
from tests.support.paths import STUB_SLOT

NOT_UTF8 = b"caf\xe9.jpg"


@pytest.fixture
def run(brightness_classifier: Any, brightness_slots: Any) -> Any:
    def assess(*paths: Any, declared: Any = ASSUME_AGE, **options: Any) -> Any:
        return list(assess_files(paths, brightness_classifier.bundle, declared, Processes(2, **options)))

    return assess


def by_name(results: Any) -> Any:
    return {os.fsencode(os.path.basename(result.path)): result for result in results}


def test_a_hostile_folder_ends_in_named_outcomes(tmp_path: Path, run: Any, jpeg: Callable[..., bytes]) -> None:
    folder = tmp_path / "films"
    (folder / "sub").mkdir(parents=True)
    (folder / "good.jpg").write_bytes(jpeg(230))
    (folder / "sub" / "good-too.bin").write_bytes(jpeg(20))
    (folder / "empty.dcm").touch()
    (folder / "text.dcm").write_text("this is no film\n" * 50)
    (folder / "cut.jpg").write_bytes(jpeg()[:700])
    os.mkfifo(folder / "pipe.dcm")
    (tmp_path / "outside.jpg").write_bytes(jpeg())
    os.symlink(tmp_path / "outside.jpg", folder / "link.jpg")
    os.symlink(folder, folder / "loop")
    (folder / os.fsdecode(NOT_UTF8)).write_bytes(jpeg(230))
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # a socket's address may have some hundred bytes only
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
        found = by_name(run(folder))
    assert {name: (result.outcome.value, result.code) for name, result in found.items()} == {
        b"good.jpg": ("assessed", None),
        b"good-too.bin": ("assessed", None),
        NOT_UTF8: ("assessed", None),
        b"empty.dcm": ("unreadable", "empty"),
        b"text.dcm": ("unreadable", "unknown_format"),
        b"cut.jpg": ("unreadable", "truncated"),
        b"pipe.dcm": ("unreadable", "not_a_file"),
        b"socket": ("unreadable", "not_a_file"),
        b"link.jpg": ("unreadable", "not_a_file"),
        b"loop": ("unreadable", "not_a_file"),
    }
    assert all(result.judged for result in found.values())
    assert all(result.reason for result in found.values() if result.code)
    assert found[b"good.jpg"].findings[0].answer is Answer.FLAGGED
    assert found[b"good-too.bin"].findings[0].answer is Answer.NOT_FLAGGED


def test_a_record_is_complete_and_is_json(tmp_path: Path, run: Any, jpeg: Callable[..., bytes]) -> None:
    (tmp_path / os.fsdecode(NOT_UTF8)).write_bytes(jpeg(230))
    (result,) = run(tmp_path)
    record = json.loads(json.dumps(result.to_json()))
    assert set(record) == {
        "path", "sha256", "outcome", "code", "reason", "findings", "caveats", "tags", "bundle", "ms",
    }  # fmt: skip
    assert record["path"] == f"{tmp_path}/caf\\xe9.jpg"
    assert set(record["findings"][0]) == {"finding", "probability", "prevalence", "answer", "predictive_values"}
    assert record["bundle"] == "brightness/1.0.0"
    assert len(record["sha256"]) == 64
    assert record["ms"] > 0


def test_an_unknown_age_is_assumed_and_said(tmp_path: Path, run: Any, jpeg: Callable[..., bytes]) -> None:
    (tmp_path / "film.jpg").write_bytes(jpeg())
    (result,) = run(tmp_path)
    assert Caveat.AGE_ASSUMED in result.caveats
    assert Caveat.NO_TAGS in result.caveats
    (result,) = run(tmp_path, declared=Declared())
    assert (result.outcome, result.code) == (Outcome.REFUSED, "age_unknown")
    (result,) = run(tmp_path, declared=Declared(Population.CHILDREN_1_5Y))
    assert Caveat.AGE_DECLARED in result.caveats


def test_a_grown_patient_is_refused_and_assessed_for_research_with_a_caveat(run: Any) -> None:
    film = get_testdata_file("RG1_UNCR.dcm", download=False)
    (result,) = run(film)
    assert (result.outcome, result.code) == (Outcome.REFUSED, "age_outside")
    assert result.findings == ()
    (result,) = run(film, declared=Declared(Population.RESEARCH, assume_age=True))
    assert result.outcome is Outcome.ASSESSED
    assert Caveat.OUTSIDE_INTENDED_AGE in result.caveats


def test_files_come_in_the_order_of_their_names_and_each_once(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a", "c"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    relative = [os.path.relpath(found.path, tmp_path) for found in find_files([tmp_path])]
    assert sorted(relative) == ["a", "b/1", "b/2", "c"]
    assert relative == [os.path.relpath(found.path, tmp_path) for found in find_files([tmp_path])]
    assert relative.index("b/1") < relative.index("b/2")


def test_a_path_that_does_not_exist_is_a_result_that_was_not_judged(tmp_path: Path, run: Any) -> None:
    (result,) = run(tmp_path / "missing.dcm")
    assert (result.outcome, result.code, result.judged) == (Outcome.UNREADABLE, "vanished", False)
    assert result.sha256 is None


def test_a_link_that_was_named_is_followed(tmp_path: Path, run: Any, jpeg: Callable[..., bytes]) -> None:
    (tmp_path / "film.jpg").write_bytes(jpeg())
    os.symlink(tmp_path / "film.jpg", tmp_path / "link")
    (result,) = run(tmp_path / "link")
    assert result.outcome is Outcome.ASSESSED


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stub_bundle: Bundle) -> Any:
    """Films that break their process, each with a good one behind it, and that process's command."""
    command = (sys.executable, "-P", str(STUB_SLOT), str(tmp_path / "inferences"))
    monkeypatch.setattr(pool, "COMMAND", command)
    folder = tmp_path / "films"
    folder.mkdir()
    film = phantoms.to_jpeg(phantoms.draw_chest(1, rows=96, columns=96))
    for word in ("ABORT", "BABBLE", "CRASH", "EAT", "HANG", "LEAVE", "PRINT", "RAISE"):
        (folder / f"{word}.jpg").write_bytes(film + word.encode())
        (folder / f"{word}.jpg.good").write_bytes(film)
    return folder


def test_a_film_that_breaks_its_process_costs_that_film_alone(hostile: Any, stub_bundle: Bundle) -> None:
    results = list(assess_files([hostile], stub_bundle, ASSUME_AGE, Processes(2, deadline_s=5.0)))
    assert [os.path.basename(one.path) for one in results] == sorted(os.listdir(hostile))
    good = {one for one in results if one.path.endswith(("good", "PRINT.jpg"))}
    assert {(one.outcome, one.judged) for one in good} == {(Outcome.ASSESSED, True)}
    assert {os.path.basename(one.path): (one.outcome.value, one.code, one.judged) for one in set(results) - good} == {
        "ABORT.jpg": ("unreadable", "slot_crashed", False),
        "BABBLE.jpg": ("unreadable", "slot_crashed", False),
        "CRASH.jpg": ("unreadable", "slot_crashed", False),
        "EAT.jpg": ("unreadable", "slot_memory", False),
        "HANG.jpg": ("unreadable", "slot_deadline", False),
        "LEAVE.jpg": ("unreadable", "slot_crashed", False),
        "RAISE.jpg": ("unreadable", "slot_crashed", False),
    }
    assert all("patient" not in (one.reason or "") for one in results)
    assert len({one.sha256 for one in results}) == 9, "each is named with its content"


def test_ctrl_c_ends_the_command_and_its_processes(
    hostile: Any, stub_bundle: Bundle, eventually: Callable[..., None]
) -> None:
    for name in os.listdir(hostile):
        if not name.startswith("HANG"):
            (hostile / name).unlink()
    (hostile / "A.jpg").write_bytes((hostile / "HANG.jpg.good").read_bytes())
    # a run of the tests in the background ignores the signal, and what it starts does too
    imports = "import signal, sys; from preread import cli; from preread.runner import pool; "
    imports += "signal.signal(2, signal.default_int_handler)"
    program = f"{imports}; pool.COMMAND = {pool.COMMAND!r}; sys.exit(cli.main(['assess', '.', '--json']))"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=hostile,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PREREAD_BUNDLE": str(stub_bundle.path), "PYTHONUNBUFFERED": "1", "PREREAD_SLOTS": "2"},
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        assert json.loads(command.stdout.readline())["outcome"] == "assessed"
        children = [int(pid) for pid in Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()]
        assert children
        command.send_signal(signal.SIGINT)
        assert command.wait(60) != 0
        assert b"Traceback" not in command.stderr.read()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


@pytest.mark.parametrize("why", ["another digest", "no such folder"])
def test_a_bundle_that_no_process_can_load_ends_the_command_by_name(
    tmp_path: Path, stub_bundle: Bundle, why: Any
) -> None:
    path = stub_bundle.path if why == "another digest" else tmp_path / "gone"
    kind = BundleMismatch if why == "another digest" else BundleMissing
    with pytest.raises(kind):
        list(assess_files([tmp_path], dataclasses.replace(stub_bundle, path=path, digest="0" * 64)))


def test_processes_that_die_at_once_end_the_command_by_name(
    tmp_path: Path, stub_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "COMMAND", (sys.executable, "-c", "pass"))
    with pytest.raises(SlotCrashed, match="3 inference processes in a row"):
        list(assess_files([tmp_path], stub_bundle))


def test_a_file_is_read_again_when_its_process_dies_before_it_has_the_bytes(
    tmp_path: Path, run: Any, jpeg: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The death of an idle process, which shows when the next file is given to it, is no fault of that file."""
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg())
    submit = InferencePool.submit
    killed: list[int] = []

    def kill_first(processes: InferencePool[int], ticket: int, job: Job) -> None:
        if not killed:
            killed.append(ticket)
            os.kill(processes.processes[0].pid, signal.SIGKILL)
            processes.processes[0].wait()
        submit(processes, ticket, job)

    monkeypatch.setattr(InferencePool, "submit", kill_first)
    assert [one.outcome for one in run(tmp_path)] == [Outcome.ASSESSED] * 3
    assert killed


def test_limits_hold_before_reading(tmp_path: Path, run: Any) -> None:
    with (tmp_path / "sparse.dcm").open("wb") as stream:
        stream.truncate(10 * 1024**3)
    (result,) = run(tmp_path, limits=ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000))
    assert result.code == "too_many_bytes"
    assert result.judged


def test_locating_names_what_is_at_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, error in (("missing", FileVanished), (".", NotAFile), ("film/below", FileVanished)):
        (tmp_path / "film").write_bytes(b"x")
        with pytest.raises(error):
            locate_input_file(InputFile(str(tmp_path / path), named=True))
    os.symlink("film", tmp_path / "link")
    with pytest.raises(NotAFile):
        locate_input_file(InputFile(str(tmp_path / "link")))
    monkeypatch.chdir(tmp_path)
    assert locate_input_file(InputFile("link", named=True))[:2] == (str(tmp_path), "film")
    assert locate_input_file(InputFile("film"))[:2] == (str(tmp_path), "film")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", refuse)
        with pytest.raises(FileLocked):
            locate_input_file(InputFile("film", named=True))


def test_what_changes_between_looking_and_reading_is_named(
    tmp_path: Path, run: Any, jpeg: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    film = tmp_path / "film.jpg"
    film.write_bytes(jpeg())

    def then_grow(found: Any) -> Any:
        folder, name, status = locate_input_file(found)
        with film.open("ab") as stream:
            stream.write(b"more")
        return folder, name, status

    monkeypatch.setattr("preread.runner.assess_files.locate_input_file", then_grow)
    (result,) = run(tmp_path)
    assert (result.outcome, result.code, result.judged) == (Outcome.UNREADABLE, "changed", False)


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, run: Any, jpeg: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "film.jpg").write_bytes(jpeg())
    real = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = by_name(run(tmp_path))
    assert found[b"film.jpg"].outcome is Outcome.ASSESSED
    assert (found[b"closed"].code, found[b"closed"].judged) == ("locked", False)


@pytest.mark.parametrize(
    "name, text",
    [
        (b"plain.dcm", "plain.dcm"),
        ("Müller.dcm".encode(), "Müller.dcm"),
        (b"caf\xe9", "caf\\xe9"),
        (b"caf\\xe9", "caf\\\\xe9"),
        (b"\x85\xc2\x85", "\\x85\x85"),
    ],
)
def test_a_path_as_text_gives_its_bytes_back(name: Any, text: Any) -> None:
    assert reversible_path(name) == text
    assert b"".join(map(_bytes_of, re.findall(r"\\x[0-9a-f]{2}|\\\\|[^\\]", text))) == name


def _bytes_of(piece: Any) -> Any:
    if piece == "\\\\":
        return b"\\"
    return bytes.fromhex(piece[2:]) if piece.startswith("\\x") else piece.encode()


def test_training_has_the_limits_that_the_worker_has_by_default() -> None:
    default = {name: field.default for name, field in Settings.model_fields.items()}
    assert Processes(1) == Processes(
        1,
        default["deadline_s"],
        default["slot_memory_bytes"],
        ImageLimits(default["max_file_bytes"], default["max_pixels"]),
        default["require_confinement"],
    )
