"""When a film was taken, as something to sort by."""

from __future__ import annotations

import pytest

from preread.core.types import Identity
from preread.ledger.commits import local_acquisition_time


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
    assert local_acquisition_time(Identity(acquisition_date_time=written, study_date=study_date)) == expected
