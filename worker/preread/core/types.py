"""The nouns: frozen, without behaviour that reads clock, disk or settings.

Attributes that are DICOM Data Elements carry the element's keyword in snake_case (PS3.6).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:  # a tenth of a second, and most commands look at no pixel
    import numpy as np
    import numpy.typing as npt

PixelArray: TypeAlias = "npt.NDArray[np.uint8]"
FloatArray: TypeAlias = "npt.NDArray[np.float32]"


FORGOTTEN: Final = "forgotten"
"""The code of a version whose film was purged: it is known again, and not read."""


class Outcome(StrEnum):
    """How one file ended."""

    ASSESSED = "assessed"
    REFUSED = "refused"
    UNREADABLE = "unreadable"


class Answer(StrEnum):
    """A finding against the bundle's operating point. There is no word for health here."""

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
    """What a root declares of its films. Never overrides a tag, never widens the manifest."""

    UNDECLARED = "undeclared"
    CHILDREN_1_5Y = "children-1-5y"
    RESEARCH = "research"


class RefusalCode(StrEnum):
    """Why a bundle says nothing of a readable instance. Not an error."""

    NOT_AN_IMAGE = "not_an_image"
    MODALITY = "modality"
    FOR_PROCESSING = "for_processing"
    NOT_HUMAN = "not_human"
    BODY_PART = "body_part"
    VIEW = "view"
    AGE_UNKNOWN = "age_unknown"
    AGE_OUTSIDE = "age_outside"
    SHAPE = "shape"
    NOT_CHEST = "not_chest"
    INVERTED = "inverted"
    ORIENTATION = "orientation"


