"""CSV that no spreadsheet runs, whatever separates its cells there.

Every text is quoted, and an apostrophe stands before each character that would start a formula at the beginning of a
cell or behind anything that a spreadsheet may take for the end of one. ``plain`` takes the apostrophes away again.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

# What starts a formula in the common spreadsheets, the wide and small forms included.
_FORMULA = frozenset("=+-@|%\t\r＝＋－＠｜％﹦﹢﹣﹫﹪")  # noqa: RUF001
_SEPARATORS = frozenset(',;|\t\n\r\v\f\x85\u2028\u2029"，；、｜＂﹐﹔')  # noqa: RUF001
_ANY_FORMULA = re.compile(f"[{re.escape(''.join(sorted(_FORMULA)))}]")


class _Stream(Protocol):
    def write(self, text: str, /) -> object: ...


def write_rows(stream: _Stream, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a header and rows as CSV (RFC 4180): every text quoted and harmless, numbers bare, ``None`` empty."""
    writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(value) for value in row])


def cell(value: Any) -> str | bool | int | float:
    """Return what a cell holds: numbers as they are, text with an apostrophe before whatever would start a formula."""
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return value
    text = str(value)
    if text[-1:].isalnum() and _ANY_FORMULA.search(text) is None:
        return text
    written = []
    begins = True
    for character in text:
        written.append(f"'{character}" if begins and character in _FORMULA else character)
        begins = _begins_after(character, begins)
    # behind a separator at its end the quotation mark that closes the cell would open the next one
    return "".join(written) + "'" * (begins and not _SEPARATORS.isdisjoint(text))


def plain(text: str) -> str:
    """Return the text from which ``cell`` made this one."""
    read: list[str] = []
    begins = True
    for character in text:
        if begins and character in _FORMULA and read and read[-1] == "'":
            read.pop()
        read.append(character)
        begins = _begins_after(character, begins)
    if begins and not _SEPARATORS.isdisjoint(text) and read[-1] == "'":
        read.pop()
    return "".join(read)


def _begins_after(character: str, began: bool) -> bool:
    """Tell whether a cell may begin behind this character: it separates, or nothing that counts came since one did."""
    if character in _SEPARATORS:
        return True
    if not began:
        return False
    # an apostrophe as well, so that one that was there is told from one of ours
    return character == "'" or character.isspace() or unicodedata.category(character)[0] in "CMZ"
