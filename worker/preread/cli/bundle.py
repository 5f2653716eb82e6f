"""``preread bundle``: list, verify, choose, compare and withdraw model bundles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Engine

from preread.admin import bundle_comparison, bundle_recall, bundle_registry
from preread.admin.bundle_comparison import QUANTILES, Comparison
from preread.admin.bundle_recall import RecalledImage
from preread.admin.bundle_registry import KnownBundle, Selection
from preread.cli import context as door
from preread.cli import in_use, output, self_check
from preread.cli.invoking_user import YES_OPTION, actor, confirmed
from preread.cli.views import local, patient, says
from preread.core.errors import BundleError, BundleMissing, PrereadError, SettingsError, UsageError
from preread.core.settings import Settings
from preread.core.text.wording import format_percent, format_predictive_values
from preread.core.types import JSONObject
from preread.ledger.commits import register_bundle
from preread.model import bundles
from preread.model.bundles import CARD_FILE, Bundle, Manifest
from preread.review.results import format_acquired

app = typer.Typer(help="List, add, activate and withdraw model bundles.", no_args_is_help=True)
# Their sensitivity is that of all films with the finding, and an accuracy over both says neither.
_SAYS_NOTHING_OF_CONFLICT_NORMALS = frozenset({"accuracy", "sensitivity"})
# Tables, which read better there; the manifest (`--json`) has them all.
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

_Name = Annotated[str, typer.Argument(metavar="NAME/VERSION", help="as `preread bundle list` prints it")]
_CHANGES_SHOWN = 50


@app.command("list")
def list_bundles(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record a bundle")] = False,
) -> None:
    """List the installed bundles and their state.

    The state is in use, shadow, withdrawn or damaged.

    Exit code: 0 when all are whole; 4 when one is damaged, none is installed, or the one in use is not here.
    """
    settings = door.read_settings(context)

    folder = in_use.added_folder(settings)
    now = _standing(settings)
    chosen = None if now is None or now.active is None or settings.bundle is not None else now.active.bundle
    used = _tried(partial(bundles.resolve, settings.bundle if chosen is None else chosen.label, folder))
    paths = bundles.all_installed(folder)
    if isinstance(used, Path) and used not in paths:
        paths.append(used)
    if not paths:
        raise BundleMissing("no bundle is installed")
    damaged = False
    rows = []
    for path in paths:
        found = _tried(partial(bundles.load, path))
        damaged = damaged or isinstance(found, BundleError)
        state = str(found) if isinstance(found, BundleError) else "whole"
        intended = "" if isinstance(found, BundleError) else found.manifest.intended_use.statement
        label = f"{path.parent.name}/{path.name}" if isinstance(found, BundleError) else found.label
        known = None if now is None or isinstance(found, BundleError) else now.bundles.get(found.digest)
        withdrawn = None if known is None else known.withdrawn
        tried = now is not None and now.shadow is not None and known is not None and now.shadow.bundle == known
        role = "in use" if path == used else "shadow" if tried else ""
        if withdrawn is not None:
            role = f"WITHDRAWN: {withdrawn}"
        if json:
            output.print_json(
                {
                    "bundle": label,
                    "path": str(path),
                    "in_use": path == used,
                    "shadow": tried,
                    "withdrawn": withdrawn,
                    "whole": state == "whole",
                    "state": state,
                }
            )
        rows.append((label, role, state, intended))
    lacking = isinstance(used, BundleMissing)
    if lacking:
        label = settings.bundle if chosen is None else chosen.label
        state = "not on this machine"
        rows.append((label or "", "in use", state, ""))
        if json:
            record = {"bundle": label, "path": None, "in_use": True, "shadow": False, "withdrawn": None}
            output.print_json({**record, "whole": False, "state": state})
    if not json:
        output.print_table(("bundle", "role", "state", "intended use"), rows)
        if now is not None and now.active is not None:
            output.say(f"chosen by {now.active.actor} at {now.active.at:%Y-%m-%d %H:%M} UTC")
    if lacking:
        output.say(str(used))
    if damaged or lacking:
        raise typer.Exit(BundleError.exit_code)


@app.command("show")
def show(
    context: typer.Context,
    name: Annotated[str | None, _NAME] = None,
    json: Annotated[bool, typer.Option("--json", help="print the manifest as JSON")] = False,
    card: Annotated[bool, typer.Option("--card", help="print the model card (Markdown)")] = False,
) -> None:
    """Show a bundle's intended use, thresholds and metrics."""
    loaded = _load(context, name)

    if card:
        for line in (loaded.path / CARD_FILE).read_text(encoding="utf-8").splitlines():
            output.print_text(line)
    elif json:
        output.print_json(_read_manifest(loaded))
    else:
        output.print_pairs(_pairs(loaded.manifest, loaded.digest))


