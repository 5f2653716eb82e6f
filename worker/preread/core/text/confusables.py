"""How text looks: what nobody sees is shown, and identifiers that look like others are marked. Nothing stored changes.

Persian, Hindi and their like need the joiners U+200C and U+200D inside of words, Chinese and Japanese names variation
selectors behind a character: there they stay as they are.
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
# Letters and marks that show nothing, though their category does not say so: fillers, and the empty Braille cell.
_EMPTY = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2800\u3164\uffa0")
_SELECTORS = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))
_WORD = re.compile(r"[^\W\d_]+")
# Scripts of one language's writing, which stand side by side in its words.
_TOGETHER = (frozenset({"CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "HANGUL", "LATIN"}),)
# Cyrillic and Greek letters that look like Latin ones.
_ALIKE = frozenset("асеорхуіјѕһԁԛԝАВСЕНІЈКМОРЅТХУҮΑΒΕΖΗΙΚΜΝΟΡΤΥΧοανιԌԍ")


class IdentifierWarning(StrEnum):
    """What a reader has to know of an identifier, since it does not show."""

    INVISIBLE = "invisible"
    MIXED_SCRIPTS = "mixed_scripts"
    LOOKALIKE = "lookalike"


def printable(text: str) -> str:
    r"""Return the text as it may be shown: with what ``escape`` writes out, and invisible characters as ``\u200b``."""
    return show_invisible(escape(text))


def show_invisible(text: str) -> str:
    """Return the text with its invisible characters written out, and its lines as they are."""
    if text.isascii():
        return text
    return "".join(_written(character) if hidden else character for character, hidden in _hidden(text))


def identifier_warnings(identity: Identity) -> tuple[IdentifierWarning, ...]:
    """Return what is to be marked of the name and the identifiers of an image."""
    identifiers = (identity.patient_id, identity.issuer_of_patient_id, identity.accession_number)
    return _looks(identity.patient_name, *identifiers)


@lru_cache(maxsize=4096)
def _looks(name: str | None, *identifiers: str | None) -> tuple[IdentifierWarning, ...]:
    texts = [text for text in (name, *identifiers) if text and not text.isascii()]
    found = (
        (IdentifierWarning.INVISIBLE, any(map(_holds_hidden, texts))),
        (IdentifierWarning.MIXED_SCRIPTS, any(_mixed(word) for text in texts for word in _WORD.findall(text))),
        (IdentifierWarning.LOOKALIKE, any(_looks_latin(text) for text in identifiers if text and not text.isascii())),
    )
    return tuple(look for look, there in found if there)


def _holds_hidden(text: str) -> bool:
    return any(hidden or _is_space(character) for character, hidden in _hidden(text))


def _hidden(text: str) -> list[tuple[str, bool]]:
    """Return each character, and whether nobody sees it."""
    return [(character, _is_hidden(text, index)) for index, character in enumerate(text)]


def _is_hidden(text: str, index: int) -> bool:
    character = text[index]
    before, after = text[index - 1 : index] if index else "", text[index + 1 : index + 2]
    if character in _JOINERS:
        return not (_script(before) in _JOINED and _script(after) in _JOINED)
    if any(ord(character) in one for one in _SELECTORS):
        return _script(before) not in {"CJK", "MONGOLIAN", "PHAGS-PA", "MYANMAR"}
    if character in _EMPTY:
        return True
    return unicodedata.category(character) in {"Cf", "Co", "Cn"}


def _is_space(character: str) -> bool:
    """Tell whether it looks like the space, and is another; our own texts hold such ones, so they are only marked."""
    return character not in {" ", "\u3000"} and unicodedata.category(character) == "Zs"


def _script(character: str) -> str:
    name = unicodedata.name(character, "") if character else ""
    words = name.replace("FULLWIDTH ", "").replace("HALFWIDTH ", "").split(" ")
    return words[0] if words[0] != "KANGXI" else "CJK"


def _mixed(word: str) -> bool:
    scripts = {_script(letter) for letter in word if unicodedata.category(letter)[0] == "L"}
    return len(scripts) > 1 and not any(scripts <= together for together in _TOGETHER)


def _looks_latin(text: str) -> bool:
    """Tell whether an identifier holds letters or digits that another one may hold as plain Latin ones."""
    composed = unicodedata.normalize("NFC", text)
    return not _ALIKE.isdisjoint(text) or unicodedata.normalize("NFKC", composed) != composed


def _written(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number <= 0xFF else f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
