"""Films, labels, patients, folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from preread.core.errors import UsageError
from preread_training.data.dataset import (
    LabelledImage,
    assign_folds,
    decode_labelled_images,
    list_labelled_images,
    parse_patient_key,
    read_data_set,
)


@pytest.mark.parametrize(
    "name, key",
    [
        ("person12_virus_46.jpeg", "virus-12"),
        ("person12_bacteria_46.jpeg", "bacteria-12"),
        ("IM-0115-0001.jpeg", "IM-115"),
        ("NORMAL2-IM-0115-0001-0002.jpeg", "NORMAL2-IM-115"),
        ("film.jpeg", None),
    ],
)
def test_patient_key(name: str, key: str | None) -> None:
    assert parse_patient_key(name) == key


@given(
    st.lists(st.tuples(st.integers(0, 60), st.booleans()), min_size=40, max_size=200),
    st.integers(2, 5), st.integers(0, 99),
)  # fmt: skip
def test_no_patient_stands_in_two_folds(rows: list[tuple[int, bool]], folds: int, seed: int) -> None:
    films = [
        LabelledImage(Path(f"{i}"), ("p",) if label else (), f"{patient}-{label}", True)
        for i, (patient, label) in enumerate(rows)
    ]
    try:
        assigned = assign_folds(films, folds, seed)
    except UsageError:
        patients = [{film.patient for film in films if film.present == shown} for shown in ((), ("p",))]
        assert min(map(len, patients)) < folds
        return
    seen: dict[str, int] = {}
    for film, fold in zip(films, assigned, strict=True):
        assert seen.setdefault(film.patient, int(fold)) == fold
    assert set(assigned.tolist()) == set(range(folds))


def _data_set(folder: Path) -> Path:
    for label in ("NORMAL", "PNEUMONIA"):
        (folder / label).mkdir()
        for number in range(3):
            grey = np.full((20, 30), 40 * number + 10 * len(label), np.uint8)
            Image.fromarray(grey).save(folder / label / f"film{number}.png")
    return folder


def test_index_lists_both_labels_in_order(tmp_path: Path) -> None:
    films = list_labelled_images(_data_set(tmp_path))
    assert [film.present for film in films] == [()] * 3 + [("pneumonia",)] * 3
    assert len({film.patient for film in films}) == 3  # equal names, no key: one stand-in a name
    assert not any(film.patient_known for film in films)


def test_index_reads_a_csv_with_paths_relative_to_it(tmp_path: Path) -> None:
    _data_set(tmp_path)
    table = tmp_path / "films.csv"
    table.write_text("path,label,patient\nNORMAL/film0.png,NORMAL,a\nPNEUMONIA/film1.png,PNEUMONIA,b\n")
    films = list_labelled_images(table)
    assert [(film.patient, film.present, film.patient_known) for film in films] == [
        ("a", (), True),
        ("b", ("pneumonia",), True),
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("file,label\n", "column path or label"),
        ("path,label\nNORMAL/film0.png,NORMAL|NODULE\n", "NORMAL|NODULE"),
        (
            "path,label\nNORMAL/film0.png,A\nPNEUMONIA/film0.png,B\n",
            "is labelled NORMAL: name the label for none of A, B",
        ),
        ("path,label\nNORMAL/film0.png,A\nNORMAL/film0.png,NORMAL\n", "film0.png is listed more than once"),
        ("path,label\nNORMAL/film0.png,NORMAL\nPNEUMONIA/film0.png\n", "line 3 lacks"),
        ("path,label\nNORMAL/film0.png,NORMAL\n", "every image is labelled NORMAL"),
        ("path,label\nNORMAL/film9.png,NORMAL\nPNEUMONIA/film0.png,PNEUMONIA\n", "film9.png"),
    ],
)
def test_a_wrong_csv_is_named(tmp_path: Path, text: str, message: str) -> None:
    _data_set(tmp_path)
    table = tmp_path / "films.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match=message):
        list_labelled_images(table)


def test_bytes_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "films.csv").write_bytes(b"path,label\n\xff\xfe,NORMAL\n")
    with pytest.raises(UsageError, match="UTF-8"):
        list_labelled_images(tmp_path / "films.csv")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    _data_set(tmp_path)
    rows = "path,label\nNORMAL/film0.png,NORMAL\nPNEUMONIA/film0.png,PNEUMONIA\n"
    (tmp_path / "films.csv").write_text(rows, encoding="utf-8-sig")
    assert len(list_labelled_images(tmp_path / "films.csv")) == 2


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        list_labelled_images(tmp_path / "nowhere")


def test_pixels_come_through_the_workers_decoding(tmp_path: Path) -> None:
    _, pictures, hashes = decode_labelled_images(list_labelled_images(_data_set(tmp_path)))
    assert pictures.shape == (6, 224, 224)
    assert pictures[:, 0, 0].tolist() == [60, 100, 140, 90, 130, 170]
    assert len(set(hashes)) == 6


def test_an_unreadable_film_is_named(tmp_path: Path) -> None:
    _data_set(tmp_path)
    (tmp_path / "NORMAL" / "film1.png").write_text("no picture")
    with pytest.raises(UsageError, match=r"film1\.png is unreadable \(unknown_format: "):
        decode_labelled_images(list_labelled_images(tmp_path))


def test_equal_bytes_under_two_labels_are_named(tmp_path: Path) -> None:
    _data_set(tmp_path)
    (tmp_path / "NORMAL" / "film0.png").write_bytes((tmp_path / "PNEUMONIA" / "film2.png").read_bytes())
    with pytest.raises(UsageError, match="same bytes"):
        decode_labelled_images(list_labelled_images(tmp_path))


def test_patients_that_share_a_film_are_one(tmp_path: Path) -> None:
    rows = ["path,label,patient"]
    for number, (label, patient, grey) in enumerate(
        [("A", "p", 10), ("A", "q", 10), ("A", "q", 20), ("A", "r", 20), ("A", "s", 30), ("NORMAL", "t", 40),
         ("NORMAL", "u", 50)]
    ):  # fmt: skip
        Image.fromarray(np.full((64, 64), grey, np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{label},{patient}")
    (tmp_path / "films.csv").write_text("\n".join(rows))
    data = read_data_set(tmp_path / "films.csv", folds=2, seed=0)
    assert data.patients.tolist() == ["p", "p", "p", "p", "s", "t", "u"]
    assert len(set(data.folds[:4].tolist())) == 1
