"""Previews: what a slot saw of a film, small and lossless, for the page; kept beside the database, never in a root.

A preview is named by the SHA-256 of its film's bytes and holds pixels alone: no tag, no name. It is a convenience:
where it cannot be written (disk full, read-only, no rights) it is dropped, and the assessment goes on; no film waits
for a disk to confirm it, so that one whose end a power loss took is known by its end and counts as none. Nothing here
deletes one but a purge; whoever needs the space may. What is being written lies beside the 256 folders, as
``<SHA-256>.part``: a purge takes it along, and so does a write that fails; what a killed writer left, the next start.
"""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from worker.domain import PixelArray
from worker.errors import UsageError

MAX_SIDE_PX = 1024
# A longer side of at least this many is left as whole pixels averaged give it; else it is resampled to the maximum.
_MIN_SIDE_PX = 768
_PNG_END = b"IEND\xaeB`\x82"
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600
_UNFINISHED = re.compile(r"[0-9a-f]{64}\.part")
# Far beyond the time that one preview takes to write: whoever wrote this is dead.
_ABANDONED_S = 3600.0


def folder_for(named: Path | None, database: Path | None) -> Path | None:
    """Return where previews lie: the folder that is named, else beside the SQLite file; ``None`` for neither."""
    if named is not None:
        return Path(os.path.abspath(named))
    return None if database is None else Path(f"{os.path.abspath(database)}-previews")


def path_of(folder: Path, sha256: str) -> Path:
    """Return where the preview of this content lies; in 256 folders, so that none grows too long to list."""
    return folder / sha256[:2] / f"{sha256}.png"


def _unfinished(folder: Path, sha256: str) -> Path:
    # two slots that write the same film write the same bytes, so that they may share this name
    return folder / f"{sha256}.part"


def draw(pixels: PixelArray) -> bytes:
    """Return a PNG of at most 1024 px a side from uint8 [rows, columns]; pixels are never stretched."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    longer = max(picture.size)
    factor = -(-longer // MAX_SIDE_PX)
    if longer / factor >= min(_MIN_SIDE_PX, longer):
        picture = picture.reduce(factor) if factor > 1 else picture
    else:
        picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.BILINEAR)
    # The grain of a film repeats nowhere: to look for repetitions costs twice the time and a third more space.
    kind = imagecodecs.PNG
    pixels = np.asarray(picture)
    return bytes(imagecodecs.png_encode(pixels, 1, strategy=kind.STRATEGY.HUFFMAN_ONLY, filter=kind.FILTER.AVG))


def keep(folder: Path, sha256: str, pixels: PixelArray, min_free_bytes: int) -> bool:
    """Write the preview of a film whole or not at all; ``False`` when it had to be dropped.

    Args:
        pixels: uint8 [rows, columns], as rendered.
        min_free_bytes: what must stay free on that disk.
    """
    target, unfinished = path_of(folder, sha256), _unfinished(folder, sha256)
    try:
        os.makedirs(target.parent, mode=_FOLDER_MODE, exist_ok=True)
        disk = os.statvfs(target.parent)
        content = draw(pixels)
        if disk.f_bavail * disk.f_frsize - len(content) < min_free_bytes:
            return False
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
        try:
            with open(descriptor, "wb") as stream:
                stream.write(content)
                stream.truncate()
            os.replace(unfinished, target)
        except OSError:
            os.unlink(unfinished)
            return False
    except (OSError, MemoryError):
        return False
    return True


def sweep(folder: Path) -> int:
    """Delete what writers that died long ago left half written; return how many such files."""
    swept = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not (_UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)):
                    continue
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_S:
                    os.unlink(entry.path)
                    swept += 1
    except OSError:
        return swept  # there is no folder yet, or it cannot be changed: a preview keeps no film waiting
    return swept


def exists(folder: Path, sha256: str) -> bool:
    """Tell whether the preview of this content is kept, and whole."""
    try:
        with open(os.open(path_of(folder, sha256), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return False
            stream.seek(-len(_PNG_END), os.SEEK_END)
            return stream.read() == _PNG_END
    except OSError:
        return False


def remove(folder: Path | None, sha256: str) -> bool:
    """Delete the preview of a content that is forgotten, and what was written of one; return whether any was there.

    Raises:
        UsageError: it cannot be deleted.
    """
    removed = False
    for path in () if folder is None else (_unfinished(folder, sha256), path_of(folder, sha256)):
        try:
            os.unlink(path)
            removed = True
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"a preview in {folder} cannot be deleted: {error.strerror}") from error
    return removed


def load(folder: Path | None, sha256: str | None) -> bytes | None:
    """Return the preview's PNG; ``None`` where none is kept."""
    if folder is None or sha256 is None:
        return None
    try:
        content = path_of(folder, sha256).read_bytes()
    except OSError:
        return None
    return content if content.endswith(_PNG_END) else None
