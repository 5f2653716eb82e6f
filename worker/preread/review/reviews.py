"""What readers sign about films: append-only, about exactly the result that they saw, corrected by a successor.

A reading is no radiology report. It says of Preread's result what IHE's AI Result Assessment knows (accepted, rejected,
supplemented), of each finding whether it is there, and whether the answer could be seen before it was signed.
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
from preread.review import audit, audit_proof, related_images
from preread.review.audit import Action
from preread.review.auth.accounts import Account
from preread.review.results import findings_of

MAX_COMMENT_CHARS = 10_000
_OVERTAKEN_AT_MOST = 1_000
_VIEWINGS_AT_MOST = 10_000
_file, _reading, _viewing = schema.file.c, reading.c, viewing.c


@dataclass(frozen=True, slots=True)
class Shown:
    """Which result of a film stood on the page."""

    outcome: Outcome
    code: str | None
    assessment_id: int | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A reading that is to be signed.

    Attributes:
        shown: the result it is about.
        form_token: random; a second one with the same token is the same reading, sent twice.
        findings: what the reader says of findings by name; what is left out was not stated.
        supersedes_id: the reader's own reading that this one corrects.
    """

    file_id: int
    shown: Shown
    verdict: Verdict
    form_token: str
    findings: Mapping[str, Presence] = field(default_factory=dict)
    comment: str = ""
    supersedes_id: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """A signed reading.

    Attributes:
        answers: what the bundle had said of each finding when it was signed.
        bundle: ``name/version`` of it.
        withdrawn: why that bundle was withdrawn since; ``None`` while it is not.
        device: what the film came from; see ``lookups.device_label``.
        superseded: its reader corrected it.
    """

    reading_id: int
    file_id: int
    account_id: int
    reader: str
    shown: Shown
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
        """What the reader says of each finding: as stated, else as accepting or rejecting a definite answer implies."""
        of_answers = {name: implied(self.verdict, answer) for name, answer in self.answers.items()}
        return {name: said for name, said in of_answers.items() if said is not None} | self.findings


def implied(verdict: Verdict, answer: Answer) -> Presence | None:
    """Return what accepting or rejecting an answer says of its finding; ``None`` unless the answer was definite."""
    return {
        (Verdict.ACCEPTED, Answer.FLAGGED): Presence.PRESENT,
        (Verdict.ACCEPTED, Answer.NOT_FLAGGED): Presence.ABSENT,
        (Verdict.REJECTED, Answer.FLAGGED): Presence.ABSENT,
        (Verdict.REJECTED, Answer.NOT_FLAGGED): Presence.PRESENT,
    }.get((verdict, answer))


def sign(engine: Engine, who: Account, draft: Draft) -> int:
    """Sign a reading and return its id; of each reader one reading of a film stands, the last one of the row.

    Raises:
        FindingUnknown: it names a finding that neither the film's bundle nor its result knows.
        NotAllowed: the account is no reader's, or the reading to correct is another's.
        ReadingOutdated: the film's result is no longer the one shown, the reader has signed the film and this names no
            reading to correct, or that one was corrected before.
        UsageError: there is no such film or reading, or the comment is too long.
    """
    if who.role is not Role.READER or who.disabled_at is not None:
        raise NotAllowed("only a reader signs films")
    comment = clean_comment(draft.comment)

    return write(engine, lambda connection, _again: _sign(connection, who, draft, comment))


def clean_comment(comment: str) -> str:
    """Return a comment safe to store, its lines kept. ``UsageError``: it is too long."""
    if len(comment) > MAX_COMMENT_CHARS:
        raise UsageError(f"the comment has {len(comment)} characters; {MAX_COMMENT_CHARS} fit")
    return "\n".join(escape(line) for line in comment.strip().splitlines())


