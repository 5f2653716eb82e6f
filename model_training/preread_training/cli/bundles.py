"""Commands that make or measure a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from preread_training.cli.base import (
    AbsentOption,
    BundleOption,
    DataOption,
    DeclarationOption,
    PrevalenceOption,
    RecordedAbsentOption,
    RecordedFoldsOption,
    RecordedSeedOption,
    check_writable,
    films_of_run,
    load_tensorflow,
    progress_bar,
    read_films,
    talk,
)


def declaration(
    shipped: Annotated[bool, typer.Option("--shipped", help="Print that of the shipped bundle instead.")] = False,
) -> None:
    """Print a declaration to fill in.

    It states whose images they are, and what a bundle is for.
    """
    from preread_training.publish.declaration import PNEUMONIA_CHILDREN, template

    typer.echo(json.dumps(PNEUMONIA_CHILDREN.to_json() if shipped else template(), indent=2))


def publish(
    data: DataOption,
    run: Annotated[Path, typer.Option(help="Folder of a finished run.")],
    version: Annotated[str, typer.Option(help="New version, e.g. 1.0.0; a published version never changes.")],
    into: Annotated[Path, typer.Option(help="Folder of bundles.")] = Path("bundles"),
    name: Annotated[
        str | None,
        typer.Option(help="Name of the bundle; default: its findings, or the shipped one's for the published set."),
    ] = None,
    prevalence: PrevalenceOption = 0.5,
    declaration: DeclarationOption = None,
    not_chest: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures that are no chest film, a folder per kind, to measure the detector with."
        ),
    ] = None,
    folds: RecordedFoldsOption = None,
    seed: RecordedSeedOption = None,
    absent: RecordedAbsentOption = None,
) -> None:
    """Publish a run as a bundle for the worker.

    Its network is calibrated and the operating point chosen.

    Card and manifest state of the films what the run measured and what the declaration says. Without one, only the
    published set of chest films can be published: nothing is known of any other.
    """
    load_tensorflow()
    from preread.imaging.preprocessing import TRAINING_SPEC
    from preread_training.detector.ood_images import of_folder, shipped
    from preread_training.publish.declaration import PNEUMONIA_CHILDREN, declaration_for
    from preread_training.publish.publish import final_part, name_for
    from preread_training.publish.publish import publish as publish_run

    final_part(run)
    films = films_of_run(run, data, folds=folds, seed=seed, absent=absent)
    declared = declaration_for(films.findings, declaration, published=films.published)
    foreign = of_folder(not_chest) if not_chest else {}
    bundle = publish_run(
        run,
        films,
        into,
        name=name or name_for(films.findings, shipped=declared is PNEUMONIA_CHILDREN),
        version=version,
        prevalence=prevalence,
        declaration=declared,
        foreign={**shipped(TRAINING_SPEC), **foreign},
        say=lambda text: talk.print(text, markup=False),
    )
    talk.print(f"published {bundle.label} at {bundle.path}", markup=False)
    typer.echo(json.dumps(bundle.manifest.metrics, indent=2))


def recalibrate(
    data: DataOption,
    version: Annotated[str, typer.Option(help="New version; a published version never changes.")],
    bundle: BundleOption = None,
    into: Annotated[Path, typer.Option(help="Folder of bundles.")] = Path("bundles"),
    prevalence: PrevalenceOption = 0.5,
    declaration: DeclarationOption = None,
    absent: AbsentOption = "NORMAL",
) -> None:
    """Fit calibration and operating point to a site's own images.

    The network stays as it is. Needs no TensorFlow.

    The films must be labelled by people and new to the network; half the patients' films seen before would flatter it.
    The declaration says whose they are (source, films_licence, labelled_by); use and codes stay the bundle's.
    """
    from preread.model import bundles
    from preread_training.publish.declaration import films_declared
    from preread_training.publish.recalibrate import recalibrate as recalibrate_bundle

    films = read_films(data, 5, 0, absent)
    calibrated = bundles.load_bundle(bundles.find_bundle(bundle))
    declared = films_declared(calibrated.manifest, declaration, published=films.published)
    with progress_bar() as progress:
        task = progress.add_task("assessing", total=len(films.films))
        made = recalibrate_bundle(
            calibrated,
            films,
            into,
            version=version,
            prevalence=prevalence,
            declaration=declared,
            progress=lambda: progress.advance(task),
        )
    talk.print(f"published {made.label} at {made.path}", markup=False)
    typer.echo(json.dumps(made.manifest.metrics, indent=2))


def evaluate(
    data: DataOption,
    bundle: BundleOption = None,
    predictions: Annotated[Path | None, typer.Option(help="Write a CSV with a row per film here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    absent: AbsentOption = "NORMAL",
    finding: Annotated[str | None, typer.Option(help="Finding to measure; default: the bundle's first.")] = None,
) -> None:
    """Measure a bundle on labelled images.

    Through the same function that the worker calls. Needs no TensorFlow.
    """
    from preread.model import bundles
    from preread_training.analysis.evaluate import judge, report_lines, write_predictions
    from preread_training.data.dataset import index as index_films

    films = index_films(data, absent)
    if predictions is not None:
        check_writable(predictions)
    chosen = bundles.load_bundle(bundles.find_bundle(bundle))
    with progress_bar() as progress:
        task = progress.add_task("assessing", total=len(films))
        judged = judge(films, chosen, lambda: progress.advance(task), finding=finding)
    if predictions is not None:
        write_predictions(predictions, judged)
    if as_json:
        typer.echo(json.dumps(judged.report, indent=2))
        return
    report = judged.report
    title = f"{report['bundle']}, {report['finding']}, on {report['counts']['films']} films"
    table = Table("figure", "value", "95 % interval", title=title)
    for line in report_lines(report):
        table.add_row(*line)
    Console().print(table)
    talk.print(
        f"Yes-or-no figures: probability at or above the operating point {report['operating_point']:.3f}; answers, PPV "
        f"and NPV: with the band around it (`preread bundle show`). Calibration: films weighed to a prevalence of "
        f"{report['prevalence']:.0%}. Intervals by {report['bootstrap_by']}. "
        f"Assumed: {report['assumed']}.",
        markup=False,
    )
