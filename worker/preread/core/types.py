"""Immutable value types shared by all packages; no I/O.

Attributes that are DICOM Data Elements have the element's keyword in snake_case (PS3.6).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from preread.core.study_header import StudyHeader

if TYPE_CHECKING:  # takes a tenth of a second, and most commands read no pixel
    import numpy as np
    import numpy.typing as npt

    from preread.core.text.vocabulary import Vocabulary

PixelArray: TypeAlias = "npt.NDArray[np.uint8]"
FloatArray: TypeAlias = "npt.NDArray[np.float32]"


FORGOTTEN: Final = "forgotten"
"""Code of a file version whose content was purged: it is recognised and not read again."""


class Outcome(StrEnum):
    """Final outcome of one file."""

    ASSESSED = "assessed"
    REFUSED = "refused"
    UNREADABLE = "unreadable"


class Answer(StrEnum):
    """Result of a finding at the bundle's operating point; never "normal"."""

    FLAGGED = "flagged"
    UNCERTAIN = "uncertain"
    NOT_FLAGGED = "not_flagged"


class FileState(StrEnum):
    """State of one file version in the ledger."""

    SETTLING = "settling"
    READY = "ready"
    CLAIMED = "claimed"
    RETRY = "retry"
    DONE = "done"
    QUARANTINED = "quarantined"
    VANISHED = "vanished"
    MISSED = "missed"
    SUPERSEDED = "superseded"
    IGNORED = "ignored"


OPEN_STATES = frozenset({FileState.SETTLING, FileState.READY, FileState.CLAIMED, FileState.RETRY})


class Population(StrEnum):
    """Declared population of a watched folder.

    A declaration never overrides a tag and never widens the intended use of the manifest.
    """

    UNDECLARED = "undeclared"
    CHILDREN_1_5Y = "children-1-5y"
    RESEARCH = "research"


class RefusalCode(StrEnum):
    """Reason why a readable image is outside the intended use; not an error."""

    NOT_AN_IMAGE = "not_an_image"
    MODALITY = "modality"
    FOR_PROCESSING = "for_processing"
    NOT_HUMAN = "not_human"
    BODY_PART = "body_part"
    VIEW = "view"
    AGE_UNKNOWN = "age_unknown"
    AGE_OUTSIDE = "age_outside"
    SHAPE = "shape"
    NOT_A_RADIOGRAPH = "not_a_radiograph"
    NOT_CHEST = "not_chest"
    INVERTED = "inverted"
    ORIENTATION = "orientation"
    SCALE_UNCLEAR = "scale_unclear"


class Verdict(StrEnum):
    """Reviewer's verdict on a result, as in IHE AI Result Assessment."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SUPPLEMENTED = "supplemented"


class Presence(StrEnum):
    """Reviewer's statement about one finding."""

    PRESENT = "present"
    ABSENT = "absent"
    UNSURE = "unsure"


class TagState(StrEnum):
    """State of a tag that the intended use depends on."""

    ABSENT = "absent"
    UNDERSTOOD = "understood"
    NOT_UNDERSTOOD = "not_understood"


@dataclass(frozen=True, slots=True)
class StatedTag:
    """Statement of an image about age, view, body part or similar.

    Attributes:
        state: whether it makes one, and one that is understood.
        value: what it means, for example ``LATERAL`` or ``CHEST``; ``None`` unless understood.
        written: the words, code or value that decided; ``None`` if absent. May be patient data (an age, a birth date).
    """

    state: TagState = TagState.ABSENT
    value: str | None = None
    written: str | None = None


ABSENT: Final = StatedTag()


@dataclass(frozen=True, slots=True)
class StatedTags:
    """Statements of an image that the intended use depends on."""

    age: StatedTag = ABSENT
    view: StatedTag = ABSENT
    body_part: StatedTag = ABSENT
    modality: StatedTag = ABSENT
    species: StatedTag = ABSENT


