"""Which bundle is in use, what a shadow says, withdrawn bundles, and what was forgotten."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
AT = sa.DateTime(timezone=True)
# What may be deleted while its film is being forgotten.
_OWN = "EXISTS (SELECT 1 FROM forgetting WHERE file_id = OLD.file_id)"
_OF_READING = (
    "EXISTS (SELECT 1 FROM forgetting JOIN reading ON reading.file_id = forgetting.file_id "
    "WHERE reading.id = OLD.reading_id)"
)
FORGOTTEN = {"reading": _OWN, "viewing": _OWN, "reading_finding": _OF_READING}


def upgrade() -> None:
    """Add the tables and columns; let a purge, and nothing else, delete what is signed."""
    op.add_column("bundle", sa.Column("withdrawn_at", AT, nullable=True))
    op.add_column("bundle", sa.Column("withdrawn_reason", sa.Text(), nullable=True))
    op.create_table(
        "activation",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("part", sa.String(length=16), nullable=False),
        sa.Column("bundle_id", ROW_ID, nullable=True),
        sa.Column("at", AT, nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.CheckConstraint("part IN ('active', 'shadow')", name=op.f("ck_activation_part_known")),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundle.id"], name=op.f("fk_activation_bundle_id_bundle")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_activation")),
    )
    op.create_table(
        "shadow",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("instance_id", ROW_ID, nullable=False),
        sa.Column("bundle_id", ROW_ID, nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("at", AT, nullable=False),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundle.id"], name=op.f("fk_shadow_bundle_id_bundle")),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_shadow_instance_id_instance")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shadow")),
        sa.UniqueConstraint("instance_id", "bundle_id", name=op.f("uq_shadow_instance_id_bundle_id")),
    )
    op.create_index(op.f("ix_shadow_bundle_id"), "shadow", ["bundle_id"], unique=False)
    op.create_table(
        "shadow_finding",
        sa.Column("shadow_id", ROW_ID, nullable=False),
        sa.Column("finding", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("logit", sa.Double(), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("prevalence", sa.Double(), nullable=False),
        sa.Column("answer", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["shadow_id"], ["shadow.id"], name=op.f("fk_shadow_finding_shadow_id_shadow")),
        sa.PrimaryKeyConstraint("shadow_id", "finding", name=op.f("pk_shadow_finding")),
    )
    op.create_table(
        "tombstone",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("at", AT, nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_tombstone")),
    )
    op.create_table(
        "forgetting",
        sa.Column("file_id", ROW_ID, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("file_id", name=op.f("pk_forgetting")),
    )
    if op.get_bind().dialect.name == "sqlite":
        for table, forgotten in FORGOTTEN.items():
            op.execute(f"DROP TRIGGER {table}_keeps_delete")
            op.execute(
                f"CREATE TRIGGER {table}_keeps_delete BEFORE DELETE ON {table} "
                f"WHEN NOT {forgotten} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    for table, forgotten in FORGOTTEN.items():
        op.execute(
            f"CREATE FUNCTION preread_{table}_keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF {forgotten} THEN RETURN OLD; END IF; "
            "RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
        )
        op.execute(f"DROP TRIGGER {table}_keeps ON {table}")
        op.execute(
            f"CREATE TRIGGER {table}_keeps BEFORE UPDATE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION preread_append_only()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_keeps_delete BEFORE DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION preread_{table}_keeps()"
        )


def downgrade() -> None:
    """Take back what was added; what is signed cannot be deleted by anybody again."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    for table in FORGOTTEN:
        if sqlite:
            op.execute(f"DROP TRIGGER {table}_keeps_delete")
            op.execute(
                f"CREATE TRIGGER {table}_keeps_delete BEFORE DELETE ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
            continue
        op.execute(f"DROP TRIGGER {table}_keeps_delete ON {table}")
        op.execute(f"DROP FUNCTION preread_{table}_keeps()")
        op.execute(f"DROP TRIGGER {table}_keeps ON {table}")
        op.execute(
            f"CREATE TRIGGER {table}_keeps BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION preread_append_only()"
        )
    for table in ("shadow_finding", "shadow", "activation", "tombstone", "forgetting"):
        op.drop_table(table)
    for column in ("withdrawn_at", "withdrawn_reason"):
        op.drop_column("bundle", column)
