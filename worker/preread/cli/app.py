"""The commands and the options before them. Nothing heavy is imported until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from preread.cli import (
    alarm,
    assess,
    audit,
    bundle,
    bundling,
    check,
    database,
    drift,
    fleet,
    reconcile,
    requeue,
    results,
    review,
    run,
    setup,
    status,
    uninstall,
    users,
    web,
)
from preread.cli import purge as forgetting
from preread.cli import quarantine as aside
from preread.cli.context import Door
from preread.cli.output import end_with_version, print_version

LevelName = Literal["debug", "info", "warning", "error"]

app = typer.Typer(
    name="preread",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    # plain help: the same at a terminal and in a pipe, and no markup to trip over
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def door(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="file of settings; default: PREREAD_CONFIG, else preread.toml if it is here")
    ] = None,
    log_level: Annotated[LevelName | None, typer.Option(help="debug names full paths, the others do not")] = None,
    log_json: Annotated[
        bool | None, typer.Option("--log-json/--log-text", help="log as JSON Lines; default: unless at a terminal")
    ] = None,
    version: Annotated[  # acts when it is read
        bool, typer.Option("--version", callback=end_with_version, is_eager=True, help="print the version and end")
    ] = False,
) -> None:
    """A first read of every chest X-ray, where it is taken.

    Preread watches folders, assesses each new radiograph with a trained network and keeps the results in a database.
    It is no medical device.

    Data is printed on standard output, everything else on standard error. Exit codes: 0 done; 1 done, but something
    was wrong (see the command); 2 command line, settings or schema; 3 machine, share or database; 4 bundle; 70 a fault
    in Preread; 130 interrupted.
    """
    context.obj = Door(config, log_level, log_json)


app.command("version")(print_version)


app.command("run")(run.run)
app.command("backfill")(fleet.backfill)
app.add_typer(fleet.app, name="fleet")
app.command("assess")(assess.assess)
app.add_typer(results.app, name="results")
app.command("explain")(results.explain)
app.command("check")(check.check)
app.command("status")(status.status)
app.add_typer(alarm.app, name="alarm")
app.command("drift")(drift.drift)
app.command("reconcile")(reconcile.reconcile)
app.command("requeue")(requeue.requeue)
app.add_typer(aside.quarantine, name="quarantine")
app.add_typer(aside.missed, name="missed")
app.command("web")(web.web)
app.add_typer(users.app, name="users")
app.add_typer(review.app, name="review")
app.command("stats")(review.stats)
app.add_typer(audit.app, name="audit")
for change in (
    bundling.add,
    bundling.activate,
    bundling.rollback,
    bundling.shadow,
    bundling.compare,
    bundling.withdraw,
):
    bundle.app.command(change.__name__)(change)
app.add_typer(bundle.app, name="bundle")
app.add_typer(database.app, name="db")
app.command("purge")(forgetting.purge)
app.command("export-patient")(forgetting.export_patient)
app.command("setup")(setup.setup)
app.command("uninstall")(uninstall.uninstall)
