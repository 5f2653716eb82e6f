"""The first schema: roots, files, instances, assessments, findings, transitions, workers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only where the type is exactly INTEGER.
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create every table in an empty database."""
    op.create_table(
        "bundle",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bundle")),
        sa.UniqueConstraint("digest", name=op.f("uq_bundle_digest")),
    )
    op.create_table(
        "instance",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("transfer_syntax_uid", sa.Text(), nullable=True),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("columns", sa.Integer(), nullable=True),
        sa.Column("first_read_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint("sha256", name=op.f("uq_instance_sha256")),
    )
    op.create_table(
        "root",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("path", sa.LargeBinary(), nullable=False),
        sa.Column("path_key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("path_text", sa.Text(), nullable=False),
        sa.Column("population", sa.String(length=32), nullable=False),
        sa.Column("path_pattern", sa.Text(), nullable=True),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_scan_started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_scan_completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_scan_files", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_root")),
        sa.UniqueConstraint("path_key", name=op.f("uq_root_path_key")),
    )
    op.create_table(
        "worker",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("process_token", sa.Text(), nullable=False),
        sa.Column("program_version", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker")),
    )
    op.create_table(
        "assessment",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("instance_id", ROW_ID, nullable=False),
        sa.Column("bundle_id", ROW_ID, nullable=False),
        sa.Column("decoder", sa.Text(), nullable=False),
        sa.Column("pixel_caveats", sa.Text(), nullable=False),
        sa.Column("activation_map", sa.LargeBinary(), nullable=False),
        sa.Column("activation_map_shape", sa.String(length=32), nullable=False),
        sa.Column("assessed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundle.id"], name=op.f("fk_assessment_bundle_id_bundle")),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_assessment_instance_id_instance")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assessment")),
        sa.UniqueConstraint("instance_id", "bundle_id", name=op.f("uq_assessment_instance_id_bundle_id")),
    )
    op.create_index(op.f("ix_assessment_bundle_id"), "assessment", ["bundle_id"], unique=False)
    op.create_table(
        "file",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("root_id", ROW_ID, nullable=False),
        sa.Column("path", sa.LargeBinary(), nullable=False),
        sa.Column("path_key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("path_text", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("inode", sa.BigInteger(), nullable=False),
        sa.Column("newest", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("interruptions", sa.Integer(), nullable=False),
        sa.Column("alone", sa.Boolean(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=True),
        sa.Column("claim_token", sa.String(length=32), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("locked_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("committed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("population", sa.String(length=32), nullable=True),
        sa.Column("research", sa.Boolean(), nullable=False),
        sa.Column("gate_caveats", sa.Text(), nullable=False),
        sa.Column("uid_conflict", sa.Boolean(), nullable=False),
        sa.Column("ms", sa.Double(), nullable=True),
        sa.Column("instance_id", ROW_ID, nullable=True),
        sa.Column("assessment_id", ROW_ID, nullable=True),
        sa.Column("bundle_id", ROW_ID, nullable=True),
        sa.Column("patient_name", sa.Text(), nullable=True),
        sa.Column("patient_id", sa.Text(), nullable=True),
        sa.Column("issuer_of_patient_id", sa.Text(), nullable=True),
        sa.Column("patient_birth_date", sa.Text(), nullable=True),
        sa.Column("patient_sex", sa.Text(), nullable=True),
        sa.Column("patient_age", sa.Text(), nullable=True),
        sa.Column("patient_age_years", sa.Double(), nullable=True),
        sa.Column("age_conflict", sa.Boolean(), nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=True),
        sa.Column("series_instance_uid", sa.Text(), nullable=True),
        sa.Column("sop_instance_uid", sa.Text(), nullable=True),
        sa.Column("sop_class_uid", sa.Text(), nullable=True),
        sa.Column("accession_number", sa.Text(), nullable=True),
        sa.Column("modality", sa.Text(), nullable=True),
        sa.Column("body_part_examined", sa.Text(), nullable=True),
        sa.Column("view_position", sa.Text(), nullable=True),
        sa.Column("image_laterality", sa.Text(), nullable=True),
        sa.Column("study_date", sa.Text(), nullable=True),
        sa.Column("study_description", sa.Text(), nullable=True),
        sa.Column("series_description", sa.Text(), nullable=True),
        sa.Column("acquisition_date_time", sa.Text(), nullable=True),
        sa.Column("acquired_local", sa.String(length=14), nullable=True),
        sa.Column("timezone_offset_from_utc", sa.Text(), nullable=True),
        sa.Column("manufacturer", sa.Text(), nullable=True),
        sa.Column("manufacturer_model_name", sa.Text(), nullable=True),
        sa.Column("device_serial_number", sa.Text(), nullable=True),
        sa.Column("station_name", sa.Text(), nullable=True),
        sa.Column("institution_name", sa.Text(), nullable=True),
        sa.CheckConstraint("outcome IN ('assessed', 'refused', 'unreadable')", name=op.f("ck_file_outcome_known")),
        sa.CheckConstraint(
            "state IN ('settling', 'ready', 'claimed', 'retry', 'done', 'quarantined', "
            "'vanished', 'missed', 'superseded', 'ignored')",
            name=op.f("ck_file_state_known"),
        ),
        sa.ForeignKeyConstraint(["assessment_id"], ["assessment.id"], name=op.f("fk_file_assessment_id_assessment")),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundle.id"], name=op.f("fk_file_bundle_id_bundle")),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_file_instance_id_instance")),
        sa.ForeignKeyConstraint(["root_id"], ["root.id"], name=op.f("fk_file_root_id_root")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file")),
        sa.UniqueConstraint(
            "root_id", "path_key", "size_bytes", "mtime_ns", name=op.f("uq_file_root_id_path_key_size_bytes_mtime_ns")
        ),
    )
    op.create_index(op.f("ix_file_accession_number"), "file", ["accession_number"], unique=False)
    op.create_index(op.f("ix_file_acquired_local"), "file", ["acquired_local"], unique=False)
    op.create_index(op.f("ix_file_assessment_id"), "file", ["assessment_id"], unique=False)
    op.create_index(op.f("ix_file_bundle_id"), "file", ["bundle_id"], unique=False)
    op.create_index(op.f("ix_file_committed_at_id"), "file", ["committed_at", "id"], unique=False)
    op.create_index(op.f("ix_file_instance_id"), "file", ["instance_id"], unique=False)
    op.create_index(op.f("ix_file_patient_id"), "file", ["patient_id"], unique=False)
    op.create_index(op.f("ix_file_sop_instance_uid"), "file", ["sop_instance_uid"], unique=False)
    op.create_index(op.f("ix_file_state_alone_id"), "file", ["state", "alone", "id"], unique=False)
    op.create_index(op.f("ix_file_study_instance_uid"), "file", ["study_instance_uid"], unique=False)
    op.create_index(
        "uq_file_newest",
        "file",
        ["root_id", "path_key"],
        unique=True,
        sqlite_where=sa.text("newest"),
        postgresql_where=sa.text("newest"),
    )
    op.create_table(
        "finding",
        sa.Column("assessment_id", ROW_ID, nullable=False),
        sa.Column("finding", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("logit", sa.Double(), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("prevalence", sa.Double(), nullable=False),
        sa.Column("answer", sa.String(length=16), nullable=False),
        sa.CheckConstraint("answer IN ('flagged', 'uncertain', 'not_flagged')", name=op.f("ck_finding_answer_known")),
        sa.ForeignKeyConstraint(["assessment_id"], ["assessment.id"], name=op.f("fk_finding_assessment_id_assessment")),
        sa.PrimaryKeyConstraint("assessment_id", "finding", name=op.f("pk_finding")),
    )
    op.create_index(op.f("ix_finding_answer_assessment_id"), "finding", ["answer", "assessment_id"], unique=False)
    op.create_table(
        "transition",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("file_id", ROW_ID, nullable=False),
        sa.Column("from_state", sa.String(length=16), nullable=True),
        sa.Column("to_state", sa.String(length=16), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("worker_id", sa.String(length=128), nullable=True),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name=op.f("fk_transition_file_id_file")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transition")),
    )
    op.create_index(op.f("ix_transition_file_id"), "transition", ["file_id"], unique=False)
