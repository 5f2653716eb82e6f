"""Languages: every word of a page comes from one file, and another language is one file more."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from preread.core.errors import DatabaseAway, SettingsError
from preread.core.types import Answer, RefusalCode, Role
from preread.ledger.records import Observation
from preread.review import reviews
from preread.review.audit import Action
from preread.web import i18n
from tests.support.page import Films
from tests.support.page_clients import Browser

HERE = Path(i18n.__file__).parent
# What no language may say of a film; a new language brings its own words here.
HEALTH_WORDS = {
    "en": r"normal|negative|clear|healthy|unremarkable|no findings?",
    "de": r"normal\w*|negativ\w*|gesund\w*|unauffällig\w*|befundlos\w*|o\. ?B\.|kein(e|en|er)? Befunde?",
}
EXCLUDES_NOTHING = {"en": "this excludes no disease", "de": "das schließt keine Krankheit aus"}


def places(text: str) -> list[str]:
    return sorted(re.findall(r"\{\w*\}", text))


@pytest.mark.parametrize("code", i18n.available_languages())
def test_a_language_is_whole_and_never_says_that_a_film_is_free_of_disease(code: str) -> None:
    english, texts = i18n.load_language("en").texts, dict(i18n._flat(i18n._read(code)))
    if code != "en":
        assert sorted(texts) == sorted(english)
    assert {key: places(text) for key, text in texts.items()} == {key: places(english[key]) for key in texts}
    said = re.compile(rf"\b({HEALTH_WORDS[code]})\b", re.IGNORECASE)
    assert [text for text in texts.values() if said.search(text)] == []
    assert EXCLUDES_NOTHING[code] in texts["answer.not_flagged"]


def test_every_text_that_a_page_asks_for_is_there() -> None:
    texts = i18n.load_language("en").texts
    written = [path.read_text() for path in (HERE / "templates").iterdir()]
    asked = {key for text in written for key in re.findall(r"\bt\(\s*['\"]([\w.]+)['\"]\s*[,)]", text)}
    assert len(asked) > 80
    assert asked <= set(texts)
    kinds: dict[str, Sequence[str]] = {
        "outcome": ["assessed", "refused", "unreadable"],
        "answer": list(Answer),
        "verdict": ["accepted", "rejected", "supplemented"],
        "film": ["accepted", "rejected", "supplemented", "present", "absent", "unsure", "refused", "unreadable"],
        "error": ["400", "403", "404", "405", "413", "422", "500", "away"],
        "code": list(RefusalCode),
    }
    assert {f"{kind}.{word}" for kind, words in kinds.items() for word in words} <= set(texts)


class Said(HTMLParser):
    """What a page says in words of its own: no film's or person's data, no record that is kept in English."""

    VOID = frozenset({"meta", "link", "input", "img", "br"})
    ATTRIBUTES = ("alt", "aria-label", "title", "placeholder", "data-lost", "data-text", "data-label")

    def __init__(self, page: str) -> None:
        super().__init__()
        self._open: list[tuple[str, bool]] = []
        self.texts: list[str] = []
        self.feed(page)

    def _skips(self) -> bool:
        return bool(self._open) and self._open[-1][1]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        data = given.get("translate") == "no" or (given.get("lang") == "en" and tag != "html")
        skips = self._skips() or data or tag in {"script", "style", "time", "textarea"}
        if not skips:
            self.texts += [given[name] or "" for name in self.ATTRIBUTES if name in given]
        if tag not in self.VOID:
            self._open.append((tag, skips))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not self._skips() and data.strip():
            self.texts.append(data.strip())

    def foreign(self) -> list[str]:
        """What does not come from the file, in which every text stands in double brackets."""
        found = []
        for text in self.texts:
            before, rest = "", text
            while rest != before:
                before, rest = rest, re.sub(r"⟦[^⟦⟧]*⟧", "", rest)
            if re.search(r"[^\W\d_]|[⟦⟧]", rest):
                found.append(text)
        return found


def drop_in(folder: Path, code: str) -> None:
    """Write a language in which every text is marked."""
    tables: dict[str, list[str]] = {}
    for key, text in i18n.load_language("en").texts.items():
        table, _, name = key.partition(".")
        tables.setdefault(table, []).append(f'"{name}" = {json.dumps(f"⟦{text}⟧", ensure_ascii=False)}')
    written = (f"[{table}]\n" + "\n".join(lines) for table, lines in tables.items())
    (folder / f"{code}.toml").write_text("\n".join(written), encoding="utf-8")


def test_one_file_dropped_in_is_another_language_of_every_page(
    films_here: Films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "languages"
    folder.mkdir()
    (folder / "en.toml").write_text((HERE / "languages" / "en.toml").read_text())
    drop_in(folder, "xx")
    monkeypatch.setattr(i18n, "_FOLDER", folder)
    with pytest.raises(SettingsError, match="en, xx"):
        i18n.load_language("yy")
    films_here.person("ada")
    films_here.person("root", Role.ADMIN)
    who: dict[str, Any] = {"patient_id": "P-7", "patient_birth_date": "2021-01-01", "patient_name": "PHANTOM^ADA"}
    who |= {"study_instance_uid": "1.2", "study_description": "Thorax", "station_name": "ROOM 1"}
    first = films_here.add("1.dcm", Answer.FLAGGED, preview=True, **who)
    second = films_here.add("2.dcm", Answer.NOT_FLAGGED, patient_age_years=3.0, view_position="AP", **who)
    third, fourth = films_here.add("3.dcm", RefusalCode.VIEW), films_here.add("4.dcm", None)
    browser = Browser(films_here, "xx", pacs_url="https://pacs/?s={study_instance_uid}")

    def look(path: str, status: int = 200) -> None:
        assert browser.get(path).status == status
        assert '<html lang="xx">' in browser.text
        assert Said(browser.text).foreign() == [], path

    look("/sign-in")
    assert browser.sign_in(password="wrong wrong wrong").status == 403
    assert Said(browser.text).foreign() == []
    browser.sign_in()
    look("/worklist")  # no worker runs
    films_here.scan()
    for film in (first, second, third, fourth):
        look(f"/films/{film}")
    form = browser.reading(first, comment="seen", **{"presence.pneumonia": "present"})
    browser.post(f"/films/{first}/readings", **form)
    (reading,) = reviews.list_reviews(films_here.engine, [first])[first]
    films_here.wait(60)
    films_here.again(first, "1.dcm", Answer.UNCERTAIN)
    films_here.ledger.observe(films_here.root_id, [Observation(b"waits.dcm", 5, 1)])
    for query in ("?order=priority", "?show=waiting", "?show=all&order=newest&device=ROOM+1&taken_from=2020-01-01"):
        look(f"/worklist{query}")
    look(f"/films/{first}?correct={reading.reading_id}&signed=1")
    csrf = browser.get("/worklist").hidden["csrf"]
    browser.post("/worklist/search", csrf=csrf, text="nobody")
    for path in ("/worklist", "/worklist/rows", "/statistics", "/account"):
        look(path) if path != "/worklist/rows" else browser.get(path)
        assert Said(browser.text).foreign() == [], path
    for path in ("/nope", "/films/99"):
        look(path, 404)
    form = browser.reading(second)
    with monkeypatch.context() as patch:
        patch.setattr("preread.review.auth.sessions.read", lambda *_: (_ for _ in ()).throw(DatabaseAway()))
        look("/worklist", 503)
        assert browser.post(f"/films/{second}/readings", **form).status == 503
        assert Said(browser.text).foreign() == []
    admin = browser = Browser(films_here, "xx").sign_in("root")
    assert admin.status == 303
    look("/audit")


def test_a_language_that_lacks_a_text_says_it_in_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "en.toml").write_text((HERE / "languages" / "en.toml").read_text())
    (tmp_path / "xx.toml").write_text('[site]\nworklist = "Lista"\n')
    monkeypatch.setattr(i18n, "_FOLDER", tmp_path)
    other = i18n.load_language("xx")
    assert (other("site.worklist"), other("site.statistics")) == ("Lista", "Statistics")


@pytest.mark.parametrize("code", i18n.available_languages())
def test_every_event_of_the_audit_trail_has_its_word(code: str) -> None:
    words = i18n.load_language(code)
    assert [action for action in Action if not words.get(f"action.{action}")] == []
    own = i18n.Language(code, i18n._read(code))
    assert [action for action in Action if not own.get(f"action.{action}")] == []


def test_the_german_page(films_here: Films) -> None:
    films_here.person("ada")
    film = films_here.add("1.dcm", Answer.NOT_FLAGGED)
    page = Browser(films_here, "de").sign_in().get(f"/films/{film}")
    assert "Pneumonie nicht markiert; das schließt keine Krankheit aus" in page.words
    assert "3,0 % bei einer Prävalenz von 30 %" in page.words
    assert "Nicht zur Befundung" in page.words
