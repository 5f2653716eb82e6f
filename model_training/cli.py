"""``preread-train``: index films, fit networks, measure a bundle, publish one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from worker.errors import PrereadError, UsageError

app = typer.Typer(
    help="Train, measure and publish the model of Preread. Data go to stdout, talk to stderr.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
talk = Console(stderr=True)
_OF_TRAINING = frozenset({"jax", "jinja2", "keras", "matplotlib", "scipy", "tensorflow"})

DataOption = Annotated[
    Path,
    typer.Option("--data", help="A folder per label (NORMAL/, PNEUMONIA/ ...), or a CSV of path, label, patient."),
]
FoldsOption = Annotated[int, typer.Option(help="Parts into which patients are dealt.", min=2, max=20)]
AbsentOption = Annotated[str, typer.Option(help="Label of films with none of the findings.")]
PrevalenceOption = Annotated[float, typer.Option(help="Prevalence to calibrate to.", min=0.001, max=0.999)]
BundleOption = Annotated[
    str | None, typer.Option(help="Bundle: folder, name/version or name; default: the shipped one.")
]
DeclarationOption = Annotated[
    Path | None, typer.Option(help="JSON of what the bundle is for; `preread-train declaration` prints one.")
]
SeedOption = Annotated[int, typer.Option(help="Decides folds, draws and augmentation.")]
StepsOption = Annotated[int | None, typer.Option(help="Shorten each epoch, for a trial.", min=1)]
ThreadsOption = Annotated[
    int | None,
    typer.Option(help="Of TensorFlow; the same number gives the same weights. Default: all cores.", min=1),
]
Vgg19Option = Annotated[
    Path | None,
    typer.Option(
        help="ImageNet weights of VGG19 without its top (HDF5), for K3; else Keras is asked for them.",
        envvar="PREREAD_VGG19_WEIGHTS",
        exists=True,
        dir_okay=False,
    ),
]


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=talk,
        disable=not talk.is_terminal,
    )


def _read(data: Path, folds: int, seed: int, absent: str) -> Any:
    from model_training.dataset import read

    with _progress() as progress:
        task = progress.add_task("reading films", total=None)
        return read(data, folds, seed, lambda: progress.advance(task), absent)


@app.command()
def index(
    data: DataOption,
    out: Annotated[Path | None, typer.Option(help="Write a CSV of path, label, patient, fold, SHA-256 here.")] = None,
    folds: FoldsOption = 5,
    seed: SeedOption = 0,
    absent: AbsentOption = "NORMAL",
) -> None:
    """Count films, patients and twins of a data set, and check that it can be trained on."""
    from model_training.dataset import summary, to_csv

    read = _read(data, folds, seed, absent)
    if out is not None:
        _writable(out)
        out.write_text(to_csv(read), encoding="utf-8", newline="")
        talk.print(f"wrote {out}", markup=False)
    typer.echo(json.dumps(summary(read), indent=2))


@app.command()
def fit(
    data: DataOption,
    run: Annotated[Path, typer.Option(help="Folder of this run; the same command goes on after an interruption.")],
    recipe: Annotated[str, typer.Option(help="Name of a recipe.")] = "default",
    folds: FoldsOption = 5,
    seed: SeedOption = 0,
    absent: AbsentOption = "NORMAL",
    only: Annotated[
        str | None,
        typer.Option(help="Fit this part alone: a fold's number, or `all`. Parts of one run may be fitted at once."),
    ] = None,
    steps_per_epoch: StepsOption = None,
    threads: ThreadsOption = None,
    minutes: Annotated[float | None, typer.Option(help="End each fit after so many, wherever it is.", min=0)] = None,
    vgg19_weights: Vgg19Option = None,
) -> None:
    """Fit a network to each fold's other films, keep the logits out of fold, then fit one to all films.

    Beside the product's own recipes there are the reference systems, A1 to K3.
    """
    _use_threads(threads)
    from model_training.fitting import RECIPES, Recipe
    from model_training.pace import Bars
    from model_training.reference_data import REFERENCES, Reference
    from model_training.running import run as run_recipe

    recipes: dict[str, Recipe | Reference] = {**RECIPES, **REFERENCES}
    chosen, films = recipes[_known(recipe, recipes)], _read(data, folds, seed, absent)
    with Bars(talk) as bars:
        run_recipe(
            chosen,
            films,
            run,
            seed=seed,
            only=only,
            steps_per_epoch=steps_per_epoch,
            minutes=minutes,
            vgg19_weights=vgg19_weights,
            say=lambda text: talk.print(text, markup=False),
            advance=bars,
        )
    talk.print(f"the run is at {run}; publish it with `preread-train publish`", markup=False)


@app.command()
def compare(
    runs: Annotated[
        Path, typer.Option(help="Folder with a folder for each system; what it holds is not fitted again.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="As for `fit`; without it the table is made of the finished systems alone.")
    ] = None,
    recipe: Annotated[
        list[str] | None, typer.Option(help="A system; repeatable. Default: all of them, and the product's own.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="For each fit; then it ends, wherever it is.", min=0)] = 15.0,
    void_minutes: Annotated[
        float, typer.Option(help="The same for systems whose reported number says nothing of them.", min=0)
    ] = 5.0,
    own: Annotated[
        Path | None, typer.Option(help="A run of the product's own recipe on the same films, for a row of its own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write compare.md, compare.json and compare.svg here.")] = None,
    folds: FoldsOption = 5,
    seed: SeedOption = 0,
    steps_per_epoch: StepsOption = None,
    threads: ThreadsOption = None,
    vgg19_weights: Vgg19Option = None,
) -> None:
    """Fit the reference systems and the product's own under one protocol, and put them into one table.

    Fold 0 is held out. Several processes may fit different systems into the same folder at once.
    """
    _use_threads(threads)
    from model_training import comparing
    from model_training.comparison_page import table, write
    from model_training.reference_data import REFERENCES

    if data is not None:
        from model_training.fitting import RECIPES

        usual = [*REFERENCES, *([] if own else ["default"])]
        names = [_known(name, {**RECIPES, **REFERENCES}) for name in recipe or usual]
        films = _read(data, folds, seed, "NORMAL")
        comparing.keep_baselines(films, runs, seed)
        if own is not None:
            comparing.keep_run(comparing.PRODUCT, own, runs, films, seed=seed, minutes=None)
        comparing.fit_all(
            names,
            films,
            runs,
            seed=seed,
            minutes=minutes,
            void_minutes=void_minutes,
            steps_per_epoch=steps_per_epoch,
            vgg19_weights=vgg19_weights,
            say=lambda text: talk.print(text, markup=False),
        )
    rows = comparing.gather(runs)
    typer.echo(table(rows), nl=False)
    if out is not None:
        for path in write(rows, out):
            talk.print(f"wrote {path}", markup=False)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run with at least one finished fold.")],
    data: DataOption,
    out: Annotated[Path | None, typer.Option(help="Folder for the page and its figures; default: RUN/report.")] = None,
    share: Annotated[bool, typer.Option("--share", help="Leave out every picture and name of a film.")] = False,
    finding: Annotated[str | None, typer.Option(help="Of the run's findings; default: the first.")] = None,
    prevalence: PrevalenceOption = 0.5,
    sizes: Annotated[
        bool, typer.Option("--sizes", help="Measure other input sizes too, unless the run keeps them: some minutes.")
    ] = False,
    compare: Annotated[Path | None, typer.Option(help="Folder of `compare`, to show the time of each recipe.")] = None,
    absent: AbsentOption = "NORMAL",
) -> None:
    """Show what a run learned: one HTML page that needs no other file, and its figures as PNG.

    The page shows films and is to stay where they may be, unless it is made with --share.
    """
    from model_training.reporting import Wanted
    from model_training.reporting import report as write_report
    from model_training.run_record import record_of

    record = record_of(run)
    films = _read(data, len(record["data"]["folds"]), record["seed"], absent)
    wanted = Wanted(share, prevalence, finding, sizes, compare)
    page = write_report(run, films, out or run / "report", wanted, lambda text: talk.print(text, markup=False))
    talk.print(f"wrote {page} and {page.parent / 'figures'}", markup=False)


@app.command()
def declaration() -> None:
    """Print what the shipped bundle declares of itself, to start one's own from."""
    from model_training.declaration import PNEUMONIA_CHILDREN

    typer.echo(json.dumps(PNEUMONIA_CHILDREN.to_json(), indent=2))


