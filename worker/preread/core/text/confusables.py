"""Display of invisible characters; warnings about identifiers.

Stored text never changes. Persian, Hindi and similar scripts need the joiners U+200C and U+200D within words, Chinese
and Japanese names variation selectors after a character: there they are kept.
"""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum
from functools import lru_cache

from preread.core.text.escaping import escape
from preread.core.types import Identity

_JOINERS = frozenset("\u200c\u200d")
_JOINED = frozenset(
    {
        *("ARABIC", "SYRIAC", "MANDAIC", "MONGOLIAN", "DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA"),
        *("TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "SINHALA", "KHMER", "MYANMAR", "TIBETAN"),
    }
)
# Letters and marks without a glyph whose category does not show it: fillers, and the empty Braille cell.
_EMPTY = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2800\u3164\uffa0")
_SELECTORS = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))
_WORD = re.compile(r"[^\W\d_]+")
# Scripts that one writing system mixes within a word.
_TOGETHER = (frozenset({"CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "HANGUL", "LATIN"}),)
# Cyrillic and Greek letters that look like Latin ones.
_ALIKE = frozenset("асеорхуіјѕһԁԛԝАВСЕНІЈКМОРЅТХУҮΑΒΕΖΗΙΚΜΝΟΡΤΥΧοανιԌԍ")


class IdentifierWarning(StrEnum):
    """Property of an identifier that its display hides."""

    INVISIBLE = "invisible"
    MIXED_SCRIPTS = "mixed_scripts"
    LOOKALIKE = "lookalike"


def printable(text: str) -> str:
    r"""Return text for display: control and invisible characters as ``\u200b``.

    Args:
        text: any text; line breaks are escaped as well.
    """
    return show_invisible(escape(text))


def show_invisible(text: str) -> str:
    """Return text with invisible characters escaped, line breaks unchanged."""
    if text.isascii():
        return text
    return "".join(_written(character) if hidden else character for character, hidden in _hidden(text))


def identifier_warnings(identity: Identity) -> tuple[IdentifierWarning, ...]:
    """Return the warnings about patient name and identifiers of an image."""
    identifiers = (identity.patient_id, identity.issuer_of_patient_id, identity.accession_number)
    return _cached_warnings(identity.patient_name, *identifiers)


@lru_cache(maxsize=4096)
def _cached_warnings(name: str | None, *identifiers: str | None) -> tuple[IdentifierWarning, ...]:
    texts = [text for text in (name, *identifiers) if text and not text.isascii()]
    checks = (
        (IdentifierWarning.INVISIBLE, any(map(_holds_hidden, texts))),
        (IdentifierWarning.MIXED_SCRIPTS, any(_mixed(word) for text in texts for word in _WORD.findall(text))),
        (IdentifierWarning.LOOKALIKE, any(_looks_latin(text) for text in identifiers if text and not text.isascii())),
    )
    return tuple(warning for warning, applies in checks if applies)


def _holds_hidden(text: str) -> bool:
    return any(hidden or _is_space(character) for character, hidden in _hidden(text))


def _hidden(text: str) -> list[tuple[str, bool]]:
    """Return each character, and whether it is invisible."""
    return [(character, _is_hidden(text, index)) for index, character in enumerate(text)]


def _is_hidden(text: str, index: int) -> bool:
    character = text[index]
    before, after = text[index - 1 : index] if index else "", text[index + 1 : index + 2]
    if character in _JOINERS:
        return not (_script(before) in _JOINED and _script(after) in _JOINED)
    if any(ord(character) in selectors for selectors in _SELECTORS):
        return _script(before) not in {"CJK", "MONGOLIAN", "PHAGS-PA", "MYANMAR"}
    if character in _EMPTY:
        return True
    return unicodedata.category(character) in {"Cf", "Co", "Cn"}


def _is_space(character: str) -> bool:
    """Return whether a character looks like a space but is another."""
    return character not in {" ", "\u3000"} and unicodedata.category(character) == "Zs"


def _script(character: str) -> str:
    name = unicodedata.name(character, "") if character else ""
    words = name.replace("FULLWIDTH ", "").replace("HALFWIDTH ", "").split(" ")
    return words[0] if words[0] != "KANGXI" else "CJK"


def _mixed(word: str) -> bool:
    scripts = {_script(letter) for letter in word if unicodedata.category(letter)[0] == "L"}
    return len(scripts) > 1 and not any(scripts <= together for together in _TOGETHER)


def _looks_latin(text: str) -> bool:
    """Return whether an identifier has characters that look like Latin ones."""
    composed = unicodedata.normalize("NFC", text)
    return not _ALIKE.isdisjoint(text) or unicodedata.normalize("NFKC", composed) != composed


def _written(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number <= 0xFF else f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
