"""Intended use by tags: which films a bundle may speak of, and why not of the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from preread.core.text.ages import ABSENT_AGE, AgeReading, read_age
from preread.core.types import Caveat, Declared, Identity, IntendedUse, Population, RefusalCode, TagState
from preread.imaging.radiograph import ImageHeader
from preread.model.intended_use import TagCheck, check_intended_use

USE = IntendedUse(("CR", "DX"), ("AP", "PA"), 1.0, 6.0, ("CHEST",), "children of 1 to 5 years")
CHILD = Identity(patient_id="P1", modality="CR", body_part_examined="CHEST", view_position="AP")
THREE = AgeReading(TagState.UNDERSTOOD, 3.0, 3.0, "003Y")
FILM = ImageHeader(CHILD, "DICOM", rows=2000, columns=1800, sop_class_uid="1.2.840.10008.5.1.4.1.1.1", age=THREE)
PICTURE = ImageHeader(Identity(), "JPEG", rows=1000, columns=1200)
RESEARCH = Declared(Population.RESEARCH)
CHILDREN = Declared(Population.CHILDREN_1_5Y)


def verdict(header: ImageHeader = FILM, declared: Declared = Declared(), **tags: Any) -> TagCheck:
    """The verdict on a film in which some tags are others; names of ``Header`` go there, the rest to its identity."""
    own = {name: value for name, value in tags.items() if name in ImageHeader.__dataclass_fields__}
    others = {name: value for name, value in tags.items() if name not in own}
    return check_intended_use(replace(header, identity=replace(header.identity, **others), **own), USE, declared)


def of(years: float) -> AgeReading:
    """An age that is understood."""
    return AgeReading(TagState.UNDERSTOOD, years, years, "as written")


CONFLICT = read_age("064Y", "20210110", ["20240315"])


def refused(found: TagCheck) -> RefusalCode | None:
    return found.refusal[0] if found.refusal else None


def test_a_childs_frontal_chest_film_passes_without_a_caveat() -> None:
    assert verdict() == TagCheck(None, ())


# --------------------------------------------------------------------------- kind


@pytest.mark.parametrize("modality", ["CT", "US", "MR", "MG", "OT", "NM", "XA"])
def test_another_modality_is_refused(modality: str) -> None:
    assert refused(verdict(modality=modality)) is RefusalCode.MODALITY
    assert refused(verdict(modality=modality, sop_class_uid=None)) is RefusalCode.MODALITY


def test_another_sop_class_is_refused_whatever_the_modality_says() -> None:
    assert refused(verdict(sop_class_uid="1.2.840.10008.5.1.4.1.1.2")) is RefusalCode.MODALITY


@pytest.mark.parametrize("modality", ["DX", None, "DR", "RG", "XR"])
def test_dirty_modalities_of_films_pass(modality: str | None) -> None:
    assert verdict(modality=modality, sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1").refusal is None


def test_a_secondary_capture_must_say_that_it_is_a_film() -> None:
    capture = "1.2.840.10008.5.1.4.1.1.7"
    assert verdict(sop_class_uid=capture).refusal is None
    assert refused(verdict(sop_class_uid=capture, modality=None)) is RefusalCode.MODALITY
    assert refused(verdict(sop_class_uid=capture, modality="OT")) is RefusalCode.MODALITY


def test_raw_data_are_refused() -> None:
    assert refused(verdict(presentation_intent_type="FOR PROCESSING")) is RefusalCode.FOR_PROCESSING
    assert refused(verdict(sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1.1")) is RefusalCode.FOR_PROCESSING


def test_what_is_no_picture_is_refused() -> None:
    assert refused(verdict(is_image=False, has_pixels=False)) is RefusalCode.NOT_AN_IMAGE


def test_a_film_that_broke_off_is_left_to_decoding() -> None:
    """Its other tags may be cut off; that they are missing is not its fault."""
    assert verdict(has_pixels=False, modality=None, body_part_examined=None, age=ABSENT_AGE) == TagCheck()
    assert refused(verdict(has_pixels=False, modality="CT")) is RefusalCode.MODALITY


def test_frames_of_another_modality_are_refused_and_of_a_film_left_to_decoding() -> None:
    assert refused(verdict(number_of_frames=30, modality="US")) is RefusalCode.MODALITY
    assert verdict(number_of_frames=30) == TagCheck()


@pytest.mark.parametrize("rows, columns", [(16, 16), (2000, 400), (40, 120)])
def test_an_odd_shape_is_refused(rows: int, columns: int) -> None:
    assert refused(verdict(rows=rows, columns=columns)) is RefusalCode.SHAPE
    assert refused(verdict(PICTURE, CHILDREN, rows=rows, columns=columns)) is RefusalCode.SHAPE


# --------------------------------------------------------------------------- animals


@pytest.mark.parametrize(
    "tags",
    [
        {"species": ("canis lupus familiaris",)},
        {"breed": ("beagle",)},
        {"has_owner": True},
        {"search_text": ("canine lateral thorax",)},
        {"institution_name": "Springfield Veterinary Clinic"},
    ],
)
def test_an_animal_is_refused_under_every_declaration(tags: dict[str, Any]) -> None:
    for declared in (Declared(), CHILDREN, RESEARCH):
        assert refused(verdict(declared=declared, **tags)) is RefusalCode.NOT_HUMAN


def test_a_hospital_for_veterans_is_for_people() -> None:
    assert verdict(institution_name="Veterans Hospital").refusal is None


# --------------------------------------------------------------------------- body part


@pytest.mark.parametrize("part", ["CHEST", "THORAX", "NON GRID CHEST", "PORTABLE CHEST", "TORAX", "LUNG"])
def test_words_for_the_chest_pass(part: str) -> None:
    assert verdict(body_part_examined=part) == TagCheck(None, ())


@pytest.mark.parametrize("part", ["HAND", "ABDOMEN", "EXTREMITY", "TSPINE", "THORACIC SPINE", "CHESTABDOMEN", "SKULL"])
def test_another_body_part_is_refused(part: str) -> None:
    assert refused(verdict(body_part_examined=part)) is RefusalCode.BODY_PART
    assert refused(verdict(body_part_examined=part, declared=RESEARCH)) is RefusalCode.BODY_PART


def test_a_body_part_is_looked_for_in_codes_and_descriptions() -> None:
    assert verdict(body_part_examined=None, body_part_codes=("51185008",)).caveats == ()
    assert verdict(body_part_examined=None, search_text=("xr chest 1 view",)).caveats == ()
    assert verdict(body_part_examined=None, search_text=("thorax p.a.",)).caveats == ()
    assert refused(verdict(body_part_examined=None, body_part_codes=("knee",))) is RefusalCode.BODY_PART
    assert refused(verdict(body_part_examined=None, search_text=("left knee",))) is RefusalCode.BODY_PART


@pytest.mark.parametrize("part", [None, "UNKNOWN", "OTHER"])
def test_a_film_without_body_part_passes_with_a_caveat(part: str | None) -> None:
    assert verdict(body_part_examined=part, search_text=("routine",)) == TagCheck(None, (Caveat.BODY_PART_UNKNOWN,))


# --------------------------------------------------------------------------- view


@pytest.mark.parametrize("view", ["AP", "PA", "AP PORTABLE", "PA/ERECT"])
def test_frontal_views_pass(view: str) -> None:
    assert verdict(view_position=view) == TagCheck(None, ())


@pytest.mark.parametrize("view", ["LL", "RL", "LATERAL", "LARGE LATERAL", "LLD", "RAO", "LPO"])
def test_other_views_are_refused_but_for_research(view: str) -> None:
    assert refused(verdict(view_position=view)) is RefusalCode.VIEW
    assert refused(verdict(view_position=view, declared=CHILDREN)) is RefusalCode.VIEW
    assert verdict(view_position=view, declared=RESEARCH) == TagCheck(None, (Caveat.OUTSIDE_INTENDED_VIEW,))


@pytest.mark.parametrize(
    "tags",
    [
        {"view_codes": ("399067008", "lateral")},
        {"view_codes": ("x-1", "left lateral oblique")},
        {"view_text": ("chest lat",)},
        {"view_text": ("thorax seitlich",)},
        {"patient_orientation": "A\\F"},
        {"patient_orientation": "P\\F"},
    ],
)
def test_a_lateral_view_is_looked_for_elsewhere(tags: dict[str, Any]) -> None:
    assert refused(verdict(view_position=None, **tags)) is RefusalCode.VIEW


@pytest.mark.parametrize(
    "tags",
    [
        {"view_codes": ("399348003", "antero-posterior")},
        {"view_text": ("chest pa",)},
        {"view_text": ("chest a.p.",)},
        {"patient_orientation": "L\\F"},
        {"patient_orientation": "R\\F"},
    ],
)
def test_a_frontal_view_is_looked_for_elsewhere(tags: dict[str, Any]) -> None:
    assert verdict(view_position=None, **tags) == TagCheck(None, ())


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"view_text": ("bilateral infiltrates",)},
        {"view_text": ("chest ap/lat",)},
        {"search_text": ("chest pa and lateral",)},
        {"view_position": "SUPINE"},
        {"view_position": "UNKNOWN"},
        {"patient_orientation": "H\\H"},
    ],
)
def test_a_film_without_view_passes_with_a_caveat(tags: dict[str, Any]) -> None:
    assert verdict(**{"view_position": None, **tags}) == TagCheck(None, (Caveat.VIEW_UNKNOWN,))


# --------------------------------------------------------------------------- age


@pytest.mark.parametrize("years", [1.0, 5.99])
def test_ages_within_pass(years: float) -> None:
    assert verdict(age=of(years)) == TagCheck(None, ())


@pytest.mark.parametrize("years", [0.0, 0.99, 6.0, 41.0])
def test_ages_outside_are_refused_whatever_a_root_declares_but_for_research(years: float) -> None:
    """A declaration never overrides a tag."""
    for declared in (Declared(), CHILDREN, Declared(assume_age=True)):
        assert refused(verdict(age=of(years), declared=declared)) is RefusalCode.AGE_OUTSIDE
    found = verdict(age=of(years), declared=RESEARCH)
    assert found == TagCheck(None, (Caveat.OUTSIDE_INTENDED_AGE,))


def test_an_unknown_age_needs_a_declaration() -> None:
    assert refused(verdict(age=ABSENT_AGE)) is RefusalCode.AGE_UNKNOWN
    assert verdict(age=ABSENT_AGE, declared=CHILDREN).caveats == (Caveat.AGE_DECLARED,)
    assert verdict(age=ABSENT_AGE, declared=Declared(assume_age=True)).caveats == (Caveat.AGE_ASSUMED,)
    assert verdict(age=ABSENT_AGE, declared=RESEARCH).caveats == (Caveat.OUTSIDE_INTENDED_AGE,)


def test_tags_that_contradict_each_other_are_not_silent() -> None:
    for declared in (Declared(), CHILDREN, Declared(assume_age=True)):
        found = verdict(age=CONFLICT, declared=declared)
        assert refused(found) is RefusalCode.AGE_UNKNOWN
    found = verdict(age=CONFLICT, declared=RESEARCH)
    assert found.caveats == (Caveat.OUTSIDE_INTENDED_AGE, Caveat.AGE_NOT_UNDERSTOOD)


# --------------------------------------------------------------------------- pictures, words


def test_a_picture_without_tags() -> None:
    assert refused(verdict(PICTURE)) is RefusalCode.AGE_UNKNOWN
    expected = (Caveat.NO_TAGS, Caveat.AGE_DECLARED, Caveat.UNIDENTIFIED)
    assert verdict(PICTURE, CHILDREN) == TagCheck(None, expected)
    assert Caveat.UNIDENTIFIED not in verdict(PICTURE, CHILDREN, patient_id="FROM-PATH").caveats


def test_a_film_without_patient_is_unidentified() -> None:
    assert verdict(patient_id=None) == TagCheck(None, (Caveat.UNIDENTIFIED,))


def test_a_reason_holds_no_more_of_a_tag_than_a_word() -> None:
    found = verdict(body_part_examined="KNEE\x1b[31m<script>" + "A" * 500)
    assert found.refusal is not None
    assert "\x1b" not in found.refusal[1]
    assert "<" not in found.refusal[1]
    assert len(found.refusal[1]) < 120
