"""Looking results up: every filter, order, pages, explanations. On both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from preread.core.errors import SlotCrashed, UnknownFormat
from preread.core.types import Answer, Caveat, FileState, Outcome, RefusalCode
from preread.db import schema
from preread.ledger.records import Observation
from preread.monitoring import health
from preread.review import history, results
from preread.review.results import ResultFilter
from tests.support.ledger import LedgerBench, content_of
from tests.support.outcomes import commit_assessed, commit_refused, commit_unreadable
from tests.support.query_plans import asked_by, explained


def paths(bench: LedgerBench, **wanted: object) -> list[bytes]:
    return [row.path for row in results.query_results(bench.engine, ResultFilter(**wanted))]  # type: ignore[arg-type]


def test_an_empty_database_has_no_results(bench: LedgerBench) -> None:
    assert results.query_results(bench.engine) == []
    assert list(results.stream_results(bench.engine)) == []
    assert history.load_result(bench.engine, 1) is None
    assert history.explain_path(bench.engine, b"film.dcm") == []


def test_last_committed_first_and_in_pages(bench: LedgerBench) -> None:
    for number in range(5):
        bench.assess(b"%d" % number, b"%d" % number)
        bench.wait(number % 2)  # some at the same moment
    everything = paths(bench)
    assert everything == [b"4", b"3", b"2", b"1", b"0"]
    first = results.query_results(bench.engine, ResultFilter(limit=2))
    assert [row.path for row in first] == everything[:2]
    assert paths(bench, limit=10, before=first[-1].position) == everything[2:]


def test_streaming_goes_through_every_page(bench: LedgerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_PAGE", 2)
    for number in range(5):
        bench.assess(b"%d" % number, b"%d" % number)
    assert [row.path for row in results.stream_results(bench.engine)] == [b"4", b"3", b"2", b"1", b"0"]
    assert [row.path for row in results.stream_results(bench.engine, ResultFilter(limit=3))] == [b"4", b"3", b"2"]


def test_filters(bench: LedgerBench) -> None:
    start = bench.now
    bench.assess(b"old", b"1", patient_id="P1", accession_number="A1", acquisition_date_time="20200331100000.5")
    bench.wait(60)
    bench.assess(
        b"new", b"2", answer=Answer.NOT_FLAGGED, patient_id="P2", study_instance_uid="1.9", study_date="2020-03-31"
    )
    claim = bench.claimed(b"lateral")
    commit_refused(bench.ledger, claim, bench.facts(b"3", patient_id="P1"), bench.bundle_id, RefusalCode.VIEW, "LL")
    commit_unreadable(bench.ledger, bench.claimed(b"text"), UnknownFormat())
    bench.ready(b"waiting")

    assert paths(bench) == [b"text", b"lateral", b"new", b"old"]
    assert paths(bench, since=start + timedelta(seconds=1)) == [b"text", b"lateral", b"new"]
    assert paths(bench, since=start) == [b"text", b"lateral", b"new", b"old"]
    assert paths(bench, answer=Answer.FLAGGED) == [b"old"]
    assert paths(bench, answer=Answer.NOT_FLAGGED) == [b"new"]
    assert paths(bench, answer=Answer.UNCERTAIN) == []
    assert paths(bench, outcome=Outcome.REFUSED) == [b"lateral"]
    assert paths(bench, code="unknown_format") == [b"text"]
    assert paths(bench, patient_id="P1") == [b"lateral", b"old"]
    assert paths(bench, patient_id="p1") == []
    kinds = {row.path: (row.acquired_local, row.acquired_from) for row in results.query_results(bench.engine)}
    assert kinds == {
        b"old": ("20200331100000", "acquisition"),
        b"new": ("20200331000000", "study"),
        b"lateral": (None, None),
        b"text": (None, None),
    }
    assert paths(bench, patient_id="P1", outcome=Outcome.ASSESSED) == [b"old"]
    assert paths(bench, patient_id="P" * 300) == []
    assert paths(bench, accession_number="A1") == [b"old"]
    assert paths(bench, study_instance_uid="1.9") == [b"new"]
    assert paths(bench, sha256=bench.facts(b"2").sha256.upper()) == [b"new"]
    assert paths(bench, root_ids=()) == []
    assert paths(bench, root_ids=(bench.root_id,), limit=1) == [b"text"]
    # the modality's own wall clock, at whatever precision it was written
    midnight = datetime.fromisoformat("2020-03-31T00:00:00")
    assert paths(bench, acquired_since=midnight + timedelta(hours=10)) == [b"old"]
    assert paths(bench, acquired_since=midnight + timedelta(hours=10, seconds=1)) == []
    assert paths(bench, acquired_since=midnight) == [b"new", b"old"]
    assert paths(bench, acquired_since=midnight.astimezone(UTC)) == [b"new", b"old"]


def test_a_result_of_a_film_that_left_the_folder_stays(bench: LedgerBench) -> None:
    bench.assess(b"film.dcm")
    bench.ledger.record_absent(bench.root_id, [b"film.dcm"])
    (row,) = results.query_results(bench.engine)
    assert (row.state, row.outcome) == (FileState.VANISHED, Outcome.ASSESSED)


@pytest.mark.parametrize("path", [b"ward/film.dcm", b"/srv/inbox/ward/film.dcm", b"/srv//inbox/x/../ward/film.dcm"])
def test_a_path_is_explained_however_it_is_given(bench: LedgerBench, path: bytes) -> None:
    file_id = bench.assess(b"ward/film.dcm")
    (told,) = history.explain_path(bench.engine, path)
    assert (told.root_text, told.path_text) == ("/srv/inbox", "ward/film.dcm")
    assert told.sentence == f"It was assessed: result {file_id}."
    (version,) = told.versions
    assert version.result_id == file_id
    assert [(one.from_state, one.to_state) for one in version.transitions] == [
        (None, FileState.SETTLING),
        (FileState.SETTLING, FileState.READY),
        (FileState.READY, FileState.CLAIMED),
        (FileState.CLAIMED, FileState.DONE),
    ]


def test_a_path_outside_every_root_is_not_explained(bench: LedgerBench) -> None:
    bench.assess(b"film.dcm")
    assert history.explain_path(bench.engine, b"/srv/inbox2/film.dcm") == []
    assert history.explain_path(bench.engine, b"/srv/inbox") == []
    assert history.explain_path(bench.engine, b"other.dcm") == []


def test_superseded_versions_are_part_of_the_story(bench: LedgerBench) -> None:
    old = bench.assess(b"film.dcm", b"1")
    new = bench.assess(b"film.dcm", b"2", mtime_ns=2)
    (told,) = history.explain_path(bench.engine, b"film.dcm")
    assert [version.file_id for version in told.versions] == [old, new]
    assert [version.newest for version in told.versions] == [False, True]
    assert (
        history.explain_version(told.versions[0]) == f"A newer version took its place. It was assessed: result {old}."
    )


def test_each_state_has_its_sentence(bench: LedgerBench) -> None:
    def told(path: bytes) -> str:
        return str(history.explain_path(bench.engine, path)[0].sentence)

    bench.see(b"settling")
    assert "waits until it no longer changes" in told(b"settling")
    bench.ready(b"film")
    assert "waits for its turn" in told(b"film")
    (claim,) = bench.claim()
    assert "is being read now" in told(b"film")
    bench.ledger.record_failure(claim, SlotCrashed("signal 11"), retry_in_s=60)
    assert "slot_crashed: signal 11" in told(b"film")
    assert "will be tried again at 20" in told(b"film")
    bench.ledger.record_absent(bench.root_id, [b"film"])
    assert "went away before it was read" in told(b"film")
    bench.ledger.record_ignored(bench.root_id, [Observation(b"pipe", 0, 1)], "not_regular")
    assert "the rule not_regular leaves it out" in told(b"pipe")
    commit_unreadable(bench.ledger, bench.claimed(b"text"), UnknownFormat())
    assert told(b"text").startswith("It could not be read and was quarantined: unknown_format (")
    claim = bench.claimed(b"lateral")
    commit_refused(bench.ledger, claim, bench.facts(), bench.bundle_id, RefusalCode.VIEW, "a lateral view.")
    assert told(b"lateral") == "It was refused: view (a lateral view)."
    bench.ledger.record_absent(bench.root_id, [b"lateral"])
    assert told(b"lateral").startswith("The file is no longer in the folder; its result is kept. It was refused")


def plan(bench: LedgerBench, statement: Any, *, may_sort: bool = False) -> str:
    """How the database would find the rows, were the table too large to walk."""
    compiled = str(statement.compile(bench.engine, compile_kwargs={"literal_binds": True}))
    with bench.engine.connect() as connection:
        if bench.engine.dialect.name == "sqlite":
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").all()
            return " ".join(str(row[3]) for row in rows)
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        connection.exec_driver_sql(f"SET LOCAL enable_sort = {'on' if may_sort else 'off'}")
        return " ".join(str(row[0]) for row in connection.exec_driver_sql(f"EXPLAIN {compiled}").all())


@pytest.mark.parametrize(
    "wanted, index",
    [
        (ResultFilter(), "ix_file_committed_at_id"),
        (ResultFilter(patient_id="P1"), "ix_file_patient_id"),
        (ResultFilter(accession_number="A1"), "ix_file_accession_number"),
        (ResultFilter(study_instance_uid="1.2"), "ix_file_study_instance_uid"),
    ],
)
def test_lists_are_served_by_indexes(bench: LedgerBench, wanted: ResultFilter, index: str) -> None:
    # a walk through the whole table would pass every other test and fail a hospital with a million films
    file = schema.file.c
    statement = results.select_results().where(*results._conditions(wanted))
    if index == "ix_file_committed_at_id":
        statement = statement.order_by(file.committed_at.desc(), file.id.desc()).limit(100)
    assert index in plan(bench, statement)


def test_what_was_set_aside_is_counted_from_an_index_alone(bench: LedgerBench) -> None:
    # every page asks for it, and no film leaves that state by itself
    asked = asked_by(bench.engine, lambda: health.report(bench.engine, roots=None, scan_interval_s=30))
    ((statement, values),) = [one for one in asked if "GROUP BY file.code" in one[0]]
    assert "ix_file_aside" in explained(bench.engine, statement, values)


def test_a_claim_walks_through_nothing_that_is_done(bench: LedgerBench) -> None:
    # where most rows are of one state, SQLite takes any state for a common one, and walked through all films by number
    bench.ledger.record_ignored(
        bench.root_id, [Observation(b"%d" % number, 1, 1) for number in range(2000)], "not_regular"
    )
    with bench.engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")
    bench.ready(b"film")
    asked = [
        one for one in asked_by(bench.engine, bench.claim) if one[0].startswith("SELECT file.id") and "alone" in one[0]
    ]
    assert len(asked) >= 2
    for statement, values in asked:
        assert "ix_file_state_alone_backlog_id" in explained(bench.engine, statement, values)


def test_claims_are_served_by_an_index(bench: LedgerBench) -> None:
    file = schema.file.c
    lane = (file.state == "ready", file.alone.is_(False), file.backlog.is_(False))
    ready = select(file.id).where(*lane).order_by(file.id.desc()).limit(8)
    assert "ix_file_state_alone_backlog_id" in plan(bench, ready)
    unsettled = select(file.id).where(file.state == "settling").order_by(file.id).limit(8)
    assert "ix_file_state_alone_backlog_id" in plan(bench, unsettled, may_sort=True)


def test_each_tag_has_one_of_three_states(bench: LedgerBench) -> None:
    """Nothing is kept of a tag but its value as written and the caveats: they tell the three states apart."""

    def states(number: int, code: RefusalCode | None, caveats: tuple[Caveat, ...], **identity: Any) -> list[str | None]:
        path = b"%d" % number
        facts = replace(bench.facts(path, **identity), gate_caveats=caveats)
        claim = bench.claimed(path)
        if code is None:
            assert commit_assessed(bench.ledger, claim, facts, bench.bundle_id, content_of(Answer.FLAGGED))
        else:
            assert commit_refused(bench.ledger, claim, facts, bench.bundle_id, code, "a reason")
        (row,) = (row for row in results.query_results(bench.engine) if row.path == path)
        assert list(row.tags) == ["age", "view", "body_part", "modality", "species"]
        assert results.result_to_json(row)["tags"] == row.tags
        return list(row.tags.values())

    child: dict[str, Any] = {"patient_age_years": 3.0, "modality": "CR"}
    known, absent, unclear = "understood", "absent", "not_understood"
    assert states(1, None, (), **child) == [known, known, known, known, None]
    unknown = (Caveat.AGE_DECLARED, Caveat.VIEW_UNKNOWN, Caveat.BODY_PART_UNKNOWN)
    assert states(2, None, unknown) == [absent, absent, absent, absent, None]
    not_understood = (Caveat.VIEW_NOT_UNDERSTOOD, Caveat.BODY_PART_NOT_UNDERSTOOD)
    assert states(3, None, (*unknown[1:], *not_understood), **child) == [known, unclear, unclear, known, None]
    words = {"view_position": "AP", "body_part_examined": "N/A"}
    age = (Caveat.AGE_NOT_UNDERSTOOD,)
    assert states(4, RefusalCode.AGE_UNKNOWN, age, **words) == [unclear, known, absent, absent, None]
    assert states(5, RefusalCode.AGE_UNKNOWN, (), age_conflict=True) == [unclear, absent, absent, absent, None]
    assert states(6, RefusalCode.VIEW, (), **child) == [known, known, absent, known, None]
    assert states(7, RefusalCode.NOT_HUMAN, (), **child) == [known, absent, absent, known, known]
    kinds = (Caveat.MODALITY_NOT_UNDERSTOOD, Caveat.SPECIES_NOT_UNDERSTOOD)
    assert states(8, RefusalCode.MODALITY, kinds, modality="QX") == [absent, absent, absent, unclear, unclear]
    assert states(9, None, (Caveat.NO_TAGS,)) == [absent, absent, absent, absent, None]
