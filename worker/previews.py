"""Previews: what a slot saw of a film, small and lossless, for the page; kept beside the database, never in a root.

A preview is named by the SHA-256 of its film's bytes and holds pixels alone: no tag, no name. It is a convenience:
where it cannot be written (disk full, read-only, no rights) it is dropped, and the assessment goes on; no film waits
for a disk to confirm it. One that lacks its end, since it is being written, or its writer was killed, or a power loss
took the end, counts as none. Nothing here deletes one but a purge; whoever needs the space may.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import numpy as np
from isal import isal_zlib
from PIL import Image, ImageOps

from worker.domain import PixelArray
from worker.errors import UsageError

MAX_SIDE_PX = 1024
# A longer side of at least this many is left as whole pixels averaged give it; else shares of pixels are averaged.
_MIN_SIDE_PX = 768
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_GREY_8_BITS = (8, 0, 0, 0, 0)
_UP = 2
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
    longer = max(picture.size)
    factor = -(-longer // MAX_SIDE_PX)
    if longer / factor >= min(_MIN_SIDE_PX, longer):
        picture = picture.reduce(factor) if factor > 1 else picture
    else:
        picture = ImageOps.contain(picture, (MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.BOX)
    return _as_png(np.asarray(picture))


def _as_png(pixels: PixelArray) -> bytes:
    """Write uint8 [rows, columns] as PNG (ISO/IEC 15948), each pixel as its difference from the one above.

    Pillow and libpng take two to seven times as long, which was more than the network takes.
    """
    rows, columns = pixels.shape
    lines = np.empty((rows, columns + 1), np.uint8)
    lines[:, 0] = _UP
    lines[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=lines[1:, 1:])
    header = struct.pack(">II5B", columns, rows, *_GREY_8_BITS)
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(lines, 1)), (b"IEND", b""))
    return _PNG_START + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checked = isal_zlib.crc32(content, isal_zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checked)


def keep(folder: Path, sha256: str, pixels: PixelArray, min_free_bytes: int) -> bool:
    """Write the preview of a film whole or not at all; ``False`` when it had to be dropped.

    Args:
        pixels: uint8 [rows, columns], as rendered.
        min_free_bytes: what must stay free on that disk.
    """
    target = path_of(folder, sha256)
    try:
        os.makedirs(target.parent, mode=_FOLDER_MODE, exist_ok=True)
        disk = os.statvfs(target.parent)
        content = draw(pixels)
        if disk.f_bavail * disk.f_frsize - len(content) < min_free_bytes:
            return False
        # two slots that write the same film write the same bytes, and neither makes the file shorter than it is to be
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
        try:
            with open(descriptor, "wb") as stream:
                stream.write(content)
                stream.truncate()
        except OSError:
            os.unlink(target)
            return False
    except (OSError, MemoryError):
        return False
    return True


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
    """Delete the preview of a content that is forgotten; return whether any was there.

    Raises:
        UsageError: it cannot be deleted.
    """
    if folder is None:
        return False
    try:
        os.unlink(path_of(folder, sha256))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UsageError(f"a preview in {folder} cannot be deleted: {error.strerror}") from error
    return True


def load(folder: Path | None, sha256: str | None) -> bytes | None:
    """Return the preview's PNG; ``None`` where none is kept."""
    if folder is None or sha256 is None:
        return None
    try:
        content = path_of(folder, sha256).read_bytes()
    except OSError:
        return None
    return content if content.endswith(_PNG_END) else None
