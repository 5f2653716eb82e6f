"""The purge journal is on the disk before the purge is committed. On both databases."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from preread.admin import purge, purge_journal
from preread.core.types import FORGOTTEN
from tests.support.ledger import LedgerBench


def test_the_journal_is_flushed_to_the_disk_before_the_purge_is_committed(
    bench: LedgerBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [bench.assess(name, name) for name in (b"a.dcm", b"b.dcm")]
    journal = tmp_path / "forgotten"
    flushed: list[tuple[int, set[object]]] = []
    really_flush = os.fsync

    def flush(descriptor: int) -> None:
        really_flush(descriptor)
        if os.path.sameopenfile(descriptor, reader.fileno()):
            flushed.append((os.fstat(descriptor).st_size, {bench.row(one)["code"] for one in images}))

    monkeypatch.setattr(os, "fsync", flush)
    journal.touch(0o600)
    with journal.open("rb") as reader:
        request = purge.PurgeRequest("uid:0", "asked for", readings=False, journal=journal, preview_dir=None)
        assert purge.purge_files(bench.engine, request, images).films == 2
    # the last flush covered every line, and none of the images was purged yet
    assert flushed[-1] == (journal.stat().st_size, {None})
    assert {bench.row(one)["code"] for one in images} == {FORGOTTEN}
    assert len([entry for entry in purge_journal.read_journal(journal) if "version" in entry]) == 2
