"""The worklist's queries on both databases: order, groups, pages, searches, displacement, what stays out."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, update

from preread.core.text import search_keys
from preread.core.types import Answer, Outcome, RefusalCode
from preread.db import schema
from preread.ledger.records import Observation
from preread.review import related_images, reviews, worklist
from preread.review.worklist import Order, WorklistFilter
from tests.bench.page import fill
from tests.support.page import Films
from tests.support.query_plans import asked_by, explained


def ids(films: Films, wanted: WorklistFilter) -> list[list[int]]:
    return [
        [film.result.result_id for film in study] for study in worklist.list_worklist_page(films.engine, wanted).studies
    ]


def test_each_order_and_its_pages_on_either_database(films: Films) -> None:
    films.now -= timedelta(minutes=50)
    risen = films.add("old.dcm", Answer.NOT_FLAGGED, study_instance_uid="1.1", patient_id="P")
    films.wait(1800)
    late = films.add("late.dcm", Answer.NOT_FLAGGED, study_instance_uid="1.2", patient_id="P")
    refused = films.add("refused.dcm", RefusalCode.VIEW)
    flagged = films.add("flagged.dcm", Answer.FLAGGED, study_instance_uid="1.2", patient_id="P")
    last = films.add("last.dcm", Answer.NOT_FLAGGED)
    expected = {
        Order.ARRIVAL: [[risen], [late, flagged], [refused], [last]],
        Order.PRIORITY: [[risen], [refused], [flagged, late], [last]],
        Order.NEWEST: [[last], [flagged, late], [refused], [risen]],
    }
    for order, studies in expected.items():
        assert ids(films, WorklistFilter(order=order)) == studies
        seen, wanted = [], WorklistFilter(order=order, limit=1)
        for _ in range(10):
            page = worklist.list_worklist_page(films.engine, wanted)
            seen += [[film.result.result_id for film in study] for study in page.studies]
            if page.next is None:
                break
            wanted = replace(wanted, after=page.next)
        assert seen == studies
    cost = worklist.count_displaced(films.engine)
    assert (cost.films, 19 * 60 < cost.longest_s < 22 * 60) == (1, True)
    assert worklist.list_devices(films.engine) == []


def test_what_was_read_superseded_research_or_backlog_is_not_to_be_read(films: Films) -> None:
    read, replaced, research, backlog, there = (films.add(f"{n}.dcm") for n in range(5))
    films.add("1.dcm", mtime_ns=2)
    c = schema.file.c
    with films.engine.begin() as connection:
        connection.execute(update(schema.file).where(c.id == read).values(read_at=films.now))
        connection.execute(update(schema.file).where(c.id == research).values(research=True))
        connection.execute(update(schema.file).where(c.id == backlog).values(backlog=True))
    listed = [film for study in ids(films, WorklistFilter()) for film in study]
    assert listed[0] == there
    assert not {read, replaced, research, backlog} & set(listed)
    everything = {film for study in ids(films, WorklistFilter(unread=False)) for film in study}
    assert {read, research, backlog, there} <= everything
    assert replaced not in everything


def test_a_search_is_exact_for_numbers_and_begins_with_for_names(films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
    one = films.add("a.dcm", patient_id="17", accession_number="A17", patient_name="DOE^JANE")
    two = films.add("b.dcm", patient_id="170", accession_number="A170", patient_name="DOERING^JAN")
    for text, found in (("17", [one]), ("A170", [two]), ("doe", [one, two]), ("doe jane", [one]), ("jane", [])):
        listed = ids(films, WorklistFilter(order=Order.ARRIVAL, search=text))
        assert [film for study in listed for film in study] == found
    assert worklist.list_worklist_page(films.engine, WorklistFilter(search="%")).studies == ()
    monkeypatch.setattr(worklist, "_SEARCH_AT_MOST", 1)
    pages = {
        text: worklist.list_worklist_page(films.engine, WorklistFilter(search=text)) for text in ("doe", "doe jane")
    }
    assert [(len(page.studies), page.cut) for page in pages.values()] == [(1, True), (1, False)]


@pytest.mark.parametrize("few", [0, 2_000])
def test_whatever_index_leads_the_films_are_the_same(films: Films, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(worklist, "_FEW", few)
    answers = [Answer.FLAGGED, Answer.UNCERTAIN, Answer.NOT_FLAGGED, RefusalCode.VIEW, None]
    made = {}
    for number in range(20):
        # taken in another order than they came
        day, room = 20 - number * 7 % 20, f"ROOM {number % 2}"
        answer = answers[number % 5]
        film = films.add(f"{number}.dcm", answer, station_name=room, acquisition_date_time=f"202603{day:02}101500")
        made[film] = (answer, room, day)
    wanted = [
        (answer, device, days)
        for answer in (None, Answer.FLAGGED, Answer.NOT_FLAGGED)
        for device in (None, "ROOM 1", "ROOM 9")
        for days in (None, (5, 15))
    ]
    for answer, device, days in wanted:
        chosen = [
            (day if days else 0, film)
            for film, (said, at, day) in made.items()
            if (answer in (None, said)) and device in (None, at) and (days is None or days[0] <= day <= days[1])
        ]
        limits: dict[str, Any] = (
            {} if days is None else {"taken_from": date(2026, 3, days[0]), "taken_to": date(2026, 3, days[1])}
        )
        for order, expected in ((Order.ARRIVAL, sorted(chosen)), (Order.NEWEST, sorted(chosen, reverse=True))):
            asked = WorklistFilter(order, unread=False, answer=answer, device=device, limit=3, **limits)
            seen: list[int] = []
            while True:
                page = worklist.list_worklist_page(films.engine, asked)
                seen += [film.result.result_id for study in page.studies for film in study]
                if page.next is None:
                    break
                asked = replace(asked, after=page.next)
            assert seen == [film for _, film in expected]


def test_only_the_leading_index_has_the_order_of_a_list(engine: Engine) -> None:
    # by id alone all films are in order too, and a planner walks through a million to those of a device that is gone
    fill(engine, 20_000)
    for name, wanted in (
        ("answer", WorklistFilter(unread=False, answer=Answer.FLAGGED)),
        ("device", WorklistFilter(unread=False, device="ROOM 7")),
        ("outcome", WorklistFilter(Order.NEWEST, unread=False, outcome=Outcome.REFUSED)),
    ):
        for after in (None, (0, 9_000)):
            asked = asked_by(engine, partial(worklist.list_worklist_page, engine, replace(wanted, after=after)))
            ((statement, values),) = [one for one in asked if "NOT (EXISTS" in one[0]]
            plan = explained(engine, statement, values)
            assert f"ix_file_{name}_id" in plan
            assert "pk_file" not in plan


def test_a_page_asks_the_same_few_things_however_many_films_it_has(films: Films) -> None:
    # each asking costs the round trip; and what reads the same each time Postgres plans once
    for number in range(3):
        films.add(f"{number}.dcm", Answer.FLAGGED, study_instance_uid=f"1.{number // 2}", patient_id="P")
    films.again(1, "0.dcm", Answer.NOT_FLAGGED, study_instance_uid="1.0", patient_id="P")
    for order, most in ((Order.ARRIVAL, 6), (Order.NEWEST, 6), (Order.PRIORITY, 8)):
        few, more = (
            asked_by(
                films.engine,
                partial(worklist.list_worklist_page, films.engine, WorklistFilter(order=order, limit=limit)),
            )
            for limit in (1, 50)
        )
        assert len([statement for statement, _ in more if not statement.startswith("BEGIN")]) <= most
        if films.engine.dialect.name == "postgresql":
            assert {statement for statement, _ in few} <= {statement for statement, _ in more}


def test_devices_are_found_one_after_the_other(films: Films) -> None:
    found: list[str] = []
    for name in ("ROOM 2", "ROOM 1", "ROOM 2", None):
        films.add(f"{name}{films.now}{len(worklist.list_devices(films.engine))}.dcm", station_name=name)
        films.wait(1)
    asked = asked_by(films.engine, lambda: found.extend(worklist.list_devices(films.engine)))
    assert found == ["ROOM 1", "ROOM 2"]
    ((statement, values),) = [one for one in asked if "BEGIN" not in one[0]]
    assert "ix_file_device_id" in explained(films.engine, statement, values)


def test_a_waiting_film_is_listed_by_its_name(films: Films) -> None:
    films.ledger.observe(films.root_id, [Observation(b"soon.dcm", 5, 1)])
    (one,) = related_images.list_pending_images(films.engine)
    assert (one.path_text, one.state) == ("soon.dcm", "settling")
    assert reviews.list_reviews(films.engine, []) == {}


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=300))
def test_a_name_is_found_by_its_own_key(name: str) -> None:
    key = search_keys.name_key(name)
    assert key is None or (search_keys.name_key(key) == key and len(key) <= search_keys.MAX_NAME_KEY_CHARS)
    assert key is None or not key.startswith(" ")


def test_a_name_is_the_same_however_it_is_typed() -> None:
    for typed in ("MÜLLER^Ada", "Muller, ada", " müller  ADA ", "MULLER^ADA=山田^花子=やまだ^はなこ"):
        assert search_keys.name_key(typed) == "muller ada"
    assert search_keys.name_key("山田^花子") == "山田 花子"
    assert search_keys.name_key("^^") is None
