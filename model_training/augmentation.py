"""What a film is put through before the network sees it in training.

The framing of a film gives its label away in the training data and is different elsewhere, so framing is what is
varied most: crops down to a quarter of the area, aspect, the top cut off (chin and jaw), borders painted over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import tensorflow as tf


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Ranges; all angles in degrees, all shares of the picture's side or area in [0, 1].

    Attributes:
        area_min: smallest crop, as a share of the area.
        log_aspect: largest |natural logarithm| of the crop's change of aspect.
        top_cut: largest share of the height cut off at the top, in half of the films.
        rotation_degrees: largest rotation either way.
        flip: chance of a mirror image.
        gamma: largest |natural logarithm| of the gamma.
        contrast: largest change of contrast either way.
        brightness: largest shift in grey levels of 255.
        blur: chance of a blur.
        noise: largest standard deviation of added noise, in grey levels of 255.
        border: widest painted border, as a share of the side, in a third of the films.
    """

    area_min: float = 0.25
    log_aspect: float = 0.45
    top_cut: float = 0.25
    rotation_degrees: float = 8.0
    flip: float = 0.5
    gamma: float = 0.4
    contrast: float = 0.3
    brightness: float = 25.0
    blur: float = 0.3
    noise: float = 6.0
    border: float = 0.12


_Draw = Callable[..., Any]
_OF_NOISE = 1 << 20  # apart from the positions of all other draws


def draws(seed: Any, n: Any) -> _Draw:
    """A source of float32 [n], uniform from low to high, that gives the same for the same seed (int32 [2])."""
    position = count()
    return lambda low=0.0, high=1.0: (
        tf.random.stateless_uniform([n], tf.random.experimental.stateless_fold_in(seed, next(position))) * (high - low)
        + low
    )


def _transforms(how: Augmentation, uniform: _Draw, side: float, size: float) -> Any:
    """Projective transforms [n, 8] from an output of ``size`` to an input of ``side`` pixels."""
    area = uniform(how.area_min, 1.0)
    aspect = tf.exp(uniform(-how.log_aspect, how.log_aspect) / 2)
    height = tf.minimum(tf.sqrt(area) * aspect, 1.0)
    width = tf.minimum(tf.sqrt(area) / aspect, 1.0)
    top = uniform() * (1 - height)
    cut = uniform(0.0, how.top_cut) * tf.cast(uniform() < 0.5, tf.float32)
    lower = tf.maximum(top, cut)
    height, top = tf.minimum(height, 1 - lower), lower
    left = uniform() * (1 - width)
    angle = uniform(-how.rotation_degrees, how.rotation_degrees) * 3.14159265 / 180
    mirror = tf.where(uniform() < how.flip, -1.0, 1.0)
    scale_x, scale_y = width * side / size * mirror, height * side / size
    a, b = scale_x * tf.cos(angle), -scale_y * tf.sin(angle)
    c, d = scale_x * tf.sin(angle), scale_y * tf.cos(angle)
    centre_x, centre_y = (left + width / 2) * side, (top + height / 2) * side
    zero = tf.zeros_like(a)
    return tf.stack([a, b, centre_x - (a + b) * size / 2, c, d, centre_y - (c + d) * size / 2, zero, zero], axis=1)


def augment(how: Augmentation, pictures: Any, size: int, seed: Any) -> Any:
    """Vary uint8 [n, side, side] into float32 [n, size, size, 1] in grey levels 0..255; seed is int32 [2]."""
    n, side = tf.shape(pictures)[0], pictures.shape[1]
    uniform = draws(seed, n)
    x = tf.cast(pictures, tf.float32)[..., tf.newaxis]
    x = tf.raw_ops.ImageProjectiveTransformV3(
        images=x,
        transforms=_transforms(how, uniform, float(side), float(size)),
        output_shape=[size, size],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )

    def each(values: Any) -> Any:
        return values[:, tf.newaxis, tf.newaxis, tf.newaxis]

    kernel = tf.constant([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = (kernel[:, None] * kernel[None, :])[..., None, None]
    blurred = tf.nn.conv2d(x, kernel, 1, "SAME")
    mix = uniform(-0.5, 1.0) * tf.cast(uniform() < how.blur, tf.float32)  # below 0: sharper
    x = x + each(mix) * (blurred - x)
    x = tf.clip_by_value(x, 0.0, 255.0) / 255
    x = tf.pow(x + 1e-4, each(tf.exp(uniform(-how.gamma, how.gamma))))
    mean = tf.reduce_mean(x, axis=(1, 2), keepdims=True)
    x = (x - mean) * each(uniform(1 - how.contrast, 1 + how.contrast)) + mean
    x = x * 255 + each(uniform(-how.brightness, how.brightness))
    x = x + tf.random.stateless_normal(tf.shape(x), tf.random.experimental.stateless_fold_in(seed, _OF_NOISE)) * each(
        uniform(0.0, how.noise)
    )
    position = (tf.range(size, dtype=tf.float32) + 0.5) / size
    painted = tf.cast(uniform() < 1 / 3, tf.float32)

    def kept() -> Any:
        low, high = uniform(0.0, how.border) * painted, 1 - uniform(0.0, how.border) * painted
        return (position[tf.newaxis] >= low[:, tf.newaxis]) & (position[tf.newaxis] <= high[:, tf.newaxis])

    inside = kept()[:, :, tf.newaxis] & kept()[:, tf.newaxis, :]
    return tf.clip_by_value(tf.where(inside[..., tf.newaxis], x, 0.0), 0.0, 255.0)
