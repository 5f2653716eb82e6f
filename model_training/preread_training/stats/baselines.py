"""Linear baselines on border, thumbnail and sharpness.

They also find images that a shortcut misleads.

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
    """Average uint8 [n, rows, columns] over 14x14 cells.

    Sides are divisible by 14; returns float64 [n, 14, 14] in 0 to 255.
    """
    n, rows, columns = pictures.shape
    cells = pictures.reshape(n, _CELLS, rows // _CELLS, _CELLS, columns // _CELLS)
    return np.asarray(cells.mean(axis=(2, 4), dtype=np.float64))


def border(thumbs: Features) -> Features:
    """Return the outer two cells of each thumbnail, float64 [n, 96]."""
    inside = np.zeros((_CELLS, _CELLS), dtype=bool)
    inside[_BORDER_CELLS:-_BORDER_CELLS, _BORDER_CELLS:-_BORDER_CELLS] = True
    return thumbs[:, ~inside]


def sharpness(pictures: PixelArray) -> Features:
    """Return the log of mean differences of pixels 1, 2 and 4 apart.

    float64 [n, 3], in grey levels before the logarithm: low in soft images.
    """
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
    """Return the features of each baseline for uint8 [n, rows, columns].

    A thumbnail, its border alone, sharpness alone.
    """
    thumbs = thumbnails(pictures)
    return {
        "linear_14x14": thumbs.reshape(len(thumbs), -1),
        "border_only": border(thumbs),
        "sharpness_only": sharpness(pictures),
    }


def balanced_weights(labels: npt.NDArray[np.int64]) -> Features:
    """Return weights with mean 1, both labels alike, float64 [n]."""
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
    """Return logits of models that were fitted without the image's fold.

    float64 [n].
    """
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
    """Return images of which a linear model says the opposite, bool [n].

    The model is fitted without the image's fold.
    """
    return np.asarray((cross_fitted_logits(features, labels, folds) > 0) != (labels == 1))
