"""Identity of an image from its tags or, without tags, its path.

Path patterns
-------------
A pattern describes the path of an image relative to its watched folder::

    {patient_id}/{accession_number}_*.jpg      17-0042/A881_front.jpg
    **/{patient_id}-*.jpeg                     2026/03/P77-1.jpeg

``{field}`` is one of ``PATH_FIELDS`` and matches at least one character, ``*`` matches any characters; neither matches
a ``/``. ``**/`` matches any number of folders. A field or ``*`` ends at the first occurrence of the text after it.
The pattern must match the complete path, case-sensitively; a path that does not match gives no field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from functools import lru_cache
from typing import Any

from pydicom.dataset import Dataset

from preread.core.errors import SettingsError
from preread.core.text.ages import AgeReading, possible_dates, read_age
from preread.core.types import Identity
from preread.imaging import elements

PATH_FIELDS = ("patient_id", "issuer_of_patient_id", "patient_name", "accession_number", "study_description")

_STUDY_DATES = ("StudyDate", "AcquisitionDate", "SeriesDate", "ContentDate")
_DATE = re.compile(r"(\d{4})[.\-]?(\d{2})[.\-]?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2})?(\.\d{1,6})?")
_DATE_TIME = re.compile(r"(\d{4,14}(?:\.\d{1,6})?)([+-]\d{4})?")
_OFFSET = re.compile(r"[+-]\d{4}")
_WILDCARD = re.compile(r"\*\*/|\*|\{(\w*)\}")


def read_identity(dataset: Dataset) -> Identity:
    """Read the identity of patient, study and image from DICOM elements.

    See PS3.3 C.7.1 to C.7.5, C.8.1 and C.8.11.

    Args:
        dataset: the Data Set; an invalid element counts as missing.
    """
    age, births = read_patient_age(dataset), possible_dates(elements.read_written(dataset, "PatientBirthDate"))
    taken, offset = _acquired(dataset)
    return Identity(
        patient_name=elements.read_text(dataset, "PatientName"),
        patient_id=elements.read_text(dataset, "PatientID"),
        issuer_of_patient_id=elements.read_text(dataset, "IssuerOfPatientID"),
        patient_birth_date=births[0].isoformat() if len(births) == 1 else None,
        patient_sex=elements.read_code_string(dataset, "PatientSex"),
        patient_age=elements.read_written(dataset, "PatientAge"),
        patient_age_years=age.years,
        age_conflict=age.conflict,
        study_instance_uid=elements.read_uid(dataset, "StudyInstanceUID"),
        series_instance_uid=elements.read_uid(dataset, "SeriesInstanceUID"),
        sop_instance_uid=elements.read_uid(dataset, "SOPInstanceUID"),
        sop_class_uid=elements.read_uid(dataset, "SOPClassUID"),
        accession_number=elements.read_text(dataset, "AccessionNumber"),
        modality=_upper(dataset, "Modality"),
        body_part_examined=_upper(dataset, "BodyPartExamined"),
        view_position=_upper(dataset, "ViewPosition"),
        image_laterality=elements.read_code_string(dataset, "ImageLaterality")
        or elements.read_code_string(dataset, "Laterality"),
        study_date=parse_dicom_date(elements.read_text(dataset, "StudyDate")),
        study_description=elements.read_text(dataset, "StudyDescription"),
        series_description=elements.read_text(dataset, "SeriesDescription"),
        acquisition_date_time=taken,
        timezone_offset_from_utc=offset,
        manufacturer=elements.read_text(dataset, "Manufacturer"),
        manufacturer_model_name=elements.read_text(dataset, "ManufacturerModelName"),
        device_serial_number=elements.read_text(dataset, "DeviceSerialNumber"),
        station_name=elements.read_text(dataset, "StationName"),
        institution_name=elements.read_text(dataset, "InstitutionName"),
    )


def parse_dicom_date(written: str | None) -> str | None:
    """Convert a DICOM date (DA) to ISO 8601 (PS3.5 6.2).

    Args:
        written: ``20200331``, also with dots or dashes.

    Returns:
        For example ``2020-03-31``; ``None`` if it is not a date.
    """
    match = _DATE.fullmatch(written or "")
    if match is None:
        return None
    try:
        return date(*(int(part) for part in match.groups())).isoformat()
    except ValueError:
        return None


def read_patient_age(dataset: Dataset) -> AgeReading:
    """Read the age on the day of the study from age and dates as written."""
    return read_age(
        elements.read_written(dataset, "PatientAge"),
        elements.read_written(dataset, "PatientBirthDate"),
        [elements.read_written(dataset, keyword) for keyword in _STUDY_DATES],
    )


def _upper(dataset: Dataset, keyword: str) -> str | None:
    return (elements.read_written(dataset, keyword) or "").upper() or None


def _acquired(dataset: Dataset) -> tuple[str | None, str | None]:
    """Return acquisition time (DT) and offset from UTC (PS3.3 C.12.1.1.8).

    Returns:
        Each ``None`` if the image does not state it.
    """
    offset = elements.read_text(dataset, "TimezoneOffsetFromUTC")
    offset = offset if offset and _OFFSET.fullmatch(offset) else None
    match = _DATE_TIME.fullmatch(elements.read_text(dataset, "AcquisitionDateTime") or "")
    if match:
        return match[1], match[2] or offset
    day = parse_dicom_date(elements.read_text(dataset, "AcquisitionDate"))
    if day is None:
        return None, offset
    time = _TIME.fullmatch(elements.read_text(dataset, "AcquisitionTime") or "")
    return day.replace("-", "") + ("".join(part or "" for part in time.groups()) if time else ""), offset


@lru_cache(maxsize=64)
def compile_path_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a path pattern with identity fields to a regular expression.

    Every wildcard but the last ends at the first occurrence of the text after it and is never tried again (an atomic
    group), so that no path makes the search slow.

    Raises:
        SettingsError: a field is unknown or repeated, or there is no text between two wildcards.
    """
    parts: list[str] = []
    position, seen = 0, set[str]()
    wildcards = list(_WILDCARD.finditer(pattern))
    if not any(match[1] is not None for match in wildcards):
        raise SettingsError(
            f"The path pattern {pattern!r} has no field: use at least one of {{{'}, {'.join(PATH_FIELDS)}}}."
        )
    for index, match in enumerate(wildcards):
        parts.append(re.escape(pattern[position : match.start()]))
        position = match.end()
        field, written = match[1], match[0]
        if written == "**/":
            if match.start() != 0:
                raise SettingsError(
                    f"The path pattern {pattern!r} has `**/` at "
                    f"character {match.start()}: use it only at the beginning."
                )
            parts.append("(?:[^/]+/)*+" if "/" not in pattern[position:] else "(?:[^/]+/)*?")
            continue
        if field is not None and field not in PATH_FIELDS:
            raise SettingsError(
                f"The path pattern has the unknown field {{{field}}}: use one of {{{'}, {'.join(PATH_FIELDS)}}}."
            )
        if field in seen:
            raise SettingsError(f"The path pattern has the field {{{field}}} twice: use it once.")
        seen |= {field} if field else set()
        last = index + 1 == len(wildcards)
        behind = pattern[position : len(pattern) if last else wildcards[index + 1].start()]
        if not behind and not last:
            raise SettingsError(
                f"The path pattern has no text between {written} and {wildcards[index + 1][0]}: put a character there "
                "that separates them."
            )
        taken = f"(?P<{field}>[^/]+?)" if field else "[^/]*?"
        parts.append(taken if last else f"(?>{taken}{re.escape(behind)})")
        position += 0 if last else len(behind)
    parts.append(re.escape(pattern[position:]))
    return re.compile("".join(parts), re.DOTALL)


def read_identity_from_path(path: str, pattern: str) -> dict[str, str]:
    """Read identity fields from the path of an image, by a path pattern.

    Args:
        path: relative to its watched folder, with ``/`` between folders.
        pattern: path pattern, see the top of this module.

    Returns:
        Fields of ``Identity`` by name; empty if the path does not match.

    Raises:
        SettingsError: the pattern is invalid.
    """
    match = compile_path_pattern(pattern).fullmatch(path)
    return {name: taken for name, taken in match.groupdict().items() if taken.strip()} if match else {}


def fill_missing_identity(identity: Identity, fields: Mapping[str, str]) -> Identity:
    """Return an identity with missing attributes filled from other fields.

    Args:
        identity: identity from the tags; its attributes are never overridden.
        fields: attributes by name, as ``read_identity_from_path`` returns them.
    """
    missing: dict[str, Any] = {name: value for name, value in fields.items() if getattr(identity, name) is None}
    return replace(identity, **missing) if missing else identity
