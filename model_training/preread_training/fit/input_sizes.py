"""Accuracy and time of a run's networks at other input sizes."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from preread.core.errors import UsageError
from preread.core.types import JSONObject, PixelArray
from preread.imaging.preprocessing import TRAINING_SPEC, preprocess_image
from preread.model import bundles
from preread.model.bundles import DETECTOR_FILE, WEIGHTS_FILE
from preread.model.classifier import Classifier
from preread_training.data.atomic_files import write_text_atomically
from preread_training.data.dataset import Data
from preread_training.fit.cross_validation import RECORD_FILE, list_finished_folds, load_serving_network
from preread_training.fit.trainer import WEIGHTS_FILE as FITTED_FILE
from preread_training.fit.trainer import compute_logits
from preread_training.stats.bootstrap import nan_to_none
from preread_training.stats.metrics import auc

SIZES_FILE = "sizes.json"
SIDES_PX = (96, 128, 160, 224)
_TIMED = 60
_WARM_UP = 5


def read_input_sizes(run: Path, data: Data) -> JSONObject | None:
    """Read the stored result of ``measure_input_sizes``.

    Args:
        run: folder of the run.
        data: the data set on which it was fitted.

    Returns:
        The record; ``None`` if there is none, or it is of other networks.
    """
    file = run / SIZES_FILE
    if not file.exists():
        return None
    kept: JSONObject = json.loads(file.read_text(encoding="utf-8"))
    return kept if kept.get("networks") == _networks(run) and kept.get("data") == data.digest else None


def _networks(run: Path) -> JSONObject:
    """Return SHA-256 (hex) of the weights of every fold that has its logits."""
    files = [fold / FITTED_FILE for fold in list_finished_folds(run)]
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.exists()}


def measure_input_sizes(
    run: Path, data: Data, *, sides_px: tuple[int, ...] = SIDES_PX, progress: Callable[[], None] = lambda: None
) -> JSONObject:
    """Measure each fold's network at each input size: AUC and time.

    AUC is over held-out images; time is ms for each image with LiteRT on one thread. It takes minutes; the result is
    stored in the run as ``sizes.json`` and read from there next time.

    Args:
        run: folder of the run.
        data: the data set on which it was fitted.
        sides_px: sides of the input in pixels, beside the recipe's own.
        progress: called after each network and side.

    Returns:
        ``sides`` with ``side_px``, ``findings`` (AUC by finding), ``median_ms`` and ``p95_ms``; digests of networks and
        data; ``serving_px`` and ``pictures_timed``.

    Raises:
        UsageError: the run has no network of the product's own recipes.
        NotKept: the disk is full.
    """
    if kept := read_input_sizes(run, data):
        return kept
    recipe = json.loads((run / RECORD_FILE).read_text(encoding="utf-8"))["recipe"]
    networks = _networks(run)
    if "serving_px" not in recipe or not networks:
        raise UsageError(f"{run} has no network of the product's own recipes: leave --sizes out, or finish a fold")
    found = []
    for side in sorted({*sides_px, recipe["serving_px"]}):
        logits = np.full(data.labels.shape, np.nan)
        times_ms: list[float] = []
        for part in networks:
            served = load_serving_network(run, part, len(data.findings), side)
            assert served is not None, "its weights were hashed above"
            held = np.flatnonzero(data.folds == int(part.removeprefix("fold-")))
            logits[held] = compute_logits(served, TRAINING_SPEC, data.pixels[held])
            if not times_ms:  # all folds' networks cost the same
                times_ms = _times_ms(served, data.pixels[held[:_TIMED]])
            progress()
        rows = np.flatnonzero(np.isfinite(logits).all(axis=1))
        by_finding = {}
        for column, name in enumerate(data.findings):
            held_out = data.make_out_of_fold(column, logits[rows, column], rows)
            by_finding[name] = {
                "auc": nan_to_none(auc(held_out.logits, held_out.labels)),
                "auc_conflict_normals": nan_to_none(auc(*held_out.select_hard_negatives())),
            }
        middle, slow = np.percentile(times_ms, [50, 95])
        found.append({"side_px": side, "findings": by_finding, "median_ms": middle, "p95_ms": slow})
    measured: JSONObject = {
        "networks": networks,
        "data": data.digest,
        "serving_px": recipe["serving_px"],
        "pictures_timed": len(times_ms),
        "sides": found,
    }
    write_text_atomically(run / SIZES_FILE, json.dumps(measured, indent=2) + "\n")
    return measured


def _times_ms(served: keras.Model, images: PixelArray) -> list[float]:
    """Measure preprocessing and inference with the worker's classifier."""
    inputs = keras.Input(batch_shape=(1, TRAINING_SPEC.rows, TRAINING_SPEC.columns, 1), name="radiograph")
    model = keras.Model(inputs, served(inputs))
    shipped = bundles.load_bundle(bundles.find_bundle())
    with tempfile.TemporaryDirectory() as folder:
        model.export(str(Path(folder) / WEIGHTS_FILE), format="litert", verbose=False)
        (Path(folder) / DETECTOR_FILE).write_bytes((shipped.path / DETECTOR_FILE).read_bytes())
        classifier = Classifier(replace(shipped, path=Path(folder)))
        times_ms: list[float] = []
        for index in range(-_WARM_UP, len(images)):
            began_s = time.process_time()  # of the processor: whatever else the machine does is not counted
            classifier.classify(preprocess_image(TRAINING_SPEC, images[max(0, index)]))
            times_ms.append(1000 * (time.process_time() - began_s))
    return times_ms[_WARM_UP:]