@app.command()
def publish(
    data: DataOption,
    run: Annotated[Path, typer.Option(help="Folder of a finished run.")],
    version: Annotated[str, typer.Option(help="New version, e.g. 1.0.0; a published version never changes.")],
    into: Annotated[Path, typer.Option(help="Folder of bundles.")] = Path("bundles"),
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "pneumonia-children",
    prevalence: PrevalenceOption = 0.5,
    declaration: DeclarationOption = None,
    not_chest: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures that are no chest film, a folder per kind, to measure the detector with."
        ),
    ] = None,
    folds: FoldsOption = 5,
    seed: SeedOption = 0,
    absent: AbsentOption = "NORMAL",
) -> None:
    """Calibrate a run's network, choose its operating point and write it as a bundle for the worker."""
    from model_training.declaration import declaration_for
    from model_training.foreign import of_folder, shipped
    from model_training.publishing import publish as publish_run
    from worker.preprocessing import TRAINING_SPEC

    foreign = of_folder(not_chest, TRAINING_SPEC) if not_chest else {}
    films = _read(data, folds, seed, absent)
    bundle = publish_run(
        run,
        films,
        into,
        name=name,
        version=version,
        prevalence=prevalence,
        declaration=declaration_for(films.findings, declaration),
        foreign={**shipped(TRAINING_SPEC), **foreign},
        say=lambda text: talk.print(text, markup=False),
    )
    talk.print(f"published {bundle.label} at {bundle.path}", markup=False)
    typer.echo(json.dumps(bundle.manifest.metrics, indent=2))


