"""Fixtures of several packages' tests: a ledger, and results that doctors see, each on a fresh database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from sqlalchemy import Engine

from preread.db.engine import database_now, open_engine, read
from preread.ledger.records import ContentAssessment
from preread.review.auth import accounts
from tests.support.ledger import LedgerBench, content_of
from tests.support.page import Films


@pytest.fixture
def bench(engine: Engine) -> LedgerBench:
    """A ledger on a fresh database of either kind."""
    return LedgerBench(engine, read(engine, database_now))


@pytest.fixture
def content() -> ContentAssessment:
    """What a slot would say of some film."""
    return content_of()


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real argon2, with a thousandth of the memory: what it protects here is nobody's."""
    cheap = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr(accounts, "_hasher", lambda: cheap)
    accounts._nobodys_hash.cache_clear()


@pytest.fixture
def films(engine: Engine, tmp_path: Path) -> Films:
    """An empty worklist on a fresh database, SQLite and Postgres in turn."""
    return Films(engine, tmp_path / "previews")


@pytest.fixture
def films_here(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Films]:
    """The same on SQLite alone, for what has nothing to do with the database."""
    shutil.copy(migrated_sqlite, tmp_path / "preread.db")
    engine = open_engine(f"sqlite:///{tmp_path / 'preread.db'}")
    yield Films(engine, tmp_path / "previews")
    engine.dispose()