class Verdict(StrEnum):
    """What a reader says of a film's result: the three outcomes of IHE's AI Result Assessment."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SUPPLEMENTED = "supplemented"


class Presence(StrEnum):
    """What a reader says of one finding."""

    PRESENT = "present"
    ABSENT = "absent"
    UNSURE = "unsure"


class Stage(StrEnum):
    """What a slot does with a film, one after the other."""

    READ = "read"
    HEADER = "header"
    DECODE = "decode"
    PREPROCESS = "preprocess"
    INVOKE = "invoke"
    PREVIEW = "preview"


class Role(StrEnum):
    """What an account may do: read and sign films, administer, or (programs) use the API."""

    READER = "reader"
    ADMIN = "admin"
    SERVICE = "service"


class Caveat(StrEnum):
    """What limits an assessment; shown beside every answer."""

    OUTSIDE_INTENDED_AGE = "outside_intended_age"
    OUTSIDE_INTENDED_VIEW = "outside_intended_view"
    AGE_DECLARED = "age_declared"
    AGE_ASSUMED = "age_assumed"
    VIEW_UNKNOWN = "view_unknown"
    BODY_PART_UNKNOWN = "body_part_unknown"
    UNIDENTIFIED = "unidentified"
    NO_TAGS = "no_tags"
    WINDOW_CLIPS = "window_clips"
    NO_WINDOW = "no_window"
    POLARITY_CONFLICT = "polarity_conflict"
    RESCALE_IGNORED = "rescale_ignored"
    TAIL_ZERO = "tail_zero"
    UID_CONFLICT = "uid_conflict"
    LOSSY = "lossy"


CAVEAT_TEXT: dict[Caveat, str] = {
    Caveat.OUTSIDE_INTENDED_AGE: "outside the intended use: the age is unknown or not one the model was trained for",
    Caveat.OUTSIDE_INTENDED_VIEW: "outside the intended use: this view is not one the model was trained for",
    Caveat.AGE_DECLARED: "the film does not say the patient's age; the folder declares children of 1 to 5 years",
    Caveat.AGE_ASSUMED: "the film does not say the patient's age; 1 to 5 years was assumed",
    Caveat.VIEW_UNKNOWN: "the film does not say its view; a frontal view was assumed",
    Caveat.BODY_PART_UNKNOWN: "the film does not say which body part it shows; the chest was assumed",
    Caveat.UNIDENTIFIED: "the film names no patient; it is joined to none",
    Caveat.NO_TAGS: "a plain picture without DICOM tags: nothing but its pixels is known",
    Caveat.WINDOW_CLIPS: "the film's own window misses its pixels; a window from the pixels was used",
    Caveat.NO_WINDOW: "the film brings no window; one from its pixels was used",
    Caveat.POLARITY_CONFLICT: "the film contradicts itself on which end of the scale is white",
    Caveat.RESCALE_IGNORED: "the film's rescale slope is unusable and was ignored",
    Caveat.TAIL_ZERO: "the last part of the pixel data is all zero: the film may be incomplete",
    Caveat.UID_CONFLICT: "another file carries the same SOP Instance UID with other content",
    Caveat.LOSSY: "the film was compressed with loss",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who and what a file version is about, as its tags (or its root's path pattern) say.

    ``None`` is "absent or unusable": a broken tag is a missing tag. Dates are ISO 8601 (``2020-03-31``);
    ``acquisition_date_time`` is the DICOM DT value as written (local time of the modality, ``YYYYMMDDHHMMSS.FFFFFF``),
    with its own offset in ``timezone_offset_from_utc`` (``+0200``). ``patient_age_years`` is whole or fractional years
    from PatientAge or from birth and study date; ``None`` also when the two contradict.
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
    """One decoded film.

    Attributes:
        pixels: uint8, 0 = black, as a viewer with the film's own window would show it: [rows, columns], or halved some
            times where a smaller copy was asked for.
        rows: of the film.
        columns: of the film.
        format: ``DICOM``, ``JPEG`` or ``PNG``.
        transfer_syntax_uid: of the DICOM file, else ``None``.
        decoder: name and version of what decoded the pixel data.
        caveats: what the pixel path had to assume.
    """

    pixels: PixelArray
    rows: int
    columns: int
    identity: Identity
    format: str
    decoder: str
    transfer_syntax_uid: str | None = None
    caveats: tuple[Caveat, ...] = ()


@dataclass(frozen=True, slots=True)
class PredictiveValues:
    """How far a bundle's answers can be relied on where the finding is so frequent.

    Attributes:
        prevalence: the share of films with the finding, in (0, 1).
        ppv: positive predictive value: of the films answered ``flagged``, the share with the finding, in [0, 1].
        npv: negative predictive value: of the films answered ``not_flagged``, the share without it, in [0, 1].
    """

    prevalence: float
    ppv: float
    npv: float

    def __post_init__(self) -> None:
        if not (0 < self.prevalence < 1 and 0 <= self.ppv <= 1 and 0 <= self.npv <= 1):
            raise ValueError("prevalence must lie in (0, 1), ppv and npv in [0, 1]")


@dataclass(frozen=True, slots=True)
class Finding:
    """What may be present, with what the bundle says of it.

    Attributes:
        finding: its coded name, e.g. ``pneumonia``.
        logit: the network's raw output.
        probability: calibrated, in [0, 1], at ``prevalence``.
        prevalence: the share of films with the finding for which ``probability`` is calibrated, in (0, 1).
        predictive_values: of the bundle's answers to this finding; empty where the bundle states none.
    """

    finding: str
    logit: float
    probability: float
    prevalence: float
    answer: Answer
    predictive_values: tuple[PredictiveValues, ...] = ()


@dataclass(frozen=True, slots=True)
class Declared:
    """What a root (or a command) says of films whose tags are silent.

    Attributes:
        population: see ``Population``.
        assume_age: the caller (``assess``, ``evaluate``) assumes the intended age where no tag gives one, and says so.
    """

    population: Population = Population.UNDECLARED
    assume_age: bool = False


@dataclass(frozen=True, slots=True)
class RootSpec:
    """One watched folder, as the settings name it.

    Attributes:
        path: the folder.
        population: what it declares of its films.
        path_pattern: names patient or accession in the path of tagless films; see ``identity.py``.
        poll: ``True`` polls, ``False`` trusts the kernel's events, ``None`` decides from the mount table.
    """

    path: Path
    population: Population = Population.UNDECLARED
    path_pattern: str | None = None
    poll: bool | None = None


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """What a picture is like, whatever it shows: a site's films are compared by it over time. In grey levels of 255.

    Attributes:
        mean: of all pixels.
        contrast: their standard deviation.
        sharpness: mean absolute difference of neighbouring pixels.
        border: mean of the outer eighth on each side: framing, collimation, burnt-in frames.
    """

    mean: float
    contrast: float
    sharpness: float
    border: float


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a bundle says of one instance. ``statistics`` are of the network's input."""

    sha256: str
    bundle: str
    findings: tuple[Finding, ...]
    caveats: tuple[Caveat, ...]
    radiograph: Radiograph
    statistics: ImageStatistics
    activation_map: FloatArray = field(repr=False)
    embedding: FloatArray = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a bundle says nothing of one readable instance."""

    sha256: str
    bundle: str
    code: RefusalCode
    reason: str
    identity: Identity
    format: str


@dataclass(frozen=True, slots=True)
class IntendedUse:
    """Which films a bundle may speak of; read from its manifest.

    Attributes:
        modalities: Modality (0008,0060) values, e.g. ``("CR", "DX")``.
        view_positions: View Position (0018,5101) values, e.g. ``("AP", "PA")``.
        age_min_years: youngest age, inclusive.
        age_max_years: oldest age, exclusive (1 to 5 years is 1.0 to 6.0).
        body_parts: Body Part Examined (0018,0015) values, e.g. ``("CHEST",)``.
        statement: the same in words, shown to people.
    """

    modalities: tuple[str, ...]
    view_positions: tuple[str, ...]
    age_min_years: float
    age_max_years: float
    body_parts: tuple[str, ...]
    statement: str


JSONObject = dict[str, Any]
