"""Watched folders of a command and their population."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from preread.core.errors import SettingsError, UsageError
from preread.core.settings import Settings, refuse_overlapping_roots
from preread.core.types import Population, RootSpec
from preread.imaging.identity import compile_path_pattern

PopulationName = Literal["undeclared", "children-1-5y", "research"]
PopulationOption = Annotated[
    PopulationName,
    typer.Option(
        help="population of the images in these folders. children-1-5y: an unknown age is assumed to be 1 to 5 years. "
        "research: images outside the intended age or view are assessed too, with that caveat"
    ),
]
RootOption = Annotated[
    list[Path] | None,
    typer.Option("--root", help="folder to watch; may be repeated; replaces the folders of the settings"),
]


def chosen(settings: Settings, named: Sequence[Path] | None, population: PopulationName) -> tuple[RootSpec, ...]:
    """Return the watched folders of the command line or the settings.

    Args:
        settings: name folders, their populations and path patterns.
        named: folders of the command line.
        population: population of the folders of the command line.

    Raises:
        SettingsError: there is no folder, one contains another, or a path pattern is invalid.
        UsageError: a population is given without a folder.
    """
    if named:
        roots = tuple(RootSpec(path, Population(population)) for path in named)
        refuse_overlapping_roots(roots)
        return roots
    if population != "undeclared":
        raise UsageError("--population applies to the folders of --root: give both")
    if not settings.roots:
        raise SettingsError("no folder to watch: name one with --root or in PREREAD_ROOTS")
    for spec in settings.roots:
        _refuse_bad_pattern(spec)
    return settings.roots


def _refuse_bad_pattern(spec: RootSpec) -> None:
    """Raise ``SettingsError`` if the path pattern is invalid."""
    if spec.path_pattern is not None:
        try:
            compile_path_pattern(spec.path_pattern)
        except SettingsError as error:
            raise SettingsError(f"watched folder {spec.path}: {error}") from None