@app.command("verify")
def verify(context: typer.Context, name: Annotated[str | None, _NAME] = None) -> None:
    """Verify a bundle's files and its outputs on this machine.

    Compares every file with its hash in the manifest, and the outputs on the golden vectors with the recorded ones.

    Exit code: 0 when all agrees; 4 when not.
    """
    settings = door.read_settings(context)

    path = bundles.resolve(name or settings.bundle, in_use.added_folder(settings))
    classifier, difference = self_check.load_checked(str(path))
    loaded = classifier.bundle
    output.print_text(
        f"{loaded.label} is whole: {len(loaded.manifest.files)} files have their hashes; golden vectors differ by at "
        f"most {difference:.2g} in logit, {loaded.manifest.golden_tolerance:g} is allowed"
    )


@app.command("add")
def add(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="folder of the bundle, with its manifest.json")],
) -> None:
    """Add a bundle.

    Its files, its outputs on the golden vectors and its preprocessing are checked on this machine first.

    It is in use only once it is activated.

    Exit code: 0, also when it is there already; 2 when another of this name is; 4 when it may not be used.
    """
    settings = door.read_settings(context)

    folder = in_use.added_folder(settings)
    if folder is None:
        raise SettingsError("with Postgres a folder for added bundles must be named: PREREAD_BUNDLE_DIR")
    added = bundles.add(path, folder, lambda part: self_check.load_checked(str(part.path)))
    output.say(f"{added.label} lies in {added.path}; `preread bundle activate {added.label}` puts it to use")


@app.command("activate")
def activate(context: typer.Context, name: _Name) -> None:
    """Assess new images with this bundle from now on.

    Existing results stay, and their images are not assessed again.

    Workers change over between two films, within seconds.

    Exit code: 0; 2 when the setting PREREAD_BUNDLE decides; 4 when the bundle is missing, damaged or withdrawn.
    """
    settings = door.read_settings(context)

    _refuse_setting(settings)
    with door.database(context) as engine:
        chosen = _load_named(settings, name)
        self_check.load_checked(str(chosen.path))
        bundle_registry.activate(engine, actor(), chosen)
    output.say(f"{chosen.label} is in use; results that are there keep the bundle that they name")


@app.command("rollback")
def rollback(context: typer.Context) -> None:
    """Activate the bundle that was in use before.

    Exit code: 0; 2 when none was ever activated or the setting PREREAD_BUNDLE decides; 4 when it is missing or damaged.
    """
    settings = door.read_settings(context)

    _refuse_setting(settings)
    with door.database(context) as engine:
        bundle_registry.rollback(engine, actor())
        label = in_use.load(settings, engine).bundle.label
    output.say(f"{label} is in use again; results that are there keep the bundle that they name")


