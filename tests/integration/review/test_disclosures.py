"""What a list showed is on record: to whom, which result, once, and not what it hid. On both databases."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import select

from preread.core.errors import DatabaseFull
from preread.core.types import Answer, RefusalCode, Verdict
from preread.db.review_schema import listing
from preread.review import disclosures
from preread.review.auth import accounts
from tests.support.page import Films
from tests.support.page_clients import Browser, Program
from tests.support.reviews import at_once, sign


def on_record(films: Films) -> set[tuple[int, str]]:
    """Films and actors, having looked that none is there twice with one result."""
    with films.engine.connect() as connection:
        rows = connection.execute(select(listing)).all()
    assert len({(row.file_id, row.actor, row.committed_at) for row in rows}) == len(rows)
    return {(row.file_id, row.actor) for row in rows}


def count(films: Films) -> int:
    with films.engine.connect() as connection:
        return len(connection.execute(select(listing)).all())


def test_a_list_that_is_loaded_again_adds_nothing_and_a_changed_result_does(films: Films) -> None:
    first, second = films.add("a.dcm", Answer.FLAGGED), films.add("b.dcm", RefusalCode.VIEW)
    actor = films.person("ada").actor
    browser = Browser(films)
    browser.sign_in("ada")
    for path in ("/worklist", "/worklist/rows", "/worklist?show=all", "/worklist?order=newest"):
        assert browser.get(path).status == 200
        assert on_record(films) == {(first, actor), (second, actor)}
        assert count(films) == 2
    films.wait(1)
    films.again(first, "a.dcm", Answer.NOT_FLAGGED)
    browser.get("/worklist/rows")
    assert count(films) == 3
    third = films.add("c.dcm")
    browser.get("/worklist/rows")
    assert on_record(films) == {(one, actor) for one in (first, second, third)}
    assert count(films) == 4


def test_a_full_disk_keeps_no_list_from_its_reader(films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
    film, actor = films.add("a.dcm", Answer.FLAGGED), films.person("ada").actor
    browser = Browser(films).sign_in("ada")
    with monkeypatch.context() as full:
        full.setattr(disclosures, "write", Mock(side_effect=DatabaseFull))
        page = browser.get("/worklist")
        assert (page.status, f"/films/{film}" in page.text) == (200, True)
    assert on_record(films) == set()
    browser.get("/worklist")
    assert on_record(films) == {(film, actor)}


def test_who_saw_an_earlier_result_in_a_list_only_is_named_as_that(films: Films) -> None:
    film = films.add("a.dcm", Answer.FLAGGED)
    films.person("ada")
    films.person("bob")
    ada, bob = Browser(films).sign_in("ada"), Browser(films).sign_in("bob")
    bob.get("/worklist")
    ada.get("/worklist")
    ada.get(f"/films/{film}")
    films.wait(60)
    films.again(film, "a.dcm", Answer.NOT_FLAGGED)
    ada.get(f"/films/{film}")
    assert "looked at by Dr Ada · seen in a list by Dr Bob" in ada.words


def test_two_windows_of_one_reader_at_once_and_another_reader(films: Films) -> None:
    made = [films.add(f"{number}.dcm") for number in range(8)]
    browsers = []
    for name in ("ada", "ada", "bob"):
        if name not in {one.name for one in accounts.list_accounts(films.engine)}:
            films.person(name)
        browsers.append(Browser(films))
        browsers[-1].sign_in(name)
    loaded = at_once(*(partial(browser.get, "/worklist") for browser in browsers))
    assert [one.status for one in loaded] == [200, 200, 200]
    actors = {accounts.find_account(films.engine, name).actor for name in ("ada", "bob")}
    assert on_record(films) == {(film, actor) for film in made for actor in actors}


def test_what_a_list_hides_is_not_seen(films: Films) -> None:
    who: dict[str, Any] = {"patient_id": "P1", "patient_birth_date": "20200101"}
    film, refused = films.add("a.dcm", Answer.FLAGGED, **who), films.add("b.dcm", RefusalCode.VIEW, **who)
    latest = films.add("c.dcm", Answer.FLAGGED, **who)
    ada = films.person("ada")
    accounts.set_read_before_reveal(films.engine, "uid:0", ada, True)
    browser = Browser(films)
    browser.sign_in("ada")
    browser.get("/worklist")
    browser.get(f"/films/{latest}")
    assert on_record(films) == {(refused, ada.actor)}
    # to others the page of a film shows the patient's earlier films, too
    bob = films.person("bob")
    other = Browser(films)
    other.sign_in("bob")
    other.get(f"/films/{latest}")
    assert on_record(films) - {(refused, ada.actor)} == {(film, bob.actor), (refused, bob.actor)}
    # what the reader has signed stands in the list
    sign(films, ada, film, Verdict.ACCEPTED)
    browser.get("/worklist?show=all")
    assert (film, ada.actor) in on_record(films)


def test_a_program_that_searches_is_named(films: Films) -> None:
    first, second = films.add("a.dcm"), films.add("b.dcm", accession_number="A1")
    program = Program(films)
    actor = accounts.find_account(films.engine, "ris").actor
    assert len(program.post("/results/search", accession_number="A1").json()["results"]) == 1
    assert on_record(films) == {(second, actor)}
    assert program.post("/worklist/search").status_code == 200
    assert on_record(films) == {(first, actor), (second, actor)}
