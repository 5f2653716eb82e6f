"""Turn a finished run into a bundle: export, calibrate, choose the operating point, write the card, verify."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np

from model_training.dataset import Data
from model_training.declaration import PNEUMONIA_CHILDREN, Declaration
from model_training.evaluation import OutOfFold, measure
from model_training.fitting import WEIGHTS_FILE as FITTED_FILE
from model_training.fitting import Recipe, build, serving
from model_training.phantoms import draw_chest
from model_training.pretrained import SOURCE
from model_training.running import ALL_FILMS, RECORD_FILE, out_of_fold
from model_training.thresholds import specify
from worker import bundle as bundles
from worker.bundle import CARD_FILE, GOLDEN_FILE, WEIGHTS_FILE, Bundle
from worker.calibration import FindingSpec
from worker.classifier import Classifier
from worker.domain import JSONObject
from worker.errors import UsageError
from worker.preprocessing import TRAINING_SPEC, PreprocessingSpec, apply

FITTED_ON = {
    True: "all films; the figures are those of the same recipe fitted without each film's patient, fold by fold",
    False: "the films of all folds but one; the figures are those of this network on the patients of that fold",
}
GOLDEN_TOLERANCE = 0.02
_GOLDEN_PHANTOMS = 4


def _golden(model: keras.Model, spec: PreprocessingSpec) -> dict[str, np.ndarray]:
    """Phantoms larger than the network's input, so that the whole preprocessing is repeated too."""
    pictures = np.stack([draw_chest(seed, rows=420, columns=512) for seed in range(_GOLDEN_PHANTOMS)])
    outputs = [model(apply(spec, picture), training=False)["logit"].numpy()[0] for picture in pictures]
    return {"pictures": pictures, "logit": np.stack(outputs)}


def metrics(films: OutOfFold, data: Data, finding: FindingSpec, rows: np.ndarray) -> JSONObject:
    """Figures out of fold, with intervals bootstrapped by patient, on all films and on the conflict normals."""
    probability = np.array([finding.calibration.probability(logit) for logit in films.logits])
    called = probability >= finding.operating_point.threshold
    patients = data.patients[rows]
    kept = films.conflict_normals | (films.labels == 1)
    answers = np.array([str(finding.operating_point.answer(p)) for p in probability])

    def table(select: np.ndarray) -> JSONObject:
        measured = measure(films.logits[select], called[select], films.labels[select], patients[select])
        return {name: value.to_json() for name, value in measured.items()}

    return {
        "count": len(films.labels),
        "out_of_fold": table(np.ones(len(kept), bool)),
        "conflict_normals": {"count": int(films.conflict_normals.sum()), **table(kept)},
        "uncertain_rate": float((answers == "uncertain").mean()),
        "missed_among_not_flagged": int(((answers == "not_flagged") & (films.labels == 1)).sum()),
        "held_out_test_split": "not yet measured",
    }


def publish(
    run: Path,
    data: Data,
    folder: Path,
    *,
    name: str,
    version: str,
    prevalence: float,
    declaration: Declaration = PNEUMONIA_CHILDREN,
) -> Bundle:
    """Publish a run's network as a bundle under ``folder``.

    The network fitted on all films, which the folds speak for; or, of a run with one fold, that fold's network.

    Raises:
        UsageError: the run is unfinished or of another data set, or the version is there already.
        BundleMismatch: LiteRT and Keras differ by more than the golden tolerance.
    """
    fitted = run / ALL_FILMS / FITTED_FILE
    folds = sorted(run.glob("fold-*/logits.npz"))
    if not fitted.exists() and len(folds) == 1:
        fitted = folds[0].with_name(FITTED_FILE)
    if not fitted.exists():
        raise UsageError(f"{run} has no network fitted on all films yet: run `preread-train fit` to its end")
    of_all = fitted.parent.name == ALL_FILMS
    record = json.loads((run / RECORD_FILE).read_text(encoding="utf-8"))
    findings, measured = [], {}
    for column, finding in enumerate(data.findings):
        films, rows = out_of_fold(run, data, column)
        findings.append(specify(films, finding, declaration.code(finding), prevalence))
        measured[finding] = metrics(films, data, findings[-1], rows)
    recipe = Recipe.from_record(record["recipe"])
    fitted_network = build(recipe, len(data.findings))
    fitted_network.load_weights(fitted)
    model = serving(fitted_network, recipe, TRAINING_SPEC, batch=1)
    manifest: JSONObject = {
        "manifest_schema": 1,
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
            "fitted_on": FITTED_ON[of_all],
            "source": declaration.source,
            "films_licence": declaration.films_licence,
            "labelled_by": declaration.labelled_by,
            "initial_weights": SOURCE,
            "parameters": model.count_params(),
        },
        "metrics": measured,
    }

    def write(part: Path) -> None:
        model.export(str(part / WEIGHTS_FILE), format="litert", verbose=False)
        (part / GOLDEN_FILE).parent.mkdir()
        np.savez_compressed(part / GOLDEN_FILE, **_golden(model, TRAINING_SPEC))  # type: ignore[arg-type]
        (part / CARD_FILE).write_text(card(manifest), encoding="utf-8")

    # A bundle whose network LiteRT runs differently never appears under its name.
    return bundles.publish(folder, manifest, write, check=lambda bundle: Classifier(bundle).self_check())


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _line(label: str, value: JSONObject) -> str:
    return f"| {label} | {_figure(value['value'])} | {_figure(value['low'])} to {_figure(value['high'])} |"


