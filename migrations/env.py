"""Environment of alembic: applies the migrations.

They run on the connection that ``preread.db.engine`` opened, in its transaction.
"""

from __future__ import annotations

from alembic import context

from preread.db import admin_schema  # noqa: F401  their tables belong to the same metadata
from preread.db.schema import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("run `preread db upgrade`: the migrations use the connection that the program opened")

context.configure(connection=connection, target_metadata=metadata, render_as_batch=connection.dialect.name == "sqlite")
with context.begin_transaction():
    context.run_migrations()
