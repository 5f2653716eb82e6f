"""Recalibration of a published network to a site's images."""

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
from preread.runner.assess_files import FileResult, InputFile, assess_input_files
from preread_training.analysis.manifest_metrics import build_reference_distribution, measure_finding
from preread_training.data.dataset import Data, select_labels, summarise_data_set
from preread_training.data.digests import compute_content_digest
from preread_training.publish.card import render_card
from preread_training.publish.declaration import SHIPPED_DATA, Release
from preread_training.stats.operating_point import compute_probabilities, specify_finding

_IMAGES_MIN = 50


def is_fitted_to(bundle: Bundle, data: Data) -> bool:
    """Return whether these are exactly the images of the bundle's network.

    Args:
        bundle: a bundle.
        data: a data set.
    """
    training = bundle.manifest.training
    known = training.get("content_digest")
    if known is None and training["data"]["digest"] == SHIPPED_DATA:
        return data.published
    return bool(known == compute_content_digest(data.images, data.hashes))


def recalibrate_bundle(
    bundle: Bundle,
    data: Data,
    release: Release,
    progress: Callable[[], None] = lambda: None,
) -> Bundle:
    """Publish a new version of a bundle, calibrated to a site's images.

    The network stays the same and had not seen the images; those that the bundle refuses are counted and left out.

    Args:
        bundle: the bundle.
        data: the site's labelled images.
        release: folder, version, prevalence, and declaration of the site's images, see
            ``declaration.read_calibration_declaration``.
        progress: called after each image.

    Raises:
        UsageError: the network was fitted to these very images, fewer than 50 with or without a finding are left, no
            label names the bundle's finding, or the version exists already.
    """
    if is_fitted_to(bundle, data):
        raise UsageError(f"{bundle.label} was fitted to these very images: calibrate it to images new to the network")
    results: list[FileResult] = []
    files = (InputFile(str(image.path), named=True) for image in data.images)
    with contextlib.closing(assess_input_files(files, bundle)) as ended:
        for result in ended:
            results.append(result)
            progress()
    rows = np.flatnonzero(assessed := np.array([bool(result.findings) for result in results]))
    findings, measured, probability = [], {}, {}
    for column, spec in enumerate(bundle.manifest.findings):
        labels = select_labels(data.images, spec.finding)[assessed]
        for present, what in ((1, "with"), (0, "without")):
            if (count := int((labels == present).sum())) < _IMAGES_MIN:
                raise UsageError(
                    f"{count} images {what} {spec.finding} were assessed, but an operating point needs at least "
                    f"{_IMAGES_MIN}: add images"
                )
        logits = np.array([results[row].findings[column].logit for row in rows])
        held_out = data.make_out_of_fold(data.findings.index(spec.finding), logits, rows)
        findings.append(specify_finding(held_out, spec.finding, spec.code, release.prevalence))
        measured[spec.finding] = measure_finding(held_out, data, findings[-1], rows)
        probability[spec.finding] = compute_probabilities(held_out, findings[-1].calibration)
    manifest: JSONObject = json.loads(bundle.manifest_json)
    manifest.update(
        version=release.version,
        findings=[asdict(finding) for finding in findings],
        metrics=measured,
        reference=build_reference_distribution(
            "the site's own to which it was calibrated", probability, data.pixels[rows]
        ),
        recalibrated={
            "from": bundle.label,
            "digest": bundle.digest,
            "films": summarise_data_set(data),
            "source": release.declaration.source,
            "films_licence": release.declaration.films_licence,
            "labelled_by": release.declaration.labelled_by,
            "notes": asdict(release.declaration.notes),
            "outcomes": {str(outcome): count for outcome, count in Counter(r.outcome for r in results).items()},
            "metrics_before": manifest["metrics"],
        },
    )
    del manifest["files"]

    def write(part: Path) -> None:
        for name in bundle.manifest.files.keys() - {CARD_FILE}:
            (part / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle.path / name, part / name)
        (part / CARD_FILE).write_text(render_card(manifest), encoding="utf-8")

    return bundles.publish_bundle(
        release.folder, manifest, write, check=lambda made: Classifier(made).verify_reference_outputs()
    )
