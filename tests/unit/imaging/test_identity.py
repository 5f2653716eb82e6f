"""Who and what a film is about: tags read tolerantly, ages that agree or contradict, names in paths."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.errors import SettingsError
from preread.core.types import Identity
from preread.imaging.identity import (
    compile_path_pattern,
    fill_missing_identity,
    parse_dicom_date,
    read_identity_from_path,
)
from preread.imaging.radiograph import read_image_header
from preread_training.data import phantoms

FILM = phantoms.draw_chest(1, rows=64, columns=64)


def identity(**elements: Any) -> Identity:
    return read_image_header(phantoms.to_dicom(FILM, **elements)).identity


def overwritten(old: bytes, new: bytes) -> Identity:
    """The identity of a film in whose header some bytes were written over."""
    data = phantoms.to_dicom(FILM)
    assert old in data
    assert len(old) == len(new)
    return read_image_header(data.replace(old, new)).identity


def test_every_tag_of_a_phantom_is_read() -> None:
    found = identity(IssuerOfPatientID="Nowhere", TimezoneOffsetFromUTC="+0100", DeviceSerialNumber="7")
    assert found.patient_name == "Phantom^Drawn 0"
    assert found.patient_id == "PHANTOM-0000"
    assert found.issuer_of_patient_id == "Nowhere"
    assert found.patient_birth_date == "2021-01-10"
    assert found.patient_sex == "O"
    assert found.patient_age == "003Y"
    assert found.patient_age_years == pytest.approx(3.18, abs=0.01)
    assert found.study_date == "2024-03-15"
    assert found.acquisition_date_time == "20240315101600"
    assert found.timezone_offset_from_utc == "+0100"
    assert found.modality == "CR"
    assert found.view_position == "AP"
    assert found.body_part_examined == "CHEST"
    assert found.accession_number == "PH00000"
    assert found.device_serial_number == "7"
    assert found.institution_name == "Nowhere"
    assert found.sop_class_uid == phantoms.COMPUTED_RADIOGRAPHY
    assert found.study_instance_uid
    assert found.study_instance_uid.startswith("2.25.")


def test_a_tag_that_is_absent_or_empty_is_none() -> None:
    found = identity(PatientName="", PatientID=None, AccessionNumber=" ")
    assert (found.patient_name, found.patient_id, found.accession_number) == (None, None, None)


@pytest.mark.parametrize("charset, name", [("ISO_IR 192", "Müller^Zoë"), ("ISO_IR 144", "Иванов^Иван")])
def test_names_in_other_character_sets(charset: str, name: str) -> None:
    assert identity(SpecificCharacterSet=charset, PatientName=name).patient_name == name


def test_a_broken_tag_is_a_missing_tag() -> None:
    assert overwritten(b"20210110", b"2021XX10").patient_birth_date is None
    assert overwritten(b"003Y", b"0?3Y").patient_age_years == pytest.approx(3.18, abs=0.01)
    assert overwritten(b"2.25.", b"../..").study_instance_uid is None


def test_control_characters_do_not_come_through() -> None:
    assert overwritten(b"Phantom^Drawn 0", b"Phantom^\x1b[2J\r\n0").patient_name == "Phantom^ [2J 0"


def test_the_acquisition_is_as_written() -> None:
    written = identity(AcquisitionDateTime="20240315101500.250000+0530")
    assert (written.acquisition_date_time, written.timezone_offset_from_utc) == ("20240315101500.250000", "+0530")
    assert identity(AcquisitionTime=None).acquisition_date_time == "20240315"


@pytest.mark.parametrize("kept", ["StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"])
def test_no_date_stands_for_another_and_any_of_them_gives_the_age(kept: str) -> None:
    dates = dict.fromkeys(["StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"])
    found = identity(**dates | {kept: "20240315"})
    assert found.study_date == ("2024-03-15" if kept == "StudyDate" else None)
    assert found.acquisition_date_time == ("20240315101600" if kept == "AcquisitionDate" else None)
    assert found.patient_age_years == pytest.approx(3.18, abs=0.01)


@pytest.mark.parametrize("written", ["20240229", "2024.02.29", "2024-02-29"])
def test_dates(written: str) -> None:
    assert parse_dicom_date(written) == "2024-02-29"


@pytest.mark.parametrize("written", [None, "", "20230229", "00000000", "2024", "yesterday"])
def test_no_dates(written: str | None) -> None:
    assert parse_dicom_date(written) is None


def test_the_conflict_is_in_the_identity() -> None:
    found = identity(PatientAge="064Y")
    assert (found.patient_age_years, found.age_conflict) == (None, True)


# --------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "pattern, path, fields",
    [
        (
            "{patient_id}/{accession_number}_*.jpg",
            "17-0042/A881_front.jpg",
            {"patient_id": "17-0042", "accession_number": "A881"},
        ),
        ("{patient_id}_*", "person1_bacteria_2.jpeg", {"patient_id": "person1"}),
        ("**/{patient_id}-*.jpeg", "2026/03/P77-1.jpeg", {"patient_id": "P77"}),
        ("**/{patient_id}-*.jpeg", "P77-1.jpeg", {"patient_id": "P77"}),
        ("**/{patient_id}/*", "2026/P77/1.jpeg", {"patient_id": "P77"}),
        ("{patient_id}.{accession_number}.png", "a.b.c.png", {"patient_id": "a", "accession_number": "b.c"}),
        ("{patient_id}/*", "only-a-file.jpg", {}),
        ("{patient_id}/*", "a/b/c.jpg", {}),
        ("{patient_id}/*", "/c.jpg", {}),
        ("x (1) {patient_id}.jpg", "x (1) 5.jpg", {"patient_id": "5"}),
        ("{patient_id}.jpg", "7.JPG", {}),
        ("{patient_id}/*.jpg", " /x.jpg", {}),
    ],
)
def test_a_path_names_its_patient(pattern: str, path: str, fields: dict[str, str]) -> None:
    assert read_identity_from_path(path, pattern) == fields


@pytest.mark.parametrize(
    "pattern",
    [
        "*.jpg",
        "",
        "{patientid}/*",
        "{patient_id}/{patient_id}",
        "{patient_id}{accession_number}",
        "{patient_id}*",
        "a/**/{patient_id}",
    ],
)
def test_a_pattern_that_cannot_be_meant_is_an_error(pattern: str) -> None:
    with pytest.raises(SettingsError):
        compile_path_pattern(pattern)


def test_no_path_makes_a_pattern_slow() -> None:
    """Backtracking over eight wildcards would take years here."""
    pattern = "**/{patient_id}_*_*_*_*_*_*_*!.jpg"
    assert read_identity_from_path("a/" * 500 + "_" * 4000, pattern) == {}


@given(path=st.text(max_size=60), pattern=st.sampled_from(["{patient_id}/*", "**/{patient_id}_*.jpg"]))
def test_any_path_is_answered(path: str, pattern: str) -> None:
    assert all("/" not in value and value for value in read_identity_from_path(path, pattern).values())


def test_a_path_never_overrides_a_tag() -> None:
    known = Identity(patient_id="TAG")
    assert fill_missing_identity(known, {"patient_id": "PATH", "accession_number": "A1"}) == Identity(
        patient_id="TAG", accession_number="A1"
    )
    assert fill_missing_identity(known, {}) is known


def test_dates_that_give_no_age_contradict_the_one_that_is_stated() -> None:
    found = identity(PatientBirthDate="20250101", StudyDate="20200101")
    assert (found.patient_age_years, found.age_conflict) == (None, True)
