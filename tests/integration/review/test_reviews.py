"""Readings: about what was seen, once, append-only, corrected by a successor; what they add up to; what is exported."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import delete, select, update
from sqlalchemy.exc import DBAPIError

from preread.core.errors import DatabaseFull, FindingUnknown, NotAllowed, ReadingOutdated, UsageError
from preread.core.text import csv_cells
from preread.core.types import Answer, FileState, Outcome, Presence, RefusalCode, Role, Verdict
from preread.db import review_schema, schema
from preread.db.engine import write
from preread.imaging import previews
from preread.ledger import tombstones
from preread.ledger.transaction import Transaction
from preread.review import agreement, audit, export, results, reviews, worklist
from preread.review.reviews import ReviewDraft, ShownResult
from tests.support.page import Films
from tests.support.reviews import at_once, shown, sign


def test_a_reading_keeps_what_was_shown_and_whether_the_answer_was(films: Films) -> None:
    ada, film = films.person(), films.add("a.dcm", Answer.FLAGGED, patient_id="P1")
    reviews.record_viewing(films.engine, ada, film, shown(films, film), answer_visible=False)
    first = sign(films, ada, film, comment=" left base\n\x1b[31mred ", findings={"pneumonia": Presence.PRESENT})
    (one,) = reviews.list_reviews(films.engine, [film])[film]
    assert (one.reading_id, one.reader, one.verdict, one.answer_visible) == (first, "Dr Ada", Verdict.ACCEPTED, False)
    assert one.comment == "left base\n\\x1b[31mred"
    assert (one.findings, one.answers) == ({"pneumonia": Presence.PRESENT}, {"pneumonia": Answer.FLAGGED})
    assert (one.bundle, one.shown.outcome) == ("films/1", Outcome.ASSESSED)
    reviews.record_viewing(films.engine, ada, film, shown(films, film), answer_visible=True)
    sign(films, ada, film, supersedes_id=first)
    assert [one.answer_visible for one in reviews.list_reviews(films.engine, [film])[film]] == [False, True]
    assert audit.verify_audit_chain(films.engine).head.rows > 0


@pytest.mark.parametrize("answer", [RefusalCode.VIEW, None])
def test_a_refused_and_an_unreadable_film_can_be_read_too(films: Films, answer: RefusalCode | None) -> None:
    ada, film = films.person(), films.add("a.dcm", answer)
    sign(films, ada, film, Verdict.SUPPLEMENTED, comment="a foreign body")
    (one,) = reviews.list_reviews(films.engine, [film])[film]
    assert (one.answers, one.comment) == ({}, "a foreign body")


def test_a_form_that_is_sent_twice_is_one_reading(films: Films) -> None:
    ada, film = films.person(), films.add("a.dcm")
    said: dict[str, Any] = {"form_token": "t", "comment": " left\nbase ", "findings": {"pneumonia": Presence.PRESENT}}
    first, again = (sign(films, ada, film, **said) for _ in range(2))
    assert first == again
    assert len(reviews.list_reviews(films.engine, [film])[film]) == 1
    # a form that somebody went back to and wrote on: not signed as it is now, and not passed over in silence either
    changes: list[dict[str, Any]] = [{"comment": "right"}, {"findings": {}}, {"verdict": Verdict.REJECTED}]
    for changed in changes:
        with pytest.raises(ReadingOutdated, match="already signed"):
            sign(films, ada, film, **{**said, **changed})
    assert len(reviews.list_reviews(films.engine, [film])[film]) == 1


def test_two_readers_stand_beside_each_other_and_each_corrects_the_own_one(films: Films) -> None:
    ada, ben, film = films.person(), films.person("ben"), films.add("a.dcm", Answer.FLAGGED)
    hers, his = sign(films, ada, film), sign(films, ben, film, Verdict.REJECTED)
    with pytest.raises(NotAllowed):
        sign(films, ada, film, supersedes_id=his)
    corrected = sign(films, ada, film, Verdict.REJECTED, supersedes_id=hers)
    with pytest.raises(ReadingOutdated):
        sign(films, ada, film, Verdict.SUPPLEMENTED, supersedes_id=hers)
    all_of_it = reviews.list_reviews(films.engine, [film])[film]
    assert [(one.reading_id, one.superseded) for one in all_of_it] == [(hers, True), (his, False), (corrected, False)]


def test_readers_who_sign_at_the_same_moment_lose_nothing(films: Films) -> None:
    ada, ben = films.person(), films.person("ben")
    made = [films.add(f"{number}.dcm", Answer.FLAGGED) for number in range(6)]
    for film in made:
        said = {ada: Verdict.ACCEPTED, ben: Verdict.REJECTED}
        signed = at_once(*(partial(sign, films, who, film, verdict) for who, verdict in said.items()))
        kept = reviews.list_reviews(films.engine, [film])[film]
        assert sorted(one.reading_id for one in kept) == sorted(signed)
        assert {(one.account_id, one.verdict) for one in kept} == {(w.account_id, v) for w, v in said.items()}
        # one of the two was first, and only that one overtook nobody
        assert sorted(one.overtook is None for one in kept) == [False, True]
    (counted,) = agreement.count_agreement(films.engine, ())
    assert (counted.readings, counted.agree, counted.disagree) == (12, 6, 6)
    assert [entry.action for entry in audit.latest_audit_entries(films.engine, 100)].count("reading") == 12
    audit.verify_audit_chain(films.engine)


def test_a_reading_that_is_corrected_twice_at_the_same_moment_is_corrected_once(films: Films) -> None:
    ada, film = films.person(), films.add("a.dcm", Answer.FLAGGED)
    first = sign(films, ada, film)
    corrections = (Verdict.REJECTED, Verdict.SUPPLEMENTED)
    done = at_once(*(partial(sign, films, ada, film, verdict, supersedes_id=first) for verdict in corrections))
    assert sorted(type(one).__name__ for one in done) == ["ReadingOutdated", "int"]
    kept = reviews.list_reviews(films.engine, [film])[film]
    assert [one.superseded for one in kept] == [True, False]
    assert kept[1].reading_id in done


def test_of_each_reader_one_reading_of_a_film_stands(films: Films) -> None:
    ada, ben, film = films.person(), films.person("ben"), films.add("a.dcm", Answer.FLAGGED)
    first = sign(films, ada, film)
    sign(films, ben, film)
    with pytest.raises(ReadingOutdated, match=f"already signed review {first} of"):
        sign(films, ada, film, Verdict.REJECTED)
    films.again(film, "a.dcm", Answer.NOT_FLAGGED)
    with pytest.raises(ReadingOutdated, match=f"already signed review {first} of"):
        sign(films, ada, film, Verdict.REJECTED)
    second = sign(films, ada, film, Verdict.REJECTED, supersedes_id=first)
    with pytest.raises(ReadingOutdated, match=f"already signed review {second} of"):
        sign(films, ada, film, Verdict.SUPPLEMENTED)
    other = films.add("b.dcm", Answer.FLAGGED)
    with pytest.raises(UsageError, match="has no review"):
        sign(films, ada, other, supersedes_id=second)
    standing = [one.reader for one in reviews.list_reviews(films.engine, [film])[film] if not one.superseded]
    assert standing == ["Dr Ben", "Dr Ada"]


def test_a_reader_who_signs_twice_at_the_same_moment_has_signed_once(films: Films) -> None:
    ada = films.person()
    for number in range(4):
        film = films.add(f"{number}.dcm", Answer.FLAGGED)
        verdicts = (Verdict.ACCEPTED, Verdict.REJECTED, Verdict.SUPPLEMENTED)
        done = at_once(*(partial(sign, films, ada, film, verdict) for verdict in verdicts))
        assert sorted(type(one).__name__ for one in done) == ["ReadingOutdated", "ReadingOutdated", "int"]
        (kept,) = reviews.list_reviews(films.engine, [film])[film]
        assert kept.reading_id in done


def test_one_form_sent_twice_at_the_same_moment_is_one_reading(films: Films) -> None:
    ada, film = films.person(), films.add("a.dcm")
    first, second = at_once(*[partial(sign, films, ada, film, form_token="t")] * 2)
    assert first == second
    assert len(reviews.list_reviews(films.engine, [film])[film]) == 1


def test_a_result_that_changes_at_the_moment_of_signing(films: Films) -> None:
    """The reading is kept, of the result that was shown, or the reader is told; never of one that nobody saw."""
    ada = films.person()
    for number in range(4):
        film = films.add(f"{number}.dcm", Answer.NOT_FLAGGED)
        seen = shown(films, film)
        draft = ReviewDraft(film, seen, Verdict.ACCEPTED, f"token {number}")
        done, _ = at_once(
            partial(reviews.sign_review, films.engine, ada, draft),
            partial(films.again, film, f"{number}.dcm", Answer.FLAGGED),
        )
        kept = reviews.list_reviews(films.engine, [film])[film]
        assert [one.reading_id for one in kept] == ([] if isinstance(done, ReadingOutdated) else [done])
        assert all(one.shown == seen for one in kept)
        assert all(one.answers == {"pneumonia": Answer.NOT_FLAGGED} for one in kept)


def test_a_reading_about_a_result_that_changed_is_not_signed(films: Films) -> None:
    ada, film = films.person(), films.add("a.dcm", RefusalCode.AGE_UNKNOWN)
    before = shown(films, film)
    with films.engine.begin() as connection:
        connection.execute(update(schema.file).values(code="age_outside"))
    with pytest.raises(ReadingOutdated):
        reviews.sign_review(films.engine, ada, ReviewDraft(film, before, Verdict.ACCEPTED, "t"))
    newer = films.add("a.dcm", Answer.FLAGGED, mtime_ns=2)
    assert newer != film
    with pytest.raises(ReadingOutdated):
        sign(films, ada, film)
    assert reviews.list_reviews(films.engine, [film, newer]) == {film: [], newer: []}


def test_a_film_is_to_be_read_again_when_its_result_changes_and_only_then(films: Films) -> None:
    films.now -= timedelta(hours=6)
    film, other = films.add("a.dcm", Answer.NOT_FLAGGED), films.add("b.dcm", Answer.FLAGGED)
    readers = [films.person(name) for name in ("ada", "ben", "eve", "kim")]
    sign(films, readers[0], other)

    def look() -> tuple[bool, bool, list[bool]]:
        """Whether the film stands on the list, whether as read before, and which readings are of its result."""
        at, wanted = shown(films, film), worklist.WorklistFilter(limit=1)
        listed = [one for study in worklist.list_worklist_page(films.engine, wanted).studies for one in study]
        everything = worklist.list_worklist_page(films.engine, replace(wanted, unread=False)).studies
        signed = reviews.list_reviews(films.engine, [film])[film]
        first = min((one.signed_at for one in signed if one.shown == at), default=None)
        assert everything[0][0].read_at == first
        assert [one.result.result_id for one in listed] in ([], [film])
        return bool(listed), any(one.read_before for one in listed), [one.shown == at for one in signed]

    def again(answer: Answer | RefusalCode | None, *, newer: bool) -> None:
        films.wait(3600)
        if newer:
            films.again(film, "a.dcm", answer)
            return
        films.ledger.requeue([film], "asked for", states=[FileState.DONE, FileState.QUARANTINED])
        assert look() == before, "while it is read again, its result stands"
        films.commit("a.dcm", answer)

    assert look() == (True, False, [])
    sign(films, readers[0], film)
    before = look()
    assert before == (False, False, [True])
    again(Answer.NOT_FLAGGED, newer=False)
    assert look() == before, "the same bundle said it again"
    again(Answer.NOT_FLAGGED, newer=True)
    assert look() == (True, True, [False])
    (row,) = worklist.list_worklist_page(films.engine, worklist.WorklistFilter()).studies[0]
    assert 3.5 * 3600 < row.waited_s < 4.5 * 3600, "it waits since its result changed"
    sign(films, readers[1], film)
    before = look()
    assert before == (False, False, [False, True])
    again(RefusalCode.VIEW, newer=False)
    before = look()
    assert before == (True, True, [False, False])
    again(Answer.NOT_FLAGGED, newer=False)
    assert look() == (False, False, [False, True]), "what it says now was read"
    again(None, newer=True)
    assert look() == (True, True, [False, False])
    sign(films, readers[2], film)
    assert look() == (False, False, [False, False, True])
    first, *later = reviews.list_reviews(films.engine, [film])[film]
    assert (first.overtook, [one.overtook for one in later]) == (0, [None, None]), "one a film"


def test_only_readers_sign_and_only_films_that_are_there(films: Films) -> None:
    film = films.add("a.dcm")
    with pytest.raises(NotAllowed):
        sign(films, films.person("root", Role.ADMIN), film)
    with pytest.raises(UsageError, match="no result for image 99"):
        reviews.sign_review(
            films.engine, films.person(), ReviewDraft(99, ShownResult(Outcome.ASSESSED, None, 1), Verdict.ACCEPTED, "t")
        )


@pytest.mark.parametrize(
    "name", ["=8+8;=9+9", "a|b", "", "\u202eevil", "Pneumonia", "pneumonia ", "pneumonia\u200b", "effusion"]
)
@pytest.mark.parametrize("answer", [Answer.FLAGGED, RefusalCode.VIEW, None])
def test_only_findings_that_the_bundle_knows_are_signed(
    films: Films, answer: Answer | RefusalCode | None, name: str
) -> None:
    ada, film = films.person(), films.add("a.dcm", answer)
    with pytest.raises(FindingUnknown, match=r"unknown finding .*: use pneumonia"):
        sign(films, ada, film, findings={"pneumonia": Presence.PRESENT, name: Presence.PRESENT})
    assert reviews.list_reviews(films.engine, [film])[film] == []
    assert sign(films, ada, film, findings={"pneumonia": Presence.PRESENT})


def test_findings_are_those_of_the_bundle_of_this_result(films: Films) -> None:
    ada, old = films.person(), films.add("a.dcm", Answer.FLAGGED)
    manifest = json.dumps({"findings": [{"finding": "effusion"}]})
    films.ledger.register_bundle(name="films", version="2", digest="e" * 64, manifest=manifest)
    with pytest.raises(FindingUnknown):
        sign(films, ada, old, findings={"effusion": Presence.ABSENT})
    # nothing was asked about a file that could not be read: the latest bundle counts
    assert sign(films, ada, films.add("b.dcm", None), findings={"effusion": Presence.ABSENT})


def test_a_comment_has_a_limit(films: Films) -> None:
    ada, film = films.person(), films.add("a.dcm")
    sign(films, ada, film, comment="x" * reviews.MAX_COMMENT_CHARS)
    with pytest.raises(UsageError, match="1000000 characters"):
        sign(films, ada, film, comment="x" * 1_000_000, form_token="long")


def test_the_database_keeps_readings_as_they_were_signed(films: Films) -> None:
    sign(films, films.person(), films.add("a.dcm"), findings={"pneumonia": Presence.ABSENT})
    for table in (review_schema.reading, review_schema.reading_finding):
        for statement in (update(table).values({list(table.c)[-1].name: None}), delete(table)):
            with pytest.raises(DBAPIError, match="append-only"), films.engine.begin() as connection:
                connection.execute(statement)


def test_the_first_reading_counts_whom_it_overtook(films: Films) -> None:
    ada, first, last = films.person(), films.add("a.dcm"), films.add("b.dcm", Answer.FLAGGED)
    sign(films, ada, last)
    sign(films, ada, first)
    found = reviews.list_reviews(films.engine, [first, last])
    assert (found[last][0].overtook, found[first][0].overtook) == (1, 0)


# --------------------------------------------------------------------------- agreement


def test_agreement_counts_the_readings_that_stand(films: Films) -> None:
    ada, ben = films.person(), films.person("ben")
    flagged = films.add("a.dcm", Answer.FLAGGED, station_name="ROOM1")
    other = films.add("b.dcm", Answer.NOT_FLAGGED, station_name="ROOM2")
    unsure = films.add("c.dcm", Answer.UNCERTAIN, station_name="ROOM2")
    wrong = sign(films, ada, flagged, Verdict.REJECTED)
    sign(films, ada, flagged, supersedes_id=wrong)
    sign(films, ben, flagged, Verdict.SUPPLEMENTED, findings={"pneumonia": Presence.ABSENT})
    sign(films, ada, other)
    sign(films, ada, unsure, Verdict.SUPPLEMENTED, findings={"pneumonia": Presence.PRESENT})
    (room1, room2) = agreement.count_agreement(films.engine, ("device",))
    assert (room1.group, room1.readings, room1.agree, room1.disagree) == ({"device": "ROOM1"}, 2, 1, 1)
    assert (room2.readings, room2.agree, room2.undecided, room2.share) == (2, 1, 1, 1.0)
    assert room1.share == 0.5
    assert room1.verdicts == {Verdict.ACCEPTED: 1, Verdict.REJECTED: 0, Verdict.SUPPLEMENTED: 1}
    (together,) = agreement.count_agreement(films.engine, ())
    assert (together.readings, together.mean_overtook) == (4, 0.0)
    assert [one.group["bundle"] for one in agreement.count_agreement(films.engine)] == ["films/1", "films/1"]


def test_a_later_result_takes_nothing_from_what_was_said_of_an_earlier(films: Films) -> None:
    ada, film = films.person(), films.add("a.dcm", Answer.FLAGGED)
    first = sign(films, ada, film)
    films.again(film, "a.dcm", Answer.NOT_FLAGGED)
    second = sign(films, ada, film, supersedes_id=first)
    sign(films, ada, film, Verdict.REJECTED, supersedes_id=second)
    one, two = agreement.count_agreement(films.engine, ("bundle",))
    assert (one.readings, one.agree, one.disagree) == (1, 1, 0)
    assert (two.readings, two.agree, two.disagree) == (1, 0, 1)
    assert (one.median_waited_s, one.mean_overtook, two.median_waited_s) == (0.0, 0.0, None)


def test_what_was_written_down_is_what_the_readings_themselves_add_up_to(
    films: Films, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_schema, "READINGS_A_BLOCK", 4)
    monkeypatch.setattr(tombstones, "READINGS_A_BLOCK", 4)
    monkeypatch.setattr(agreement, "_SETTLED_AFTER", timedelta(0))
    tally = review_schema.tally

    def stand() -> list[Any]:
        """What the statistics say, having looked whether every reading for itself says the same."""
        with films.engine.connect() as connection:
            readings_alone = {kind: +of for kind, of in agreement._count(connection, 0).items()}
            slowly = agreement.sum_agreements(agreement._groups(connection, readings_alone), agreement.BY)
        found = agreement.count_agreement(films.engine)
        assert [agreement.agreement_to_json(one) for one in found] == [
            agreement.agreement_to_json(one) for one in slowly
        ]
        return found

    def written() -> list[int]:
        with films.engine.connect() as connection:
            return list(connection.execute(select(tally.c.block).order_by(tally.c.block)).scalars())

    assert stand() == []
    readers = [films.person(name) for name in ("ada", "ben")]
    answers: list[Answer | RefusalCode] = [Answer.FLAGGED, Answer.NOT_FLAGGED, Answer.UNCERTAIN, RefusalCode.VIEW]
    made = [films.add(f"{n}.dcm", answers[n % 4], station_name=f"ROOM {n % 3}") for n in range(6)]
    last: dict[tuple[str, int], int] = {}
    for number, verdict in enumerate((Verdict.ACCEPTED, Verdict.REJECTED, Verdict.SUPPLEMENTED)):
        for who in readers:
            for film in made:
                said: dict[str, Any] = (
                    {"pneumonia": list(Presence)[(film + number) % 3]} if verdict is Verdict.SUPPLEMENTED else {}
                )
                before = last.get((who.name, film))
                last[who.name, film] = sign(films, who, film, verdict, findings=said, supersedes_id=before)
        assert sum(one.readings for one in stand()) == 12 + 2 * (number == 2)
        if number == 1:
            films.again(made[0], "0.dcm", Answer.NOT_FLAGGED, station_name="ROOM 0")
    assert written() == list(range(max(last.values()) // 4))
    # whatever was written down may be gone
    with films.engine.begin() as connection:
        connection.execute(delete(tally).where(tally.c.block.in_([0, 3])))
    with monkeypatch.context() as full:
        full.setattr(agreement, "write", Mock(side_effect=DatabaseFull))
        stand()
    assert {0, 3}.isdisjoint(written())
    stand()
    assert {0, 3} <= set(written())

    key = tombstones.TombstoneKey(b"k" * 32)

    def purge(film: int, *, signed: bool) -> None:
        write(
            films.engine,
            lambda c, _: tombstones.replace_with_stubs(Transaction(c), key, [film], "asked for", with_reviews=signed),
        )

    for film, signed in ((made[1], True), (made[2], False), (made[3], True)):
        at_once(partial(purge, film, signed=signed), *[partial(agreement.count_agreement, films.engine)] * 2)
        stand()
    assert sum(one.readings for one in stand()) == 10


# --------------------------------------------------------------------------- export


def test_an_export_names_nobody_and_merges_no_disagreement(films: Films, tmp_path: Path) -> None:
    ada, ben = films.person(), films.person("ben")
    who: dict[str, Any] = {"patient_id": "P1", "patient_name": "DOE^JANE", "patient_birth_date": "2020-01-01"}
    one = films.add("a.dcm", Answer.FLAGGED, preview=True, **who)
    two = films.add("b.dcm", Answer.NOT_FLAGGED, **who)
    disputed, refused = films.add("c.dcm", Answer.FLAGGED), films.add("d.dcm", RefusalCode.VIEW)
    for film in (one, two, disputed):
        sign(films, ada, film)
    sign(films, ben, disputed, Verdict.REJECTED)
    sign(films, ada, refused)
    found = {film.result.result_id: film for film in export.reviewed_images(films.engine)}
    assert [(film.label, film.open) for film in found.values()] == [
        ("PNEUMONIA", None),
        ("ABSENT", None),
        (None, "disagreement"),
        (None, "undecided"),
    ]
    assert found[one].patient == found[two].patient
    assert found[disputed].patient == found[disputed].image
    assert len(found[disputed].readings) == 2
    written = json.dumps([film.cells("path") for film in found.values()])
    assert not any(word in written for word in ("P1", "DOE", "2020-01-01", "Ada"))
    again = next(export.reviewed_images(films.engine))
    assert (again.patient, again.image) == (found[one].patient, found[one].image)

    saved = export.save_reviewed_image(tmp_path / "images", found[one], films.preview_dir)
    assert saved is not None
    kept = results.query_results(films.engine, results.ResultFilter())[-1].sha256
    assert kept is not None
    assert saved.read_bytes() == previews.load_preview(films.preview_dir, kept)
    assert np.asarray(Image.open(saved)).shape == (400, 320)
    assert export.save_reviewed_image(tmp_path / "images", found[two], films.preview_dir) is None


def test_a_comment_in_an_export_is_no_formula_and_stays_what_was_written(films: Films) -> None:
    ada, film = films.person(), films.add("a.dcm", Answer.FLAGGED)
    comment = '-1; =7+7;@x, "=1" | \\ %'
    sign(films, ada, film, comment=comment)
    (line,) = [one.cells("path") for one in export.reviewed_images(films.engine)]
    cell = line[export.COLUMNS.index("readers")]
    assert csv_cells.csv_cell(cell) == cell
    assert [one["comment"] for one in json.loads(str(cell))] == [comment]
