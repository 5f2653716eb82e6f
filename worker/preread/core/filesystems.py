"""File-system type of a path, from the kernel's mount table (proc(5)).

Changes by another host on a network file system raise no inotify event, and SQLite's locks do not work there: such
watched folders are polled, and such a database is refused. The path's own file system is accessed only to resolve
symbolic links.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
FSTAB = Path("/etc/fstab")
UNKNOWN = "unknown"

# Served by another host (or the host of a virtual machine): files can change without this kernel.
NETWORK_TYPES = frozenset(
    """9p acfs afs afpfs autofs beegfs ceph cifs coda cvfs davfs fhgfs gfs gfs2 glusterfs gpfs ibrix lustre mfs ncpfs
    nfs nfs3 nfs4 ocfs2 orangefs panfs prl_fs pvfs2 shfs smb smb2 smb3 smbfs sshfs vboxsf virtiofs vmhgfs wekafs
    """.split()  # noqa: SIM905  one name a line would be a page
)
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table.

    Attributes:
        mount_point: absolute path, as the kernel's bytes.
        fs_type: e.g. ``ext4``, ``cifs``, ``fuse.sshfs``.
    """

    mount_point: bytes
    fs_type: str


def parse_mounts(table: bytes) -> list[Mount]:
    """Parse the content of a mountinfo file; malformed lines are skipped."""
    mounts = []
    for line in table.splitlines():
        before, separator, after = line.partition(b" - ")
        fields = before.split(b" ")
        if separator and len(fields) >= 6 and after:
            mounts.append(Mount(_unescaped(fields[4]), os.fsdecode(after.split(b" ")[0])))
    return mounts


def read_mounts() -> list[Mount]:
    """Return the mounts of this process in mount order; none if not on Linux."""
    try:
        return parse_mounts(MOUNTINFO.read_bytes())
    except OSError:
        return []


def file_system_type(path: str | bytes | os.PathLike[str], mounts: Iterable[Mount] | None = None) -> str:
    """Return the type of the file system on which a path is or would be.

    Args:
        path: need not exist; symbolic links in it are followed.
        mounts: the mount table; ``None`` reads it.

    Returns:
        For example ``ext4`` or ``cifs``; ``unknown`` if no mount holds the path.
    """
    resolved = os.path.realpath(os.fsencode(path))
    best = Mount(b"", UNKNOWN)
    for mount in read_mounts() if mounts is None else mounts:
        # of two mounts on one point the later one covers the earlier: hence >=
        if _beneath(resolved, mount.mount_point) and len(mount.mount_point) >= len(best.mount_point):
            best = mount
    return best.fs_type


def is_network(fs_type: str) -> bool:
    """Return whether another host can change files on such a file system.

    FUSE counts as network whatever its subtype (sshfs, rclone, s3fs...); ``fuseblk`` (NTFS on a local disk) does not.

    Args:
        fs_type: an unknown type counts as local; the periodic scan finds all changes anyway.
    """
    return fs_type in NETWORK_TYPES or fs_type == "fuse" or fs_type.startswith("fuse.")


def network_file_system(root: str | bytes | os.PathLike[str], mounts: Iterable[Mount] | None = None) -> str | None:
    """Return the network file-system type at or below a folder.

    Args:
        root: the folder.
        mounts: the mount table; ``None`` reads it.

    Returns:
        The type, or the type and "mounted below it"; ``None`` if all is local.
    """
    table = read_mounts() if mounts is None else list(mounts)
    own = file_system_type(root, table)
    if is_network(own):
        return own
    resolved = os.path.realpath(os.fsencode(root))
    for mount in table:
        if is_network(mount.fs_type) and mount.mount_point != resolved and _beneath(mount.mount_point, resolved):
            return f"{mount.fs_type} mounted below it"
    return None


def missing_mount(root: str | bytes | os.PathLike[str]) -> str | None:
    """Return the unmounted fstab(5) mount point at or above a folder.

    With ``nofail`` a host starts without its share, and an empty folder is in its place.

    Returns:
        The mount point; ``None`` if none is missing.
    """
    resolved = os.path.realpath(os.fsencode(root))
    try:
        lines = FSTAB.read_bytes().splitlines()
    except OSError:
        return None
    mount_points = {mount.mount_point for mount in read_mounts()}
    for line in lines:
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith(b"#") or not fields[1].startswith(b"/"):
            continue
        point = os.path.realpath(_unescaped(fields[1]))
        if _beneath(resolved, point) and point not in mount_points:
            return os.fsdecode(point)
    return None


def _unescaped(field: bytes) -> bytes:
    """Return a field of a mount table without its octal escapes."""
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def _beneath(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")
