"""Sections of a run's report, as dictionaries for its template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from preread.core.types import JSONObject
from preread_training.data.dataset import Data
from preread_training.fit.run_record import Part, compute_lowest_loss, list_size_changes
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
    encode_png,
    encode_svg,
)
from preread_training.report.galleries import encode_data_uri, list_image_kinds
from preread_training.report.tables import (
    MeasuredModel,
    Table,
    build_answers_table,
    build_calibration_table,
    build_main_table,
    build_subgroup_table,
    format_number,
    format_percent,
    measure_model,
    measure_model_calibration,
)
from preread_training.stats import curves
from preread_training.stats.bootstrap import Groups, Labels, Measure, Rows, Scores
from preread_training.stats.operating_point import count_errors_with_band, measure_cross_fitted_threshold

# Files in the report's folder keep their names.
_SLUGS = {"all images": "all-films", "hard negatives": "conflict-normals", "conflict slice": "conflict-slice"}
_LOOKS = ((NETWORK, "-"), (LINEAR, "--"), (BORDER, ":"))


@dataclass
class DrawnFigures:
    """Figures of a report drawn so far: SVG for the page, PNG for the folder."""

    pngs: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, figure: Figure, title: str, caption: str = "") -> dict[str, str]:
        """Store a figure and return its entry for the page.

        Args:
            name: of the file.
            figure: to store.
            title: below the figure.
            caption: after the title.
        """
        self.pngs[name] = encode_png(figure)
        uri = encode_data_uri("image/svg+xml", encode_svg(figure))
        return {"uri": uri, "title": title, "caption": caption, "number": str(len(self.pngs))}


def build_balance_section(data: Data, finding: int, drawn: DrawnFigures) -> dict[str, Any]:
    """Build the report's section on the images: their number by kind and fold.

    Args:
        data: the data set.
        finding: column of its findings.
        drawn: gets the figures.
    """
    names, groups = zip(*list_image_kinds(data, finding), strict=True)
    folds = range(int(data.folds.max()) + 1)
    images = np.array([[int((data.folds[rows] == fold).sum()) for rows in groups] for fold in folds])
    patients = np.array(
        [[len(np.unique(data.patients[rows][data.folds[rows] == fold])) for rows in groups] for fold in folds]
    )
    parts = [f"fold {fold}" for fold in folds]
    rows = [
        (part, [(f"{int(a)}", f"{int(b)} patients") for a, b in zip(*of, strict=True)])
        for part, *of in zip(parts, images, patients, strict=True)
    ]
    whole = [(f"{int(a)}", f"{int(b)} patients") for a, b in zip(images.sum(axis=0), patients.sum(axis=0), strict=True)]
    known = all(image.patient_known for image in data.images)
    return {
        "figures": [
            drawn.add(
                "class-balance-films", figures.draw_class_balance(parts, names, images, "images"), "Images in each fold"
            ),
            drawn.add(
                "class-balance-patients",
                figures.draw_class_balance(
                    parts, names, patients, "patients" if known else "patients, unknown ones by image"
                ),
                "Patients in each fold",
            ),
        ],
        "table": Table(list(names), [*rows, ("all", whole)]),
        "share": format_percent(float(data.labels[:, finding].mean())),
        "conflict": int((data.conflict[:, finding] & (data.labels[:, finding] == 0)).sum()),
    }


def build_learning_section(parts: Sequence[Part], record: JSONObject, drawn: DrawnFigures) -> dict[str, str] | None:
    """Build the report's section on learning: the loss of each part.

    Args:
        parts: of the run.
        record: of the run.
        drawn: gets the figure.

    Returns:
        The figure's entry; ``None`` if no part has a history.
    """
    lines = []
    for index, part in enumerate(part for part in parts if part.history):
        epochs, losses, _ = zip(*part.history, strict=True)
        colour = INK if part.folder == "all" else CATEGORIES[index % len(CATEGORIES)]
        lines.append(Curve(part.name, np.array(epochs, float), np.array(losses), colour=colour))
    if not lines:
        return None
    figure = figures.draw_learning_curves(
        lines, list_size_changes(record["recipe"]), compute_lowest_loss(record["recipe"]), "loss"
    )
    return drawn.add("learning-curves", figure, "Training loss after each epoch")


def build_separation_section(models: Sequence[MeasuredModel], drawn: DrawnFigures) -> dict[str, Any]:
    """Build the report's section on ROC and precision-recall curves.

    Args:
        models: the network, then its baselines.
        drawn: gets the figures.
    """
    held_out = models[0].held_out
    parts = {"all images": np.ones(len(held_out.labels), bool), "hard negatives": held_out.hard_negatives_and_present}
    found = {name: [measure_model(judged, rows) for judged in models] for name, rows in parts.items()}
    shown = []
    for part, rows in parts.items():
        labels = models[0].held_out.labels[rows]
        if len(np.unique(labels)) < 2:
            continue  # no hard negatives among these images
        title = part if part == "all images" else "hard negatives against all images with the finding"
        slug = _SLUGS[part]
        hits = found[part][0]
        point = (1 - hits["specificity"].value, hits["sensitivity"].value)
        drawing = figures.draw_roc_curves(
            _lines(models, rows, found[part], curves.compute_roc_curve, "auc", "AUC"), point
        )
        shown.append(drawn.add(f"roc-{slug}", drawing, f"ROC, {title}"))
        lines = _lines(models, rows, found[part], curves.compute_precision_recall_curve, "average_precision", "AP")
        drawing = figures.draw_precision_recall_curves(lines, float(labels.mean()))
        shown.append(drawn.add(f"precision-recall-{slug}", drawing, f"Precision and recall, {title}"))
    network = {name: of[0] for name, of in found.items()}
    return {
        "separation": {
            "figures": shown,
            "table": build_main_table(models, found["all images"], found["hard negatives"]),
        },
        "network": network,
    }


def _lines(
    models: Sequence[MeasuredModel],
    rows: Rows,
    found: Sequence[Mapping[str, Measure]],
    of: Callable[[Scores, Labels, Groups], curves.Band],
    key: str,
    short: str,
) -> list[Curve]:
    lines = []
    for judged, figure, (colour, dashes) in zip(models, found, _LOOKS, strict=False):
        held_out, value = judged.held_out.select_rows(rows), figure[key]
        band = of(held_out.logits, held_out.labels, held_out.groups)
        middle, low, high = (format_number(number) for number in (value.value, value.low, value.high))
        text = f"{judged.name}: {short} {middle} ({low} to {high})"
        lines.append(Curve(text, band.x, band.y, band.low, band.high, colour, dashes))
    return lines


def build_answers_section(judged: MeasuredModel, drawn: DrawnFigures) -> dict[str, Any]:
    """Build the report's section on answers: threshold, counts, band.

    Args:
        judged: the network.
        drawn: gets the figures.
    """
    held_out, point = judged.held_out, judged.spec.operating_point
    counts = np.array(
        [
            [int(((held_out.labels == label) & (judged.called == said)).sum()) for said in (False, True)]
            for label in (0, 1)
        ]
    )
    name = judged.spec.finding
    figure = figures.draw_confusion_matrix(counts, f"with {name}", f"without {name}")
    crossed = measure_cross_fitted_threshold(held_out)
    return {
        "point": point,
        "counts": counts.tolist(),
        "one_in": [_one_in(int(counts[1, 0]), int(counts[1].sum())), _one_in(int(counts[0, 1]), int(counts[0].sum()))],
        "confusion": drawn.add("confusion-matrix", figure, "Images by label and answer at the threshold"),
        "histogram": drawn.add(
            "probability-histogram",
            figures.draw_probability_histogram(
                judged.probability,
                held_out.labels,
                (f"without {name}", f"with {name}"),
                (point.uncertain_low, point.threshold, point.uncertain_high),
            ),
            "Images by probability",
        ),
        "answers": build_answers_table(judged),
        "band": count_errors_with_band(held_out, judged.spec.calibration, point),
        "crossed": crossed and {key: format_percent(value) for key, value in crossed.items()},
    }


def _one_in(count: int, of: int) -> str:
    return f"1 in {round(of / count)}" if count else "none"


def build_calibration_section(models: Sequence[MeasuredModel], drawn: DrawnFigures) -> dict[str, Any]:
    """Build the report's section on calibration: diagrams and measures.

    Args:
        models: the network, then its baselines.
        drawn: gets the figures.
    """
    records = [measure_model_calibration(judged) for judged in models]
    shown = []
    for part, found in records[0].items():
        bins = found["bins"]
        predicted, observed = (np.array([each[key] for each in bins]) for key in ("probability", "share"))
        counts = np.array([each["films"] for each in bins])
        note = (
            f"expected calibration error {format_number(found['expected_calibration_error'])}\n"
            f"Brier score {format_number(found['brier'])}, slope {format_number(found['slope'], 2)}"
        )
        slug = _SLUGS[part]
        title = (
            "Reliability, all images" if part == "all images" else "Reliability, the hard negatives as those without"
        )
        figure = figures.draw_reliability_diagram(predicted, observed, counts, note)
        shown.append(drawn.add(f"reliability-{slug}", figure, title))
    return {"calibration": {"figures": shown, "table": build_calibration_table(models, records), "records": records[0]}}


def build_subgroup_section(
    models: Sequence[MeasuredModel], groups: Mapping[str, Rows], drawn: DrawnFigures
) -> dict[str, Any]:
    """Build the report's section on subgroups: the measures of each.

    Args:
        models: the network, then its baselines.
        groups: bool [n] by name, see ``subgroups.select_subgroups``.
        drawn: gets the figure.
    """
    table, found = build_subgroup_table(models, groups)
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
    figure = figures.draw_dots(names, lines, "right answers at the threshold", limits)
    return {"subgroups": {"table": table, "figure": drawn.add("subgroups", figure, "Right answers by subgroup")}}


def build_size_section(found: JSONObject | None, finding: str, drawn: DrawnFigures) -> dict[str, Any] | None:
    """Build the report's section on input sizes: accuracy and time of each.

    Args:
        found: of ``input_sizes.measure_input_sizes``; ``None`` if it was not measured.
        finding: its name.
        drawn: gets the figure.

    Returns:
        The section; ``None`` if nothing was measured.
    """
    if found is None:
        return None
    sides = found["sides"]
    quality = np.array([side["findings"][finding]["auc"] for side in sides], float)
    times = np.array([side["median_ms"] for side in sides], float)
    figure = figures.draw_size_against_speed(
        [side["side_px"] for side in sides], times, quality, found["serving_px"], "AUC out of fold"
    )
    rows = [
        (
            f"{side['side_px']} px" + (" (serves)" if side["side_px"] == found["serving_px"] else ""),
            [
                (format_number(side["findings"][finding]["auc"], 4), ""),
                (format_number(side["findings"][finding]["auc_conflict_normals"], 4), ""),
                (f"{side['median_ms']:.1f} ms", f"95 % within {side['p95_ms']:.1f} ms"),
            ],
        )
        for side in sides
    ]
    return {
        "figure": drawn.add("input-size", figure, "What a larger input costs and brings"),
        "table": Table(["AUC, all images", "AUC, hard negatives", "time an image"], rows),
        "networks": len(found["networks"]),
        "timed": found["pictures_timed"],
    }


def build_timing_table(parts: Sequence[Part], record: JSONObject) -> Table:
    """Build the report's table of the time that each network of the run took."""
    rows = []
    for part in parts:
        seconds = [took_s for _, _, took_s in part.history]
        if seconds:
            cells = [str(len(seconds)), f"{np.mean(seconds):.0f} s", f"{sum(seconds) / 60:.0f} min"]
            rows.append((part.name, [(cell, "") for cell in cells]))
    return Table(["epochs", "an epoch", "in all"], rows)


