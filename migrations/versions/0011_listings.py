"""Which results a list showed to whom, so that a withdrawn bundle names those who opened no film, too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
AT = sa.DateTime(timezone=True)
_FORGOTTEN = "EXISTS (SELECT 1 FROM forgetting WHERE file_id = OLD.file_id)"


def upgrade() -> None:
    """Add the table, append-only but for a purge, as viewings are."""
    op.create_table(
        "listing",
        sa.Column("file_id", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("committed_at", AT, nullable=False),
        sa.Column("at", AT, nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_listing_file_id_file")),
        sa.PrimaryKeyConstraint("file_id", "actor", "committed_at", name=op.f("pk_listing")),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "sqlite":
        for event, unless in (("UPDATE", ""), ("DELETE", f"WHEN NOT {_FORGOTTEN} ")):
            op.execute(
                f"CREATE TRIGGER listing_keeps_{event.lower()} BEFORE {event} ON listing {unless}"
                "BEGIN SELECT RAISE(ABORT, 'listing is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION preread_listing_keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF {_FORGOTTEN} THEN RETURN OLD; END IF; "
        "RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    op.execute(
        "CREATE TRIGGER listing_keeps BEFORE UPDATE OR TRUNCATE ON listing "
        "FOR EACH STATEMENT EXECUTE FUNCTION preread_append_only()"
    )
    op.execute(
        "CREATE TRIGGER listing_keeps_delete BEFORE DELETE ON listing "
        "FOR EACH ROW EXECUTE FUNCTION preread_listing_keeps()"
    )


def downgrade() -> None:
    """Take back what was added."""
    op.drop_table("listing")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION preread_listing_keeps()")
