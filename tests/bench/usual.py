"""The usual way, as it is found in many a repository: a watchdog handler that predicts and inserts, file by file.

    python usual.py INBOX DATABASE FILMS

The network is the shipped one's architecture; how fast it is does not depend on its weights.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from pathlib import Path
from queue import SimpleQueue

import imagecodecs
import keras
import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.uid import JPEGLossless, JPEGLosslessSV1
from watchdog.events import DirMovedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from preread_training.nets.architectures import build_efficientnet_lite0

_SIDE_PX = 224


def pixels_of(path: Path) -> np.ndarray:
    """The film as float64 [224, 224] in [0, 1]."""
    if path.suffix == ".dcm":
        film = pydicom.dcmread(path)
        if film.file_meta.TransferSyntaxUID in (JPEGLossless, JPEGLosslessSV1):  # of which pydicom has no free decoder
            stored = imagecodecs.ljpeg_decode(get_frame(film.PixelData, 0, number_of_frames=1)).astype(np.float64)
        else:
            stored = film.pixel_array.astype(np.float64)
        grey = (stored - stored.min()) / (stored.max() - stored.min()) * 255
        picture = Image.fromarray(grey.astype(np.uint8))
    else:
        picture = Image.open(path).convert("L")
    return np.asarray(picture.resize((_SIDE_PX, _SIDE_PX))) / 255.0


class Handler(FileSystemEventHandler):
    """Hand each new file over to the loop."""

    def __init__(self, found: SimpleQueue[Path]) -> None:
        self._found = found

    def on_created(self, event: FileSystemEvent) -> None:
        """A film was moved in from outside."""
        self._found.put(Path(os.fsdecode(event.src_path)))

    def on_moved(self, event: DirMovedEvent | FileMovedEvent) -> None:
        """A film was renamed within."""
        self._found.put(Path(os.fsdecode(event.dest_path)))


def main() -> None:
    """Assess so many films, then say what it took."""
    inbox, database, films = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    inputs = keras.Input((_SIDE_PX, _SIDE_PX, 1))
    model = keras.Model(inputs, build_efficientnet_lite0()(inputs)["logit"])
    model.predict(np.zeros((1, _SIDE_PX, _SIDE_PX, 1), np.float32), verbose=0)
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE result (path TEXT, probability REAL, at REAL)")
    connection.commit()
    found: SimpleQueue[Path] = SimpleQueue()
    observer = Observer()
    observer.schedule(Handler(found), os.fspath(inbox))
    observer.start()
    print("ready", flush=True)
    times_ms, before_s, began = [], time.process_time(), 0.0
    for _ in range(films):
        path = found.get(timeout=600)
        start = time.perf_counter()
        began = began or start
        logit = float(model.predict(pixels_of(path)[np.newaxis, ..., np.newaxis], verbose=0)[0, 0])
        row = (str(path), 1 / (1 + np.exp(-logit)), time.time())
        connection.execute("INSERT INTO result VALUES (?, ?, ?)", row)
        connection.commit()
        times_ms.append(1000 * (time.perf_counter() - start))
    spent_ms = 1000 * (time.process_time() - before_s) / films
    peak = next(
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    took_s = time.perf_counter() - began
    print(
        json.dumps({"ms": times_ms, "took_s": took_s, "cpu_ms": spent_ms, "peak_mb": int(peak) * 1024 / 1e6}),
        flush=True,
    )
    observer.stop()
    observer.join()
    connection.close()


if __name__ == "__main__":
    main()
