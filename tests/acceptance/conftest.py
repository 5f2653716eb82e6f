"""Fixtures of the tests that start real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from preread.model.bundles import Bundle
from tests.support.worker_process import WITHIN_S, WorkerBench


@pytest.fixture
def bench(tmp_path: Path, database_url: str, engine: Engine, stub_bundle: Bundle) -> Iterator[WorkerBench]:
    bench = WorkerBench(tmp_path, database_url, engine, stub_bundle)
    yield bench
    for worker in bench.workers:
        worker.process.kill()
        worker.process.wait(WITHIN_S)
