"""Augmentation of images in training, in TensorFlow.

The framing of an image and its sharpness give its label away in the training data and are different elsewhere, so
these are varied most: crops down to a quarter of the area, aspect, the top cut off (chin and jaw), borders painted
over, and the strength of fine detail exchanged between images, whatever their labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import tensorflow as tf


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Ranges of the augmentation.

    Angles in degrees; shares of the image's side or area in [0, 1].

    Attributes:
        area_min: smallest crop, as a share of the area.
        log_aspect: largest |natural logarithm| of the crop's change of aspect.
        top_cut: largest share of the height cut off at the top, in half of the images.
        rotation_degrees: largest rotation either way.
        flip: chance of a mirror image.
        gamma: largest |natural logarithm| of the gamma.
        contrast: largest change of contrast either way.
        brightness: largest shift in grey levels of 255.
        detail: chance that an image's fine detail is made as strong as that of another image of the batch.
        log_detail: largest |natural logarithm| of a change of each band of detail besides.
        noise: largest standard deviation of added noise, in grey levels of 255.
        border: widest painted border, as a share of the side, in a third of the images.
    """

    area_min: float = 0.25
    log_aspect: float = 0.45
    top_cut: float = 0.25
    rotation_degrees: float = 8.0
    flip: float = 0.5
    gamma: float = 0.5
    contrast: float = 0.4
    brightness: float = 40.0
    detail: float = 0.8
    log_detail: float = 0.35
    noise: float = 6.0
    border: float = 0.12


_Draw = Callable[..., Any]
_OF_NOISE = 1 << 20  # apart from the positions of all other draws
_DETAIL_STEPS_PX = (1, 2, 4)  # of the kernel's taps: bands of structures up to about 2, 5 and 10 pixels wide
_LOG_GAIN_MIN, _LOG_GAIN_MAX = -1.5, 0.8  # more would lift the grain of the softest images into view


def make_uniform_source(seed: Any, n: Any) -> _Draw:
    """Return a source of random numbers for augmenting a batch of images.

    Args:
        seed: int32 or int64 [2].
        n: number of images.

    Returns:
        A function of low and high (0 and 1 by default) that returns float32 [n], other numbers at each call, and the
        same ones again for the same seed.
    """
    position = count()
    return lambda low=0.0, high=1.0: (
        tf.random.stateless_uniform([n], tf.random.experimental.stateless_fold_in(seed, next(position))) * (high - low)
        + low
    )


def _transforms(how: Augmentation, uniform: _Draw, side: float, size: float) -> Any:
    """Return projective transforms [n, 8] from output to input pixels."""
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


def _softened(x: Any, step_px: int) -> Any:
    """Blur float32 [n, rows, columns, 1] with a binomial kernel.

    Five taps, ``distance`` pixels apart; edges are kept.
    """
    taps = tf.constant([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    reach = 2 * step_px
    x = tf.pad(x, [[0, 0], [reach, reach], [reach, reach], [0, 0]], "SYMMETRIC")
    for shape in ((5, 1, 1, 1), (1, 5, 1, 1)):
        x = tf.nn.conv2d(x, tf.reshape(taps, shape), 1, "VALID", dilations=step_px)
    return x


def _detail_exchanged(how: Augmentation, uniform: _Draw, x: Any) -> Any:
    """Exchange the strength of fine detail between images, with jitter.

    A wavelet decomposition "a trous" (Holschneider et al. 1989); batches are drawn at random, so the next image is any.
    """
    rest, bands = x, []
    for step_px in _DETAIL_STEPS_PX:
        soft = _softened(rest, step_px)
        bands.append(rest - soft)
        rest = soft
    margin = x.shape[1] // 8  # what the borders hold is no measure of sharpness
    inner = slice(margin, x.shape[1] - margin)
    strength = tf.stack([tf.reduce_mean(tf.square(band[:, inner, inner, 0]), axis=(1, 2)) for band in bands], axis=1)
    log_strength = 0.5 * tf.math.log(strength + 0.01)
    exchanged = tf.cast(uniform() < how.detail, tf.float32)[:, tf.newaxis]
    jitter = tf.stack([uniform(-how.log_detail, how.log_detail) for _ in bands], axis=1)
    log_gain = exchanged * (tf.roll(log_strength, 1, axis=0) - log_strength) + jitter
    gain = tf.exp(tf.clip_by_value(log_gain, _LOG_GAIN_MIN, _LOG_GAIN_MAX))
    for index, band in enumerate(bands):
        rest += gain[:, index, tf.newaxis, tf.newaxis, tf.newaxis] * band
    return rest


def augment_images(how: Augmentation, images: Any, size: int, seed: Any) -> Any:
    """Augment a batch of training images.

    Framing, detail, tone, noise and border are varied.

    Args:
        how: ranges of the augmentation.
        images: uint8 [n, side, side].
        size: side of the output in pixels.
        seed: int32 or int64 [2]; the same seed gives the same output.

    Returns:
        float32 [n, size, size, 1], grey levels 0 to 255.
    """
    n, side = tf.shape(images)[0], images.shape[1]
    uniform = make_uniform_source(seed, n)
    x = tf.cast(images, tf.float32)[..., tf.newaxis]
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

    x = _detail_exchanged(how, uniform, x)
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
