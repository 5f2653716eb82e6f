"""Keyed entries of the audit trail that cover what they are about, and seals on results."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, empty for what is there; ``preread db upgrade`` then vouches for it."""
    op.add_column("audit", sa.Column("key_id", sa.String(length=16), nullable=True))
    op.add_column("audit", sa.Column("content", sa.String(length=64), nullable=True))
    for table in ("file", "assessment"):
        op.add_column(table, sa.Column("seal", sa.String(length=64), nullable=True))


def downgrade() -> None:
    """Take the columns back; keyed entries stay, and cannot be verified without their key's identifier."""
    for table in ("file", "assessment"):
        op.drop_column(table, "seal")
    for column in ("content", "key_id"):
        op.drop_column("audit", column)
