"""Patient and study of an image as its file states them, and the date by which images are sorted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table and the column, empty for what was read before.

    The trigger is for a worker or page of the version before, which goes on with this schema during an upgrade: its
    purge does not know the table.
    """
    op.create_table(
        "study_header",
        sa.Column("file_id", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("header", sa.Text(), nullable=False),
        sa.Column("left_out", sa.Text(), nullable=False),
        sa.Column("seal", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_study_header_file_id_file")),
        sa.PrimaryKeyConstraint("file_id", name=op.f("pk_study_header")),
    )
    op.add_column("file", sa.Column("acquired_from", sa.String(length=16), nullable=True))
    purged = "NEW.code = 'forgotten' AND NEW.state = 'ignored'"
    delete = "DELETE FROM study_header WHERE file_id = NEW.id"
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"CREATE TRIGGER file_purges_header AFTER UPDATE OF code ON file WHEN {purged} BEGIN {delete}; END")
        return
    op.execute(
        "CREATE FUNCTION preread_purge_header() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN {delete}; RETURN NULL; END $$"
    )
    op.execute(
        f"CREATE TRIGGER file_purges_header AFTER UPDATE OF code ON file FOR EACH ROW WHEN ({purged}) "
        "EXECUTE FUNCTION preread_purge_header()"
    )


def downgrade() -> None:
    """Take back what was added."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER file_purges_header")
    else:
        op.execute("DROP TRIGGER file_purges_header ON file")
        op.execute("DROP FUNCTION preread_purge_header()")
    op.drop_column("file", "acquired_from")
    op.drop_table("study_header")
