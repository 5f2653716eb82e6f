"""``preread bundle`` from the shell: add, activate, shadow, compare, roll back, withdraw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from preread.admin import bundle_registry
from preread.admin.bundle_selection import BundleWatch
from preread.cli import self_check
from preread.cli.selected_bundles import bundle_selection
from preread.core import settings
from preread.core.errors import BundleWithdrawn
from preread.db.engine import open_engine
from preread.ledger.ledger import Ledger
from preread.model import bundles
from preread.model.bundles import Bundle
from preread.runner import service
from tests.programs import ledger_rows
from tests.support.commands import CommandRunner


@pytest.fixture
def here(
    preread: CommandRunner,
    tmp_path: Path,
    migrated_sqlite: Path,
    monkeypatch: pytest.MonkeyPatch,
    stub_bundle: Bundle,
    brightness_classifier: Any,
) -> Any:
    """A database, and machines that give any bundle's golden results."""
    path = tmp_path / "preread.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{path}")
    monkeypatch.setattr(self_check, "load_checked", lambda _: (brightness_classifier, 0.0))
    return preread


def roles(ran: Any) -> Any:
    return {
        one["bundle"]: (one["in_use"], one["shadow"], one["withdrawn"])
        for one in ran.records
        if one["bundle"].startswith("stub")
    }


def test_a_bundle_from_its_folder_to_its_end(here: Any, stub_bundle: Bundle, tmp_path: Path) -> None:
    assert here("bundle", "activate", "stub/1.0.0").exit_code == 4
    assert here("bundle", "add", str(stub_bundle.path)).exit_code == 0, here.err
    assert (tmp_path / "preread.db-bundles" / "stub" / "1.0.0").is_dir()
    assert roles(here("bundle", "list", "--json")) == {"stub/1.0.0": (False, False, None)}
    assert here("bundle", "rollback").exit_code == 2
    assert here("bundle", "shadow", "stub/1.0.0").exit_code == 0, here.err
    assert roles(here("bundle", "list", "--json")) == {"stub/1.0.0": (False, True, None)}
    assert here("bundle", "compare", "stub/1.0.0", "stub/1.0.0").exit_code == 1
    assert here("bundle", "shadow", "--off").exit_code == 0
    assert here("bundle", "activate", "stub/1.0.0").exit_code == 0, here.err
    assert roles(here("bundle", "list", "--json")) == {"stub/1.0.0": (True, False, None)}
    assert here("bundle", "shadow", "stub/1.0.0").exit_code == 2
    assert here("bundle", "rollback").exit_code == 0, here.err
    assert here("bundle", "activate", "stub/1.0.0").exit_code == 0
    assert here("bundle", "withdraw", "1.0.0", "--reason", "it turned films").exit_code == 2  # nobody to ask
    ran = here("bundle", "withdraw", "1.0.0", "--reason", "it turned films", "--yes")
    assert ran.exit_code == 0, ran.err
    assert "struck through" in ran.err
    (tmp_path / "inbox").mkdir()
    for command in (["bundle", "activate", "stub/1.0.0"], ["run", "--root", "inbox"]):
        ran = here(*command)
        assert ran.exit_code == 4, ran.err
        assert "it turned films" in ran.err
        assert "bundle_withdrawn" in ran.err
    assert roles(here("bundle", "list", "--json"))["stub/1.0.0"][2] == "it turned films"


def test_an_upgrade_that_no_longer_ships_the_chosen_bundle_says_so_everywhere_and_loses_nothing(
    here: Any, stub_bundle: Bundle, tmp_path: Path
) -> None:
    here("bundle", "add", str(stub_bundle.path))
    here("bundle", "activate", "stub/1.0.0")
    engine = open_engine(f"sqlite:///{tmp_path / 'preread.db'}")
    ledger_rows.fill(engine, bundle=stub_bundle.registration)
    Ledger(engine, worker_id="worker of film", lease_s=60).mark_worker_stopped()
    engine.dispose()
    kept = (tmp_path / "preread.db-bundles" / "stub").rename(tmp_path / "elsewhere")
    shipped = f"pneumonia-children/{bundles.load_bundle(bundles.find_bundle()).manifest.version}"
    (tmp_path / "inbox").mkdir()
    for command, exit_code in ((["run", "--root", "inbox"], 4), (["db", "upgrade"], 0)):
        ran = here(*command)
        assert ran.exit_code == exit_code
        assert "stub/1.0.0 was chosen" in ran.err
        assert f"choose one of {shipped}" in ran.err
        assert "preread bundle activate" in ran.err
    ran = here("bundle", "list", "--json")
    assert ran.exit_code == 4
    assert {"bundle": "stub/1.0.0", "in_use": True, "whole": False}.items() <= ran.records[-1].items()
    assert roles(ran)["stub/1.0.0"] == (True, False, None)
    (record,) = here("status", "--json").records
    (said,) = [one for one in record["problems"] if one["code"] == "bundle_missing"]
    assert said["level"] == "critical"
    assert "preread bundle add FOLDER" in said["what"]
    shown = here("results", "--json", "--outcome", "assessed").records
    assert [one["bundle"] for one in shown] == ["stub/1.0.0"]
    # either way out
    assert here("bundle", "activate", shipped).exit_code == 0
    assert "bundle_missing" not in here("status").out
    assert here("bundle", "rollback").exit_code == 4
    assert here("bundle", "add", str(kept / "1.0.0")).exit_code == 0
    assert here("bundle", "list").exit_code == 0
    assert "bundle_missing" not in here("status").out


