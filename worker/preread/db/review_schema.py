"""Tables of accounts, sessions, viewings, reviews and the audit trail.

``account`` ─< ``session``; ``account`` ─< ``viewing`` >─ ``file``; ``account`` ─< ``reading`` >─ ``file``; ``reading``
─< ``reading_finding``; ``listing`` >─ ``file``. Readings, viewings, listings and the audit trail are append-only:
triggers of the migrations refuse every change and deletion, whoever tries it.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    TypedColumns,
    UniqueConstraint,
)

from preread.core.types import Outcome, Presence, Role, Verdict
from preread.db.schema import RowId, UtcDateTime, metadata


def _one_of(name: str, values: type[StrEnum]) -> CheckConstraint:
    words = ", ".join(f"'{value.value}'" for value in values)
    return CheckConstraint(f"{name} IN ({words})", name=f"{name}_known")


class AccountColumns(TypedColumns):
    """Table ``account``: a person, or (role ``service``) a program.

    ``name`` is lower case. A person has a ``password_hash`` (argon2id), a program a ``token_hash`` (SHA-256 of 32
    random bytes), which is valid until ``token_expires_at``. ``failures`` and ``not_before`` are what counted failed
    sign-ins before ``brake`` did.
    """

    id = Column(RowId, primary_key=True)
    name = Column(String(64), nullable=False)
    full_name = Column(Text, nullable=False)
    role = Column(String(16), nullable=False)
    password_hash = Column(Text, nullable=True)
    token_hash = Column(String(64), nullable=True)
    created_at = Column(UtcDateTime, nullable=False)
    disabled_at = Column(UtcDateTime, nullable=True)
    failures = Column(Integer, nullable=False)
    not_before = Column(UtcDateTime, nullable=True)
    read_before_reveal = Column(Boolean, nullable=False)
    token_expires_at = Column(UtcDateTime, nullable=True)


account = Table(
    "account", metadata, AccountColumns, UniqueConstraint("name"), UniqueConstraint("token_hash"), _one_of("role", Role)
)


class SessionColumns(TypedColumns):
    """Table ``session``: signed-in browsers.

    ``token_hash``: SHA-256 of its cookie. ``search``: what it looks for, kept out of URLs. ``address``: from where it
    signed in.
    """

    id = Column(RowId, primary_key=True)
    token_hash = Column(String(64), nullable=False)
    account_id = Column(RowId, ForeignKey("account.id"), nullable=False, index=True)
    csrf = Column(String(64), nullable=False)
    created_at = Column(UtcDateTime, nullable=False)
    seen_at = Column(UtcDateTime, nullable=False)
    search = Column(Text, nullable=True)
    address = Column(String(64), nullable=True)


session = Table("session", metadata, SessionColumns, UniqueConstraint("token_hash"))


class DeviceColumns(TypedColumns):
    """Table ``device``: browsers with which an account signed in.

    ``token_hash``: SHA-256 of the browser's token.
    """

    id = Column(RowId, primary_key=True)
    account_id = Column(RowId, ForeignKey("account.id"), nullable=False)
    token_hash = Column(String(64), nullable=False)
    seen_at = Column(UtcDateTime, nullable=False)


device = Table(
    "device", metadata, DeviceColumns, UniqueConstraint("account_id", "token_hash"), Index(None, "token_hash")
)


class BrakeColumns(TypedColumns):
    """Table ``brake``: counts of failed sign-ins; see ``rate_limits``.

    ``key``: SHA-256 of what is counted, such as a name and an address.

    ``since``: when the window began. ``not_before``: no try before. ``at``: of the last one.
    """

    key = Column(String(64), primary_key=True)
    failures = Column(Integer, nullable=False)
    since = Column(UtcDateTime, nullable=False)
    not_before = Column(UtcDateTime, nullable=True)
    at = Column(UtcDateTime, nullable=False, index=True)


brake = Table("brake", metadata, BrakeColumns)


class ViewingColumns(TypedColumns):
    """Table ``viewing``: opened images, and the result shown to whom."""

    id = Column(RowId, primary_key=True)
    account_id = Column(RowId, ForeignKey("account.id"), nullable=False)
    file_id = Column(RowId, ForeignKey("file.id"), nullable=False)
    at = Column(UtcDateTime, nullable=False)
    outcome = Column(String(16), nullable=False)
    code = Column(String(64), nullable=True)
    assessment_id = Column(RowId, ForeignKey("assessment.id"), nullable=True)
    answer_visible = Column(Boolean, nullable=False)


viewing = Table(
    "viewing",
    metadata,
    ViewingColumns,
    Index(None, "account_id", "file_id", "id"),
    Index(None, "file_id"),
    _one_of("outcome", Outcome),
)


class ListingColumns(TypedColumns):
    """Table ``listing``: first time a list showed a result to an account.

    ``actor``: as in the audit trail. ``committed_at``: of that result, in ``file`` or in ``past_outcome``.
    """

    file_id = Column(RowId, ForeignKey("file.id"), primary_key=True, autoincrement=False)
    actor = Column(String(64), primary_key=True)
    committed_at = Column(UtcDateTime, primary_key=True)
    at = Column(UtcDateTime, nullable=False)


listing = Table("listing", metadata, ListingColumns, sqlite_with_rowid=False)


class ReadingColumns(TypedColumns):
    """Table ``reading``: signed reviews of images.

    A correction is a successor that names what it ``supersedes``.

    ``outcome``, ``code``, ``assessment_id``, ``bundle_id``, ``instance_id``: what the film's result was then.
    ``waited_s``: from the film's arrival to the reading. ``overtook``: unread films that had arrived before it, counted
    up to a limit (first readings only). ``form_token``: of the form that was sent, so that sending it twice signs once.
    """

    id = Column(RowId, primary_key=True)
    file_id = Column(RowId, ForeignKey("file.id"), nullable=False, index=True)
    account_id = Column(RowId, ForeignKey("account.id"), nullable=False, index=True)
    outcome = Column(String(16), nullable=False)
    code = Column(String(64), nullable=True)
    assessment_id = Column(RowId, ForeignKey("assessment.id"), nullable=True)
    bundle_id = Column(RowId, ForeignKey("bundle.id"), nullable=True)
    instance_id = Column(RowId, ForeignKey("instance.id"), nullable=True)
    verdict = Column(String(16), nullable=False)
    comment = Column(Text, nullable=False)
    answer_visible = Column(Boolean, nullable=False)
    signed_at = Column(UtcDateTime, nullable=False)
    waited_s = Column(Double, nullable=False)
    overtook = Column(Integer, nullable=True)
    supersedes_id = Column(RowId, ForeignKey("reading.id"), nullable=True)
    form_token = Column(String(64), nullable=False)


reading = Table(
    "reading",
    metadata,
    ReadingColumns,
    UniqueConstraint("supersedes_id"),
    UniqueConstraint("form_token"),
    _one_of("verdict", Verdict),
    _one_of("outcome", Outcome),
)


class ReadingFindingColumns(TypedColumns):
    """Table ``reading_finding``: findings as stated by a review."""

    reading_id = Column(RowId, ForeignKey("reading.id"), primary_key=True)
    finding = Column(String(64), primary_key=True)
    presence = Column(String(16), nullable=False)


reading_finding = Table("reading_finding", metadata, ReadingFindingColumns, _one_of("presence", Presence))


class TallyColumns(TypedColumns):
    """Table ``tally``: sums of the reviews of one ``block`` of numbers.

    A cache of ``agreement``, which may be deleted.
    """

    block = Column(RowId, primary_key=True, autoincrement=False)
    counted = Column(Text, nullable=False)


tally = Table("tally", metadata, TallyColumns)
READINGS_A_BLOCK = 10_000
TALLY_LOCK = "tally"


class AuditColumns(TypedColumns):
    """Table ``audit``: entries of the audit trail, chained by hashes.

    ``hash`` covers this row and ``previous_hash``. Ids only, no name of a patient or a file.

    ``key_id``: of the key that ``hash`` was made with; ``None``: without one. ``content``: a keyed digest of the row
    that it is about, as it was then.
    """

    id = Column(RowId, primary_key=True, autoincrement=False)
    at = Column(UtcDateTime, nullable=False)
    actor = Column(String(64), nullable=False)
    action = Column(String(32), nullable=False)
    object = Column(String(64), nullable=False)
    previous_hash = Column(String(64), nullable=False)
    hash = Column(String(64), nullable=False)
    key_id = Column(String(16), nullable=True)
    content = Column(String(64), nullable=True)


audit = Table("audit", metadata, AuditColumns)


class SecretColumns(TypedColumns):
    """Table ``secret``: secrets of this database."""

    name = Column(String(32), primary_key=True)
    value = Column(String(64), nullable=False)


secret = Table("secret", metadata, SecretColumns)
