"""Texts of the page by language, from ``languages/<code>.toml``.

A text that a language lacks is taken from English. English takes texts shared with commands (caveats, reasons why an
image was not read) from their source.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from preread.core.errors import UNREAD_CODES, EnvironmentFault, PrereadError, SettingsError, SlotError, UnreadableError
from preread.core.types import CAVEAT_TEXT

ENGLISH = "en"
_FOLDER = resources.files("preread.web") / "languages"


class Language:
    """Texts by key, such as ``film.accept``; ``{name}`` in a text is replaced.

    Args:
        code: language code.
        texts: nested tables of texts as in the file.
        fallback: language for missing texts.
    """

    def __init__(self, code: str, texts: Mapping[str, Any], fallback: Language | None = None) -> None:
        self.code = code
        self.texts: dict[str, str] = {**(fallback.texts if fallback else {}), **dict(_flat(texts))}

    def __call__(self, key: str, **values: object) -> str:
        """Return the text of a key with its values inserted.

        Raises:
            KeyError: no language has it.
        """
        text = self.texts[key]
        return text.format(**values) if values else text

    def get(self, key: str) -> str | None:
        """Return the text of a key, or ``None`` if there is none."""
        return self.texts.get(key)


def available_languages() -> list[str]:
    """Return the codes of the languages that have a file."""
    return sorted(entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml"))


def load_language(code: str) -> Language:
    """Return a language.

    Raises:
        SettingsError: it has no file.
    """
    if code not in available_languages():
        raise SettingsError(f"PREREAD_WEB_LANGUAGE is {code!r}; there are {', '.join(available_languages())}")
    english = Language(ENGLISH, _read(ENGLISH), Language(ENGLISH, _of_the_program()))
    return english if code == ENGLISH else Language(code, _read(code), english)


def _read(code: str) -> dict[str, Any]:
    return tomllib.loads((_FOLDER / f"{code}.toml").read_text(encoding="utf-8"))


def _of_the_program() -> dict[str, Any]:
    unread = [*_kinds(UnreadableError), *_kinds(SlotError)]
    unread += [kind for kind in _kinds(EnvironmentFault) if kind.code in UNREAD_CODES]
    codes = {kind.code: (kind.__doc__ or "").strip().splitlines()[0].rstrip(".") for kind in unread}
    return {"caveat": {caveat.value: text for caveat, text in CAVEAT_TEXT.items()}, "code": codes}


def _kinds(of: type[PrereadError]) -> Iterator[type[PrereadError]]:
    yield of
    for kind in of.__subclasses__():
        yield from _kinds(kind)


def _flat(texts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in texts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