def test_a_setting_that_names_the_bundle_decides(
    here: Any, stub_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    here("bundle", "add", str(stub_bundle.path))
    monkeypatch.setenv("PREREAD_BUNDLE", str(stub_bundle.path))
    ran = here("bundle", "activate", "stub/1.0.0")
    assert ran.exit_code == 2
    assert "PREREAD_BUNDLE" in ran.err


def test_a_worker_changes_over_when_another_bundle_is_chosen(
    here: Any, stub_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    (tmp_path / "inbox").mkdir()
    here("bundle", "add", str(stub_bundle.path))

    def run(engine: Engine, chosen: Any, roots: Any, options: Any, environment: Any) -> Any:
        """Stands for the service: as it would, it asks and ends when it is told."""
        seen.append((chosen.active.label, chosen.is_current()))
        if len(seen) == 1:
            bundle_registry.activate_bundle(engine, "uid:0", bundles.load_bundle(stub_bundle.path))
            assert not chosen.is_current()
            return service.BUNDLE_CHANGED
        return 0

    monkeypatch.setattr(service, "run_service", run)
    ran = here("run", "--root", "inbox")
    assert ran.exit_code == 0, ran.err
    assert [still for _, still in seen] == [True, True]
    assert seen[0][0] != "stub/1.0.0" == seen[1][0]
    engine = open_engine(f"sqlite:///{tmp_path / 'preread.db'}")
    choice = bundle_registry.current_selection(engine).active
    assert choice is not None
    assert choice.bundle is not None
    assert choice.bundle.label == "stub/1.0.0"
    engine.dispose()


@pytest.mark.parametrize("once", [False, True])
def test_a_single_run_says_that_no_bundle_works_in_its_shadow(
    here: Any, stub_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, once: Any
) -> None:
    (tmp_path / "inbox").mkdir()
    here("bundle", "add", str(stub_bundle.path))
    here("bundle", "shadow", "stub/1.0.0")
    given: list[Any] = []

    def run(_engine: Any, chosen: Any, *_: Any) -> int:
        given.append(chosen.shadow)
        return 0

    monkeypatch.setattr(service, "run_service", run)
    ran = here("run", "--root", "inbox", *(["--once"] if once else []))
    assert ran.exit_code == 0, ran.err
    assert ("stub/1.0.0 does not assess these images" in ran.err) is once
    assert [shadow is None for shadow in given] == [once]


def test_a_worker_whose_machine_lacks_the_chosen_bundle_goes_on_until_its_own_is_withdrawn(
    here: Any, stub_bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'preread.db'}")
    selection = bundle_selection(settings.load_settings(), engine)
    running = selection.load()
    watch = BundleWatch(selection, running)
    assert watch.is_current()
    bundle_registry.activate_bundle(engine, "uid:0", stub_bundle)  # on another machine
    assert watch.is_current()
    assert watch.is_current()
    assert [record.msg for record in caplog.records if record.msg != "audit_head"] == ["bundle_not_usable"]
    assert here("run", "--root", str(tmp_path / "inbox")).exit_code == 4
    bundle_registry.activate_previous_bundle(engine, "uid:0")
    bundle_registry.select_shadow(engine, "uid:0", stub_bundle)
    assert not watch.is_current()
    assert selection.load().shadow is None  # not here either, and no film waits for it
    here("bundle", "add", str(stub_bundle.path))
    assert selection.load().shadow is not None
    bundle_registry.activate_bundle(engine, "uid:0", running.active)
    bundle_registry.withdraw_bundles(
        engine, "uid:0", bundle_registry.find_bundles(engine, running.active.label), "it turned films"
    )
    with pytest.raises(BundleWithdrawn, match="turned"):
        watch.is_current()
    engine.dispose()
