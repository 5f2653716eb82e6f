"""Whatever a name, tag or comment holds, no spreadsheet finds a formula in our CSV, whatever separates its cells."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preread.cli import output
from preread.core.text import csv_cells
from preread_training.data.dataset import list_labelled_images

# What begins a formula, what may stand before it, and what a sheet may take for the end of a cell.
SIGNS = st.sampled_from(
    list("=+-@|%\t\r＝＋－＠,;\n\"' \u00a0\u3000\u200b\u2028，；､A1^\x00\x1b")  # noqa: RUF001
)
TEXTS = st.text(SIGNS, max_size=12) | st.text(max_size=12)
DANGEROUS = tuple("=+-@\t\r＝＋－＠")  # noqa: RUF001
SEPARATORS = [",", ";", "\t", "|"]


def written(rows: list[list[Any]]) -> str:
    stream = io.StringIO(newline="")
    csv_cells.write_rows(stream, ["a", "b"], rows)
    return stream.getvalue()


def read(text: str, delimiter: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


@given(st.lists(st.lists(TEXTS | st.none() | st.integers(0), min_size=1, max_size=4), max_size=4))
@example([["A;=1+1;B", 'a","=1+1'], ["P0;=2+0", "d;\t=1"], ['x;"=1+1', "x\n=1"], ["＝1；＋2", ";'=1"]])  # noqa: RUF001
def test_no_cell_begins_a_formula_whatever_separates(rows: list[list[Any]]) -> None:
    text = written(rows)
    for delimiter in SEPARATORS:
        cells = [cell for row in read(text, delimiter) for cell in row]
        assert not [cell for cell in cells if cell.lstrip(' "\u00a0\u3000\u200b')[:1] in DANGEROUS and cell.strip(' "')]


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_what_was_written_can_be_read_as_it_was(row: list[str]) -> None:
    header, *lines = read(written([row]), ",")
    assert header == ["a", "b"]
    assert [[csv_cells.unescape_csv_cell(cell) for cell in line] for line in lines] == [row]


@given(st.lists(st.integers() | st.floats(allow_nan=False) | st.booleans(), min_size=1, max_size=4))
def test_numbers_stay_numbers(row: list[float]) -> None:
    text = written([row])
    assert '"' not in text.splitlines()[1]
    (cells,) = read(text, ",")[1:]
    for cell, number in zip(cells, row, strict=True):
        assert cell == str(number) if isinstance(number, bool) else math.isclose(float(cell), number)


def test_texts_are_quoted_and_nothing_is_nothing() -> None:
    assert written([["MUSTER^E", 0.5, -1, True, None, "2026-11-29 10:00"]]).splitlines() == [
        '"a","b"',
        '"MUSTER^E",0.5,-1,True,"","2026-11-29 10:00"',
    ]


@pytest.mark.parametrize(
    "text, cell",
    [
        ("=1+1", "'=1+1"),
        ("  =cmd|' /C calc'!A0", "  '=cmd|' /C calc'!A0"),
        ("A;=1+1;B", "A;'=1+1;B"),
        ('a","=1', 'a","\'=1'),
        ("'=1", "''=1"),
        ("1.2-3", "1.2-3"),
        ("A|B", "A|B"),
        ("left; base", "left; base"),
        ("left;", "left;'"),
    ],
)
def test_an_apostrophe_stands_only_where_a_formula_would_begin(text: str, cell: str) -> None:
    assert csv_cells.csv_cell(text) == cell


def test_printed_cells_hold_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_csv(["text"], [["a\x1b[2J\r\n=b"]])
    assert capsys.readouterr().out.splitlines()[1] == '"a\\x1b[2J\\x0d\\x0a=b"'


def test_a_list_of_films_is_read_as_it_was_written(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a;=1+1.png", "b'-2.png")]
    for path in paths:
        path.touch()
    listing = tmp_path / "films.csv"
    with listing.open("w", newline="") as stream:
        rows = [
            [path, label, f"=p{number}"]
            for number, (path, label) in enumerate(zip(paths, ("X|Y", "ABSENT"), strict=True))
        ]
        csv_cells.write_rows(stream, ["path", "label", "patient"], rows)
    assert [(film.path, film.present, film.patient) for film in list_labelled_images(listing, "ABSENT")] == [
        (paths[0], ("x", "y"), "=p0"),
        (paths[1], (), "=p1"),
    ]
