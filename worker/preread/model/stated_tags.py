"""Statements of an image about age, view, body part, modality, species.

Each is absent, understood, or present but not understood; the last is never taken for the first.
"""

from __future__ import annotations

from collections.abc import Iterable

from preread.core.text.ages import AgeReading
from preread.core.text.vocabulary import ANIMAL, HUMAN, Match, Vocabulary
from preread.core.types import ABSENT, IntendedUse, StatedTag, StatedTags, TagState
from preread.imaging.radiograph import ImageHeader

FRONTAL_VIEWS = frozenset({"AP", "PA", "FRONTAL"})
CHEST = "CHEST"
# Beside a word for the chest in a description they name an image of more than the chest.
_MORE_THAN_CHEST = frozenset({"SPINE", "ABDOMEN", "WHOLE_BODY"})
# A word of one or two letters beside AP or PA is a side, a room or a number of images.
_LETTERS_OF_A_WORD = 3
# Defined Terms of Modality (PS3.3 C.7.3.1.1.1), the retired ones, and old or non-standard terms for radiographs.
MODALITIES = frozenset(
    """
    ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DMS DG DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS
    KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE
    RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA
    XAPROTOCOL XC AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST TH VF
    """.split()  # noqa: SIM905  a list of one word a line would be longer than the rest of this file
)
MODALITY_ALIASES = frozenset({"DR", "RG", "XR"})


def read_tags(header: ImageHeader, intended_use: IntendedUse, vocabulary: Vocabulary) -> StatedTags:
    """Read what the tags of an image state.

    Args:
        header: header of the image.
        intended_use: decides if an age with two readings is understood: both must lie on the same side of its limits.
        vocabulary: words for views, body parts and species.
    """
    return StatedTags(
        age=_age(header.age, intended_use),
        view=read_view(header, vocabulary),
        body_part=read_body_part(header, vocabulary),
        modality=_modality(header, vocabulary),
        species=read_species(header, vocabulary),
    )


def _age(reading: AgeReading, intended_use: IntendedUse) -> StatedTag:
    if reading.youngest is None or reading.oldest is None:
        return StatedTag(reading.state, None, reading.written)
    if _side(reading.youngest, intended_use) != _side(reading.oldest, intended_use):
        return StatedTag(TagState.NOT_UNDERSTOOD, None, reading.written)
    return StatedTag(TagState.UNDERSTOOD, format_years(reading.youngest), reading.written)


def _side(years: float, intended_use: IntendedUse) -> int:
    """Return -1 below the intended ages, 0 within, 1 above."""
    return (years >= intended_use.age_min_years) + (years >= intended_use.age_max_years) - 1


def format_years(years: float) -> str:
    """Return an age in words: completed years, below six with a decimal."""
    return f"{int(years)} years" if years >= 6 else f"{int(years * 10) / 10:.1f} years"


def _modality(header: ImageHeader, vocabulary: Vocabulary) -> StatedTag:
    modality = header.identity.modality
    if modality is None or vocabulary.is_absent(modality):
        return ABSENT
    if modality in MODALITIES or modality in MODALITY_ALIASES:
        return StatedTag(TagState.UNDERSTOOD, modality, modality)
    return StatedTag(TagState.NOT_UNDERSTOOD, None, modality)


def read_species(header: ImageHeader, vocabulary: Vocabulary) -> StatedTag:
    """Read the species (PS3.3 C.7.1.1).

    A Responsible Person is no evidence, since images of children name a parent there; the role OWNER is.
    """
    species = [text for text in header.species if not vocabulary.is_absent(text)]
    named = [(vocabulary.species_of(text) or _first(vocabulary.read_species(text).matches), text) for text in species]
    breeds = [text for text in header.breed if not vocabulary.is_absent(text)]
    human = next((text for name, text in named if name == HUMAN), None)
    if breed := next((text for text in breeds if HUMAN not in vocabulary.read_species(text).names), None):
        return StatedTag(TagState.UNDERSTOOD, ANIMAL, breed)
    if header.has_owner:
        return StatedTag(TagState.UNDERSTOOD, ANIMAL, "OWNER")
    described = (*header.search_text, header.identity.institution_name or "")
    if animal := next((text for text in described if vocabulary.names_animal(text)), None):
        return StatedTag(TagState.UNDERSTOOD, ANIMAL, animal)
    if human is not None or breeds:
        return StatedTag(TagState.UNDERSTOOD, HUMAN, human or breeds[0])
    if not named:
        return ABSENT
    name, text = next(((name, text) for name, text in named if name is not None), named[0])
    return StatedTag(TagState.NOT_UNDERSTOOD if name is None else TagState.UNDERSTOOD, name, text)


def _first(matches: Iterable[Match]) -> str | None:
    return next((match.name for match in matches), None)


# ------------------------------------------------------------------------------------------------------------ body part


def read_body_part(header: ImageHeader, vocabulary: Vocabulary) -> StatedTag:
    """Read the body part from tag and codes, else from the descriptions.

    Returns:
        Several body parts as one value, separated by ``+``; the chest alone if tag or codes name it alone.
    """
    written = header.identity.body_part_examined
    texts = [] if written is None or vocabulary.is_absent(written) else [written]
    texts += [text for text in header.body_part_codes if not vocabulary.is_absent(text)]
    stated = [tag for text in texts if (tag := _named_part(text, vocabulary)) is not None]
    if stated:
        return next((tag for tag in stated if tag.value == CHEST), stated[0])
    described = _described_part(header, vocabulary)
    unlisted = [text for text in texts if vocabulary.read_part(text).rest or not any(map(str.isalpha, text))]
    if not unlisted or described.value not in {None, CHEST}:
        return described
    return StatedTag(TagState.NOT_UNDERSTOOD, None, unlisted[0])


