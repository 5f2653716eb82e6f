"""When what lay in a root before its first start was taken in: once, even where a folder in it can never be listed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; a root that was scanned before has no backlog to take in."""
    op.add_column("root", sa.Column("counted_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE root SET counted_at = last_scan_started_at")


def downgrade() -> None:
    """Take back what was added."""
    op.drop_column("root", "counted_at")
