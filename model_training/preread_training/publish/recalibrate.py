"""Calibrate a published network to a site's images, without training."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from preread.core.errors import UsageError
from preread.core.types import JSONObject
from preread.model import bundles
from preread.model.bundles import CARD_FILE, Bundle
from preread.model.classifier import Classifier
from preread.runner.assess_files import FileResult, InputFile, assess_found
from preread_training.analysis.manifest_metrics import metrics, reference
from preread_training.data.dataset import Data, labels_for, summary
from preread_training.data.digests import content_digest
from preread_training.publish.card import card
from preread_training.publish.declaration import SHIPPED_DATA, Declaration
from preread_training.stats.operating_point import probabilities, specify

_FILMS_MIN = 50


def fitted_to(bundle: Bundle, data: Data) -> bool:
    """Return whether these are exactly the images of the bundle's network."""
    training = bundle.manifest.training
    known = training.get("content_digest")
    if known is None and training["data"]["digest"] == SHIPPED_DATA:
        return data.published
    return bool(known == content_digest(data.films, data.hashes))


def recalibrate(
    bundle: Bundle,
    data: Data,
    folder: Path,
    *,
    version: str,
    prevalence: float,
    declaration: Declaration,
    progress: Callable[[], None] = lambda: None,
) -> Bundle:
    """Publish a new version of a bundle with the same network.

    It is calibrated on images that the network has never seen.

    Args:
        data: the site's films; those that the bundle refuses are counted and left out.
        prevalence: to which the probability is calibrated.
        declaration: whose films these are, see ``declaration.films_declared``.

    Raises:
        UsageError: the network was fitted to these very films, fewer than 50 films with or without a finding are left,
            no label names the bundle's finding, or the version is there already.
    """
    if fitted_to(bundle, data):
        raise UsageError(f"{bundle.label} was fitted to these very films: calibration wants films new to the network")
    results: list[FileResult] = []
    files = (InputFile(str(film.path), named=True) for film in data.films)
    with contextlib.closing(assess_found(files, bundle)) as ended:
        for result in ended:
            results.append(result)
            progress()
    rows = np.flatnonzero(assessed := np.array([bool(result.findings) for result in results]))
    findings, measured, probability = [], {}, {}
    for column, spec in enumerate(bundle.manifest.findings):
        labels = labels_for(data.films, spec.finding)[assessed]
        for present, what in ((1, "with"), (0, "without")):
            if (count := int((labels == present).sum())) < _FILMS_MIN:
                raise UsageError(
                    f"{count} films {what} {spec.finding} were assessed; at least {_FILMS_MIN} are needed, or the "
                    "operating point would be a guess"
                )
        logits = np.array([results[row].findings[column].logit for row in rows])
        films = data.of(data.findings.index(spec.finding), logits, rows)
        findings.append(specify(films, spec.finding, spec.code, prevalence))
        measured[spec.finding] = metrics(films, data, findings[-1], rows)
        probability[spec.finding] = probabilities(films, findings[-1].calibration)
    manifest: JSONObject = json.loads(bundle.manifest_json)
    manifest.update(
        version=version,
        findings=[asdict(finding) for finding in findings],
        metrics=measured,
        reference=reference("the site's own to which it was calibrated", probability, data.pictures[rows]),
        recalibrated={
            "from": bundle.label,
            "digest": bundle.digest,
            "films": summary(data),
            "source": declaration.source,
            "films_licence": declaration.films_licence,
            "labelled_by": declaration.labelled_by,
            "notes": asdict(declaration.notes),
            "outcomes": {str(outcome): count for outcome, count in Counter(r.outcome for r in results).items()},
            "metrics_before": manifest["metrics"],
        },
    )
    del manifest["files"]

    def write(part: Path) -> None:
        for name in bundle.manifest.files.keys() - {CARD_FILE}:
            (part / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle.path / name, part / name)
        (part / CARD_FILE).write_text(card(manifest), encoding="utf-8")

    return bundles.publish_bundle(folder, manifest, write, check=lambda one: Classifier(one).verify_reference_outputs())
