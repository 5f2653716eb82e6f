"""Perturbation tests: parts of images hidden, exchanged or changed.

A network that reads lungs answers the same when the border is hidden, and follows the lungs when they are exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from preread.core.types import JSONObject, PixelArray
from preread.model.calibration import Calibration
from preread_training.analysis.activation_maps import Look, Seen, border_cells, energy_share, head_bias
from preread_training.analysis.transforms import DISTURBANCES, Disturbance, hide, reframe
from preread_training.stats.bootstrap import Labels, Rows, Scores, number
from preread_training.stats.metrics import auc

# Shares of the picture's sides. No film of the data set comes with a mask of its lungs: this box holds both lungs of
# the mean film, with and without pneumonia, and the heart between them.
LUNG_BOX = (0.14, 0.82, 0.13, 0.88)
BORDER = 1 / 14
# A probability that moves by less than this is taken for unmoved.
MOVED = 0.05


def border_region(rows: int, columns: int, width: float = BORDER) -> Rows:
    """Return a frame along the edges, bool [rows, columns]."""
    region = np.ones((rows, columns), bool)
    down, across = round(width * rows), round(width * columns)
    region[down : rows - down, across : columns - across] = False
    return region


def lung_region(rows: int, columns: int) -> Rows:
    """Return the region ``LUNG_BOX``, bool [rows, columns]."""
    top, bottom, left, right = LUNG_BOX
    region = np.zeros((rows, columns), bool)
    region[round(top * rows) : round(bottom * rows), round(left * columns) : round(right * columns)] = True
    return region


def _moved(before: Scores, after: Scores, labels: Labels, calibration: Calibration) -> JSONObject:
    p, q = (
        np.array([calibration.compute_probability(logit) for logit in logits.tolist()]) for logits in (before, after)
    )
    return {
        "auc": number(auc(after, labels)),
        "auc_change": number(auc(after, labels) - auc(before, labels)),
        "median_logit_change": float(np.median(np.abs(after - before))),
        "unmoved": float((np.abs(q - p) < MOVED).mean()),
        "mean_probability_with_finding": number(float(q[labels == 1].mean())) if (labels == 1).any() else None,
        "mean_probability_without_finding": number(float(q[labels == 0].mean())) if (labels == 0).any() else None,
    }


def exchange_lungs(look: Look, pictures: PixelArray, labels: Labels, seed: int = 0) -> JSONObject:
    """Exchange the lung regions of images with different labels.

    Measures whether the logit follows the lungs or what surrounds them.

    Returns:
        ``auc`` of the answers against the label of the film that the lungs came from, and ``films``. Below one half,
        the surroundings decide; lungs hidden and nothing put in their place cannot tell, since a grey patch looks like
        consolidated lung.
    """
    generator = np.random.default_rng(seed)
    giver = np.empty(len(labels), np.int64)
    for label in (0, 1):
        giver[labels == label] = generator.choice(np.flatnonzero(labels != label), int((labels == label).sum()))
    rows, columns = pictures.shape[1:]
    exchanged = np.where(lung_region(rows, columns), pictures[giver], pictures)
    return {"films": len(labels), "auc": number(auc(look(exchanged).logits, labels[giver]))}


def occlude(look: Look, pictures: PixelArray, labels: Labels, calibration: Calibration, before: Seen) -> JSONObject:
    """Hide the border, then the lungs, and compare the logits.

    The border becomes black, as outside a collimator; the lungs get each image's mean grey.

    Returns:
        For ``border``, ``wide_border`` (twice as wide) and ``lungs``: ``auc`` with the part hidden, ``auc_change``,
        ``median_logit_change`` (absolute), ``unmoved`` (share of films whose probability moves by less than 0.05),
        and ``hidden`` (share of the picture).
    """
    rows, columns = pictures.shape[1:]
    black = np.zeros(len(pictures), np.uint8)
    parts: dict[str, tuple[Rows, PixelArray | None]] = {
        "border": (border_region(rows, columns), black),
        "wide_border": (border_region(rows, columns, 2 * BORDER), black),
        "lungs": (lung_region(rows, columns), None),
    }
    return {
        name: {
            "hidden": float(region.mean()),
            **_moved(before.logits, look(hide(pictures, region, grey)).logits, labels, calibration),
        }
        for name, (region, grey) in parts.items()
    }


def reframing(look: Look, pictures: PixelArray, calibration: Calibration, before: Seen, seed: int = 0) -> JSONObject:
    """Frame normal images like images with the finding and compare.

    See ``transforms.reframe``.

    Returns:
        ``films``, ``unmoved`` (share whose probability moves by less than 0.05), ``risen`` (share whose probability
        rises by more), ``median`` and ``percentile_95`` of the absolute change.
    """
    tops = np.random.default_rng(seed).uniform(0.10, 0.25, len(pictures))
    cut = np.concatenate([reframe(picture[np.newaxis], top) for picture, top in zip(pictures, tops, strict=True)])
    after = look(cut)
    p, q = ([calibration.compute_probability(logit) for logit in seen.logits.tolist()] for seen in (before, after))
    change = np.array(q) - np.array(p)
    return {
        "films": len(pictures),
        "unmoved": float((np.abs(change) < MOVED).mean()),
        "risen": float((change >= MOVED).mean()),
        "median": float(np.median(np.abs(change))),
        "percentile_95": float(np.percentile(np.abs(change), 95)),
    }


def robustness(
    look: Look,
    pictures: PixelArray,
    labels: Labels,
    calibration: Calibration,
    before: Seen,
    disturbances: Mapping[str, Disturbance] = DISTURBANCES,
) -> JSONObject:
    """Apply each transform and compare the logits, see ``_moved``."""
    return {
        name: _moved(before.logits, look(disturb(pictures)).logits, labels, calibration)
        for name, disturb in disturbances.items()
    }


def sample(labels: Labels, conflict: Rows, most: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Choose rows for the expensive tests, int64, at most ``most``.

    All conflict normals first, then images of both labels in turn.
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


def look_inside(
    look: Look, pictures: PixelArray, labels: Labels, conflict: Rows, calibration: Calibration, most: int = 400
) -> JSONObject:
    """Run all perturbation tests on images that the network has not seen.

    Args:
        look: a network.
        pictures: uint8 [n, rows, columns].
        labels: int64 [n] in {0, 1}.
        conflict: bool [n], see ``dataset.Data``.
        most: so many films at most go through the table of disturbances.
    """
    seen = look(pictures)
    bias, off = head_bias(seen)
    region = border_cells(seen.maps.shape[1])
    shares = energy_share(seen.maps, region)
    absent = np.flatnonzero(labels == 0)
    rows = sample(labels, conflict, most)
    chosen = Seen(seen.logits[rows], seen.maps[rows])
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
        "occlusion": occlude(look, pictures, labels, calibration, seen),
        "lungs_exchanged": exchange_lungs(look, pictures, labels),
        "reframing": reframing(look, pictures[absent], calibration, Seen(seen.logits[absent], seen.maps[absent])),
        "robustness": {
            "films": len(rows),
            "auc": number(auc(chosen.logits, labels[rows])),
            "disturbed": robustness(look, pictures[rows], labels[rows], calibration, chosen),
        },
    }
