"""A command group that imports a command when it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """Description of one command of a group.

    Attributes:
        name: name on the command line.
        target: import path of a function or a ``Typer`` app, as ``package.module:attribute``.
        help: one line for the list of commands; equals the first sentence of the command's own help.
    """

    name: str
    target: str
    help: str


class LazyGroup(TyperGroup):
    """Command group that lists its commands from a table.

    Subclasses set ``entries``. The order of the table is the order in the help text.
    """

    entries: Sequence[CommandEntry] = ()

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = cast("Any", _ImportedCommands(self.entries))
        self._listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, in the order of the table."""
        return [entry.name for entry in self.entries]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of this name, or ``None`` if there is none.

        While the commands are being listed, the returned command has a name and a help line only.
        """
        if self._listing:
            return next(TyperCommand(entry.name, help=entry.help) for entry in self.entries if entry.name == cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands into the help text without importing them."""
        with self._list_only():
            super().format_commands(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the completions of a word without importing the commands."""
        with self._list_only():
            return super().shell_complete(ctx, incomplete)

    @contextmanager
    def _list_only(self) -> Iterator[None]:
        self._listing = True
        try:
            yield
        finally:
            self._listing = False


class _ImportedCommands(Mapping[str, Any]):
    """Commands by name; a lookup imports the module of the command."""

    def __init__(self, entries: Sequence[CommandEntry]) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _load(self._entries[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _load(entry: CommandEntry) -> Any:
    module, _, attribute = entry.target.partition(":")
    target = getattr(import_module(module), attribute)
    parent = typer.Typer(add_completion=False, rich_markup_mode=None)
    if isinstance(target, typer.Typer):
        parent.add_typer(target, name=entry.name)
    else:
        parent.command(entry.name)(target)
    return typer.main.get_group(parent).commands[entry.name]