class Stage(StrEnum):
    """Stages of an inference process's work on one file, in order."""

    READ = "read"
    HEADER = "header"
    DECODE = "decode"
    PREPROCESS = "preprocess"
    INVOKE = "invoke"
    PREVIEW = "preview"


class Role(StrEnum):
    """Role of an account: reviewer, administrator, or program (API)."""

    READER = "reader"
    ADMIN = "admin"
    SERVICE = "service"


class Caveat(StrEnum):
    """Limitation of an assessment, shown with every result."""

    OUTSIDE_INTENDED_AGE = "outside_intended_age"
    OUTSIDE_INTENDED_VIEW = "outside_intended_view"
    AGE_DECLARED = "age_declared"
    AGE_ASSUMED = "age_assumed"
    VIEW_UNKNOWN = "view_unknown"
    BODY_PART_UNKNOWN = "body_part_unknown"
    AGE_NOT_UNDERSTOOD = "age_not_understood"
    VIEW_NOT_UNDERSTOOD = "view_not_understood"
    BODY_PART_NOT_UNDERSTOOD = "body_part_not_understood"
    MODALITY_NOT_UNDERSTOOD = "modality_not_understood"
    SPECIES_NOT_UNDERSTOOD = "species_not_understood"
    UNIDENTIFIED = "unidentified"
    NO_TAGS = "no_tags"
    WINDOW_CLIPS = "window_clips"
    NO_WINDOW = "no_window"
    WINDOW_REPLACED = "window_replaced"
    DEPTH_CORRECTED = "depth_corrected"
    POLARITY_CONFLICT = "polarity_conflict"
    RESCALE_IGNORED = "rescale_ignored"
    TAIL_ZERO = "tail_zero"
    UID_CONFLICT = "uid_conflict"
    LOSSY = "lossy"


