"""How often a worker had to begin anew to watch its folders, and since when it can keep no previews."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns, empty for the workers that ran before."""
    op.add_column("worker", sa.Column("watcher_restarts", sa.Integer(), nullable=True))
    op.add_column("worker", sa.Column("watcher_restarted_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("worker", sa.Column("previews_dropped_since", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Take back what was added."""
    for column in ("watcher_restarts", "watcher_restarted_at", "previews_dropped_since"):
        op.drop_column("worker", column)