def _named_part(text: str, vocabulary: Vocabulary) -> StatedTag | None:
    """Return the body parts that a value, code or meaning names."""
    if code := vocabulary.part_of(text):
        return StatedTag(TagState.UNDERSTOOD, code, text)
    names = dict.fromkeys(match.name for match in vocabulary.read_part(text).matches)
    return StatedTag(TagState.UNDERSTOOD, "+".join(names), text) if names else None


def _described_part(header: ImageHeader, vocabulary: Vocabulary) -> StatedTag:
    """Return the body part in the descriptions, those of this image before those of the study."""
    of_study = [line for line in header.search_text if line not in header.view_text]
    for lines in (header.view_text, of_study):
        found = [(line, reading) for line in lines if (reading := vocabulary.read_part(line)).matches]
        if line := next((line for line, one in found if CHEST in one.names and not one.names & _MORE_THAN_CHEST), None):
            return StatedTag(TagState.UNDERSTOOD, CHEST, line)
        if found:
            line, reading = found[0]
            other = next(match for match in reading.matches if match.name != CHEST)
            return StatedTag(TagState.UNDERSTOOD, other.name, other.words)
    return ABSENT


# ----------------------------------------------------------------------------------------------------------------- view


def read_view(header: ImageHeader, vocabulary: Vocabulary) -> StatedTag:
    """Read the view from position, codes, orientation and descriptions.

    A word for another view wins beside AP and PA. Study descriptions are not used: "PA and lateral" there describes all
    images of the study.
    """
    tags = [_coded_view(header, vocabulary), _view_position(header, vocabulary)]
    described = [_described_view(line, vocabulary) for line in header.view_text]
    understood = [tag for tag in tags if tag.state is TagState.UNDERSTOOD]
    frontal = next((tag for tag in understood if tag.value in FRONTAL_VIEWS), ABSENT)
    if other := next((tag for tag in (*understood, *described) if tag.value not in {None, *FRONTAL_VIEWS}), None):
        return other
    oriented = _oriented_view(header.patient_orientation)
    candidates = [frontal, ABSENT if oriented.value in FRONTAL_VIEWS else oriented, *tags, *described, oriented]
    return next((tag for tag in candidates if tag.state is not TagState.ABSENT), ABSENT)


def _coded_view(header: ImageHeader, vocabulary: Vocabulary) -> StatedTag:
    """Return the view in the View Code Sequence (PS3.16 CID 4010) and its modifiers."""
    texts = header.view_codes
    names = [
        (name, text)
        for text in texts
        for name in [vocabulary.view_of(text), *(match.name for match in vocabulary.read_view(text).matches)]
        if name is not None
    ]
    if names:
        name, text = next((one for one in names if one[0] not in FRONTAL_VIEWS), names[0])
        return StatedTag(TagState.UNDERSTOOD, name, text)
    return StatedTag(TagState.NOT_UNDERSTOOD, None, texts[-1]) if texts else ABSENT


def _view_position(header: ImageHeader, vocabulary: Vocabulary) -> StatedTag:
    """Return the view in View Position (0018,5101)."""
    written = header.identity.view_position
    if written is None or vocabulary.is_absent(written):
        return ABSENT
    reading = vocabulary.read_view_position(written)
    if other := next((match for match in reading.matches if match.name not in FRONTAL_VIEWS), None):
        return StatedTag(TagState.UNDERSTOOD, other.name, written)
    unlisted = [word for word in reading.rest if len(word) >= _LETTERS_OF_A_WORD or not reading.matches]
    if unlisted:
        return StatedTag(TagState.NOT_UNDERSTOOD, None, written)
    if reading.matches:
        return StatedTag(TagState.UNDERSTOOD, reading.matches[0].name, written)
    return ABSENT


def _described_view(line: str, vocabulary: Vocabulary) -> StatedTag:
    """Return the view in a description; absent for "AP/LAT", a protocol of two views."""
    matches = vocabulary.read_view(line).matches
    frontal = [match for match in matches if match.name in FRONTAL_VIEWS]
    lateral = [match for match in matches if match.name == "LATERAL"]
    others = [match for match in matches if match not in (*frontal, *lateral)]
    chosen = others or ([] if frontal and lateral else matches)
    return StatedTag(TagState.UNDERSTOOD, chosen[0].name, chosen[0].words) if chosen else ABSENT


def _oriented_view(orientation: str | None) -> StatedTag:
    r"""Return the view by Patient Orientation (PS3.3 C.7.6.1.1.1).

    Args:
        orientation: directions of rows and columns, for example ``L\F``: to the left, and to the feet.
    """
    row, _, column = (orientation or "").partition("\\")
    first, second = row.strip()[:1], column.strip()[:1]
    if not first or not second or not {first, second} <= set("APLRHF"):
        return ABSENT
    axes = {"front" if letter in "AP" else "side" if letter in "LR" else "length" for letter in (first, second)}
    view = {"front length": "LATERAL", "length side": "FRONTAL", "front side": "OTHER"}.get(" ".join(sorted(axes)))
    return ABSENT if view is None else StatedTag(TagState.UNDERSTOOD, view, orientation)
