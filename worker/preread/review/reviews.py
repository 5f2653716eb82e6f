"""Signed reviews: append-only, about one result, corrected by a successor.

A review is no radiology report. It states a verdict on the result (accepted, rejected, supplemented, as in IHE AI
Result Assessment), the presence of each finding, and whether the answer was visible before it was signed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, and_, exists, func, insert, select, update

from preread.core.errors import NotAllowed, ReadingOutdated, UsageError
from preread.core.text.escaping import escape
from preread.core.types import Answer, FileState, Outcome, Presence, Role, Verdict
from preread.db import schema
from preread.db.engine import database_now, read, write
from preread.db.review_schema import account, reading, reading_finding, viewing
from preread.ledger.transaction import Transaction, transaction
from preread.review import audit, audit_proof, related_images
from preread.review.audit import Action
from preread.review.auth.accounts import Account
from preread.review.results import load_findings

MAX_COMMENT_CHARS = 10_000
_OVERTAKEN_AT_MOST = 1_000
_VIEWINGS_AT_MOST = 10_000
_file, _reading, _viewing = schema.file.c, reading.c, viewing.c


@dataclass(frozen=True, slots=True)
class ShownResult:
    """Result of an image that a page showed, by its outcome."""

    outcome: Outcome
    code: str | None
    assessment_id: int | None


@dataclass(frozen=True, slots=True)
class ReviewDraft:
    """A review to be signed.

    Attributes:
        file_id: the image.
        shown: result it is about.
        verdict: verdict on the result.
        form_token: random; a second draft with the same token is the same review, sent twice.
        findings: presence by finding name; missing findings were not stated.
        comment: free text of at most ``MAX_COMMENT_CHARS`` characters.
        supersedes_id: own review that this one corrects, or ``None``.
    """

    file_id: int
    shown: ShownResult
    verdict: Verdict
    form_token: str
    findings: Mapping[str, Presence] = field(default_factory=dict)
    comment: str = ""
    supersedes_id: int | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """A signed review.

    Attributes:
        reader: full name of the reviewer.
        findings: presence by finding name, as stated.
        answers: answer of the bundle by finding name at the time of signing.
        waited_s: seconds from arrival of the image to the signature.
        overtook: number of unread images that had arrived earlier; ``None`` unless it is the image's first review.
        superseded: it was corrected.
        bundle: ``name/version``, or ``None``.
        withdrawn: reason for the withdrawal of the bundle, or ``None``.
        device: device label, see ``core.text.search_keys``.
        sha256: hash of the file reviewed, or ``None``.
    """

    reading_id: int
    file_id: int
    account_id: int
    reader: str
    shown: ShownResult
    verdict: Verdict
    findings: dict[str, Presence]
    answers: dict[str, Answer]
    comment: str
    answer_visible: bool
    signed_at: datetime
    waited_s: float
    overtook: int | None
    supersedes_id: int | None
    superseded: bool
    bundle: str | None
    withdrawn: str | None
    device: str | None
    sha256: str | None

    def presences(self) -> dict[str, Presence]:
        """Return the presence of each finding, stated or implied by the verdict."""
        implied_ = {name: implied_presence(self.verdict, answer) for name, answer in self.answers.items()}
        return {name: presence for name, presence in implied_.items() if presence is not None} | self.findings


def implied_presence(verdict: Verdict, answer: Answer) -> Presence | None:
    """Return a finding's presence that a reviewer's verdict implies.

    Returns:
        ``None`` if the answer is uncertain or the verdict supplements it.
    """
    return {
        (Verdict.ACCEPTED, Answer.FLAGGED): Presence.PRESENT,
        (Verdict.ACCEPTED, Answer.NOT_FLAGGED): Presence.ABSENT,
        (Verdict.REJECTED, Answer.FLAGGED): Presence.ABSENT,
        (Verdict.REJECTED, Answer.NOT_FLAGGED): Presence.PRESENT,
    }.get((verdict, answer))


def sign_review(engine: Engine, who: Account, draft: ReviewDraft) -> int:
    """Sign a review of an image's result, and return the review's id.

    Each reviewer has one current review of an image: the last one of a chain of corrections.

    Args:
        engine: database.
        who: the reviewer.
        draft: the review.

    Raises:
        FindingUnknown: it names a finding that neither the image's bundle nor its result has.
        NotAllowed: the account is no reviewer, or the review to correct is another account's.
        ReadingOutdated: the image has another result by now, the reviewer has a current review that this one does not
            correct, or the review to correct was corrected before.
        UsageError: there is no such image or review, or the comment is too long.
    """
    if who.role is not Role.READER or who.disabled_at is not None:
        raise NotAllowed("this account may not sign reviews: it needs the role reader")
    comment = clean_comment(draft.comment)

    return write(engine, lambda connection, _is_retry: _sign(connection, who, draft, comment))


def clean_comment(comment: str) -> str:
    """Return a review's comment with unsafe characters escaped.

    Raises:
        UsageError: it has more than ``MAX_COMMENT_CHARS`` characters.
    """
    if len(comment) > MAX_COMMENT_CHARS:
        raise UsageError(f"the comment has {len(comment)} characters: at most {MAX_COMMENT_CHARS} are allowed")
    return "\n".join(escape(line) for line in comment.strip().splitlines())


def _sign(connection: Connection, who: Account, draft: ReviewDraft, comment: str) -> int:
    """Insert a review in this transaction and return its id."""
    statement = select(schema.file).where(_file.id == draft.file_id, _file.committed_at.is_not(None))
    film = connection.execute(statement.with_for_update()).one_or_none()
    if film is None:
        raise UsageError(f"there is no result for image {draft.file_id}")
    # searched under the lock: a form that was sent twice at once is one review
    known = connection.execute(select(reading).where(_reading.form_token == draft.form_token)).one_or_none()
    if known is not None:
        return _same(connection, known, who, draft, comment)
    if film.state == FileState.SUPERSEDED or shown_result(film) != draft.shown:
        raise ReadingOutdated
    related_images.refuse_unknown_findings(connection, film, draft.findings)
    columns = (_reading.id, _reading.account_id, _reading.supersedes_id)
    before = connection.execute(select(*columns).where(_reading.file_id == film.id).order_by(_reading.id)).all()
    _refuse_second(before, who, draft)
    now = database_now(connection)
    was_visible = exists().where(
        _viewing.account_id == who.account_id,
        _viewing.file_id == draft.file_id,
        _viewing.assessment_id.is_not_distinct_from(film.assessment_id),
        _viewing.answer_visible,
    )
    values: dict[str, Any] = {
        "file_id": film.id,
        "account_id": who.account_id,
        "outcome": film.outcome,
        "code": film.code,
        "assessment_id": film.assessment_id,
        "bundle_id": film.bundle_id,
        "instance_id": film.instance_id,
        "verdict": draft.verdict,
        "comment": comment,
        "answer_visible": connection.execute(select(was_visible)).scalar_one(),
        "signed_at": now,
        "waited_s": max(0.0, (now - film.first_seen_at).total_seconds()),
        "overtook": None if before else _overtaken(connection, film.id),
        "supersedes_id": draft.supersedes_id,
        "form_token": draft.form_token,
    }
    reading_id: int = connection.execute(insert(reading).returning(_reading.id), values).scalar_one()
    if draft.findings:
        rows = [
            {"reading_id": reading_id, "finding": name, "presence": presence}
            for name, presence in draft.findings.items()
        ]
        connection.execute(insert(reading_finding), rows)
    if film.read_at is None:
        connection.execute(update(schema.file).where(_file.id == film.id).values(read_at=now))
    audit.append_entry(
        connection, who.actor, Action.READING, f"film:{film.id}", audit_proof.review_content(connection, reading_id)
    )
    return reading_id


def _same(connection: Connection, known: Row[Any], who: Account, draft: ReviewDraft, comment: str) -> int:
    """Return the id of the review that this form signed before.

    Raises:
        ReadingOutdated: its content has changed since.
    """
    c = reading_finding.c
    rows = connection.execute(select(c.finding, c.presence).where(c.reading_id == known.id))
    findings = {row.finding: Presence(row.presence) for row in rows}
    content = (who.account_id, draft.file_id, draft.verdict, comment, draft.supersedes_id, dict(draft.findings))
    if content != (known.account_id, known.file_id, known.verdict, known.comment, known.supersedes_id, findings):
        raise ReadingOutdated("this form was already signed with other content: correct that review instead")
    known_id: int = known.id
    return known_id


def _refuse_second(before: Sequence[Row[*tuple[Any, ...]]], who: Account, draft: ReviewDraft) -> None:
    """Raise an error if the draft would be a second current review.

    The same if it corrects a review that cannot be corrected.
    """
    replaced = {review.supersedes_id for review in before}
    current = [review.id for review in before if review.account_id == who.account_id and review.id not in replaced]
    if draft.supersedes_id is None:
        if current:
            raise ReadingOutdated(
                f"{who.name} has already signed review {current[-1]} of image "
                f"{draft.file_id}: correct it (`--corrects`)"
            )
        return
    corrected = [review for review in before if review.id == draft.supersedes_id]
    if not corrected:
        raise UsageError(f"image {draft.file_id} has no review {draft.supersedes_id}")
    if corrected[0].account_id != who.account_id:
        raise NotAllowed("a review can only be corrected by its own reviewer")
    if draft.supersedes_id not in current:
        raise ReadingOutdated(f"review {draft.supersedes_id} was corrected already: correct the newer review")


def _overtaken(connection: Connection, file_id: int) -> int:
    """Count unread images that had arrived before, up to a limit."""
    earlier = select(_file.id).where(*unread_conditions(), _file.id < file_id).limit(_OVERTAKEN_AT_MOST).subquery()
    return connection.execute(select(func.count()).select_from(earlier)).scalar_one()


def unread_conditions(columns: Any = _file) -> tuple[Any, ...]:
    """Return the SQL conditions of images without a review.

    Args:
        columns: columns of ``file`` or of an alias.
    """
    return (
        columns.read_at.is_(None),
        columns.committed_at.is_not(None),
        ~columns.backlog,
        ~columns.research,
        columns.state != FileState.SUPERSEDED,
    )


# ---------------------------------------------------------------------- viewings


def shown_result(film: Row[Any]) -> ShownResult:
    """Return the result that a row of ``file`` or ``viewing`` names."""
    return ShownResult(Outcome(film.outcome), film.code, film.assessment_id)


@transaction
def record_viewing(tx: Transaction, who: Account, file_id: int, shown: ShownResult, *, answer_visible: bool) -> None:
    """Record in the database that an account opened an image's page.

    Args:
        tx: database, or transaction to take part in.
        who: the account.
        file_id: the image.
        shown: result on the page.
        answer_visible: the answer was shown, or there was none.
    """
    own = select(viewing).where(_viewing.account_id == who.account_id, _viewing.file_id == file_id)
    before = tx.connection.execute(own.order_by(_viewing.id.desc()).limit(1)).one_or_none()
    row = {
        "account_id": who.account_id,
        "file_id": file_id,
        "at": tx.now,
        "outcome": shown.outcome,
        "code": shown.code,
        "assessment_id": shown.assessment_id,
        "answer_visible": answer_visible,
    }
    viewing_id = tx.connection.execute(insert(viewing).returning(_viewing.id), row).scalar_one()
    action = Action.REVEAL if answer_visible and before is not None and not before.answer_visible else Action.VIEW
    audit.append_entry(
        tx.connection, who.actor, action, f"film:{file_id}", audit_proof.viewing_content(tx.connection, viewing_id)
    )


def last_viewing_of_other_result(engine: Engine, who: Account, file_id: int, shown: ShownResult) -> datetime | None:
    """Return when an account last viewed another result of an image.

    Returns:
        ``None`` if it did not, or if it has signed the current result.
    """
    query = select(func.max(_viewing.at)).where(
        _viewing.account_id == who.account_id, _viewing.file_id == file_id, ~_is(_viewing, shown)
    )
    return read(engine, lambda connection: connection.execute(query.where(~_signed(who, file_id, shown))).scalar())


def _signed(who: Account, file_id: int, shown: ShownResult) -> ColumnElement[bool]:
    return exists().where(_reading.account_id == who.account_id, _reading.file_id == file_id, _is(_reading, shown))


def _is(columns: Any, shown: ShownResult) -> ColumnElement[bool]:
    return and_(
        columns.outcome == shown.outcome,
        columns.code.is_not_distinct_from(shown.code),
        columns.assessment_id.is_not_distinct_from(shown.assessment_id),
    )


def list_viewings(engine: Engine, file_id: int) -> list[tuple[str, datetime]]:
    """Return the accounts that viewed an image and when, by time."""
    statement = (
        select(account.c.full_name, _viewing.at)
        .join(account, account.c.id == _viewing.account_id)
        .where(_viewing.file_id == file_id)
        .order_by(_viewing.id)
        .limit(_VIEWINGS_AT_MOST)
    )
    return [(row.full_name, row.at) for row in read(engine, lambda connection: connection.execute(statement).all())]


def may_see_answer(engine: Engine, who: Account, file_id: int, shown: ShownResult) -> bool:
    """Return whether a reviewer has seen or signed an image's result before."""
    was_visible = exists().where(
        _viewing.account_id == who.account_id,
        _viewing.file_id == file_id,
        _viewing.assessment_id.is_not_distinct_from(shown.assessment_id),
        _viewing.answer_visible,
    )
    query = select(was_visible | _signed(who, file_id, shown))
    return bool(read(engine, lambda connection: connection.execute(query).scalar_one()))


