"""Shards: together they are the archive, whatever its shape and however it is cut."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preread.core.errors import ShareDown
from preread.fleet.partition import Shard, cut_shards, list_shard_files, place_path
from preread.share.scanner import FileSystem, ScanCounts

KEY = bytes(range(32))

NAMES = st.text("ab-.é", min_size=1, max_size=3).filter(lambda name: not name.startswith(".") and name != "..")
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=25)


def plant(root: Path, paths: list[str]) -> set[bytes]:
    planted = set()
    for path in paths:
        file = root / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.open("x").close()
        except OSError:
            continue  # the name of a file where a folder should be, or the other way round, or twice
        planted.add(os.fsencode(path))
    return planted


@settings(max_examples=60, deadline=None)
@given(paths=PATHS, files=st.integers(1, 7), later=PATHS, key=st.binary(min_size=32, max_size=32))
def test_every_entry_is_in_exactly_one_shard(paths: list[str], files: int, later: list[str], key: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = os.fsencode(folder)
        planted = plant(Path(folder), paths)
        shards = list(cut_shards(FileSystem(), root, files, ScanCounts(), key))
        assert sum(shard.files for shard in shards) == len(planted)
        assert all(shard.files == files for shard in shards[:-1])
        assert all(one.until == other.after for one, other in pairwise(shards))
        # films that come later move no boundary, and those between two boundaries are found
        come = plant(Path(folder), later) - planted
        met = [
            found.path for shard in shards for found in list_shard_files(FileSystem(), root, shard, ScanCounts(), key)
        ]
        assert len(met) == len(set(met))
        assert planted <= set(met) <= planted | come
        last = shards[-1].until if shards else ()
        assert {path for path in come if place_path(key, path) < last} <= set(met)
        assert met == sorted(met, key=lambda path: place_path(key, path))


def test_names_that_share_a_digest_stay_in_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preread.fleet.partition._DIGEST_BYTES", 1)
    planted = plant(tmp_path, [f"{folder}/{number}" for folder in range(3) for number in range(300)])
    root = os.fsencode(tmp_path)
    cuts = list(cut_shards(FileSystem(), root, 1, ScanCounts(), KEY))
    assert len({shard.until for shard in cuts}) < len(cuts) == len(planted)
    met = [found.path for shard in cuts for found in list_shard_files(FileSystem(), root, shard, ScanCounts(), KEY)]
    assert len(met) == len(planted)
    assert set(met) == planted


class Counting(FileSystem):
    """Notes which folders were listed; some of them fail."""

    def __init__(self, failing: dict[bytes, int] | None = None) -> None:
        self.listed: list[bytes] = []
        self.failing = failing or {}

    def list_entries(self, path: bytes) -> Iterator[os.DirEntry[bytes]]:
        self.listed.append(os.path.basename(path))
        if number := self.failing.get(os.path.basename(path)):
            raise OSError(number, os.strerror(number))
        return super().list_entries(path)


def test_only_folders_that_a_shard_touches_are_listed(tmp_path: Path) -> None:
    plant(tmp_path, [f"{year}/{month:02}/film" for year in range(2000, 2005) for month in range(1, 13)])
    system, root = Counting(), os.fsencode(tmp_path)
    every = [found.path for found in list_shard_files(system, root, None, ScanCounts(), KEY)]
    system.listed.clear()
    met = list(
        list_shard_files(
            system, root, Shard(place_path(KEY, every[14]), place_path(KEY, every[16]), 2), ScanCounts(), KEY
        )
    )
    assert [found.path for found in met] == every[15:17]
    touched = {folder for path in every[14:17] for folder in path.split(b"/")[:2]}
    assert set(system.listed[1:]) == touched


def test_a_folder_that_cannot_be_listed_is_counted_and_a_share_that_fails_is_named(tmp_path: Path) -> None:
    plant(tmp_path, ["a/film", "b/film", "c/film"])
    root, listing = os.fsencode(tmp_path), ScanCounts()
    shards = list(cut_shards(Counting({b"b": errno.EACCES}), root, 10, listing, KEY))
    assert (shards[0].files, listing.failed_folders, listing.complete) == (2, 1, False)
    with pytest.raises(ShareDown):
        list(cut_shards(Counting(), root + b"/away", 10, ScanCounts(), KEY))
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    (tmp_path / "b").symlink_to(tmp_path / "elsewhere")
    met = [shard.until for shard in cut_shards(Counting(), root, 1, ScanCounts(), KEY)]
    assert met == sorted(place_path(KEY, path) for path in (b"a/film", b"b", b"c/film", b"elsewhere/film"))
