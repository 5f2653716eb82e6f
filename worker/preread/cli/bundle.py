"""``preread bundle``: list, verify, choose and withdraw model bundles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from preread.admin import bundle_comparison, bundle_recall, bundle_registry
from preread.admin.bundle_comparison import QUANTILES, Comparison
from preread.admin.bundle_recall import RecalledImage
from preread.admin.bundle_registry import KnownBundle
from preread.admin.bundle_selection import InstalledBundle
from preread.cli import output, self_check
from preread.cli.context import command_database, read_settings
from preread.cli.formatting import local_time, patient_label, result_text
from preread.cli.invoking_user import YES_OPTION, actor, confirmed
from preread.cli.messages import print_message
from preread.cli.selected_bundles import added_bundle_folder, bundle_selection, selection_if_database
from preread.core.errors import BundleError, SettingsError, UsageError
from preread.core.settings import Settings
from preread.core.text.wording import format_percent, format_predictive_values
from preread.core.types import JSONObject
from preread.ledger.commits import register_bundle
from preread.model import bundles
from preread.model.bundles import CARD_FILE, Bundle, Manifest
from preread.review.results import format_acquired

app = typer.Typer(help="List, add, activate and withdraw model bundles.", no_args_is_help=True)
# Their sensitivity is that of all images with the finding, and an accuracy over both is not informative.
_MEANINGLESS_FOR_CONFLICT_NORMALS = frozenset({"accuracy", "sensitivity"})
# Tables, which are more readable in the card; the manifest (`--json`) has them all.
_IN_THE_CARD = frozenset(
    {
        "answers",
        "band",
        "by_fold",
        "calibration",
        "conflict_with_finding",
        "confusion",
        "inside",
        "subgroups",
        "threshold_from_other_folds",
    }
)
_NAME = typer.Argument(help="a name, name/version or a folder; default: the setting PREREAD_BUNDLE, else the newest")

_Name = Annotated[str, typer.Argument(metavar="NAME/VERSION", help="as printed by `preread bundle list`")]
_CHANGES_SHOWN = 50


@app.command("list")
def list_bundles(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record per bundle")] = False,
) -> None:
    """List the installed bundles and their state.

    The state is in use, shadow, withdrawn or damaged.

    Exit code: 0 if all are whole; 4 if one is damaged, none is installed, or the one in use is not on this machine.
    """
    with selection_if_database(read_settings(context)) as selection:
        inventory = selection.inventory()
    if json:
        for bundle in inventory.bundles:
            output.print_json(_to_json(bundle))
    else:
        rows = ((b.label, _role(b), b.fault or "whole", b.intended_use) for b in inventory.bundles)
        output.print_table(("bundle", "role", "state", "intended use"), rows)
        if (last := inventory.activation) is not None:
            print_message(f"activated by {last.actor} at {last.at:%Y-%m-%d %H:%M} UTC")
    if inventory.missing is not None:
        print_message(str(inventory.missing))
    if any(bundle.fault for bundle in inventory.bundles):
        raise typer.Exit(BundleError.exit_code)


def _role(bundle: InstalledBundle) -> str:
    if bundle.withdrawn is not None:
        return f"WITHDRAWN: {bundle.withdrawn}"
    return "in use" if bundle.in_use else "shadow" if bundle.shadow else ""


def _to_json(bundle: InstalledBundle) -> JSONObject:
    return {
        "bundle": bundle.label or None,
        "path": None if bundle.path is None else str(bundle.path),
        "in_use": bundle.in_use,
        "shadow": bundle.shadow,
        "withdrawn": bundle.withdrawn,
        "whole": bundle.fault is None,
        "state": bundle.fault or "whole",
    }


@app.command("show")
def show(
    context: typer.Context,
    name: Annotated[str | None, _NAME] = None,
    json: Annotated[bool, typer.Option("--json", help="print the manifest as JSON")] = False,
    card: Annotated[bool, typer.Option("--card", help="print the model card (Markdown)")] = False,
) -> None:
    """Show a bundle's intended use, thresholds and metrics."""
    settings = read_settings(context)
    loaded = bundle_selection(settings).load_named(name or settings.bundle)

    if card:
        for line in (loaded.path / CARD_FILE).read_text(encoding="utf-8").splitlines():
            output.print_text(line)
    elif json:
        output.print_json(_read_manifest(loaded))
    else:
        output.print_pairs(_manifest_pairs(loaded.manifest, loaded.digest))


