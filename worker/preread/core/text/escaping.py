"""Escaping of untrusted text (paths, DICOM tags) for storage and display."""

from __future__ import annotations

import unicodedata

MAX_IDENTIFIER_CHARS = 256
MAX_TEXT_CHARS = 1024

# Directional embeddings, overrides and isolates reorder the displayed text. The joiners U+200C and U+200D are kept:
# Persian and Hindi names need them.
_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNPRINTABLE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def escape(text: str) -> str:
    r"""Escape control, surrogate and reordering characters of a text.

    They become ``\x1b`` or ``\u202e``.
    Postgres TEXT cannot hold U+0000, neither database can hold a lone surrogate, and a
    terminal executes escape sequences.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escaped(character)
        if character in _BIDIRECTIONAL
        or character == "\ufeff"
        or unicodedata.category(character) in _UNPRINTABLE_CATEGORIES
        else character
        for character in text
    )


def _escaped(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # surrogateescape: the byte itself (PEP 383)
        return f"\\x{number - 0xDC00:02x}"
    if number <= 0xFF:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def display_path(path: bytes) -> str:
    r"""Return a path as text that is safe to print.

    Args:
        path: bytes of the operating system; those that are not UTF-8 become ``\xff``, a backslash is doubled.
    """
    return escape(path.decode("utf-8", "surrogateescape").replace("\\", "\\\\"))


def clean_text(value: str | None) -> str | None:
    """Return the text of a DICOM tag, escaped and cut to 1024 characters.

    Args:
        value: text of the tag, or ``None``.

    Returns:
        ``None`` if nothing is left.
    """
    if value is None:
        return None
    text = escape(value.strip(" \x00"))
    if len(text) > MAX_TEXT_CHARS:
        text = text[: MAX_TEXT_CHARS - 1] + "…"
    return text or None


def clean_identifier(value: str | None) -> str | None:
    """Return a DICOM identifier, escaped to be stored and compared.

    DICOM allows 64 characters (PS3.5 section 6.2: LO and UI). A long identifier is not shortened, since two patients
    could become one.

    Returns:
        ``None`` if nothing is left, or if it has more than 256 characters.
    """
    if value is None or len(value) > MAX_IDENTIFIER_CHARS:
        return None
    return escape(value.strip(" \x00")) or None
