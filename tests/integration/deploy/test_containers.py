"""What needs an engine to run is checked by linters, and against the program: names of settings, commands, rights."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from docs._ext import settings_table
from preread.cli.app import app
from preread.core import settings
from preread.core.errors import SettingsError
from preread.core.types import Population
from tests.support.paths import DEPLOY
from tests.test_house import commands

FOLDER = DEPLOY / "container"
CONTAINERFILE = (FOLDER / "Containerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "preread"}


def checked(*command: str | Path) -> str:
    environment = os.environ | {"SITE": "preread.example"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_containerfile_passes_its_linter() -> None:
    assert checked(Path(sys.executable).parent / "hadolint", FOLDER / "Containerfile") == ""


def test_the_compose_file_is_one_by_the_specification() -> None:
    linter = Path(sys.executable).parent / "check-jsonschema"
    checked(linter, "--builtin-schema", "vendor.compose-spec", FOLDER / "compose.yaml")


@pytest.mark.caddy
def test_the_proxys_file_can_be_read() -> None:
    adapted = checked("caddy", "adapt", "--config", FOLDER / "Caddyfile", "--adapter", "caddyfile")
    assert '"dial":"web:8350"' in adapted
    assert {row.env: row.default for row in settings_table.describe()}["PREREAD_WEB_PORT"] == "8350"


def test_the_image_is_small_in_rights_and_without_what_trains() -> None:
    build, final = re.split(r"^FROM .*$", CONTAINERFILE, flags=re.MULTILINE)[1:]
    installed = re.findall(r"pip --python /opt/preread install (.+?)(?:\\|$)", build, flags=re.MULTILINE)
    assert [words for words in installed if "-r requirements/runtime.txt" in words]
    assert not [words for words in installed if "requirements/" in words and "runtime" not in words]
    assert "pip" not in final
    assert re.findall(r"^USER (.+)$", final, flags=re.MULTILINE) == ["990:990"]


def test_every_service_of_ours_is_read_only_and_calls_what_exists() -> None:
    assert set(OURS) == {"migration", "worker", "web"}
    there = {*commands(typer.main.get_command(app), "preread")}
    known = {row.env for row in settings_table.describe()}
    for service in OURS.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["user"] == "990:990"
        assert "privileged" not in service
        words = service["command"]
        assert f"preread {' '.join(words[: 2 if words[0] == 'db' else 1])}" in there
        assert {name for name in service["environment"] if name.startswith("PREREAD_")} <= known
    films = [volume for volume in OURS["worker"]["volumes"] if isinstance(volume, dict)]
    assert [volume["read_only"] for volume in films] == [True]


def test_every_service_of_ours_has_the_folders_that_a_server_has_no_place_for() -> None:
    """Beside an SQLite file they are found by themselves; with Postgres a missing one is a feature that is off."""
    for service in OURS.values():
        for name in ("PREVIEW_DIR", "BUNDLE_DIR", "FORGOTTEN_FILE", "AUDIT_KEY_FILE"):
            assert Path(service["environment"][f"PREREAD_{name}"]).parent == Path("/var/lib/preread")
        assert "state:/var/lib/preread" in service["volumes"]


def interpolated(text: str, environment: dict[str, str]) -> str:
    """What an engine makes of ``${NAME:?message}``: an error where it is unset or empty."""

    def value(found: re.Match[str]) -> str:
        if not environment.get(found[1]):
            raise ValueError(f"{found[1]}: {found[2]}")
        return environment[found[1]]

    return re.sub(r"\$\{(\w+):\?([^}]*)\}", value, text)


def test_nothing_starts_before_somebody_said_whose_images_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    roots = OURS["worker"]["environment"]["PREREAD_ROOTS"]
    example = (FOLDER / ".env.example").read_text()
    assert "\nPOPULATION=\n" in example
    assert "answered as if they were children's" in example.replace("\n#                  ", " ")
    for unfilled in ({}, {"POPULATION": ""}):
        with pytest.raises(ValueError, match=r"POPULATION: .*undeclared"):
            interpolated(roots, unfilled)
    for population in Population:
        assert f"#   {population.value} " in example
        monkeypatch.setenv("PREREAD_ROOTS", interpolated(roots, {"POPULATION": population.value}))
        assert [(str(root.path), root.population) for root in settings.load_settings().roots] == [
            ("/films", population)
        ]
    monkeypatch.setenv("PREREAD_ROOTS", interpolated(roots, {"POPULATION": "everybody"}))
    with pytest.raises(SettingsError, match="undeclared"):
        settings.load_settings()


def test_only_the_proxy_is_reached_from_outside_and_nothing_starts_before_the_migration() -> None:
    services = COMPOSE["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    assert [name for name, service in services.items() if "outside" in service["networks"]] == ["proxy"]
    assert all(COMPOSE["networks"][name].get("internal") for name in ("inside", "front"))
    assert OURS["migration"]["restart"] == "no"
    for name in ("worker", "web"):
        assert OURS[name]["depends_on"] == {"migration": {"condition": "service_completed_successfully"}}


def test_each_public_image_can_be_pinned() -> None:
    """By an argument, since no digest stands here: each needs a name in ``.env.example``."""
    example = (FOLDER / ".env.example").read_text()
    public = [service["image"] for service in COMPOSE["services"].values() if service["image"] != "preread"]
    public.append(OURS["worker"]["build"]["args"]["BASE"])
    names = [re.fullmatch(r"\$\{(\w+_IMAGE):-[a-z./]+:[\w.-]+\}", image) for image in public]
    assert len(names) == 3
    assert all(name and f"#{name[1]}=docker.io/library/" in example for name in names)
    assert set(re.findall(r"^FROM (\S+)", CONTAINERFILE, flags=re.MULTILINE)) == {"${BASE}"}
