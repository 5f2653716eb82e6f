"""The tables of what is done to a running installation: which bundle is in use, what a shadow says, what was forgotten.

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
    """What a bundle is chosen for."""

    ACTIVE = "active"
    SHADOW = "shadow"


class ActivationColumns(TypedColumns):
    """One choice of a bundle; the last of each part holds. ``bundle_id`` ``None``: the default one, or no shadow."""

    id = Column(RowId, primary_key=True)
    part = Column(String(16), nullable=False)
    bundle_id = Column(RowId, ForeignKey("bundle.id"), nullable=True)
    at = Column(UtcDateTime, nullable=False)
    actor = Column(String(64), nullable=False)


activation = Table(
    "activation", metadata, ActivationColumns, CheckConstraint("part IN ('active', 'shadow')", name="part_known")
)


class ShadowColumns(TypedColumns):
    """What a shadow bundle says of one instance. ``outcome``: assessed, refused or unreadable; ``code`` says why."""

    id = Column(RowId, primary_key=True)
    instance_id = Column(RowId, ForeignKey("instance.id"), nullable=False)
    bundle_id = Column(RowId, ForeignKey("bundle.id"), nullable=False, index=True)
    outcome = Column(String(16), nullable=False)
    code = Column(String(64), nullable=True)
    at = Column(UtcDateTime, nullable=False)


shadow = Table("shadow", metadata, ShadowColumns, UniqueConstraint("instance_id", "bundle_id"))


class ShadowFindingColumns(TypedColumns):
    """One finding of a shadow."""

    shadow_id = Column(RowId, ForeignKey("shadow.id"), primary_key=True)
    finding = Column(String(64), primary_key=True)
    position = Column(Integer, nullable=False)
    logit = Column(Double, nullable=False)
    probability = Column(Double, nullable=False)
    prevalence = Column(Double, nullable=False)
    answer = Column(String(16), nullable=False)


shadow_finding = Table("shadow_finding", metadata, ShadowFindingColumns)


class TombstoneColumns(TypedColumns):
    """A content that was forgotten: the keyed hash of its SHA-256, from which nothing can be read."""

    digest = Column(String(64), primary_key=True)
    at = Column(UtcDateTime, nullable=False)


tombstone = Table("tombstone", metadata, TombstoneColumns)


class ForgettingColumns(TypedColumns):
    """Films whose signed readings and viewings the running transaction may delete; empty outside of one."""

    file_id = Column(RowId, primary_key=True, autoincrement=False)


forgetting = Table("forgetting", metadata, ForgettingColumns)


class AlarmColumns(TypedColumns):
    """What one channel (``mail``, ``webhook``) was told last: the ``codes`` of what was wrong, with blanks between."""

    channel = Column(String(16), primary_key=True)
    codes = Column(Text, nullable=False)
    told_at = Column(UtcDateTime, nullable=False)


alarm = Table("alarm", metadata, AlarmColumns)
