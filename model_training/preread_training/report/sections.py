"""The sections of a report, as dictionaries for its template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from preread.core.types import JSONObject
from preread_training.data.dataset import Data
from preread_training.fit.run_record import Part, changes_of_size, lowest_loss
from preread_training.report import figures
from preread_training.report.figure_style import (
    ABSENT,
    BORDER,
    CATEGORIES,
    INK,
    LINEAR,
    NETWORK,
    PRESENT,
    Curve,
    png,
    svg,
)
from preread_training.report.galleries import data_uri, kinds
from preread_training.report.tables import (
    Judged,
    Table,
    answers_table,
    calibration_records,
    calibration_table,
    main_table,
    measured,
    number,
    percent,
    subgroup_rows,
)
from preread_training.stats import curves
from preread_training.stats.bootstrap import Groups, Labels, Measure, Rows, Scores
from preread_training.stats.operating_point import cross_fitted_answers, what_the_band_buys

_LOOKS = ((NETWORK, "-"), (LINEAR, "--"), (BORDER, ":"))


@dataclass
class Drawn:
    """Figures drawn so far: SVG for the page, PNG for the folder."""

    pngs: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, figure: Figure, title: str, caption: str = "") -> dict[str, str]:
        """Store a figure and return its entry for the page."""
        self.pngs[name] = png(figure)
        uri = data_uri("image/svg+xml", svg(figure))
        return {"uri": uri, "title": title, "caption": caption, "number": str(len(self.pngs))}


def balance(data: Data, finding: int, drawn: Drawn) -> dict[str, Any]:
    """Return images and patients of each kind, by fold."""
    names, groups = zip(*kinds(data, finding), strict=True)
    folds = range(int(data.folds.max()) + 1)
    films = np.array([[int((data.folds[rows] == fold).sum()) for rows in groups] for fold in folds])
    patients = np.array(
        [[len(np.unique(data.patients[rows][data.folds[rows] == fold])) for rows in groups] for fold in folds]
    )
    parts = [f"fold {fold}" for fold in folds]
    rows = [
        (part, [(f"{int(a)}", f"{int(b)} patients") for a, b in zip(*of, strict=True)])
        for part, *of in zip(parts, films, patients, strict=True)
    ]
    whole = [(f"{int(a)}", f"{int(b)} patients") for a, b in zip(films.sum(axis=0), patients.sum(axis=0), strict=True)]
    known = all(film.patient_known for film in data.films)
    return {
        "figures": [
            drawn.add("class-balance-films", figures.class_balance(parts, names, films, "films"), "Films in each fold"),
            drawn.add(
                "class-balance-patients",
                figures.class_balance(
                    parts, names, patients, "patients" if known else "patients, unknown ones by film"
                ),
                "Patients in each fold",
            ),
        ],
        "table": Table(list(names), [*rows, ("all", whole)]),
        "share": percent(float(data.labels[:, finding].mean())),
        "conflict": int((data.conflict[:, finding] & (data.labels[:, finding] == 0)).sum()),
    }


def learning(parts: Sequence[Part], record: JSONObject, drawn: Drawn) -> dict[str, str] | None:
    """Return the training loss of each part, or ``None`` without any."""
    lines = []
    for index, part in enumerate(part for part in parts if part.history):
        epochs, losses, _ = zip(*part.history, strict=True)
        colour = INK if part.folder == "all" else CATEGORIES[index % len(CATEGORIES)]
        lines.append(Curve(part.name, np.array(epochs, float), np.array(losses), colour=colour))
    if not lines:
        return None
    figure = figures.learning_curves(lines, changes_of_size(record["recipe"]), lowest_loss(record["recipe"]), "loss")
    return drawn.add("learning-curves", figure, "Training loss after each epoch")


def separation(models: Sequence[Judged], drawn: Drawn) -> dict[str, Any]:
    """Return ROC and precision-recall curves, network and baselines."""
    films = models[0].films
    parts = {"all films": np.ones(len(films.labels), bool), "conflict normals": films.conflict_normals_and_present}
    found = {name: [measured(judged, rows) for judged in models] for name, rows in parts.items()}
    shown = []
    for part, rows in parts.items():
        labels = models[0].films.labels[rows]
        if len(np.unique(labels)) < 2:
            continue  # no conflict normals among these films
        title = part if part == "all films" else "conflict normals against all films with the finding"
        slug = part.replace(" ", "-")
        hits = found[part][0]
        point = (1 - hits["specificity"].value, hits["sensitivity"].value)
        drawing = figures.roc(_lines(models, rows, found[part], curves.roc, "auc", "AUC"), point)
        shown.append(drawn.add(f"roc-{slug}", drawing, f"ROC, {title}"))
        lines = _lines(models, rows, found[part], curves.precision_recall, "average_precision", "AP")
        drawing = figures.precision_recall(lines, float(labels.mean()))
        shown.append(drawn.add(f"precision-recall-{slug}", drawing, f"Precision and recall, {title}"))
    network = {name: of[0] for name, of in found.items()}
    return {
        "separation": {"figures": shown, "table": main_table(models, found["all films"], found["conflict normals"])},
        "network": network,
    }


def _lines(
    models: Sequence[Judged],
    rows: Rows,
    found: Sequence[Mapping[str, Measure]],
    of: Callable[[Scores, Labels, Groups], curves.Band],
    key: str,
    short: str,
) -> list[Curve]:
    lines = []
    for judged, figure, (colour, dashes) in zip(models, found, _LOOKS, strict=False):
        films, value = judged.films.at(rows), figure[key]
        band = of(films.logits, films.labels, films.groups)
        text = f"{judged.name}: {short} {number(value.value)} ({number(value.low)} to {number(value.high)})"
        lines.append(Curve(text, band.x, band.y, band.low, band.high, colour, dashes))
    return lines


def answers(judged: Judged, drawn: Drawn) -> dict[str, Any]:
    """Return the operating point, its counts, and the effect of the band."""
    films, point = judged.films, judged.spec.operating_point
    counts = np.array(
        [[int(((films.labels == label) & (judged.called == said)).sum()) for said in (False, True)] for label in (0, 1)]
    )
    name = judged.spec.finding
    figure = figures.confusion(counts, f"with {name}", f"without {name}")
    crossed = cross_fitted_answers(films)
    return {
        "point": point,
        "counts": counts.tolist(),
        "one_in": [_one_in(int(counts[1, 0]), int(counts[1].sum())), _one_in(int(counts[0, 1]), int(counts[0].sum()))],
        "confusion": drawn.add("confusion-matrix", figure, "Films by label and answer at the threshold"),
        "histogram": drawn.add(
            "probability-histogram",
            figures.probability_histogram(
                judged.probability,
                films.labels,
                (f"without {name}", f"with {name}"),
                (point.uncertain_low, point.threshold, point.uncertain_high),
            ),
            "Films by probability",
        ),
        "answers": answers_table(judged),
        "band": what_the_band_buys(films, judged.spec.calibration, point),
        "crossed": crossed and {key: percent(value) for key, value in crossed.items()},
    }


def _one_in(count: int, of: int) -> str:
    return f"1 in {round(of / count)}" if count else "none"


def calibration(models: Sequence[Judged], drawn: Drawn) -> dict[str, Any]:
    """Return reliability diagrams and calibration measures."""
    records = [calibration_records(judged) for judged in models]
    shown = []
    for part, found in records[0].items():
        bins = found["bins"]
        predicted, observed = (np.array([each[key] for each in bins]) for key in ("probability", "share"))
        films = np.array([each["films"] for each in bins])
        note = (
            f"expected calibration error {number(found['expected_calibration_error'])}\n"
            f"Brier score {number(found['brier'])}, slope {number(found['slope'], 2)}"
        )
        slug = part.replace(" ", "-")
        title = (
            "Reliability, all films" if part == "all films" else "Reliability, the conflict normals as those without"
        )
        figure = figures.reliability(predicted, observed, films, note)
        shown.append(drawn.add(f"reliability-{slug}", figure, title))
    return {"calibration": {"figures": shown, "table": calibration_table(models, records), "records": records[0]}}


def by_subgroup(models: Sequence[Judged], groups: Mapping[str, Rows], drawn: Drawn) -> dict[str, Any]:
    """Return the measures of each subgroup."""
    table, found = subgroup_rows(models, groups)
    names = list(found)

    def curve(key: str, colour: str) -> Curve:
        ends = {
            end: np.array([np.nan if key not in found[name] else float(found[name][key][end]) for name in names])
            for end in ("value", "low", "high")
        }
        return Curve(key, ends["value"], ends["value"], ends["low"], ends["high"], colour)

    lines = [curve("sensitivity", PRESENT), curve("specificity", ABSENT)]
    lowest = min(float(np.nanmin(line.low)) for line in lines if line.low is not None)
    limits = (max(0.0, np.floor(20 * lowest) / 20), 1.005)
    figure = figures.dots(names, lines, "right answers at the threshold", limits)
    return {"subgroups": {"table": table, "figure": drawn.add("subgroups", figure, "Right answers by subgroup")}}


def sizes(found: JSONObject | None, finding: str, drawn: Drawn) -> dict[str, Any] | None:
    """Return accuracy and time by input size, if measured."""
    if found is None:
        return None
    sides = found["sides"]
    quality = np.array([side["findings"][finding]["auc"] for side in sides], float)
    times = np.array([side["median_ms"] for side in sides], float)
    figure = figures.size_against_speed(
        [side["side_px"] for side in sides], times, quality, found["serving_px"], "AUC out of fold"
    )
    rows = [
        (
            f"{side['side_px']} px" + (" (serves)" if side["side_px"] == found["serving_px"] else ""),
            [
                (number(side["findings"][finding]["auc"], 4), ""),
                (number(side["findings"][finding]["auc_conflict_normals"], 4), ""),
                (f"{side['median_ms']:.1f} ms", f"95 % within {side['p95_ms']:.1f} ms"),
            ],
        )
        for side in sides
    ]
    return {
        "figure": drawn.add("input-size", figure, "What a larger input costs and brings"),
        "table": Table(["AUC, all films", "AUC, conflict normals", "time a picture"], rows),
        "networks": len(found["networks"]),
        "timed": found["pictures_timed"],
    }


def timing(parts: Sequence[Part], record: JSONObject) -> Table:
    """Return the time of each network."""
    rows = []
    for part in parts:
        seconds = [took_s for _, _, took_s in part.history]
        if seconds:
            cells = [str(len(seconds)), f"{np.mean(seconds):.0f} s", f"{sum(seconds) / 60:.0f} min"]
            rows.append((part.name, [(cell, "") for cell in cells]))
    return Table(["epochs", "an epoch", "in all"], rows)


def compared(rows: Sequence[JSONObject], drawn: Drawn) -> dict[str, Any]:
    """Return time and measures of other recipes.

    From ``comparison.gather``; systems that were never fitted are left out.
    """
    fitted = [row for row in rows if row.get("seconds_per_epoch") is not None]
    seconds = np.array([row["seconds_per_epoch"] for row in fitted], float)
    texts = [f"{each:.3g} s" for each in seconds]
    table = []
    for row, text in zip(fitted, texts, strict=True):
        found = row["measured"] or {"auc": {"value": None}, "auc_conflict_normals": {"value": None}}
        cells = [
            (number(found["auc"]["value"]), ""),
            (number(found["auc_conflict_normals"]["value"]), ""),
            (text, ""),
            (
                f"{row['epochs']:.3g} of {row['epochs_meant']}",
                {"early": "stopped early", "time": "time over"}.get(row["ended"], ""),
            ),
            (f"{row['seconds'] / 60:.1f} min", ""),
            (f"{row['parameters']:,}", ""),
        ]
        table.append((row["name"], cells))
    columns = ["AUC, fold 0", "AUC, conflict normals", "an epoch", "epochs", "in all", "parameters"]
    figure = figures.bars([row["name"] for row in fitted], seconds, "seconds an epoch", texts)
    return {"figure": drawn.add("timing", figure, "Time of an epoch of each recipe"), "table": Table(columns, table)}