@app.command("verify")
def verify(context: typer.Context, name: Annotated[str | None, _NAME] = None) -> None:
    """Verify a bundle's files and its outputs on this machine.

    Compares every file with its hash in the manifest, and the outputs on this machine with the reference outputs.

    Exit code: 0 if everything matches; 4 if not.
    """
    settings = read_settings(context)

    path = bundles.find_bundle(name or settings.bundle, added_bundle_folder(settings))
    classifier, difference = self_check.load_checked(str(path))
    loaded = classifier.bundle
    output.print_text(
        f"{loaded.label} is whole: {len(loaded.manifest.files)} files match their hashes; the outputs differ "
        f"from the reference outputs by at most {difference:.2g} in logit (limit {loaded.manifest.golden_tolerance:g})"
    )


@app.command("add")
def add(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="folder of the bundle, with its manifest.json")],
) -> None:
    """Add a bundle.

    Its files, reference outputs and preprocessing are checked on this machine first.

    It is used only after it is activated.

    Exit code: 0, also if it is installed already; 2 if a different bundle with this name and version is; 4 if it cannot
    be used.
    """
    settings = read_settings(context)

    folder = added_bundle_folder(settings)
    if folder is None:
        raise SettingsError("with Postgres a folder for added bundles must be set: PREREAD_BUNDLE_DIR")
    added = bundles.add_bundle(path, folder, lambda part: self_check.load_checked(str(part.path)))
    print_message(f"{added.label} was added as {added.path}; activate it with `preread bundle activate {added.label}`")


@app.command("activate")
def activate(context: typer.Context, name: _Name) -> None:
    """Assess new images with this bundle from now on.

    Existing results stay, and their images are not assessed again.

    Workers switch between two images, within seconds.

    Exit code: 0; 2 if the setting PREREAD_BUNDLE is set; 4 if the bundle is missing, damaged or withdrawn.
    """
    settings = read_settings(context)

    _refuse_setting(settings)
    with command_database(context) as engine:
        chosen = bundle_selection(settings).load_named(name)
        self_check.load_checked(str(chosen.path))
        bundle_registry.activate_bundle(engine, actor(), chosen)
    print_message(f"{chosen.label} is in use; existing results keep the name of their bundle")


@app.command("rollback")
def rollback(context: typer.Context) -> None:
    """Activate the bundle that was in use before.

    Exit code: 0; 2 if none was ever activated or the setting PREREAD_BUNDLE is set; 4 if it is missing or damaged.
    """
    settings = read_settings(context)

    _refuse_setting(settings)
    with command_database(context) as engine:
        bundle_registry.activate_previous_bundle(engine, actor())
        label = bundle_selection(settings, engine).load().active.label
    print_message(f"{label} is in use again; existing results keep the name of their bundle")


@app.command("shadow")
def shadow(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME/VERSION", help="the second bundle")] = None,
    off: Annotated[bool, typer.Option("--off", help="stop it; its results stay for `compare`")] = False,
) -> None:
    """Let a second bundle assess the same images, unseen.

    Its results are stored but shown nowhere.

    `preread bundle compare` shows how they differ. Each image is assessed a second time when no image waits: by
    `preread run` while it watches (not with --once), and by `preread fleet work` at the end of each shard.

    Exit code: 0; 2 if not exactly one of bundle and --off is given; 4 if the bundle is missing, damaged or withdrawn.
    """
    settings = read_settings(context)

    if (name is None) != off:
        raise UsageError("name the shadow bundle, or give --off")
    with command_database(context) as engine:
        chosen = None
        if name is not None:
            chosen = bundle_selection(settings).load_named(name)
            if chosen.digest == bundle_selection(settings, engine).load().active.digest:
                raise UsageError(f"{chosen.label} is in use already: name another bundle")
            self_check.load_checked(str(chosen.path))
        bundle_registry.select_shadow(engine, actor(), chosen)
    print_message("no shadow bundle is used" if chosen is None else f"{chosen.label} is the shadow bundle")


