"""Detector of images that are not upright frontal chest radiographs.

Tags can be missing or wrong; the detector uses the pixels. Two feature vectors are compared with those of the training
images: the network's embedding, and histograms of gradients (N. Dalal and B. Triggs, CVPR 2005). Each is projected on
the principal components of the training images, with two distances: within the components (Mahalanobis) and from
them. A linear score weights all of these. All parameters are in the bundle's ``detector.npz`` and in the section
``scope`` of its manifest.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from PIL import Image

from preread.core.errors import BundleDamaged
from preread.core.types import FloatArray, JSONObject, PixelArray, RefusalCode

CELLS = 7
DIRECTIONS = 8
EDGES = CELLS * CELLS * DIRECTIONS
_CELL_PX = 8
_SIDE_PX = CELLS * _CELL_PX + 2  # gradients are not defined on the border
_FAINT = 0.2  # gradients below this (grey levels per pixel) are suppressed
_CLIP = 6.0  # standard deviations; the distances cover what is farther out
_LEAST = 1e-6

# Of bundles that were published before manifests stated it: SHA-256 of their detector.npz, and the 99 % quantile of the
# scores of their training images.
_TYPICAL_MAX = {"a6121ecbb137689c8e2b9bcce787fc4bf7fd1d5b5f422401abbae782811e18bd": -1.091}

_TURNS = {
    0: "",
    1: "is rotated by 90 degrees (its top points to the right)",
    2: "is upside down",
    3: "is rotated by 90 degrees (its top points to the left)",
}


@dataclass(frozen=True, slots=True)
class ScopeSpec:
    """Thresholds of the out-of-scope detector: manifest section ``scope``.

    Attributes:
        score_max: an image with a higher score is refused.
        turned_max: the refusal is ``orientation`` or ``inverted`` if the edge features of the rotated or inverted image
            have at most this distance from the training images, else ``not_chest``.
        turned_gain: and if that distance is smaller than that of the image as it is by at least this much (noise is
            as near in every pose).
        typical_max: at least 99 % of the training images score at most this; an image with a tag that is not understood
            is assessed only then. ``None`` if the bundle does not state it: such an image is refused.
        reason: how the thresholds were chosen.
        rates: number of images of each kind accepted and refused, and by which network.
    """

    score_max: float
    turned_max: float
    turned_gain: float
    reason: str
    rates: JSONObject
    typical_max: float | None = None

    def __post_init__(self) -> None:
        typical = () if self.typical_max is None else ("typical_max",)
        for name in ("score_max", "turned_max", "turned_gain", *typical):
            if not math.isfinite(threshold := getattr(self, name)):
                raise ValueError(f"the threshold {name} of the out-of-scope detector is {threshold}; it must be finite")


_ANGLES = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1).astype(np.float32)
_POOLING = np.repeat(np.eye(CELLS, dtype=np.float32), _CELL_PX, axis=1) / _CELL_PX


def compute_edge_features(pixels: PixelArray) -> FloatArray:
    """Compute edge features of an image: gradient histograms on a grid.

    Args:
        pixels: uint8 [rows, columns], 0 to 255, after ``preprocessing.resize_to_input``.

    Returns:
        float32 [EDGES], in [0, 1]: the strength in 8 directions in each cell, normalised by that of the cell and, with
        half the weight, of the image, so that contrast and brightness have little influence.
    """
    grey = Image.fromarray(pixels.astype(np.float32))
    small = np.asarray(grey.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX))
    across, down = small[1:-1, 2:] - small[1:-1, :-2], small[2:, 1:-1] - small[:-2, 1:-1]
    along = np.maximum(_DIRECTIONS @ np.stack([across.ravel(), down.ravel()]), 0)
    cells = _POOLING @ (along.reshape(DIRECTIONS, *across.shape) @ _POOLING.T)
    own = np.sqrt((cells**2).sum(axis=0))
    overall = math.sqrt(float((own**2).mean()))
    return np.asarray(np.sqrt(cells / (own + 0.5 * overall + _FAINT)).ravel(), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Subspace:
    """Principal components of the training images for one feature vector.

    Attributes:
        mean: float32 [features].
        axes: float32 [components, features], orthonormal.
        scales: float32 [components], standard deviation of the training images along each; above 0.
        rest: mean squared distance of the training images from the components; above 0.
    """

    mean: FloatArray
    axes: FloatArray
    scales: FloatArray
    rest: float

    def project_features(self, features: FloatArray) -> FloatArray:
        """Project feature vectors on the components, with two distances.

        Args:
            features: float32 [..., features].

        Returns:
            float32 [..., components + 2]: coordinates in standard deviations, clipped to six, divided by three; then
            the logarithms of the mean squared distances within the components (Mahalanobis) and from them, relative
            to the training images.
        """
        centred = features - self.mean
        # Not a matrix product: for one so small, starting the threads of BLAS takes longer than the computation.
        along = np.einsum("...f,cf->...c", centred, self.axes)
        whitened = along / self.scales
        inside = (whitened**2).mean(axis=-1, keepdims=True)
        away = ((centred**2).sum(axis=-1, keepdims=True) - (along**2).sum(axis=-1, keepdims=True)) / self.rest
        distances = np.log(np.maximum(np.concatenate([inside, away], axis=-1), _LEAST))
        return np.concatenate([np.clip(whitened, -_CLIP, _CLIP) / 3, distances], axis=-1).astype(np.float32)

    def compute_distance(self, features: FloatArray) -> FloatArray:
        """Compute the log distance of feature vectors from training images.

        It is the logarithm of the sum of both distances of ``project_features``.

        Args:
            features: float32 [..., features].

        Returns:
            float32 [...].
        """
        distances = self.project_features(features)[..., -2:]
        return np.asarray(np.logaddexp(distances[..., 0], distances[..., 1]))


@dataclass(frozen=True, slots=True)
class Pose:
    """Rotation and inversion of an image.

    Attributes:
        inverted: black and white are exchanged.
        turns: quarter turns counter-clockwise, 0 to 3.
        distance: distance of its edge features from the training images, see ``Subspace.compute_distance``.
        gain: distance of the image as it is, minus ``distance``.
    """

    inverted: bool
    turns: int
    distance: float
    gain: float


@dataclass(frozen=True, slots=True)
class Detector:
    """Detector of images that are not upright frontal chest radiographs.

    Attributes:
        edges: subspace of the edge features.
        embedding: subspace of the network's embedding.
        weights: float32 [components of edges + 2 + components of embedding + 2].
        intercept: added to the weighted sum; the sum is the score, high outside the scope.
        spec: thresholds.
    """

    edges: Subspace
    embedding: Subspace
    weights: FloatArray
    intercept: float
    spec: ScopeSpec

    def build_score_inputs(self, edge_features: FloatArray, embedding: FloatArray) -> FloatArray:
        """Build the inputs of the linear out-of-scope score.

        Args:
            edge_features: float32 [..., EDGES].
            embedding: float32 [..., features].

        Returns:
            float32 [..., weights].
        """
        return np.concatenate(
            [self.edges.project_features(edge_features), self.embedding.project_features(embedding)], axis=-1
        )

    def compute_score(self, edge_features: FloatArray, embedding: FloatArray) -> FloatArray:
        """Compute the out-of-scope score of feature vectors.

        Images above ``ScopeSpec.score_max`` are refused.

        Args:
            edge_features: float32 [..., EDGES].
            embedding: float32 [..., features].

        Returns:
            float32 [...].
        """
        return np.asarray(self.build_score_inputs(edge_features, embedding) @ self.weights + np.float32(self.intercept))

    def check_scope(self, pixels: PixelArray, embedding: FloatArray) -> tuple[RefusalCode, str] | None:
        """Check by its pixels if an image is in scope, a frontal radiograph.

        Args:
            pixels: uint8 [rows, columns], 0 to 255, after ``preprocessing.resize_to_input``.
            embedding: float32 [features], the network's embedding of it.

        Returns:
            Code and reason of the refusal; ``None`` if it is in scope.
        """
        score = float(self.compute_score(compute_edge_features(pixels), embedding))
        if score <= self.spec.score_max:  # NaN is refused as well
            return None
        return self.explain_refusal(self.find_nearest_pose(pixels))

    def is_typical(self, pixels: PixelArray, embedding: FloatArray) -> bool:
        """Return whether an image scores as 99 % of the training images do.

        Args:
            pixels: uint8 [rows, columns], 0 to 255, after ``preprocessing.resize_to_input``.
            embedding: float32 [features], the network's embedding of it.
        """
        limit = self.spec.typical_max
        return limit is not None and float(self.compute_score(compute_edge_features(pixels), embedding)) <= limit

    def find_nearest_pose(self, pixels: PixelArray) -> Pose:
        """Find the rotation and inversion nearest to the training images.

        Args:
            pixels: uint8 [rows, columns], 0 to 255, after ``preprocessing.resize_to_input``.
        """
        tried = {
            (inverted, turns): float(self.edges.compute_distance(compute_edge_features(np.rot90(shown, turns))))
            for inverted, shown in ((False, pixels), (True, 255 - pixels))
            for turns in _TURNS
        }
        as_it_is = tried.pop((False, 0))
        (inverted, turns), distance = min(tried.items(), key=lambda item: item[1])
        return Pose(inverted, turns, distance, as_it_is - distance)

    def explain_refusal(self, pose: Pose) -> tuple[RefusalCode, str]:
        """Return code and reason of an out-of-scope image's refusal.

        Args:
            pose: its nearest pose.
        """
        if not (pose.distance <= self.spec.turned_max and pose.gain >= self.spec.turned_gain):
            return RefusalCode.NOT_CHEST, "the image does not look like a frontal chest radiograph"
        if not pose.inverted:
            return RefusalCode.ORIENTATION, f"the image {_TURNS[pose.turns]}"
        also = f", and it {_TURNS[pose.turns]}" if pose.turns else ""
        return RefusalCode.INVERTED, f"black and white of the image seem to be exchanged{also}"

    def to_npz(self) -> bytes:
        """Serialise the detector as ``detector.npz``, without thresholds."""
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
        """Read an out-of-scope detector from ``detector.npz``.

        Args:
            data: its content.
            spec: thresholds from the manifest.

        Raises:
            BundleDamaged: it cannot be read, or an array is missing, has another shape or is not finite.
        """
        try:
            with np.load(BytesIO(data), allow_pickle=False) as file:
                arrays = {name: np.asarray(file[name]) for name in file.files}
        except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError, NotImplementedError) as error:
            raise BundleDamaged(f"detector.npz cannot be read: {error}") from error
        if spec.typical_max is None:
            spec = replace(spec, typical_max=_TYPICAL_MAX.get(hashlib.sha256(data).hexdigest()))
        edges = _subspace(arrays, "edges", EDGES)
        embedding = _subspace(arrays, "embedding", None)
        weights = _field(arrays, "weights", (len(edges.scales) + len(embedding.scales) + 4,))
        return cls(edges, embedding, weights, float(_field(arrays, "intercept", ())), spec)


def _field(arrays: Mapping[str, FloatArray], name: str, shape: tuple[int | None, ...]) -> FloatArray:
    if name not in arrays:
        raise BundleDamaged(f"detector.npz lacks the array {name}, which every detector must have")
    array = arrays[name]
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != np.float32:
        raise BundleDamaged(
            f"detector.npz: the array {name} is {array.dtype} {list(array.shape)}; float32 "
            f"{['any' if size is None else size for size in shape]} is required"
        )
    if not np.isfinite(array).all():
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        raise BundleDamaged(f"detector.npz: the array {name} has {bad} values that are not finite")
    return array


def _subspace(arrays: Mapping[str, FloatArray], name: str, features: int | None) -> Subspace:
    mean = _field(arrays, f"{name}_mean", (features,))
    axes = _field(arrays, f"{name}_axes", (None, len(mean)))
    scales = _field(arrays, f"{name}_scales", (len(axes),))
    rest = float(_field(arrays, f"{name}_rest", ()))
    for label, least in ((f"{name}_scales", float(scales.min(initial=np.inf))), (f"{name}_rest", rest)):
        if not least > 0:
            raise BundleDamaged(f"detector.npz: the minimum of {label} is {least}; it must be above 0")
    return Subspace(mean, axes, scales, rest)
