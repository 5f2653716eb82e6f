"""The program's commands and the options that stand before a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from preread.cli.command_table import CommandEntry, LazyGroup
from preread.cli.global_options import GlobalOptions
from preread.cli.version import exit_with_version

LevelName = Literal["debug", "info", "warning", "error"]


class CommandTable(LazyGroup):
    """Commands of ``preread``; each help line equals that of the command."""

    entries = (
        CommandEntry("run", "preread.cli.run:run", "Watch folders, assess new images and store the results."),
        CommandEntry("assess", "preread.cli.assess:assess", "Assess files immediately, without a database."),
        CommandEntry("results", "preread.cli.results:app", "List stored results, or show one in full."),
        CommandEntry("explain", "preread.cli.results:explain", "Explain why a file has a result, or has none."),
        CommandEntry("status", "preread.cli.status:status", "Report the health of the worker."),
        CommandEntry("check", "preread.cli.check:check", "Check whether the worker can start on this machine."),
        CommandEntry("reconcile", "preread.cli.reconcile:reconcile", "Compare the watched folders with the database."),
        CommandEntry("requeue", "preread.cli.requeue:requeue", "Queue files to be assessed again."),
        CommandEntry("quarantine", "preread.cli.quarantine:quarantine", "List, show and release quarantined files."),
        CommandEntry("missed", "preread.cli.quarantine:missed", "List files that were deleted before assessment."),
        CommandEntry("web", "preread.cli.web:web", "Serve the doctors' web page and the API."),
        CommandEntry("users", "preread.cli.users:app", "Manage user accounts."),
        CommandEntry("review", "preread.cli.review:app", "Show the work list; sign and export reviews."),
        CommandEntry("stats", "preread.cli.review:stats", "Show how far reviewers and bundles agree."),
        CommandEntry("audit", "preread.cli.audit:app", "Verify the audit trail."),
        CommandEntry("bundle", "preread.cli.bundle:app", "List, add, activate and withdraw model bundles."),
        CommandEntry("drift", "preread.cli.drift:drift", "Compare recent images with earlier ones."),
        CommandEntry("alarm", "preread.cli.alarm:app", "Send alerts by mail or webhook."),
        CommandEntry("db", "preread.cli.database:app", "Create, upgrade, back up, restore or move the database."),
        CommandEntry("purge", "preread.cli.purge:purge", "Delete what is stored about images."),
        CommandEntry(
            "export-patient", "preread.cli.purge:export_patient", "Print everything stored about one patient as JSON."
        ),
        CommandEntry("backfill", "preread.cli.fleet:backfill", "Queue an archive for processing by a fleet."),
        CommandEntry("fleet", "preread.cli.fleet:app", "Process archives with several processes and machines."),
        CommandEntry("setup", "preread.cli.setup:setup", "Install Preread's services on this host."),
        CommandEntry("uninstall", "preread.cli.uninstall:uninstall", "Remove Preread's services from this host."),
        CommandEntry("version", "preread.cli.version:print_version", "Print the version of Preread."),
    )


app = typer.Typer(
    name="preread",
    cls=CommandTable,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    # plain help: the same at a terminal and in a pipe, and no markup to trip over
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def set_global_options(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="settings file; default: PREREAD_CONFIG, else preread.toml if it is here")
    ] = None,
    log_level: Annotated[LevelName | None, typer.Option(help="debug logs full paths, the other levels do not")] = None,
    log_json: Annotated[
        bool | None, typer.Option("--log-json/--log-text", help="log as JSON Lines; default: unless at a terminal")
    ] = None,
    version: Annotated[  # acts when it is read
        bool, typer.Option("--version", callback=exit_with_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Analyse chest radiographs where they are taken.

    Preread watches folders, assesses each new image with a trained neural network and stores the results in a database.
    It is not a medical device.

    Data is printed on standard output, messages on standard error. Exit codes: 0 success; 1 finished with warnings (see
    the command); 2 invalid command line, setting or schema; 3 environment: machine, folder or database not available; 4
    bundle missing or unusable; 70 internal error; 130 interrupted.
    """
    context.obj = GlobalOptions(config, log_level, log_json)
