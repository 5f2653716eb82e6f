"""What is said of a setting that is unknown or cannot be meant, and how one looks that is right."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError
from pydantic.fields import FieldInfo


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Name the nearest of the known names, or all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(names)}"


def explain(error: ValidationError, path: Path | None, prefix: str, settings: Mapping[str, FieldInfo]) -> str:
    """Say of each value that cannot be meant where it stands, what is wrong, and how one looks that is right.

    Args:
        path: the file of settings, if there is one.
        prefix: of a setting's variable in the environment.
        settings: all of them.
    """
    in_environment = {name.upper() for name, value in os.environ.items() if value}
    parts = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        setting, *rest = (str(part) for part in item["loc"])
        env = prefix + setting.upper()
        place = "".join(f" [{part}]" for part in rest)
        where = env if env in in_environment or path is None else f"{setting} in {path}"
        parts.append(f"{where}{place}: {_in_words(item['type'], item['msg'], settings.get(setting))}")
    return "; ".join(parts)


def _in_words(kind: str, message: str, field: FieldInfo | None) -> str:
    if kind == "string_pattern_mismatch" and field is not None and field.examples:
        return f"does not have the form of, for example, {field.examples[0]}"
    said = message.removeprefix("Value error, ")
    wants_number = kind.startswith(("int_", "float_", "greater_than", "less_than", "finite"))
    return f"{said}, such as {field.default:g}" if wants_number and field is not None and field.default else said