def build_comparison_section(rows: Sequence[JSONObject], drawn: DrawnFigures) -> dict[str, Any]:
    """Build the report's section on other recipes: their time and measures.

    Args:
        rows: of ``comparison.read_rows``; systems that were never fitted are left out.
        drawn: gets the figure.
    """
    fitted = [row for row in rows if row.get("seconds_per_epoch") is not None]
    seconds = np.array([row["seconds_per_epoch"] for row in fitted], float)
    texts = [f"{each:.3g} s" for each in seconds]
    table = []
    for row, text in zip(fitted, texts, strict=True):
        found = row["measured"] or {"auc": {"value": None}, "auc_conflict_normals": {"value": None}}
        cells = [
            (format_number(found["auc"]["value"]), ""),
            (format_number(found["auc_conflict_normals"]["value"]), ""),
            (text, ""),
            (
                f"{row['epochs']:.3g} of {row['epochs_meant']}",
                {"early": "stopped early", "time": "time over"}.get(row["ended"], ""),
            ),
            (f"{row['seconds'] / 60:.1f} min", ""),
            (f"{row['parameters']:,}", ""),
        ]
        table.append((row["name"], cells))
    columns = ["AUC, fold 0", "AUC, hard negatives", "an epoch", "epochs", "in all", "parameters"]
    figure = figures.draw_bars([row["name"] for row in fitted], seconds, "seconds an epoch", texts)
    return {"figure": drawn.add("timing", figure, "Time of an epoch of each recipe"), "table": Table(columns, table)}
