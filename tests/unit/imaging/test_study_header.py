"""Patient and study are kept as the file states them."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from preread.core.study_header import ELEMENT_BYTES_MAX, HEADER_BYTES_MAX, TAGS, StudyHeader
from preread.imaging.radiograph import read_image_header
from preread_training.data import phantoms

PIXELS = phantoms.draw_chest(1, rows=64, columns=64)


def header(syntax: str = "explicit", **elements: Any) -> StudyHeader:
    found = read_image_header(phantoms.to_dicom(PIXELS, phantoms.Encoding(syntax=syntax), **elements)).study_header
    assert found is not None
    return found


def patched(old: bytes, new: bytes) -> StudyHeader:
    """The header of a file in which some bytes were written over."""
    data = phantoms.to_dicom(PIXELS)
    assert old in data
    assert len(old) == len(new)
    found = read_image_header(data.replace(old, new)).study_header
    assert found is not None
    return found


TEXTS = {
    "PatientID": "A 1",
    "IssuerOfPatientID": "KLINIKUM",
    "PatientBirthDate": "20210110",
    "PatientBirthTime": "0715",
    "PatientSex": "F",
    "PatientAge": "003Y",
    "StudyID": "77",
    "StudyDate": "20240315",
    "StudyTime": "101500.25",
    "AccessionNumber": "A-9",
    "StudyDescription": "Thorax",
    "RequestedProcedureDescription": "Thorax p.a.",
    "RequestedProcedureID": "RP-1",
    "TimezoneOffsetFromUTC": "+0100",
}


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big-endian", "deflated"])
def test_every_element_that_a_result_object_repeats_is_kept(syntax: str) -> None:
    issuer, code = Dataset(), Dataset()
    issuer.LocalNamespaceEntityID = "Röntgen"
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399208008", "SCT", "Plain chest X-ray"
    found = header(
        syntax,
        **TEXTS,
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Ångström^Åsa",
        ReferringPhysicianName="Müller^Eva",
        PatientOrientation=["L", "F"],
        IssuerOfAccessionNumberSequence=[issuer],
        RequestedProcedureCodeSequence=[code],
    )
    assert found.left_out == ()
    assert {keyword: found.text(keyword) for keyword in TEXTS} == TEXTS
    elements = json.loads(found.elements)
    assert elements[TAGS["PatientName"]] == {"vr": "PN", "Value": [{"Alphabetic": "Ångström^Åsa"}]}
    assert elements[TAGS["ReferringPhysicianName"]]["Value"] == [{"Alphabetic": "Müller^Eva"}]
    assert elements[TAGS["PatientOrientation"]]["Value"] == ["L", "F"]
    (issued,) = elements[TAGS["IssuerOfAccessionNumberSequence"]]["Value"]
    assert issued == {"00400031": {"vr": "UT", "Value": ["Röntgen"]}}
    (procedure,) = elements[TAGS["RequestedProcedureCodeSequence"]]["Value"]
    assert procedure["00080104"]["Value"] == ["Plain chest X-ray"]
    assert Dataset.from_json(found.elements).PatientName == "Ångström^Åsa", "it is the DICOM JSON Model"


# The names of PS3.5 annexes H to K, with the groups that their bytes stand for.
NAMES = [
    ("ISO_IR 100", "Buc^J\xe9r\xf4me".encode("latin-1"), ["Buc^Jérôme"]),
    ("ISO_IR 144", "Иванов^Иван".encode("iso8859_5"), ["Иванов^Иван"]),
    ("GB18030", "Wang^XiaoDong=王^小东=".encode("gb18030"), ["Wang^XiaoDong", "王^小东"]),
    (
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        ["Yamada^Tarou", "山田^太郎", "やまだ^たろう"],
    ),
    (
        "\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        ["Hong^Gildong", "洪^吉洞", "홍^길동"],
    ),
]


@pytest.mark.parametrize("character_set, written, groups", NAMES)
def test_a_name_is_kept_with_its_character_set(character_set: str, written: bytes, groups: list[str]) -> None:
    name = Dataset()
    name.SpecificCharacterSet = character_set.split("\\") if "\\" in character_set else character_set
    data = phantoms.to_dicom(PIXELS, SpecificCharacterSet=name.SpecificCharacterSet, PatientName="N" * len(written))
    found = read_image_header(data.replace(b"N" * len(written), written)).study_header
    assert found is not None
    elements = json.loads(found.elements)
    assert list(elements[TAGS["PatientName"]]["Value"][0].values()) == groups
    assert elements[TAGS["SpecificCharacterSet"]]["Value"] == [part or None for part in character_set.split("\\")]


def test_what_cannot_be_decoded_is_kept_as_its_bytes() -> None:
    data = phantoms.to_dicom(PIXELS, SpecificCharacterSet="ISO_IR 192", PatientName="Xavier")
    found = read_image_header(data.replace(b"Xavier", b"X\xffvi\xe9r")).study_header
    assert found is not None
    element = json.loads(found.elements)[TAGS["PatientName"]]
    assert (element["vr"], base64.b64decode(element["InlineBinary"])) == ("UN", b"X\xffvi\xe9r")
    element = json.loads(patched(b"003Y", b"00\xe9Y").elements)[TAGS["PatientAge"]]
    assert base64.b64decode(element["InlineBinary"]) == b"00\xe9Y", "outside the default repertoire"


@pytest.mark.parametrize("written", [b"12/05/70", b"1970    ", b"19000101", b"        "])
def test_a_value_is_kept_that_is_no_date(written: bytes) -> None:
    assert patched(b"20210110", written).text("PatientBirthDate") == (written.decode().rstrip() or None)


def test_an_empty_element_is_not_an_absent_one() -> None:
    elements = json.loads(header(StudyID="", AccessionNumber=None).elements)
    assert elements[TAGS["StudyID"]] == {"vr": "SH"}
    assert TAGS["AccessionNumber"] not in elements


def test_each_date_stays_what_it_is() -> None:
    data = phantoms.to_dicom(PIXELS, StudyDate=None, StudyTime=None, AcquisitionDate="20261128", ContentDate="20261130")
    read = read_image_header(data)
    assert read.study_header is not None
    assert (read.identity.study_date, read.identity.acquisition_date_time) == (None, "20261128101600")
    assert read.study_header.text("StudyDate") is None
    assert read.study_header.text("AcquisitionDate") == "20261128"
    assert read.study_header.text("ContentDate") == "20261130"


def test_an_image_without_tags_has_none() -> None:
    assert read_image_header(phantoms.to_jpeg(PIXELS)).study_header is None


# ---------------------------------------------------------------------- limits


def test_an_element_beyond_the_limit_is_named_and_nothing_else_is_lost() -> None:
    item = Dataset()
    item.RequestedProcedureDescription = "x" * 64
    found = header(PhysiciansOfRecord=["y" * 60] * 80, RequestAttributesSequence=[item] * 60)
    assert set(found.left_out) == {"PhysiciansOfRecord", "RequestAttributesSequence"}
    assert found.text("PatientID") == "PHANTOM-0000"
    assert found.text("StudyDate") == "20240315"


def test_sequences_that_nest_deeply_are_left_out() -> None:
    inner = Dataset()
    inner.StudyID = "1"
    for _ in range(5):
        outer = Dataset()
        outer.RequestAttributesSequence = [inner]
        inner = outer
    assert header(RequestAttributesSequence=[inner]).left_out == ("RequestAttributesSequence",)


@given(
    elements=st.dictionaries(
        st.sampled_from(list(TAGS)),
        st.one_of(
            st.none(),
            st.builds(lambda text: {"vr": "LO", "Value": [text]}, st.text(max_size=ELEMENT_BYTES_MAX)),
            st.builds(lambda length: {"vr": "LO", "Value": ["é" * length]}, st.integers(0, ELEMENT_BYTES_MAX)),
        ),
    )
)
def test_a_header_keeps_its_limits_whatever_it_is_given(elements: dict[str, Any]) -> None:
    found = StudyHeader.of(elements)
    assert len(found.elements) <= HEADER_BYTES_MAX
    values = json.loads(found.elements)
    assert len(values) + len(found.left_out) == len(elements)
    for keyword, element in elements.items():
        assert (keyword in found.left_out) != (TAGS[keyword] in values)
        assert keyword in found.left_out or values[TAGS[keyword]] == element


@pytest.mark.parametrize(
    "elements",
    [
        "",
        "[]",
        "[" * 20_000,
        '{"00100010": 1}',
        '{"00100010": {"vr": 1}}',
        '{"00100010": {"vr": "PN", "BulkDataURI": "http://example.org"}}',
        '{"00104000": {"vr": "LT", "Value": ["a comment is not kept"]}}',
        json.dumps({"00100010": {"vr": "PN", "Value": ["x" * ELEMENT_BYTES_MAX]}}),
        " " * HEADER_BYTES_MAX + "{}",
        '{"00100010": {"vr": "PN", "Value": ["é"]}}',
    ],
)
def test_anything_else_is_no_header(elements: str) -> None:
    with pytest.raises(ValueError, match="the study header"):
        StudyHeader(elements)


def test_only_kept_elements_are_left_out() -> None:
    with pytest.raises(ValueError, match="the study header"):
        StudyHeader("{}", ("Müller^Eva",))


@given(st.binary(max_size=300), st.sampled_from(["ISO_IR 192", "GB18030", "ISO 2022 IR 87", "nonsense", ""]))
def test_any_bytes_give_a_header(value: bytes, character_set: str) -> None:
    data = phantoms.to_dicom(PIXELS, SpecificCharacterSet=None, PatientName="N" * 8)
    written = b"PN" + struct.pack("<H", 8) + b"N" * 8
    declared = character_set.encode() + b" " * (len(character_set) % 2)
    value += b" " * (len(value) % 2)
    data = data.replace(written, b"PN" + struct.pack("<H", len(value)) + value)
    # before (0008,0016), the first element of the data set
    first = b"\x08\x00\x16\x00UI"
    data = data.replace(first, b"\x08\x00\x05\x00CS" + struct.pack("<H", len(declared)) + declared + first)
    found = read_image_header(data).study_header
    assert found is not None
    element = json.loads(found.elements)[TAGS["PatientName"]]
    assert element["vr"] in {"PN", "UN"}
