"""The report of a run: one HTML page and its figures as PNG.

By default the page is local: it shows patients' images. A shared one holds no image and no name of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from preread.core.errors import UsageError
from preread.core.types import JSONObject
from preread_training.analysis.subgroups import name_chin_contrast, select_subgroups
from preread_training.data.atomic_files import write_bytes_atomically, write_text_atomically
from preread_training.data.dataset import Data
from preread_training.fit.cross_validation import load_out_of_fold
from preread_training.fit.input_sizes import measure_input_sizes, read_input_sizes
from preread_training.fit.run_record import Part, format_record_rows, list_parts, read_record
from preread_training.report import galleries, sections
from preread_training.report.comparison import read_rows
from preread_training.report.tables import MeasuredModel, apply_operating_point, build_predictive_table, fit_baselines
from preread_training.stats.metrics import OutOfFold
from preread_training.stats.operating_point import NothingLearned

PAGE, SHARED_PAGE, FIGURES = "report.html", "report-shared.html", "figures"
_SAMPLES = 6


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """Options of a report.

    Attributes:
        share: leave out every image and its name.
        prevalence: to which probabilities are calibrated, as ``publish`` would.
        finding: its name; ``None``: the first of the data set.
        sizes: measure other input sizes if no earlier report has.
        compare: a folder that ``preread-train compare`` made; ``None``: no comparison is shown.
    """

    share: bool = False
    prevalence: float = 0.5
    finding: str | None = None
    sizes: bool = False
    compare: Path | None = None


@dataclass(frozen=True, slots=True)
class _Measured:
    """A run's out-of-fold logits of one finding, with all that its report shows of them.

    Attributes:
        finding: column of the data set's findings.
        held_out: the logits.
        rows: int64 [n], rows of these images in the data set.
        record: the run's record.
        parts: of the run.
        sizes: see ``input_sizes.read_input_sizes``.
        others: rows of a comparison; empty if none is shown.
    """

    finding: int
    held_out: OutOfFold
    rows: npt.NDArray[np.int64]
    record: JSONObject
    parts: list[Part]
    sizes: JSONObject | None
    others: list[JSONObject]


def write_report(
    run: Path, data: Data, out: Path, wanted: ReportOptions, progress: Callable[[str], None] = lambda _: None
) -> Path:
    """Write a run's report and return the page's path.

    Nothing is written before everything is made.

    Args:
        run: folder of a run with at least one finished fold.
        data: the data set on which it was fitted.
        out: folder for the page and ``figures/*.png``; made if it does not exist.
        wanted: options of the report.
        progress: called with the name of each step.

    Raises:
        UsageError: the run has no finished fold, is of another data set, or there is no such finding or comparison.
        NotKept: the disk is full.
    """
    measured = _measure(run, data, out, wanted, progress)
    progress("measuring")
    drawn = sections.DrawnFigures()
    page = _overview(run, data, wanted, measured, drawn)
    name = data.findings[measured.finding]
    network, page["nothing_learned"] = _judged(measured.held_out, name, wanted.prevalence)
    if network is not None:
        baselines, page["useless"] = fit_baselines(data, measured.rows, measured.finding, wanted.prevalence)
        models = [network, *baselines]
        page |= sections.build_separation_section(models, drawn)
        page |= sections.build_answers_section(network, drawn)
        page |= sections.build_calibration_section(models, drawn)
        page["predictive"] = build_predictive_table(models)
        progress("measuring subgroups")
        page |= sections.build_subgroup_section(models, select_subgroups(data, measured.rows, measured.finding), drawn)
    page["sizes"] = sections.build_size_section(measured.sizes, name, drawn)
    page["compared"] = sections.build_comparison_section(measured.others, drawn) if measured.others else None
    if not wanted.share:
        progress("drawing images")
        page["samples"] = _samples(data, measured.finding)
        page["errors"] = _errors(run, data, measured.finding, measured.rows, network) if network else None
    progress("writing")
    text = _render(page)
    return _write(out, SHARED_PAGE if wanted.share else PAGE, text, drawn.pngs)


def _measure(run: Path, data: Data, out: Path, wanted: ReportOptions, progress: Callable[[str], None]) -> _Measured:
    """Check the options of a report and load what it shows."""
    record = read_record(run)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is no folder: name another with --out")
    if wanted.finding not in (None, *data.findings):
        raise UsageError(f"the run has no finding {wanted.finding!r}: choose one of {', '.join(data.findings)}")
    finding = data.findings.index(wanted.finding) if wanted.finding else 0
    held_out, rows = load_out_of_fold(run, data, finding)
    if len(np.unique(held_out.labels)) < 2:
        raise UsageError(f"the finished folds of {run} hold images of one label only: finish another fold")
    sizes = measure_input_sizes(run, data, progress=lambda: progress("input sizes")) if wanted.sizes else None
    others = read_rows(wanted.compare) if wanted.compare else []
    return _Measured(
        finding, held_out, rows, record, list_parts(run, record), sizes or read_input_sizes(run, data), others
    )


def _overview(
    run: Path, data: Data, wanted: ReportOptions, measured: _Measured, drawn: sections.DrawnFigures
) -> dict[str, Any]:
    """Return the values of the page that need no operating point."""
    record, parts = measured.record, measured.parts
    return {
        "share": wanted.share,
        "run": run.resolve().name,
        "recipe": record["recipe"]["name"],
        "finding": data.findings[measured.finding],
        "prevalence": wanted.prevalence,
        "parts": parts,
        "held_out": len(measured.rows),
        "all_images": len(data.images),
        "patients": len(np.unique(measured.held_out.groups)),
        "published": data.published,
        "top_centre": name_chin_contrast(data),
        "patients_known": all(image.patient_known for image in data.images),
        "balance": sections.build_balance_section(data, measured.finding, drawn),
        "learning": sections.build_learning_section(parts, record, drawn),
        "record": format_record_rows(record, parts),
        "environment": record["environment"],
        "timing": sections.build_timing_table(parts, record),
        "samples": None,
        "errors": None,
    }


def _write(out: Path, file: str, text: str, pngs: Mapping[str, bytes]) -> Path:
    """Write figures and page, the page last, and return its path."""
    try:
        (out / FIGURES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out / FIGURES} cannot be made ({error.strerror}): name another with --out") from error
    for name, content in pngs.items():
        write_bytes_atomically(out / FIGURES / f"{name}.png", content)
    write_text_atomically(out / file, text)
    return out / file


def _judged(held_out: OutOfFold, finding: str, prevalence: float) -> tuple[MeasuredModel | None, str]:
    """Calibrate the network, or return why it has learned nothing."""
    try:
        return apply_operating_point("network", held_out, finding, prevalence), ""
    except NothingLearned as error:
        return None, f"{str(error).capitalize()}. {error.hint}"


def _render(page: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = resources.files("preread_training.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(page)


def _samples(data: Data, finding: int) -> list[dict[str, Any]]:
    return [
        {
            "kind": kind,
            "count": len(rows),
            "images": [
                {"uri": galleries.encode_jpeg_uri(data.pixels[row]), "name": data.images[row].path.name}
                for row in galleries.draw_sample_rows(data, rows, _SAMPLES)
            ],
        }
        for kind, rows in galleries.list_image_kinds(data, finding)
    ]


def _errors(
    run: Path, data: Data, finding: int, rows: npt.NDArray[np.int64], judged: MeasuredModel
) -> list[dict[str, Any]]:
    """Return images on the wrong side of the threshold, worst first.

    Each with its activation map.
    """
    labels, point = judged.held_out.labels, judged.spec.operating_point
    wrong = np.flatnonzero(judged.called != (labels == 1))
    maps = galleries.compute_activation_maps(run, data, rows[wrong], finding)
    strongest = [float(np.abs(cells).max()) for cells in maps.values()]
    full = float(np.quantile(strongest or [1.0], 0.9)) or 1.0
    found = []
    for label, title in ((1, "missed"), (0, "called in vain")):
        of_label = wrong[labels[wrong] == label]
        order = of_label[np.argsort(judged.probability[of_label] * (1 if label else -1), kind="stable")]
        shown = []
        for index in order.tolist():
            row = int(rows[index])
            image, probability = data.pixels[row], float(judged.probability[index])
            shown.append(
                {
                    "uri": galleries.encode_jpeg_uri(image),
                    "map": galleries.encode_jpeg_uri(galleries.draw_gallery_map(image, maps[row], full))
                    if row in maps
                    else None,
                    "name": data.images[row].path.name,
                    "fold": int(data.folds[row]),
                    "probability": f"{probability:.3f}",
                    "answer": str(point.compare_probability(probability)).replace("_", " "),
                    "conflict": bool(judged.held_out.conflict[index]),
                }
            )
        found.append({"label": label, "title": title, "images": shown})
    return found
