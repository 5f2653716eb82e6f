"""What blocks of readings add up to, so that statistics need not look at each of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table, empty: whoever asks for statistics fills it."""
    op.create_table(
        "tally",
        sa.Column("block", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("counted", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("block", name=op.f("pk_tally")),
    )


def downgrade() -> None:
    """Take back what was added."""
    op.drop_table("tally")
