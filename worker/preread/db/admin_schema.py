"""Tables of bundles in use, shadow results, purged contents and alarms.

``activation`` >─ ``bundle``; ``shadow`` >─ ``instance`` and ``bundle``, ─< ``shadow_finding``. A shadow's answers lie
apart from ``assessment``, so that no page, list or export can show one by mistake.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import (
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Integer,
    String,
    Table,
    Text,
    TypedColumns,
    UniqueConstraint,
)

from preread.db.schema import RowId, UtcDateTime, metadata


class Part(StrEnum):
    """Part that a bundle was selected for: active or shadow."""

    ACTIVE = "active"
    SHADOW = "shadow"


class ActivationColumns(TypedColumns):
    """Table ``activation``: selections of bundles; the last of a part holds.

    ``bundle_id`` ``None``: the default bundle, or no shadow.
    """

    id = Column(RowId, primary_key=True)
    part = Column(String(16), nullable=False)
    bundle_id = Column(RowId, ForeignKey("bundle.id"), nullable=True)
    at = Column(UtcDateTime, nullable=False)
    actor = Column(String(64), nullable=False)


activation = Table(
    "activation", metadata, ActivationColumns, CheckConstraint("part IN ('active', 'shadow')", name="part_known")
)


class ShadowColumns(TypedColumns):
    """Table ``shadow``: outcomes of a shadow bundle by content.

    ``outcome``: assessed, refused or unreadable; ``code``: the reason.
    """

    id = Column(RowId, primary_key=True)
    instance_id = Column(RowId, ForeignKey("instance.id"), nullable=False)
    bundle_id = Column(RowId, ForeignKey("bundle.id"), nullable=False, index=True)
    outcome = Column(String(16), nullable=False)
    code = Column(String(64), nullable=True)
    at = Column(UtcDateTime, nullable=False)


shadow = Table("shadow", metadata, ShadowColumns, UniqueConstraint("instance_id", "bundle_id"))


class ShadowFindingColumns(TypedColumns):
    """Table ``shadow_finding``: findings of shadow outcomes."""

    shadow_id = Column(RowId, ForeignKey("shadow.id"), primary_key=True)
    finding = Column(String(64), primary_key=True)
    position = Column(Integer, nullable=False)
    logit = Column(Double, nullable=False)
    probability = Column(Double, nullable=False)
    prevalence = Column(Double, nullable=False)
    answer = Column(String(16), nullable=False)


shadow_finding = Table("shadow_finding", metadata, ShadowFindingColumns)


class TombstoneColumns(TypedColumns):
    """Table ``tombstone``: keyed hashes of purged contents."""

    digest = Column(String(64), primary_key=True)
    at = Column(UtcDateTime, nullable=False)


tombstone = Table("tombstone", metadata, TombstoneColumns)


class ForgettingColumns(TypedColumns):
    """Table ``forgetting``: files whose reviews a purge may delete.

    Empty outside of a transaction.
    """

    file_id = Column(RowId, primary_key=True, autoincrement=False)


forgetting = Table("forgetting", metadata, ForgettingColumns)


class AlarmColumns(TypedColumns):
    """Table ``alarm``: last alarm of each channel (``mail``, ``webhook``).

    ``codes``: of the problems, separated by blanks.
    """

    channel = Column(String(16), primary_key=True)
    codes = Column(Text, nullable=False)
    told_at = Column(UtcDateTime, nullable=False)


alarm = Table("alarm", metadata, AlarmColumns)
