"""People and what they say: accounts, sessions, viewings, readings and the audit trail; films by name and device."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from preread.core.text.search_keys import device_label, name_key
from preread.core.types import Identity

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SEARCH_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
APPEND_ONLY = ("viewing", "reading", "reading_finding", "audit")
OUTCOMES = "'assessed', 'refused', 'unreadable'"
BATCH = 1000


def upgrade() -> None:
    """Add the tables, the columns to look films up by, and the triggers that keep what is signed."""
    op.create_table(
        "account",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("full_name", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("token_hash", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("read_before_reveal", sa.Boolean(), nullable=False),
        sa.CheckConstraint("role IN ('reader', 'admin', 'service')", name=op.f("ck_account_role_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account")),
        sa.UniqueConstraint("name", name=op.f("uq_account_name")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_account_token_hash")),
    )
    op.create_table(
        "session",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("account_id", ROW_ID, nullable=False),
        sa.Column("csrf", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("search", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_session_account_id_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_session")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_session_token_hash")),
    )
    op.create_index(op.f("ix_session_account_id"), "session", ["account_id"], unique=False)
    op.create_table(
        "viewing",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("account_id", ROW_ID, nullable=False),
        sa.Column("file_id", ROW_ID, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("assessment_id", ROW_ID, nullable=True),
        sa.Column("answer_visible", sa.Boolean(), nullable=False),
        sa.CheckConstraint(f"outcome IN ({OUTCOMES})", name=op.f("ck_viewing_outcome_known")),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_viewing_account_id_account")),
        sa.ForeignKeyConstraint(["assessment_id"], ["assessment.id"], name=op.f("fk_viewing_assessment_id_assessment")),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_viewing_file_id_file")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_viewing")),
    )
    op.create_index(op.f("ix_viewing_account_id_file_id_id"), "viewing", ["account_id", "file_id", "id"], unique=False)
    op.create_table(
        "reading",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("file_id", ROW_ID, nullable=False),
        sa.Column("account_id", ROW_ID, nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("assessment_id", ROW_ID, nullable=True),
        sa.Column("bundle_id", ROW_ID, nullable=True),
        sa.Column("instance_id", ROW_ID, nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("answer_visible", sa.Boolean(), nullable=False),
        sa.Column("signed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("waited_s", sa.Double(), nullable=False),
        sa.Column("overtook", sa.Integer(), nullable=True),
        sa.Column("supersedes_id", ROW_ID, nullable=True),
        sa.Column("form_token", sa.String(length=64), nullable=False),
        sa.CheckConstraint(
            "verdict IN ('accepted', 'rejected', 'supplemented')", name=op.f("ck_reading_verdict_known")
        ),
        sa.CheckConstraint(f"outcome IN ({OUTCOMES})", name=op.f("ck_reading_outcome_known")),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_reading_account_id_account")),
        sa.ForeignKeyConstraint(["assessment_id"], ["assessment.id"], name=op.f("fk_reading_assessment_id_assessment")),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundle.id"], name=op.f("fk_reading_bundle_id_bundle")),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_reading_file_id_file")),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_reading_instance_id_instance")),
        sa.ForeignKeyConstraint(["supersedes_id"], ["reading.id"], name=op.f("fk_reading_supersedes_id_reading")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reading")),
        sa.UniqueConstraint("form_token", name=op.f("uq_reading_form_token")),
        sa.UniqueConstraint("supersedes_id", name=op.f("uq_reading_supersedes_id")),
    )
    op.create_index(op.f("ix_reading_file_id"), "reading", ["file_id"], unique=False)
    op.create_index(op.f("ix_reading_account_id"), "reading", ["account_id"], unique=False)
    op.create_table(
        "reading_finding",
        sa.Column("reading_id", ROW_ID, nullable=False),
        sa.Column("finding", sa.String(length=64), nullable=False),
        sa.Column("presence", sa.String(length=16), nullable=False),
        sa.CheckConstraint(
            "presence IN ('present', 'absent', 'unsure')", name=op.f("ck_reading_finding_presence_known")
        ),
        sa.ForeignKeyConstraint(["reading_id"], ["reading.id"], name=op.f("fk_reading_finding_reading_id_reading")),
        sa.PrimaryKeyConstraint("reading_id", "finding", name=op.f("pk_reading_finding")),
    )
    op.create_table(
        "audit",
        sa.Column("id", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("object", sa.String(length=64), nullable=False),
        sa.Column("previous_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_table(
        "secret",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secret")),
    )
    _add_columns()
    _keep_what_is_signed()


def _add_columns() -> None:
    op.add_column("file", sa.Column("read_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("file", sa.Column("device", sa.Text(), nullable=True))
    op.add_column("file", sa.Column("patient_name_key", SEARCH_TEXT, nullable=True))
    file = sa.table(
        "file",
        *(sa.column(name) for name in ("id", "device", "patient_name_key", "patient_name")),
        *(sa.column(name) for name in ("station_name", "manufacturer_model_name", "device_serial_number")),
    )
    connection, last = op.get_bind(), 0
    while rows := connection.execute(sa.select(file).where(file.c.id > last).order_by(file.c.id).limit(BATCH)).all():
        last = rows[-1].id
        values = [
            {
                "row": row.id,
                "device_value": device_label(
                    Identity(
                        station_name=row.station_name,
                        manufacturer_model_name=row.manufacturer_model_name,
                        device_serial_number=row.device_serial_number,
                    )
                ),
                "key_value": name_key(row.patient_name),
            }
            for row in rows
        ]
        connection.execute(
            sa.update(file)
            .where(file.c.id == sa.bindparam("row"))
            .values(device=sa.bindparam("device_value"), patient_name_key=sa.bindparam("key_value")),
            values,
        )
    op.create_index(op.f("ix_file_device_id"), "file", ["device", "id"], unique=False)
    op.create_index(op.f("ix_file_outcome_id"), "file", ["outcome", "id"], unique=False)
    op.create_index(op.f("ix_file_patient_name_key"), "file", ["patient_name_key"], unique=False)
    op.create_index(
        "ix_file_unread",
        "file",
        ["id"],
        unique=False,
        sqlite_where=sa.text("read_at IS NULL AND committed_at IS NOT NULL AND backlog = 0"),
        postgresql_where=sa.text("read_at IS NULL AND committed_at IS NOT NULL AND NOT backlog"),
    )


def _keep_what_is_signed() -> None:
    """Let the database itself refuse to change or delete a row of the append-only tables."""
    if op.get_bind().dialect.name == "sqlite":
        for table in APPEND_ONLY:
            for event in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_keeps_{event.lower()} BEFORE {event} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION preread_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_keeps BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION preread_append_only()"
        )
