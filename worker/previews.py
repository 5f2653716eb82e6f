"""Previews: what a slot saw of a film, small and lossless, for the page; kept beside the database, never in a root.

A preview is named by the SHA-256 of its film's bytes and holds pixels alone: no tag, no name. It is a convenience:
where it cannot be written (disk full, read-only, no rights) it is dropped, and the assessment goes on. Nothing here
deletes one; whoever needs the space may.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import numpy as np
from PIL import Image

from worker.domain import PixelArray

MAX_SIDE_PX = 1024
# The pixels are noise to a compressor: its first level costs a tenth of the time and a tenth more space.
_COMPRESS_LEVEL = 1
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600


def folder_for(named: Path | None, database: Path | None) -> Path | None:
    """Return where previews lie: the folder that is named, else beside the SQLite file; ``None`` for neither."""
    if named is not None:
        return Path(os.path.abspath(named))
    return None if database is None else Path(f"{os.path.abspath(database)}-previews")


def path_of(folder: Path, sha256: str) -> Path:
    """Return where the preview of this content lies; in 256 folders, so that none grows too long to list."""
    return folder / sha256[:2] / f"{sha256}.png"


def draw(pixels: PixelArray) -> bytes:
    """Return a PNG of at most 1024 px a side from uint8 [rows, columns]; pixels are never stretched."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=_COMPRESS_LEVEL)
    return stream.getvalue()


def keep(folder: Path, sha256: str, pixels: PixelArray, min_free_bytes: int) -> bool:
    """Write the preview of a film whole or not at all; ``False`` when it had to be dropped.

    Args:
        pixels: uint8 [rows, columns], as rendered.
        min_free_bytes: what must stay free on that disk.
    """
    target = path_of(folder, sha256)
    # two slots that write the same film write the same bytes, so that they may share this name
    unfinished = target.with_suffix(".part")
    try:
        os.makedirs(target.parent, mode=_FOLDER_MODE, exist_ok=True)
        disk = os.statvfs(target.parent)
        content = draw(pixels)
        if disk.f_bavail * disk.f_frsize - len(content) < min_free_bytes:
            return False
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.truncate()
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, target)
    except (OSError, MemoryError):
        return False
    return True


def exists(folder: Path, sha256: str) -> bool:
    """Tell whether the preview of this content is kept."""
    try:
        return stat.S_ISREG(os.lstat(path_of(folder, sha256)).st_mode)
    except OSError:
        return False


def load(folder: Path | None, sha256: str | None) -> bytes | None:
    """Return the preview's PNG; ``None`` where none is kept."""
    if folder is None or sha256 is None:
        return None
    try:
        return path_of(folder, sha256).read_bytes()
    except OSError:
        return None