@app.command("compare")
def compare(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="A", help="NAME/VERSION, such as the bundle in use")],
    second: Annotated[str, typer.Argument(metavar="B", help="NAME/VERSION, such as the shadow bundle")],
    json: Annotated[
        bool, typer.Option("--json", help="print JSON Lines: the counts, then each image with different results")
    ] = False,
) -> None:
    """Compare the results of two bundles.

    Shows agreement, shift of the probability, and the images with different results.

    Exit code: 0; 1 if there is no image with results of both; 2 if a bundle is unknown.
    """
    with command_database(context) as engine:
        ids = [[known.bundle_id for known in bundle_registry.find_bundles(engine, name)] for name in (first, second)]
        found = bundle_comparison.compare_bundles(engine, *ids)
    if not found.contents:
        print_message(f"no image has results of both {first} and {second}: use `preread bundle shadow`")
        raise typer.Exit(1)
    if json:
        output.print_json({"first": first, "second": second, **bundle_comparison.comparison_to_json(found)})
        for change in found.changes:
            output.print_json(bundle_comparison.changed_result_to_json(change))
        return
    _print_comparison(found, first, second)


@app.command("withdraw")
def withdraw(
    context: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="NAME/VERSION, or VERSION of only one name")],
    reason: Annotated[str, typer.Option(help="reason, which is shown with every result of the bundle")],
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record per image")] = False,
    yes: Annotated[bool, YES_OPTION] = False,
) -> None:
    """Withdraw a bundle and list who saw its results.

    Its results are struck through wherever they are shown, and no worker uses it any more.

    For each image it lists who opened it, and who saw the bundle's result in a list (work list, search, API, shell).
    This cannot be undone. If repeated, it prints the list again.

    Exit code: 0; 1 if it was not confirmed; 2 if the bundle is unknown or no reason is given.
    """
    settings = read_settings(context)

    with command_database(context) as engine:
        bundles = _known(engine, settings, version)
        if not reason.strip():
            raise UsageError("--reason is empty: it is shown with every result")
        not_withdrawn = [known for known in bundles if known.withdrawn is None]
        label = bundles[0].label
        if not_withdrawn and not confirmed(f"withdraw {label} permanently?", yes=yes):
            raise typer.Exit(1)
        bundle_registry.withdraw_bundles(engine, actor(), bundles, reason)
        ids = [known.bundle_id for known in bundles]
        rows = []
        for image in bundle_recall.recalled_images(engine, ids):
            if json:
                output.print_json(bundle_recall.recalled_image_to_json(image))
            else:
                rows.append(_recall_row(image))
        if rows:
            output.print_table(
                ("id", "taken", "patient / accession", "present result", "opened by", "seen in a list by"), rows
            )
        unnamed = bundle_recall.unattributed_access(engine, ids)
    print_message(f"{label} is withdrawn; its results are struck through, and no worker uses it")
    if unnamed.exports:
        print_message(
            f"reviews were exported {unnamed.exports} times since its first result; exports do not record their images"
        )
    since = unnamed.lists_since
    print_message(
        "no list view is recorded" if since is None else f"list views are recorded since {since:%Y-%m-%d %H:%M} UTC"
    )


def _read_manifest(loaded: Bundle) -> JSONObject:
    manifest: JSONObject = json.loads(loaded.manifest_json)
    return manifest


def _manifest_pairs(manifest: Manifest, digest: str) -> list[tuple[str, str]]:
    use = manifest.intended_use
    pairs = [
        ("bundle", f"{manifest.name}/{manifest.version}"),
        ("digest", digest),
        ("licence", manifest.licence),
        ("intended use", use.statement),
        ("modalities", ", ".join(use.modalities)),
        ("view positions", ", ".join(use.view_positions)),
        ("age", f"from {use.age_min_years:g} to below {use.age_max_years:g} years"),
    ]
    for spec in manifest.findings:
        point = spec.operating_point
        what_it_is = (
            "threshold of sensitivity, specificity and accuracy below; the result is 'flagged' from "
            f"{point.uncertain_high:.3f}, 'uncertain' in between, 'not flagged' below {point.uncertain_low:.3f}"
        )
        pairs += [
            ("finding", f"{spec.finding} ({spec.code})"),
            ("  probability", f"calibrated at prevalence {format_percent(spec.calibration.prevalence)}"),
            ("  flagged", f"from {point.uncertain_high:.3f}"),
            ("  uncertain", f"from {point.uncertain_low:.3f} to below {point.uncertain_high:.3f}"),
            ("  operating point", f"{point.threshold:.3f}: {what_it_is}"),
            ("  chosen by", point.reason),
        ]
        if spec.predictive_values:
            pairs.append(("  PPV and NPV", format_predictive_values(spec.predictive_values)))
    more = "subgroups, calibration, robustness and others: use `--card` or `--json`"
    names = [spec.finding for spec in manifest.findings if spec.finding in manifest.metrics]
    if not names:  # an older bundle has the figures of its one finding at the top level
        return [*pairs, *_metrics(manifest.metrics), ("more figures", more)]
    for name in names:
        pairs += _metrics(manifest.metrics[name], f"{name}: " if len(names) > 1 else "")
    return [*pairs, ("more figures", more)]


