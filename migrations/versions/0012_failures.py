"""What a file did to its inference process last, so that sources that fail often are read after others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns, empty for files that failed before, and the index that leads to those which failed."""
    op.add_column("file", sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("file", sa.Column("failed_code", sa.String(length=64), nullable=True))
    op.add_column("file", sa.Column("failed_sha256", sa.String(length=64), nullable=True))
    where = sa.text("failed_at IS NOT NULL")
    op.create_index("ix_file_failed", "file", ["failed_at"], sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Take back what was added."""
    op.drop_index("ix_file_failed", "file")
    for column in ("failed_at", "failed_code", "failed_sha256"):
        op.drop_column("file", column)
