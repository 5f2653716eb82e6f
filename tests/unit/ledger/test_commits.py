"""When a film was taken, as something to sort by."""

from __future__ import annotations

import pytest

from preread.core.study_header import TAGS, StudyHeader
from preread.core.types import Identity
from preread.ledger.commits import local_image_time


@pytest.mark.parametrize(
    "written, study_date, expected",
    [
        ("20200331101530.123456", None, "20200331101530"),
        ("20200331101530.5+0200", None, "20200331101530"),
        ("20200331101530-0500", None, "20200331101530"),
        ("20200331", None, "20200331000000"),
        ("2020033110", None, "20200331100000"),
        ("202003", None, "20200301000000"),
        ("2020", None, "20200101000000"),
        (None, "2020-03-31", "20200331000000"),
        ("garbage", "2020-03-31", "20200331000000"),
        ("", "", None),
        ("²020", None, None),
        ("19", None, None),
        (None, None, None),
    ],
)
def test_fourteen_digits_of_the_modalitys_clock(
    written: str | None, study_date: str | None, expected: str | None
) -> None:
    assert local_image_time(Identity(acquisition_date_time=written, study_date=study_date), None)[0] == expected


@pytest.mark.parametrize(
    "written, stated, expected",
    [
        ("20200331101530", {"ContentDate": "20200401"}, ("20200331101530", "acquisition")),
        ("garbage", {"ContentDate": "20200401", "ContentTime": "0915"}, ("20200401091500", "content")),
        (None, {"ContentDate": "20200401", "ContentTime": "9:15 a.m."}, ("20200401000000", "content")),
        (None, {"ContentDate": "2020", "SeriesDate": "2020.04.02"}, ("20200402000000", "series")),
        (None, {"ContentTime": "101500", "StudyDate": "20200403", "StudyTime": "11"}, ("20200403110000", "study")),
        (None, {"StudyTime": "11"}, (None, None)),
    ],
)
def test_the_date_by_which_an_image_is_sorted_is_named(
    written: str | None, stated: dict[str, str], expected: tuple[str | None, str | None]
) -> None:
    header = StudyHeader.of({keyword: {"vr": "LO", "Value": [value]} for keyword, value in stated.items()})
    assert stated.keys() <= TAGS.keys()
    assert local_image_time(Identity(acquisition_date_time=written), header) == expected
