"""Linear models of what should not matter: the baselines, and the finders of films on which a shortcut misleads.

In these data the framing of a film alone (chin in view, lungs' size in the picture) separates the labels well, and so
does its sharpness; elsewhere films are framed and rendered otherwise. The films that the border-only model gets wrong,
the conflict slice, and those that the sharpness-only model gets wrong show how a network does where these mislead.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from preread.core.types import PixelArray

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


def sharpness(pictures: PixelArray) -> Features:
    """float64 [n, 3], logarithm of the mean difference of pixels 1, 2 and 4 apart in grey levels: low in soft films."""
    logs = []
    for picture in pictures:
        grey = picture.astype(np.int16)
        apart = (
            np.abs(grey[step:] - grey[:-step]).mean() + np.abs(grey[:, step:] - grey[:, :-step]).mean()
            for step in (1, 2, 4)
        )
        logs.append([np.log(mean / 2 + 0.1) for mean in apart])
    return np.array(logs)


def baseline_features(pictures: PixelArray) -> dict[str, Features]:
    """What the linear baselines see of uint8 [n, rows, columns]: a thumbnail, its border alone, sharpness alone."""
    thumbs = thumbnails(pictures)
    return {
        "linear_14x14": thumbs.reshape(len(thumbs), -1),
        "border_only": border(thumbs),
        "sharpness_only": sharpness(pictures),
    }


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


def contradicting(
    features: Features, labels: npt.NDArray[np.int64], folds: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Bool [n]: films of which a linear model of these features, fitted without their fold, says the opposite."""
    return np.asarray((cross_fitted_logits(features, labels, folds) > 0) != (labels == 1))
