"""A change of schema is done whole or not at all, keeps every row, and can be lived with and taken back. On both."""

from __future__ import annotations

import io
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Engine, MetaData, inspect, text

from preread.admin import backup
from preread.cli import main
from preread.core.errors import DatabaseBusy, SchemaOutdated, SchemaTooNew, UpgradeFailed
from preread.db import migrate, schema_diff
from preread.db.engine import open_engine, read, sqlite_path
from tests.programs import ledger_rows

Revise = Callable[..., str]
HEADER = """from __future__ import annotations
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "{revision}", "{before}", None, None
"""
ADDS = """def upgrade():
    op.create_table("novelty", sa.Column("id", sa.Integer(), primary_key=True))
    op.add_column("file", sa.Column("novel", sa.Text(), nullable=True))
    op.add_column("root", sa.Column("novel", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("ix_file_novel", "file", ["novel"])
def downgrade():
    op.drop_index("ix_file_novel", "file")
    op.drop_column("root", "novel")
    op.drop_column("file", "novel")
    op.drop_table("novelty")
"""
DROPS = 'def upgrade():\n    op.drop_column("worker", "program_version")\n'
DEMANDS = 'def upgrade():\n    op.add_column("audit", sa.Column("novel", sa.Text(), nullable=False))\n'
SPOILS = """    op.execute("DELETE FROM transition")
    op.execute("nonsense")
"""
FAILS_LATE = ADDS.replace("def downgrade", f"{SPOILS}def downgrade")
LOSES = 'def upgrade():\n    op.execute("DELETE FROM transition")\n'


