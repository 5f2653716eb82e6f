"""The report of a run: one HTML page and its figures as PNG.

By default the page is local: it shows patients' films. Shared, it holds no picture of a film and no film's name.
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
from preread_training.analysis.subgroups import subgroups, top_centre
from preread_training.data.atomic_files import keep_bytes, keep_text
from preread_training.data.dataset import Data
from preread_training.fit.cross_validation import out_of_fold
from preread_training.fit.input_sizes import kept_sizes, measure_sizes
from preread_training.fit.run_record import parts_of, record_of, record_rows
from preread_training.report import galleries, sections
from preread_training.report.comparison import gather
from preread_training.report.tables import Judged, judge, judge_baselines, predictive_table
from preread_training.stats.metrics import OutOfFold
from preread_training.stats.operating_point import NothingLearned

PAGE, SHARED_PAGE, FIGURES = "report.html", "report-shared.html", "figures"
_SAMPLES = 6


@dataclass(frozen=True, slots=True)
class Wanted:
    """Options of a report.

    Attributes:
        share: leave out every picture and name of a film.
        prevalence: to which probabilities are calibrated, as ``publish`` would.
        finding: its name; the first of the data set where absent.
        sizes: measure other input sizes if no earlier report has.
        compare: a folder that ``preread-train compare`` made.
    """

    share: bool = False
    prevalence: float = 0.5
    finding: str | None = None
    sizes: bool = False
    compare: Path | None = None


def report(run: Path, data: Data, out: Path, wanted: Wanted, progress: Callable[[str], None] = lambda _: None) -> Path:
    """Write a run's report and return the page's path.

    Nothing is written before everything is made.

    Args:
        run: folder of a run with at least one finished fold.
        data: the films on which it was fitted.
        out: folder for the page and ``figures/*.png``; made where absent.
        progress: told what is being done.

    Raises:
        UsageError: the run has no finished fold, is of other films, or knows no such finding or comparison.
        NotKept: the disk is full.
    """
    record = record_of(run)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is no folder: name another with --out")
    if wanted.finding not in (None, *data.findings):
        raise UsageError(f"the run knows no finding {wanted.finding!r}: choose one of {', '.join(data.findings)}")
    finding = data.findings.index(wanted.finding) if wanted.finding else 0
    films, rows = out_of_fold(run, data, finding)
    if len(np.unique(films.labels)) < 2:
        raise UsageError(f"the finished folds of {run} hold films of one label only: finish another fold")
    parts = parts_of(run, record)
    sizes = measure_sizes(run, data, progress=lambda: progress("input sizes")) if wanted.sizes else None
    sizes = sizes or kept_sizes(run, data)

    others = gather(wanted.compare) if wanted.compare else []
    progress("measuring")
    name = data.findings[finding]
    drawn = sections.Drawn()
    page: dict[str, Any] = {
        "share": wanted.share,
        "run": run.resolve().name,
        "recipe": record["recipe"]["name"],
        "finding": name,
        "prevalence": wanted.prevalence,
        "parts": parts,
        "films": len(rows),
        "all_films": len(data.films),
        "patients": len(np.unique(films.groups)),
        "published": data.published,
        "top_centre": top_centre(data),
        "patients_known": all(film.patient_known for film in data.films),
        "balance": sections.balance(data, finding, drawn),
        "learning": sections.learning(parts, record, drawn),
        "record": record_rows(record, parts),
        "environment": record["environment"],
        "timing": sections.timing(parts, record),
        "samples": None,
        "errors": None,
    }
    network, nothing = _judged(films, name, wanted.prevalence)
    page["nothing_learned"] = nothing
    if network is not None:
        baselines, page["useless"] = judge_baselines(data, rows, finding, wanted.prevalence)
        models = [network, *baselines]
        page |= sections.separation(models, drawn)
        page |= sections.answers(network, drawn)
        page |= sections.calibration(models, drawn)
        page["predictive"] = predictive_table(models)
        progress("measuring subgroups")
        page |= sections.by_subgroup(models, subgroups(data, rows, finding), drawn)
    page["sizes"] = sections.sizes(sizes, name, drawn)
    page["compared"] = sections.compared(others, drawn) if others else None
    if not wanted.share:
        progress("drawing films")
        page["samples"] = _samples(data, finding)
        page["errors"] = _errors(run, data, finding, rows, network) if network else None
    progress("writing")
    text = _render(page)
    try:
        (out / FIGURES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out / FIGURES} cannot be made: {error.strerror}") from error
    for file, content in drawn.pngs.items():
        keep_bytes(out / FIGURES / f"{file}.png", content)
    path = out / (SHARED_PAGE if wanted.share else PAGE)
    keep_text(path, text)
    return path


def _judged(films: OutOfFold, finding: str, prevalence: float) -> tuple[Judged | None, str]:
    """Judge the network, or return why it has learned nothing."""
    try:
        return judge("network", films, finding, prevalence), ""
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
            "films": [
                {"uri": galleries.jpeg_uri(data.pictures[row]), "name": data.films[row].path.name}
                for row in galleries.sample(data, rows, _SAMPLES)
            ],
        }
        for kind, rows in galleries.kinds(data, finding)
    ]


def _errors(run: Path, data: Data, finding: int, rows: npt.NDArray[np.int64], judged: Judged) -> list[dict[str, Any]]:
    """Return images on the wrong side of the threshold, worst first.

    Each with its activation map.
    """
    labels, point = judged.films.labels, judged.spec.operating_point
    wrong = np.flatnonzero(judged.called != (labels == 1))
    maps = galleries.activation_maps(run, data, rows[wrong], finding)
    strongest = [float(np.abs(cells).max()) for cells in maps.values()]
    full = float(np.quantile(strongest or [1.0], 0.9)) or 1.0
    found = []
    for label, title in ((1, "missed"), (0, "called in vain")):
        of_label = wrong[labels[wrong] == label]
        order = of_label[np.argsort(judged.probability[of_label] * (1 if label else -1), kind="stable")]
        films = []
        for index in order.tolist():
            row = int(rows[index])
            picture, probability = data.pictures[row], float(judged.probability[index])
            films.append(
                {
                    "uri": galleries.jpeg_uri(picture),
                    "map": galleries.jpeg_uri(galleries.overlaid(picture, maps[row], full)) if row in maps else None,
                    "name": data.films[row].path.name,
                    "fold": int(data.folds[row]),
                    "probability": f"{probability:.3f}",
                    "answer": str(point.compare_probability(probability)).replace("_", " "),
                    "conflict": bool(judged.films.conflict[index]),
                }
            )
        found.append({"label": label, "title": title, "films": films})
    return found
