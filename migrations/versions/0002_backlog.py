"""What lay in a root before Preread first looked there is backlog: read after live films, outside the unread list."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what an earlier version took in is not backlog."""
    op.add_column("file", sa.Column("backlog", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.drop_index("ix_file_state_alone_id", table_name="file")
    op.create_index("ix_file_state_alone_backlog_id", "file", ["state", "alone", "backlog", "id"], unique=False)
