"""Words for views, body parts and species in the elements of an image.

The words are in ``vocabulary.toml`` beside this module; a site adds its own in a file of the same form. Text and words
are folded in the same way before they are compared: case, accents, digits and punctuation do not matter.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from preread.core.errors import SettingsError

MAX_FILE_BYTES = 24 * 1024
NEUTRAL = "NEUTRAL"
ANIMAL = "ANIMAL"
HUMAN = "HUMAN"
# Letters that NFKD does not decompose.
_LETTERS = str.maketrans(
    {
        "ł": "l",
        "ø": "o",
        "đ": "d",
        "ð": "d",
        "\N{LATIN SMALL LETTER DOTLESS I}": "i",
        "æ": "ae",
        "œ": "oe",
        "þ": "th",
        "ß": "ss",
        "ŧ": "t",
        "ħ": "h",
    }
)
# ASCII transcriptions of letters that lose their accent when folded.
_TRANSCRIPTIONS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNIT = re.compile(rf"[{_IDEOGRAPHS}]|[^\W\d_{_IDEOGRAPHS}]+")

_Word = Annotated[str, StringConstraints(min_length=1, max_length=64)]
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z_]{0,31}$")]
_Words = Annotated[tuple[_Word, ...], Field(max_length=5000)]


def fold(text: str) -> str:
    """Return a text without case, accents, digits and punctuation.

    Args:
        text: any text; Latin, Greek, Cyrillic, Chinese and Japanese letters are kept.

    Returns:
        Words separated by one blank; each Chinese or Japanese character is a word of its own.
    """
    return " ".join(_units(text))


def _units(text: str) -> list[str]:
    lower = text.casefold().translate(_LETTERS)
    plain = "".join(c for c in unicodedata.normalize("NFKD", lower) if unicodedata.category(c) != "Mn")
    return _UNIT.findall(plain.casefold().translate(_LETTERS))


class Section(BaseModel):
    """Words and codes of one view, body part or species in a vocabulary file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: _Words = ()
    codes: _Words = ()
    in_view_position: _Words = ()
    in_species: _Words = ()
    stems: _Words = ()
    inside: _Name | None = None

    @model_validator(mode="after")
    def _check_words(self) -> Section:
        for word in (*self.words, *self.in_view_position, *self.in_species, *self.stems):
            if not _units(word):
                raise ValueError(f"the word {word!r} has no letter")
            if "*" in word.rstrip().removesuffix("*"):
                raise ValueError(f"in the word {word!r} a * is allowed only at the end")
        return self


class Words(BaseModel):
    """Content of a vocabulary file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    absent: Section = Section()
    neutral: Section = Section()
    view: dict[_Name, Section] = Field(default_factory=dict)
    part: dict[_Name, Section] = Field(default_factory=dict)
    species: dict[_Name, Section] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_names(self) -> Words:
        unknown = sorted(self.species.keys() - {"HUMAN", "ANIMAL"})
        if unknown:
            raise ValueError(f"there is no species {unknown[0]}; there are HUMAN and ANIMAL")
        return self


@dataclass(frozen=True, slots=True)
class Match:
    """Words of a text that stand for something.

    Attributes:
        name: what they stand for, for example ``LATERAL`` or ``CHEST``.
        words: the words, folded.
    """

    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Reading:
    """Meanings of the words of a text.

    Attributes:
        matches: in the order of the text, without neutral words.
        rest: words that are not listed, folded.
    """

    matches: tuple[Match, ...] = ()
    rest: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Names of all matches."""
        return frozenset(match.name for match in self.matches)


