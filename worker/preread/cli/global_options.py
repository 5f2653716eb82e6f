"""The options that stand before the command's name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import typer


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """Options before the command's name.

    Attributes:
        config: path of the settings file, or ``None`` for the default places.
        log_level: overrides the setting unless ``None``.
        log_json: overrides the setting unless ``None``.
    """

    config: Path | None = None
    log_level: str | None = None
    log_json: bool | None = None

    def with_log_json(self, log_json: bool | None) -> GlobalOptions:
        """Return these options with ``log_json`` replaced unless it is ``None``."""
        return self if log_json is None else replace(self, log_json=log_json)

    def to_arguments(self) -> list[str]:
        """Return these options as arguments for another process of this program."""
        arguments = [] if self.config is None else ["--config", str(self.config)]
        arguments += [] if self.log_level is None else ["--log-level", self.log_level]
        return arguments + ([] if self.log_json is None else ["--log-json" if self.log_json else "--log-text"])


def global_options(context: typer.Context) -> GlobalOptions:
    """Return the options before the command that runs in this context."""
    return context.find_object(GlobalOptions) or GlobalOptions()