@pytest.fixture
def revise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Revise:
    """Give the program one more revision than it has, ``by`` numbers ahead."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrate.migrations_folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))

    def add(body: str, by: int = 1) -> str:
        newest = migrate._revisions()[0]
        revision = f"{int(newest) + by:04}"
        text = HEADER.format(revision=revision, before=newest) + body
        (folder / "versions" / f"{revision}_of_a_test.py").write_text(text)
        return revision

    monkeypatch.setattr(migrate, "migrations_folder", lambda: folder)
    return add


@pytest.fixture
def as_newer(revise: Revise, monkeypatch: pytest.MonkeyPatch, engine: Engine) -> Revise:
    """Let a newer program upgrade the database; afterwards this is the older one again."""
    own = migrate.migrations_folder

    def upgrade(body: str, by: int = 1) -> str:
        revision = revise(body, by)
        with monkeypatch.context() as newer:
            newer.setattr(schema_diff, "schema_differences", lambda _connection: [])
            migrate.upgrade_schema(engine)
        next(own().glob(f"versions/{revision}_*")).unlink()
        return revision

    return upgrade


@pytest.fixture
def rows(engine: Engine) -> dict[str, int]:
    """A database with a film of every outcome, and how many rows each table has."""
    ledger_rows.fill(engine)
    return read(engine, backup.count_rows)


def test_alembic_itself_finds_the_models_equal_to_the_migrations(engine: Engine) -> None:
    with engine.begin() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        config.stdout = io.StringIO()
        command.check(config)
        assert schema_diff.schema_differences(connection) == []


@pytest.mark.parametrize("body", [FAILS_LATE, LOSES])
def test_a_migration_that_fails_or_loses_rows_changes_nothing(
    engine: Engine, revise: Revise, rows: dict[str, int], body: str
) -> None:
    before, tables = migrate._revisions()[0], set(inspect(engine).get_table_names())
    revise(body)
    with pytest.raises(UpgradeFailed, match="rolled back"):
        migrate.upgrade_schema(engine)
    assert read(engine, backup.count_rows) == rows
    assert set(inspect(engine).get_table_names()) == tables
    assert "novel" not in {column["name"] for column in inspect(engine).get_columns("root")}
    assert migrate.schema_revision(engine) == before
    with pytest.raises(SchemaOutdated):
        migrate.check_schema(engine)


def test_the_command_backs_up_first_and_says_that_nothing_changed(
    database_url: str, engine: Engine, revise: Revise, rows: dict[str, int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], postgres_programs: None,
) -> None:  # fmt: skip
    monkeypatch.setenv("PREREAD_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "before.backup"
    assert main(["db", "upgrade"]) == 0, "nothing is to be changed: no backup is asked for"
    before = read(engine, backup.count_rows)
    assert before.items() - rows.items() <= {("audit", before["audit"]), ("secret", before["secret"])}
    revise(FAILS_LATE)
    assert main(["db", "upgrade", "--backup", str(kept)]) == 1
    assert "[upgrade_failed]" in capsys.readouterr().err
    assert backup.check_backup(kept).rows == before
    if engine.dialect.name == "postgresql":
        assert main(["db", "upgrade"]) == 2, "nobody guesses where a dump may lie"
    else:
        assert main(["db", "upgrade"]) == 1
        assert list(tmp_path.glob("preread.db.*.backup"))


def test_an_older_program_works_with_the_next_schema(
    engine: Engine, database_url: str, as_newer: Revise, rows: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    revision = as_newer(ADDS)
    migrate.check_schema(engine)
    assert "schema_newer" in caplog.messages
    migrate.upgrade_schema(engine)
    assert migrate.schema_revision(engine) == revision, "an older program leaves the newer schema as it is"
    ledger_rows.fill(engine, name=b"later")
    now = read(engine, backup.count_rows)
    assert now["file"] == 2 * rows["file"]
    assert now["assessment"] == rows["assessment"], "the same bytes under other names"


@pytest.mark.parametrize("body, by", [(DROPS, 1), (DEMANDS, 1), (ADDS, 2)])
def test_an_older_program_refuses_what_it_cannot_live_with(
    engine: Engine, as_newer: Revise, body: str, by: int
) -> None:
    as_newer(body, by)
    for action in (migrate.check_schema, migrate.upgrade_schema, migrate.downgrade_schema):
        with pytest.raises(SchemaTooNew, match="the schema has revision"):
            action(engine)


def test_from_the_newest_schema_to_the_one_before_and_back(
    engine: Engine, rows: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, before = migrate._revisions()[:2]
    with engine.begin() as connection:
        connection.execute(text("CREATE INDEX of_the_administrator ON file (ms)"))
    assert migrate.downgrade_schema(engine) == before
    assert migrate.schema_revision(engine) == before
    kept = read(engine, backup.count_rows)
    assert {name: kept[name] for name in ("file", "assessment", "finding", "transition", "reading", "audit")} == {
        name: rows[name] for name in ("file", "assessment", "finding", "transition", "reading", "audit")
    }
    with pytest.raises(SchemaOutdated):
        migrate.downgrade_schema(engine)
    migrate.upgrade_schema(engine)
    assert migrate.schema_revision(engine) == newest
    assert read(engine, backup.count_rows)["finding"] == rows["finding"]


def test_every_revision_that_takes_the_next_number_only_adds(empty_database_url: str) -> None:
    """What the program of the revision before knows is still there: it goes on with the newer schema."""
    engine = open_engine(empty_database_url)
    if path := sqlite_path(engine):
        path.touch()
    config, revisions = migrate._config(), migrate._revisions()[::-1]
    for before, revision in itertools.pairwise(revisions):
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, before)
            known = MetaData()
            known.reflect(connection)
            command.upgrade(config, revision)
            if before >= "0005" and schema_diff.is_next_revision(revision, before):
                assert schema_diff.newer_schema_obstacles(connection, known) == [], revision
                command.downgrade(config, before)
                command.upgrade(config, revision)
    engine.dispose()


def test_a_table_that_somebody_holds_is_not_waited_for(
    postgres_server: object, migrated_postgres: str, revise: Revise, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = postgres_server
    name = server.create(migrated_postgres)  # type: ignore[attr-defined]
    engine, other = (open_engine(server.url(name)) for _ in range(2))  # type: ignore[attr-defined]
    revise(ADDS)
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_S", 0.1)
    monkeypatch.setattr("preread.db.engine.MAX_TRIES", 2)
    with other.begin() as holder:
        holder.execute(text("SELECT count(*) FROM file"))
        with pytest.raises(DatabaseBusy):
            migrate.upgrade_schema(engine)
    engine.dispose()
    other.dispose()
    server.drop(name)  # type: ignore[attr-defined]
