"""``preread bundle add``, ``activate`` and the like: which bundle is in use, which is tried, which is withdrawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preread.cli import context as door
from preread.cli import in_use, output
from preread.cli.selection_options import YES_OPTION, confirmed
from preread.cli.users import actor

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from preread.admin.bundle_comparison import Comparison
    from preread.admin.bundle_recall import Recalled
    from preread.admin.bundle_registry import Known
    from preread.core.settings import Settings
    from preread.model.bundles import Bundle

_Name = Annotated[str, typer.Argument(metavar="NAME/VERSION", help="as `preread bundle list` prints it")]
_CHANGES_SHOWN = 50


def add(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="folder of the bundle, with its manifest.json")],
) -> None:
    """Take a bundle in, after its files, its golden results and its preprocessing were checked on this machine.

    It is in use only once it is activated.

    Exit code: 0, also when it is there already; 2 when another of this name is; 4 when it may not be used.
    """
    settings = door.of(context).settings()
    from preread.core.errors import SettingsError
    from preread.model import bundles

    folder = in_use.added_folder(settings)
    if folder is None:
        raise SettingsError("with Postgres a folder for added bundles must be named: PREREAD_BUNDLE_DIR")
    added = bundles.add(path, folder, lambda part: door.load_checked(str(part.path)))
    output.say(f"{added.label} lies in {added.path}; `preread bundle activate {added.label}` puts it to use")


def activate(context: typer.Context, name: _Name) -> None:
    """Assess films with this bundle from now on. What was assessed stays as it is, and is not read again.

    Workers change over between two films, within seconds.

    Exit code: 0; 2 when the setting PREREAD_BUNDLE decides; 4 when the bundle is missing, damaged or withdrawn.
    """
    settings = door.of(context).settings()
    from preread.admin import bundle_registry

    _refuse_setting(settings)
    with door.database(context) as engine:
        chosen = _load(settings, name)
        door.load_checked(str(chosen.path))
        bundle_registry.activate(engine, actor(), chosen)
    output.say(f"{chosen.label} is in use; results that are there keep the bundle that they name")


def rollback(context: typer.Context) -> None:
    """Assess films with the bundle that was in use before.

    Exit code: 0; 2 when none was ever activated or the setting PREREAD_BUNDLE decides; 4 when it is missing or damaged.
    """
    settings = door.of(context).settings()
    from preread.admin import bundle_registry

    _refuse_setting(settings)
    with door.database(context) as engine:
        bundle_registry.rollback(engine, actor())
        label = in_use.load(settings, engine).bundle.label
    output.say(f"{label} is in use again; results that are there keep the bundle that they name")


def shadow(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME/VERSION", help="the bundle to try")] = None,
    off: Annotated[bool, typer.Option("--off", help="end it; what it said stays for `compare`")] = False,
) -> None:
    """Have a second bundle assess the same films, after their results, and show its answers nowhere.

    `preread bundle compare` says how it differs. Each film is read a second time when no film waits. That is done by
    `preread run` while it watches (not with --once), and by `preread fleet work` at the end of each shard.

    Exit code: 0; 2 unless either a bundle or --off is named; 4 when the bundle is missing, damaged or withdrawn.
    """
    settings = door.of(context).settings()
    from preread.admin import bundle_registry
    from preread.core.errors import UsageError

    if (name is None) != off:
        raise UsageError("name the bundle that is to work in the shadow, or say --off")
    with door.database(context) as engine:
        chosen = None
        if name is not None:
            chosen = _load(settings, name)
            if chosen.digest == in_use.load(settings, engine).bundle.digest:
                raise UsageError(f"{chosen.label} is in use already")
            door.load_checked(str(chosen.path))
        bundle_registry.shadow(engine, actor(), chosen)
    output.say("no bundle works in the shadow" if chosen is None else f"{chosen.label} works in the shadow")


def compare(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="A", help="NAME/VERSION, such as the bundle in use")],
    second: Annotated[str, typer.Argument(metavar="B", help="NAME/VERSION, such as the one in the shadow")],
    json: Annotated[
        bool, typer.Option("--json", help="print JSON Lines: the counts, then each film that changes sides")
    ] = False,
) -> None:
    """Compare what two bundles said of the same films: agreement, shift of the probability, films that change sides.

    Exit code: 0; 1 when there is no film of which both spoke; 2 when a bundle is unknown.
    """
    from preread.admin import bundle_comparison, bundle_registry

    with door.database(context) as engine:
        ids = [[one.bundle_id for one in bundle_registry.find(engine, name)] for name in (first, second)]
        found = bundle_comparison.compare(engine, *ids)
    if not found.contents:
        output.say(f"there is no film of which both {first} and {second} spoke: `preread bundle shadow` makes some")
        raise typer.Exit(1)
    if json:
        output.print_json({"first": first, "second": second, **bundle_comparison.to_json(found)})
        for change in found.changes:
            output.print_json(bundle_comparison.change_to_json(change))
        return
    _print(found, first, second)


def withdraw(
    context: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="NAME/VERSION, or a version that is one name's")],
    reason: Annotated[str, typer.Option(help="why; it stands beside every result of it")],
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record a film")] = False,
    yes: Annotated[bool, YES_OPTION] = False,
) -> None:
    """Strike a bundle's results through wherever they are shown, stop it, and list its films and who saw them.

    Of each film it says who opened it, and whom a list showed the bundle's result (worklist, search, API, shell). This
    cannot be taken back. Said again, it prints the list again.

    Exit code: 0; 1 when it was not confirmed; 2 when the bundle is unknown or no reason is given.
    """
    settings = door.of(context).settings()
    from preread.admin import bundle_recall, bundle_registry
    from preread.core.errors import UsageError

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
        for film in bundle_recall.films(engine, ids):
            if json:
                output.print_json(bundle_recall.to_json(film))
            else:
                rows.append(_recalled(film))
        if rows:
            output.print_table(
                ("id", "taken", "patient / accession", "what it says now", "opened by", "seen in a list by"), rows
            )
        unnamed = bundle_recall.unnamed(engine, ids)
    output.say(f"{label} is withdrawn; its results are struck through, and no worker assesses with it")
    if unnamed.exports:
        output.say(f"readings were exported {unnamed.exports} times since its first result; those name no film here")
    since = unnamed.lists_since
    output.say("no list is on record" if since is None else f"lists are on record since {since:%Y-%m-%d %H:%M} UTC")


def _print(found: Comparison, first: str, second: str) -> None:
    from preread.admin.bundle_comparison import QUANTILES
    from preread.core.text.wording import format_percent

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
    from preread.core.errors import SettingsError

    if settings.bundle is not None:
        raise SettingsError("the setting PREREAD_BUNDLE names the bundle in use: unset it, here and for the workers")


def _load(settings: Settings, name: str) -> Bundle:
    from preread.model import bundles

    return bundles.load(bundles.resolve(name, in_use.added_folder(settings)))


def _known(engine: Engine, settings: Settings, version: str) -> list[Known]:
    """Return the bundles that are meant; one that is installed and was never used can be withdrawn too."""
    from preread.admin import bundle_registry
    from preread.core.errors import BundleError, UsageError
    from preread.db.engine import database_now, write
    from preread.ledger.commits import register_bundle

    try:
        return bundle_registry.find(engine, version)
    except UsageError:
        try:
            found = _load(settings, version)
        except BundleError:
            found = None
        if found is None or found.label != version:
            raise
    registration = found.registration
    write(engine, lambda c, _: register_bundle(c, database_now(c), **registration))
    return bundle_registry.find(engine, version)


def _recalled(film: Recalled) -> tuple[str, ...]:
    from preread.cli.views import acquired, local, patient, says

    result = film.result
    opened = "; ".join(f"{one.who} {local(one.at)[:16]} ({one.action})" for one in film.seen)
    openers = {one.who for one in film.seen}
    # whoever opened it is named by that
    listed = "; ".join(f"{one.who} {local(one.at)[:16]}" for one in film.listed if one.who not in openers)
    now = f"(replaced) {says(result)}" if film.replaced else says(result)
    return (
        str(result.result_id),
        acquired(result.acquired_local),
        patient(result.identity),
        now,
        opened or "nobody",
        listed or "nobody",
    )
