"""Synthetic negatives for the out-of-scope detector.

They are made from chest images or from nothing.

No real image of anything else is among them, so that knees, slices, ultrasound and photographs, with which the
detector is measured, are all new to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from preread.core.types import PixelArray
from preread.imaging.preprocessing import PreprocessingSpec, resize_to_input

Grey = npt.NDArray[np.float64]
_Make = Callable[[PixelArray, np.random.Generator], npt.NDArray[np.uint8]]


def invert_greys(images: PixelArray) -> PixelArray:
    """Invert the greys of images, as a synthetic negative of the detector.

    Args:
        images: uint8 [n, rows, columns].

    Returns:
        uint8 [n, rows, columns].
    """
    return 255 - images


def turn_quarters(images: PixelArray, quarters: int) -> PixelArray:
    """Turn images by quarters, as a synthetic negative of the detector.

    Args:
        images: uint8 [n, side, side].
        quarters: counter-clockwise, 1 to 3.

    Returns:
        uint8 [n, side, side].
    """
    return np.ascontiguousarray(np.rot90(images, quarters, axes=(1, 2)))


# Errors of senders, which the detector names.
MISHAPS: Mapping[str, Callable[[PixelArray], PixelArray]] = {
    "inverted": invert_greys,
    "turned_left": lambda images: turn_quarters(images, 1),
    "upside_down": lambda images: turn_quarters(images, 2),
    "turned_right": lambda images: turn_quarters(images, 3),
}


def _spectrum(shape: tuple[int, ...]) -> Grey:
    """Return frequencies in cycles per pixel, in the order of ``rfft2``.

    The constant part counts as the lowest.
    """
    rows, columns = shape
    radius = np.hypot(np.fft.fftfreq(rows)[:, np.newaxis], np.fft.rfftfreq(columns))
    return np.asarray(np.maximum(radius, 1 / max(shape)), dtype=np.float64)


def _filtered(noise: Grey, weights: Grey) -> Grey:
    return np.fft.irfft2(np.fft.rfft2(noise) * weights, s=noise.shape)


def _stretched(values: Grey) -> PixelArray:
    low, high = float(values.min()), float(values.max())
    return ((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)


def _field(shape: tuple[int, ...], wave_px: float, rng: np.random.Generator) -> Grey:
    """Return a smooth random surface, mean 0, standard deviation 1."""
    found = _filtered(rng.normal(size=shape), np.exp(-((_spectrum(shape) * wave_px) ** 2)))
    return np.asarray((found - found.mean()) / max(float(found.std()), 1e-9))


def _noise(image: PixelArray, rng: np.random.Generator) -> PixelArray:
    kind = rng.integers(3)
    if kind == 0:
        return rng.permutation(image.ravel()).reshape(image.shape)
    if kind == 1:
        return np.where(rng.random(image.shape) < rng.uniform(0.02, 0.5), 255, 0).astype(np.uint8)
    return np.clip(rng.normal(rng.uniform(0, 255), rng.uniform(3, 80), image.shape), 0, 255).astype(np.uint8)


def _clouds(image: PixelArray, rng: np.random.Generator) -> PixelArray:
    """Return noise that is strongest at low frequencies.

    Every third time its spectrum is that of the image.
    """
    noise = rng.normal(size=image.shape)
    if rng.random() < 1 / 3:
        phase = np.fft.rfft2(noise)
        strength = np.abs(np.fft.rfft2(image.astype(np.float64)))
        return _stretched(np.fft.irfft2(strength * phase / np.maximum(np.abs(phase), 1e-9), s=image.shape))
    return _stretched(_filtered(noise, _spectrum(image.shape) ** -rng.uniform(0.3, 2.5)))


def _faint(image: PixelArray, rng: np.random.Generator) -> PixelArray:
    """Return a wedge, step or disc of two near grey levels with noise."""
    rows, columns = image.shape
    y, x = np.mgrid[0:rows, 0:columns]
    x, y = x / columns - rng.random(), y / rows - rng.random()
    a, b = rng.normal(size=2)
    shape = (a * x + b * y, np.hypot(x, y), (a * x + b * y > 0) * 1.0, (np.hypot(x, y) < rng.uniform(0.1, 0.5)) * 1.0)
    low = rng.uniform(0, 240)
    grey = low + _stretched(shape[rng.integers(4)]) / 255 * rng.uniform(8, 255 - low)
    return np.clip(grey + rng.normal(0, rng.uniform(0, 4), image.shape), 0, 255).astype(np.uint8)


def _shapes(image: PixelArray, rng: np.random.Generator) -> PixelArray:
    """Return ellipses and bars at random, as in a drawing or a test pattern."""
    rows, columns = image.shape
    y, x = np.mgrid[0:rows, 0:columns] / np.array([[[rows]], [[columns]]])
    grey = np.full(image.shape, rng.uniform(0, 100))
    for _ in range(rng.integers(1, 9)):
        (cx, cy), (a, b), angle = rng.random(2), rng.uniform(0.04, 0.5, 2), rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        inside = (u / a) ** 2 + (v / b) ** 2 < 1 if rng.random() < 0.6 else (np.abs(u) < a) & (np.abs(v) < b)
        grey += inside * rng.uniform(-80, 160)
    grey += rng.uniform(0, 20) * _field(image.shape, rng.uniform(20, 200), rng)
    return np.clip(grey + rng.normal(0, rng.uniform(0, 8), image.shape), 0, 255).astype(np.uint8)


def _scrambled(image: PixelArray, rng: np.random.Generator) -> PixelArray:
    """Cut the image into 4 to 25 tiles and put them into another order."""
    count = int(rng.integers(2, 6))
    rows, columns = image.shape[0] // count, image.shape[1] // count
    tiles = [
        image[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] for i in range(count) for j in range(count)
    ]
    order = rng.permutation(count * count)
    return np.block([[tiles[order[i * count + j]] for j in range(count)] for i in range(count)])


def _warped(image: PixelArray, rng: np.random.Generator) -> PixelArray:
    """Bend the image out of any likeness."""
    wave_px, by_px = rng.uniform(0.25, 0.9) * image.shape[0], rng.uniform(0.11, 0.27) * image.shape[0]
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    rows = np.clip(y + by_px * _field(image.shape, wave_px, rng), 0, image.shape[0] - 1)
    columns = np.clip(x + by_px * _field(image.shape, wave_px, rng), 0, image.shape[1] - 1)
    return np.asarray(image[rows.astype(np.int64), columns.astype(np.int64)])


def _part(image: PixelArray, rng: np.random.Generator) -> PixelArray:
    """Cut a small part out of the image, to be enlarged."""
    side = int(rng.uniform(0.18, 0.4) * image.shape[0])
    top, left = rng.integers(0, image.shape[0] - side), rng.integers(0, image.shape[1] - side)
    return image[top : top + side, left : left + side]


def _shifted(image: PixelArray, rng: np.random.Generator) -> PixelArray:
    """Roll the image round its frame, or mirror its upper half down."""
    rows, columns = image.shape
    kind = rng.integers(3)
    if kind == 0:
        return np.concatenate([image[: rows // 2], image[: rows - rows // 2][::-1]])
    by = int(rng.uniform(0.27, 0.73) * (rows if kind == 1 else columns))
    return np.roll(image, by, axis=0 if kind == 1 else 1)


_OTHERS: Mapping[str, _Make] = {
    "noise": _noise,
    "clouds": _clouds,
    "faint": _faint,
    "shapes": _shapes,
    "scrambled": _scrambled,
    "warped": _warped,
    "part_of_a_film": _part,
    "shifted": _shifted,
}
KINDS = (*MISHAPS, *_OTHERS)
# An image cut up, bent, rolled or enlarged comes from no sender; it teaches the detector where a chest ends.
NEAR = ("scrambled", "warped", "part_of_a_film", "shifted")


def make_synthetic_negatives(kind: str, images: PixelArray, spec: PreprocessingSpec, seed: int) -> PixelArray:
    """Make synthetic negatives of one kind, one from each chest image.

    Args:
        kind: of ``KINDS``.
        images: uint8 [n, side, side] after ``preprocessing.resize_to_input``.
        spec: to whose size they are shrunk.
        seed: of the draws; each kind draws apart.

    Returns:
        uint8 [n, spec.rows, spec.columns].
    """
    if kind in MISHAPS:
        return MISHAPS[kind](images)
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    return np.stack([resize_to_input(spec, np.ascontiguousarray(_OTHERS[kind](image, rng))) for image in images])
