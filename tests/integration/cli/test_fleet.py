"""``preread backfill`` and ``preread fleet``: what they refuse, what they hand over, what they say of it."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, select

from preread.core.errors import DatabaseUnsuitable
from preread.db import schema
from preread.fleet.queue import FleetQueue, list_queue_migrations
from preread.ledger import archives
from preread.ledger.ledger import Ledger
from tests.support.commands import CommandRunner

POSTGRES = pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    for year in range(3):
        (folder / str(year)).mkdir(parents=True)
        (folder / str(year) / "film").write_bytes(b"no film")
    return folder


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("words", [["backfill", "{archive}"], ["fleet", "work"], ["fleet", "status"]])
def test_sqlite_is_refused_with_the_reason(
    preread: CommandRunner, monkeypatch: pytest.MonkeyPatch, database_url: str, archive: Any, words: Any
) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", database_url)
    done = preread(*[word.format(archive=archive) for word in words])
    assert done.exit_code == 2
    assert "database_unsuitable" in done.err
    assert "serves one machine" in done.err


@POSTGRES
def test_an_archive_is_handed_over_told_of_and_taken_back(
    preread: CommandRunner, monkeypatch: pytest.MonkeyPatch, database_url: str, archive: Path, engine: Engine
) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", database_url)
    empty = preread("fleet", "status")
    assert empty.exit_code == 0
    assert "no archive" in empty.err
    for waited in (False, True):
        done = preread("backfill", str(archive), "--shard-files", "2", "--population", "children-1-5y")
        assert done.exit_code == 0, done.err
        assert "3 files queued in 2 shards" in done.err
        assert ("were queued already" in done.err) is waited
    told = preread("fleet", "status", "--json")
    assert told.exit_code == 1, "nobody does them"
    record = json.loads(told.out)
    assert record["shards"] == {"todo": 2}
    assert record["films"] == {"todo": 3}
    assert (record["processes"], record["films_s"], record["left_s"]) == (0, None, None)
    assert str(archive) in preread("fleet", "status").out
    with engine.connect() as connection:
        assert connection.execute(select(schema.root.c.population)).scalar_one() == "children-1-5y"
    assert "2 shards removed" in preread("backfill", str(archive), "--cancel").err
    assert preread("fleet", "status", "--json").out == ""


@POSTGRES
def test_an_archive_touches_no_other_root_and_must_be_there(
    preread: CommandRunner, monkeypatch: pytest.MonkeyPatch, database_url: str, archive: Path, engine: Engine
) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", database_url)
    Ledger(engine, worker_id="one", lease_s=60).register_root(bytes(archive))
    for folder in (archive / "1", archive.parent):
        done = preread("backfill", str(folder))
        assert (done.exit_code, "lies in" in done.err) == (2, True)
    assert preread("backfill", str(archive.parent / "away")).exit_code == 3
    assert preread("backfill", str(archive), "--bundle", "unknown").exit_code == 4
    assert preread("fleet", "status", "--json").out == ""


@POSTGRES
def test_the_queue_follows_procrastinate_and_refuses_a_newer_one(engine: Engine) -> None:
    queue = FleetQueue(engine)
    assert not queue.is_installed()
    scripts = resources.files("procrastinate.sql") / "migrations"
    older = [name for name in list_queue_migrations() if name < "03.04"]
    assert older < list_queue_migrations()
    with psycopg.connect(**queue.connection_arguments(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {archives.SCHEMA}".encode())
        for name in older:
            connection.execute((scripts / name).read_bytes())
        connection.execute(f"COMMENT ON SCHEMA {archives.SCHEMA} IS '{older[-1]}'".encode())
        for _ in range(2):
            queue.install()
        function = connection.execute("SELECT to_regproc('procrastinate_retry_job_v2')").fetchone()
        assert function != (None,)
        connection.execute(f"COMMENT ON SCHEMA {archives.SCHEMA} IS '99.00.00_01_of_the_future.sql'".encode())
    assert (queue.is_installed(), queue.batches(), queue.processes()) == (True, [], 0)
    with pytest.raises(DatabaseUnsuitable, match="newer"):
        queue.install()
