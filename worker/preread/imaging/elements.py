"""Tolerant access to Data Elements: a broken element counts as missing.

pydicom quotes values (names, birth dates) in its warnings, log lines and exceptions. ``suppress_parser_warnings``
suppresses the first two, and no exception of pydicom leaves this package: callers raise their own, without the value
and ``from None``.
"""

from __future__ import annotations

import contextlib
import math
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pydicom.config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.sequence import Sequence

from preread.core.text.code_extensions import ESCAPE, IN_CHARACTER_SET, decode_extended_text

# Above CRITICAL: pydicom's loggers quote values even in their errors.
_SILENT = 60
pydicom.config.logger.setLevel(_SILENT)

# Exceptions of third-party parsers and decoders on malformed content. RuntimeError covers RecursionError and
# NotImplementedError; Warning covers filters that turn warnings into errors.
PARSE_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    BytesLengthException,
    InvalidDicomError,
    struct.error,
    zlib.error,
)

TEXT_MAX = 1024
UNREADABLE = "(unreadable)"
"""Stands for a value that is not text, in place of a value as written."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class _Quiet:
    """Suppresses Python's warnings while at least one thread is inside.

    ``warnings.catch_warnings`` replaces process-wide state, so only the first thread to enter replaces it and only the
    last to leave restores it; otherwise overlapping threads would restore each other's filters.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catcher = warnings.catch_warnings()

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._catcher.__exit__(None, None, None)


_QUIET = _Quiet()


@contextmanager
def suppress_parser_warnings() -> Iterator[None]:
    """Suppress warnings of DICOM parsers and decoders within the block."""
    _QUIET.enter()
    try:
        yield
    finally:
        _QUIET.leave()


def read_value(dataset: Dataset, keyword: str) -> object:
    """Return the value of a DICOM element, or ``None`` if it is broken.

    Args:
        dataset: the Data Set.
        keyword: the element's keyword (PS3.6).

    Returns:
        ``None`` also if the element is absent or empty.
    """
    try:
        content: object = dataset.get(keyword)
    except PARSE_ERRORS:
        return None
    return content


def read_first_value(dataset: Dataset, keyword: str) -> object:
    """Return the first value of a DICOM element, or ``None``."""
    content = read_value(dataset, keyword)
    if isinstance(content, str | bytes | Sequence):
        return content
    try:
        return next(iter(content))  # type: ignore[call-overload]
    except StopIteration:
        return None
    except TypeError:
        return content


def read_text(dataset: Dataset, keyword: str) -> str | None:
    r"""Return a DICOM element as one line of text, or ``None``.

    Several values are joined by ``\``. Control characters, which these value representations do not allow (PS3.5
    6.1.3), become spaces.

    Returns:
        ``None`` if the text is empty or has more than 1024 characters.
    """
    extended = _read_extended_text(dataset, keyword)
    content = read_value(dataset, keyword) if extended is None else extended
    if content is None or isinstance(content, bytes | Sequence):
        return None
    try:
        parts = (
            [str(content)]
            if isinstance(content, str) or not hasattr(content, "__iter__")
            else [str(v) for v in content]
        )
        if type(content).__name__ == "PersonName":
            parts = [str(content)]
    except PARSE_ERRORS:
        return None
    line = _CONTROL.sub(" ", "\\".join(parts)).strip()
    return line if 0 < len(line) <= TEXT_MAX else None


def _read_extended_text(dataset: Dataset, keyword: str) -> str | None:
    """Return text with code extensions, which pydicom does not know all.

    Returns:
        ``None`` if there are none.
    """
    try:
        raw: object = dataset.get_item(keyword)
        if not isinstance(raw, RawDataElement) or not raw.value or ESCAPE not in raw.value:
            return None
        vr = raw.VR or dictionary_VR(raw.tag)
        if vr not in IN_CHARACTER_SET:
            return None
        return decode_extended_text(raw.value, dataset.original_character_set, is_name=vr == "PN")
    except PARSE_ERRORS:
        return None


