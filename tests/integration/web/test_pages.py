"""The page through its requests: signing in, who may what, lists, films, readings, and everything that goes wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from preread.admin import bundle_registry
from preread.cli.bundle_health import with_bundle_problem
from preread.core import settings
from preread.core.errors import DatabaseAway, FileLocked, SettingsError, ShareDown
from preread.core.types import Answer, RefusalCode, Role
from preread.db import review_schema
from preread.db.engine import database_now
from preread.ledger.records import Observation, Pulse, RootPulse
from preread.model.bundles import Bundle
from preread.monitoring import health
from preread.review import audit, results, reviews
from preread.review.auth import accounts
from preread.web import i18n, server
from tests.support.page import PASSWORD, Films
from tests.support.page_clients import Browser


@pytest.fixture
def browser(films_here: Films) -> Callable[..., Browser]:
    return lambda **options: Browser(films_here, **options)


@pytest.fixture
def ada(films_here: Films, browser: Callable[..., Browser]) -> Browser:
    """A reader who is signed in."""
    films_here.person("ada")
    signed_in = browser().sign_in()
    assert (signed_in.status, signed_in.location) == (303, "/")
    return signed_in


def test_the_page_says_that_no_worker_can_start_for_its_bundle(
    films_here: Films, stub_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{tmp_path / 'preread.db'}")
    films_here.person("ada")
    film = films_here.add("a.dcm", Answer.FLAGGED)
    bundle_registry.activate_bundle(films_here.engine, "uid:0", stub_bundle)
    extend_report = partial(with_bundle_problem, settings.load_settings(), films_here.engine)
    browser = Browser(films_here, extend_report=extend_report).sign_in()
    assert "cannot run, since its model is not to be had" in browser.get("/worklist").words
    assert "pneumonia flagged" in browser.get(f"/films/{film}").words.lower()
    films_here.scan()
    assert "not to be had" not in Browser(films_here, extend_report=extend_report).sign_in().get("/worklist").words


# --------------------------------------------------------------------------- who may


def routes(browser: Browser) -> list[tuple[str, str]]:
    """Every method and path of the application, with numbers put in."""
    app: Any = browser.client.app
    paths = app.openapi()["paths"].items()
    found = [(method.upper(), path.format(film_id=1)) for path, methods in paths for method in methods]
    assert len(found) >= 15
    return found


OPEN = {("GET", "/sign-in"), ("POST", "/sign-in")}
FOR_ADMIN = {
    ("GET", "/"),
    ("GET", "/statistics"),
    ("GET", "/audit"),
    ("GET", "/account"),
    ("POST", "/sign-out"),
    ("POST", "/account/password"),
    ("POST", "/account/sessions"),
}
NOT_FOR_READERS = {("GET", "/audit")}


def test_nobody_sees_anything_without_signing_in(films_here: Films, browser: Callable[..., Browser]) -> None:
    films_here.add("a.dcm", patient_id="SECRET-7", patient_name="SECRET^NAME", preview=True)
    nobody = browser()
    for method, path in routes(nobody):
        answer = nobody._took(nobody.client.request(method, path))
        assert "SECRET" not in answer.text
        if (method, path) not in OPEN:
            assert answer.status == (303 if method == "GET" else 401), path
            assert answer.location.startswith("/sign-in") or method == "POST"
    for path in ("/api/v1/status", "/api/v1/openapi.json", "/api/v1/results/1", "/docs", "/openapi.json", "/redoc"):
        assert nobody.get(path).status in {401, 404}


def test_an_administrator_sees_no_film_and_a_reader_no_audit_trail(films_here: Films, ada: Browser) -> None:
    films_here.add("a.dcm", patient_id="SECRET-7", preview=True)
    films_here.person("root", Role.ADMIN)
    root = Browser(films_here).sign_in("root")
    for method, path in routes(root):
        if method == "GET" and (method, path) not in OPEN:
            assert (root.get(path).status in {200, 303}) == ((method, path) in FOR_ADMIN), path
            assert "SECRET-7" not in root.text
            assert (ada.get(path).status in {200, 303}) == ((method, path) not in NOT_FOR_READERS), path
    root.get("/account")
    csrf = root.hidden["csrf"]
    for method, path in routes(root):
        if method == "POST" and path not in {"/sign-in", "/sign-out", "/account/sessions"}:
            assert root.post(path, csrf=csrf).status in {403, 422}, path


def test_a_form_from_elsewhere_changes_nothing(films_here: Films, ada: Browser) -> None:
    film = films_here.add("a.dcm")
    for fields in ({}, {"csrf": "guess"}):
        for path in (
            "/sign-out",
            "/account/options",
            "/account/password",
            "/account/sessions",
            "/worklist/search",
            f"/films/{film}/reveal",
        ):
            assert ada.post(path, **fields).status == 403
        form = {name: value for name, value in ada.reading(film).items() if name != "csrf"}
        assert ada.post(f"/films/{film}/readings", **form, **fields).status == 403
    assert reviews.list_reviews(films_here.engine, [film])[film] == []
    stranger = Browser(films_here)
    assert stranger.post("/sign-in", name="ada", password=PASSWORD).status == 403
    assert stranger.get("/worklist").status == 303


def test_every_answer_carries_the_headers(ada: Browser, browser: Callable[..., Browser]) -> None:
    for answer in (ada.get("/worklist"), ada.get("/nope"), ada.get("/static/page.js"), ada.get("/api/v1/status")):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "strict-transport-security" not in answer.headers
    assert ada.get("/worklist").headers["cache-control"] == "no-store"
    assert not re.search(r"<script(?! src=)|<style|\son\w+=|style=", ada.get("/worklist").text)
    assert "strict-transport-security" in browser(https=True).get("/sign-in").headers


def test_the_cookie_is_kept_from_scripts_and_from_other_sites(films_here: Films) -> None:
    films_here.person("ada")
    cookie = Browser(films_here).sign_in().headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=lax", "Path=/"))
    secure = Browser(films_here, https=True)
    secure.client.base_url = "https://here"
    cookie = secure.sign_in().headers["set-cookie"]
    assert cookie.startswith("__Host-preread=")
    assert "Secure" in cookie


@pytest.mark.parametrize("to", ["//elsewhere.example", "https://elsewhere.example", "/\\elsewhere", "javascript:1", ""])
def test_signing_in_leads_to_no_other_site(films_here: Films, to: str) -> None:
    films_here.person("ada")
    assert Browser(films_here).sign_in(to=to).location == "/"


def test_signing_in_leads_on_to_where_one_wanted_to_go(films_here: Films) -> None:
    films_here.person("ada")
    browser = Browser(films_here).get("/films/1?order=priority")
    assert browser.location == "/sign-in?to=%2Ffilms%2F1%3Forder%3Dpriority"
    browser.get(browser.location)
    fields = {**browser.hidden, "name": "ada", "password": PASSWORD}
    assert browser.post("/sign-in", **fields).location == "/films/1?order=priority"


def test_a_crowd_of_tries_from_one_address_is_stopped(films_here: Films, monkeypatch: Any) -> None:
    monkeypatch.setattr("preread.review.auth.rate_limits.SOURCE_FAILURES", 3)
    films_here.person("ada")
    browser = Browser(films_here)
    for name in ("a", "b", "c"):
        assert browser.sign_in(name, "wrong password").status == 403
    assert browser.sign_in().status == 429


def test_signing_out_ends_it(ada: Browser) -> None:
    csrf = ada.get("/worklist").hidden["csrf"]
    assert ada.post("/sign-out", csrf=csrf).location == "/sign-in"
    assert ada.get("/worklist").location.startswith("/sign-in")


def test_a_service_does_not_sign_in_by_the_page(films_here: Films) -> None:
    token = accounts.add_account(films_here.engine, "uid:0", accounts.NewAccount("ris", "", Role.SERVICE, None))
    assert Browser(films_here).sign_in("ris", str(token)).status == 403


def test_a_person_changes_the_own_password(ada: Browser, films_here: Films) -> None:
    csrf = ada.get("/account").hidden["csrf"]
    new = "another long password"
    weak = "Krankenhaus2026!"
    for old, first, second in (
        (PASSWORD, new, "different"),
        ("wrong", new, new),
        (PASSWORD, "short", "short"),
        (PASSWORD, weak, weak),
        (PASSWORD, PASSWORD, PASSWORD),
    ):
        answer = ada.post("/account/password", csrf=csrf, password=old, new=first, new_again=second)
        assert answer.status in {403, 422}
        assert 'role="alert"' in answer.text
    assert ada.post("/account/password", csrf=csrf, password=PASSWORD, new=new, new_again=new).status == 303
    assert ada.get("/worklist").status == 303
    assert Browser(films_here).sign_in(password=new).location == "/"


def test_a_person_sees_and_ends_the_own_sessions(ada: Browser, films_here: Films) -> None:
    other, third = Browser(films_here).sign_in(), Browser(films_here).sign_in()
    page = ada.get("/account")
    assert page.words.count("last used") == 3
    assert "from testclient" in page.words
    csrf = page.hidden["csrf"]
    numbers = re.findall(r'name="session" value="(\d+)"', page.text)
    assert len(numbers) == 2
    for wrong in ("x", "1" * 30, "-1"):
        assert ada.post("/account/sessions", csrf=csrf, session=wrong).status == 422
    # the last one used stands first
    assert ada.post("/account/sessions", csrf=csrf, session=numbers[0]).location == "/account"
    assert (other.get("/worklist").status, third.get("/worklist").status) == (200, 303)
    assert ada.post("/account/sessions", csrf=csrf).location == "/account"
    assert (ada.get("/worklist").status, other.get("/worklist").status) == (200, 303)
    assert "End all others" not in ada.get("/account").words
    # signing in again in the same browser ends the session before
    before = dict(ada.client.cookies)["preread"]
    ada.sign_in()
    after = dict(ada.client.cookies)["preread"]
    ada.client.cookies.set("preread", before, domain="here.local", path="/")
    assert after != before
    assert Browser(films_here).get("/worklist", cookie=f"preread={before}").status == 303


def test_administrators_are_told_of_tokens_that_end(films_here: Films, ada: Browser) -> None:
    accounts.add_account(films_here.engine, "uid:0", accounts.NewAccount("ris", "", Role.SERVICE, None), token_days=3)
    films_here.person("root", Role.ADMIN)
    root = Browser(films_here).sign_in("root")
    assert "Tokens of programs expire soon" in root.get("/statistics").words
    assert "Tokens of programs" not in Browser(films_here).sign_in().get("/worklist").words


# --------------------------------------------------------------------------- the list


def numbers(browser: Browser) -> list[int]:
    return [int(number) for number in re.findall(r'data-film="(\d+)"', browser.text)]


def test_films_stand_in_the_order_that_was_asked_for(films_here: Films, ada: Browser) -> None:
    films_here.now -= timedelta(minutes=50)
    risen = films_here.add("old.dcm", Answer.NOT_FLAGGED)
    films_here.wait(1800)
    late = films_here.add("late.dcm", Answer.NOT_FLAGGED)
    refused = films_here.add("refused.dcm", RefusalCode.VIEW)
    flagged = films_here.add("flagged.dcm", Answer.FLAGGED)
    unsure = films_here.add("unsure.dcm", Answer.UNCERTAIN)
    broken = films_here.add("broken.dcm", None)
    arrival = [risen, late, refused, flagged, unsure, broken]
    assert numbers(ada.get("/worklist")) == arrival
    assert numbers(ada.get("/worklist?order=priority")) == [risen, refused, flagged, unsure, broken, late]
    assert "Films that stand behind later ones in this order: 1." in ada.words
    assert numbers(ada.get("/worklist?order=newest")) == arrival[::-1]
    assert numbers(ada.get("/worklist?answer=flagged")) == [flagged]
    assert numbers(ada.get("/worklist?show=refused")) == [refused]
    assert numbers(ada.get("/worklist?show=unreadable")) == [broken]
    assert ada.get("/worklist?show=waiting").status == 200
    assert "not stated as a frontal view" in ada.get("/worklist").words
    assert ada.get("/worklist/next?order=priority").location == f"/films/{risen}?order=priority"


def test_films_of_one_study_stand_together(films_here: Films, ada: Browser) -> None:
    first = films_here.add("a.dcm", study_instance_uid="1.2", patient_id="P1")
    other = films_here.add("b.dcm", study_instance_uid="1.3", patient_id="P2")
    second = films_here.add("c.dcm", study_instance_uid="1.2", patient_id="P1")
    stranger = films_here.add("d.dcm", study_instance_uid="1.2", patient_id="P9")
    assert numbers(ada.get("/worklist")) == [first, second, other, stranger]
    assert ada.text.count("2 films of one study") == 1
    assert numbers(ada.get("/worklist?order=newest")) == [stranger, second, first, other]


def test_a_page_names_the_date_that_it_shows(films_here: Films, ada: Browser) -> None:
    """Only a time of acquisition needs no word."""
    taken = films_here.add("a.dcm", acquisition_date_time="20260301101500", study_date="2026-02-28")
    dated = films_here.add("b.dcm", study_date="2026-02-27")
    ada.get(f"/films/{taken}")
    assert "date of the study" not in ada.text
    ada.get(f"/films/{dated}")
    assert re.search(r"2026-02-27[^<]*\(date of the study\)", ada.text)
    ada.get("/worklist")
    assert ada.text.count("(date of the study)") == 1
    assert [row.acquired_from for row in results.query_results(films_here.engine)] == ["study", "acquisition"]


def test_filters_narrow_the_list(films_here: Films, ada: Browser) -> None:
    one = films_here.add("a.dcm", station_name="ROOM 1", acquisition_date_time="20260301101500")
    two = films_here.add("b.dcm", manufacturer_model_name="DX-9", acquisition_date_time="20260302101500")
    assert numbers(ada.get("/worklist?device=ROOM+1")) == [one]
    assert ">DX-9</option>" in ada.text
    assert numbers(ada.get("/worklist?taken_from=2026-03-02")) == [two]
    assert numbers(ada.get("/worklist?taken_to=2026-03-01")) == [one]
    for nonsense in ("order=up", "show=everything", "answer=ill", "taken_from=yesterday", "after=x", "after=9-9"):
        assert ada.get(f"/worklist?{nonsense}").status == 422


def test_pages_follow_each_other_without_a_gap(films_here: Films, ada: Browser, monkeypatch: Any) -> None:
    made = [films_here.add(f"{n}.dcm", Answer.FLAGGED if n % 3 else Answer.NOT_FLAGGED) for n in range(7)]
    monkeypatch.setattr("preread.web.worklist_routes.WorklistFilter", _small)
    for order in ("arrival", "priority", "newest"):
        seen, query = [], f"order={order}"
        while query:
            seen += numbers(ada.get(f"/worklist?{query}"))
            following = re.search(r'href="/worklist\?([^"]+)" rel="next"', ada.text)
            query = unescape(following[1]) if following else ""
        assert sorted(seen) == made
        assert len(seen) == 7


def _small(**values: Any) -> Any:
    from preread.review.worklist import WorklistFilter

    return replace(WorklistFilter(**values), limit=2)


@pytest.mark.parametrize("text", ["P-77", "A-12", "muller", "Müller, Ada", "MULLER^ADA", "müll"])
def test_a_search_finds_by_id_accession_and_name_and_stands_in_no_url(
    films_here: Films, ada: Browser, text: str
) -> None:
    film = films_here.add("a.dcm", patient_id="P-77", accession_number="A-12", patient_name="MÜLLER^Ada=")
    films_here.add("b.dcm", patient_id="P-78", patient_name="OTHER")
    csrf = ada.get("/worklist").hidden["csrf"]
    assert ada.post("/worklist/search", csrf=csrf, text=text).location == "/worklist"
    assert numbers(ada.get("/worklist")) == [film]
    assert not re.search(r'(?:href|action|src|data-news)="[^"]*(?:77|A-12|uller|%C3)', ada.text, re.IGNORECASE)
    ada.post("/worklist/search", csrf=csrf, text="")
    assert len(numbers(ada.get("/worklist"))) == 2


def test_an_empty_search_says_as_of_when(films_here: Films, ada: Browser) -> None:
    films_here.scan()
    csrf = ada.get("/worklist").hidden["csrf"]
    ada.post("/worklist/search", csrf=csrf, text="nobody")
    assert re.search(r"Not received by Preread as of \d{4}-", ada.get("/worklist").words)
    assert ada.post("/worklist/search", csrf=csrf, text="x" * 300).status == 422
    for hostile in ("%", "_", "' OR 1=1 --", "\\", "\x00", "*", "é" * 200):
        ada.post("/worklist/search", csrf=csrf, text=hostile)
        assert ada.get("/worklist").status == 200
        assert numbers(ada) == []


def test_every_page_says_how_current_it_is(films_here: Films, browser: Callable[..., Browser]) -> None:
    films_here.person("ada")
    late = "do not rely on this list"
    assert f"Preread is not running: {late}" in browser().sign_in().get("/worklist").words
    films_here.scan()
    for path in ("/worklist", "/statistics", "/account"):
        page = browser().sign_in().get(path)
        assert late not in page.words
        assert "Last complete scan: 20" in page.words
    elsewhere = browser(roots=(b"/srv/other",)).sign_in().get("/worklist").words
    assert f"Preread does not watch the folder /srv/other: {late}" in elsewhere
    films_here.wait(-3600)
    films_here.ledger.record_scan_end(films_here.root_id)
    films_here.wait(3600)
    assert f"not looked through the folder /srv/inbox lately: {late}" in browser().sign_in().get("/worklist").words
    films_here.ledger.mark_worker_stopped()
    assert f"Preread is not running: {late}" in browser().sign_in().get("/worklist").words


def test_every_page_says_what_was_missed_and_which_share_is_away(films_here: Films, ada: Browser) -> None:
    films_here.scan()
    seen = films_here.ledger.observe(films_here.root_id, [Observation(b"gone.dcm", 5, 1)])
    films_here.ledger.settle(seen.values())
    films_here.ledger.record_absent(films_here.root_id, [b"gone.dcm"])
    away = RootPulse(films_here.root_id, moves=True, fault=ShareDown("not mounted"))
    films_here.ledger.heartbeat(Pulse(30.0, 2, 2, (away,)))
    for path in ("/worklist", "/statistics"):
        words = Browser(films_here).sign_in().get(path).words
        assert "went away before Preread could read them: 1." in words
        assert "The folder /srv/inbox is not there: do not rely on this list." in words


def test_every_problem_has_words_in_one_place() -> None:
    said = set(re.findall(r'_add_problem\(\s*Level\.\w+, "(\w+)"', Path(health.__file__).read_text())) | {
        FileLocked.code
    }
    assert len(said) > 10
    assert {f"health.{code}" for code in said} <= set(i18n.load_language("en").texts)


def test_asking_for_news_does_not_keep_a_session_alive(films_here: Films, ada: Browser) -> None:
    c = review_schema.session.c
    with films_here.engine.begin() as connection:
        long_ago = database_now(connection) - timedelta(minutes=20)
        connection.execute(update(review_schema.session).values(seen_at=long_ago))
    assert ada.get("/worklist/rows", **{"x-preread-poll": "1"}).status == 200
    with films_here.engine.connect() as connection:
        assert connection.execute(review_schema.session.select()).one().seen_at == long_ago
    ada.get("/worklist")
    with films_here.engine.connect() as connection:
        assert connection.execute(review_schema.session.select().with_only_columns(c.seen_at)).scalar_one() > long_ago


@pytest.mark.parametrize(
    "written, said",
    [
        ("MÜLLER^Ada^M.^Dr.", "MÜLLER, Ada M. Dr."),
        ("YAMADA^Hanako=山田^花子=", "YAMADA, Hanako / 山田, 花子"),
        ("^Hanako", "Hanako"),
        ("MULLER^^", "MULLER"),
        ("no carets", "no carets"),
        ("^=^", "P-1"),
    ],
)
def test_a_name_is_said_as_people_write_it(films_here: Films, ada: Browser, written: str, said: str) -> None:
    film = films_here.add("a.dcm", patient_name=written, patient_id="P-1")
    assert f"Film {film} {said} " in ada.get("/worklist").words
    assert f"Name {written} Patient ID" in ada.get(f"/films/{film}").words, "among the tags as it is written"


def test_markup_in_tags_is_shown_and_not_run(films_here: Films, ada: Browser) -> None:
    hostile = "<script>alert(1)</script>\x1b[2J\u202e\"'&"
    film = films_here.add("<b>.dcm", Answer.FLAGGED, patient_name=hostile, patient_id=hostile, station_name=hostile)
    for path in ("/worklist", f"/films/{film}"):
        assert "<script>alert" not in ada.get(path).text
        assert "&lt;script&gt;alert(1)" in ada.text
        assert "\x1b" not in ada.text
        assert "\u202e" not in ada.text


# --------------------------------------------------------------------------- one film


def test_a_film_says_its_answer_in_words_and_never_a_probability_alone(films_here: Films, ada: Browser) -> None:
    who: dict[str, Any] = {"patient_id": "P1", "patient_birth_date": "2021-01-01", "study_instance_uid": "1.2.3"}
    before = films_here.add("old.dcm", Answer.UNCERTAIN, **who)
    films_here.add("namesake.dcm", patient_id="P1", patient_birth_date="1950-01-01")
    film = films_here.add("new.dcm", Answer.NOT_FLAGGED, preview=True, **who)
    page = Browser(films_here, pacs_url="https://pacs/?s={study_instance_uid}").sign_in().get(f"/films/{film}")
    assert "pneumonia not flagged; this excludes no disease" in page.words
    assert "3.0 % at a prevalence of 30 %" in page.words
    assert "Where 5.0 % of films show it" in page.words
    assert "films/1" in page.words
    assert "Not for diagnosis" in page.words
    assert "not the radiology report" in page.words
    assert 'href="https://pacs/?s=1.2.3"' in page.text
    assert re.findall(r'href="/films/(\d+)">Film', page.text) == [str(before)]
    picture = page.get(f"/films/{film}/preview.png")
    assert picture.headers["content-type"] == "image/png"
    assert page.get(f"/films/{before}/preview.png").status == 404
    assert "No preview" in page.get(f"/films/{before}").words
    for missing in ("99", "0", "x", str(2**63), "-1"):
        assert page.get(f"/films/{missing}").status in {404, 422}


def test_a_hostile_study_uid_reaches_no_url(films_here: Films) -> None:
    films_here.person("ada")
    film = films_here.add("a.dcm", study_instance_uid="1.2?x=<y>")
    page = Browser(films_here, pacs_url="https://pacs/?s={study_instance_uid}").sign_in().get(f"/films/{film}")
    assert "https://pacs" not in page.text


def test_a_reading_is_signed_seen_and_corrected(films_here: Films, ada: Browser) -> None:
    film, other = films_here.add("a.dcm", Answer.FLAGGED), films_here.add("b.dcm", RefusalCode.VIEW)
    form = ada.reading(film, comment="left <b>base</b>", **{"presence.pneumonia": "present"})
    assert ada.post(f"/films/{film}/readings", **form).location == f"/films/{film}?order=&signed=1"
    assert "Your reading is signed" in ada.get(ada.location).words
    assert "left <b>base</b>" in ada.words
    assert "accepted by Dr Ada" in ada.get("/worklist?show=all").words
    assert ada.post(f"/films/{film}/readings", **form).status == 303
    assert 'name="verdict"' not in ada.get(f"/films/{film}").text, (
        "whoever has signed corrects, and does not sign again"
    )
    # the browser's way back, another word, and the same form again
    assert ada.post(f"/films/{film}/readings", **{**form, "comment": "right"}).status == 409
    assert "right</textarea>" in ada.text
    assert ada.hidden["form_token"] != form["form_token"]
    (one,) = reviews.list_reviews(films_here.engine, [film])[film]
    assert one.answer_visible
    ada.get(f"/films/{film}?correct={one.reading_id}")
    form = {**ada.hidden, "verdict": "rejected", "comment": "no", "then": "next", "order": "priority"}
    assert ada.post(f"/films/{film}/readings", **form).location == "/worklist/next?order=priority"
    assert ada.get(ada.location).location == f"/films/{other}?order=priority"
    assert [one.superseded for one in reviews.list_reviews(films_here.engine, [film])[film]] == [True, False]
    assert ada.post(f"/films/{other}/readings", **ada.reading(other)).status == 303
    assert ada.get("/worklist/next").location == "/worklist"
    assert "100" in ada.get("/statistics").words or ada.status == 200


def test_a_second_reading_of_the_same_reader_is_refused_and_kept(films_here: Films, ada: Browser) -> None:
    film = films_here.add("a.dcm", Answer.FLAGGED)
    here, there = ada.reading(film, comment="one"), ada.reading(film, comment="two", verdict="rejected")
    assert ada.post(f"/films/{film}/readings", **here).status == 303
    assert ada.post(f"/films/{film}/readings", **there).status == 409
    assert "Nothing was signed: you have signed this film before" in ada.words
    assert "two</textarea>" in ada.text
    (one,) = reviews.list_reviews(films_here.engine, [film])[film]
    assert f"This corrects your reading {one.reading_id}" in ada.words
    assert ada.post(f"/films/{film}/readings", **{**there, **ada.hidden}).status == 303
    first, second = reviews.list_reviews(films_here.engine, [film])[film]
    assert (first.superseded, second.superseded, second.supersedes_id) == (True, False, first.reading_id)
    # after the result changed the form is empty, and names what it takes the place of
    films_here.again(film, "a.dcm", Answer.NOT_FLAGGED)
    form = ada.reading(film)
    assert form["supersedes"] == str(second.reading_id)
    assert "You read this film before its result changed" in ada.words
    assert ">two<" in ada.text
    assert "two</textarea>" not in ada.text
    assert ada.post(f"/films/{film}/readings", **form).status == 303
    assert [one.superseded for one in reviews.list_reviews(films_here.engine, [film])[film]] == [True, True, False]


def test_nothing_typed_is_lost(films_here: Films, ada: Browser) -> None:
    film = films_here.add("a.dcm", Answer.FLAGGED)
    comment = "line one\nline <two> & three"
    form = ada.reading(film, comment=comment, **{"presence.pneumonia": "unsure"})

    def kept() -> bool:
        checked = re.findall(r'value="(\w+)"(?: required)? checked', ada.text)
        typed = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", ada.text, re.DOTALL)
        assert typed
        return {"accepted", "unsure"} <= set(checked) and unescape(typed[1]).replace("\r\n", "\n") == comment

    # the result changed meanwhile
    stale = {**form, "shown_assessment": "999"}
    assert ada.post(f"/films/{film}/readings", **stale).status == 409
    assert kept()
    # too long
    long = "x" * 20_000
    assert ada.post(f"/films/{film}/readings", **{**form, "comment": long}).status == 422
    assert long in ada.text
    assert ada.post(f"/films/{film}/readings", **{**form, "comment": "x" * 65_536}).status == 413
    # no verdict
    assert ada.post(f"/films/{film}/readings", **{**form, "verdict": ""}).status == 422
    # the session ended: signing in again brings the form back, and nothing is signed by it
    ada.client.cookies.delete("preread")
    assert ada.post(f"/films/{film}/readings", **form).status == 401
    assert "what you typed is kept" in ada.words
    assert ada.post("/sign-in", **{**ada.hidden, "name": "ada", "password": "wrong password"}).status == 403
    assert ada.post("/sign-in", **{**ada.hidden, "name": "ada", "password": PASSWORD}).status == 200
    assert kept()
    assert "not signed yet" in ada.words
    assert reviews.list_reviews(films_here.engine, [film])[film] == []
    again = {**ada.hidden, "verdict": "accepted", "comment": comment}
    assert ada.post(f"/films/{film}/readings", **again).status == 303


def test_a_reader_may_read_before_the_answer_is_shown(films_here: Films, ada: Browser) -> None:
    film, other = films_here.add("a.dcm", Answer.FLAGGED), films_here.add("b.dcm", Answer.FLAGGED)
    csrf = ada.get("/account").hidden["csrf"]
    ada.post("/account/options", csrf=csrf, read_before_reveal="yes")
    for path in ("/worklist", "/worklist?order=priority", "/worklist?answer=flagged", f"/films/{film}"):
        assert "pneumonia flagged" not in ada.get(path).words
        assert "91" not in ada.words
        assert "data-cells" not in ada.text
    ada.post(f"/films/{film}/readings", **ada.reading(film))
    assert "pneumonia flagged" in ada.get(f"/films/{film}").words
    form = ada.reading(other, comment="seen so far")
    assert "pneumonia flagged" in ada.post(f"/films/{other}/reveal", **form).words
    assert "seen so far" in ada.text
    ada.post(f"/films/{other}/readings", **{**ada.hidden, "verdict": "accepted"})
    found = reviews.list_reviews(films_here.engine, [film, other])
    assert [found[film][0].answer_visible, found[other][0].answer_visible] == [False, True]
    assert [one.action for one in audit.latest_audit_entries(films_here.engine, 50)].count("reveal") >= 1


def test_a_result_that_changed_after_it_was_viewed_says_so(films_here: Films, ada: Browser) -> None:
    film = films_here.add("a.dcm", RefusalCode.AGE_UNKNOWN)
    for _ in range(2):
        assert "This result changed" not in ada.get(f"/films/{film}").words
    films_here.person("ben")
    films_here.person("eve")
    ben, eve = Browser(films_here).sign_in("ben"), Browser(films_here).sign_in("eve")
    ben.get(f"/films/{film}")
    ben.post(f"/films/{film}/readings", **ben.reading(film))
    films_here.wait(60)
    films_here.again(film, "a.dcm", Answer.FLAGGED)
    then = "Then it said: refused: the patient's age is not known"
    for _ in range(2):  # not only the first time
        assert "This result changed after you looked at it" in ada.get(f"/films/{film}").words
        assert then in ada.words
    # whoever never saw the first result is told of it, and not that it changed under the eyes
    assert "This result changed after you looked" not in eve.get(f"/films/{film}").words
    assert "refused: the patient's age is not known" in eve.words
    assert "looked at by Dr Ada, Dr Ben" in eve.words
    assert "accepted · Dr Ben" in eve.words
    assert "of an earlier result" in eve.words
    assert "read before its result changed ✓ accepted by Dr Ben" in eve.get("/worklist?show=all").words
    # whoever reads before the answer is shown learns that it changed, not what it says or said
    ben.post("/account/options", csrf=ben.get("/account").hidden["csrf"], read_before_reveal="yes")
    assert "pneumonia flagged" not in ben.get(f"/films/{film}").words  # has signed what it said before
    assert "read before its result changed" in ben.words
    assert "read before its result changed" in ben.get("/worklist").words
    assert ben.get("/worklist/next").location.startswith(f"/films/{film}?")
    ada.post("/account/options", csrf=ada.get("/account").hidden["csrf"], read_before_reveal="yes")
    other = films_here.add("b.dcm", Answer.FLAGGED)
    ada.get(f"/films/{other}")
    films_here.wait(60)
    films_here.again(other, "b.dcm", Answer.NOT_FLAGGED)
    assert "This result changed after you looked at it" in ada.get(f"/films/{other}").words
    assert "pneumonia flagged" not in ada.words
    assert "excludes no disease" not in ada.words
    # until the film is read with what it says now
    eve.get(f"/films/{film}")
    ada.post(f"/films/{film}/readings", **ada.reading(film))
    assert "This result changed after you looked at it" not in ada.get(f"/films/{film}").words
    assert "accepted by Dr Ben · the result changed since ✓ accepted by Dr Ada" in eve.get("/worklist?show=all").words
    newer = films_here.add("a.dcm", Answer.FLAGGED, mtime_ns=2)
    assert f'href="/films/{newer}"' in ada.get(f"/films/{film}").text


# --------------------------------------------------------------------------- what goes wrong


def test_a_database_that_goes_away_has_a_page_and_comes_back(
    films_here: Films, ada: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = films_here.add("a.dcm")
    form = ada.reading(film, comment="typed before")

    def away(*_arguments: object, **_options: Any) -> None:
        raise DatabaseAway

    with monkeypatch.context() as patch:
        patch.setattr("preread.review.auth.sessions.read", away)
        assert ada.get("/worklist").status == 503
        assert "tries again by itself" in ada.words
        assert 'http-equiv="refresh"' in ada.text
        assert ada.post(f"/films/{film}/readings", **form).status == 503
        assert ada.hidden["comment"] == "typed before"
        patch.setattr("preread.review.auth.accounts.read", away)
        token = ada.get("/api/v1/status", authorization="Bearer x")
        assert (token.status, "database_away" in token.text) == (503, True)
    kept = ada.post(f"/films/{film}/readings", **form)
    assert kept.status == 303
    assert ada.get("/worklist").status == 200


def test_an_unforeseen_failure_tells_nothing_of_a_film(
    films_here: Films, ada: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = films_here.add("a.dcm")

    def fail(*_arguments: object, **_options: Any) -> None:
        raise ValueError("PATIENT^NAME")

    monkeypatch.setattr("preread.web.image_view.related_images.earlier_images", fail)
    app: Any = ada.client.app
    quiet = TestClient(app, raise_server_exceptions=False, base_url="http://here", cookies=ada.client.cookies)
    answer = quiet.get(f"/films/{film}")
    assert answer.status_code == 500
    assert "PATIENT" not in answer.text


def test_a_body_beyond_every_form_is_refused(ada: Browser) -> None:
    csrf = ada.get("/worklist").hidden["csrf"]
    assert ada.post("/worklist/search", csrf=csrf, text="x" * 17_000_000).status == 413


# --------------------------------------------------------------------------- listening


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "example.org"])
def test_another_address_needs_tls_or_a_proxy(host: str) -> None:
    with pytest.raises(SettingsError, match="PREREAD_WEB_TLS_CERT"):
        server.refuse_open_address(host, tls=False, proxy=None)
    server.refuse_open_address(host, tls=True, proxy=None)
    server.refuse_open_address(host, tls=False, proxy="192.0.2.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_this_machine_is_always_fine(host: str) -> None:
    server.refuse_open_address(host, tls=False, proxy=None)


def test_the_page_tells_absent_tags_from_those_that_are_not_understood(films_here: Films, ada: Browser) -> None:
    film = films_here.add("a.dcm", RefusalCode.AGE_UNKNOWN, age_conflict=True, view_position="AP")
    words = ada.get(f"/films/{film}").words
    assert "View position AP" in words
    assert "Body part not said" in words
    assert "the film's dates and age contradict each other" in words
    film = films_here.add("b.dcm", Answer.NOT_FLAGGED, patient_age_years=3.0, modality="CR")
    assert "View position in codes or descriptions" in ada.get(f"/films/{film}").words
    film = films_here.add("c.dcm", RefusalCode.NOT_HUMAN)
    assert "Species an animal" in ada.get(f"/films/{film}").words
