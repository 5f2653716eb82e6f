"""Exactly one assessment per content and bundle, and who it is about. On both databases."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, select

from preread.core.errors import TruncatedPixels, UnknownFormat
from preread.core.study_header import StudyHeader
from preread.core.types import Answer, Caveat, FileState, Finding, Identity, Outcome, Population, RefusalCode
from preread.db import schema
from preread.db.engine import open_engine
from preread.ledger.ledger import Ledger
from preread.ledger.records import ContentAssessment, Ending, FileFacts, Observation
from preread.review import history, results
from tests.support.ledger import LedgerBench
from tests.support.outcomes import commit_assessed, commit_refused, commit_unreadable


def test_an_assessment_is_stored_whole(bench: LedgerBench, content: ContentAssessment) -> None:
    claim = bench.claimed()
    facts = replace(
        bench.facts(uid="1.2.3", patient_id="P1"), transfer_syntax_uid="1.2.840.10008.1.2", rows=2500, columns=2048
    )
    assert commit_assessed(bench.ledger, claim, facts, bench.bundle_id, content)
    detail = history.load_result(bench.engine, claim.file_id)
    assert detail is not None
    row = detail.row
    assert (row.outcome, row.state, row.code, row.bundle, row.bundle_digest) == (
        Outcome.ASSESSED,
        FileState.DONE,
        None,
        "films/1",
        "d" * 64,
    )
    assert row.findings == content.findings
    assert row.caveats == (Caveat.AGE_DECLARED, Caveat.NO_WINDOW)
    assert (row.population, row.research, row.ms, row.decoder) == (Population.CHILDREN_1_5Y, False, 12.5, "pillow 12")
    assert (row.format, row.transfer_syntax_uid, row.rows, row.columns) == ("DICOM", "1.2.840.10008.1.2", 2500, 2048)
    assert (row.sha256, row.identity.patient_id) == (facts.sha256, "P1")
    assert row.committed_at == bench.now
    assert detail.activation_map is not None
    np.testing.assert_array_equal(detail.activation_map, content.activation_map)
    assert detail.activation_map.dtype == np.float32


def test_a_list_of_findings_keeps_its_order(bench: LedgerBench, content: ContentAssessment) -> None:
    several = (
        Finding("pneumonia", 1.0, 0.7, 0.3, Answer.FLAGGED),
        Finding("effusion", -3.0, 0.05, 0.1, Answer.NOT_FLAGGED),
        Finding("atelectasis", 0.0, 0.5, 0.1, Answer.UNCERTAIN),
    )
    claim = bench.claimed()
    assert commit_assessed(bench.ledger, claim, bench.facts(), bench.bundle_id, replace(content, findings=several))
    (row,) = results.query_results(bench.engine)
    assert row.findings == several


@pytest.mark.parametrize(
    "answers,most_urgent",
    [
        ((Answer.FLAGGED, Answer.UNCERTAIN), Answer.FLAGGED),
        ((Answer.FLAGGED, Answer.NOT_FLAGGED), Answer.FLAGGED),
        ((Answer.UNCERTAIN, Answer.NOT_FLAGGED), Answer.UNCERTAIN),
        ((Answer.NOT_FLAGGED, Answer.NOT_FLAGGED), Answer.NOT_FLAGGED),
    ],
)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_the_answer_of_a_file_is_the_most_urgent_of_its_findings(
    bench: LedgerBench,
    content: ContentAssessment,
    answers: tuple[Answer, Answer],
    most_urgent: Answer,
    is_reversed: bool,
) -> None:
    names = ("pneumonia", "effusion")
    findings = tuple(Finding(name, 0.0, 0.5, 0.3, answer) for name, answer in zip(names, answers, strict=True))
    several = replace(content, findings=findings[::-1] if is_reversed else findings)
    # the first commit stores the findings, the second reads them
    for path, given in ((b"one.dcm", several), (b"two.dcm", None)):
        claim = bench.claimed(path)
        assert commit_assessed(bench.ledger, claim, bench.facts(), bench.bundle_id, given)
        assert bench.row(claim.file_id)["answer"] == most_urgent


def test_the_same_bytes_twice_are_one_assessment_and_two_files(bench: LedgerBench) -> None:
    first = bench.assess(b"one.dcm")
    assert bench.ledger.content_status(bench.facts().sha256, "d" * 64) == (True, False)
    assert bench.ledger.content_status(bench.facts().sha256, "e" * 64) == (False, False)
    assert bench.ledger.content_status("0" * 64, "d" * 64) == (False, False)
    claim = bench.claimed(b"two.dcm")
    assert commit_assessed(bench.ledger, claim, bench.facts(patient_id="P2"), bench.bundle_id, None)
    assert [bench.count(table) for table in ("instance", "assessment", "finding", "file")] == [1, 1, 1, 2]
    assert bench.row(first)["assessment_id"] == bench.row(claim.file_id)["assessment_id"]
    detail = history.load_result(bench.engine, first)
    assert detail is not None
    assert detail.same_content == ((claim.file_id, "/srv/inbox", "two.dcm"),)
    assert results.query_results(bench.engine, results.ResultFilter(patient_id="P2"))[0].findings


def test_the_first_assessment_of_a_content_is_kept(bench: LedgerBench, content: ContentAssessment) -> None:
    bench.assess(b"one.dcm")
    claim = bench.claimed(b"two.dcm")
    other = replace(content, findings=(Finding("pneumonia", -1.0, 0.1, 0.3, Answer.NOT_FLAGGED),))
    assert commit_assessed(bench.ledger, claim, bench.facts(), bench.bundle_id, other)
    assert {row.findings[0].answer for row in results.query_results(bench.engine)} == {Answer.FLAGGED}


def test_another_bundle_is_another_assessment(bench: LedgerBench, content: ContentAssessment) -> None:
    bench.assess(b"one.dcm")
    newer = bench.ledger.register_bundle(name="films", version="2", digest="e" * 64)
    assert bench.ledger.register_bundle(name="films", version="2", digest="e" * 64) == newer != bench.bundle_id
    claim = bench.claimed(b"two.dcm")
    assert commit_assessed(bench.ledger, claim, bench.facts(), newer, content)
    assert [bench.count(table) for table in ("instance", "assessment")] == [1, 2]


def test_linking_to_what_is_not_there_is_an_error_and_changes_nothing(bench: LedgerBench) -> None:
    claim = bench.claimed()
    with pytest.raises(LookupError):
        commit_assessed(bench.ledger, claim, bench.facts(), bench.bundle_id, None)
    assert bench.state() is FileState.CLAIMED
    assert bench.count("instance") == 0


def test_a_refusal_is_done_with_its_reason_and_its_identity(bench: LedgerBench) -> None:
    claim = bench.claimed()
    facts = bench.facts(patient_id="P1")
    assert commit_refused(bench.ledger, claim, facts, bench.bundle_id, RefusalCode.VIEW, "a lateral view (LL)")
    (row,) = results.query_results(bench.engine)
    assert (row.state, row.outcome, row.code, row.reason) == (
        FileState.DONE,
        Outcome.REFUSED,
        "view",
        "a lateral view (LL)",
    )
    assert (row.findings, row.identity.patient_id, row.bundle) == ((), "P1", "films/1")


def test_the_same_bytes_refused_here_and_assessed_there(bench: LedgerBench, content: ContentAssessment) -> None:
    claim = bench.claimed(b"clinic.dcm")
    commit_refused(bench.ledger, claim, bench.facts(), bench.bundle_id, RefusalCode.AGE_OUTSIDE, "64 years")
    claim = bench.claimed(b"research.dcm")
    facts = replace(bench.facts(), population=Population.RESEARCH, gate_caveats=(Caveat.OUTSIDE_INTENDED_AGE,))
    assert commit_assessed(bench.ledger, claim, facts, bench.bundle_id, content)
    assert [row.outcome for row in results.query_results(bench.engine)] == [Outcome.ASSESSED, Outcome.REFUSED]
    (unread,) = results.query_results(bench.engine, results.ResultFilter(research=False))
    assert unread.outcome is Outcome.REFUSED
    (research,) = results.query_results(bench.engine, results.ResultFilter(research=True))
    assert research.caveats == (Caveat.OUTSIDE_INTENDED_AGE, Caveat.NO_WINDOW)


def test_what_cannot_be_read_is_set_aside_at_once(bench: LedgerBench) -> None:
    claim = bench.claimed(b"text.dcm")
    assert commit_unreadable(bench.ledger, claim, UnknownFormat())
    claim = bench.claimed(b"cut.dcm")
    assert commit_unreadable(bench.ledger, claim, TruncatedPixels(), bench.facts(patient_id="P1"))
    found = {row.path: row for row in results.query_results(bench.engine)}
    assert {row.state for row in found.values()} == {FileState.QUARANTINED}
    assert {path: row.code for path, row in found.items()} == {b"text.dcm": "unknown_format", b"cut.dcm": "truncated"}
    assert (found[b"cut.dcm"].identity.patient_id, found[b"text.dcm"].sha256) == ("P1", None)
    assert found[b"text.dcm"].reason


def test_new_bytes_reopen_what_was_set_aside(bench: LedgerBench) -> None:
    commit_unreadable(bench.ledger, bench.claimed(), UnknownFormat())
    bench.assess(b"film.dcm", mtime_ns=2)
    assert [row.outcome for row in results.query_results(bench.engine)] == [Outcome.ASSESSED]
    both = results.query_results(bench.engine, results.ResultFilter(superseded=True))
    assert {row.outcome for row in both} == {Outcome.ASSESSED, Outcome.UNREADABLE}


def test_an_older_outcome_does_not_show_through_a_newer_one(bench: LedgerBench, content: ContentAssessment) -> None:
    file_id = bench.assess(b"film.dcm")
    bench.ledger.settle([bench.see(b"film.dcm", 200, 2)])
    bench.ledger.settle([bench.see(b"film.dcm")])
    (claim,) = bench.claim()
    assert claim.file_id == file_id
    commit_unreadable(bench.ledger, claim, UnknownFormat())
    (row,) = results.query_results(bench.engine)
    assert (row.outcome, row.findings, row.bundle) == (Outcome.UNREADABLE, (), None)


# ---------------------------------------------------------------------- one UID, several contents


def test_one_uid_with_other_bytes_marks_both(bench: LedgerBench) -> None:
    first = bench.assess(b"a.dcm", b"film", uid="1.2.3")
    assert bench.row(first)["uid_conflict"] is False
    second = bench.assess(b"folder/b.dcm", b"edited film", uid="1.2.3")
    third = bench.assess(b"c.dcm", b"film of another patient", uid="1.2.4")
    caveats = {row.result_id: row.caveats for row in results.query_results(bench.engine)}
    assert Caveat.UID_CONFLICT in caveats[first]
    assert Caveat.UID_CONFLICT in caveats[second]
    assert Caveat.UID_CONFLICT not in caveats[third]
    assert bench.count("assessment") == 3
    detail = history.load_result(bench.engine, second)
    assert detail is not None
    assert detail.same_uid == ((first, "/srv/inbox", "a.dcm"),)


# ---------------------------------------------------------------------- the study header


def headers(bench: LedgerBench) -> dict[int, StudyHeader]:
    with bench.engine.connect() as connection:
        rows = connection.execute(select(schema.study_header)).all()
    return {row.file_id: StudyHeader(row.header, tuple(json.loads(row.left_out))) for row in rows}


def test_the_header_of_every_image_is_kept_whatever_its_outcome(bench: LedgerBench, content: ContentAssessment) -> None:
    endings: list[tuple[Outcome, dict[str, Any]]] = [
        (Outcome.ASSESSED, {"content": content}),
        (Outcome.ASSESSED, {}),  # the same bytes
        (Outcome.REFUSED, {"code": RefusalCode.VIEW, "reason": "lateral"}),
        (Outcome.UNREADABLE, {"code": "truncated", "reason": "the pixel data is truncated"}),
    ]
    bench.ready(*[b"%d.dcm" % number for number in range(len(endings))])
    claims = bench.claim(len(endings))
    expected = {
        claim.file_id: StudyHeader.of(
            {"StudyID": {"vr": "SH", "Value": [f"{number}"]}, "PatientName": {"vr": "PN"}, "PhysiciansOfRecord": None}
        )
        for number, claim in enumerate(claims)
    }
    facts = bench.facts()
    statements: list[str] = []
    event.listen(bench.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    committed = bench.ledger.commit(
        bench.bundle_id,
        [
            Ending(claim, outcome, replace(facts, study_header=expected[claim.file_id]), **more)
            for claim, (outcome, more) in zip(claims, endings, strict=True)
        ],
    )
    assert committed == [True] * 4
    assert len([one for one in statements if "study_header" in one]) == 1, "one insert for images that end together"
    assert headers(bench) == expected


def test_a_header_goes_with_its_outcome(bench: LedgerBench, content: ContentAssessment) -> None:
    def read_again(header: StudyHeader | None) -> None:
        if bench.count("study_header"):
            assert bench.ledger.requeue([file_id], "again", states=[FileState.DONE]) == 1
        (claim,) = bench.claim()
        facts = replace(bench.facts(), study_header=header)
        assert commit_assessed(bench.ledger, claim, facts, bench.bundle_id, content)

    file_id = bench.ready(b"film.dcm")[0].file_id
    first, second = (StudyHeader.of({"StudyID": {"vr": "SH", "Value": [text]}}) for text in ("1", "2"))
    read_again(first)
    read_again(second)
    assert headers(bench) == {file_id: second}
    read_again(None)
    assert headers(bench) == {}, "another file took its place: what it was is not its header"


def test_a_fenced_image_leaves_no_header(bench: LedgerBench, content: ContentAssessment) -> None:
    claim = bench.claimed()
    fenced = replace(claim, epoch=claim.epoch - 1)
    assert not commit_assessed(bench.ledger, fenced, bench.facts(), bench.bundle_id, content)
    assert headers(bench) == {}


def test_a_copy_is_no_conflict(bench: LedgerBench) -> None:
    bench.assess(b"a.dcm", b"film", uid="1.2.3")
    bench.assess(b"b.dcm", b"film", uid="1.2.3")
    assert all(Caveat.UID_CONFLICT not in row.caveats for row in results.query_results(bench.engine))


def test_films_without_a_uid_do_not_conflict(bench: LedgerBench) -> None:
    bench.assess(b"a.jpg", b"one", uid=None)
    bench.assess(b"b.jpg", b"two", uid=None)
    assert all(Caveat.UID_CONFLICT not in row.caveats for row in results.query_results(bench.engine))


def _commit(url: str, worker_id: str, root_id: int, bundle_id: int, content: ContentAssessment, start: Any) -> None:
    engine = open_engine(url)
    ledger = Ledger(engine, worker_id=worker_id, lease_s=600)
    for number in range(10):
        (claim,) = ledger.claim([root_id], 1)
        facts = FileFacts(
            sha256=f"{worker_id}{number}".ljust(64, "0"),
            identity=Identity(sop_instance_uid=f"1.2.{number}"),
            format="PNG",
        )
        start.wait(60)
        assert commit_assessed(ledger, claim, facts, bundle_id, content)
    engine.dispose()


def test_conflicts_that_are_committed_at_the_same_moment_are_seen(
    bench: LedgerBench, database_url: str, content: ContentAssessment
) -> None:
    bench.ready(*[b"%02d.dcm" % number for number in range(20)])
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    processes = [
        context.Process(target=_commit, args=(database_url, name, bench.root_id, bench.bundle_id, content, start))
        for name in ("a", "b")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    with bench.engine.connect() as connection:
        marked = connection.execute(select(schema.file.c.uid_conflict)).scalars().all()
    assert marked == [True] * 20


# ---------------------------------------------------------------------- hostile text


def test_hostile_tags_are_stored_safe(bench: LedgerBench, content: ContentAssessment) -> None:
    hostile = Identity(
        patient_name="Doe\x00^Jane\x1b[2J\u202egnp.exe",
        patient_id="../../x\x00\x07",
        accession_number="9" * 300,
        study_description="x" * 5000 + "\n",
        institution_name="\ud800 St. Mary",
        patient_age_years=float("nan"),
        study_instance_uid="1.2.3\x00",
    )
    claim = bench.claimed()
    assert commit_assessed(bench.ledger, claim, replace(bench.facts(), identity=hostile), bench.bundle_id, content)
    (row,) = results.query_results(bench.engine)
    assert row.identity.patient_name == r"Doe\x00^Jane\x1b[2J\u202egnp.exe"
    assert row.identity.patient_id == r"../../x\x00\x07"
    assert row.identity.accession_number is None, "a broken identifier is a missing one"
    assert len(row.identity.study_description or "") == 1024
    assert row.identity.institution_name == r"\ud800 St. Mary"
    assert row.identity.patient_age_years is None
    assert row.identity.study_instance_uid == "1.2.3"
    assert results.query_results(bench.engine, results.ResultFilter(patient_id="../../x\x00\x07")) == [row]


def test_observations_of_one_film_across_roots(bench: LedgerBench) -> None:
    other = bench.ledger.register_root(b"/srv/other", population=Population.RESEARCH)
    bench.assess(b"film.dcm")
    seen = bench.ledger.observe(other, [Observation(b"film.dcm", 100, 1)])
    bench.ledger.settle(seen.values())
    (claim,) = bench.ledger.claim([other], 1)
    facts = replace(bench.facts(), population=Population.RESEARCH)
    assert commit_assessed(bench.ledger, claim, facts, bench.bundle_id, None)
    assert {row.root_text: row.research for row in results.query_results(bench.engine)} == {
        "/srv/inbox": False,
        "/srv/other": True,
    }


def test_films_that_end_together_end_as_each_by_itself(bench: LedgerBench, content: ContentAssessment) -> None:
    paths = [b"a", b"same as a", b"b", b"refused", b"broken", b"unread", b"fenced", b"uid again"]
    claims = {one.path: one for version in [bench.ready(*paths)] for one in bench.claim(len(version))}
    bench.ledger.give_back(claims[b"fenced"], "the worker stops")
    facts = {path: bench.facts(path, uid="1.2.3" if path in {b"b", b"uid again"} else None) for path in paths}
    other = replace(content, findings=(replace(content.findings[0], answer=Answer.NOT_FLAGGED),))
    endings = [
        Ending(claims[b"a"], Outcome.ASSESSED, facts[b"a"], content=content),
        Ending(claims[b"same as a"], Outcome.ASSESSED, facts[b"a"], content=None),
        Ending(claims[b"b"], Outcome.ASSESSED, facts[b"b"], content=other),
        Ending(claims[b"refused"], Outcome.REFUSED, facts[b"refused"], RefusalCode.VIEW, "lateral"),
        Ending(claims[b"broken"], Outcome.UNREADABLE, facts[b"broken"], TruncatedPixels.code, "cut"),
        Ending(claims[b"unread"], Outcome.UNREADABLE, None, UnknownFormat.code, "no film"),
        Ending(claims[b"fenced"], Outcome.ASSESSED, facts[b"fenced"], content=content),
        Ending(claims[b"uid again"], Outcome.ASSESSED, facts[b"uid again"], content=other),
    ]
    assert bench.ledger.commit(bench.bundle_id, endings) == [True] * 6 + [False, True]
    rows = {path: bench.row(claim.file_id) for path, claim in claims.items()}
    assert {path: (row["state"], row["outcome"], row["code"], row["answer"]) for path, row in rows.items()} == {
        b"a": (FileState.DONE, "assessed", None, "flagged"),
        b"same as a": (FileState.DONE, "assessed", None, "flagged"),
        b"b": (FileState.DONE, "assessed", None, "not_flagged"),
        b"refused": (FileState.DONE, "refused", "view", None),
        b"broken": (FileState.QUARANTINED, "unreadable", TruncatedPixels.code, None),
        b"unread": (FileState.QUARANTINED, "unreadable", UnknownFormat.code, None),
        b"fenced": (FileState.READY, None, None, None),
        b"uid again": (FileState.DONE, "assessed", None, "not_flagged"),
    }
    assert rows[b"a"]["assessment_id"] == rows[b"same as a"]["assessment_id"]
    assert {path for path, row in rows.items() if row["uid_conflict"]} == {b"b", b"uid again"}
    assert [bench.count(table) for table in ("instance", "assessment", "finding")] == [5, 3, 3]
    assert bench.moves(claims[b"broken"].file_id)[-1] == (FileState.CLAIMED, FileState.QUARANTINED)
    assert all(row["owner"] is None for row in rows.values())


def test_one_that_cannot_be_linked_leaves_the_others_unwritten(bench: LedgerBench, content: ContentAssessment) -> None:
    bench.ready(b"a", b"b")
    one, two = bench.claim(2)
    endings = [
        Ending(one, Outcome.ASSESSED, bench.facts(b"1"), content=content),
        Ending(two, Outcome.ASSESSED, bench.facts(b"2"), content=None),
    ]
    with pytest.raises(LookupError):
        bench.ledger.commit(bench.bundle_id, endings)
    assert {bench.state(b"a"), bench.state(b"b")} == {FileState.CLAIMED}
    assert bench.count("instance") == 0
    assert bench.ledger.commit(bench.bundle_id, endings[:1]) == [True]


def test_an_outcome_that_needs_bytes_has_some(bench: LedgerBench) -> None:
    with pytest.raises(ValueError, match="needs facts about the bytes"):
        Ending(bench.claimed(), Outcome.REFUSED, None, RefusalCode.VIEW, "lateral")
