"""Age on the day of the study: read without doubt, or not understood; never taken for absent."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.text.ages import ABSENT_AGE, AgeReading, possible_dates, read_age
from preread.core.types import TagState
from preread.imaging.elements import UNREADABLE

STUDY = "20240315"


def age(patient_age: str | None, birth: str | None = None, study: str | None = STUDY) -> AgeReading:
    return read_age(patient_age, birth, [study])


@pytest.mark.parametrize(
    "stated, years", [("003Y", 3.0), ("3y", 3.0), ("018M", 1.5), ("052W", 1.0), ("365D", 1.0), ("000D", 0.0)]
)
def test_the_stated_age(stated: str, years: float) -> None:
    found = age(stated)
    assert found.state is TagState.UNDERSTOOD
    assert found.years == pytest.approx(years, abs=0.01)


@pytest.mark.parametrize("written", [None, "", " ", "N/A", "unknown", "XXX", "----"])
def test_no_age(written: str | None) -> None:
    assert age(written) == ABSENT_AGE
    assert age(None, written) == ABSENT_AGE


@pytest.mark.parametrize(
    "written",
    ["42", "62", "3", "42YR", "0042Y", "042J", "200Y", "999Y", "003X", "-03Y", "Y", "three", "3.5", "000Y", UNREADABLE],
)
def test_an_age_that_is_not_in_standard_form_is_not_understood(written: str) -> None:
    found = age(written)
    assert (found.state, found.years, found.written) == (TagState.NOT_UNDERSTOOD, None, written)
    assert found.problem.format(written=written) == f"the patient age is {written}, which is not understood"


@pytest.mark.parametrize(
    "birth, study, years",
    [
        ("20180510", "20240509", 5.997),
        ("20180510", "20240510", 6.0),
        ("20200229", "20230228", 2.997),
        ("20200229", "20230301", 3.0),
        ("2020-02-29", "2023.03.01", 3.0),
        ("2020-2-29", "2023/3/1", 3.0),
        ("29.02.2020", "20230301", 3.0),
        ("02/29/2020", "20230301", 3.0),
        ("01.01.2020", "01/01/2023", 3.0),
    ],
)
def test_the_age_counted_from_dates(birth: str, study: str, years: float) -> None:
    """A birthday is on its day: one before it a child of five is still five, whatever the share of the year."""
    found = age(None, birth, study)
    assert found.state is TagState.UNDERSTOOD
    assert found.years == pytest.approx(years, abs=0.003)
    assert found.years is not None
    assert int(found.years) == int(years)


def test_day_and_month_can_be_exchanged() -> None:
    found = age(None, "12/05/2017")
    assert (found.youngest, found.oldest) == pytest.approx((6.28, 6.84), abs=0.01)
    found = age(None, "05.12.2018")
    assert (found.youngest, found.oldest) == pytest.approx((5.28, 5.84), abs=0.01)
    assert age(None, "05.12.2017", "20231004").years is None


@pytest.mark.parametrize(
    "birth",
    [
        *("1970", "197005", "12.05.70", "00000000", "20230229", "yesterday", "2021XX10", "31/31/1970", UNREADABLE),
        *("19000101", "19010101", "11111111", "00010101", "18991230", "1900-01-01", "01.01.1900"),
    ],
)
def test_a_birth_date_that_is_none_is_not_understood(birth: str) -> None:
    found = age(None, birth)
    assert (found.state, found.years, found.written) == (TagState.NOT_UNDERSTOOD, None, birth)
    assert birth in found.problem.format(written=birth)


@pytest.mark.parametrize("study", [None, "", "2024", "N/A"])
def test_a_birth_date_without_a_study_date_is_not_understood(study: str | None) -> None:
    assert age(None, "20210110", study).problem.format(written="20210110").endswith("no date of the study can be read")


def test_a_birth_on_the_day_of_the_study_needs_an_age() -> None:
    assert age(None, STUDY).state is TagState.NOT_UNDERSTOOD
    assert age("001D", STUDY).years == 0.0
    assert age("003Y", STUDY).conflict


@pytest.mark.parametrize("birth", ["20240316", "17000102", "18000202"])
def test_an_impossible_birth_date_is_not_understood(birth: str) -> None:
    assert (age(None, birth).state, age("003Y", birth).conflict) == (TagState.NOT_UNDERSTOOD, True)


@pytest.mark.parametrize("stated", ["004Y", "003Y", "050M", "004y", "4", "4.1", "0?4Y", "4 Jahre", "04Y1M", "48 mois"])
def test_an_age_that_agrees_with_the_dates_gives_way_to_them(stated: str) -> None:
    found = age(stated, "20200101", "20240201")
    assert found.state is TagState.UNDERSTOOD
    assert found.years == pytest.approx(4.085, abs=0.01)


@pytest.mark.parametrize("stated", ["064Y", "000Y", "007Y", "004M", "002Y", "62", "0042Y", "42YR", "200Y", "48"])
def test_an_age_that_contradicts_the_dates_is_not_understood(stated: str) -> None:
    found = age(stated, "20200101", "20240201")
    assert (found.state, found.years, found.conflict) == (TagState.NOT_UNDERSTOOD, None, True)


def test_a_stated_age_chooses_between_two_readings() -> None:
    found = age("005Y", "05/12/2018", "20240315")
    assert (found.youngest, found.oldest) == pytest.approx((5.28, 5.84), abs=0.01)
    found = age("070M", "05/12/2018", "20240315")
    assert found.years == pytest.approx(5.84, abs=0.01)


@pytest.mark.parametrize("birth", ["19000101", "12.05.21", "unbekannt"])
def test_a_stated_age_stands_beside_a_birth_date_that_is_none(birth: str) -> None:
    assert age("003Y", birth).years == 3.0


def test_a_year_of_birth_can_only_contradict() -> None:
    assert age("003Y", "2021").years == 3.0
    assert age("003Y", "1970").conflict
    assert age("053Y", "197005").years == 53.0


def test_a_later_date_of_the_study_replaces_one_that_cannot_be_read() -> None:
    assert read_age(None, "20200101", ["junk", None, "01/02/2023", "20240101"]).years == 4.0
    found = read_age(None, "20200105", ["junk", None, "01/02/2023"])
    assert (found.youngest, found.oldest) == pytest.approx((2.99, 3.07), abs=0.01)


@given(born=st.dates(date(1905, 1, 1), date(2024, 3, 15)), form=st.sampled_from(["%Y%m%d", "%Y-%m-%d", "%Y.%m.%d"]))
def test_a_standard_date_has_one_reading(born: date, form: str) -> None:
    assert possible_dates(born.strftime(form)) == (born,)


@given(born=st.dates(date(1905, 1, 1), date(2024, 3, 15)), form=st.sampled_from(["%d.%m.%Y", "%m/%d/%Y", "%d-%m-%Y"]))
def test_the_true_date_is_among_the_readings(born: date, form: str) -> None:
    readings = possible_dates(born.strftime(form))
    assert born in readings
    assert len(readings) <= 2


@given(stated=st.text(max_size=12), birth=st.text(max_size=12))
def test_whatever_is_written_is_never_silence_with_a_digit(stated: str, birth: str) -> None:
    found = age(stated, birth)
    if any(c in "0123456789" for c in stated + birth):
        assert found.state is not TagState.ABSENT
    assert (found.youngest is None) == (found.state is not TagState.UNDERSTOOD)
    assert bool(found.problem) == (found.state is TagState.NOT_UNDERSTOOD)
