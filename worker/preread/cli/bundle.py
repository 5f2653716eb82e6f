"""``preread bundle``: which bundles are installed, what is in one, and whether it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preread.cli import context as door
from preread.cli import in_use, output

if TYPE_CHECKING:
    from preread.admin.bundle_registry import Standing
    from preread.core.settings import Settings
    from preread.core.types import JSONObject
    from preread.model.bundles import Bundle, Manifest

app = typer.Typer(help="Bundles: what training delivers and the worker runs.", no_args_is_help=True)
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


@app.command("list")
def list_bundles(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record a bundle")] = False,
) -> None:
    """List the bundles that ship and those that were added: which is in use, in the shadow, withdrawn or damaged.

    Exit code: 0 when all are whole; 4 when one is damaged, none is installed, or the one in use is not here.
    """
    settings = door.of(context).settings()
    from preread.core.errors import BundleError, BundleMissing
    from preread.model import bundles

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
    """Show what a bundle is for, how it answers, and how well it did."""
    loaded = _load(context, name)
    from preread.model.bundles import CARD_FILE

    if card:
        for line in (loaded.path / CARD_FILE).read_text(encoding="utf-8").splitlines():
            output.print_text(line)
    elif json:
        output.print_json(_read_manifest(loaded))
    else:
        output.print_pairs(_pairs(loaded.manifest, loaded.digest))


@app.command("verify")
def verify(context: typer.Context, name: Annotated[str | None, _NAME] = None) -> None:
    """Check every file of a bundle against its manifest and repeat its golden vectors on this machine.

    Exit code: 0 when all agrees; 4 when not.
    """
    settings = door.of(context).settings()
    from preread.model import bundles

    path = bundles.resolve(name or settings.bundle, in_use.added_folder(settings))
    classifier, difference = door.load_checked(str(path))
    loaded = classifier.bundle
    output.print_text(
        f"{loaded.label} is whole: {len(loaded.manifest.files)} files have their hashes; golden vectors differ by at "
        f"most {difference:.2g} in logit, {loaded.manifest.golden_tolerance:g} is allowed"
    )


def _load(context: typer.Context, name: str | None) -> Bundle:
    settings = door.of(context).settings()
    from preread.model import bundles

    return bundles.load(bundles.resolve(name or settings.bundle, in_use.added_folder(settings)))


def _standing(settings: Settings) -> Standing | None:
    """Return what the database says of bundles; ``None`` where there is none to ask."""
    from preread.admin import bundle_registry
    from preread.core.errors import PrereadError

    try:
        engine = door.open_database(settings)
    except PrereadError:
        return None
    try:
        return bundle_registry.look(engine)
    except PrereadError:
        return None
    finally:
        engine.dispose()


def _tried(action: Callable[[], Any]) -> Any:
    from preread.core.errors import BundleError

    try:
        return action()
    except BundleError as error:
        return error


def _read_manifest(loaded: Bundle) -> JSONObject:
    import json

    manifest: JSONObject = json.loads(loaded.manifest_json)
    return manifest


def _pairs(manifest: Manifest, digest: str) -> list[tuple[str, str]]:
    from preread.core.text.wording import format_percent, format_predictive_values

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
