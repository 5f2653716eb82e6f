"""Perturbation tests: parts of images hidden, exchanged or changed.

The results of a network that reads lungs stay the same if the border is hidden, and follow the lungs if they are
exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from preread.core.types import JSONObject, PixelArray
from preread.model.calibration import Calibration
from preread_training.analysis.activation_maps import (
    NetworkOutputs,
    RunNetwork,
    estimate_head_bias,
    make_border_cell_mask,
    measure_map_energy_share,
)
from preread_training.analysis.transforms import DISTURBANCES, Disturbance, fill_region, reframe_like_pneumonia
from preread_training.stats.bootstrap import Labels, Rows, Scores, nan_to_none
from preread_training.stats.metrics import auc

# Shares of the image's sides. No image of the data set comes with a mask of its lungs: this box holds both lungs of
# the mean image, with and without pneumonia, and the heart between them.
LUNG_BOX = (0.14, 0.82, 0.13, 0.88)
BORDER = 1 / 14
# A probability that moves by less than this is taken for unmoved.
MOVED = 0.05


def make_border_mask(rows: int, columns: int, width: float = BORDER) -> Rows:
    """Return the mask of an image's border, for the perturbation tests.

    Args:
        rows: of the image.
        columns: of the image.
        width: of the frame, as a share of each side.

    Returns:
        bool [rows, columns], true in the frame.
    """
    region = np.ones((rows, columns), bool)
    down, across = round(width * rows), round(width * columns)
    region[down : rows - down, across : columns - across] = False
    return region


def make_lung_mask(rows: int, columns: int) -> Rows:
    """Return the mask of the lung region ``LUNG_BOX``, bool [rows, columns]."""
    top, bottom, left, right = LUNG_BOX
    region = np.zeros((rows, columns), bool)
    region[round(top * rows) : round(bottom * rows), round(left * columns) : round(right * columns)] = True
    return region


def _moved(before: Scores, after: Scores, labels: Labels, calibration: Calibration) -> JSONObject:
    p, q = (
        np.array([calibration.compute_probability(logit) for logit in logits.tolist()]) for logits in (before, after)
    )
    return {
        "auc": nan_to_none(auc(after, labels)),
        "auc_change": nan_to_none(auc(after, labels) - auc(before, labels)),
        "median_logit_change": float(np.median(np.abs(after - before))),
        "unmoved": float((np.abs(q - p) < MOVED).mean()),
        "mean_probability_with_finding": nan_to_none(float(q[labels == 1].mean())) if (labels == 1).any() else None,
        "mean_probability_without_finding": nan_to_none(float(q[labels == 0].mean())) if (labels == 0).any() else None,
    }


def measure_lung_exchange(look: RunNetwork, images: PixelArray, labels: Labels, seed: int = 0) -> JSONObject:
    """Measure the AUC after lungs are exchanged between images.

    Each image gets the lung region of an image with the other label. Lungs that are hidden and not replaced cannot tell
    as much, since a grey patch looks like consolidated lung.

    Args:
        look: the network.
        images: uint8 [n, rows, columns].
        labels: int64 [n] in {0, 1}, both present.
        seed: of the draw of the lungs.

    Returns:
        ``auc`` of the logits against the label of the image that the lungs came from, and ``films`` (the number of
        images). Below one half, the surroundings decide.
    """
    generator = np.random.default_rng(seed)
    giver = np.empty(len(labels), np.int64)
    for label in (0, 1):
        giver[labels == label] = generator.choice(np.flatnonzero(labels != label), int((labels == label).sum()))
    rows, columns = images.shape[1:]
    exchanged = np.where(make_lung_mask(rows, columns), images[giver], images)
    return {"films": len(labels), "auc": nan_to_none(auc(look(exchanged).logits, labels[giver]))}


def measure_occlusion(
    look: RunNetwork, images: PixelArray, labels: Labels, calibration: Calibration, before: NetworkOutputs
) -> JSONObject:
    """Measure the change of logits after border or lungs are hidden.

    The border becomes black, as outside a collimator; the lungs get each image's mean grey.

    Args:
        look: the network.
        images: uint8 [n, rows, columns].
        labels: int64 [n] in {0, 1}.
        calibration: from logits to probabilities.
        before: outputs for the images as they are.

    Returns:
        For ``border``, ``wide_border`` (twice as wide) and ``lungs``: ``auc`` with the part hidden, ``auc_change``,
        ``median_logit_change`` (absolute), ``unmoved`` (share of images whose probability moves by less than 0.05),
        mean probabilities by label, and ``hidden`` (share of the image).
    """
    rows, columns = images.shape[1:]
    black = np.zeros(len(images), np.uint8)
    parts: dict[str, tuple[Rows, PixelArray | None]] = {
        "border": (make_border_mask(rows, columns), black),
        "wide_border": (make_border_mask(rows, columns, 2 * BORDER), black),
        "lungs": (make_lung_mask(rows, columns), None),
    }
    return {
        name: {
            "hidden": float(region.mean()),
            **_moved(before.logits, look(fill_region(images, region, grey)).logits, labels, calibration),
        }
        for name, (region, grey) in parts.items()
    }


def measure_reframing(
    look: RunNetwork, images: PixelArray, calibration: Calibration, before: NetworkOutputs, seed: int = 0
) -> JSONObject:
    """Measure the change of probability after the top is cropped off.

    Images without the finding are framed like images with it, see ``transforms.reframe_like_pneumonia``.

    Args:
        look: the network.
        images: uint8 [n, rows, columns], without the finding.
        calibration: from logits to probabilities.
        before: outputs for the images as they are.
        seed: of the shares cut off.

    Returns:
        ``films`` (the number of images), ``unmoved`` (share whose probability moves by less than 0.05), ``risen``
        (share whose probability rises by more), ``median`` and ``percentile_95`` of the absolute change.
    """
    tops = np.random.default_rng(seed).uniform(0.10, 0.25, len(images))
    cut = np.concatenate(
        [reframe_like_pneumonia(image[np.newaxis], top) for image, top in zip(images, tops, strict=True)]
    )
    after = look(cut)
    p, q = ([calibration.compute_probability(logit) for logit in seen.logits.tolist()] for seen in (before, after))
    change = np.array(q) - np.array(p)
    return {
        "films": len(images),
        "unmoved": float((np.abs(change) < MOVED).mean()),
        "risen": float((change >= MOVED).mean()),
        "median": float(np.median(np.abs(change))),
        "percentile_95": float(np.percentile(np.abs(change), 95)),
    }


def measure_robustness(
    look: RunNetwork,
    images: PixelArray,
    labels: Labels,
    calibration: Calibration,
    before: NetworkOutputs,
    disturbances: Mapping[str, Disturbance] = DISTURBANCES,
) -> JSONObject:
    """Measure the change of logits after each disturbance of the images.

    Args:
        look: the network.
        images: uint8 [n, rows, columns].
        labels: int64 [n] in {0, 1}.
        calibration: from logits to probabilities.
        before: outputs for the images as they are.
        disturbances: functions from images to images, by name.

    Returns:
        For each disturbance ``auc``, ``auc_change``, ``median_logit_change``, ``unmoved`` and mean probabilities by
        label, as in ``measure_occlusion``.
    """
    return {
        name: _moved(before.logits, look(disturb(images)).logits, labels, calibration)
        for name, disturb in disturbances.items()
    }


def choose_perturbed_rows(labels: Labels, conflict: Rows, most: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Choose rows for the slow perturbation tests.

    Hard negatives come first, up to half of ``most``; then images of both labels in turn.

    Args:
        labels: int64 [n] in {0, 1}.
        conflict: bool [n], see ``dataset.Data``.
        most: how many rows at most.
        seed: of the draw.

    Returns:
        int64 [at most ``most``], rising.
    """
    generator = np.random.default_rng(seed)
    hard = np.flatnonzero(conflict & (labels == 0))
    rest = [generator.permutation(np.setdiff1d(np.flatnonzero(labels == label), hard)) for label in (0, 1)]
    chosen: list[int] = hard.tolist()[: most // 2]
    queues: list[Iterator[int]] = [iter(rows.tolist()) for rows in rest]
    while queues and len(chosen) < most:
        queue = queues.pop(0)
        row = next(queue, None)
        if row is not None:
            chosen.append(row)
            queues.append(queue)
    return np.array(sorted(chosen), dtype=np.int64)


def run_perturbation_tests(
    look: RunNetwork, images: PixelArray, labels: Labels, conflict: Rows, calibration: Calibration, most: int = 400
) -> JSONObject:
    """Run all perturbation tests on images that the network had not seen.

    Args:
        look: the network.
        images: uint8 [n, rows, columns].
        labels: int64 [n] in {0, 1}, both present.
        conflict: bool [n], see ``dataset.Data``.
        calibration: from logits to probabilities.
        most: at most this many images go through the table of disturbances.

    Returns:
        ``films`` (the number of images), ``activation_map``, ``occlusion``, ``lungs_exchanged``, ``reframing`` and
        ``robustness``, as the manifest holds them under ``inside``.
    """
    seen = look(images)
    bias, off = estimate_head_bias(seen)
    region = make_border_cell_mask(seen.maps.shape[1])
    shares = measure_map_energy_share(seen.maps, region)
    absent = np.flatnonzero(labels == 0)
    rows = choose_perturbed_rows(labels, conflict, most)
    chosen = NetworkOutputs(seen.logits[rows], seen.maps[rows])
    return {
        "films": len(labels),
        "activation_map": {
            "cells": int(seen.maps.shape[1]),
            "bias": bias,
            "largest_deviation_of_logit": off,
            "border_energy": float(shares.mean()),
            "border_energy_with_finding": float(shares[labels == 1].mean()),
            "border_energy_without_finding": float(shares[labels == 0].mean()),
            "border_area": float(region.mean()),
        },
        "occlusion": measure_occlusion(look, images, labels, calibration, seen),
        "lungs_exchanged": measure_lung_exchange(look, images, labels),
        "reframing": measure_reframing(
            look, images[absent], calibration, NetworkOutputs(seen.logits[absent], seen.maps[absent])
        ),
        "robustness": {
            "films": len(rows),
            "auc": nan_to_none(auc(chosen.logits, labels[rows])),
            "disturbed": measure_robustness(look, images[rows], labels[rows], calibration, chosen),
        },
    }
