"""Text of DICOM with code extensions (PS3.5 6.1.2.5, PS3.3 C.12.1.1.2).

pydicom leaves escape sequences of GB 2312 (ISO 2022 IR 58) and of undeclared character sets in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

ESCAPE = b"\x1b"
IN_CHARACTER_SET = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""Value representations to which a Specific Character Set applies; others are in the default repertoire (6.1.2.3)."""
DEFAULT_CODEC = "iso8859"
"""Python's codec for the default repertoire, as pydicom names it."""

# Final byte of the escape sequence ``ESC - F`` that designates G1 (PS3.3 table C.12-3), and Python's codec.
_G1_CODECS = {
    "A": "iso8859_1",
    "B": "iso8859_2",
    "C": "iso8859_3",
    "D": "iso8859_4",
    "F": "iso8859_7",
    "G": "iso8859_6",
    "H": "iso8859_8",
    "L": "iso8859_5",
    "M": "iso8859_9",
    "T": "tis_620",
    "b": "iso8859_15",
}
# Escape sequences for code element G1; the codecs leave G0 (ASCII) as it is.
_LATIN = {f"\x1b-{final}".encode(): codec for final, codec in _G1_CODECS.items()}
_G1 = _LATIN | {
    b"\x1b)I": "shift_jis",  # JIS X 0201: katakana
    b"\x1b$)A": "gb2312",
    b"\x1b$)C": "euc_kr",
}
# Escape sequences for code element G0, and what Python's codec for it expects in front; ``None`` is one byte each.
_G0: dict[bytes, tuple[str, bytes] | None] = {
    b"\x1b(B": None,
    b"\x1b(J": None,
    b"\x1b$B": ("iso2022_jp", b"\x1b$B"),
    b"\x1b$@": ("iso2022_jp", b"\x1b$@"),
    b"\x1b$(D": ("iso2022_jp_2", b"\x1b$(D"),
}
# ECMA-35 13.2: intermediate bytes 20 to 2F and a final byte 30 to 7E.
_ESCAPED = re.compile(rb"(\x1b[ -/]+[0-~])")
_LEFT_OVER = re.compile("\x1b[ -/]+[0-~]")
# The character sets of the start are active again after these (PS3.5 6.1.2.5.3).
_ENDS = re.compile(rb"[\\\t\n\f\r]")
_ENDS_IN_NAME = re.compile(rb"[\\^=\t\n\f\r]")
# Bytes of code element G1, two-byte characters of G0, and control characters.
_KINDS = re.compile(rb"([\x80-\xff]+)|([!-~]+)|([\x00-\x20\x7f]+)")
_WITHOUT_EXTENSIONS = frozenset({"UTF8", "GB18030", "GBK"})


def decode_extended_text(value: bytes, codecs: str | Sequence[str], *, is_name: bool) -> str:
    """Decode text with escape sequences.

    The escape sequences themselves decide, whether or not the Specific Character Set declares them.

    Args:
        value: bytes of an element, with all its values.
        codecs: Python's codecs for the terms of the Specific Character Set; the first one counts.
        is_name: the element is a PN, whose ``^`` and ``=`` end a character set, too.

    Returns:
        The text without escape sequences. Bytes without meaning become U+FFFD.
    """
    first = codecs if isinstance(codecs, str) else codecs[0]
    if first in _WITHOUT_EXTENSIONS:
        return _LEFT_OVER.sub("", value.decode(first, "replace"))
    ends = _ENDS_IN_NAME if is_name else _ENDS
    high, wide = first, None
    text: list[str] = []
    for part in _ESCAPED.split(value):
        if _ESCAPED.fullmatch(part):
            high, wide = _G1.get(part, high), _G0.get(part, wide)
            if part in _LATIN:  # pydicom and others write no return to ASCII before it
                wide = None
        elif wide is not None:
            text.extend(_wide(part, high, wide))
        elif first != DEFAULT_CODEC and (ended := ends.search(part)):
            # With the default repertoire there is nothing to return to, and some writers do not repeat the sequence
            text += part[: ended.start()].decode(high, "replace"), part[ended.start() :].decode(first, "replace")
            high = first
        else:
            text.append(part.decode(high, "replace"))
    return "".join(text)


def _wide(part: bytes, high: str, wide: tuple[str, bytes]) -> Iterator[str]:
    """Yield the text of bytes while code element G0 has two-byte characters."""
    codec, escape = wide
    for g1, g0, control in _KINDS.findall(part):
        yield g1.decode(high, "replace") + control.decode("ascii")
        if g0:
            yield (escape + g0).decode(codec, "replace")
