"""CSV in which no spreadsheet finds a formula, whatever its separator.

Every text is quoted, and an apostrophe is put before each character that would start a formula at the beginning of a
cell or after anything that a spreadsheet may take for the end of one. ``plain`` removes the apostrophes.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

# Characters that start a formula in the common spreadsheets, wide and small forms included.
_FORMULA = frozenset("=+-@|%\t\r＝＋－＠｜％﹦﹢﹣﹫﹪")  # noqa: RUF001
_SEPARATORS = frozenset(',;|\t\n\r\v\f\x85\u2028\u2029"，；、｜＂﹐﹔')  # noqa: RUF001
_ANY_FORMULA = re.compile(f"[{re.escape(''.join(sorted(_FORMULA)))}]")


class _Stream(Protocol):
    def write(self, text: str, /) -> object: ...


def write_rows(stream: _Stream, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a header and rows as CSV (RFC 4180).

    Args:
        stream: receives the text.
        columns: names of the columns.
        rows: values of each row: text is quoted, numbers are not, ``None`` is an empty cell.
    """
    writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([csv_cell(value) for value in row])


def csv_cell(value: Any) -> str | bool | int | float:
    """Return the content of a CSV cell: a number, or text without formulas.

    Args:
        value: ``None`` becomes the empty text; anything but a number is converted with ``str``.
    """
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
    # after a trailing separator the closing quotation mark would open the next cell
    return "".join(written) + "'" * (begins and not _SEPARATORS.isdisjoint(text))


def unescape_csv_cell(text: str) -> str:
    """Return the original text of a cell written by ``csv_cell``."""
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
    """Return whether a cell may begin after this character.

    True after a separator, and as long as only characters without content have followed one.
    """
    if character in _SEPARATORS:
        return True
    if not began:
        return False
    # an apostrophe as well, so that an original one is distinguished from an added one
    return character == "'" or character.isspace() or unicodedata.category(character)[0] in "CMZ"
