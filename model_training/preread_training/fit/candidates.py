"""Comparison of runs by four measures on held-out images.

One figure does not rank recipes: a network that leads on the hard negatives can collapse when the same images are
cropped and blurred as in training. So a recipe counts as better only if it gains on a measure and loses on none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from preread.core.errors import UsageError
from preread.core.types import JSONObject, PixelArray
from preread.imaging.preprocessing import TRAINING_SPEC
from preread_training.data.atomic_files import write_arrays_atomically
from preread_training.data.augmentation import Augmentation, augment_images
from preread_training.data.dataset import Data
from preread_training.fit.cross_validation import list_finished_folds, load_out_of_fold, load_serving_network
from preread_training.fit.trainer import compute_logits
from preread_training.stats.bootstrap import Groups, Labels, Measure, Rows, Scores, bootstrap_measures
from preread_training.stats.metrics import auc, measure_auc_difference

OUT_OF_FOLD = "out of fold"
HARD_NEGATIVES = "conflict normals"
SHARPNESS = "misled by sharpness"
DISTURBED = "disturbed"
MEASURES = (OUT_OF_FOLD, HARD_NEGATIVES, SHARPNESS, DISTURBED)
FOLDS_MIN = 3  # with fewer folds in common a difference decides nothing

_DISTURBED_FILE = "disturbed.npz"
_BATCH = 32
_DRAW = 624_000  # one fixed draw, apart from those of training, which begin at small numbers


@dataclass(frozen=True, slots=True)
class Candidate:
    """Logits of one run on held-out images.

    Attributes:
        name: of the run.
        rows: int64 [n], rows of the data set, rising.
        logits: float64 [n].
        disturbed: float64 [n], of the same images after ``disturb_data_set``; ``None`` for a reference system, whose
            networks are not kept.
        folds: how many are finished.
    """

    name: str
    rows: npt.NDArray[np.int64]
    logits: Scores
    disturbed: Scores | None
    folds: int


def disturb_data_set(images: PixelArray) -> PixelArray:
    """Vary the images of a data set as training does, by one fixed draw.

    The draw depends on an image's place, so a whole data set is disturbed at once and in its order.

    Args:
        images: uint8 [n, side, side].

    Returns:
        uint8 [n, side, side].
    """
    side = images.shape[1]
    parts = [
        augment_images(Augmentation(), images[start : start + _BATCH], side, (_DRAW, start)).numpy()[..., 0]
        for start in range(0, len(images), _BATCH)
    ]
    return np.asarray(np.rint(np.concatenate(parts)), np.uint8)


def load_candidates(runs: Sequence[Path], data: Data, finding: int = 0) -> list[Candidate]:
    """Load the held-out logits of each run, for images as they are and varied.

    Those of varied images are computed once for each fold and stored beside its weights.

    Args:
        runs: folders of runs on this data set.
        data: the data set.
        finding: column of the data set's findings.

    Raises:
        UsageError: a run has no finished fold, is of another data set or folds, or two have one name.
        NotKept: the disk is full.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    if len(set(names)) < len(names):
        raise UsageError(f"a run is named twice among {', '.join(names)}: name each run once")
    disturbed = cache(lambda: disturb_data_set(data.pixels))

    def of(name: str, run: Path) -> Candidate:
        seen, rows = load_out_of_fold(run, data, finding)
        parts = []
        for fold in list_finished_folds(run):
            held = data.folds == int(fold.name.removeprefix("fold-"))
            if not (fold / _DISTURBED_FILE).exists():
                network = load_serving_network(run, fold.name, len(data.findings))
                if network is None:
                    break
                logits = compute_logits(network, TRAINING_SPEC, disturbed()[held])
                write_arrays_atomically(fold / _DISTURBED_FILE, index=np.flatnonzero(held), logits=logits)
            with np.load(fold / _DISTURBED_FILE) as kept:
                parts.append((kept["index"], kept["logits"][:, finding]))
        order = np.argsort(rows)
        after = None
        if len(parts) == len(list_finished_folds(run)):
            index, logits = (np.concatenate(each) for each in zip(*parts, strict=True))
            after = logits[np.argsort(index)]
        return Candidate(name, rows[order], seen.logits[order], after, len(list_finished_folds(run)))

    return [of(name, run) for name, run in zip(names, runs, strict=True)]


