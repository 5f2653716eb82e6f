"""The worklist's queries on both databases: order, groups, pages, searches, displacement, what stays out."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from worker import films as beside
from worker import lookups, readings, schema, worklist
from worker.domain import Answer, RefusalCode
from worker.worklist import Order, WorklistFilter

from .conftest import Films


def ids(films: Films, wanted: WorklistFilter) -> list[list[int]]:
    return [[film.result.result_id for film in study] for study in worklist.page(films.engine, wanted).studies]


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
            page = worklist.page(films.engine, wanted)
            seen += [[film.result.result_id for film in study] for study in page.studies]
            if page.next is None:
                break
            wanted = replace(wanted, after=page.next)
        assert seen == studies
    cost = worklist.displaced(films.engine)
    assert (cost.films, 19 * 60 < cost.longest_s < 22 * 60) == (1, True)
    assert worklist.devices(films.engine) == []


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


def test_a_search_is_exact_for_numbers_and_begins_with_for_names(films: Films) -> None:
    one = films.add("a.dcm", patient_id="17", accession_number="A17", patient_name="DOE^JANE")
    two = films.add("b.dcm", patient_id="170", accession_number="A170", patient_name="DOERING^JAN")
    for text, found in (("17", [one]), ("A170", [two]), ("doe", [one, two]), ("doe jane", [one]), ("jane", [])):
        listed = ids(films, WorklistFilter(order=Order.ARRIVAL, search=text))
        assert [film for study in listed for film in study] == found
    assert worklist.page(films.engine, WorklistFilter(search="%")).studies == ()


def test_devices_are_found_one_after_the_other(films: Films) -> None:
    for name in ("ROOM 2", "ROOM 1", "ROOM 2", None):
        films.add(f"{name}{films.now}{len(worklist.devices(films.engine))}.dcm", station_name=name)
        films.wait(1)
    assert worklist.devices(films.engine) == ["ROOM 1", "ROOM 2"]


def test_a_waiting_film_is_listed_by_its_name(films: Films) -> None:
    from worker.ledger import Observation

    films.ledger.observe(films.root_id, [Observation(b"soon.dcm", 5, 1)])
    (one,) = beside.waiting(films.engine)
    assert (one.path_text, one.state) == ("soon.dcm", "settling")
    assert readings.of_films(films.engine, []) == {}


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=300))
def test_a_name_is_found_by_its_own_key(name: str) -> None:
    key = lookups.name_key(name)
    assert key is None or (lookups.name_key(key) == key and len(key) <= lookups.MAX_NAME_KEY_CHARS)
    assert key is None or not key.startswith(" ")


def test_a_name_is_the_same_however_it_is_typed() -> None:
    for typed in ("MÜLLER^Ada", "Muller, ada", " müller  ADA ", "MULLER^ADA=山田^花子=やまだ^はなこ"):
        assert lookups.name_key(typed) == "muller ada"
    assert lookups.name_key("山田^花子") == "山田 花子"
    assert lookups.name_key("^^") is None
