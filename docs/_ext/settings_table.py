"""Settings as a Markdown table.

``python docs/_ext/settings_table.py`` prints it for ``settings.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import get_args

from pydantic.fields import FieldInfo

from preread.core.settings import PREFIX, Settings

_UNITS = {"s": "seconds", "bytes": "bytes", "minutes": "minutes", "pixels": "samples"}


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """One row of the table.

    Attributes:
        env: name of the environment variable.
        key: its name in ``preread.toml``.
        default: value as in a settings file; empty if there is none.
        value: allowed values: kind or unit, and range.
        help: description in one line.
    """

    env: str
    key: str
    default: str
    value: str
    help: str


def describe() -> list[SettingDoc]:
    """Return a row for every setting, in the order of the class."""
    return [
        SettingDoc(
            PREFIX + name.upper(),
            name,
            "" if field.default in (None, ()) else str(field.default),
            ", ".join(_value(name, field)),
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def markdown_table() -> str:
    """Return the Markdown table of all settings."""
    lines = ["| variable | in `preread.toml` | default | value | meaning |", "| --- | --- | --- | --- | --- |"]
    for row in describe():
        default = f"`{row.default}`" if row.default else "unset"
        lines.append(f"| `{row.env}` | `{row.key}` | {default} | {row.value} | {row.help} |")
    return "\n".join(lines)


def _value(name: str, field: FieldInfo) -> Iterator[str]:
    (kind, *_) = [one for one in get_args(field.annotation) if one is not NoneType] or [field.annotation]
    unit = _UNITS.get(name.rsplit("_", 1)[-1])
    if name == "roots":
        yield "folders"
    elif kind is bool:
        yield "`true` or `false`"
    elif kind in (int, float):
        yield unit or ("whole number" if kind is int else "number")
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        yield "one of these words"
    else:
        yield "path" if kind is Path else "text"
    low, high = (
        next(
            (
                f"{limit:,}".removesuffix(".0")
                for one in field.metadata
                if (limit := getattr(one, end, None)) is not None
            ),
            "",
        )
        for end in ("ge", "le")
    )
    if low:
        yield f"{low} to {high}" if high else f"from {low}"


if __name__ == "__main__":
    sys.stdout.write(markdown_table() + "\n")
