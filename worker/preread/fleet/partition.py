"""Partition of an archive into shards, ranges in an order of its paths.

A shard is named by two places alone, so that it is found again on another machine and after files came or went, and so
that it identifies nobody: a path may hold a patient's name. The place of a path is the keyed hashes of the names of its
folders and of its own, from the top down; only folders that a stretch touches are listed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter

from preread.share.ignore_rules import match_name_rule
from preread.share.scanner import FileSystem, ListedEntry, ScanCounts, count_failed_folder

MAX_FILES = 10_000

Place = tuple[bytes, ...]
"""Position of a path: one digest for each of its parts. Two names with one digest have one position, side by side."""
_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """Range of a root.

    Attributes:
        after: place behind which it begins; ``None`` for the first.
        until: place of its last path.
        files: number of entries when it was cut.
    """

    after: Place | None
    until: Place
    files: int


def place_path(key: bytes, path: bytes) -> Place:
    """Compute the place of a path in the order that divides an archive.

    Args:
        key: 32 bytes, the same for all processes of an archive.
        path: relative to the root.
    """
    return tuple(hashlib.blake2b(name, key=key, digest_size=_DIGEST_BYTES).digest() for name in path.split(b"/"))


def cut_shards(system: FileSystem, root: bytes, files: int, listing: ScanCounts, key: bytes) -> Iterator[Shard]:
    """Cut an archive into shards of files while its root is listed.

    Args:
        system: the system calls.
        root: absolute path.
        files: entries a shard; the last one may have fewer.
        listing: counts failures.
        key: see ``place_path``.

    Raises:
        ShareDown: the root cannot be listed.
    """
    after: Place | None = None
    last, count = b"", 0
    for found in list_shard_files(system, root, None, listing, key):
        last, count = found.path, count + 1
        if count == files:
            until = place_path(key, last)
            yield Shard(after, until, count)
            after, count = until, 0
    if count:
        yield Shard(after, place_path(key, last), count)


def list_shard_files(
    system: FileSystem, root: bytes, shard: Shard | None, listing: ScanCounts, key: bytes
) -> Iterator[ListedEntry]:
    """List the files of a shard of an archive, in the shard's order.

    Args:
        system: the system calls.
        root: absolute path.
        shard: ``None`` for the whole root.
        listing: counts entries and failures.
        key: see ``place_path``.

    Raises:
        ShareDown: the root cannot be listed, or a folder in it fails in a way that means the whole share.
    """
    bounds: tuple[Place, Place | None] = ((), None) if shard is None else (shard.after or (), shard.until)
    pending = [(b"", iter(_entries(system, root, b"", bounds, listing, key)))]
    while pending:
        folder, entries = pending[-1]
        entry = next(entries, None)
        if entry is None:
            pending.pop()
            continue
        path = folder + entry.name
        rule = match_name_rule(entry.name)
        if not entry.is_dir(follow_symlinks=False):
            listing.files += 1
            yield ListedEntry(path, rule, entry)
        elif rule is not None:
            listing.ignored_folders += 1
        else:
            pending.append((path + b"/", iter(_entries(system, root, path, bounds, listing, key))))


def _entries(
    system: FileSystem, root: bytes, folder: bytes, bounds: tuple[Place, Place | None], listing: ScanCounts, key: bytes
) -> list[os.DirEntry[bytes]]:
    """List the entries of a folder that lie in the range, or may hold some."""
    low, high = bounds
    above = place_path(key, folder) if folder else ()
    found: list[tuple[Place, bytes, os.DirEntry[bytes]]] = []
    try:
        for entry in system.list_entries(os.path.join(root, folder) if folder else root):
            at = above + place_path(key, entry.name)
            if entry.is_dir(follow_symlinks=False):
                depth = len(at)
                inside = at >= low[:depth] and (high is None or at <= high[:depth])
            else:
                inside = at > low and (high is None or at <= high)
            if inside:
                found.append((at, entry.name, entry))
    except OSError as error:
        count_failed_folder(system, root, folder, listing, error)
    return [entry for _, _, entry in sorted(found, key=itemgetter(0, 1))]
