"""What the page says, in one file a language: ``languages/<code>.toml``. What a language lacks is said in English.

English itself takes what the whole program says in one way (caveats, why a film was not read) from where that stands.
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
    """The page's texts by key, such as ``film.accept``; ``{name}`` in a text takes a value.

    Args:
        texts: nested tables of texts, as the file holds them; what they lack is taken from ``fallback``.
    """

    def __init__(self, code: str, texts: Mapping[str, Any], fallback: Language | None = None) -> None:
        self.code = code
        self.texts: dict[str, str] = {**(fallback.texts if fallback else {}), **dict(_flat(texts))}

    def __call__(self, key: str, **values: object) -> str:
        """Say the text of this key."""
        text = self.texts[key]
        return text.format(**values) if values else text

    def get(self, key: str) -> str | None:
        """Say the text of this key, ``None`` where there is none."""
        return self.texts.get(key)


def installed() -> list[str]:
    """Return the languages that have a file."""
    return sorted(entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml"))


def load(code: str) -> Language:
    """Load a language. ``SettingsError``: it has no file."""
    if code not in installed():
        raise SettingsError(f"PREREAD_WEB_LANGUAGE is {code!r}; there are {', '.join(installed())}")
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
