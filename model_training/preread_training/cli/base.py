"""Shared parts of the commands of ``preread-train``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from preread.cli.native_output import suppress_native_output
from preread.core.errors import UsageError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
talk = Console(stderr=True)
# A machine with a GPU keeps what TensorFlow has to say of it.
_GPU = Path("/dev/nvidiactl")

DataOption = Annotated[
    Path,
    typer.Option("--data", help="A folder per label (NORMAL/, PNEUMONIA/ ...), or a CSV of path, label, patient."),
]
FoldsOption = Annotated[int, typer.Option(help="Parts into which patients are dealt.", min=2, max=20)]
AbsentOption = Annotated[str, typer.Option(help="Label of films with none of the findings.")]
# As for `fit`: what the run recorded, unless it is older than the record; another value is a contradiction.
RecordedFoldsOption = Annotated[
    int | None, typer.Option("--folds", help="As in the run, which records it.", min=2, max=20)
]
RecordedSeedOption = Annotated[int | None, typer.Option("--seed", help="As in the run, which records it.")]
RecordedAbsentOption = Annotated[
    str | None,
    typer.Option("--absent", help="Label of films with none of the findings; as in the run, which records it."),
]
PrevalenceOption = Annotated[float, typer.Option(help="Prevalence to calibrate to.", min=0.001, max=0.999)]
BundleOption = Annotated[
    str | None, typer.Option(help="Bundle: folder, name/version or name; default: the shipped one.")
]
DeclarationOption = Annotated[
    Path | None,
    typer.Option(help="JSON: whose films these are, what the bundle is for; `preread-train declaration` prints one."),
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


def progress_bar() -> Progress:
    """Return a progress bar on standard error, shown in terminals only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=talk,
        disable=not talk.is_terminal,
    )


def read_films(data: Path, folds: int, seed: int, absent: str) -> Any:
    """Read a data set with a progress bar, see ``dataset.read``."""
    from preread_training.data.dataset import read

    with progress_bar() as progress:
        task = progress.add_task("reading films", total=None)
        return read(data, folds, seed, lambda: progress.advance(task), absent)


def films_of_run(
    run: Path, data: Path, *, folds: int | None = None, seed: int | None = None, absent: str | None = None
) -> Any:
    """Read the data set of a run with the run's folds.

    Raises:
        UsageError: there is no run, or an option contradicts its record.
    """
    from preread_training.fit.run_record import record_of

    record = record_of(run)
    recorded = {"folds": len(record["data"]["folds"]), "seed": record["seed"], "absent": record.get("absent")}
    for name, asked in (("folds", folds), ("seed", seed), ("absent", absent)):
        kept = recorded[name]
        if asked is not None and kept is not None and asked != kept:
            raise UsageError(f"{run} was fitted with --{name} {kept}, not {asked}: leave --{name} out")
    return read_films(data, recorded["folds"], recorded["seed"], absent or recorded["absent"] or "NORMAL")


def use_threads(threads: int | None) -> None:
    """Set the number of threads before TensorFlow is imported."""
    if threads is not None:
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)  # read by TensorFlow when it is imported


def known_recipe(name: str, recipes: Mapping[str, object]) -> str:
    """Return the name of an existing recipe.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in recipes:
        raise UsageError(f"there is no recipe {name!r}: choose one of {', '.join(recipes)}")
    return name


def check_writable(path: Path) -> None:
    """Check that a file can be written before the work begins.

    Raises:
        UsageError: it cannot.
    """
    try:
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def load_tensorflow() -> None:
    """Import Keras and TensorFlow without their messages about GPUs.

    What they printed is shown if they cannot be imported.
    """
    if not _GPU.exists():
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with suppress_native_output():
        import keras  # noqa: F401
        import tensorflow as tf  # noqa: F401
