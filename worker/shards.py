"""An archive cut into shards: stretches of a folder tree, in the order of its paths.

A shard is named by two paths alone, so that it is found again on another machine and after films came or went. Order is
that of the names of folders and files from the top down, byte by byte; only folders that a stretch touches are listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from worker.ignoring import name_rule
from worker.scanning import FileSystem, Found, Listing, note_failed_folder

DEFAULT_FILES = 1000
MAX_FILES = 10_000

_Key = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Shard:
    """One stretch of a root.

    Attributes:
        after: the path behind which it begins; ``None`` for the first.
        until: its last path.
        files: how many entries it had when it was cut.
    """

    after: bytes | None
    until: bytes
    files: int


def cut(system: FileSystem, root: bytes, files: int, listing: Listing) -> Iterator[Shard]:
    """Cut everything in a root into shards, as it is listed.

    Args:
        root: absolute path.
        files: entries a shard; the last one may have fewer.
        listing: takes note of what could not be listed.

    Raises:
        ShareDown: the root cannot be listed.
    """
    after, last, count = None, b"", 0
    for found in walk(system, root, None, listing):
        last, count = found.path, count + 1
        if count == files:
            yield Shard(after, last, count)
            after, count = last, 0
    if count:
        yield Shard(after, last, count)


def walk(system: FileSystem, root: bytes, shard: Shard | None, listing: Listing) -> Iterator[Found]:
    """Yield every entry of a shard (``None``: of the whole root) that is no folder, in order.

    Raises:
        ShareDown: the root cannot be listed, or a folder in it fails in a way that means the whole share.
    """
    low = _key(shard.after) if shard is not None and shard.after is not None else ()
    high = _key(shard.until) if shard is not None else None
    pending = [(b"", iter(_entries(system, root, b"", low, high, listing)))]
    while pending:
        folder, entries = pending[-1]
        entry = next(entries, None)
        if entry is None:
            pending.pop()
            continue
        path = folder + entry.name
        rule = name_rule(entry.name)
        if not entry.is_dir(follow_symlinks=False):
            listing.files += 1
            yield Found(path, rule, entry)
        elif rule is not None:
            listing.ignored_folders += 1
        else:
            pending.append((path + b"/", iter(_entries(system, root, path, low, high, listing))))


def _entries(
    system: FileSystem, root: bytes, folder: bytes, low: _Key, high: _Key | None, listing: Listing
) -> list[os.DirEntry[bytes]]:
    """List one folder: what of it lies in the stretch or may hold something that does, by name."""
    above = _key(folder) if folder else ()
    found: list[os.DirEntry[bytes]] = []
    try:
        for entry in system.entries(os.path.join(root, folder) if folder else root):
            key = (*above, entry.name)
            if entry.is_dir(follow_symlinks=False):
                depth = len(key)
                inside = key >= low[:depth] and (high is None or key <= high[:depth])
            else:
                inside = key > low and (high is None or key <= high)
            if inside:
                found.append(entry)
    except OSError as error:
        note_failed_folder(system, root, folder, listing, error)
    return sorted(found, key=attrgetter("name"))


def _key(path: bytes) -> _Key:
    return tuple(path.split(b"/"))