def read_code_string(dataset: Dataset, keyword: str) -> str | None:
    """Return the first code string (CS) of a DICOM element in upper case.

    Returns:
        ``None`` if there is none.
    """
    line = read_text(dataset, keyword)
    return (line.split("\\")[0].strip().upper() or None) if line else None


def read_written(dataset: Dataset, keyword: str) -> str | None:
    """Return a DICOM element as one line of text, as it is written.

    Its value representation and character set may be wrong: some programs write UTF-8 where the character set says
    otherwise, or in code strings, which have none (PS3.5 6.2).

    Returns:
        ``None`` if the element is absent or empty; ``UNREADABLE`` if it has a value that is not text. At most 1024
        characters.
    """
    extended = _read_extended_text(dataset, keyword)
    try:
        content = extended if extended is not None else dataset[keyword].value if keyword in dataset else None
    except PARSE_ERRORS:
        return UNREADABLE
    if content is None or (isinstance(content, str | bytes | list) and not content):
        return None
    if isinstance(content, Sequence):
        return UNREADABLE
    if isinstance(content, bytes):
        content = content.decode("latin-1").strip("\0 ")
    try:
        values = [content] if isinstance(content, str) or not hasattr(content, "__iter__") else list(content)
        text = "\\".join("" if value is None else str(value) for value in values)
    except PARSE_ERRORS:
        return UNREADABLE
    charset = read_text(dataset, "SpecificCharacterSet") or ""
    line = _CONTROL.sub(" ", _as_decoded(text, "gb18030" if charset in {"GB18030", "GBK"} else "utf-8")).strip()
    return line[:TEXT_MAX] or None


def _as_decoded(text: str, other: str) -> str:
    """Return a text that was decoded as Latin-1 as UTF-8, or in another encoding, if its bytes are valid there."""
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:
        return text
    for encoding in ("utf-8", other):
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(encoding)
    return text


def read_uid(dataset: Dataset, keyword: str) -> str | None:
    """Return the UID of a DICOM element if it is valid, else ``None``.

    See PS3.5 9.1.
    """
    line = read_text(dataset, keyword)
    return line if line and len(line) <= 64 and _UID.fullmatch(line) else None


def read_number(dataset: Dataset, keyword: str) -> float | None:
    """Return the first value of a DICOM element as a finite number.

    Returns:
        ``None`` if it is not one.
    """
    return _finite(read_first_value(dataset, keyword))


def read_numbers(dataset: Dataset, keyword: str) -> list[float | None]:
    """Return all values of a DICOM element as finite numbers.

    Returns:
        ``None`` for each that is not one; empty if the element is absent or broken.
    """
    content = read_value(dataset, keyword)
    if content is None or isinstance(content, bytes | Sequence):
        return []
    if isinstance(content, str) or not hasattr(content, "__iter__"):
        return [_finite(content)]
    try:
        return [_finite(v) for v in content]
    except PARSE_ERRORS:
        return []


def read_integer(dataset: Dataset, keyword: str) -> int | None:
    """Return the first value of a DICOM element as an integer.

    Returns:
        ``None`` if it is not one.
    """
    content = read_number(dataset, keyword)
    return int(content) if content is not None and content == int(content) else None


def read_sequence_items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a DICOM sequence (SQ).

    Returns:
        Empty if the sequence is absent or broken.
    """
    content = read_value(dataset, keyword)
    return list(content) if isinstance(content, Sequence) else []


def read_code_sequence(dataset: Dataset, keyword: str) -> list[str]:
    """Return values and meanings of a DICOM code sequence in lower case.

    See PS3.3 8.
    """
    keywords = ("CodeValue", "LongCodeValue", "CodeMeaning")
    texts = [read_written(item, k) for item in read_sequence_items(dataset, keyword) for k in keywords]
    return [line.lower() for line in texts if line]


def _finite(content: object) -> float | None:
    try:
        result = float(content)  # type: ignore[arg-type]
    except PARSE_ERRORS:
        return None
    return result if math.isfinite(result) else None
