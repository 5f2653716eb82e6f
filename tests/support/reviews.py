"""Reviews that a test signs, several at the same moment if need be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from preread.core.errors import PrereadError
from preread.core.types import Verdict
from preread.db import schema
from preread.review import reviews
from preread.review.auth.accounts import Account
from preread.review.reviews import ReviewDraft, ShownResult
from tests.support.page import Films


def shown(films: Films, film: int) -> ShownResult:
    with films.engine.connect() as connection:
        return reviews.shown_result(connection.execute(schema.file.select().where(schema.file.c.id == film)).one())


def sign(films: Films, who: Account, film: int, verdict: Verdict = Verdict.ACCEPTED, **more: Any) -> int:
    token = str(more.pop("form_token", None) or f"{who.name}-{film}-{verdict}-{more.get('supersedes_id')}")
    return reviews.sign_review(films.engine, who, ReviewDraft(film, shown(films, film), verdict, token, **more))


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Run these at the same moment, each in a thread of its own; what each returned, or was refused with."""
    together = threading.Barrier(len(actions), timeout=60)

    def run(action: Callable[[], Any]) -> Any:
        together.wait()
        try:
            return action()
        except PrereadError as error:
            return error

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))
