"""More events than the kernel's queue holds: ``python tests/programs/storm.py FOLDER FILES`` writes so many files."""

from __future__ import annotations

import sys
from pathlib import Path

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


def blow(folder: Path, files: int) -> set[bytes]:
    """Write small files, and then events until the queue must have overflowed; return the files' names.

    Equal events in a row are one in the queue, so two files are closed after writing in turns.
    """
    names = [f"storm{number}" for number in range(files)]
    for name in names:
        (folder / name).write_bytes(b"no film")
    pair = [folder / names[0], folder / names[1]]
    for number in range(int(QUEUE.read_text()) + 1000):
        with pair[number % 2].open("ab"):
            pass
    return {name.encode() for name in names}


if __name__ == "__main__":
    blow(Path(sys.argv[1]), int(sys.argv[2]))
