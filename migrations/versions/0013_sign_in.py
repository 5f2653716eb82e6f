"""Brakes on sign-ins, known browsers, where sessions come from, and until when tokens are valid."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
AT = sa.DateTime(timezone=True)
# Tokens that were made without an end have this long to be renewed.
_GRACE_DAYS = 90


def upgrade() -> None:
    """Add the columns and tables, and give the tokens that are there an end."""
    op.add_column("account", sa.Column("token_expires_at", AT, nullable=True))
    op.add_column("session", sa.Column("address", sa.String(length=64), nullable=True))
    op.create_table(
        "device",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("account_id", ROW_ID, nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("seen_at", AT, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_device_account_id_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device")),
        sa.UniqueConstraint("account_id", "token_hash", name=op.f("uq_device_account_id_token_hash")),
    )
    op.create_index(op.f("ix_device_token_hash"), "device", ["token_hash"])
    op.create_table(
        "brake",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("since", AT, nullable=False),
        sa.Column("not_before", AT, nullable=True),
        sa.Column("at", AT, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_brake")),
    )
    op.create_index(op.f("ix_brake_at"), "brake", ["at"])
    account = sa.table("account", sa.column("token_hash"), sa.column("token_expires_at", AT))
    ends = datetime.now(UTC) + timedelta(days=_GRACE_DAYS)
    if op.get_bind().dialect.name == "sqlite":
        ends = ends.replace(tzinfo=None)
    op.execute(account.update().where(account.c.token_hash.is_not(None)).values(token_expires_at=ends))


def downgrade() -> None:
    """Take back what was added; tokens are valid without an end again."""
    op.drop_table("brake")
    op.drop_table("device")
    op.drop_column("session", "address")
    op.drop_column("account", "token_expires_at")