class _Matcher:
    """Finds listed words in a sequence of units, the longest entry first.

    Args:
        entries: name, units of a word, and whether the last unit may go on; of two equal words the later one counts.
    """

    def __init__(self, entries: Iterable[tuple[str, tuple[str, ...], bool]]) -> None:
        self._exact: dict[tuple[str, ...], str] = {}
        self._prefixes: dict[tuple[str, ...], dict[str, str]] = {}
        self._longest = 1
        for name, units, open_ended in entries:
            self._longest = max(self._longest, len(units))
            if open_ended:
                self._prefixes.setdefault(units[:-1], {})[units[-1]] = name
            else:
                self._exact[units] = name

    def read(self, units: list[str]) -> Reading:
        """Return what stands in a sequence of units."""
        matches: list[Match] = []
        rest: list[str] = []
        at = 0
        while at < len(units):
            name, count = self._at(units, at)
            words = units[at : at + count]
            if name is None:
                rest += words
            elif name != NEUTRAL:
                matches.append(Match(name, " ".join(words)))
            at += count
        return Reading(tuple(matches), tuple(rest))

    def _at(self, units: list[str], at: int) -> tuple[str | None, int]:
        for count in range(min(self._longest, len(units) - at), 0, -1):
            words = tuple(units[at : at + count])
            name = self._exact.get(words) or self._by_prefix(words)
            if name is not None:
                return name, count
        return None, 1

    def _by_prefix(self, words: tuple[str, ...]) -> str | None:
        listed = self._prefixes.get(words[:-1])
        if listed is None:
            return None
        last = words[-1]
        return next((listed[last[:end]] for end in range(len(last), 0, -1) if last[:end] in listed), None)


def _variants(word: str) -> Iterator[tuple[str, ...]]:
    """Yield the units of a word, and those of its ASCII transcription."""
    lower = unicodedata.normalize("NFC", word.casefold())
    yield from dict.fromkeys((tuple(_units(lower)), tuple(_units(lower.translate(_TRANSCRIPTIONS)))))


class Vocabulary:
    """Words for views, body parts and species, and the codes for them.

    Args:
        listed: contents of vocabulary files; of two equal words the one in the later file counts.

    Attributes:
        inside: body parts inside another one, with its name; beside a word for it they name no other part.
    """

    def __init__(self, *listed: Words) -> None:
        self._absent = {fold(word) for file in listed for word in file.absent.words}
        neutral = [(NEUTRAL, word) for file in listed for word in file.neutral.words]
        views = [section for file in listed for section in file.view.items()]
        parts = [section for file in listed for section in file.part.items()]
        species = [section for file in listed for section in file.species.items()]
        self.inside: Mapping[str, str] = {name: one.inside for name, one in parts if one.inside is not None}
        self._stems = _stems(stem for _, one in parts for stem in one.stems)
        self._whole = {units[0] for _, word in neutral for units in _variants(word) if self._stems.search(units[0])}
        self._view = self._matcher(neutral, views, "words")
        self._view_position = self._matcher(neutral, views, "words", "in_view_position")
        self._part = self._matcher(neutral, parts, "words")
        self._animal = self._matcher([], [one for one in species if one[0] == ANIMAL], "words")
        self._species = self._matcher([], species, "words", "in_species")
        self._codes = {
            kind: {code.casefold(): name for name, one in sections for code in one.codes}
            for kind, sections in (("view", views), ("part", parts), ("species", species))
        }

    def is_absent(self, text: str | None) -> bool:
        """Return whether the value of an element stands for no value.

        For example an empty one, ``N/A`` or ``UNKNOWN``.
        """
        if text is None or not (units := _units(text)):
            return not any(c.isdigit() and c != "0" for c in text or "")
        return " ".join(units) in self._absent

    def read_view(self, text: str) -> Reading:
        """Return the views in a description or a code's meaning."""
        return self._view.read(self._split(text))

    def read_view_position(self, text: str) -> Reading:
        """Return the views in View Position (0018,5101).

        ``L`` alone is a lateral view there.
        """
        units = self._split(text)
        reading = self._view.read(units)
        if not reading.matches:
            reading = self._view_position.read(units)
        unlisted = (word for word in reading.rest if not self._part.read([word]).matches)
        return Reading(reading.matches, tuple(unlisted))

    def read_part(self, text: str) -> Reading:
        """Return the body parts in a text.

        Parts inside another one that is named are left out: the ribs beside the chest.
        """
        reading = self._part.read(self._split(text))
        names = reading.names
        return Reading(tuple(one for one in reading.matches if self.inside.get(one.name) not in names), reading.rest)

    def read_species(self, text: str) -> Reading:
        """Return the species in an element for species or breed."""
        return self._species.read(_units(text))

    def names_animal(self, text: str) -> bool:
        """Return whether a text has a word for animals.

        Args:
            text: a description, or the name of an institution.
        """
        return bool(self._animal.read(_units(text)).matches)

    def view_of(self, code: str) -> str | None:
        """Return the view for a Code Value; ``None`` if it is not listed."""
        return self._codes["view"].get(code.casefold())

    def part_of(self, code: str) -> str | None:
        """Return the body part for a Code Value; ``None`` if it is not listed."""
        return self._codes["part"].get(code.casefold())

    def species_of(self, code: str) -> str | None:
        """Return the species for a Code Value; ``None`` if it is not listed."""
        return self._codes["species"].get(code.casefold())

    def _split(self, text: str) -> list[str]:
        """Split a text into units, and at stems: ``CHESTLAT`` is ``chest lat``."""
        return self._parts(_units(text))

    def _parts(self, units: Iterable[str]) -> list[str]:
        parts = ([unit] if unit in self._whole else self._stems.split(unit) for unit in units)
        return [part for several in parts for part in several if part]

    def _matcher(self, neutral: list[tuple[str, str]], sections: list[tuple[str, Section]], *keys: str) -> _Matcher:
        """Return a matcher for the words under some keys of some sections."""
        words = [(name, word) for key in keys for name, one in sections for word in getattr(one, key)]
        return _Matcher(
            (name, tuple(self._parts(units)), word.endswith("*"))
            for name, word in (*neutral, *words)
            for units in _variants(word)
        )


