"""A withdrawn bundle's answers stand struck through on the page and in the API, and say why."""

from __future__ import annotations

import re
from typing import Any

from preread.admin import bundle_registry
from preread.core.types import Answer, Outcome, Presence, RefusalCode, Verdict
from preread.review import reviews
from preread.review.export import review_to_json
from preread.review.history import load_result
from preread.review.reviews import ReviewDraft, ShownResult
from tests.support.page import Films
from tests.support.page_clients import Browser, Program

REASON = "it misses what lies <behind> the heart"


def test_a_withdrawn_answer_is_struck_through_wherever_it_is_shown(films_here: Films) -> None:
    films = films_here
    who: dict[str, Any] = {"patient_id": "P1", "patient_birth_date": "20200101"}
    film = films.add("a.dcm", Answer.FLAGGED, **who)
    refused = films.add("b.dcm", RefusalCode.VIEW, **who)
    reader = films.person("ada")
    detail = load_result(films.engine, film)
    assert detail is not None
    draft = ReviewDraft(film, ShownResult(Outcome.ASSESSED, None, detail.assessment_id), Verdict.ACCEPTED, "t" * 20, {})
    reviews.sign_review(films.engine, reader, draft)
    browser, program = Browser(films), Program(films)
    browser.sign_in("ada")
    pages = ("/worklist?show=all", f"/films/{film}", f"/films/{refused}")
    assert not [page for page in pages if "withdrawn" in browser.get(page).text.lower()]
    assert program.get(f"/results/{film}").json()["withdrawn"] is None
    bundle_registry.withdraw_bundles(
        films.engine, "uid:0", bundle_registry.find_bundles(films.engine, "films/1"), REASON
    )
    listed = browser.get("/worklist?show=all").text
    assert len(re.findall(r'<td class="withdrawn">', listed)) == 2
    assert listed.count("Withdrawn, do not rely on it") == 2
    for page in pages[1:]:
        text = browser.get(page).text
        assert 'class="answer card withdrawn"' in text
        assert "it misses what lies &lt;behind&gt; the heart" in text
    assert "Withdrawn, do not rely on it: " in browser.get(f"/films/{refused}").text  # beside the earlier film
    for answer in (
        program.get(f"/results/{film}").json(),
        program.post("/results/search").json()["results"][0],
        program.post("/worklist/search", unread=False).json()["studies"][0][0],
    ):
        assert answer["withdrawn"]["reason"] == REASON
    (signed,) = reviews.list_reviews(films.engine, [film])[film]
    assert review_to_json(signed)["withdrawn"] == REASON
    assert signed.presences() == {"pneumonia": Presence.PRESENT}