def _sign(connection: Connection, who: Account, draft: Draft, comment: str) -> int:
    statement = select(schema.file).where(_file.id == draft.file_id, _file.committed_at.is_not(None))
    film = connection.execute(statement.with_for_update()).one_or_none()
    if film is None:
        raise UsageError(f"there is no film {draft.file_id}")
    # looked for under the lock: a form that was sent twice at once is one reading
    known = connection.execute(select(reading).where(_reading.form_token == draft.form_token)).one_or_none()
    if known is not None:
        return _same(connection, known, who, draft, comment)
    if film.state == FileState.SUPERSEDED or shown_of(film) != draft.shown:
        raise ReadingOutdated
    related_images.refuse_unknown(connection, film, draft.findings)
    columns = (_reading.id, _reading.account_id, _reading.supersedes_id)
    before = connection.execute(select(*columns).where(_reading.file_id == film.id).order_by(_reading.id)).all()
    _refuse_second(before, who, draft)
    now = database_now(connection)
    seen = exists().where(
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
        "answer_visible": connection.execute(select(seen)).scalar_one(),
        "signed_at": now,
        "waited_s": max(0.0, (now - film.first_seen_at).total_seconds()),
        "overtook": None if before else _overtaken(connection, film.id),
        "supersedes_id": draft.supersedes_id,
        "form_token": draft.form_token,
    }
    reading_id: int = connection.execute(insert(reading).returning(_reading.id), values).scalar_one()
    if draft.findings:
        rows = [{"reading_id": reading_id, "finding": name, "presence": of} for name, of in draft.findings.items()]
        connection.execute(insert(reading_finding), rows)
    if film.read_at is None:
        connection.execute(update(schema.file).where(_file.id == film.id).values(read_at=now))
    audit.append(
        connection, who.actor, Action.READING, f"film:{film.id}", audit_proof.of_reading(connection, reading_id)
    )
    return reading_id


def _same(connection: Connection, known: Row[Any], who: Account, draft: Draft, comment: str) -> int:
    """Return the reading that this form signed before; what was written into it since is not lost unsaid."""
    c = reading_finding.c
    rows = connection.execute(select(c.finding, c.presence).where(c.reading_id == known.id))
    findings = {row.finding: Presence(row.presence) for row in rows}
    said = (who.account_id, draft.file_id, draft.verdict, comment, draft.supersedes_id, dict(draft.findings))
    if said != (known.account_id, known.file_id, known.verdict, known.comment, known.supersedes_id, findings):
        raise ReadingOutdated("this form was signed before, and says something else now: correct the reading")
    known_id: int = known.id
    return known_id


def _refuse_second(before: Sequence[Row[*tuple[Any, ...]]], who: Account, draft: Draft) -> None:
    """Refuse a draft that leaves its reader with two readings of the film, or corrects what is not there to correct."""
    replaced = {one.supersedes_id for one in before}
    standing = [one.id for one in before if one.account_id == who.account_id and one.id not in replaced]
    if draft.supersedes_id is None:
        if standing:
            raise ReadingOutdated(f"{who.name} has signed film {draft.file_id} before: correct reading {standing[-1]}")
        return
    named = [one for one in before if one.id == draft.supersedes_id]
    if not named:
        raise UsageError(f"film {draft.file_id} has no reading {draft.supersedes_id}")
    if named[0].account_id != who.account_id:
        raise NotAllowed("a reading is corrected by its own reader; others add their own")
    if draft.supersedes_id not in standing:
        raise ReadingOutdated("this reading was corrected before: correct the newer one")


def _overtaken(connection: Connection, file_id: int) -> int:
    """Count the unread films of the list that had arrived before this one, up to a limit."""
    earlier = select(_file.id).where(*unread(), _file.id < file_id).limit(_OVERTAKEN_AT_MOST).subquery()
    return connection.execute(select(func.count()).select_from(earlier)).scalar_one()


def unread(columns: Any = _file) -> tuple[Any, ...]:
    """Return the conditions on ``file`` (or an alias's columns) that make a film stand on the list of what to read."""
    return (
        columns.read_at.is_(None),
        columns.committed_at.is_not(None),
        ~columns.backlog,
        ~columns.research,
        columns.state != FileState.SUPERSEDED,
    )


# ---------------------------------------------------------------------- viewings


def shown_of(film: Row[Any]) -> Shown:
    """Return which result a row of ``file`` or ``viewing`` or ``reading`` speaks of."""
    return Shown(Outcome(film.outcome), film.code, film.assessment_id)


def note_viewing(engine: Engine, who: Account, file_id: int, shown: Shown, *, answer_visible: bool) -> None:
    """Note that a person opened a film.

    Args:
        answer_visible: the answer stood on the page (or there was none to hide).
    """

    def body(connection: Connection, _again: bool) -> None:
        mine = select(viewing).where(_viewing.account_id == who.account_id, _viewing.file_id == file_id)
        before = connection.execute(mine.order_by(_viewing.id.desc()).limit(1)).one_or_none()
        row = {
            "account_id": who.account_id,
            "file_id": file_id,
            "at": database_now(connection),
            "outcome": shown.outcome,
            "code": shown.code,
            "assessment_id": shown.assessment_id,
            "answer_visible": answer_visible,
        }
        viewing_id = connection.execute(insert(viewing).returning(_viewing.id), row).scalar_one()
        action = Action.REVEAL if answer_visible and before is not None and not before.answer_visible else Action.VIEW
        audit.append(connection, who.actor, action, f"film:{file_id}", audit_proof.of_viewing(connection, viewing_id))

    write(engine, body)


