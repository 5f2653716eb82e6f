"""Where the time goes: each stage of a film in a slot, and the functions of the worker's main thread."""

from __future__ import annotations

import hashlib
import os
import pstats
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from preread.imaging.preprocessing import normalise_grey_levels, resize_to_input
from preread.imaging.preview_png import encode_preview
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread.model import bundles
from preread.model.assess import SHORTER_SIDE_PX
from preread.model.classifier import Classifier
from tests.bench import ways
from tests.bench.films import put

_TURNS = 3
_PROFILE = """
import cProfile, sys, time
from preread.cli import main
sys.argv = ["preread", *sys.argv[2:]]
profile = cProfile.Profile(time.thread_time)
try:
    profile.runcall(main)
except SystemExit:
    pass
finally:
    profile.dump_stats({file!r})
"""
# What the main thread does for an image, by the function that does it; a large file alone is asked for by its content.
_DONE_BY = {
    "claim": ("dispatcher.py", "_claim"),
    "commit": ("writing.py", "write"),
    "is it known?": ("content_gate.py", "_look_up"),
    "pipes to the inference processes": ("pool.py", "poll"),
    "all of the loop": ("service.py", "_run"),
}


def stages(films: Sequence[Path]) -> dict[str, float]:
    """Return milliseconds of processor time of each stage, the best of some turns, the mean of the films."""
    classifier = Classifier(bundles.load_bundle(bundles.find_bundle()))
    spec = classifier.bundle.manifest.preprocessing
    spent: defaultdict[str, list[float]] = defaultdict(list)
    for film in films:
        data = film.read_bytes()
        header = read_image_header(data)
        pixels = decode_radiograph(header, shorter_side_px=SHORTER_SIDE_PX).pixels
        picture = resize_to_input(spec, pixels)
        batch = normalise_grey_levels(spec, picture)[None, :, :, None]
        output = classifier.classify(batch)
        spent["read"].append(_best(film.read_bytes))
        spent["SHA-256"].append(_best(partial(hashlib.sha256, data)))
        spent["header"].append(_best(partial(read_image_header, data)))
        spent["decode and render"].append(_best(partial(decode_radiograph, header, shorter_side_px=SHORTER_SIDE_PX)))
        spent["shrink"].append(_best(partial(resize_to_input, spec, pixels)))
        spent["network"].append(_best(partial(classifier.classify, batch)))
        spent["detector"].append(_best(partial(classifier.detector.check_scope, picture, output.embedding)))
        spent["preview"].append(_best(partial(encode_preview, pixels)))
    return {stage: round(sum(times) / len(times), 2) for stage, times in spent.items()}


def parent(films: Sequence[Path], folder: Path) -> dict[str, float]:
    """Return milliseconds of processor time a film of what the worker's main thread does, most of all first."""
    worker = ways.Worker(folder, f"sqlite:///{folder}.db")
    put(films, worker.root)
    file = folder / "profile"
    subprocess.run(
        [sys.executable, "-c", _PROFILE.format(file=os.fspath(file)), "-", *worker.command(), "--once"],
        env=worker.environment | {"PYTHONPATH": os.getcwd()},
        cwd=folder,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    worker.close()
    by_function = pstats.Stats(os.fspath(file)).stats  # type: ignore[attr-defined]
    found = {
        (Path(path).name, function): cumulated
        for (path, _, function), (_, _, _, cumulated, _) in by_function.items()
        if "/worker/preread/" in path
    }
    renamed = {name for name, key in _DONE_BY.items() if key not in found} - {"is it known?"}
    if renamed:
        raise LookupError(
            f"the profile has none of these: {sorted(renamed)}; their functions were renamed: correct _DONE_BY"
        )
    return {name: round(1000 * found.get(key, 0.0) / len(films), 2) for name, key in _DONE_BY.items()}


def _best(call: Callable[[], object]) -> float:
    times = []
    for _ in range(_TURNS):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return 1000 * min(times)
