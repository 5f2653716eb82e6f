"""The folders that a command is about: those on its line, else those of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from preread.core.errors import SettingsError, UsageError
from preread.core.settings import Settings, refuse_overlapping
from preread.core.types import Population, RootSpec
from preread.imaging.identity import compile_path_pattern

PopulationName = Literal["undeclared", "children-1-5y", "research"]
PopulationOption = Annotated[
    PopulationName,
    typer.Option(
        help="what is declared of films whose tags do not say it. children-1-5y: an unknown age is taken as 1 to 5 "
        "years. research: films outside the intended age or view are assessed too, with that caveat"
    ),
]
RootOption = Annotated[
    list[Path] | None,
    typer.Option("--root", help="folder to watch, may be repeated; replaces the roots of the settings"),
]


def chosen(settings: Settings, named: Sequence[Path] | None, population: PopulationName) -> tuple[RootSpec, ...]:
    """Return the roots of the command line, else those of the settings.

    Raises:
        SettingsError: there is none, one lies in another, or a path pattern is none.
        UsageError: a population is declared, but no root on the command line to which it could apply.
    """
    if named:
        roots = tuple(RootSpec(path, Population(population)) for path in named)
        refuse_overlapping(roots)
        return roots
    if population != "undeclared":
        raise UsageError("--population declares the folders that --root names: give both")
    if not settings.roots:
        raise SettingsError("there is no folder to watch: name one with --root or in PREREAD_ROOTS")
    for spec in settings.roots:
        _refuse_bad_pattern(spec)
    return settings.roots


def _refuse_bad_pattern(spec: RootSpec) -> None:
    """Raise at the door what would else be found out at the first film."""
    if spec.path_pattern is not None:
        try:
            compile_path_pattern(spec.path_pattern)
        except SettingsError as error:
            raise SettingsError(f"the root {spec.path}: {error}") from None
