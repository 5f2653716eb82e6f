"""An archive cut into shards: stretches of a folder tree, in an order of its paths.

A shard is named by two places alone, so that it is found again on another machine and after films came or went, and so
that it names nobody: a path may hold a patient's name. The place of a path is the keyed hashes of the names of its
folders and of its own, from the top down; only folders that a stretch touches are listed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter

from preread.share.ignore_rules import name_rule
from preread.share.scanner import FileSystem, Found, Listing, note_failed_folder

DEFAULT_FILES = 1000
MAX_FILES = 10_000

Place = tuple[bytes, ...]
"""Where a path stands: one digest for each of its parts. Two names with one digest stand at one place, side by side."""
_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """One stretch of a root.

    Attributes:
        after: the place behind which it begins; ``None`` for the first.
        until: the place of its last path.
        files: how many entries it had when it was cut.
    """

    after: Place | None
    until: Place
    files: int


def place(key: bytes, path: bytes) -> Place:
    """Return where a path stands. ``key``: 32 bytes, the same for everybody who works on an archive."""
    return tuple(hashlib.blake2b(name, key=key, digest_size=_DIGEST_BYTES).digest() for name in path.split(b"/"))


def cut(system: FileSystem, root: bytes, files: int, listing: Listing, key: bytes) -> Iterator[Shard]:
    """Cut everything in a root into shards, as it is listed.

    Args:
        root: absolute path.
        files: entries a shard; the last one may have fewer.
        listing: takes note of what could not be listed.
        key: see ``place``.

    Raises:
        ShareDown: the root cannot be listed.
    """
    after: Place | None = None
    last, count = b"", 0
    for found in walk(system, root, None, listing, key):
        last, count = found.path, count + 1
        if count == files:
            until = place(key, last)
            yield Shard(after, until, count)
            after, count = until, 0
    if count:
        yield Shard(after, place(key, last), count)


def walk(system: FileSystem, root: bytes, shard: Shard | None, listing: Listing, key: bytes) -> Iterator[Found]:
    """Yield every entry of a shard (``None``: of the whole root) that is no folder, in order.

    Raises:
        ShareDown: the root cannot be listed, or a folder in it fails in a way that means the whole share.
    """
    low: Place = shard.after or () if shard is not None else ()
    high = shard.until if shard is not None else None
    pending = [(b"", iter(_entries(system, root, b"", low, high, listing, key)))]
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
            pending.append((path + b"/", iter(_entries(system, root, path, low, high, listing, key))))


def _entries(
    system: FileSystem, root: bytes, folder: bytes, low: Place, high: Place | None, listing: Listing, key: bytes
) -> list[os.DirEntry[bytes]]:
    """List one folder: what of it lies in the stretch or may hold something that does, in order."""
    above = place(key, folder) if folder else ()
    found: list[tuple[Place, bytes, os.DirEntry[bytes]]] = []
    try:
        for entry in system.entries(os.path.join(root, folder) if folder else root):
            at = above + place(key, entry.name)
            if entry.is_dir(follow_symlinks=False):
                depth = len(at)
                inside = at >= low[:depth] and (high is None or at <= high[:depth])
            else:
                inside = at > low and (high is None or at <= high)
            if inside:
                found.append((at, entry.name, entry))
    except OSError as error:
        note_failed_folder(system, root, folder, listing, error)
    return [entry for _, _, entry in sorted(found, key=itemgetter(0, 1))]
