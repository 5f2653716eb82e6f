"""Previews: what a slot saw of a film, small and lossless, for the page; kept beside the database, never in a root.

A slot draws it (``preview_png``) and hands it over; the worker looks whether it is one, and writes it.

A preview is named by the SHA-256 of its film's bytes and holds pixels alone: no tag, no name. It is a convenience:
where it cannot be written (disk full, read-only, no rights) it is dropped, and the assessment goes on; no film waits
for a disk to confirm it. One that lacks its end, since it is being written, or its writer was killed, or a power loss
took the end, counts as none. Nothing here deletes one but a purge; whoever needs the space may.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from preread.core.errors import UsageError

MAX_SIDE_PX = 1024
MAX_BYTES = 5 * MAX_SIDE_PX * MAX_SIDE_PX // 4
"""More than the largest preview that cannot be compressed."""
PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
GREY_8_BITS = (8, 0, 0, 0, 0)
_HEAD, _HEADER_BYTES = struct.Struct(">8sI4s"), 13
_SMALLEST = len(PNG_START) + 3 * 12 + _HEADER_BYTES
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600


def preview_folder(named: Path | None, database: Path | None) -> Path | None:
    """Return where previews lie: the folder that is named, else beside the SQLite file; ``None`` for neither."""
    if named is not None:
        return Path(os.path.abspath(named))
    return None if database is None else Path(f"{os.path.abspath(database)}-previews")


def path_of(folder: Path, sha256: str) -> Path:
    """Return where the preview of this content lies; in 256 folders, so that none grows too long to list."""
    return folder / sha256[:2] / f"{sha256}.png"


def is_preview(content: bytes) -> bool:
    """Tell whether these bytes, which may be anybody's, are a grey PNG of at most 1024 px a side and nothing more.

    What the compressed part holds is not looked at: that is for the browser, which reads PNG from anywhere.
    """
    head = _HEAD.pack(PNG_START, _HEADER_BYTES, b"IHDR")
    if not content.startswith(head) or not _SMALLEST <= len(content) <= MAX_BYTES:
        return False
    kinds = []
    at = len(PNG_START)
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 8 + length
        if content[end : end + 4] != struct.pack(">I", zlib.crc32(content[at + 4 : end])):
            return False
        kinds.append(kind)
        at = end + 4
    columns, rows, *rest = struct.unpack_from(">II5B", content, len(head))
    sides = 0 < columns <= MAX_SIDE_PX and 0 < rows <= MAX_SIDE_PX
    return sides and tuple(rest) == GREY_8_BITS and kinds == [b"IHDR", b"IDAT", b"IEND"] and at == len(content)


@dataclass(frozen=True, slots=True)
class PreviewStore:
    """Where previews are kept.

    Attributes:
        folder: see ``preview_folder``.
        min_free_bytes: what must stay free on that disk.
    """

    folder: Path
    min_free_bytes: int = 0


def save(folder: Path, sha256: str, content: bytes, min_free_bytes: int) -> bool:
    """Write the preview of a film whole or not at all; ``False`` when it had to be dropped.

    Args:
        content: as ``preview_png.encode_preview`` returned it; of anything else none is kept.
        min_free_bytes: what must stay free on that disk.
    """
    if not is_preview(content):
        return False
    target = path_of(folder, sha256)
    try:
        os.makedirs(target.parent, mode=_FOLDER_MODE, exist_ok=True)
        disk = os.statvfs(target.parent)
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
