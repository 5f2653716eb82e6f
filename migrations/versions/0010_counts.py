"""What blocks of readings add up to, and what was set aside by reason: no page need look at each row for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table, empty: whoever asks for statistics fills it; and the index."""
    op.create_table(
        "tally",
        sa.Column("block", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("counted", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("block", name=op.f("pk_tally")),
    )
    op.create_index(
        "ix_file_aside",
        "file",
        ["state", "newest", "code", "root_id"],
        unique=False,
        sqlite_where=sa.text("state = 'quarantined'"),
        postgresql_where=sa.text("state = 'quarantined'"),
    )


def downgrade() -> None:
    """Take back what was added."""
    op.drop_index("ix_file_aside", table_name="file")
    op.drop_table("tally")
