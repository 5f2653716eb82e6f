"""The conformance statement: what it lists is what is read, and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom._uid_dict import UID_dictionary

from preread.core.types import Declared, IntendedUse, Population, RefusalCode
from preread.imaging.radiograph import read_image_header
from preread.model.intended_use import check_intended_use
from preread.model.stated_tags import MODALITIES, MODALITY_ALIASES
from preread_training.data import phantoms

STATEMENT = (Path(__file__).parents[3] / "docs" / "reference" / "conformance.md").read_text(encoding="utf-8")
USE = IntendedUse(("CR", "DX"), ("AP", "PA"), 1.0, 6.0, ("CHEST",), "children of 1 to 5 years")
CHILDREN = Declared(Population.CHILDREN_1_5Y)
HEADER = read_image_header(phantoms.to_dicom(phantoms.draw_chest(2, rows=64, columns=64)))
ROOT = "1.2.840.10008.5.1.4.1.1"
CLASSES = sorted(uid for uid, (name, kind, *_) in UID_dictionary.items() if kind == "SOP Class" and "Storage" in name)


def paragraph(title: str) -> str:
    """The paragraph of the statement that begins with this title."""
    found = re.search(rf"^\*\*{re.escape(title)}\.\*\*.*?(?=\n\n)", STATEMENT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return " ".join(found[0].split())


def listed_classes() -> set[str]:
    """SOP classes that are read: the UIDs before the sentence on those that are refused."""
    read = paragraph("SOP classes").split("is refused")[0]
    assert "its multi-frame kinds with one frame" in read
    uids = {uid.replace("...", "1.2.840.10008.5.1.4.1.") for uid in re.findall(r"`([\d.]+)`", read)}
    return uids | {f"{ROOT}.7.{number}" for number in (1, 2, 3, 4)}


def refused(sop_class: str, modality: str | None = "CR") -> RefusalCode | None:
    identity = replace(HEADER.identity, sop_class_uid=sop_class, modality=modality)
    found = check_intended_use(replace(HEADER, sop_class_uid=sop_class, identity=identity), USE, CHILDREN)
    return found.refusal[0] if found.refusal else None


@pytest.mark.parametrize("modality", ["CR", "DX", "DR", "RG", "XR"])
def test_the_sop_classes_that_are_listed_are_read_and_no_other(modality: str) -> None:
    assert {uid for uid in CLASSES if refused(uid, modality) is None} == listed_classes()


def test_for_processing_and_private_classes_have_the_stated_codes() -> None:
    stated = paragraph("SOP classes")
    assert refused(f"{ROOT}.1.1.1") == RefusalCode.FOR_PROCESSING
    assert "For Processing is refused (`for_processing`)" in stated
    assert refused("1.2.392.200036.9125.1.1.2") == RefusalCode.MODALITY
    assert "a manufacturer's own SOP class included, is refused (`modality`)" in stated


def test_the_modalities_that_are_listed_are_read_and_no_other() -> None:
    listed = set(re.findall(r"\b(CR|DX|DR|RG|XR)\b", paragraph("SOP classes")))
    for uid in (f"{ROOT}.1", f"{ROOT}.1.1", f"{ROOT}.7"):
        assert {name for name in MODALITIES | MODALITY_ALIASES if refused(uid, name) is None} == listed


@pytest.mark.parametrize("suffix, code", [("1", None), ("1.1", None), ("7", RefusalCode.MODALITY)])
def test_a_missing_modality(suffix: str, code: RefusalCode | None) -> None:
    assert "the first two are read also if they state none" in paragraph("SOP classes")
    assert refused(f"{ROOT}.{suffix}", None) == code
