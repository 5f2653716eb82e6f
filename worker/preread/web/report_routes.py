"""Routes of the statistics and of the audit trail."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response

from preread.core.types import Answer, Presence, Verdict
from preread.review import agreement, audit
from preread.web import context
from preread.web.security import Admin, Person

router = APIRouter()
_AUDIT_PAGE = 100


@router.get("/statistics", response_class=HTMLResponse)
def statistics(request: Request, session: Person) -> Response:
    """Return the agreement of reviewers and bundles."""
    here = context.site_of(request)
    groups = agreement.count_agreement(here.engine)
    return here.page(
        "statistics.html",
        session,
        groups=groups,
        total=agreement.sum_agreements(groups, ("bundle",)),
        Answer=Answer,
        Presence=Presence,
        Verdict=Verdict,
    )


@router.get("/audit", response_class=HTMLResponse)
def audit_trail(
    request: Request, session: Admin, before: Annotated[int | None, Query(ge=1, lt=2**63)] = None
) -> Response:
    """Return a page of the audit trail, the last entry first."""
    here = context.site_of(request)
    entries = audit.latest_audit_entries(here.engine, _AUDIT_PAGE, before)
    return here.page("audit.html", session, entries=entries, more=len(entries) == _AUDIT_PAGE)