CAVEAT_TEXT: dict[Caveat, str] = {
    Caveat.OUTSIDE_INTENDED_AGE: "outside the intended use: the age is unknown, or the model was not trained for it",
    Caveat.OUTSIDE_INTENDED_VIEW: "outside the intended use: the model was not trained for this view",
    Caveat.AGE_DECLARED: "the image states no patient age; the folder declares children of 1 to 5 years",
    Caveat.AGE_ASSUMED: "the image states no patient age; 1 to 5 years was assumed",
    Caveat.VIEW_UNKNOWN: "the view is not known from the tags; a frontal view was assumed",
    Caveat.BODY_PART_UNKNOWN: "the body part is not known from the tags; the chest was assumed",
    Caveat.AGE_NOT_UNDERSTOOD: "the image states an age or a birth date that is not understood",
    Caveat.VIEW_NOT_UNDERSTOOD: "the image states a view in words that are not understood",
    Caveat.BODY_PART_NOT_UNDERSTOOD: "the image states a body part in words that are not understood",
    Caveat.MODALITY_NOT_UNDERSTOOD: "the image states a modality that is not a term of DICOM",
    Caveat.SPECIES_NOT_UNDERSTOOD: "the image states a species in words that are not understood",
    Caveat.UNIDENTIFIED: "the image names no patient, and is linked to none",
    Caveat.NO_TAGS: "an image without DICOM tags: only its pixels are known",
    Caveat.WINDOW_CLIPS: "the stored window clips most pixels; a window computed from the pixels was used",
    Caveat.NO_WINDOW: "the image has no window; one computed from its pixels was used",
    Caveat.WINDOW_REPLACED: "the stored window is for another number of bits than the pixels have; their full range "
    "was used",
    Caveat.DEPTH_CORRECTED: "the header states other bits than the pixels use; those that the pixels use were read",
    Caveat.POLARITY_CONFLICT: "the header is inconsistent about which end of the grey scale is white",
    Caveat.RESCALE_IGNORED: "the rescale slope is unusable and was ignored",
    Caveat.TAIL_ZERO: "the last part of the pixel data is all zero: the image may be incomplete",
    Caveat.UID_CONFLICT: "another file has the same SOP Instance UID with different content",
    Caveat.LOSSY: "the image was compressed with loss",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Patient, study, series, instance and device of a file version.

    From the DICOM tags or the watched folder's path pattern. ``None`` is "absent or unusable": an invalid tag counts as
    missing. Dates are ISO 8601 (``2020-03-31``);
    ``acquisition_date_time`` is the DICOM DT value as written (local time of the modality, ``YYYYMMDDHHMMSS.FFFFFF``),
    with its own offset in ``timezone_offset_from_utc`` (``+0200``). ``patient_age_years`` is whole or fractional years
    from PatientAge or from birth and study date; ``None`` also when the two contradict or are not understood.
    """

    patient_name: str | None = None
    patient_id: str | None = None
    issuer_of_patient_id: str | None = None
    patient_birth_date: str | None = None
    patient_sex: str | None = None
    patient_age: str | None = None
    patient_age_years: float | None = None
    age_conflict: bool = False
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    sop_class_uid: str | None = None
    accession_number: str | None = None
    modality: str | None = None
    body_part_examined: str | None = None
    view_position: str | None = None
    image_laterality: str | None = None
    study_date: str | None = None
    study_description: str | None = None
    series_description: str | None = None
    acquisition_date_time: str | None = None
    timezone_offset_from_utc: str | None = None
    manufacturer: str | None = None
    manufacturer_model_name: str | None = None
    device_serial_number: str | None = None
    station_name: str | None = None
    institution_name: str | None = None


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One decoded image.

    Attributes:
        pixels: uint8 [rows, columns], 0 = black, 255 = white, rendered with the image's own window; smaller than
            ``rows`` x ``columns`` if a reduced resolution was decoded.
        rows: height of the full image in pixels.
        columns: width of the full image in pixels.
        identity: attributes from the tags.
        format: ``DICOM``, ``JPEG`` or ``PNG``.
        transfer_syntax_uid: of the DICOM file; ``None`` for JPEG and PNG.
        decoder: name and version of the decoder of the pixel data.
        caveats: assumptions made while decoding and rendering.
        study_header: patient and study as the file states them; ``None`` for JPEG and PNG.
        scale_fault: sentence that names elements, their values and the found range if header and pixels are on
            different scales and the true scale is not certain, so that ``pixels`` prove nothing; empty otherwise.
    """

    pixels: PixelArray
    rows: int
    columns: int
    identity: Identity
    format: str
    decoder: str
    transfer_syntax_uid: str | None = None
    caveats: tuple[Caveat, ...] = ()
    study_header: StudyHeader | None = None
    scale_fault: str = ""


@dataclass(frozen=True, slots=True)
class PredictiveValues:
    """Predictive values of a finding at one prevalence.

    Attributes:
        prevalence: share of images with the finding, in (0, 1).
        ppv: positive predictive value: share of the ``flagged`` images that have the finding, in [0, 1].
        npv: negative predictive value: share of the ``not_flagged`` images that do not have it, in [0, 1].
    """

    prevalence: float
    ppv: float
    npv: float

    def __post_init__(self) -> None:
        if not (0 < self.prevalence < 1 and 0 <= self.ppv <= 1 and 0 <= self.npv <= 1):
            raise ValueError("prevalence must lie in (0, 1), ppv and npv in [0, 1]")


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of a bundle for one finding.

    Attributes:
        finding: coded name, e.g. ``pneumonia``.
        logit: raw output of the network, finite.
        probability: calibrated, in [0, 1], at ``prevalence``.
        prevalence: share of images with the finding for which ``probability`` is calibrated, in (0, 1).
        answer: ``probability`` compared with the operating point.
        predictive_values: PPV and NPV of the bundle for this finding; empty if the bundle states none.
    """

    finding: str
    logit: float
    probability: float
    prevalence: float
    answer: Answer
    predictive_values: tuple[PredictiveValues, ...] = ()


@dataclass(frozen=True, slots=True)
class Declared:
    """Declaration for images whose tags do not state it, by folder or command.

    Attributes:
        population: declared population.
        assume_age: assume the intended age if no tag states one, with the caveat ``age_assumed``; used by the commands
            ``assess`` and ``evaluate``.
        vocabulary: words for views, body parts and species; ``None`` for those that ship with Preread.
    """

    population: Population = Population.UNDECLARED
    assume_age: bool = False
    vocabulary: Vocabulary | None = None


@dataclass(frozen=True, slots=True)
class RootSpec:
    """One watched folder in the settings.

    Attributes:
        path: the folder.
        population: declared population of its images.
        path_pattern: pattern that reads patient or accession number from the path of images without tags; see
            ``preread.imaging.identity``.
        poll: ``True`` polls, ``False`` relies on the kernel's events, ``None`` decides by the file-system type.
    """

    path: Path
    population: Population = Population.UNDECLARED
    path_pattern: str | None = None
    poll: bool | None = None


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """Image statistics for drift monitoring, in grey levels (0 to 255).

    Attributes:
        mean: mean of all pixels.
        contrast: standard deviation of all pixels.
        sharpness: mean absolute difference of neighbouring pixels.
        border: mean of the outer eighth on each side: collimation and burnt-in frames.
    """

    mean: float
    contrast: float
    sharpness: float
    border: float


@dataclass(frozen=True, slots=True)
class Assessment:
    """Result of a bundle for one image.

    Attributes:
        sha256: hex, of the file's content.
        bundle: ``name/version``.
        findings: one for each finding of the bundle, in its order.
        caveats: limitations, in the order in which they were found.
        radiograph: the decoded image.
        statistics: of the network's input before normalisation.
        activation_map: float32 [cells, cells]; its mean plus the bias of the last layer is the first logit.
        embedding: float32 [features], the network's penultimate layer.
        tags: what the image states about age, view, body part, modality and species.
    """

    sha256: str
    bundle: str
    findings: tuple[Finding, ...]
    caveats: tuple[Caveat, ...]
    radiograph: Radiograph
    statistics: ImageStatistics
    activation_map: FloatArray = field(repr=False)
    embedding: FloatArray = field(repr=False)
    tags: StatedTags = StatedTags()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Refusal of one readable image outside the intended use.

    Attributes:
        sha256: hex, of the file's content.
        bundle: ``name/version``.
        code: the reason.
        reason: the same as a sentence.
        identity: attributes from the tags.
        format: ``DICOM``, ``JPEG`` or ``PNG``.
        study_header: patient and study as the file states them; ``None`` for JPEG and PNG.
        caveats: tags that are present but not understood.
        tags: what the image states about age, view, body part, modality and species.
    """

    sha256: str
    bundle: str
    code: RefusalCode
    reason: str
    identity: Identity
    format: str
    study_header: StudyHeader | None = None
    caveats: tuple[Caveat, ...] = ()
    tags: StatedTags = StatedTags()


@dataclass(frozen=True, slots=True)
class IntendedUse:
    """Intended use of a bundle, from its manifest.

    Attributes:
        modalities: Modality (0008,0060) values, e.g. ``("CR", "DX")``.
        view_positions: View Position (0018,5101) values, e.g. ``("AP", "PA")``.
        age_min_years: youngest age, inclusive.
        age_max_years: oldest age, exclusive (1 to 5 years is 1.0 to 6.0).
        body_parts: Body Part Examined (0018,0015) values, e.g. ``("CHEST",)``.
        statement: the intended use as a sentence, for display.
    """

    modalities: tuple[str, ...]
    view_positions: tuple[str, ...]
    age_min_years: float
    age_max_years: float
    body_parts: tuple[str, ...]
    statement: str


JSONObject = dict[str, Any]
"""JSON object: keys to JSON values."""
