"""Age of a patient on the day of the study, from values as written.

An age that cannot be read without doubt is not an absent one: it is ``NOT_UNDERSTOOD``, and nothing replaces it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from preread.core.types import TagState

AGE_MAX_YEARS = 130.0

_STANDARD = re.compile(r"(\d{1,3})([DWMY])")
_UNIT_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
# Some write the nearest age, some the last completed one; a month covers an image taken after its booking.
_SLACK_UNITS = 0.5
_SLACK_YEARS = 0.1
_STANDARD_DATE = re.compile(r"(\d{4})[.\-]?(\d{2})[.\-]?(\d{2})")
_YEAR_FIRST = re.compile(r"(\d{4})[./\- ](\d{1,2})[./\- ](\d{1,2})")
_YEAR_LAST = re.compile(r"(\d{1,2})[./\- ]+(\d{1,2})[./\- ]+(\d{4})")
_YEAR = re.compile(r"(\d{4})[./\-]?(?:\d{2})?")
_NO_VALUE = re.compile(r"[\W_]*|[\W_]*(n\W?a|none|null|unk|unkn|unknown|undefined|missing|x+)[\W_]*", re.IGNORECASE)
# Written by programs and by people where the birth date is unknown: the first days of calendars and of clocks.
_PLACEHOLDERS = frozenset(
    date(*day)
    for day in (
        (1, 1, 1), (1111, 11, 11), (1600, 1, 1), (1601, 1, 1), (1700, 1, 1), (1753, 1, 1), (1800, 1, 1), (1850, 1, 1),
        (1858, 11, 17), (1899, 12, 30), (1899, 12, 31), (1900, 1, 1), (1901, 1, 1), (1904, 1, 1),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AgeReading:
    """Age of a patient on the day of the study.

    Attributes:
        state: whether the elements state an age, and one that can be read.
        youngest: lowest possible age in years, in [0, 130]; ``None`` unless understood.
        oldest: highest possible age in years; differs from ``youngest`` if the order of day and month is unknown.
        written: the value that decided, as written; ``None`` if absent.
        problem: why it is not understood, as a sentence with ``{written}`` for the value; empty if understood.
        conflict: stated age and dates contradict each other.
    """

    state: TagState = TagState.ABSENT
    youngest: float | None = None
    oldest: float | None = None
    written: str | None = None
    problem: str = ""
    conflict: bool = False

    @property
    def years(self) -> float | None:
        """Age in years if it is known to the year, else ``None``."""
        if self.youngest is None or self.oldest is None or int(self.youngest) != int(self.oldest):
            return None
        return self.youngest


ABSENT_AGE = AgeReading()


def possible_dates(written: str | None) -> tuple[date, ...]:
    """Return the dates that a written date can mean.

    Args:
        written: a DA value (PS3.5 6.2), also with ``.``, ``-`` or ``/``; or day, month and year in any of the usual
            orders, with a year of four digits.

    Returns:
        No date if it is none, or if only a year is certain; two if day and month can be exchanged.
    """
    text = (written or "").strip()
    standard = _STANDARD_DATE.fullmatch(text) or _YEAR_FIRST.fullmatch(text)
    if standard is not None:
        return _valid([tuple(int(part) for part in standard.groups())])
    other = _YEAR_LAST.fullmatch(text)
    if other is None:
        return ()
    first, second, year = (int(part) for part in other.groups())
    return _valid([(year, second, first), (year, first, second)])


def read_age(patient_age: str | None, birth_date: str | None, study_dates: Sequence[str | None]) -> AgeReading:
    """Read the age on the day of the study.

    Two dates are more precise than Patient's Age; where both are given they must agree.

    Args:
        patient_age: (0010,1010) as written, for example ``003Y``.
        birth_date: (0010,0030) as written.
        study_dates: dates of the study in order of preference, as written; the first that can be read is used.
    """
    patient_age, birth_date = _present(patient_age), _present(birth_date)
    if patient_age is None and birth_date is None:
        return ABSENT_AGE
    counted = ABSENT_AGE if birth_date is None else _counted(birth_date, study_dates)
    if patient_age is None:
        return counted if counted.oldest != 0 else _unclear(birth_date, _SAME_DAY)
    stated = _standard_age(patient_age)
    if counted.youngest is None or counted.oldest is None:
        if counted.conflict or not _fits_year(stated, birth_date, study_dates):
            return _conflict(patient_age)
        if stated is None:
            return _unclear(patient_age, _AGE_FORM)
        return AgeReading(TagState.UNDERSTOOD, stated[0], stated[0], patient_age)
    ages = [age for age in (counted.youngest, counted.oldest) if _agrees(patient_age, stated, age)]
    return AgeReading(TagState.UNDERSTOOD, min(ages), max(ages), patient_age) if ages else _conflict(patient_age)


_AGE_FORM = "the patient age is {written}, which is not understood"
_BIRTH_FORM = "the birth date is {written}, which is not understood"
_NO_BIRTH = "the birth date is {written}, which stands for an unknown one"
_NO_STUDY_DATE = "the birth date is {written}, and no date of the study can be read"
_SAME_DAY = "the birth date is {written}, the day of the study, and no age is stated"
_IMPOSSIBLE = "the birth date is {written}, which is impossible with the date of the study"
_CONTRADICTION = "the stated age {written} contradicts the birth and study dates"


def _present(written: str | None) -> str | None:
    """Return a value as written; ``None`` if it has no digit, as ``N/A``."""
    text = (written or "").strip()
    return text if any(c.isdigit() for c in text) or (text and not _NO_VALUE.fullmatch(text)) else None


def _unclear(written: str | None, problem: str) -> AgeReading:
    return AgeReading(TagState.NOT_UNDERSTOOD, written=written, problem=problem)


def _conflict(written: str) -> AgeReading:
    return AgeReading(TagState.NOT_UNDERSTOOD, written=written, problem=_CONTRADICTION, conflict=True)


def _counted(birth_date: str, study_dates: Sequence[str | None]) -> AgeReading:
    """Return the age between birth and study date."""
    births = possible_dates(birth_date)
    if not births:
        return _unclear(birth_date, _BIRTH_FORM)
    if _PLACEHOLDERS.intersection(births):
        return _unclear(birth_date, _NO_BIRTH)
    studies = _first_readable(study_dates)
    if not studies:
        return _unclear(birth_date, _NO_STUDY_DATE)
    ages = [_years_between(born, taken) for born in births for taken in studies]
    possible = [age for age in ages if 0 <= age <= AGE_MAX_YEARS]
    if not possible:
        return AgeReading(TagState.NOT_UNDERSTOOD, written=birth_date, problem=_IMPOSSIBLE, conflict=True)
    return AgeReading(TagState.UNDERSTOOD, min(possible), max(possible), birth_date)


def _first_readable(study_dates: Sequence[str | None]) -> tuple[date, ...]:
    """Return the readings of the first date with one reading, else with two."""
    readings = [possible_dates(written) for written in study_dates]
    return next((one for one in readings if len(one) == 1), next((one for one in readings if one), ()))


def _standard_age(patient_age: str) -> tuple[float, float] | None:
    """Return a stated age and its unit in years; ``None`` if it is not in standard form, or ``000Y``."""
    match = _STANDARD.fullmatch(patient_age.upper().replace(" ", ""))
    if match is None:
        return None
    unit = _UNIT_YEARS[match[2]]
    years = int(match[1]) * unit
    return (years, unit) if years <= AGE_MAX_YEARS and (years, match[2]) != (0, "Y") else None


def _agrees(patient_age: str, stated: tuple[float, float] | None, counted: float) -> bool:
    """Return whether a stated age agrees with one that was counted from dates.

    One that is not in standard form agrees if its first number, or all its digits, do in some unit.
    """
    if stated is not None:
        return _is_near(*stated, counted)
    numbers = {
        int(digits)
        for digits in (*re.findall(r"\d{1,6}", patient_age)[:1], re.sub(r"\D", "", patient_age)[:6])
        if digits
    }
    units = _UNIT_YEARS.values() if re.search(r"[^\W\d]", patient_age) else (_UNIT_YEARS["Y"],)
    return not numbers or any(_is_near(number * unit, unit, counted) for number in numbers for unit in units)


def _is_near(years: float, unit: float, counted: float) -> bool:
    slack = max(_SLACK_UNITS * unit, _SLACK_YEARS)
    return years - slack <= counted <= years + unit + slack


def _fits_year(stated: tuple[float, float] | None, birth_date: str | None, study_dates: Sequence[str | None]) -> bool:
    """Return whether a stated age is possible if only the year of birth can be read."""
    match, studies = _YEAR.fullmatch(birth_date or ""), _first_readable(study_dates)
    if stated is None or match is None or not studies:
        return True
    years = studies[0].year - int(match[1])
    return years - 1 - _SLACK_YEARS <= stated[0] <= years + _SLACK_YEARS


def _years_between(born: date, taken: date) -> float:
    """Return the years between two dates, with a fraction of a year; negative if ``taken`` is before ``born``."""
    whole = taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))
    if whole < 0:
        return -1.0
    # 29 February is kept on 1 March in other years.
    anniversary = date(born.year + whole, 3, 1) if (born.month, born.day) == (2, 29) else None
    last = anniversary or born.replace(year=born.year + whole)
    return whole + min((taken - last).days / 366, 0.999)


def _valid(days: Iterable[tuple[int, ...]]) -> tuple[date, ...]:
    """Return the dates among these years, months and days, each once."""
    found: dict[date, None] = {}
    for year, month, day in days:
        try:
            found[date(year, month, day)] = None
        except ValueError:
            continue
    return tuple(found)