def _slices(data: Data, finding: int, rows: npt.NDArray[np.int64]) -> Mapping[str, Rows]:
    """Return the images of each measure, bool [rows].

    All images with the finding are among them.
    """
    labels = data.labels[rows, finding]
    every = np.ones(len(rows), bool)
    return {
        OUT_OF_FOLD: every,
        HARD_NEGATIVES: (labels == 1) | data.conflict[rows, finding],
        SHARPNESS: (labels == 1) | data.misled_by_sharpness[rows, finding],
        DISTURBED: every,
    }


def _scores(candidate: Candidate, measure: str, rows: npt.NDArray[np.int64]) -> Scores | None:
    of = candidate.disturbed if measure == DISTURBED else candidate.logits
    return None if of is None else of[np.searchsorted(candidate.rows, rows)]


def compare_candidates(compared: Sequence[Candidate], data: Data, finding: int = 0, *, draws: int = 2000) -> JSONObject:
    """Measure runs on the images that all of them held out.

    Each is compared with the first.

    Args:
        compared: from ``load_candidates``, at least one.
        data: the data set of the runs.
        finding: column of the data set's findings.
        draws: bootstrap samples of patients for each interval.

    Returns:
        ``images``, ``folds`` (in common), and for each run by name ``auc`` (by measure), ``smallest`` of the four, and
        but for the first ``difference`` (by measure, first run subtracted; 95 % interval by patient) and ``verdict``:
        ``better``, ``worse`` or ``undecided``. A measure that a run does not have, or of one label only, is ``None``.

    Raises:
        UsageError: the runs have no fold in common.
    """
    rows = compared[0].rows
    for each in compared[1:]:
        rows = np.intersect1d(rows, each.rows)
    if not len(rows):
        named = ", ".join(each.name for each in compared)
        raise UsageError(f"the runs {named} have no finished fold in common: fit the same folds of each")
    labels, patients = data.labels[rows, finding], data.patients[rows]
    slices = _slices(data, finding, rows)

    def value(scores: Scores | None, kept: Rows) -> Measure | None:
        if scores is None or len(np.unique(labels[kept])) < 2:
            return None
        held, of = scores[kept], labels[kept]
        drawn = bootstrap_measures({"auc": lambda weight: auc(held, of, weight)}, patients[kept], count=draws)
        return drawn["auc"]

    runs: JSONObject = {}
    for each in compared:
        measured = {name: value(_scores(each, name, rows), kept) for name, kept in slices.items()}
        known = [one.value for one in measured.values() if one is not None]
        runs[each.name] = {
            "auc": {name: one and one.to_json() for name, one in measured.items()},
            "smallest": min(known) if known else None,
        }
        if each is not compared[0]:
            apart = {
                name: _difference(_scores(each, name, rows), _scores(compared[0], name, rows), labels, patients, kept)
                for name, kept in slices.items()
            }
            runs[each.name]["difference"] = {name: one and one.to_json() for name, one in apart.items()}
            runs[each.name]["verdict"] = decide_verdict(apart)
    return {"images": len(rows), "folds": len(np.unique(data.folds[rows])), "runs": runs}


def _difference(
    scores: Scores | None, base: Scores | None, labels: Labels, patients: Groups, kept: Rows
) -> Measure | None:
    if scores is None or base is None or len(np.unique(labels[kept])) < 2:
        return None
    return measure_auc_difference(scores[kept], base[kept], labels[kept], patients[kept])


def decide_verdict(apart: Mapping[str, Measure | None]) -> str:
    """Decide between two runs from the differences of their measures.

    Args:
        apart: by measure the difference with its 95 % interval; ``None`` if a run does not have the measure.

    Returns:
        ``better`` if a measure gained and none lost or is missing; ``worse`` if one lost and none gained; else
        ``undecided``.
    """
    gained = any(one is not None and one.low > 0 for one in apart.values())
    lost = any(one is not None and one.high < 0 for one in apart.values())
    if gained and not lost and None not in apart.values():
        return "better"
    return "worse" if lost and not gained else "undecided"