@app.command("shadow")
def shadow(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME/VERSION", help="the bundle to try")] = None,
    off: Annotated[bool, typer.Option("--off", help="end it; what it said stays for `compare`")] = False,
) -> None:
    """Let a second bundle assess the same images, unseen.

    Its results are stored but shown nowhere.

    `preread bundle compare` says how it differs. Each film is read a second time when no film waits. That is done by
    `preread run` while it watches (not with --once), and by `preread fleet work` at the end of each shard.

    Exit code: 0; 2 unless either a bundle or --off is named; 4 when the bundle is missing, damaged or withdrawn.
    """
    settings = door.read_settings(context)

    if (name is None) != off:
        raise UsageError("name the bundle that is to work in the shadow, or say --off")
    with door.database(context) as engine:
        chosen = None
        if name is not None:
            chosen = _load_named(settings, name)
            if chosen.digest == in_use.load(settings, engine).bundle.digest:
                raise UsageError(f"{chosen.label} is in use already")
            self_check.load_checked(str(chosen.path))
        bundle_registry.select_shadow(engine, actor(), chosen)
    output.say("no bundle works in the shadow" if chosen is None else f"{chosen.label} works in the shadow")


@app.command("compare")
def compare(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="A", help="NAME/VERSION, such as the bundle in use")],
    second: Annotated[str, typer.Argument(metavar="B", help="NAME/VERSION, such as the one in the shadow")],
    json: Annotated[
        bool, typer.Option("--json", help="print JSON Lines: the counts, then each film that changes sides")
    ] = False,
) -> None:
    """Compare the results of two bundles.

    Shows agreement, shift of the probability, and the images with different results.

    Exit code: 0; 1 when there is no film of which both spoke; 2 when a bundle is unknown.
    """
    with door.database(context) as engine:
        ids = [[one.bundle_id for one in bundle_registry.find_bundles(engine, name)] for name in (first, second)]
        found = bundle_comparison.compare(engine, *ids)
    if not found.contents:
        output.say(f"there is no film of which both {first} and {second} spoke: `preread bundle shadow` makes some")
        raise typer.Exit(1)
    if json:
        output.print_json({"first": first, "second": second, **bundle_comparison.to_json(found)})
        for change in found.changes:
            output.print_json(bundle_comparison.change_to_json(change))
        return
    _print_comparison(found, first, second)


@app.command("withdraw")
def withdraw(
    context: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="NAME/VERSION, or a version that is one name's")],
    reason: Annotated[str, typer.Option(help="why; it stands beside every result of it")],
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record a film")] = False,
    yes: Annotated[bool, YES_OPTION] = False,
) -> None:
    """Withdraw a bundle and list who saw its results.

    Its results are struck through wherever they are shown, and no worker uses it any more.

    Of each film it says who opened it, and whom a list showed the bundle's result (worklist, search, API, shell). This
    cannot be taken back. Said again, it prints the list again.

    Exit code: 0; 1 when it was not confirmed; 2 when the bundle is unknown or no reason is given.
    """
    settings = door.read_settings(context)

    with door.database(context) as engine:
        bundles = _known(engine, settings, version)
        if not reason.strip():
            raise UsageError("say why: the reason stands beside every result")
        fresh = [one for one in bundles if one.withdrawn is None]
        label = bundles[0].label
        if fresh and not confirmed(f"withdraw {label} for good?", yes=yes):
            raise typer.Exit(1)
        bundle_registry.withdraw(engine, actor(), bundles, reason)
        ids = [one.bundle_id for one in bundles]
        rows = []
        for film in bundle_recall.recalled_images(engine, ids):
            if json:
                output.print_json(bundle_recall.to_json(film))
            else:
                rows.append(_recalled(film))
        if rows:
            output.print_table(
                ("id", "taken", "patient / accession", "what it says now", "opened by", "seen in a list by"), rows
            )
        unnamed = bundle_recall.unattributed_access(engine, ids)
    output.say(f"{label} is withdrawn; its results are struck through, and no worker assesses with it")
    if unnamed.exports:
        output.say(f"readings were exported {unnamed.exports} times since its first result; those name no film here")
    since = unnamed.lists_since
    output.say("no list is on record" if since is None else f"lists are on record since {since:%Y-%m-%d %H:%M} UTC")


def _load(context: typer.Context, name: str | None) -> Bundle:
    settings = door.read_settings(context)

    return bundles.load(bundles.resolve(name or settings.bundle, in_use.added_folder(settings)))