@app.command()
def recalibrate(
    data: DataOption,
    version: Annotated[str, typer.Option(help="New version; a published version never changes.")],
    bundle: BundleOption = None,
    into: Annotated[Path, typer.Option(help="Folder of bundles.")] = Path("bundles"),
    prevalence: PrevalenceOption = 0.5,
    absent: AbsentOption = "NORMAL",
) -> None:
    """Fit calibration and operating point to a site's own films, without training again. Needs no TensorFlow.

    The films must be labelled by people and new to the network; half the patients' films seen before would flatter it.
    """
    from model_training.recalibrating import recalibrate as recalibrate_bundle
    from worker import bundle as bundles

    films = _read(data, 5, 0, absent)
    with _progress() as progress:
        task = progress.add_task("assessing", total=len(films.films))
        made = recalibrate_bundle(
            bundles.load(bundles.resolve(bundle)),
            films,
            into,
            version=version,
            prevalence=prevalence,
            progress=lambda: progress.advance(task),
        )
    talk.print(f"published {made.label} at {made.path}", markup=False)
    typer.echo(json.dumps(made.manifest.metrics, indent=2))


@app.command()
def evaluate(
    data: DataOption,
    bundle: BundleOption = None,
    predictions: Annotated[Path | None, typer.Option(help="Write a CSV with a row per film here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    absent: AbsentOption = "NORMAL",
    finding: Annotated[str | None, typer.Option(help="Finding to measure; default: the bundle's first.")] = None,
) -> None:
    """Measure a bundle on labelled films, through the same function that the worker calls. Needs no TensorFlow."""
    from model_training.dataset import index as index_films
    from model_training.judging import judge, report_lines, write_predictions
    from worker import bundle as bundles
    from worker.classifier import Classifier

    films = index_films(data, absent)
    if predictions is not None:
        _writable(predictions)
    classifier = Classifier(bundles.load(bundles.resolve(bundle)))
    classifier.self_check()
    with _progress() as progress:
        task = progress.add_task("assessing", total=len(films))
        judged = judge(films, classifier, lambda: progress.advance(task), finding=finding)
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


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)  # read by TensorFlow when it is imported


def _known(name: str, recipes: Mapping[str, object]) -> str:
    if name not in recipes:
        raise UsageError(f"there is no recipe {name!r}: choose one of {', '.join(recipes)}")
    return name


def _writable(path: Path) -> None:
    """Find out before the work, not after it."""
    try:
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def main() -> None:
    """Run the command; a known error becomes one message and its exit code."""
    try:
        app()
    except PrereadError as error:
        talk.print(f"{error.code}: {error}", markup=False, soft_wrap=True)
        if error.hint:
            talk.print(error.hint, markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in _OF_TRAINING:
            raise
        talk.print(
            f"{error.name} is not installed; fit and publish need it: pip install 'preread[train]'", markup=False
        )
        sys.exit(UsageError.exit_code)
