"""Augmentation of the reference systems: the old Keras image generator.

The order is the generator's: one affine map about the centre (nearest pixel beyond the rim), the shift of grey levels
held within the image's own range, the flip, then brightness, which multiplies.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from preread_training.data.augmentation import make_uniform_source
from preread_training.reference.systems import GeneratorAugmentation


def _maps(how: GeneratorAugmentation, uniform: Any, side: float) -> Any:
    """Return projective transforms [n, 8] from output to input.

    Rotation, then shift, shear and zoom, about the centre.
    """
    degree = 3.14159265 / 180
    angle = uniform(-how.rotation_degrees, how.rotation_degrees) * degree
    down = uniform(-how.height, how.height) * side
    across = uniform(-how.width, how.width) * side
    shear = uniform(-how.shear_degrees, how.shear_degrees) * degree
    zoom_y, zoom_x = uniform(1 - how.zoom, 1 + how.zoom), uniform(1 - how.zoom, 1 + how.zoom)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    # As the generator has it, in rows and columns: rotation @ shift @ [[1, -sin], [0, cos]] @ zoom.
    row_row, row_column = cosine * zoom_y, (-cosine * tf.sin(shear) - sine * tf.cos(shear)) * zoom_x
    column_row, column_column = sine * zoom_y, (-sine * tf.sin(shear) + cosine * tf.cos(shear)) * zoom_x
    centre = side / 2 - 0.5
    row = cosine * down - sine * across + centre * (1 - row_row - row_column)
    column = sine * down + cosine * across + centre * (1 - column_row - column_column)
    zero = tf.zeros_like(angle)
    return tf.stack([column_column, column_row, column, row_column, row_row, row, zero, zero], axis=1)


def augment_like_generator(how: GeneratorAugmentation, images: Any, key: Any) -> Any:
    """Augment a batch as the old Keras image generator did, in TensorFlow.

    Args:
        how: ranges of the augmentation.
        images: float32 [n, side, side, 1] in grey levels 0 to 255.
        key: int64 [2], seed and step; the same key gives the same output.

    Returns:
        float32 [n, side, side, 1].
    """
    n, side = tf.shape(images)[0], images.shape[1]
    uniform = make_uniform_source(key, n)
    x = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=_maps(how, uniform, float(side)),
        output_shape=[side, side],
        interpolation="BILINEAR",
        fill_mode="NEAREST",
        fill_value=0.0,
    )

    def each(values: Any) -> Any:
        return values[:, tf.newaxis, tf.newaxis, tf.newaxis]

    if how.channel_shift:
        low, high = tf.reduce_min(x, axis=(1, 2, 3)), tf.reduce_max(x, axis=(1, 2, 3))
        x = tf.clip_by_value(x + each(uniform(-how.channel_shift, how.channel_shift)), each(low), each(high))
    if how.vertical_flip:
        x = tf.where(each(uniform() < 0.5), tf.reverse(x, axis=[1]), x)
    return x * each(uniform(*how.brightness))
