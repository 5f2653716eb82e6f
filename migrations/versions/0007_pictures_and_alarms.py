"""What each assessed picture was like, to see films change over time; and what an alarm has already told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns, empty in what was assessed before, and a table."""
    for name in ("mean", "contrast", "sharpness", "border"):
        op.add_column("assessment", sa.Column(f"picture_{name}", sa.Double(), nullable=True))
    op.create_table(
        "alarm",
        sa.Column("channel", sa.String(16), nullable=False),
        sa.Column("codes", sa.Text(), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("channel", name="pk_alarm"),
    )


def downgrade() -> None:
    """Take both away."""
    op.drop_table("alarm")
    for name in ("mean", "contrast", "sharpness", "border"):
        op.drop_column("assessment", f"picture_{name}")