def _stems(stems: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that splits a unit at the longest stem that it contains."""
    listed = sorted({units[0] for stem in stems for units in _variants(stem)}, key=len, reverse=True)
    return re.compile(f"({'|'.join(listed)})") if listed else re.compile(r"(?!)")


@lru_cache(maxsize=1)
def standard() -> Vocabulary:
    """Return the vocabulary that ships with Preread."""
    return Vocabulary(_standard_words())


@lru_cache(maxsize=4)
def extended(text: str) -> Vocabulary:
    """Return the vocabulary that ships with Preread, extended by a site.

    Args:
        text: content of the site's file; empty for none.

    Raises:
        SettingsError: see ``parse``.
    """
    return Vocabulary(_standard_words(), parse(text)) if text.strip() else standard()


def parse(text: str, source: str = "the vocabulary") -> Words:
    """Parse the content of a vocabulary file.

    Args:
        text: TOML; the form is that of ``vocabulary.toml``.
        source: name of the file for a message.

    Raises:
        SettingsError: it is no TOML, or has an unknown key or a value of the wrong kind; the message names it.
    """
    try:
        return Words.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{source} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{source}: {place or 'the file'}: {message}") from None


def read_file(path: Path | None) -> str:
    """Return the content of a site's vocabulary file after checking it.

    Args:
        path: value of the setting; ``None`` returns an empty text.

    Raises:
        SettingsError: it cannot be read, has more than ``MAX_FILE_BYTES``, or is invalid; see ``parse``.
    """
    if path is None:
        return ""
    source = f"the vocabulary file {str(path)!r}"
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise SettingsError(f"{source} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{source} is not UTF-8: {error.reason} at byte {error.start}") from None
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(f"{source} has more than {MAX_FILE_BYTES} bytes; list only words that are missing")
    parse(text, source)
    return text


def _standard_words() -> Words:
    return parse(files(__package__).joinpath("vocabulary.toml").read_text(encoding="utf-8"), "vocabulary.toml")
