"""The corpus: outcomes of a folder of files, and their rendering against DCMTK."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import preread
from preread.core.types import Outcome
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread.model.bundles import Bundle
from preread.runner.assess_files import FileResult
from preread_training.data import phantoms
from tests.corpus import comparison
from tests.corpus.__main__ import report, run
from tests.corpus.comparison import Comparison, compare, compare_all


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return preread.load_bundle().bundle


def result(path: Path, outcome: Outcome, code: str | None, *, judged: bool = True) -> FileResult:
    return FileResult(str(path), None, outcome, code, "a reason", (), (), "stub/1", 12.0, judged)


@pytest.mark.dcmtk
def test_a_folder_is_assessed_and_compared(tmp_path: Path, shipped: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    whole = phantoms.to_dicom(phantoms.draw_chest(1, rows=120, columns=110))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "whole.dcm").write_bytes(whole)
    (tmp_path / "site" / "half.dcm").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("no DICOM", encoding="utf-8")
    (tmp_path / "link.dcm").symlink_to(tmp_path / "site" / "whole.dcm")
    assert run(tmp_path, shipped) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[:2] for row in rows] == [["| folder", "files"], ["| ---", "--:"], ["| site", "2"], ["| all", "2"]]
    assert "truncated 1" in rows[2][2]
    assert rows[2][3] == "1", "the whole image is as DCMTK renders it"
    assert run(tmp_path / "site", shipped) == 0


def test_what_needs_a_look_is_listed_with_its_path(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.dcm", "b/c.dcm", "b/d.dcm", "b/e.dcm")]
    results = [
        result(files[0], Outcome.ASSESSED, None),
        result(files[1], Outcome.REFUSED, "modality"),
        result(files[2], Outcome.UNREADABLE, "decode_failed"),
        result(files[3], Outcome.UNREADABLE, "slot_crashed", judged=False),
    ]
    comparisons = [Comparison("equal"), Comparison("differs", "by 9"), Comparison("dcmtk alone"), Comparison("neither")]
    lines = report(tmp_path, files, results, comparisons)
    assert lines[2] == "| . | 1 | assessed 1 | 1 | 0 | 0 | 0 | 0 | 0.0 s |"
    assert lines[3].startswith("| b | 3 | modality 1, decode_failed 1, slot_crashed 1 | 0 | 1 | 1 | 0 | 1 |")
    assert [line for line in lines if line.startswith("- ")] == [
        "- `b/c.dcm`: by 9",
        "- `b/d.dcm`: ",
        "- `b/e.dcm`: slot_crashed: a reason",
    ]


@pytest.mark.dcmtk
def test_a_rendering_that_differs_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(phantoms.to_dicom(phantoms.draw_chest(2, rows=100, columns=100)))
    assert compare(path) == Comparison("equal")
    shown = decode_radiograph(read_image_header(path.read_bytes())).pixels.copy()
    shown[:10] ^= 64
    monkeypatch.setattr(comparison, "by_dcmtk", lambda *_: shown)
    assert compare(path) == Comparison("differs", "by 64 at most, 10.0% of the pixels; caveats: none")
    monkeypatch.setattr(comparison, "by_dcmtk", lambda *_: "damaged")
    assert compare(path) == Comparison("preread alone", "damaged")


def test_a_file_that_is_no_dicom_is_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(phantoms.draw_chest(3, rows=64, columns=64)).save(path)
    assert list(compare_all([path])) == [Comparison("not comparable", "not DICOM")]


def test_an_empty_folder_is_an_error(tmp_path: Path, shipped: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, shipped) == 2
    assert "holds no DICOM file" in capsys.readouterr().err
