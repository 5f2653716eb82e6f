"""Images of a data set for the local report: samples and errors."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.image import imsave

from preread.core.types import FloatArray, PixelArray
from preread.imaging.preprocessing import TRAINING_SPEC
from preread_training.analysis.activation_maps import draw_map_over_image, make_keras_runner
from preread_training.data.dataset import Data

_OPACITY = 0.4
_QUALITY = 85


def encode_data_uri(kind: str, content: bytes) -> str:
    """Encode bytes as a data URI, for the report's page.

    Args:
        kind: media type.
        content: the bytes.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def encode_jpeg_uri(image: PixelArray) -> str:
    """Encode an image as JPEG in a data URI, for the report's page.

    Args:
        image: uint8 [rows, columns] or [rows, columns, 3].
    """
    stream = io.BytesIO()
    colours = image if image.ndim == 3 else np.repeat(image[..., np.newaxis], 3, axis=2)
    imsave(stream, colours, format="jpg", pil_kwargs={"quality": _QUALITY})
    return encode_data_uri("image/jpeg", stream.getvalue())


def compute_activation_maps(run: Path, data: Data, rows: npt.NDArray[np.int64], finding: int) -> dict[int, FloatArray]:
    """Compute activation maps of held-out images for the report's galleries.

    Each map is by the network of the fold in which the image was held out.

    Args:
        run: folder of the run.
        data: the data set on which it was fitted.
        rows: int64 [n], of the data set.
        finding: column of the data set's findings.

    Returns:
        For each row float32 [cells, cells], whose mean plus the head's bias is the logit. A row whose network is
        missing, or a reference system that has no such map, is absent.
    """
    from preread_training.fit.cross_validation import load_serving_network

    maps: dict[int, FloatArray] = {}
    for fold in np.unique(data.folds[rows]):
        served = load_serving_network(run, f"fold-{fold}", len(data.findings))
        if served is not None:
            of_fold = rows[data.folds[rows] == fold]
            seen = make_keras_runner(served, TRAINING_SPEC, finding)(data.pixels[of_fold])
            maps |= dict(zip(of_fold.tolist(), seen.maps, strict=True))
    return maps


def draw_gallery_map(image: PixelArray, cells: FloatArray, full: float) -> PixelArray:
    """Draw an activation map over an image of the report's galleries.

    One ``full`` for all images of a gallery makes them comparable: a map of small values is faint.

    Args:
        image: uint8 [rows, columns].
        cells: float32 [cells, cells], the map.
        full: absolute value drawn at full strength, above 0.

    Returns:
        uint8 [rows, columns, 3], RGB.
    """
    return draw_map_over_image(image, cells, _OPACITY * min(1.0, float(np.abs(cells).max()) / full))


def list_image_kinds(data: Data, finding: int) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Yield the kinds of images of a data set and the rows of each.

    The kinds are without and with the finding; with it by kind of pneumonia in the published data set.

    Args:
        data: the data set.
        finding: column of its findings.

    Yields:
        Name and rows, int64 [of this kind].
    """
    name, labels = data.findings[finding], data.labels[:, finding]
    yield f"without {name}", np.flatnonzero(labels == 0)
    rest = labels == 1
    for prefix, kind in (("bacteria-", "bacterial"), ("virus-", "viral")) if data.published else ():
        chosen = np.char.startswith(data.patients, prefix) & (labels == 1)
        if chosen.any():
            yield f"{name}, {kind}", np.flatnonzero(chosen)
            rest &= ~chosen
    if rest.any():
        yield name, np.flatnonzero(rest)


def draw_sample_rows(data: Data, rows: npt.NDArray[np.int64], count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Draw sample images of different patients for the report.

    Args:
        data: the data set.
        rows: int64 [n], the images to draw from.
        count: how many at most.
        seed: of the draw.

    Returns:
        int64 [at most ``count``], a part of ``rows``, rising in position.
    """
    _, first = np.unique(data.patients[rows], return_index=True)
    drawn = np.random.default_rng(seed).permutation(first)[:count]
    return np.asarray(rows[np.sort(drawn)])
