"""Fit and measure the out-of-scope detector.

It detects images that are no frontal chest radiograph, see ``preread.model.out_of_scope``.

A detector learns from chest images, from chest images varied as in training, from phantoms (drawn chests must pass, or
an installation could not be tried) and from synthetic negatives. A network's embeddings of the images that it was
fitted to are not those of new images, so the threshold and all rates come from detectors fitted beside each fold's
network and measured on patients that this network had not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from preread.core.types import FloatArray, JSONObject, PixelArray, RefusalCode
from preread.imaging.preprocessing import PreprocessingSpec, normalise_grey_levels, resize_to_input
from preread.model.out_of_scope import Detector, Pose, ScopeSpec, Subspace, compute_edge_features
from preread_training.data.augmentation import Augmentation, augment_images
from preread_training.data.phantoms import draw_chest
from preread_training.detector import synthetic_negatives
from preread_training.stats.baselines import fit_logistic

Embed = Callable[[PixelArray], FloatArray]
Scores = npt.NDArray[np.float64]

IMAGES_MAX = 800  # to which a detector is fitted; more change little and cost network time
_PHANTOMS = 40
_COMPONENTS = {"edges": 144, "embedding": 64}
_RIDGE = 0.00125  # per image
_OF_EACH_KIND = 3 / 16  # synthetic negatives to fit with, as a share of the images
_TO_MEASURE = 3 / 40  # synthetic negatives of each kind and fold to measure with, likewise
_ACCEPTED_AIM = 0.995
_REFUSED_AIM = 0.98
_TURNED_QUANTILE = 0.99
_TYPICAL_SHARE = 0.99
# Wider in tone and narrower in crop than the augmentation of the network's images: half a chest is none.
VARIED = Augmentation(
    area_min=0.5, log_aspect=0.35, top_cut=0.2, rotation_degrees=10.0, gamma=0.5, contrast=0.5, brightness=50.0
)
_UNSET = ScopeSpec(score_max=0.0, turned_max=0.0, turned_gain=0.0, reason="", rates={})


@dataclass(frozen=True)
class DetectorFeatures:
    """Features of images from which the detector computes its score.

    Attributes:
        edges: float32 [n, EDGES].
        embedding: float32 [n, features].
    """

    edges: FloatArray
    embedding: FloatArray

    def __add__(self, other: DetectorFeatures) -> DetectorFeatures:
        """Return the features of these images, then those of the others."""
        return DetectorFeatures(np.vstack([self.edges, other.edges]), np.vstack([self.embedding, other.embedding]))


def compute_detector_features(images: PixelArray, embed: Embed) -> DetectorFeatures:
    """Return the detector's features of images.

    Args:
        images: uint8 [n, rows, columns] after ``preprocessing.resize_to_input``.
        embed: the network's embeddings.
    """
    return DetectorFeatures(np.stack([compute_edge_features(image) for image in images]), embed(images))


def make_keras_embedding(served: Any, spec: PreprocessingSpec, batch: int = 32) -> Embed:
    """Return a function that computes a Keras network's embeddings.

    Args:
        served: a network of ``trainer.build_serving_network``.
        spec: preprocessing of the network's inputs.
        batch: images at a time.

    Returns:
        A function of uint8 [n, rows, columns] that returns float32 [n, features].
    """

    def embed(images: PixelArray) -> FloatArray:
        parts = [
            served.predict_on_batch(normalise_grey_levels(spec, images[start : start + batch])[..., np.newaxis])[
                "embedding"
            ]
            for start in range(0, len(images), batch)
        ]
        return np.concatenate(parts)

    return embed


def vary_framing_and_tone(images: PixelArray, seed: int, batch: int = 32) -> PixelArray:
    """Vary framing and tone of chest images, within ``VARIED``.

    Args:
        images: uint8 [n, side, side].
        seed: of the draws.
        batch: images at a time; another number gives other draws.

    Returns:
        uint8 [n, side, side].
    """
    parts = [
        augment_images(VARIED, images[start : start + batch], images.shape[1], [seed, start]).numpy()[..., 0]
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(parts).astype(np.uint8)


def draw_detector_phantoms(spec: PreprocessingSpec, count: int = _PHANTOMS) -> PixelArray:
    """Draw the phantoms that every detector has to accept.

    Args:
        spec: to whose size they are shrunk.
        count: how many, in turn of four sizes.

    Returns:
        uint8 [count, spec.rows, spec.columns].
    """
    sides = ((512, 512), (420, 512), (128, 96), (300, 240))
    drawn = [draw_chest(1000 + n, rows=sides[n % 4][0], columns=sides[n % 4][1]) for n in range(count)]
    return np.stack([resize_to_input(spec, image) for image in drawn])


def fit_subspace(features: FloatArray, components: int) -> Subspace:
    """Return the principal components of features.

    Args:
        features: float32 [n, features].
        components: how many; fewer if there are too few images.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    _, lengths, axes = np.linalg.svd(features - mean, full_matrices=False)
    deviations = lengths / np.sqrt(max(1, len(features) - 1))
    kept = max(1, min(components, len(features) // 4, int((deviations > 1e-4 * deviations[0]).sum()) - 1))
    rest = float((deviations[kept:] ** 2).sum())
    return Subspace(
        mean.astype(np.float32), axes[:kept].astype(np.float32), deviations[:kept].astype(np.float32), max(rest, 1e-6)
    )


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """DetectorSettings of the fit of a detector.

    Attributes:
        spec: preprocessing of the networks' inputs.
        seed: of all draws.
        images_max: number of images that a detector is fitted to, drawn at random.
    """

    spec: PreprocessingSpec
    seed: int = 0
    images_max: int = IMAGES_MAX


def fit_detector(images: PixelArray, embed: Embed, settings: DetectorSettings) -> Detector:
    """Fit one out-of-scope detector beside one network.

    Its thresholds are not set yet, see ``fit_bundle_detector``.

    Args:
        images: uint8 [n, rows, columns] after ``preprocessing.resize_to_input``, those that the network was fitted to.
        embed: the network's embeddings.
        settings: preprocessing, seed and number of images.
    """
    spec, seed = settings.spec, settings.seed
    rng = np.random.default_rng(seed)
    chosen = images[rng.permutation(len(images))[: settings.images_max]]
    each = max(1, int(len(chosen) * _OF_EACH_KIND))
    seen = compute_detector_features(np.concatenate([chosen, vary_framing_and_tone(chosen, seed)]), embed)
    drawn = compute_detector_features(draw_detector_phantoms(spec), embed)
    refused = [
        compute_detector_features(
            synthetic_negatives.make_synthetic_negatives(kind, chosen[rng.permutation(len(chosen))[:each]], spec, seed),
            embed,
        )
        for kind in synthetic_negatives.KINDS
    ]
    bare = Detector(
        fit_subspace(seen.edges, _COMPONENTS["edges"]),
        fit_subspace(seen.embedding, _COMPONENTS["embedding"]),
        np.zeros(0, np.float32),
        0.0,
        _UNSET,
    )
    groups = [(seen, 0, 0.95), (drawn, 0, 0.05), *((kind, 1, 1 / len(refused)) for kind in refused)]
    places = [bare.build_score_inputs(group.edges, group.embedding) for group, _, _ in groups]
    total = sum(map(len, places))
    labels = np.concatenate([np.full(len(place), label) for place, (_, label, _) in zip(places, groups, strict=True)])
    weight = np.concatenate(
        [
            np.full(len(place), share * total / 2 / len(place))
            for place, (_, _, share) in zip(places, groups, strict=True)
        ]
    )
    found = fit_logistic(np.concatenate(places).astype(np.float64), labels, weight, ridge=_RIDGE * total)
    return replace(bare, weights=found[:-1].astype(np.float32), intercept=float(found[-1]))


@dataclass(frozen=True)
class Network:
    """A network of a run, with the images that it was fitted to.

    Attributes:
        name: of the part of the run, such as ``fold-0``.
        embed: computes its embeddings.
        fitted: bool [n], images of the data set; the others are new to it, patient by patient.
    """

    name: str
    embed: Embed
    fitted: npt.NDArray[np.bool_]


@dataclass
class _Seen:
    """Scores and nearest poses of images of one kind."""

    scores: list[float] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)

    def take(self, detector: Detector, images: PixelArray, embed: Embed) -> None:
        found = compute_detector_features(images, embed)
        self.scores += detector.compute_score(found.edges, found.embedding).tolist()
        self.poses += [detector.find_nearest_pose(image) for image in images]

    def counted(self, detector: Detector) -> JSONObject:
        codes = [
            detector.explain_refusal(p)[0]
            for p, s in zip(self.poses, self.scores, strict=True)
            if s > detector.spec.score_max
        ]
        count, refused = len(self.scores), len(codes)
        named = {str(code): codes.count(code) for code in RefusalCode if code in codes}
        return {"count": count, "refused": refused, "share_refused": round(refused / count, 4), **named}


@dataclass
class _OutOfFold:
    """Scores of images of patients that the networks of the folds had not seen.

    Attributes:
        chests: scores of the images.
        distances: of the images' edges from the subspace of the edges.
        varied: scores of images varied as in ``VARIED``.
        negatives: of synthetic negatives made from them, by kind.
    """

    chests: list[float] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    varied: list[float] = field(default_factory=list)
    negatives: dict[str, _Seen] = field(default_factory=lambda: {kind: _Seen() for kind in synthetic_negatives.KINDS})

    def take(self, detector: Detector, images: PixelArray, embed: Embed, settings: DetectorSettings) -> None:
        found = compute_detector_features(images, embed)
        self.chests += detector.compute_score(found.edges, found.embedding).tolist()
        self.distances += detector.edges.compute_distance(found.edges).tolist()
        order = np.random.default_rng(settings.seed).permutation(len(images))
        some = images[order[: max(1, int(settings.images_max * _TO_MEASURE))]]
        changed = compute_detector_features(vary_framing_and_tone(some, settings.seed), embed)
        self.varied += detector.compute_score(changed.edges, changed.embedding).tolist()
        for kind, seen in self.negatives.items():
            seen.take(
                detector,
                synthetic_negatives.make_synthetic_negatives(kind, some, settings.spec, settings.seed + 1000),
                embed,
            )

    def rates(self, detector: Detector) -> JSONObject:
        return {
            "films": _accepted(self.chests, detector),
            "films_varied": _accepted(self.varied, detector),
            "made": {kind: seen.counted(detector) for kind, seen in self.negatives.items()},
        }


def _accepted(scores: Sequence[float], detector: Detector) -> JSONObject:
    accepted = int((np.asarray(scores) <= detector.spec.score_max).sum())
    return {"count": len(scores), "accepted": accepted, "share_accepted": round(accepted / len(scores), 4)}


def _thresholds(measured: _OutOfFold) -> ScopeSpec:
    """Choose the thresholds out of fold, and state the reason."""
    accepted = float(np.quantile(measured.chests, _ACCEPTED_AIM, method="higher"))
    sent = [seen.scores for kind, seen in measured.negatives.items() if kind not in synthetic_negatives.NEAR]
    refused = min(float(np.quantile(scores, 1 - _REFUSED_AIM, method="lower")) for scores in sent)
    gains = [[pose.gain for pose in measured.negatives[kind].poses] for kind in synthetic_negatives.MISHAPS]
    return ScopeSpec(
        score_max=max(accepted, (accepted + refused) / 2),
        turned_max=float(np.quantile(measured.distances, _TURNED_QUANTILE, method="higher")),
        turned_gain=min(float(np.quantile(gain, 1 - _TURNED_QUANTILE, method="lower")) for gain in gains),
        reason=(
            f"Out of fold, {_ACCEPTED_AIM:.1%} of the images score at most {accepted:.2f}, and {_REFUSED_AIM:.0%} of "
            "images turned or shown with black and white exchanged, of noise, clouds, near blanks and drawings each "
            f"score above {refused:.2f}; the threshold lies halfway between, but never below the first. A refused "
            "image is called turned or exchanged if that would bring its edges as near to the chest images' own as "
            f"those of {_TURNED_QUANTILE:.0%} of the chest images are, and nearer than as it is by what "
            f"{_TURNED_QUANTILE:.0%} of chest images so treated gain."
        ),
        rates={},
        typical_max=float(np.quantile(measured.chests, _TYPICAL_SHARE, method="higher")),
    )


def fit_bundle_detector(
    images: PixelArray,
    folds: Iterable[Network],
    final: Network | None,
    settings: DetectorSettings,
    *,
    foreign: Mapping[str, PixelArray],
    say: Callable[[str], None] = lambda _: None,
) -> Detector:
    """Fit the out-of-scope detector of a bundle and measure its rates.

    Thresholds are chosen out of fold.

    Args:
        images: uint8 [n, rows, columns], the images of the data set after ``preprocessing.resize_to_input``.
        folds: the networks with which thresholds are chosen and rates measured, one by one; at least one.
        final: the network of the bundle; ``None`` if it is the one network of ``folds``.
        settings: of each detector's fit; the seed rises by one from network to network.
        foreign: by kind uint8 [m, rows, columns] of no chest; nothing is fitted to them or chosen with them.
        say: called with a line of text before each fit.

    Returns:
        The detector with thresholds, their reason, and the rates by kind.

    Raises:
        ValueError: ``folds`` is empty.
    """
    measured = _OutOfFold()
    names: list[str] = []
    detector: Detector | None = None
    for number, network in enumerate(folds):
        say(f"detector beside {network.name}")
        of_fold = replace(settings, seed=settings.seed + number)
        detector = fit_detector(images[network.fitted], network.embed, of_fold)
        measured.take(detector, images[~network.fitted], network.embed, of_fold)
        names.append(network.name)
    if detector is None:
        raise ValueError("the detector needs a network of at least one fold, but got none: finish a fold")
    embed = network.embed
    if final is not None:
        say(f"detector beside {final.name}")
        embed = final.embed
        detector = fit_detector(images[final.fitted], embed, replace(settings, seed=settings.seed + len(names)))
    detector = replace(detector, spec=_thresholds(measured))
    strange = {kind: _Seen() for kind in foreign}
    for kind, seen in strange.items():
        seen.take(detector, foreign[kind], embed)
    rates: JSONObject = {
        "out_of_fold": {"networks": ", ".join(names), **measured.rates(detector)},
        "never_fitted_to": {kind: seen.counted(detector) for kind, seen in strange.items()},
    }
    return replace(detector, spec=replace(detector.spec, rates=rates))