def looked_before(engine: Engine, who: Account, file_id: int, shown: Shown) -> datetime | None:
    """Return when this person last looked at a film while it had another result than ``shown``.

    ``None`` also when the person has signed the film with this result.
    """
    other = select(func.max(_viewing.at)).where(
        _viewing.account_id == who.account_id, _viewing.file_id == file_id, ~_is(_viewing, shown)
    )
    return read(engine, lambda connection: connection.execute(other.where(~_signed(who, file_id, shown))).scalar())


def _signed(who: Account, file_id: int, shown: Shown) -> ColumnElement[bool]:
    return exists().where(_reading.account_id == who.account_id, _reading.file_id == file_id, _is(_reading, shown))


def _is(columns: Any, shown: Shown) -> ColumnElement[bool]:
    return and_(
        columns.outcome == shown.outcome,
        columns.code.is_not_distinct_from(shown.code),
        columns.assessment_id.is_not_distinct_from(shown.assessment_id),
    )


def viewers(engine: Engine, file_id: int) -> list[tuple[str, datetime]]:
    """Return who looked at a film and when, the first first."""
    statement = (
        select(account.c.full_name, _viewing.at)
        .join(account, account.c.id == _viewing.account_id)
        .where(_viewing.file_id == file_id)
        .order_by(_viewing.id)
        .limit(_VIEWINGS_AT_MOST)
    )
    return [(row.full_name, row.at) for row in read(engine, lambda connection: connection.execute(statement).all())]


def may_see_answer(engine: Engine, who: Account, file_id: int, shown: Shown) -> bool:
    """Tell whether this reader has seen this result's answer, or has signed it, and so may see it again."""
    seen = exists().where(
        _viewing.account_id == who.account_id,
        _viewing.file_id == file_id,
        _viewing.assessment_id.is_not_distinct_from(shown.assessment_id),
        _viewing.answer_visible,
    )
    asked = select(seen | _signed(who, file_id, shown))
    return bool(read(engine, lambda connection: connection.execute(asked).scalar_one()))


def read_before() -> ColumnElement[bool]:
    """Return whether a row of ``file`` was signed, and is to be read again since its result has changed."""
    return and_(_file.read_at.is_(None), exists().where(_reading.file_id == _file.id))


# ---------------------------------------------------------------------- looking up


def of_films(engine: Engine, file_ids: Sequence[int]) -> dict[int, list[Reading]]:
    """Return the readings of these films by film, the first signed first."""
    found: dict[int, list[Reading]] = {file_id: [] for file_id in file_ids}
    for one in _typed(engine, schema.among(engine, _reading.file_id, file_ids)) if file_ids else ():
        found[one.file_id].append(one)
    return found


def page(engine: Engine, after: int, limit: int) -> list[Reading]:
    """Return readings by rising id, those after ``after``."""
    return _typed(engine, _reading.id > after, limit=limit)


def films_after(engine: Engine, file_id: int, limit: int) -> list[int]:
    """Return the films that have readings by rising id, those after ``file_id``."""
    statement = select(_reading.file_id).where(_reading.file_id > file_id).distinct().order_by(_reading.file_id)
    return list(read(engine, lambda connection: connection.execute(statement.limit(limit)).scalars().all()))


def _typed(engine: Engine, condition: ColumnElement[bool], limit: int | None = None) -> list[Reading]:
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

    def body(connection: Connection) -> list[Reading]:
        rows = connection.execute(statement).all()
        if not rows:
            return []
        said: dict[int, dict[str, Presence]] = {}
        c = reading_finding.c
        of_these = schema.among(connection, c.reading_id, [row.id for row in rows])
        for one in connection.execute(select(reading_finding).where(of_these)).all():
            said.setdefault(one.reading_id, {})[one.finding] = Presence(one.presence)
        answers = findings_of(connection, sorted({row.assessment_id for row in rows if row.assessment_id is not None}))
        return [
            Reading(
                reading_id=row.id,
                file_id=row.file_id,
                account_id=row.account_id,
                reader=row.full_name,
                shown=shown_of(row),
                verdict=Verdict(row.verdict),
                findings=said.get(row.id, {}),
                answers={one.finding: one.answer for one in answers.get(row.assessment_id, ())},
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
