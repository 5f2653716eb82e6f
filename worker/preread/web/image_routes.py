"""The requests about one film: look, reveal, sign, and its picture."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import FormData

from preread.core.errors import DatabaseAway, FindingUnknown, NotAllowed, ReadingOutdated, UsageError
from preread.imaging import previews
from preread.review import related_images, reviews
from preread.review.worklist import Order
from preread.web import context, image_view, security
from preread.web.auth_routes import sign_in_form
from preread.web.security import Form, Reader, text_of

router = APIRouter()
FilmId = Annotated[int, Path(ge=1, lt=2**63)]


@router.get("/films/{film_id}", response_class=HTMLResponse)
def show(
    request: Request, session: Reader, film_id: FilmId, order: str = "", correct: int = 0, signed: str = ""
) -> Response:
    """Show one film."""
    message = "film.signed" if signed else None
    here = context.of(request)
    return image_view.show(here, session, film_id, order=_order(order), correct=correct, message=message)


@router.post("/films/{film_id}/reveal", response_class=HTMLResponse)
def reveal(request: Request, session: Reader, film_id: FilmId, form: Form) -> Response:
    """Show the answer to a reader who reads before seeing it; what was typed stays."""
    security.refuse_foreign_form(session, form)
    typed = image_view.typed_of(form)
    order = _order(text_of(form, "order"))
    return image_view.show(context.of(request), session, film_id, typed=typed, order=order, reveal=True)


@router.post("/films/{film_id}/readings", response_class=HTMLResponse)
def sign(request: Request, film_id: FilmId, form: Form) -> Response:
    """Sign a reading. Whatever stands in the way, what was typed is shown again."""
    here = context.of(request)
    form = _about(form, film_id)
    try:
        session = security.current(request)
        if session is None:
            return sign_in_form(request, to=f"/films/{film_id}", status=401, message="sign_in.ended", draft=form)
        security.refuse_foreign_form(session, form)
        try:
            reviews.sign(here.engine, session.account, image_view.draft_of(film_id, form))
        except ReadingOutdated:
            # with a token of its own: what is signed next is another reading than what this form may have signed
            form = FormData([(name, value) for name, value in form.multi_items() if name != "form_token"])
            return image_view.again(here, session, form, message="film.outdated", status=409)
        except NotAllowed:
            raise HTTPException(403) from None
        except FindingUnknown:
            return image_view.again(here, session, form, message="film.unknown_finding", status=422)
        except UsageError:
            message = "film.too_long" if _too_long(form) else "film.incomplete"
            return image_view.again(here, session, form, message=message, status=422)
    except DatabaseAway:
        page = here.render("away_form.html", session=None, health=None, film_id=film_id, carried=_everything(form))
        return HTMLResponse(page, 503, headers={"retry-after": "10"})
    order = _order(text_of(form, "order"))
    if text_of(form, "then") == "next":
        return RedirectResponse(f"/worklist/next?order={order or Order.ARRIVAL}", 303)
    return RedirectResponse(f"/films/{film_id}?order={order}&signed=1", 303)


@router.get("/films/{film_id}/preview.png")
def preview(request: Request, session: Reader, film_id: FilmId) -> Response:
    """Give the picture that the slot kept."""
    here = context.of(request)
    sha256 = related_images.content_of(here.engine, film_id)
    content = previews.load(here.options.preview_dir, sha256)
    if content is None:
        raise HTTPException(404)
    return Response(content, media_type="image/png", headers={"cache-control": "private, no-store"})


def _order(text: str) -> str:
    return text if text in set(Order) else ""


def _too_long(form: FormData) -> bool:
    return len(text_of(form, "comment")) > reviews.MAX_COMMENT_CHARS


def _about(form: FormData, film_id: int) -> FormData:
    """The form says which film it is about, wherever it is shown again."""
    return FormData([*((n, v) for n, v in form.multi_items() if n != "draft_film"), ("draft_film", str(film_id))])


def _everything(form: FormData) -> list[tuple[str, str]]:
    return [*image_view.carried(form), ("csrf", text_of(form, "csrf")), ("then", text_of(form, "then"))]
