"""What trains and measures reads films in inference processes: one that breaks its own is named, and ends no other."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from preread.core.errors import UsageError
from preread.core.types import Outcome
from preread.imaging.preprocessing import TRAINING_SPEC, resize_to_input
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread.model.bundles import Bundle
from preread.runner import pool
from preread.runner.assess_files import Processes
from preread_training.analysis.evaluate import evaluate_bundle, write_results_csv
from preread_training.data import phantoms
from preread_training.data.dataset import decode_labelled_images, list_labelled_images
from preread_training.data.decoding import decode_files
from tests.support.paths import STUB_SLOT

AT_ONCE = Processes(2, deadline_s=5.0)


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six films of two labels, read by stub slots."""
    monkeypatch.setattr(pool, "COMMAND", (sys.executable, "-P", str(STUB_SLOT), str(tmp_path / "inferences")))
    for seed in range(6):
        folder = tmp_path / "films" / ("NORMAL" if seed % 2 else "PNEUMONIA")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{seed}.jpg").write_bytes(phantoms.to_jpeg(phantoms.draw_chest(seed, rows=96, columns=96)))
    return tmp_path / "films"


def test_pictures_are_those_of_this_process_in_the_order_of_the_films(films: Path) -> None:
    paths = [film.path for film in list_labelled_images(films)]
    _, pictures, _ = decode_labelled_images(list_labelled_images(films), processes=AT_ONCE)
    expected = [
        resize_to_input(TRAINING_SPEC, decode_radiograph(read_image_header(path.read_bytes())).pixels) for path in paths
    ]
    assert np.array_equal(pictures, np.stack(expected))


@pytest.mark.parametrize(
    "word,code",
    [("ABORT", "slot_crashed"), ("RAISE", "slot_crashed"), ("EAT", "slot_memory"), ("HANG", "slot_deadline")],
)
def test_a_film_that_breaks_its_process_is_named_by_index(films: Path, word: str, code: str) -> None:
    with (films / "NORMAL" / "3.jpg").open("ab") as stream:
        stream.write(word.encode())
    with pytest.raises(UsageError, match=rf"3\.jpg is unreadable \({code}: "):
        decode_labelled_images(list_labelled_images(films), processes=AT_ONCE)


def test_a_film_that_breaks_its_process_has_no_answer_and_the_others_have_theirs(
    films: Path, stub_bundle: Bundle, tmp_path: Path
) -> None:
    for name, word in (("NORMAL/3.jpg", b"ABORT"), ("PNEUMONIA/4.jpg", b"HANG")):
        with (films / name).open("ab") as stream:
            stream.write(word)
    judged = evaluate_bundle(list_labelled_images(films), stub_bundle, processes=AT_ONCE)
    assert judged.report["counts"]["assessed"] == 4
    assert judged.report["counts"]["unreadable"] == 2
    write_results_csv(tmp_path / "predictions.csv", judged)
    with (tmp_path / "predictions.csv").open() as stream:
        rows = {Path(row["path"]).name: (row["outcome"], row["code"]) for row in csv.DictReader(stream)}
    broken = {"3.jpg": ("unreadable", "slot_crashed"), "4.jpg": ("unreadable", "slot_deadline")}
    assert rows == {f"{seed}.jpg": (Outcome.ASSESSED.value, "") for seed in range(6)} | broken


def test_a_file_that_is_gone_is_named(films: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.jpg cannot be read"):
        list(decode_files([films / "gone.jpg"], AT_ONCE))
