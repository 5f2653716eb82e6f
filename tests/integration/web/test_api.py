"""The API: one shape of failure, no patient in a URL, and no answer that its own description does not know."""

from __future__ import annotations

import json
import shlex
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from preread.core.types import Answer, Presence, RefusalCode, Verdict
from preread.review import audit, reviews
from preread.review.reviews import ReviewDraft
from tests.support.page import PASSWORD, Films
from tests.support.page_clients import Program
from tests.support.paths import REPOSITORY


@pytest.fixture
def program(films_here: Films) -> Program:
    return Program(films_here)


def fill(films: Films) -> list[int]:
    """A few films of every kind, one of them read."""
    made = [
        films.add(
            "a.dcm", Answer.FLAGGED, preview=True, patient_id="P1", accession_number="A1", study_instance_uid="1.2"
        ),
        films.add("b.dcm", RefusalCode.VIEW, patient_id="P1"),
        films.add("c.dcm", None),
        films.add("d.dcm", Answer.NOT_FLAGGED, patient_id="P2"),
    ]
    ada = films.person("ada")
    with films.engine.connect() as connection:
        from preread.db import schema

        row = connection.execute(schema.file.select().where(schema.file.c.id == made[0])).one()
    draft = ReviewDraft(
        made[0], reviews.shown_result(row), Verdict.ACCEPTED, "t" * 20, {"pneumonia": Presence.PRESENT}, "left"
    )
    reviews.sign_review(films.engine, ada, draft)
    return made


def test_a_program_finds_what_a_person_finds(films_here: Films, program: Program) -> None:
    flagged, refused, broken, other = fill(films_here)
    found = program.post("/results/search", patient_id="P1").json()
    assert [one["id"] for one in found["results"]] == [refused, flagged]
    assert found["results"][1]["findings"][0]["answer"] == "flagged"
    assert program.post("/results/search", outcome="unreadable").json()["results"][0]["id"] == broken
    first = program.post("/results/search", limit=3).json()
    second = program.post("/results/search", limit=3, before=first["next"]).json()
    assert [one["id"] for one in first["results"] + second["results"]] == [other, broken, refused, flagged]
    assert second["next"] is None
    studies = program.post("/worklist/search", order="priority").json()["studies"]
    assert [film["id"] for study in studies for film in study] == [refused, broken, other]
    assert program.get(f"/results/{flagged}").json()["history"]["state"] == "done"
    assert program.get(f"/results/{flagged}/preview").headers["content-type"] == "image/png"
    (reading,) = program.get(f"/results/{flagged}/readings").json()["readings"]
    assert (reading["verdict"], reading["presence"], reading["comment"]) == (
        "accepted",
        {"pneumonia": "present"},
        "left",
    )
    assert program.post("/readings/search").json()["readings"] == [reading]
    assert program.get("/statistics").json()["groups"][0]["agree"] == 1
    status = program.get("/status").json()
    assert (status["status"], status["waiting"], status["missed"]) == ("critical", 0, 0)
    assert [problem["code"] for problem in status["problems"]] == ["no_worker"]
    actions = {entry.action for entry in audit.latest_audit_entries(films_here.engine, 50) if entry.actor != "uid:0"}
    assert {"search", "view", "export"} <= actions
    audit.verify_audit_chain(films_here.engine)


def test_the_documented_lines_of_curl_are_answered(films_here: Films, program: Program) -> None:
    fill(films_here)
    page = (REPOSITORY / "docs" / "how-to" / "give-access.md").read_text()
    lines = [shlex.split(line) for line in page.splitlines() if line.startswith("curl ")]
    assert len(lines) == 5
    for words in lines:
        assert words[words.index("-H") + 1] == "Authorization: Bearer $TOKEN"
        path = words[-1].removeprefix("http://127.0.0.1:8350")
        if "--json" in words:
            body = json.loads(words[words.index("--json") + 1])
            answered = program.client.post(path, json=body)
        else:
            answered = program.client.get(path)
        assert answered.status_code == 200, (path, answered.text)


@pytest.mark.parametrize("path", ["/results", "/worklist", "/readings"])
def test_a_list_that_is_asked_for_with_get_says_how_to_ask(program: Program, path: str) -> None:
    answered = program.get(path)
    assert (answered.status_code, answered.headers["allow"]) == (405, "POST")
    assert "Send POST with a JSON body" in answered.json()["error"]["hint"]
    assert program.post(path).status_code == 200, "what is allowed is answered"


def test_every_failure_has_one_shape(films_here: Films, program: Program) -> None:
    failures = [
        (program.get("/results/99"), 404),
        (program.get("/nothing"), 404),
        (program.get("/results/x"), 422),
        (program.post("/results/search", patient="P1"), 422),
        (program.post("/results/search", limit=0), 422),
        (program.client.post("/api/v1/results/search", content=b"{"), 422),
        (program.client.delete("/api/v1/status"), 405),
        (TestClient(program.app).get("/api/v1/status"), 401),
        (TestClient(program.app, headers={"authorization": "Bearer no"}).get("/api/v1/status"), 401),
        (TestClient(program.app, headers={"authorization": "Basic eDp5"}).get("/api/v1/status"), 401),
    ]
    for answer, status in failures:
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == {"error"}
        assert set(answer.json()["error"]) == {"code", "message", "hint", "fields"}
    assert failures[3][0].json()["error"]["fields"] == ["patient"]
    assert "P1" not in failures[3][0].text


def test_no_address_takes_what_names_a_patient(program: Program) -> None:
    description = program.get("/openapi.json").json()
    parameters = [
        (path, one["name"]) for path, methods in description["paths"].items() for m in methods.values()
        for one in m.get("parameters", ())
    ]  # fmt: skip
    assert {name for _, name in parameters} == {"result_id"}


def test_a_persons_session_is_no_token(films_here: Films, program: Program) -> None:
    films_here.person("ada")
    for given in (PASSWORD, "ada", ""):
        answer = TestClient(program.app, headers={"authorization": f"Bearer {given}"}).get("/api/v1/status")
        assert answer.status_code == 401


# --------------------------------------------------------------------------- what nobody thought of


def test_the_api_answers_as_its_description_says(films_here: Films, program: Program) -> None:
    fill(films_here)
    app: Any = program.app
    (api,) = [route.app for route in app.routes if getattr(route, "path", "") == "/api/v1"]
    described = schemathesis.openapi.from_dict(api.openapi())
    described.app = api
    checks = [not_a_server_error, response_schema_conformance, status_code_conformance, content_type_conformance]

    def hold(case: Any) -> None:
        answer = case.call(headers={"Authorization": f"Bearer {program.token}"})
        case.validate_response(answer, checks=checks)

    operations = []
    for found in described.get_all_operations():
        assert isinstance(found, Ok), found
        operations.append(found.ok())
    assert len(operations) >= 9
    quick = hypothesis.settings(
        max_examples=25,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    for operation in operations:
        quick(hypothesis.given(operation.as_strategy())(hold))()
