"""Commands of ``preread-train`` that make or measure a bundle."""

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
    import_tensorflow,
    make_progress_bar,
    read_data_set_of_run,
    read_data_set_with_progress,
    talk,
)


def declaration(
    shipped: Annotated[bool, typer.Option("--shipped", help="Print that of the shipped bundle instead.")] = False,
) -> None:
    """Print a declaration to fill in.

    It states the source of the images, and the use for which a bundle is made.
    """
    from preread_training.publish.declaration import PNEUMONIA_CHILDREN, make_declaration_template

    typer.echo(json.dumps(PNEUMONIA_CHILDREN.to_json() if shipped else make_declaration_template(), indent=2))


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
            help="Folder of images that are no chest radiographs, a folder per kind, to measure the detector with."
        ),
    ] = None,
    folds: RecordedFoldsOption = None,
    seed: RecordedSeedOption = None,
    absent: RecordedAbsentOption = None,
) -> None:
    """Publish a run as a bundle for the worker.

    Its network is calibrated and the operating point chosen.

    Card and manifest state what the run measured on the images and what the declaration says of them. Without a
    declaration only the published set of chest images can be published.
    """
    import_tensorflow()
    from preread.imaging.preprocessing import TRAINING_SPEC
    from preread_training.detector.ood_images import load_folder_images, load_package_images
    from preread_training.publish.declaration import PNEUMONIA_CHILDREN, Release, read_declaration
    from preread_training.publish.publish import choose_bundle_name, find_final_network, publish_run

    find_final_network(run)
    data_set = read_data_set_of_run(run, data, folds=folds, seed=seed, absent=absent)
    declared = read_declaration(data_set.findings, declaration, published=data_set.published)
    foreign = load_folder_images(not_chest) if not_chest else {}
    bundle = publish_run(
        run,
        data_set,
        Release(into, version, prevalence, declared),
        name=name or choose_bundle_name(data_set.findings, shipped=declared is PNEUMONIA_CHILDREN),
        foreign={**load_package_images(TRAINING_SPEC), **foreign},
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

    The images must be labelled by people and new to the network: those of patients that it was fitted to give results
    that are too good. The declaration states their source, licence and who labelled them; intended use and codes stay
    the bundle's.
    """
    from preread.model import bundles
    from preread_training.publish.declaration import Release, read_calibration_declaration
    from preread_training.publish.recalibrate import recalibrate_bundle

    data_set = read_data_set_with_progress(data, 5, 0, absent)
    calibrated = bundles.load_bundle(bundles.find_bundle(bundle))
    declared = read_calibration_declaration(calibrated.manifest, declaration, published=data_set.published)
    with make_progress_bar() as progress:
        task = progress.add_task("assessing", total=len(data_set.images))
        release = Release(into, version, prevalence, declared)
        made = recalibrate_bundle(calibrated, data_set, release, lambda: progress.advance(task))
    talk.print(f"published {made.label} at {made.path}", markup=False)
    typer.echo(json.dumps(made.manifest.metrics, indent=2))


def evaluate(
    data: DataOption,
    bundle: BundleOption = None,
    predictions: Annotated[Path | None, typer.Option(help="Write a CSV with a row per image here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    absent: AbsentOption = "NORMAL",
    finding: Annotated[str | None, typer.Option(help="Finding to measure; default: the bundle's first.")] = None,
) -> None:
    """Measure a bundle on labelled images.

    Each image goes through the function that the worker calls. Needs no TensorFlow.
    """
    from preread.model import bundles
    from preread_training.analysis.evaluate import evaluate_bundle, format_report_lines, write_results_csv
    from preread_training.data.dataset import list_labelled_images

    data_set = list_labelled_images(data, absent)
    if predictions is not None:
        check_writable(predictions)
    chosen = bundles.load_bundle(bundles.find_bundle(bundle))
    with make_progress_bar() as progress:
        task = progress.add_task("assessing", total=len(data_set))
        judged = evaluate_bundle(data_set, chosen, lambda: progress.advance(task), finding=finding)
    if predictions is not None:
        write_results_csv(predictions, judged)
    if as_json:
        typer.echo(json.dumps(judged.report, indent=2))
        return
    report = judged.report
    title = f"{report['bundle']}, {report['finding']}, on {report['counts']['films']} images"
    table = Table("figure", "value", "95 % interval", title=title)
    for line in format_report_lines(report):
        table.add_row(*line)
    Console().print(table)
    talk.print(
        f"Accuracy, sensitivity and the like are at the operating point {report['operating_point']:.3f}; answers, PPV "
        f"and NPV with the band around it (`preread bundle show`). Calibration: images weighed to a prevalence of "
        f"{report['prevalence']:.0%}. Intervals by {report['bootstrap_by']}. "
        f"Assumed: {report['assumed']}.",
        markup=False,
    )