def _standing(settings: Settings) -> Selection | None:
    """Return what the database says of bundles; ``None`` where there is none to ask."""
    try:
        engine = door.open_database(settings)
    except PrereadError:
        return None
    try:
        return bundle_registry.current_selection(engine)
    except PrereadError:
        return None
    finally:
        engine.dispose()


def _tried(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except BundleError as error:
        return error


def _read_manifest(loaded: Bundle) -> JSONObject:
    manifest: JSONObject = json.loads(loaded.manifest_json)
    return manifest


def _pairs(manifest: Manifest, digest: str) -> list[tuple[str, str]]:
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
            "yes-or-no figures (sensitivity, specificity, accuracy) are given at it; the answer is 'flagged' from "
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
    more = "subgroups, calibration, robustness and the rest: `--card` for people, `--json` for programs"
    names = [spec.finding for spec in manifest.findings if spec.finding in manifest.metrics]
    if not names:  # an older bundle: its one finding's figures stand at the top
        return [*pairs, *_metrics(manifest.metrics), ("more figures", more)]
    for name in names:
        pairs += _metrics(manifest.metrics[name], f"{name}: " if len(names) > 1 else "")
    return [*pairs, ("more figures", more)]


def _metrics(metrics: JSONObject, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Headlines only."""
    for name, value in metrics.items():
        said = f"{prefix}{name.replace('_', ' ')}"
        if name in _IN_THE_CARD:
            continue
        if name == "conflict_normals" and isinstance(value, dict):
            yield said, "films without the finding framed like films with it"
            telling = {key: figure for key, figure in value.items() if key not in _SAYS_NOTHING_OF_CONFLICT_NORMALS}
            yield from _metrics(telling, f"{said}: ")
        elif isinstance(value, float):
            yield said, f"{value:.4g}"
        elif not isinstance(value, dict):
            yield said, "undefined" if value is None else str(value)
        elif {"value", "low", "high"} <= value.keys():
            yield said, f"{_number(value['value'])} ({_number(value['low'])} to {_number(value['high'])})"
        else:
            yield from _metrics(value, f"{said}: ")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def _print_comparison(found: Comparison, first: str, second: str) -> None:
    rows = []
    for name, of in found.findings.items():
        shifts = of.quantiles()
        rows += [(name, f"same answer: {format_percent(of.agreement)}", str(of.table.total()))]
        rows += [(name, f"{a} -> {b}", str(count)) for (a, b), count in sorted(of.table.items())]
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
        output.print_table(("films", "finding", "changes sides", "probability"), changes)
    if len(found.changes) > _CHANGES_SHOWN:
        output.say(f"{len(found.changes)} change sides; --json prints them all")


def _refuse_setting(settings: Settings) -> None:
    if settings.bundle is not None:
        raise SettingsError("the setting PREREAD_BUNDLE names the bundle in use: unset it, here and for the workers")


def _load_named(settings: Settings, name: str) -> Bundle:
    return bundles.load(bundles.resolve(name, in_use.added_folder(settings)))


def _known(engine: Engine, settings: Settings, version: str) -> list[KnownBundle]:
    """Return the bundles that are meant; one that is installed and was never used can be withdrawn too."""
    try:
        return bundle_registry.find_bundles(engine, version)
    except UsageError:
        try:
            found = _load_named(settings, version)
        except BundleError:
            found = None
        if found is None or found.label != version:
            raise
    registration = found.registration
    register_bundle(engine, **registration)
    return bundle_registry.find_bundles(engine, version)


def _recalled(film: RecalledImage) -> tuple[str, ...]:
    result = film.result
    opened = "; ".join(f"{one.who} {local(one.at)[:16]} ({one.action})" for one in film.seen)
    openers = {one.who for one in film.seen}
    # whoever opened it is named by that
    listed = "; ".join(f"{one.who} {local(one.at)[:16]}" for one in film.listed if one.who not in openers)
    now = f"(replaced) {says(result)}" if film.replaced else says(result)
    return (
        str(result.result_id),
        format_acquired(result.acquired_local),
        patient(result.identity),
        now,
        opened or "nobody",
        listed or "nobody",
    )
