"""The most urgent answer beside each film, so that the worklist is ordered and filtered by it; who looked at a film."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

BATCH = 10_000
FILL = sa.text(
    """
    UPDATE file SET answer = (
      SELECT finding.answer FROM finding WHERE finding.assessment_id = file.assessment_id
      ORDER BY CASE finding.answer WHEN 'flagged' THEN 0 WHEN 'uncertain' THEN 1 ELSE 2 END LIMIT 1)
    WHERE id > :after AND id <= :upto AND assessment_id IS NOT NULL
    """
)


def upgrade() -> None:
    """Add the column, fill it from the findings, and add the indexes."""
    op.add_column("file", sa.Column("answer", sa.String(length=16), nullable=True))
    connection = op.get_bind()
    last = connection.execute(sa.text("SELECT max(id) FROM file")).scalar() or 0
    for after in range(0, last, BATCH):
        connection.execute(FILL, {"after": after, "upto": after + BATCH})
    op.create_index(op.f("ix_file_answer_id"), "file", ["answer", "id"], unique=False)
    op.drop_index(op.f("ix_file_acquired_local"), table_name="file")
    op.create_index(op.f("ix_file_acquired_local_id"), "file", ["acquired_local", "id"], unique=False)
    op.create_index(op.f("ix_viewing_file_id"), "viewing", ["file_id"], unique=False)


def downgrade() -> None:
    """Take back what was added."""
    op.drop_index(op.f("ix_viewing_file_id"), table_name="viewing")
    op.drop_index(op.f("ix_file_acquired_local_id"), table_name="file")
    op.create_index(op.f("ix_file_acquired_local"), "file", ["acquired_local"], unique=False)
    op.drop_index(op.f("ix_file_answer_id"), table_name="file")
    op.drop_column("file", "answer")
