"""Tags of whole files: absent, understood, or present but not understood, and what follows from it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from pydicom.dataset import Dataset

from preread.core.text.vocabulary import extended
from preread.core.types import Caveat, Declared, IntendedUse, Population, RefusalCode, StatedTags, TagState
from preread.imaging.radiograph import ImageHeader, read_image_header
from preread.model.intended_use import TagCheck, check_intended_use
from preread_training.data import phantoms

USE = IntendedUse(("CR", "DX"), ("AP", "PA"), 1.0, 6.0, ("CHEST",), "children of 1 to 5 years")
IMAGE = phantoms.draw_chest(4, rows=72, columns=64)
CHILDREN = Declared(Population.CHILDREN_1_5Y)
RESEARCH = Declared(Population.RESEARCH)
SILENT: dict[str, Any] = {"StudyDescription": None, "SeriesDescription": None}
PARTS = "the bundle reads CHEST"


def header_of(**elements: Any) -> ImageHeader:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom names each value that it must not write
        return read_image_header(phantoms.to_dicom(IMAGE, **elements))


def check(declared: Declared = CHILDREN, **elements: Any) -> TagCheck:
    return check_intended_use(header_of(**elements), USE, declared)


def tags(**elements: Any) -> StatedTags:
    return check(**elements).tags


def code_of(found: TagCheck) -> RefusalCode | None:
    return found.refusal[0] if found.refusal else None


def reason_of(found: TagCheck) -> str:
    return found.refusal[1] if found.refusal else ""


def coded(value: str, meaning: str = "", **more: Any) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    for keyword, content in more.items():
        setattr(item, keyword, content)
    return [item]


# --------------------------------------------------------------------------- age


@pytest.mark.parametrize("written", ["42", "62", "3", "42YR", "0042Y", "042J", "200Y", "999Y", "000Y"])
def test_no_declaration_fills_in_an_age_that_is_not_understood(written: str) -> None:
    for declared in (CHILDREN, Declared(), Declared(assume_age=True)):
        found = check(declared, PatientAge=written, PatientBirthDate=None)
        assert code_of(found) is RefusalCode.AGE_UNKNOWN
        assert reason_of(found) == f"the patient age is {written}, which is not understood"
        assert found.caveats == (Caveat.AGE_NOT_UNDERSTOOD,)
        assert (found.tags.age.state, found.tags.age.written) == (TagState.NOT_UNDERSTOOD, written)
    found = check(RESEARCH, PatientAge=written, PatientBirthDate=None)
    assert found.caveats == (Caveat.OUTSIDE_INTENDED_AGE, Caveat.AGE_NOT_UNDERSTOOD)


@pytest.mark.parametrize(
    "written, code",
    [
        ("12/05/1970", RefusalCode.AGE_OUTSIDE),
        ("05.12.1970", RefusalCode.AGE_OUTSIDE),
        ("1970-5-12", RefusalCode.AGE_OUTSIDE),
        ("1970", RefusalCode.AGE_UNKNOWN),
        ("12.05.70", RefusalCode.AGE_UNKNOWN),
        ("19000101", RefusalCode.AGE_UNKNOWN),
        ("19010101", RefusalCode.AGE_UNKNOWN),
        ("11111111", RefusalCode.AGE_UNKNOWN),
        ("20240315", RefusalCode.AGE_UNKNOWN),  # the day of the study
        ("04/03/2018", RefusalCode.AGE_UNKNOWN),  # 6.03 or 5.95 years
        ("03.12.2020", None),
    ],
)
def test_a_birth_date_is_read_without_doubt_or_not_at_all(written: str, code: RefusalCode | None) -> None:
    found = check(PatientAge=None, PatientBirthDate=written)
    assert code_of(found) is code
    assert Caveat.AGE_DECLARED not in found.caveats
    if code is RefusalCode.AGE_UNKNOWN:
        assert written in reason_of(found)


def test_an_absent_age_is_declared() -> None:
    for written in (None, "", "N/A"):
        found = check(PatientAge=written, PatientBirthDate=None)
        assert found.caveats == (Caveat.AGE_DECLARED,)
        assert found.tags.age.state is TagState.ABSENT


def test_a_number_that_agrees_with_the_birth_date_is_an_age() -> None:
    assert check(PatientAge="3").refusal is None
    assert tags(PatientAge="3").age.value == "3.1 years"
    assert code_of(check(PatientAge="62")) is RefusalCode.AGE_UNKNOWN
    assert code_of(check(PatientAge="62", PatientBirthDate="19620101")) is RefusalCode.AGE_OUTSIDE


# --------------------------------------------------------------------------- view


@pytest.mark.parametrize("text", ["CHEST_LAT", "Thorax_seitlich", "Thorax LL", "THORAX PROFIL", "RX TORACE L-L"])
@pytest.mark.parametrize("position", [None, "", "UNKNOWN", "AP"])
def test_a_lateral_view_in_a_description(text: str, position: str | None) -> None:
    for keyword in ("SeriesDescription", "ProtocolName"):
        described: dict[str, Any] = {"SeriesDescription": "Routine", keyword: text}
        found = check(ViewPosition=position, **described)
        assert code_of(found) is RefusalCode.VIEW
        assert reason_of(found).startswith("the view is LATERAL (")
        assert reason_of(found).endswith("); the bundle reads AP, PA")


@pytest.mark.parametrize("position", ["AP LORDOTIC", "AP DECUBITUS", "PA OBLIQUE", "L", "LLAT", "PROFIL", "SEITLICH"])
def test_a_word_for_another_view_wins(position: str) -> None:
    assert code_of(check(ViewPosition=position, SeriesDescription="Chest")) is RefusalCode.VIEW
    assert code_of(check(ViewPosition="AP", SeriesDescription=f"Chest {position} decubitus")) is RefusalCode.VIEW
    assert check(RESEARCH, ViewPosition=position).caveats == (Caveat.OUTSIDE_INTENDED_VIEW,)


def test_a_protocol_of_two_views_decides_nothing() -> None:
    assert check(ViewPosition="AP", SeriesDescription="Chest PA/LAT") == TagCheck()
    assert check(ViewPosition=None, SeriesDescription="Chest PA/LAT").caveats == (Caveat.VIEW_UNKNOWN,)


def test_view_codes() -> None:
    lateral, frontal = coded("399067008"), coded("R-10206", "antero-posterior")
    assert code_of(check(ViewPosition=None, ViewCodeSequence=lateral)) is RefusalCode.VIEW
    assert code_of(check(ViewPosition="AP", ViewCodeSequence=lateral)) is RefusalCode.VIEW
    assert check(ViewPosition=None, SeriesDescription=None, ViewCodeSequence=frontal) == TagCheck()
    assert check(ViewPosition=None, SeriesDescription=None, ViewCodeSequence=coded("399033003")) == TagCheck()
    modified = coded("399348003", "antero-posterior", ViewModifierCodeSequence=coded("X1", "lordotic"))
    assert code_of(check(ViewPosition="AP", ViewCodeSequence=modified)) is RefusalCode.VIEW
    found = check(ViewPosition=None, SeriesDescription=None, ViewCodeSequence=coded("X1", "Zzzz"))
    assert found.tags.view.state is TagState.NOT_UNDERSTOOD


@pytest.mark.parametrize("orientation, code", [("A\\F", "view"), ("P\\F", "view"), ("L\\F", None), ("R\\F", None)])
def test_patient_orientation(orientation: str, code: str | None) -> None:
    found = check(ViewPosition=None, SeriesDescription=None, PatientOrientation=orientation.split("\\"))
    assert (code_of(found), found.caveats) == (code, ())
    assert check(ViewPosition="AP", PatientOrientation=orientation.split("\\")) == TagCheck()


@pytest.mark.parametrize("position", ["ZZZZ", "QUATSCH", "AP ZZZZ"])
def test_a_view_that_is_not_understood(position: str) -> None:
    found = check(ViewPosition=position)
    assert found.refusal is None
    assert found.caveats == (Caveat.VIEW_UNKNOWN, Caveat.VIEW_NOT_UNDERSTOOD)
    assert found.tags.view.written == position
    reason = f"the view is {position}, which is not understood, and the pixels are not clearly those of a frontal view"
    assert found.refusal_unless_typical == (RefusalCode.VIEW, f"{reason}; the bundle reads AP, PA")
    assert check(RESEARCH, ViewPosition=position).refusal_unless_typical is None


# --------------------------------------------------------------------------- body part


@pytest.mark.parametrize(
    "written", ["TORACE", "BRUSTKORB", "TORAKS", "BORST", "KLATKA PIERSIOWA", "HRUDNIK", "PULMAO", "CHST"]
)
def test_the_chest_in_other_languages(written: str) -> None:
    assert check(BodyPartExamined=written, **SILENT) == TagCheck()
    assert tags(BodyPartExamined=written).body_part.value == "CHEST"


@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO_IR 100", "GB18030"])
@pytest.mark.parametrize("written", ["T\u00d3RAX", "\u80f8\u90e8"])
def test_the_chest_in_utf_8(charset: str, written: str) -> None:
    data = phantoms.to_dicom(IMAGE, SpecificCharacterSet=charset, BodyPartExamined="ZZZZZZ", **SILENT)
    found = check_intended_use(read_image_header(data.replace(b"ZZZZZZ", written.encode(), 1)), USE, CHILDREN)
    assert found == TagCheck()
    assert found.tags.body_part.written == written


def test_the_chest_in_gb18030() -> None:
    data = phantoms.to_dicom(IMAGE, SpecificCharacterSet="GB18030", BodyPartExamined="ZZZZ", **SILENT)
    data = data.replace(b"ZZZZ", "\u80f8\u90e8".encode("gb18030"), 1)
    assert check_intended_use(read_image_header(data), USE, CHILDREN) == TagCheck()


@pytest.mark.parametrize("written", ["DEFAULT", "XX", "N/A", "NONE", "UNKNOWN", "ICU", "", None])
def test_an_absent_body_part(written: str | None) -> None:
    found = check(BodyPartExamined=written, **SILENT)
    assert (found.refusal, found.caveats) == (None, (Caveat.BODY_PART_UNKNOWN,))
    assert found.tags.body_part.state is TagState.ABSENT
    assert found.refusal_unless_typical is None
    assert check(BodyPartExamined=written) == TagCheck()


@pytest.mark.parametrize(
    "written, part",
    [
        ("THORACIC VERT", "SPINE"),
        ("RACHIS THORAC", "SPINE"),
        ("BRUST-WS", "SPINE"),
        ("FEMORE LUNGO", "LOWER LIMB"),
        ("RIBS", "RIBS"),
        ("ABDOMEN", "ABDOMEN"),
        ("CHESTABDOMEN", "CHEST and ABDOMEN"),
        ("CHEST\\ABDOMEN", "CHEST and ABDOMEN"),
        ("LEFT_KNEE_AP", "LOWER LIMB"),
    ],
)
def test_another_body_part(written: str, part: str) -> None:
    found = check(BodyPartExamined=written)
    assert code_of(found) is RefusalCode.BODY_PART
    shown = part if part == written else f"{part} ({written})"
    assert reason_of(found) == f"the body part is {shown}; {PARTS}"


@pytest.mark.parametrize("text", ["LEFT_KNEE_AP", "Abdomen_AP", "Chest and abdomen", "Wirbelsäule", "Rippen li."])
def test_another_body_part_in_a_description(text: str) -> None:
    charset = "ISO_IR 192"
    found = check(BodyPartExamined=None, StudyDescription=None, SeriesDescription=text, SpecificCharacterSet=charset)
    assert code_of(found) is RefusalCode.BODY_PART
    found = check(BodyPartExamined="ZZZZ", StudyDescription=None, SeriesDescription=text, SpecificCharacterSet=charset)
    assert code_of(found) is RefusalCode.BODY_PART


def test_region_codes() -> None:
    for code in ("816094009", "T-D3000", "51185008"):
        assert check(BodyPartExamined="ZZZZ", AnatomicRegionSequence=coded(code), **SILENT) == TagCheck()
    found = check(BodyPartExamined=None, AnatomicRegionSequence=coded("T-D9200"), **SILENT)
    assert code_of(found) is RefusalCode.BODY_PART
    found = check(BodyPartExamined=None, AnatomicRegionSequence=coded("X1", "Zzzz"), **SILENT)
    assert found.tags.body_part.state is TagState.NOT_UNDERSTOOD


@pytest.mark.parametrize("written", ["ZZZZ", "MELKAS", "7", "LUNGO"])
def test_a_body_part_that_is_not_understood(written: str) -> None:
    for declared in (CHILDREN, RESEARCH):
        found = check(declared, BodyPartExamined=written)
        assert found.refusal is None
        assert found.caveats == (Caveat.BODY_PART_UNKNOWN, Caveat.BODY_PART_NOT_UNDERSTOOD)
        reason = f"the body part is {written}, which is not understood, and the pixels are not clearly those of a chest"
        assert found.refusal_unless_typical == (RefusalCode.BODY_PART, f"{reason}; {PARTS}")


def test_a_sites_words_are_understood() -> None:
    site = Declared(Population.CHILDREN_1_5Y, vocabulary=extended('[part.CHEST]\nwords = ["melkas"]\n'))
    assert check(site, BodyPartExamined="MELKAS_1") == TagCheck()


def test_a_bundle_for_another_body_part() -> None:
    use = IntendedUse(("CR",), ("AP",), 0.0, 130.0, ("ABDOMEN", "MELKAS"), "abdomen")
    for written, code in (("BAUCH", None), ("MELKAS", None), ("CHEST", RefusalCode.BODY_PART)):
        assert code_of(check_intended_use(header_of(BodyPartExamined=written), use, CHILDREN)) is code
    found = check_intended_use(header_of(BodyPartExamined="BAUCH", ViewPosition="FRONTAL"), use, CHILDREN)
    assert found.caveats == (Caveat.VIEW_UNKNOWN,)  # the bundle was not made for PA


# --------------------------------------------------------------------------- modality, SOP class, species

CAPTURES = ["1.2.840.10008.5.1.4.1.1.7", *(f"1.2.840.10008.5.1.4.1.1.7.{n}" for n in (2, 3, 4))]
PLAIN = ["1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"]


@pytest.mark.parametrize("sop_class", [*PLAIN, *CAPTURES])
@pytest.mark.parametrize("modality", ["CR", "DX", "DR", "RG", "XR"])
def test_radiographs_and_captures_of_them_are_read(sop_class: str, modality: str) -> None:
    assert check(SOPClassUID=sop_class, Modality=modality) == TagCheck()


@pytest.mark.parametrize("sop_class", [*PLAIN, *CAPTURES])
@pytest.mark.parametrize("modality, stated", [("OT", "OT"), ("CT", "CT"), ("QX", "QX, which is not a term of DICOM")])
def test_another_modality_is_refused(sop_class: str, modality: str, stated: str) -> None:
    found = check(SOPClassUID=sop_class, Modality=modality)
    assert found.refusal == (RefusalCode.MODALITY, f"the modality is {stated}; the bundle reads CR, DX")
    understood = TagState.NOT_UNDERSTOOD if modality == "QX" else TagState.UNDERSTOOD
    assert found.tags.modality.state is understood


@pytest.mark.parametrize("modality", [None, "", "UNKNOWN", "XX"])
def test_a_missing_modality_is_replaced_by_the_class_of_a_radiograph_only(modality: str | None) -> None:
    for sop_class in PLAIN:
        assert check(SOPClassUID=sop_class, Modality=modality) == TagCheck()
    found = check(SOPClassUID=CAPTURES[0], Modality=modality)
    assert found.refusal == (RefusalCode.MODALITY, "the image states no modality; the bundle reads CR, DX")


@pytest.mark.parametrize("modality", ["CR", "DX"])
@pytest.mark.parametrize(
    "sop_class, stated",
    [
        ("1.2.392.200036.9125.1.1.2", "the SOP class 1.2.392.200036.9125.1.1.2 is a manufacturer's own, whose pixels"),
        ("1.2.840.10008.5.1.4.1.1.12.2", "the SOP class is X-Ray Radiofluoroscopic Image Storage, not that of a plain"),
        ("1.2.840.10008.5.1.4.1.1.12.1", "the SOP class is X-Ray Angiographic Image Storage, not that of a plain"),
    ],
)
def test_another_sop_class_is_refused_without_a_contradiction(sop_class: str, stated: str, modality: str) -> None:
    found = check(SOPClassUID=sop_class, Modality=modality)
    assert code_of(found) is RefusalCode.MODALITY
    assert reason_of(found).startswith(stated)
    assert "the modality is" not in reason_of(found)


@pytest.mark.parametrize(
    "elements",
    [
        {"PatientBreedDescription": "N/A"},
        {"PatientBreedDescription": "Unknown"},
        {"PatientSpeciesDescription": "NONE"},
        {"PatientSpeciesDescription": "Human", "PatientBreedDescription": "none"},
        {"PatientSpeciesDescription": "MENSCH"},
        {"PatientSpeciesCodeSequence": coded("L-85B00", "homo sapiens")},
        {"PatientSpeciesCodeSequence": coded("337915000")},
    ],
)
def test_people_and_placeholders_are_no_animals(elements: dict[str, Any]) -> None:
    assert check(**elements) == TagCheck()


@pytest.mark.parametrize(
    "elements, state",
    [
        ({"PatientBreedDescription": "Beagle"}, TagState.UNDERSTOOD),
        ({"PatientSpeciesDescription": "Hund"}, TagState.UNDERSTOOD),
        ({"PatientSpeciesDescription": "Human", "PatientBreedDescription": "Beagle"}, TagState.UNDERSTOOD),
        ({"ResponsiblePersonRole": "OWNER"}, TagState.UNDERSTOOD),
        ({"SeriesDescription": "CANINE_THORAX_VD"}, TagState.UNDERSTOOD),
        ({"PatientSpeciesDescription": "Zzzz"}, TagState.NOT_UNDERSTOOD),
        ({"PatientSpeciesCodeSequence": coded("1", "")}, TagState.NOT_UNDERSTOOD),
    ],
)
def test_animals_and_unknown_species_are_refused(elements: dict[str, Any], state: TagState) -> None:
    for declared in (CHILDREN, RESEARCH):
        found = check(declared, **elements)
        assert code_of(found) is RefusalCode.NOT_HUMAN
        assert found.tags.species.state is state
        assert ("not understood" in reason_of(found)) == (state is TagState.NOT_UNDERSTOOD)


def test_a_picture_states_nothing() -> None:
    found = check_intended_use(ImageHeader(format="JPEG", identity=header_of().identity), USE, CHILDREN)
    assert {found.tags.age.state, found.tags.species.state} == {TagState.ABSENT}
