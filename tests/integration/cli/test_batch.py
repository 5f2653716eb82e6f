"""Every file of a folder ends in a named outcome, whatever lies in it, and the files beside it are unaffected."""

from __future__ import annotations

import json
import os
import re
import socket

import pytest
from pydicom.data import get_testdata_file

from worker import batch
from worker.batch import assess_files, find_files, read_regular_file, reversible_path
from worker.domain import Answer, Caveat, Declared, Outcome, Population
from worker.errors import FileChanged, FileLocked, FileVanished, NotAFile, TooManyBytes
from worker.radiograph import Limits

NOT_UTF8 = b"caf\xe9.jpg"


@pytest.fixture
def run(brightness_classifier):
    def assess(*paths, **options):
        return list(assess_files(paths, brightness_classifier, **options))

    return assess


def by_name(results):
    return {os.fsencode(os.path.basename(result.path)): result for result in results}


def test_a_hostile_folder_ends_in_named_outcomes(tmp_path, run, jpeg):
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


def test_a_record_is_complete_and_is_json(tmp_path, run, jpeg):
    (tmp_path / os.fsdecode(NOT_UTF8)).write_bytes(jpeg(230))
    (result,) = run(tmp_path)
    record = json.loads(json.dumps(result.to_json()))
    assert set(record) == {
        "path", "sha256", "outcome", "code", "reason", "findings", "caveats", "bundle", "ms",
    }  # fmt: skip
    assert record["path"] == f"{tmp_path}/caf\\xe9.jpg"
    assert set(record["findings"][0]) == {"finding", "probability", "prevalence", "answer", "predictive_values"}
    assert record["bundle"] == "brightness/1.0.0"
    assert len(record["sha256"]) == 64
    assert record["ms"] > 0


def test_an_unknown_age_is_assumed_and_said(tmp_path, run, jpeg):
    (tmp_path / "film.jpg").write_bytes(jpeg())
    (result,) = run(tmp_path)
    assert Caveat.AGE_ASSUMED in result.caveats
    assert Caveat.NO_TAGS in result.caveats
    (result,) = run(tmp_path, declared=Declared())
    assert (result.outcome, result.code) == (Outcome.REFUSED, "age_unknown")
    (result,) = run(tmp_path, declared=Declared(Population.CHILDREN_1_5Y))
    assert Caveat.AGE_DECLARED in result.caveats


def test_a_grown_patient_is_refused_and_assessed_for_research_with_a_caveat(run):
    film = get_testdata_file("RG1_UNCR.dcm", download=False)
    (result,) = run(film)
    assert (result.outcome, result.code) == (Outcome.REFUSED, "age_outside")
    assert result.findings == ()
    (result,) = run(film, declared=Declared(Population.RESEARCH, assume_age=True))
    assert result.outcome is Outcome.ASSESSED
    assert Caveat.OUTSIDE_INTENDED_AGE in result.caveats


def test_files_come_in_the_order_of_their_names_and_each_once(tmp_path):
    for name in ("b/2", "b/1", "a", "c"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    relative = [os.path.relpath(found.path, tmp_path) for found in find_files([tmp_path])]
    assert sorted(relative) == ["a", "b/1", "b/2", "c"]
    assert relative == [os.path.relpath(found.path, tmp_path) for found in find_files([tmp_path])]
    assert relative.index("b/1") < relative.index("b/2")


def test_a_path_that_does_not_exist_is_a_result_that_was_not_judged(tmp_path, run):
    (result,) = run(tmp_path / "missing.dcm")
    assert (result.outcome, result.code, result.judged) == (Outcome.UNREADABLE, "vanished", False)
    assert result.sha256 is None


def test_a_link_that_was_named_is_followed(tmp_path, run, jpeg):
    (tmp_path / "film.jpg").write_bytes(jpeg())
    os.symlink(tmp_path / "film.jpg", tmp_path / "link")
    (result,) = run(tmp_path / "link")
    assert result.outcome is Outcome.ASSESSED


def test_a_fault_of_preread_on_one_file_does_not_end_the_others(tmp_path, run, jpeg, monkeypatch, caplog):
    (tmp_path / "1.jpg").write_bytes(jpeg())
    (tmp_path / "2.jpg").write_bytes(jpeg())
    real = batch.assess
    calls = []

    def fail_once(*arguments, **named):
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("Mustermann^Erika")
        return real(*arguments, **named)

    monkeypatch.setattr(batch, "assess", fail_once)
    first, second = run(tmp_path)
    assert (first.outcome, first.code, first.judged) == (Outcome.UNREADABLE, "internal", False)
    assert "Mustermann" not in first.reason
    assert second.outcome is Outcome.ASSESSED
    assert "assess_failed" in caplog.text


def test_limits_hold_before_reading(tmp_path, run):
    with (tmp_path / "sparse.dcm").open("wb") as stream:
        stream.truncate(10 * 1024**3)
    (result,) = run(tmp_path, limits=Limits(max_bytes=1_000_000, max_pixels=1_000_000))
    assert result.code == "too_many_bytes"
    with pytest.raises(TooManyBytes):
        read_regular_file(str(tmp_path / "sparse.dcm"), 1_000_000)


def test_reading_names_what_is_at_fault(tmp_path, monkeypatch):
    with pytest.raises(FileVanished):
        read_regular_file(str(tmp_path / "missing"), 100)
    with pytest.raises(NotAFile):
        read_regular_file(str(tmp_path), 100)
    film = tmp_path / "film"
    film.write_bytes(b"x" * 50)
    assert read_regular_file(str(film), 50) == b"x" * 50

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(batch.os, "open", refuse)
        with pytest.raises(FileLocked):
            read_regular_file(str(film), 100)

    def grow(descriptor, count):
        with film.open("ab") as stream:
            stream.write(b"more")
        return b"x" * 50

    monkeypatch.setattr(batch, "read_up_to", grow)
    with pytest.raises(FileChanged):
        read_regular_file(str(film), 100)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, run, jpeg, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "film.jpg").write_bytes(jpeg())
    real = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(batch.os, "scandir", refuse)
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
def test_a_path_as_text_gives_its_bytes_back(name, text):
    assert reversible_path(name) == text
    assert b"".join(map(_bytes_of, re.findall(r"\\x[0-9a-f]{2}|\\\\|[^\\]", text))) == name


def _bytes_of(piece):
    if piece == "\\\\":
        return b"\\"
    return bytes.fromhex(piece[2:]) if piece.startswith("\\x") else piece.encode()
