"""What of the confinement of its inference processes a worker's machine does not have."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column, empty for the workers that ran before."""
    op.add_column("worker", sa.Column("slots_lack", sa.Text(), nullable=True))


def downgrade() -> None:
    """Take back what was added."""
    op.drop_column("worker", "slots_lack")
