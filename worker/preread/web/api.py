"""JSON API under ``/api/v1`` for programs with tokens.

Patient data are sent in bodies, never in a URL. Every failure has one form: ``{"error": {code, message, hint}}``. The
description is ``/api/v1/openapi.json``.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as AnyHTTPException

from preread.core.errors import DatabaseAway, PrereadError
from preread.core.types import Answer, JSONObject, Outcome
from preread.db.engine import write
from preread.imaging import previews
from preread.review import agreement, audit, disclosures, history, related_images, results, reviews, worklist
from preread.review.audit import Action
from preread.review.auth.accounts import Account
from preread.review.export import review_to_json
from preread.review.history import detail_to_json
from preread.review.results import ResultFilter, format_utc, result_to_json
from preread.review.worklist import Order, WorklistFilter
from preread.web.context import Site, site_of
from preread.web.limits.admission import visitor_of

_MESSAGES = {
    400: ("bad_request", "The request cannot be read."),
    401: ("not_signed_in", "A token is needed: Authorization: Bearer TOKEN."),
    404: ("not_found", "There is no such object."),
    405: ("method_not_allowed", "This URL does not accept this method."),
    408: ("too_slow", "The body was not received in time."),
    413: ("too_large", "The body is too large."),
    422: ("unprocessable", "A field is invalid."),
    500: ("internal", "Unexpected internal error."),
    503: ("database_away", "The database does not answer."),
}
Identifier = Annotated[str, Field(max_length=256, pattern=r"^[^\x00]*$")]
ResultId = Annotated[int, Path(ge=1, lt=2**63)]
RowNumber = Annotated[int, Field(ge=0, lt=2**63)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Failure(BaseModel):
    """An error. ``fields`` names invalid fields; values are never repeated."""

    code: str
    message: str
    hint: str
    fields: list[str] = []


class FailureAnswer(BaseModel):
    """Body of every failed request."""

    error: Failure


class Position(_Body):
    """End of a page; send it as ``before`` for the next page."""

    committed_at: AwareDatetime
    id: RowNumber


class ResultSearch(_Body):
    """Conditions on results; all that are given must hold."""

    since: AwareDatetime | None = None
    answer: Answer | None = None
    outcome: Outcome | None = None
    code: Identifier | None = None
    patient_id: Identifier | None = None
    issuer_of_patient_id: Identifier | None = None
    accession_number: Identifier | None = None
    study_instance_uid: Identifier | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100
    before: Position | None = None


class WorklistSearch(_Body):
    """Conditions on images of the work list.

    ``search``: a Patient ID, an Accession Number or the beginning of a name.
    """

    order: Order = Order.ARRIVAL
    unread: bool = True
    outcome: Outcome | None = None
    answer: Answer | None = None
    device: Identifier | None = None
    taken_from: date | None = None
    taken_to: date | None = None
    search: Identifier = ""
    limit: Annotated[int, Field(ge=1, le=200)] = worklist.PAGE
    after: tuple[Annotated[int, Field(ge=0, le=1)], RowNumber] | None = None


class ReadingSearch(_Body):
    """Reviews by rising id, after ``after``."""

    after: RowNumber = 0
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class Results(BaseModel):
    """One page of results, the last committed first.

    The records are those of ``preread results --json``.
    """

    results: list[dict[str, Any]]
    next: Position | None


class WorklistAnswer(BaseModel):
    """One page of the work list: images grouped by study.

    ``cut``: more images match the search than its pages hold.
    """

    at: datetime
    cut: bool
    studies: list[list[dict[str, Any]]]
    next: tuple[int, int] | None


class Readings(BaseModel):
    """Signed reviews; a reader is an account id."""

    readings: list[dict[str, Any]]


class Problem(BaseModel):
    """One problem, as ``preread status`` prints it."""

    level: Literal["warning", "critical"]
    code: str
    what: str


class Status(BaseModel):
    """Health of the installation; do not rely on results while it is critical."""

    at: datetime
    status: Literal["ok", "warning", "critical"]
    scanned_at: datetime | None
    waiting: int
    missed: int
    problems: list[Problem]


class Agreements(BaseModel):
    """Current reviews, counted by bundle, device and month."""

    groups: list[dict[str, Any]]


def create_api(here: Site) -> FastAPI:
    """Return the API as an application to mount."""
    failures: dict[int | str, dict[str, Any]] = {
        status: {"model": FailureAnswer, "description": text} for status, (_, text) in _MESSAGES.items()
    }
    api = FastAPI(
        title="Preread",
        version="1",
        description="AI results for chest radiographs. No medical device; not_flagged excludes no disease.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": "/api/v1"}],
        responses=failures,
        dependencies=[Depends(_program)],
    )
    api.state.site = here
    api.include_router(_router)
    for kind, handler in (
        (AnyHTTPException, _refused),
        (RequestValidationError, _not_meant),
        (PrereadError, _failed),
        (Exception, _unforeseen),
    ):
        api.add_exception_handler(kind, handler)
    return api


def _program(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
) -> Account:
    """Return the account of the token; HTTP 401 without a valid one.

    ``given`` is declared for the description only.
    """
    account = visitor_of(request).program
    if account is None:
        raise HTTPException(401, headers={"www-authenticate": "Bearer"})
    return account


Program = Annotated[Account, Depends(_program)]


def _note(here: Site, who: Account, action: Action, of_what: str) -> None:
    write(here.engine, lambda connection, _: audit.append_entry(connection, who.actor, action, of_what))


_router = APIRouter()


@_router.get("/openapi.json")
def description(request: Request) -> dict[str, Any]:
    """Return the description of this API."""
    api: FastAPI = request.app
    return api.openapi()


@_router.get("/status")
def status(request: Request) -> Status:
    """Return the health of the installation."""
    report = site_of(request).health()
    record = report.to_json()
    return Status.model_validate({**record, "scanned_at": report.scanned_at, "waiting": report.waiting})


# The short addresses are there so that a GET of them is answered with what to do, and not as unknown.
@_router.post("/results", include_in_schema=False)
@_router.post("/results/search")
def search_results(request: Request, who: Program, search: ResultSearch) -> Results:
    """Search results."""
    site = site_of(request)
    _note(site, who, Action.SEARCH, "results")
    values = search.model_dump(exclude={"before"})
    before = None if search.before is None else (search.before.committed_at, search.before.id)
    rows = results.query_results(site.engine, ResultFilter(**values, before=before))
    disclosures.record_list_view(site.engine, who.actor, rows)
    last = rows[-1] if len(rows) == search.limit else None
    next_position = None if last is None else Position(committed_at=last.committed_at, id=last.result_id)
    return Results(results=[result_to_json(row) for row in rows], next=next_position)


@_router.get("/results/{result_id}")
def result(request: Request, who: Program, result_id: ResultId) -> dict[str, Any]:
    """Return one result in full, as ``preread results show --json`` prints it."""
    here = site_of(request)
    detail = history.load_result(here.engine, result_id)
    if detail is None:
        raise HTTPException(404)
    _note(here, who, Action.VIEW, f"film:{result_id}")
    return detail_to_json(detail)


@_router.get("/results/{result_id}/readings")
def result_readings(request: Request, who: Program, result_id: ResultId) -> Readings:
    """Return the reviews of one image, the first signed first."""
    here = site_of(request)
    _note(here, who, Action.VIEW, f"film:{result_id}")
    signed = reviews.list_reviews(here.engine, [result_id])[result_id]
    return Readings(readings=[review_to_json(review) for review in signed])


@_router.get("/results/{result_id}/preview", response_class=Response, responses={200: {"content": {"image/png": {}}}})
def result_preview(request: Request, who: Program, result_id: ResultId) -> Response:
    """Return the preview of one image; it is not for diagnosis."""
    here = site_of(request)
    content = previews.load_preview(here.options.preview_dir, related_images.content_digest(here.engine, result_id))
    if content is None:
        raise HTTPException(404)
    _note(here, who, Action.VIEW, f"film:{result_id}")
    return Response(content, media_type="image/png")


@_router.post("/worklist", include_in_schema=False)
@_router.post("/worklist/search")
def search_worklist(request: Request, who: Program, search: WorklistSearch) -> WorklistAnswer:
    """Search the work list."""
    here = site_of(request)
    _note(here, who, Action.SEARCH, "worklist")
    page = worklist.list_worklist_page(here.engine, WorklistFilter(**search.model_dump()))
    disclosures.record_list_view(here.engine, who.actor, (film.result for study in page.studies for film in study))
    studies = [[_film(film) for film in study] for study in page.studies]
    return WorklistAnswer(at=page.at, cut=page.cut, studies=studies, next=page.next)


@_router.post("/readings", include_in_schema=False)
@_router.post("/readings/search")
def search_readings(request: Request, who: Program, search: ReadingSearch) -> Readings:
    """Return all reviews, page by page."""
    here = site_of(request)
    _note(here, who, Action.EXPORT, f"readings:{search.after}")
    page = reviews.list_review_page(here.engine, search.after, search.limit)
    return Readings(readings=[review_to_json(review) for review in page])


@_router.get("/statistics")
def statistics(request: Request) -> Agreements:
    """Return the agreement of reviewers and bundles."""
    return Agreements(
        groups=[agreement.agreement_to_json(group) for group in agreement.count_agreement(site_of(request).engine)]
    )


def _film(film: worklist.WorklistImage) -> JSONObject:
    return {
        **result_to_json(film.result),
        "read_at": None if film.read_at is None else format_utc(film.read_at),
        "read_before": film.read_before,
        "changed_at": None if film.changed_at is None else format_utc(film.changed_at),
        "waited_s": film.waited_s,
        "behind": film.behind,
    }


# ---------------------------------------------------------------------- failures


def _answer(status: int, headers: dict[str, str] | None = None, **more: Any) -> Response:
    code, message = _MESSAGES.get(status, _MESSAGES[400])
    error = {"code": code, "message": message, "hint": "", "fields": []} | more
    return JSONResponse({"error": error}, status, headers=headers)


def refusal(status: int, headers: dict[str, str]) -> Response:
    """Return the response to a refused request."""
    if status == 401:
        headers = {**headers, "www-authenticate": "Bearer"}
    busy = {"code": "busy", "message": "Too many requests at once: send it again."} if status == 503 else {}
    return _answer(status, headers, **busy)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405 and "POST" in headers.get("Allow", headers.get("allow", "")):
        return _answer(405, headers, hint="Send POST with a JSON body that says which ones: {} for the newest.")
    return _answer(error.status_code, headers)


async def _not_meant(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = [".".join(str(part) for part in fault["loc"] if part != "body") for fault in error.errors()]
    return _answer(422, fields=sorted(set(fields)))


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, PrereadError)
    away = isinstance(error, DatabaseAway)
    status = 503 if away else 500
    headers = {"retry-after": "10"} if away else None
    return _answer(status, headers, code=error.code, message=_MESSAGES[status][1], hint=error.hint)


async def _unforeseen(request: Request, error: Exception) -> Response:
    return _answer(500)