def _metrics(metrics: JSONObject, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the headline figures of a manifest's metrics as names and values."""
    for name, value in metrics.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if name in _IN_THE_CARD:
            continue
        if name == "conflict_normals" and isinstance(value, dict):
            yield label, "images without the finding that look like images with it at their border"
            shown = {key: figure for key, figure in value.items() if key not in _MEANINGLESS_FOR_CONFLICT_NORMALS}
            yield from _metrics(shown, f"{label}: ")
        elif isinstance(value, float):
            yield label, f"{value:.4g}"
        elif not isinstance(value, dict):
            yield label, "undefined" if value is None else str(value)
        elif {"value", "low", "high"} <= value.keys():
            yield label, f"{_number(value['value'])} ({_number(value['low'])} to {_number(value['high'])})"
        else:
            yield from _metrics(value, f"{label}: ")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def _print_comparison(found: Comparison, first: str, second: str) -> None:
    rows = []
    for name, table in found.findings.items():
        shifts = table.quantiles()
        rows += [(name, f"same result: {format_percent(table.agreement)}", str(table.table.total()))]
        rows += [(name, f"{a} -> {b}", str(count)) for (a, b), count in sorted(table.table.items())]
        rows += [
            (name, f"shift of the probability at quantile {q:g}", f"{shift:+.4f}")
            for q, shift in zip(QUANTILES, shifts, strict=False)
        ]
    output.print_table(("finding", f"{first} -> {second}", ""), rows, medical=False)
    if found.changes:
        changes = [
            (
                " ".join(map(str, change.file_ids)),
                change.finding,
                f"{change.before} -> {change.after}",
                "" if change.probabilities is None else "{:.3f} -> {:.3f}".format(*change.probabilities),
            )
            for change in found.changes[:_CHANGES_SHOWN]
        ]
        output.print_table(("images", "finding", "results", "probability"), changes)
    if len(found.changes) > _CHANGES_SHOWN:
        print_message(f"{len(found.changes)} images have different results; --json prints all")


def _refuse_setting(settings: Settings) -> None:
    if settings.bundle is not None:
        raise SettingsError("the setting PREREAD_BUNDLE selects the bundle: unset it, here and for the workers")


def _known(engine: Engine, settings: Settings, version: str) -> list[KnownBundle]:
    """Return the bundles with this version.

    An installed bundle that was never used is registered first.

    Raises:
        UsageError: there is none, or bundles of several names have this version.
    """
    try:
        return bundle_registry.find_bundles(engine, version)
    except UsageError:
        try:
            found = bundle_selection(settings).load_named(version)
        except BundleError:
            found = None
        if found is None or found.label != version:
            raise
    registration = found.registration
    register_bundle(engine, **registration)
    return bundle_registry.find_bundles(engine, version)


def _recall_row(image: RecalledImage) -> tuple[str, ...]:
    result = image.result
    opened = "; ".join(f"{view.who} {local_time(view.at)[:16]} ({view.action})" for view in image.seen)
    openers = {view.who for view in image.seen}
    # who opened the image is not listed again
    listed = "; ".join(f"{view.who} {local_time(view.at)[:16]}" for view in image.listed if view.who not in openers)
    now = f"(replaced) {result_text(result)}" if image.replaced else result_text(result)
    return (
        str(result.result_id),
        format_acquired(result.acquired_local),
        patient_label(result.identity),
        now,
        opened or "nobody",
        listed or "nobody",
    )
