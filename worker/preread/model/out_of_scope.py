"""Intended use by pixels: is this a frontal chest film, upright and shown bright on dark?

Tags can be silent or wrong; this looks at the picture itself. Two descriptions are compared with those of the training
films: the network's embedding, and where in the picture edges run in which direction (histograms of gradients, N. Dalal
and B. Triggs, CVPR 2005). Each becomes its coordinates in the films' principal components, and two distances: inside
these components (Mahalanobis) and away from them. One linear score weighs them all; every number of it comes from the
bundle's ``detector.npz`` and the ``scope`` section of its manifest.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from preread.core.errors import BundleDamaged
from preread.core.types import FloatArray, JSONObject, PixelArray, RefusalCode

CELLS = 7
DIRECTIONS = 8
EDGES = CELLS * CELLS * DIRECTIONS
_CELL_PX = 8
_SIDE_PX = CELLS * _CELL_PX + 2  # a gradient has no value on the rim
_FAINT = 0.2  # grey levels per pixel below which an edge counts as none
_CLIP = 6.0  # standard deviations; what lies farther out is for the distances to say
_LEAST = 1e-6

_TURNS = {
    0: "",
    1: "lies on its side (its top points to the right)",
    2: "stands on its head",
    3: "lies on its side (its top points to the left)",
}


@dataclass(frozen=True, slots=True)
class ScopeSpec:
    """The manifest's ``scope`` section.

    Attributes:
        score_max: a picture whose score is above it is refused.
        turned_max: a refused picture is named ``orientation`` or ``inverted`` where, turned or with black and white
            exchanged, it comes to at most this distance from the films' edges, else ``not_chest``.
        turned_gain: and where that is nearer than as it is by at least this much (noise is as near in every pose).
        reason: how the two were chosen, in words.
        rates: how many pictures of each kind were accepted and refused, and by which network.
    """

    score_max: float
    turned_max: float
    turned_gain: float
    reason: str
    rates: JSONObject

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.score_max, self.turned_max, self.turned_gain))):
            raise ValueError("score_max, turned_max and turned_gain must be finite")


_ANGLES = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1).astype(np.float32)
_POOLING = np.repeat(np.eye(CELLS, dtype=np.float32), _CELL_PX, axis=1) / _CELL_PX


def edge_features(picture: PixelArray) -> FloatArray:
    """Describe where the edges of a picture run in which direction, from dark to bright.

    Args:
        picture: uint8 [rows, columns] after ``preprocessing.shrink``.

    Returns:
        float32 [EDGES] in [0, 1]: per cell of a 7x7 grid the strength in 8 directions, against the cell's own edges and
        half against the whole picture's, so that neither contrast nor brightness of a film matters much.
    """
    grey = Image.fromarray(picture.astype(np.float32))
    small = np.asarray(grey.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX))
    across, down = small[1:-1, 2:] - small[1:-1, :-2], small[2:, 1:-1] - small[:-2, 1:-1]
    along = np.maximum(_DIRECTIONS @ np.stack([across.ravel(), down.ravel()]), 0)
    cells = _POOLING @ (along.reshape(DIRECTIONS, *across.shape) @ _POOLING.T)
    own = np.sqrt((cells**2).sum(axis=0))
    overall = math.sqrt(float((own**2).mean()))
    return np.asarray(np.sqrt(cells / (own + 0.5 * overall + _FAINT)).ravel(), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Subspace:
    """The principal components of the films in one description.

    Attributes:
        mean: float32 [features].
        axes: float32 [components, features], orthonormal.
        scales: float32 [components], the films' standard deviation along each.
        rest: the films' mean squared distance from the components.
    """

    mean: FloatArray
    axes: FloatArray
    scales: FloatArray
    rest: float

    def project(self, features: FloatArray) -> FloatArray:
        """Find coordinates and distances: float32 [..., features] to float32 [..., components + 2].

        The coordinates come first: in standard deviations, clipped to six, over three. Then the logarithms of the
        squared distances inside the components (Mahalanobis) and away from them, relative to the films' own.
        """
        centred = features - self.mean
        # Not a matrix product: so small a one costs more in waking a BLAS's threads than in numbers.
        along = np.einsum("...f,cf->...c", centred, self.axes)
        whitened = along / self.scales
        inside = (whitened**2).mean(axis=-1, keepdims=True)
        away = ((centred**2).sum(axis=-1, keepdims=True) - (along**2).sum(axis=-1, keepdims=True)) / self.rest
        distances = np.log(np.maximum(np.concatenate([inside, away], axis=-1), _LEAST))
        return np.concatenate([np.clip(whitened, -_CLIP, _CLIP) / 3, distances], axis=-1).astype(np.float32)

    def distance(self, features: FloatArray) -> FloatArray:
        """The logarithm of the sum of both distances: float32 [...] for float32 [..., features]."""
        distances = self.project(features)[..., -2:]
        return np.asarray(np.logaddexp(distances[..., 0], distances[..., 1]))


@dataclass(frozen=True, slots=True)
class Pose:
    """A way to look at a picture other than as it is.

    Attributes:
        exchanged: black and white.
        turns: quarters, counter-clockwise.
        distance: of its edges from those of the films, see ``Subspace.distance``.
        gain: by how much that is nearer than the picture as it is.
    """

    exchanged: bool
    turns: int
    distance: float
    gain: float


@dataclass(frozen=True, slots=True)
class Detector:
    """Refuses pictures that are no upright frontal chest film.

    Attributes:
        weights: float32 [components of edges + 2 + components of embedding + 2].
        intercept: added to the weighted sum; the sum is the score, high for what is no chest film.
    """

    edges: Subspace
    embedding: Subspace
    weights: FloatArray
    intercept: float
    spec: ScopeSpec

    def components(self, edge_features: FloatArray, embedding: FloatArray) -> FloatArray:
        """What is weighed: float32 [..., weights] from float32 [..., EDGES] and float32 [..., features]."""
        return np.concatenate([self.edges.project(edge_features), self.embedding.project(embedding)], axis=-1)

    def score(self, edge_features: FloatArray, embedding: FloatArray) -> FloatArray:
        """float32 [...] from float32 [..., EDGES] and the network's embedding float32 [..., features]."""
        return np.asarray(self.components(edge_features, embedding) @ self.weights + np.float32(self.intercept))

    def check(self, picture: PixelArray, embedding: FloatArray) -> tuple[RefusalCode, str] | None:
        """Say why a picture is out of scope, or ``None``.

        Args:
            picture: uint8 [rows, columns] after ``preprocessing.shrink``.
            embedding: float32 [features], what the network returned for it.
        """
        score = float(self.score(edge_features(picture), embedding))
        if score <= self.spec.score_max:  # a score that is no number is refused too
            return None
        return self.refusal(self.nearest_pose(picture))

    def nearest_pose(self, picture: PixelArray) -> Pose:
        """Turn the picture and exchange its black and white, and find the way in which it looks most like a chest."""
        tried = {
            (exchanged, turns): float(self.edges.distance(edge_features(np.rot90(shown, turns))))
            for exchanged, shown in ((False, picture), (True, 255 - picture))
            for turns in _TURNS
        }
        as_it_is = tried.pop((False, 0))
        (exchanged, turns), distance = min(tried.items(), key=lambda item: item[1])
        return Pose(exchanged, turns, distance, as_it_is - distance)

    def refusal(self, pose: Pose) -> tuple[RefusalCode, str]:
        """Name a refused picture by its likeliest pose."""
        if not (pose.distance <= self.spec.turned_max and pose.gain >= self.spec.turned_gain):
            return RefusalCode.NOT_CHEST, "the picture does not look like a frontal chest film"
        if not pose.exchanged:
            return RefusalCode.ORIENTATION, f"the film {_TURNS[pose.turns]}"
        also = f", and {_TURNS[pose.turns]}" if pose.turns else ""
        return RefusalCode.INVERTED, f"the film seems to be shown with black and white exchanged{also}"

    def to_npz(self) -> bytes:
        """The content of ``detector.npz``; the spec stands in the manifest."""
        arrays = {
            f"{name}_{field}": np.asarray(getattr(subspace, field), dtype=np.float32)
            for name, subspace in (("edges", self.edges), ("embedding", self.embedding))
            for field in ("mean", "axes", "scales", "rest")
        }
        stream = BytesIO()
        np.savez(stream, weights=self.weights, intercept=np.float32(self.intercept), **arrays)  # type: ignore[arg-type]
        return stream.getvalue()

    @classmethod
    def from_npz(cls, data: bytes, spec: ScopeSpec) -> Detector:
        """Read ``detector.npz``.

        Raises:
            BundleDamaged: it is none, or a field is missing, of another shape, or not finite; the message names it.
        """
        try:
            with np.load(BytesIO(data), allow_pickle=False) as file:
                arrays = {name: np.asarray(file[name]) for name in file.files}
        except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError, NotImplementedError) as error:
            raise BundleDamaged(f"detector.npz cannot be read: {error}") from error
        seen = _subspace(arrays, "edges", EDGES)
        learned = _subspace(arrays, "embedding", None)
        weights = _field(arrays, "weights", (len(seen.scales) + len(learned.scales) + 4,))
        return cls(seen, learned, weights, float(_field(arrays, "intercept", ())), spec)


def _field(arrays: Mapping[str, FloatArray], name: str, shape: tuple[int | None, ...]) -> FloatArray:
    if name not in arrays:
        raise BundleDamaged(f"detector.npz lacks {name}")
    found = arrays[name]
    fits = found.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, found.shape, strict=True))
    if not fits or found.dtype != np.float32:
        raise BundleDamaged(f"detector.npz: {name} is {found.dtype} {list(found.shape)}")
    if not np.isfinite(found).all():
        raise BundleDamaged(f"detector.npz: {name} holds a value that is no finite number")
    return found


def _subspace(arrays: Mapping[str, FloatArray], name: str, features: int | None) -> Subspace:
    mean = _field(arrays, f"{name}_mean", (features,))
    axes = _field(arrays, f"{name}_axes", (None, len(mean)))
    scales = _field(arrays, f"{name}_scales", (len(axes),))
    rest = float(_field(arrays, f"{name}_rest", ()))
    for label, least in ((f"{name}_scales", float(scales.min(initial=np.inf))), (f"{name}_rest", rest)):
        if not least > 0:
            raise BundleDamaged(f"detector.npz: {label} is not above 0")
    return Subspace(mean, axes, scales, rest)