def card(manifest: JSONObject) -> str:
    """The model card, in Markdown."""
    finding, training = manifest["findings"][0], manifest["training"]
    measured = manifest["metrics"][finding["finding"]]
    data, calibration = training["data"], finding["calibration"]
    of_finding = data["findings"][finding["finding"]]
    linear = of_finding["baselines"]["linear_14x14"]
    point = finding["operating_point"]
    rows = "\n".join(
        _line(f"{label}: {name}", measured[part][name])
        for label, part, names in (
            ("all films", "out_of_fold", ("auc", "accuracy", "sensitivity", "specificity")),
            ("conflict slice", "conflict_normals", ("auc", "specificity")),
        )
        for name in names
    )
    return f"""# {manifest["name"]} {manifest["version"]}

**No medical device.** {manifest["intended_use"]["statement"]}

## What it answers

One finding, {finding["finding"]} ({finding["code"]}): `flagged`, `uncertain` or `not_flagged`, with a probability
calibrated to a prevalence of {calibration["prevalence"]:.0%}. Where pneumonia is rarer, the same film's probability is
lower. Operating point {point["threshold"]:.4f}, uncertain from {point["uncertain_low"]:.4f} to
{point["uncertain_high"]:.4f}. {point["reason"][0].upper()}{point["reason"][1:]}.

## For whom, and not for whom

Frontal (AP, PA) chest films, CR or DX, of children of 1 to 5 years. Not for adults, infants under one year, lateral
films, CT, photographs of films or following a course. The films it learned from show pneumonia or, in their
graders' view, none: how it answers to other diseases is unknown.

## Data

{training["source"]}. {data["films"]} films of {data["patients"]} patients (one hospital), {of_finding["films"]}
with {finding["finding"]}; labels by {training["labelled_by"]}. Age, sex, dates and devices of the films were
not published. Digest of films, labels, patients and folds: `{data["digest"]}`.

Known shortcut: films with and without pneumonia are framed differently in these data (chin in view, size of the lungs
in the picture), and films without it are framed otherwise elsewhere. A linear model on 14x14 thumbnails alone reaches
an AUC of {_figure(linear["auc"])} out of fold, {_figure(linear["auc_conflict_normals"])} on the
conflict slice: {of_finding["conflict_normals"]} films without pneumonia whose border alone makes a linear model say it.
This was known before the recipe was chosen, partly from how the published test films are framed; strong random crops
and the conflict slice answer it.

## Network

EfficientNet-Lite0 at {training["recipe"]["serving_px"]} pixels, {training["parameters"]} parameters, one grey
channel. Initial weights:
{training["initial_weights"]}. Fitted with the recipe in the manifest on
{training["fitted_on"]}. LiteRT repeats its golden vectors within {manifest["golden_tolerance"]} in logit.

## Figures

Out of fold: every film was measured by a network fitted without its patient. 95 % intervals from a bootstrap over
patients, {measured["count"]} films; the rows "conflict slice" hold its {measured["conflict_normals"]["count"]} films
without pneumonia against all with it. Recipes, the size at which the network looks and the threshold were compared on
the same patients, so the figures are a little optimistic.

| figure | value | 95 % interval |
| --- | --- | --- |
{rows}

Uncertain: {measured["uncertain_rate"]:.1%} of these films. Pneumonia among the films not flagged:
{measured["missed_among_not_flagged"]}. Held-out test split of the data set: {measured["held_out_test_split"]}.

## Limits

The activation map shows what moved the answer, not where a disease is. Probabilities hold for films like these; a site
should compare with its own readings first. Over-calling films without pneumonia is the known weakness of models trained
on these data. There is no detector of pictures that are no chest film: where no tag tells, a knee is answered like a
chest, and the answer is worth nothing.
"""
