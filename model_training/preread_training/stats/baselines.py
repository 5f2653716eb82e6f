"""Linear baselines on border, thumbnail and sharpness of images.

They also find images that a shortcut misleads.

In these data the framing of an image alone (chin in view, lungs' size) separates the labels well, and so does its
sharpness; elsewhere images are framed and rendered otherwise. The images that the border-only model gets wrong, the
conflict slice, and those that the sharpness-only model gets wrong show how a network does if these mislead.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from preread.core.types import PixelArray

_CELLS = 14
_BORDER_CELLS = 2
Features = npt.NDArray[np.float64]


def compute_thumbnails(images: PixelArray) -> Features:
    """Average images over 14x14 cells, for the linear baselines.

    Args:
        images: uint8 [n, rows, columns], sides divisible by 14.

    Returns:
        float64 [n, 14, 14] in 0 to 255.
    """
    n, rows, columns = images.shape
    cells = images.reshape(n, _CELLS, rows // _CELLS, _CELLS, columns // _CELLS)
    return np.asarray(cells.mean(axis=(2, 4), dtype=np.float64))


def select_border(thumbs: Features) -> Features:
    """Return the outer two cells of thumbnails, for the border-only baseline.

    Args:
        thumbs: float64 [n, 14, 14].

    Returns:
        float64 [n, 96].
    """
    inside = np.zeros((_CELLS, _CELLS), dtype=bool)
    inside[_BORDER_CELLS:-_BORDER_CELLS, _BORDER_CELLS:-_BORDER_CELLS] = True
    return thumbs[:, ~inside]


def measure_sharpness(images: PixelArray) -> Features:
    """Measure the sharpness of images, for the sharpness-only baseline.

    At three scales.

    Args:
        images: uint8 [n, rows, columns].

    Returns:
        float64 [n, 3], the logarithm of the mean difference of pixels 1, 2 and 4 apart, in grey levels; low in soft
        images.
    """
    logs = []
    for image in images:
        grey = image.astype(np.int16)
        apart = (
            np.abs(grey[step:] - grey[:-step]).mean() + np.abs(grey[:, step:] - grey[:, :-step]).mean()
            for step in (1, 2, 4)
        )
        logs.append([np.log(mean / 2 + 0.1) for mean in apart])
    return np.array(logs)


def compute_baseline_features(images: PixelArray) -> dict[str, Features]:
    """Compute the features of each linear baseline.

    Args:
        images: uint8 [n, rows, columns], sides divisible by 14.

    Returns:
        float64 [n, features] of ``linear_14x14`` (a thumbnail), ``border_only`` and ``sharpness_only``.
    """
    thumbs = compute_thumbnails(images)
    return {
        "linear_14x14": thumbs.reshape(len(thumbs), -1),
        "border_only": select_border(thumbs),
        "sharpness_only": measure_sharpness(images),
    }


def compute_balanced_weights(labels: npt.NDArray[np.int64]) -> Features:
    """Return weights of images with which both labels count the same.

    Args:
        labels: int64 [n] in {0, 1}, both present.

    Returns:
        float64 [n], mean 1.
    """
    share = float(labels.mean())
    return np.where(labels == 1, 0.5 / share, 0.5 / (1 - share))


def fit_logistic(
    features: Features, labels: npt.NDArray[np.int64], weight: Features, *, ridge: float = 1.0
) -> Features:
    """Fit a ridge-penalised logistic regression by Newton's method.

    Args:
        features: float64 [n, d], standardised by the caller.
        labels: int64 [n] in {0, 1}.
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


def compute_cross_fitted_logits(
    features: Features, labels: npt.NDArray[np.int64], folds: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return logits of linear baselines fitted without the image's fold.

    Args:
        features: float64 [n, d].
        labels: int64 [n] in {0, 1}.
        folds: int64 [n].

    Returns:
        float64 [n].
    """
    logits = np.empty(len(labels))
    for fold in np.unique(folds):
        fit, held = folds != fold, folds == fold
        mean, deviation = features[fit].mean(axis=0), features[fit].std(axis=0) + 1e-6
        beta = fit_logistic((features[fit] - mean) / deviation, labels[fit], compute_balanced_weights(labels[fit]))
        logits[held] = np.hstack([(features[held] - mean) / deviation, np.ones((held.sum(), 1))]) @ beta
    return logits


def find_contradicted_labels(
    features: Features, labels: npt.NDArray[np.int64], folds: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Find images of which a linear baseline states the opposite label.

    The model is fitted without the image's fold.

    Args:
        features: float64 [n, d].
        labels: int64 [n] in {0, 1}.
        folds: int64 [n].

    Returns:
        bool [n].
    """
    return np.asarray((compute_cross_fitted_logits(features, labels, folds) > 0) != (labels == 1))
