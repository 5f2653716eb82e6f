"""Database engine, tables, migrations, and seals on rows."""
