"""Turn a finished run into a bundle.

Export, calibrate, choose the operating point, write the card, verify.
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
from preread_training.analysis.examine import examine
from preread_training.analysis.manifest_metrics import metrics, reference
from preread_training.data.dataset import Data
from preread_training.data.digests import content_digest
from preread_training.data.phantoms import draw_chest
from preread_training.detector.detector import FILMS, Network, embed_with_keras, fit_scope
from preread_training.fit.cross_validation import ALL_FILMS, finished_folds, network_of, out_of_fold
from preread_training.fit.run_record import record_of
from preread_training.fit.trainer import WEIGHTS_FILE as FITTED_FILE
from preread_training.fit.trainer import Recipe
from preread_training.nets.pretrained import SOURCE
from preread_training.publish.card import card
from preread_training.publish.declaration import Declaration
from preread_training.stats.operating_point import probabilities, specify

FITTED_ON = {
    True: "all films; the figures are those of the same recipe fitted without each film's patient, fold by fold",
    False: "the films of all folds but one; the figures are those of this network on the patients of that fold",
}
REFERENCE_FILMS = {
    True: "those it was fitted to; probabilities out of fold",
    False: "those of the fold that it was not fitted to",
}
GOLDEN_TOLERANCE = 0.02
_GOLDEN_PHANTOMS = 4


def _golden(model: keras.Model, spec: PreprocessingSpec) -> dict[str, np.ndarray]:
    """Return phantoms larger than the network's input.

    So the golden outputs cover the whole preprocessing.
    """
    pictures = np.stack([draw_chest(seed, rows=420, columns=512) for seed in range(_GOLDEN_PHANTOMS)])
    outputs = [model(preprocess_image(spec, picture), training=False)["logit"].numpy()[0] for picture in pictures]
    return {"pictures": pictures, "logit": np.stack(outputs)}


def _served(run: Path, part: str, data: Data, batch: int | None = None) -> keras.Model:
    served = network_of(run, part, len(data.findings), batch=batch)
    if served is None:
        raise UsageError(f"{run / part} holds no network of a recipe that can be published")
    return served


def _check(bundle: Bundle) -> None:
    with suppress_native_output():
        Classifier(bundle).verify_reference_outputs()


def _network(run: Path, part: str, data: Data, fitted: npt.NDArray[np.bool_]) -> Network:
    return Network(part, embed_with_keras(_served(run, part, data), TRAINING_SPEC), fitted)


def detector(
    run: Path,
    data: Data,
    *,
    foreign: Mapping[str, PixelArray],
    films_max: int = FILMS,
    say: Callable[[str], None] = lambda _: None,
) -> Detector:
    """Fit the out-of-scope detector of a run, see ``fit_scope``.

    Raises:
        UsageError: a part of the run holds no network that could be published.
    """
    parts = [fold.name for fold in finished_folds(run)]
    folds = (_network(run, part, data, data.folds != int(part.removeprefix("fold-"))) for part in parts)
    of_all = (run / ALL_FILMS / FITTED_FILE).exists()
    final = _network(run, ALL_FILMS, data, np.ones(len(data.films), bool)) if of_all else None
    return fit_scope(data.pictures, folds, final, TRAINING_SPEC, foreign=foreign, films_max=films_max, say=say)


def final_part(run: Path) -> Path:
    """Return the folder of the network that a run would publish.

    Raises:
        UsageError: there is none yet, it is a reference system's, or Keras does not run on TensorFlow.
    """
    if (backend := keras.backend.backend()) != "tensorflow":
        raise UsageError(
            f"a run is published by TensorFlow, whatever fitted it: unset KERAS_BACKEND, which is {backend}"
        )
    folds = finished_folds(run)
    parts = [run / ALL_FILMS, *(folds if len(folds) == 1 else [])]
    for part in parts:
        if (part / FITTED_FILE).exists():
            Recipe.from_record(record_of(run)["recipe"])  # a reference system is refused by its name
            return part
    raise UsageError(f"{run} has no network fitted on all films yet: run `preread-train fit` to its end")


def name_for(findings: Sequence[str], *, shipped: bool) -> str:
    """Return the default name of a bundle.

    The shipped bundle's name is for the published data set alone.
    """
    return bundles.DEFAULT_NAME if shipped else re.sub(r"[^a-z0-9.]+", "-", "-".join(findings)).strip("-.")[:64]


def publish(
    run: Path,
    data: Data,
    folder: Path,
    *,
    name: str,
    version: str,
    prevalence: float,
    declaration: Declaration,
    foreign: Mapping[str, PixelArray] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Publish a run's network as a bundle under ``folder``.

    The network fitted on all films, which the folds speak for; or, of a run with one fold, that fold's network.

    Args:
        declaration: what is known of these films and of nothing else, see ``declaration.declaration_for``.
        foreign: pictures that are no chest film, by kind, with which its detector of such pictures is measured.

    Raises:
        UsageError: the run is unfinished or of another data set, the version is there already, or Keras runs on
            something else than TensorFlow, which alone converts to LiteRT.
        BundleMismatch: LiteRT and Keras differ by more than the golden tolerance.
    """
    fitted = final_part(run) / FITTED_FILE
    of_all = fitted.parent.name == ALL_FILMS
    record = record_of(run)
    model = _served(run, fitted.parent.name, data, batch=1)
    findings, measured, probability = [], {}, {}
    examined = examine(run, data, prevalence)
    for column, finding in enumerate(data.findings):
        films, rows = out_of_fold(run, data, column)
        findings.append(specify(films, finding, declaration.code(finding), prevalence))
        measured[finding] = metrics(films, data, findings[-1], rows, examined.get(finding))
        probability[finding] = probabilities(films, findings[-1].calibration)
    refusing = detector(run, data, foreign=foreign or {}, say=say)
    manifest: JSONObject = {
        "manifest_schema": MANIFEST_SCHEMA,
        "name": name,
        "version": version,
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
            "content_digest": content_digest(data.films, data.hashes),
            "initial_weights": SOURCE,
            "parameters": model.count_params(),
        },
        "metrics": measured,
        "reference": reference(REFERENCE_FILMS[of_all], probability, data.pictures[rows]),
        "scope": asdict(refusing.spec),
    }

    def write(part: Path) -> None:
        model.export(str(part / WEIGHTS_FILE), format="litert", verbose=False)
        (part / GOLDEN_FILE).parent.mkdir()
        np.savez_compressed(part / GOLDEN_FILE, **_golden(model, TRAINING_SPEC))  # type: ignore[arg-type]
        (part / DETECTOR_FILE).write_bytes(refusing.to_npz())
        (part / CARD_FILE).write_text(card(manifest), encoding="utf-8")

    # A bundle whose network LiteRT runs differently never appears under its name.
    return bundles.publish_bundle(folder, manifest, write, check=_check)
