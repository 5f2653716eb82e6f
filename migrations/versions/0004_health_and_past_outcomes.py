"""What a worker says of itself and its shares, and the outcomes that later ones replaced."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add columns, which no stored row needs filled, and one table."""
    op.add_column("worker", sa.Column("scan_interval_s", sa.Double(), nullable=True))
    op.add_column("worker", sa.Column("slots", sa.Integer(), nullable=True))
    op.add_column("worker", sa.Column("slots_alive", sa.Integer(), nullable=True))
    op.add_column("root", sa.Column("worker_id", sa.String(length=128), nullable=True))
    op.add_column("root", sa.Column("looked_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("root", sa.Column("last_scan_s", sa.Double(), nullable=True))
    op.add_column("root", sa.Column("fault_code", sa.String(length=64), nullable=True))
    op.add_column("root", sa.Column("fault", sa.Text(), nullable=True))
    op.add_column("root", sa.Column("fault_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("file", sa.Column("ctime_ns", sa.BigInteger(), nullable=True))
    op.create_index(op.f("ix_file_inode"), "file", ["inode"], unique=False)
    op.create_table(
        "past_outcome",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("file_id", ROW_ID, nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("population", sa.String(length=32), nullable=True),
        sa.Column("gate_caveats", sa.Text(), nullable=False),
        sa.Column("instance_id", ROW_ID, nullable=True),
        sa.Column("assessment_id", ROW_ID, nullable=True),
        sa.Column("bundle_id", ROW_ID, nullable=True),
        sa.Column("committed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("replaced_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('assessed', 'refused', 'unreadable')", name=op.f("ck_past_outcome_outcome_known")
        ),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_past_outcome_file_id_file")),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_past_outcome_instance_id_instance")),
        sa.ForeignKeyConstraint(
            ["assessment_id"], ["assessment.id"], name=op.f("fk_past_outcome_assessment_id_assessment")
        ),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundle.id"], name=op.f("fk_past_outcome_bundle_id_bundle")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_past_outcome")),
    )
    op.create_index(op.f("ix_past_outcome_file_id"), "past_outcome", ["file_id"], unique=False)
