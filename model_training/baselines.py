"""Linear models on thumbnails: the baselines, and the border-only model that finds where framing gives the label away.

In these data the framing of a film alone (chin in view, lungs' size in the picture) separates the labels well, and it
is framed otherwise elsewhere. The films that the border-only model gets wrong, the conflict slice, show how a network
does where that shortcut misleads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from worker.domain import PixelArray

_CELLS = 14
_BORDER_CELLS = 2
Features = npt.NDArray[np.float64]


def thumbnails(pictures: PixelArray) -> Features:
    """Average uint8 [n, rows, columns] (sides divisible by 14) over 14x14 cells: float64 [n, 14, 14] in 0..255."""
    n, rows, columns = pictures.shape
    cells = pictures.reshape(n, _CELLS, rows // _CELLS, _CELLS, columns // _CELLS)
    return np.asarray(cells.mean(axis=(2, 4), dtype=np.float64))


def border(thumbs: Features) -> Features:
    """The outer two cells of each thumbnail: float64 [n, 96]."""
    inside = np.zeros((_CELLS, _CELLS), dtype=bool)
    inside[_BORDER_CELLS:-_BORDER_CELLS, _BORDER_CELLS:-_BORDER_CELLS] = True
    return thumbs[:, ~inside]


def baseline_features(pictures: PixelArray) -> dict[str, Features]:
    """What the two linear baselines see of uint8 [n, rows, columns]: all of a thumbnail, and its border alone."""
    thumbs = thumbnails(pictures)
    return {"linear_14x14": thumbs.reshape(len(thumbs), -1), "border_only": border(thumbs)}


def balanced_weights(labels: npt.NDArray[np.int64]) -> Features:
    """float64 [n], mean 1, the two labels weighing the same."""
    share = float(labels.mean())
    return np.where(labels == 1, 0.5 / share, 0.5 / (1 - share))


def fit_logistic(
    features: Features, labels: npt.NDArray[np.int64], weight: Features, *, ridge: float = 1.0
) -> Features:
    """Fit a ridge-penalised logistic regression by Newton's method.

    Args:
        features: float64 [n, d], standardised by the caller.
        weight: float64 [n], how much each row counts.
        ridge: penalty on the weights, not on the intercept.

    Returns:
        float64 [d + 1], the intercept last.
    """
    x = np.hstack([features, np.ones((len(features), 1))])
    penalty = np.full(x.shape[1], ridge)
    penalty[-1] = 1e-6
    beta = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        gradient = x.T @ (weight * (p - labels)) + penalty * beta
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        beta -= step
        if np.abs(step).max() < 1e-8:
            break
    return beta


def cross_fitted_logits(
    features: Features, labels: npt.NDArray[np.int64], folds: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Logits for each film from a model that saw none of its fold: float64 [n]."""
    logits = np.empty(len(labels))
    for fold in np.unique(folds):
        fit, held = folds != fold, folds == fold
        mean, deviation = features[fit].mean(axis=0), features[fit].std(axis=0) + 1e-6
        beta = fit_logistic((features[fit] - mean) / deviation, labels[fit], balanced_weights(labels[fit]))
        logits[held] = np.hstack([(features[held] - mean) / deviation, np.ones((held.sum(), 1))]) @ beta
    return logits


def conflict_slice(
    pictures: PixelArray, labels: npt.NDArray[np.int64], folds: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Bool [n]: films whose border alone says the opposite of their label."""
    called = cross_fitted_logits(border(thumbnails(pictures)), labels, folds) > 0
    return np.asarray(called != (labels == 1))
