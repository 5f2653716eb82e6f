"""``preread-train``: index images, fit, measure and publish."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from preread.cli.messages import print_error
from preread.cli.version import exit_with_version
from preread.core.errors import PrereadError
from preread_training.cli import bundles as cli_bundles
from preread_training.cli import judge as cli_judge
from preread_training.cli.base import (
    AbsentOption,
    DataOption,
    FoldsOption,
    PrevalenceOption,
    RecordedAbsentOption,
    SeedOption,
    StepsOption,
    ThreadsOption,
    Vgg19Option,
    app,
    check_recipe_name,
    check_writable,
    import_tensorflow,
    read_data_set_of_run,
    read_data_set_with_progress,
    set_thread_count,
    talk,
)
from preread_training.nets.pretrained import TrainingMissing

__all__ = ["app", "main"]
_OF_TRAINING = frozenset({"jax", "jinja2", "keras", "matplotlib", "scipy", "tensorflow"})


@app.command()
def index(
    data: DataOption,
    out: Annotated[Path | None, typer.Option(help="Write a CSV of path, label, patient, fold, SHA-256 here.")] = None,
    folds: FoldsOption = 5,
    seed: SeedOption = 0,
    absent: AbsentOption = "NORMAL",
) -> None:
    """Count images, patients and duplicates of a data set.

    The command fails if the data set cannot be trained on.
    """
    from preread_training.data.dataset import format_data_set_csv, summarise_data_set

    read = read_data_set_with_progress(data, folds, seed, absent)
    if out is not None:
        check_writable(out)
        out.write_text(format_data_set_csv(read), encoding="utf-8", newline="")
        talk.print(f"wrote {out}", markup=False)
    typer.echo(json.dumps(summarise_data_set(read), indent=2))


@app.command()
def fit(
    data: DataOption,
    run: Annotated[Path, typer.Option(help="Folder of this run; after an interruption the same command continues.")],
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
    minutes: Annotated[float | None, typer.Option(help="End each fit after this many minutes.", min=0)] = None,
    vgg19_weights: Vgg19Option = None,
) -> None:
    """Fit a network to each fold's other images, then one to all images.

    The logits of each fold are stored.

    Recipes are the product's own, and the reference systems, A1 to K3.
    """
    set_thread_count(threads)
    import_tensorflow()
    from preread_training.fit.cross_validation import Trainer, fit_run
    from preread_training.fit.progress import Bars
    from preread_training.fit.session import Session
    from preread_training.fit.trainer import RECIPES, RecipeTrainer
    from preread_training.reference.fit import ReferenceTrainer
    from preread_training.reference.systems import REFERENCES

    name = check_recipe_name(recipe, {**RECIPES, **REFERENCES})
    trainer: Trainer = (
        RecipeTrainer(RECIPES[name]) if name in RECIPES else ReferenceTrainer(REFERENCES[name], vgg19_weights)
    )
    data_set = read_data_set_with_progress(data, folds, seed, absent)
    try:
        with Bars(talk) as bars:
            session = Session(run, seed, steps_per_epoch, minutes, lambda text: talk.print(text, markup=False), bars)
            fit_run(trainer, data_set, session, only=only)
    except KeyboardInterrupt:
        talk.print("interrupted: run the same command to continue", markup=False)
        raise
    then = "publish it with `preread-train publish`" if name in RECIPES else "look at it with `preread-train report`"
    talk.print(f"the run is at {run}; {then}", markup=False)


@app.command()
def compare(
    runs: Annotated[
        Path, typer.Option(help="Folder with a folder for each system; finished systems are not fitted again.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="As for `fit`; without it only finished systems stand in the table.")
    ] = None,
    recipe: Annotated[
        list[str] | None, typer.Option(help="A system; repeatable. Default: all of them, and the product's own.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Limit of each fit in minutes.", min=0)] = 15.0,
    void_minutes: Annotated[
        float, typer.Option(help="The same for systems whose reported number is void.", min=0)
    ] = 5.0,
    own: Annotated[
        Path | None, typer.Option(help="A run of the product's own recipe on the same images, for a row of its own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write compare.md, compare.json and compare.svg here.")] = None,
    folds: FoldsOption = 5,
    seed: SeedOption = 0,
    steps_per_epoch: StepsOption = None,
    threads: ThreadsOption = None,
    vgg19_weights: Vgg19Option = None,
) -> None:
    """Compare the reference systems and the product's own recipe.

    All are fitted under one protocol, with fold 0 held out, and stand in one table.

    Several processes may fit different systems into the same folder at once.
    """
    set_thread_count(threads)
    import_tensorflow()
    from preread_training.reference.systems import REFERENCES
    from preread_training.report import comparison as comparing
    from preread_training.report.comparison_page import format_table, write_comparison

    if data is not None:
        from preread_training.fit.session import Session
        from preread_training.fit.trainer import RECIPES

        usual = [*REFERENCES, *([] if own else ["default"])]
        names = [check_recipe_name(name, {**RECIPES, **REFERENCES}) for name in recipe or usual]
        data_set = read_data_set_with_progress(data, folds, seed, "NORMAL")
        comparing.measure_baselines(data_set, runs, seed)
        if own is not None:
            comparing.measure_run(comparing.PRODUCT, own, runs, data_set, seed=seed, minutes=None)
        session = Session(runs, seed, steps_per_epoch, minutes, lambda text: talk.print(text, markup=False))
        comparing.fit_systems(names, data_set, session, void_minutes, vgg19_weights)
    rows = comparing.read_rows(runs)
    typer.echo(format_table(rows), nl=False)
    if out is not None:
        for path in write_comparison(rows, out):
            talk.print(f"wrote {path}", markup=False)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run with at least one finished fold.")],
    data: DataOption,
    out: Annotated[Path | None, typer.Option(help="Folder for the page and its figures; default: RUN/report.")] = None,
    share: Annotated[bool, typer.Option("--share", help="Leave out every image and file name.")] = False,
    finding: Annotated[str | None, typer.Option(help="Of the run's findings; default: the first.")] = None,
    prevalence: PrevalenceOption = 0.5,
    sizes: Annotated[
        bool, typer.Option("--sizes", help="Measure other input sizes too, unless the run keeps them: some minutes.")
    ] = False,
    compare: Annotated[Path | None, typer.Option(help="Folder of `compare`, to show the time of each recipe.")] = None,
    absent: RecordedAbsentOption = None,
) -> None:
    """Write a run's report: one HTML page, and its figures as PNG.

    The page shows images of patients: keep it where these may be, or use --share.
    """
    import_tensorflow()
    from preread_training.report.report import ReportOptions, write_report

    data_set = read_data_set_of_run(run, data, absent=absent)
    wanted = ReportOptions(share, prevalence, finding, sizes, compare)
    page = write_report(run, data_set, out or run / "report", wanted, lambda text: talk.print(text, markup=False))
    talk.print(f"wrote {page} and {page.parent / 'figures'}", markup=False)


for command in (
    cli_judge.judge,
    cli_bundles.declaration,
    cli_bundles.publish,
    cli_bundles.recalibrate,
    cli_bundles.evaluate,
):
    app.command()(command)


@app.callback()
def handle_global_options(
    version: Annotated[  # acts when it is read
        bool, typer.Option("--version", callback=exit_with_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train, measure and publish the model of Preread.

    Data go to standard output, messages to standard error.
    """


def main() -> None:
    """Run the command; a known error becomes one message and an exit code."""
    try:
        app()
    except PrereadError as error:
        print_error(error, "preread-train")
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in _OF_TRAINING:
            raise
        print_error(TrainingMissing(f"the package {error.name} is not installed"), "preread-train")
        sys.exit(TrainingMissing.exit_code)
