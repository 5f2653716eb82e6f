"""Routes of one image: view, reveal, sign, preview."""

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
from preread.web.security import Form, Reader, form_text

router = APIRouter()
FilmId = Annotated[int, Path(ge=1, lt=2**63)]


@router.get("/films/{film_id}", response_class=HTMLResponse)
def show(
    request: Request, session: Reader, film_id: FilmId, order: str = "", correct: int = 0, signed: str = ""
) -> Response:
    """Return the page of one image."""
    message = "film.signed" if signed else None
    here = context.site_of(request)
    page = image_view.PageRequest(order=_order(order), correct=correct, message=message)
    return image_view.show(here, session, film_id, page)


@router.post("/films/{film_id}/reveal", response_class=HTMLResponse)
def reveal(request: Request, session: Reader, film_id: FilmId, form: Form) -> Response:
    """Show the answer to a reviewer who signs before seeing it."""
    security.refuse_foreign_form(session, form)
    typed = image_view.form_values(form)
    order = _order(form_text(form, "order"))
    page = image_view.PageRequest(typed=typed, order=order, reveal=True)
    return image_view.show(context.site_of(request), session, film_id, page)


@router.post("/films/{film_id}/readings", response_class=HTMLResponse)
def sign(request: Request, film_id: FilmId, form: Form) -> Response:
    """Sign a review; on failure show the form again as it was filled in."""
    here = context.site_of(request)
    form = _about(form, film_id)
    try:
        session = security.current_session(request)
        if session is None:
            return sign_in_form(request, to=f"/films/{film_id}", status=401, message="sign_in.ended", draft=form)
        security.refuse_foreign_form(session, form)
        try:
            reviews.sign_review(here.engine, session.account, image_view.parse_draft(film_id, form))
        except ReadingOutdated:
            # with a new token: the next signature is another review than the one this form may have signed
            form = FormData([(name, value) for name, value in form.multi_items() if name != "form_token"])
            return image_view.show_again(here, session, form, message="film.outdated", status=409)
        except NotAllowed:
            raise HTTPException(403) from None
        except FindingUnknown:
            return image_view.show_again(here, session, form, message="film.unknown_finding", status=422)
        except UsageError:
            message = "film.too_long" if _too_long(form) else "film.incomplete"
            return image_view.show_again(here, session, form, message=message, status=422)
    except DatabaseAway:
        page = here.render("away_form.html", session=None, health=None, film_id=film_id, carried=_everything(form))
        return HTMLResponse(page, 503, headers={"retry-after": "10"})
    order = _order(form_text(form, "order"))
    if form_text(form, "then") == "next":
        return RedirectResponse(f"/worklist/next?order={order or Order.ARRIVAL}", 303)
    return RedirectResponse(f"/films/{film_id}?order={order}&signed=1", 303)


@router.get("/films/{film_id}/preview.png")
def preview(request: Request, session: Reader, film_id: FilmId) -> Response:
    """Return the preview as PNG."""
    here = context.site_of(request)
    sha256 = related_images.content_digest(here.engine, film_id)
    content = previews.load_preview(here.options.preview_dir, sha256)
    if content is None:
        raise HTTPException(404)
    return Response(content, media_type="image/png", headers={"cache-control": "private, no-store"})


def _order(text: str) -> str:
    return text if text in set(Order) else ""


def _too_long(form: FormData) -> bool:
    return len(form_text(form, "comment")) > reviews.MAX_COMMENT_CHARS


def _about(form: FormData, film_id: int) -> FormData:
    """Return the form with the id of its image."""
    return FormData([*((n, v) for n, v in form.multi_items() if n != "draft_film"), ("draft_film", str(film_id))])


def _everything(form: FormData) -> list[tuple[str, str]]:
    return [*image_view.hidden_fields(form), ("csrf", form_text(form, "csrf")), ("then", form_text(form, "then"))]
