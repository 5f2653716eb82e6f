"""Publication of a finished run as a bundle.

The network is exported, calibrated and verified, its operating point chosen, its card written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from preread.cli.native_output import suppress_native_output
from preread.core.errors import UsageError
from preread.core.types import JSONObject, PixelArray
from preread.imaging.preprocessing import TRAINING_SPEC, PreprocessingSpec, preprocess_image
from preread.model import bundles
from preread.model.bundles import CARD_FILE, DETECTOR_FILE, GOLDEN_FILE, MANIFEST_SCHEMA, WEIGHTS_FILE, Bundle
from preread.model.classifier import Classifier
from preread.model.out_of_scope import Detector
from preread_training.analysis.examine import perturb_first_fold
from preread_training.analysis.manifest_metrics import build_reference_distribution, measure_finding
from preread_training.data.dataset import Data
from preread_training.data.digests import compute_content_digest
from preread_training.data.phantoms import draw_chest
from preread_training.detector.detector import DetectorSettings, Network, fit_bundle_detector, make_keras_embedding
from preread_training.fit.cross_validation import (
    ALL_IMAGES,
    list_finished_folds,
    load_out_of_fold,
    load_serving_network,
)
from preread_training.fit.run_record import read_record
from preread_training.fit.trainer import WEIGHTS_FILE as FITTED_FILE
from preread_training.fit.trainer import Recipe
from preread_training.nets.pretrained import SOURCE
from preread_training.publish.card import render_card
from preread_training.publish.declaration import Release
from preread_training.stats.operating_point import compute_probabilities, specify_finding

FITTED_ON = {
    True: "all images; the figures are those of the same recipe fitted without each image's patient, fold by fold",
    False: "the images of all folds but one; the figures are those of this network on the patients of that fold",
}
REFERENCE_IMAGES = {
    True: "those it was fitted to; probabilities out of fold",
    False: "those of the fold that it was not fitted to",
}
GOLDEN_TOLERANCE = 0.02
_REFERENCE_PHANTOMS = 4
_SETTINGS = DetectorSettings(TRAINING_SPEC)


def _reference_outputs(model: keras.Model, spec: PreprocessingSpec) -> dict[str, np.ndarray]:
    """Return phantoms larger than the network's input, and their logits.

    So the reference outputs cover the whole preprocessing.
    """
    images = np.stack([draw_chest(seed, rows=420, columns=512) for seed in range(_REFERENCE_PHANTOMS)])
    outputs = [model(preprocess_image(spec, image), training=False)["logit"].numpy()[0] for image in images]
    return {"pictures": images, "logit": np.stack(outputs)}


def _served(run: Path, part: str, data: Data, batch: int | None = None) -> keras.Model:
    served = load_serving_network(run, part, len(data.findings), batch=batch)
    if served is None:
        raise UsageError(f"{run / part} holds no network that can be published: fit one of the product's own recipes")
    return served


def _check(bundle: Bundle) -> None:
    with suppress_native_output():
        Classifier(bundle).verify_reference_outputs()


def _network(run: Path, part: str, data: Data, fitted: npt.NDArray[np.bool_]) -> Network:
    return Network(part, make_keras_embedding(_served(run, part, data), TRAINING_SPEC), fitted)


def fit_run_detector(
    run: Path,
    data: Data,
    *,
    foreign: Mapping[str, PixelArray],
    settings: DetectorSettings = _SETTINGS,
    say: Callable[[str], None] = lambda _: None,
) -> Detector:
    """Fit the out-of-scope detector of a run with all its networks.

    See ``detector.fit_bundle_detector``.

    Args:
        run: folder of the run.
        data: the data set on which it was fitted.
        foreign: by kind uint8 [m, rows, columns] of no chest, with which the detector is measured.
        settings: of each detector's fit.
        say: called with a line of text before each fit.

    Raises:
        UsageError: a part of the run has no network that could be published.
    """
    parts = [fold.name for fold in list_finished_folds(run)]
    folds = (_network(run, part, data, data.folds != int(part.removeprefix("fold-"))) for part in parts)
    of_all = (run / ALL_IMAGES / FITTED_FILE).exists()
    final = _network(run, ALL_IMAGES, data, np.ones(len(data.images), bool)) if of_all else None
    return fit_bundle_detector(data.pixels, folds, final, settings, foreign=foreign, say=say)


def find_final_network(run: Path) -> Path:
    """Return the folder of the network that a run would publish.

    Args:
        run: folder of the run.

    Raises:
        UsageError: there is none yet, it is a reference system's, or Keras does not run on TensorFlow.
    """
    if (backend := keras.backend.backend()) != "tensorflow":
        raise UsageError(
            f"KERAS_BACKEND is {backend}, but a run is published by TensorFlow, whatever fitted it: unset it"
        )
    folds = list_finished_folds(run)
    parts = [run / ALL_IMAGES, *(folds if len(folds) == 1 else [])]
    for part in parts:
        if (part / FITTED_FILE).exists():
            Recipe.from_record(read_record(run)["recipe"])  # a reference system is refused by its name
            return part
    raise UsageError(f"{run} has no network fitted on all images yet: run `preread-train fit` to its end")


def choose_bundle_name(findings: Sequence[str], *, shipped: bool) -> str:
    """Return the default name of a bundle for these findings.

    Args:
        findings: of the bundle.
        shipped: true if its images are the published set, for which the shipped bundle's name stands.
    """
    return bundles.DEFAULT_NAME if shipped else re.sub(r"[^a-z0-9.]+", "-", "-".join(findings)).strip("-.")[:64]


def publish_run(
    run: Path,
    data: Data,
    release: Release,
    *,
    name: str,
    foreign: Mapping[str, PixelArray] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Publish a run's network as a bundle.

    The network is the one fitted on all images, whose figures are those of the folds; or, of a run with one fold, that
    fold's network.

    Args:
        run: folder of the run.
        data: the data set on which it was fitted.
        release: folder, version, prevalence and declaration.
        name: of the bundle.
        foreign: by kind uint8 [m, rows, columns] of no chest, with which the detector is measured; ``None``: none.
        say: called with a line of text before each slow step.

    Raises:
        UsageError: the run is unfinished or of another data set, the version exists already, or Keras does not run on
            TensorFlow, which alone converts to LiteRT.
        BundleMismatch: LiteRT and Keras differ by more than the tolerance of the reference outputs.
    """
    fitted = find_final_network(run) / FITTED_FILE
    of_all = fitted.parent.name == ALL_IMAGES
    record, declaration = read_record(run), release.declaration
    model = _served(run, fitted.parent.name, data, batch=1)
    findings, measured, probability = [], {}, {}
    examined = perturb_first_fold(run, data, release.prevalence)
    for column, finding in enumerate(data.findings):
        held_out, rows = load_out_of_fold(run, data, column)
        findings.append(specify_finding(held_out, finding, declaration.code(finding), release.prevalence))
        measured[finding] = measure_finding(held_out, data, findings[-1], rows, examined.get(finding))
        probability[finding] = compute_probabilities(held_out, findings[-1].calibration)
    refusing = fit_run_detector(run, data, foreign=foreign or {}, say=say)
    manifest: JSONObject = {
        "manifest_schema": MANIFEST_SCHEMA,
        "name": name,
        "version": release.version,
        "licence": declaration.licence,
        "intended_use": asdict(declaration.intended_use),
        "preprocessing": asdict(TRAINING_SPEC),
        "preprocessing_digest": TRAINING_SPEC.digest,
        "findings": [asdict(finding) for finding in findings],
        "golden_tolerance": GOLDEN_TOLERANCE,
        "training": {
            **record,
            "published_on": datetime.now(UTC).date().isoformat(),
            "fitted_on": FITTED_ON[of_all],
            "source": declaration.source,
            "films_licence": declaration.films_licence,
            "labelled_by": declaration.labelled_by,
            "notes": asdict(declaration.notes),
            "content_digest": compute_content_digest(data.images, data.hashes),
            "initial_weights": SOURCE,
            "parameters": model.count_params(),
        },
        "metrics": measured,
        "reference": build_reference_distribution(REFERENCE_IMAGES[of_all], probability, data.pixels[rows]),
        "scope": asdict(refusing.spec),
    }

    def write(part: Path) -> None:
        model.export(str(part / WEIGHTS_FILE), format="litert", verbose=False)
        (part / GOLDEN_FILE).parent.mkdir()
        np.savez_compressed(part / GOLDEN_FILE, **_reference_outputs(model, TRAINING_SPEC))  # type: ignore[arg-type]
        (part / DETECTOR_FILE).write_bytes(refusing.to_npz())
        (part / CARD_FILE).write_text(render_card(manifest), encoding="utf-8")

    # A bundle whose network LiteRT runs differently never appears under its name.
    return bundles.publish_bundle(release.folder, manifest, write, check=_check)
