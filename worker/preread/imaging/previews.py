"""Storage of previews: small, lossless images for the page.

An inference process encodes a preview (``preview_png``); the worker validates and writes it, beside the database and
never in a watched folder. A preview is named by the SHA-256 of its image's file and holds pixels only, no tag. If it
cannot be written (disk full, read-only, no permission) it is dropped and the assessment continues; writes are not
synchronised to disk. A file without the end of a PNG (being written, writer killed, power loss) counts as missing. Only
a purge deletes previews here; an operator may delete them to free space.
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
"""Upper bound on the size of a preview, even an incompressible one."""
PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
GREY_8_BITS = (8, 0, 0, 0, 0)
_HEAD, _HEADER_BYTES = struct.Struct(">8sI4s"), 13
_SMALLEST = len(PNG_START) + 3 * 12 + _HEADER_BYTES
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600


def locate_preview_folder(configured: Path | None, database: Path | None) -> Path | None:
    """Return the folder in which previews are stored, from the settings.

    Args:
        configured: folder from the settings.
        database: the SQLite file; ``None`` with Postgres.

    Returns:
        The configured folder, else one beside the SQLite file; ``None`` if there is neither.
    """
    if configured is not None:
        return Path(os.path.abspath(configured))
    return None if database is None else Path(f"{os.path.abspath(database)}-previews")


def locate_preview(folder: Path, sha256: str) -> Path:
    """Return the path of an image's preview, in one of 256 subfolders.

    Args:
        folder: see ``locate_preview_folder``.
        sha256: hex, of the image's file.
    """
    return folder / sha256[:2] / f"{sha256}.png"


def is_preview_png(content: bytes) -> bool:
    """Return whether content is a valid preview, by header and checksums.

    A preview is a grey PNG of at most 1024 pixels a side.

    The compressed data is not inflated; only header, chunks and checksums are verified.
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
    """Folder of the previews, and the free space to leave on its disk.

    Attributes:
        folder: see ``locate_preview_folder``.
        min_free_bytes: bytes that must remain free on that disk.
    """

    folder: Path
    min_free_bytes: int = 0


def store_preview(folder: Path, sha256: str, content: bytes, min_free_bytes: int) -> bool:
    """Write the preview of an image to its folder, or nothing at all.

    Args:
        folder: see ``locate_preview_folder``.
        sha256: hex, of the image's file.
        content: result of ``preview_png.encode_preview``; anything else is not written.
        min_free_bytes: bytes that must remain free on that disk.

    Returns:
        ``False`` if it was not written.
    """
    if not is_preview_png(content):
        return False
    target = locate_preview(folder, sha256)
    try:
        os.makedirs(target.parent, mode=_FOLDER_MODE, exist_ok=True)
        disk = os.statvfs(target.parent)
        if disk.f_bavail * disk.f_frsize - len(content) < min_free_bytes:
            return False
        # two writers of one image write the same bytes, and neither truncates the file below its final size
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


def has_preview(folder: Path, sha256: str) -> bool:
    """Return whether a complete preview of an image is stored."""
    try:
        with open(os.open(locate_preview(folder, sha256), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return False
            stream.seek(-len(_PNG_END), os.SEEK_END)
            return stream.read() == _PNG_END
    except OSError:
        return False


def delete_preview(folder: Path | None, sha256: str) -> bool:
    """Delete the stored preview of an image.

    Args:
        folder: see ``locate_preview_folder``; ``None`` stores no previews.
        sha256: hex, of the image's file.

    Returns:
        Whether there was one.

    Raises:
        UsageError: it cannot be deleted.
    """
    if folder is None:
        return False
    try:
        os.unlink(locate_preview(folder, sha256))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UsageError(
            f"a preview in {folder} cannot be deleted ({error.strerror}): give this user write permission there"
        ) from error
    return True


def load_preview(folder: Path | None, sha256: str | None) -> bytes | None:
    """Return the stored preview of an image as PNG, or ``None``."""
    if folder is None or sha256 is None:
        return None
    try:
        content = locate_preview(folder, sha256).read_bytes()
    except OSError:
        return None
    return content if content.endswith(_PNG_END) else None
