"""Fit and measure the out-of-scope detector.

It detects images that are no frontal chest radiograph, see ``preread.model.out_of_scope``.

A detector learns from films, from films varied as in training, from phantoms (drawn chests must pass, or nobody could
try an installation) and from decoys. A network's embeddings of its own training films are not those of new films, so
the threshold and all rates come from detectors fitted beside each fold's network and measured on the patients that
this network never saw.
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
from preread_training.data.augmentation import Augmentation, augment
from preread_training.data.phantoms import draw_chest
from preread_training.detector import synthetic_negatives as decoys
from preread_training.stats.baselines import fit_logistic

Embed = Callable[[PixelArray], FloatArray]
Scores = npt.NDArray[np.float64]

FILMS = 800  # that a detector learns from; more change little and cost network time
_PHANTOMS = 40
_COMPONENTS = {"edges": 144, "embedding": 64}
_RIDGE = 0.00125  # per picture
_OF_EACH_KIND = 3 / 16  # decoys to fit with, as a share of the films
_TO_MEASURE = 3 / 40  # decoys of each kind and fold to measure with, likewise
_ACCEPTED_AIM = 0.995
_REFUSED_AIM = 0.98
_TURNED_QUANTILE = 0.99
# Wider in tone and narrower in crop than what the network learns from: half a chest is none.
VARIED = Augmentation(
    area_min=0.5, log_aspect=0.35, top_cut=0.2, rotation_degrees=10.0, gamma=0.5, contrast=0.5, brightness=50.0
)
_UNSET = ScopeSpec(score_max=0.0, turned_max=0.0, turned_gain=0.0, reason="", rates={})


@dataclass(frozen=True)
class Described:
    """Pictures as the detector sees them.

    Attributes:
        edges: float32 [n, EDGES].
        embedding: float32 [n, features].
    """

    edges: FloatArray
    embedding: FloatArray

    def __add__(self, other: Described) -> Described:
        """These and those."""
        return Described(np.vstack([self.edges, other.edges]), np.vstack([self.embedding, other.embedding]))


def describe(pictures: PixelArray, embed: Embed) -> Described:
    """Describe uint8 [n, rows, columns] as ``resize_to_input`` returns them."""
    return Described(np.stack([compute_edge_features(picture) for picture in pictures]), embed(pictures))


def embed_with_keras(served: Any, spec: PreprocessingSpec, batch: int = 32) -> Embed:
    """Embeddings of a network from ``fitting.serving``, batch by batch."""

    def embed(pictures: PixelArray) -> FloatArray:
        parts = [
            served.predict_on_batch(normalise_grey_levels(spec, pictures[start : start + batch])[..., np.newaxis])[
                "embedding"
            ]
            for start in range(0, len(pictures), batch)
        ]
        return np.concatenate(parts)

    return embed


def varied(pictures: PixelArray, seed: int, batch: int = 32) -> PixelArray:
    """Vary framing and tone of each image, uint8 [n, rows, columns]."""
    parts = [
        augment(VARIED, pictures[start : start + batch], pictures.shape[1], [seed, start]).numpy()[..., 0]
        for start in range(0, len(pictures), batch)
    ]
    return np.concatenate(parts).astype(np.uint8)


def phantoms(spec: PreprocessingSpec, count: int = _PHANTOMS) -> PixelArray:
    """Drawn chests of several sizes, shrunk."""
    sides = ((512, 512), (420, 512), (128, 96), (300, 240))
    drawn = [draw_chest(1000 + n, rows=sides[n % 4][0], columns=sides[n % 4][1]) for n in range(count)]
    return np.stack([resize_to_input(spec, picture) for picture in drawn])


def subspace(features: FloatArray, components: int) -> Subspace:
    """Return principal components of float32 [n, features].

    Fewer if there are too few images.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    _, lengths, axes = np.linalg.svd(features - mean, full_matrices=False)
    deviations = lengths / np.sqrt(max(1, len(features) - 1))
    kept = max(1, min(components, len(features) // 4, int((deviations > 1e-4 * deviations[0]).sum()) - 1))
    rest = float((deviations[kept:] ** 2).sum())
    return Subspace(
        mean.astype(np.float32), axes[:kept].astype(np.float32), deviations[:kept].astype(np.float32), max(rest, 1e-6)
    )


def fit_detector(
    films: PixelArray, embed: Embed, spec: PreprocessingSpec, *, seed: int, films_max: int = FILMS
) -> Detector:
    """Fit one detector beside one network; its thresholds are still to be set.

    Args:
        films: uint8 [n, rows, columns] after ``preprocessing.resize_to_input``, those that the network was fitted to.
        films_max: how many of them to use, drawn at random.
    """
    rng = np.random.default_rng(seed)
    chosen = films[rng.permutation(len(films))[:films_max]]
    each = max(1, int(len(chosen) * _OF_EACH_KIND))
    seen = describe(np.concatenate([chosen, varied(chosen, seed)]), embed)
    drawn = describe(phantoms(spec), embed)
    refused = [
        describe(decoys.make(kind, chosen[rng.permutation(len(chosen))[:each]], spec, seed), embed)
        for kind in decoys.KINDS
    ]
    bare = Detector(
        subspace(seen.edges, _COMPONENTS["edges"]),
        subspace(seen.embedding, _COMPONENTS["embedding"]),
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
    """A network, what it was fitted to, and what it never saw.

    Attributes:
        name: of the part of the run, e.g. ``fold-0``.
        fitted: bool [n], films of the data set; the others are new to it, patient by patient.
    """

    name: str
    embed: Embed
    fitted: npt.NDArray[np.bool_]


@dataclass
class _Seen:
    """What detectors said of pictures of one kind."""

    scores: list[float] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)

    def take(self, detector: Detector, pictures: PixelArray, found: Described) -> None:
        self.scores += detector.compute_score(found.edges, found.embedding).tolist()
        self.poses += [detector.find_nearest_pose(picture) for picture in pictures]

    def counted(self, detector: Detector) -> JSONObject:
        codes = [
            detector.explain_refusal(p)[0]
            for p, s in zip(self.poses, self.scores, strict=True)
            if s > detector.spec.score_max
        ]
        count, refused = len(self.scores), len(codes)
        named = {str(code): codes.count(code) for code in RefusalCode if code in codes}
        return {"count": count, "refused": refused, "share_refused": round(refused / count, 4), **named}


def _accepted(scores: Sequence[float], detector: Detector) -> JSONObject:
    accepted = int((np.asarray(scores) <= detector.spec.score_max).sum())
    return {"count": len(scores), "accepted": accepted, "share_accepted": round(accepted / len(scores), 4)}


def fit_scope(
    pictures: PixelArray,
    folds: Iterable[Network],
    final: Network | None,
    spec: PreprocessingSpec,
    *,
    foreign: Mapping[str, PixelArray],
    seed: int = 0,
    films_max: int = FILMS,
    say: Callable[[str], None] = lambda _: None,
) -> Detector:
    """Fit the detector of a bundle and measure it.

    Thresholds are chosen out of fold.

    Args:
        pictures: uint8 [n, rows, columns], the films of the data set after ``preprocessing.resize_to_input``.
        folds: the networks with which thresholds are chosen and rates measured, one by one.
        final: the network that ships; ``None`` where it is the one network of ``folds``.
        foreign: pictures that are no chest film, by kind, that nothing was fitted to or chosen with.
        films_max: films that each detector learns from.

    Returns:
        The detector with thresholds, their reason, and the rates by kind.
    """
    films: list[float] = []
    apart: list[float] = []
    variants: list[float] = []
    made = {kind: _Seen() for kind in decoys.KINDS}
    strange = {kind: _Seen() for kind in foreign}
    names = []
    detector: Detector | None = None
    for number, network in enumerate(folds):
        say(f"detector beside {network.name}")
        names.append(network.name)
        detector = fit_detector(pictures[network.fitted], network.embed, spec, seed=seed + number, films_max=films_max)
        unseen = pictures[~network.fitted]
        found = describe(unseen, network.embed)
        films += detector.compute_score(found.edges, found.embedding).tolist()
        apart += detector.edges.compute_distance(found.edges).tolist()
        some = unseen[
            np.random.default_rng(seed + number).permutation(len(unseen))[: max(1, int(films_max * _TO_MEASURE))]
        ]
        changed = describe(varied(some, seed + number), network.embed)
        variants += detector.compute_score(changed.edges, changed.embedding).tolist()
        for kind, seen in made.items():
            shown = decoys.make(kind, some, spec, seed + 1000 + number)
            seen.take(detector, shown, describe(shown, network.embed))
    if detector is None:
        raise ValueError("folds is empty")
    embed = network.embed
    if final is not None:
        say(f"detector beside {final.name}")
        embed = final.embed
        detector = fit_detector(pictures[final.fitted], embed, spec, seed=seed + len(names), films_max=films_max)
    accepted = float(np.quantile(films, _ACCEPTED_AIM, method="higher"))
    met = [seen.scores for kind, seen in made.items() if kind not in decoys.NEAR]
    refused = min(float(np.quantile(scores, 1 - _REFUSED_AIM, method="lower")) for scores in met)
    gains = [[pose.gain for pose in made[kind].poses] for kind in decoys.MISHAPS]
    chosen = ScopeSpec(
        score_max=max(accepted, (accepted + refused) / 2),
        turned_max=float(np.quantile(apart, _TURNED_QUANTILE, method="higher")),
        turned_gain=min(float(np.quantile(gain, 1 - _TURNED_QUANTILE, method="lower")) for gain in gains),
        reason=(
            f"Out of fold, {_ACCEPTED_AIM:.1%} of the films score at most {accepted:.2f}, and {_REFUSED_AIM:.0%} of "
            "films turned or shown with black and white exchanged, of noise, clouds, near blanks and drawings each "
            f"score above {refused:.2f}; the threshold lies halfway between, but never below the first. A refused "
            "picture is called turned or exchanged if that would bring its edges as near to the films' own as those of "
            f"{_TURNED_QUANTILE:.0%} of the films are, and nearer than as it is by what {_TURNED_QUANTILE:.0%} of "
            "films so treated gain."
        ),
        rates={},
    )
    detector = replace(detector, spec=chosen)
    for kind, seen in strange.items():
        seen.take(detector, foreign[kind], describe(foreign[kind], embed))
    rates: JSONObject = {
        "out_of_fold": {
            "networks": ", ".join(names),
            "films": _accepted(films, detector),
            "films_varied": _accepted(variants, detector),
            "made": {kind: seen.counted(detector) for kind, seen in made.items()},
        },
        "never_fitted_to": {kind: seen.counted(detector) for kind, seen in strange.items()},
    }
    return replace(detector, spec=replace(chosen, rates=rates))
