"""Options and helpers that the commands of ``preread-train`` share."""

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
# On a machine with a GPU TensorFlow's messages about it are shown.
_GPU = Path("/dev/nvidiactl")

DataOption = Annotated[
    Path,
    typer.Option("--data", help="A folder per label (NORMAL/, PNEUMONIA/ ...), or a CSV of path, label, patient."),
]
FoldsOption = Annotated[int, typer.Option(help="Number of parts into which patients are dealt.", min=2, max=20)]
AbsentOption = Annotated[str, typer.Option(help="Label of images with none of the findings.")]
# As for `fit`: the run's record decides, if it has the value; another value is refused.
RecordedFoldsOption = Annotated[
    int | None, typer.Option("--folds", help="As in the run, which records it.", min=2, max=20)
]
RecordedSeedOption = Annotated[int | None, typer.Option("--seed", help="As in the run, which records it.")]
RecordedAbsentOption = Annotated[
    str | None,
    typer.Option("--absent", help="Label of images with none of the findings; as in the run, which records it."),
]
PrevalenceOption = Annotated[float, typer.Option(help="Prevalence to calibrate to.", min=0.001, max=0.999)]
BundleOption = Annotated[
    str | None, typer.Option(help="Bundle: folder, name/version or name; default: the shipped one.")
]
DeclarationOption = Annotated[
    Path | None,
    typer.Option(
        help="JSON: source of the images, use of the bundle; `preread-train declaration` prints one to fill in."
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of folds, draws and augmentation.")]
StepsOption = Annotated[int | None, typer.Option(help="Shorten each epoch, for a trial.", min=1)]
ThreadsOption = Annotated[
    int | None,
    typer.Option(help="Threads of TensorFlow; the same number gives the same weights. Default: all cores.", min=1),
]
Vgg19Option = Annotated[
    Path | None,
    typer.Option(
        help="File of ImageNet weights of VGG19 without its top (HDF5), for K3; default: Keras fetches them.",
        envvar="PREREAD_VGG19_WEIGHTS",
        exists=True,
        dir_okay=False,
    ),
]


def make_progress_bar() -> Progress:
    """Make a progress bar on standard error, shown on terminals only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=talk,
        disable=not talk.is_terminal,
    )


def read_data_set_with_progress(data: Path, folds: int, seed: int, absent: str) -> Any:
    """Read a data set with a progress bar, see ``dataset.read_data_set``.

    Args:
        data: folder or CSV of the data set.
        folds: number of folds.
        seed: of the folds.
        absent: label of images with none of the findings.

    Returns:
        A ``dataset.Data``.

    Raises:
        UsageError: see ``dataset.read_data_set``.
    """
    from preread_training.data.dataset import read_data_set

    with make_progress_bar() as progress:
        task = progress.add_task("reading", total=None)
        return read_data_set(data, folds, seed, lambda: progress.advance(task), absent)


def read_data_set_of_run(
    run: Path, data: Path, *, folds: int | None = None, seed: int | None = None, absent: str | None = None
) -> Any:
    """Read the data set of a run and deal it into the run's folds.

    Args:
        run: folder of the run.
        data: folder or CSV of the data set.
        folds: number of folds; ``None``: as recorded.
        seed: of the folds; ``None``: as recorded.
        absent: label of images with none of the findings; ``None``: as recorded.

    Returns:
        A ``dataset.Data``.

    Raises:
        UsageError: there is no run, or an option contradicts its record.
    """
    from preread_training.fit.run_record import read_record

    record = read_record(run)
    recorded = {"folds": len(record["data"]["folds"]), "seed": record["seed"], "absent": record.get("absent")}
    for name, asked in (("folds", folds), ("seed", seed), ("absent", absent)):
        kept = recorded[name]
        if asked is not None and kept is not None and asked != kept:
            raise UsageError(f"{run} was fitted with --{name} {kept}, not {asked}: leave --{name} out")
    return read_data_set_with_progress(
        data, recorded["folds"], recorded["seed"], absent or recorded["absent"] or "NORMAL"
    )


def set_thread_count(threads: int | None) -> None:
    """Set TensorFlow's number of threads, before it is imported.

    Args:
        threads: the number; ``None`` leaves it to TensorFlow.
    """
    if threads is not None:
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)  # read by TensorFlow when it is imported


def check_recipe_name(name: str, recipes: Mapping[str, object]) -> str:
    """Check that a recipe of this name exists and return the name.

    Args:
        name: to check.
        recipes: the recipes by name.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in recipes:
        raise UsageError(f"there is no recipe {name!r}: choose one of {', '.join(recipes)}")
    return name


def check_writable(path: Path) -> None:
    """Check that a file can be written, before the work begins.

    Args:
        path: the file, made if it does not exist.

    Raises:
        UsageError: it cannot.
    """
    try:
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): name another file") from None


def import_tensorflow() -> None:
    """Import Keras and TensorFlow without their messages about GPUs.

    What they print is shown if the import fails.
    """
    if not _GPU.exists():
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with suppress_native_output():
        import keras  # noqa: F401
        import tensorflow as tf  # noqa: F401
