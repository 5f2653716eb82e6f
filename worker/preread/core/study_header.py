"""Study header: patient, study and request as a file states them.

What a result object for a PACS must repeat (PS3.3 C.7.1.1, C.7.2.1), to be kept with the result: the file may be gone
later. Values are those of the file, before any normalisation; ``Identity`` holds the normalised ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

ELEMENT_BYTES_MAX = 4096
"""Most bytes of one element, as JSON."""
HEADER_BYTES_MAX = 32_768
"""Most bytes of a header, as JSON."""

# Identifying attributes first: where the limit is reached, the last ones are left out. Not kept, since no result object
# repeats them and they are sensitive: comments, history, alerts, allergies, ethnic group, religion, occupation, size,
# weight, smoking and pregnancy.
TAGS: Mapping[str, str] = MappingProxyType(
    {
        "SpecificCharacterSet": "00080005",
        "TimezoneOffsetFromUTC": "00080201",
        # Patient module
        "PatientName": "00100010",
        "PatientID": "00100020",
        "IssuerOfPatientID": "00100021",
        "TypeOfPatientID": "00100022",
        "IssuerOfPatientIDQualifiersSequence": "00100024",
        "PatientBirthDate": "00100030",
        "PatientBirthTime": "00100032",
        "PatientSex": "00100040",
        "OtherPatientIDs": "00101000",
        "OtherPatientNames": "00101001",
        "OtherPatientIDsSequence": "00101002",
        "PatientAge": "00101010",
        "QualityControlSubject": "00100200",
        "PatientSpeciesDescription": "00102201",
        "PatientSpeciesCodeSequence": "00102202",
        "ResponsiblePerson": "00102297",
        "ResponsiblePersonRole": "00102298",
        "ResponsibleOrganization": "00102299",
        "PatientIdentityRemoved": "00120062",
        "DeidentificationMethod": "00120063",
        "DeidentificationMethodCodeSequence": "00120064",
        # General Study and Patient Study modules
        "StudyInstanceUID": "0020000D",
        "StudyID": "00200010",
        "StudyDate": "00080020",
        "StudyTime": "00080030",
        "AccessionNumber": "00080050",
        "IssuerOfAccessionNumberSequence": "00080051",
        "ReferringPhysicianName": "00080090",
        "ReferringPhysicianIdentificationSequence": "00080096",
        "ConsultingPhysicianName": "0008009C",
        "PhysiciansOfRecord": "00081048",
        "NameOfPhysiciansReadingStudy": "00081060",
        "StudyDescription": "00081030",
        "ProcedureCodeSequence": "00081032",
        "ReferencedStudySequence": "00081110",
        "AdmissionID": "00380010",
        "IssuerOfAdmissionIDSequence": "00380014",
        # the request, of the General Series module and of those that repeat it
        "RequestAttributesSequence": "00400275",
        "RequestedProcedureID": "00401001",
        "RequestedProcedureDescription": "00321060",
        "RequestedProcedureCodeSequence": "00321064",
        "PerformedProcedureStepID": "00400253",
        "PerformedProcedureStepDescription": "00400254",
        # series and image
        "Modality": "00080060",
        "SeriesInstanceUID": "0020000E",
        "SeriesNumber": "00200011",
        "SeriesDate": "00080021",
        "SeriesTime": "00080031",
        "SeriesDescription": "0008103E",
        "SOPClassUID": "00080016",
        "SOPInstanceUID": "00080018",
        "InstanceNumber": "00200013",
        "AcquisitionDate": "00080022",
        "AcquisitionTime": "00080032",
        "AcquisitionDateTime": "0008002A",
        "ContentDate": "00080023",
        "ContentTime": "00080033",
        "PatientOrientation": "00200020",
        "Laterality": "00200060",
        "ImageLaterality": "00200062",
        "BodyPartExamined": "00180015",
        "ViewPosition": "00185101",
    }
)
"""Tags of the kept elements in hexadecimal by keyword (PS3.6)."""
_KEYWORDS = {tag: keyword for keyword, tag in TAGS.items()}
_MEMBERS = frozenset({"vr", "Value", "InlineBinary"})


@dataclass(frozen=True, slots=True)
class StudyHeader:
    """Kept elements of one file, within the limits.

    Attributes:
        elements: JSON object of the DICOM JSON Model (PS3.18 F.2), ASCII. The character set is the one of the file;
            text is decoded from it. An element whose bytes cannot be decoded without loss has the VR ``UN`` and its
            bytes in ``InlineBinary``; an empty element has a VR alone.
        left_out: keywords of elements that are in the file and exceed a limit.

    Raises:
        ValueError: a limit is exceeded, or there is anything else than the elements of ``TAGS``.
    """

    elements: str
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.elements) > HEADER_BYTES_MAX or not self.elements.isascii():
            raise ValueError(f"the study header is not ASCII, or longer than {HEADER_BYTES_MAX} bytes")
        if len(self.left_out) > len(TAGS) or not TAGS.keys() >= set(self.left_out):
            raise ValueError("the study header names other elements than those that are kept")
        for tag, element in self._parsed().items():
            if tag not in _KEYWORDS or not isinstance(element, dict) or not element.keys() <= _MEMBERS:
                raise ValueError("the study header has other elements than those that are kept")
            if not isinstance(element.get("vr"), str) or len(_as_json(element)) > ELEMENT_BYTES_MAX:
                raise ValueError(f"an element of the study header is invalid or longer than {ELEMENT_BYTES_MAX} bytes")

    @classmethod
    def of(cls, elements: Mapping[str, Mapping[str, Any] | None]) -> StudyHeader:
        """Build a header; what exceeds a limit is left out and named.

        Args:
            elements: DICOM JSON by keyword, in the order of their importance; ``None`` is known to be too long.
        """
        kept: dict[str, Mapping[str, Any]] = {}
        left_out: list[str] = []
        length = len("{}")
        for keyword, element in elements.items():
            written = _as_json({TAGS[keyword]: element})
            if element is None or len(written) > ELEMENT_BYTES_MAX or length + len(written) > HEADER_BYTES_MAX:
                left_out.append(keyword)
            else:
                kept[TAGS[keyword]] = element
                length += len(written)  # with its braces, which stand for the comma
        return cls(_as_json(kept), tuple(left_out))

    def text(self, keyword: str) -> str | None:
        """Return the first value of an element if it is text, else ``None``."""
        values = self._parsed().get(TAGS[keyword], {}).get("Value")
        return values[0] if isinstance(values, list) and values and isinstance(values[0], str) else None

    def _parsed(self) -> dict[str, Any]:
        try:
            parsed = json.loads(self.elements)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise ValueError("the study header is no JSON object")  # noqa: TRY004 - an invalid message, not a wrong call
        return parsed


def _as_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