def review_outdated_condition() -> ColumnElement[bool]:
    """Return the SQL condition of images whose result changed after review."""
    return and_(_file.read_at.is_(None), exists().where(_reading.file_id == _file.id))


# ---------------------------------------------------------------------- looking up


def list_reviews(engine: Engine, file_ids: Sequence[int]) -> dict[int, list[Review]]:
    """Return all reviews of images, by image and in order of signature."""
    by_image: dict[int, list[Review]] = {file_id: [] for file_id in file_ids}
    for review in _typed(engine, schema.column_in(engine, _reading.file_id, file_ids)) if file_ids else ():
        by_image[review.file_id].append(review)
    return by_image


def list_review_page(engine: Engine, after: int, limit: int) -> list[Review]:
    """Return a page of reviews with ids above ``after``, ascending."""
    return _typed(engine, _reading.id > after, limit=limit)


def list_reviewed_images(engine: Engine, file_id: int, limit: int) -> list[int]:
    """Return a page of ids of reviewed images above ``file_id``."""
    statement = select(_reading.file_id).where(_reading.file_id > file_id).distinct().order_by(_reading.file_id)
    return list(read(engine, lambda connection: connection.execute(statement.limit(limit)).scalars().all()))


def _typed(engine: Engine, condition: ColumnElement[bool], limit: int | None = None) -> list[Review]:
    successor = reading.alias()
    b = schema.bundle.c
    statement = (
        select(
            reading,
            account.c.full_name,
            exists().where(successor.c.supersedes_id == _reading.id).label("replaced"),
            b.name.label("bundle_name"),
            b.version.label("bundle_version"),
            b.withdrawn_reason,
            _file.device,
            schema.instance.c.sha256,
        )
        .join(account, account.c.id == _reading.account_id)
        .join(schema.file, _file.id == _reading.file_id)
        .outerjoin(schema.bundle, b.id == _reading.bundle_id)
        .outerjoin(schema.instance, schema.instance.c.id == _reading.instance_id)
        .where(condition)
        .order_by(_reading.id)
        .limit(limit)
    )

    def body(connection: Connection) -> list[Review]:
        rows = connection.execute(statement).all()
        if not rows:
            return []
        findings_by_review: dict[int, dict[str, Presence]] = {}
        c = reading_finding.c
        of_these = schema.column_in(connection, c.reading_id, [row.id for row in rows])
        for row_ in connection.execute(select(reading_finding).where(of_these)).all():
            findings_by_review.setdefault(row_.reading_id, {})[row_.finding] = Presence(row_.presence)
        assessed = sorted({row.assessment_id for row in rows if row.assessment_id is not None})
        answers = load_findings(connection, assessed)
        return [
            Review(
                reading_id=row.id,
                file_id=row.file_id,
                account_id=row.account_id,
                reader=row.full_name,
                shown=shown_result(row),
                verdict=Verdict(row.verdict),
                findings=findings_by_review.get(row.id, {}),
                answers={row_.finding: row_.answer for row_ in answers.get(row.assessment_id, ())},
                comment=row.comment,
                answer_visible=row.answer_visible,
                signed_at=row.signed_at,
                waited_s=row.waited_s,
                overtook=row.overtook,
                supersedes_id=row.supersedes_id,
                superseded=row.replaced,
                bundle=None if row.bundle_name is None else f"{row.bundle_name}/{row.bundle_version}",
                withdrawn=row.withdrawn_reason,
                device=row.device,
                sha256=row.sha256,
            )
            for row in rows
        ]

    return read(engine, body)
