"""Files at the top of the repository that other programs read: their schemas, and what they say of the project."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

TREE = Path(__file__).parents[2]
PROJECT = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SUPPORTED = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
SCHEMAS = {
    ".github/workflows/*.yml": ("vendor.github-workflows", "custom.github-workflows-require-timeout"),
    ".github/ISSUE_TEMPLATE/[!c]*.yml": ("vendor.github-issue-forms",),
    ".github/ISSUE_TEMPLATE/config.yml": ("vendor.github-issue-config",),
    ".github/dependabot.yml": ("vendor.dependabot",),
    "CITATION.cff": ("vendor.citation-file-format",),
}


def read(name: str) -> str:
    return (TREE / name).read_text(encoding="utf-8")


def loaded(name: str) -> Any:
    return yaml.safe_load(read(name))


def jobs() -> dict[str, Any]:
    found: dict[str, Any] = loaded(".github/workflows/ci.yml")["jobs"]
    return found


@pytest.mark.parametrize("files, schema", [(files, schema) for files, all_of in SCHEMAS.items() for schema in all_of])
def test_a_file_follows_its_schema(files: str, schema: str) -> None:
    checker = Path(sys.executable).parent / "check-jsonschema"
    found = sorted(TREE.glob(files))
    assert found, f"no file is named {files}"
    force = ["--default-filetype", "yaml"]
    done = subprocess.run(
        [checker, "--builtin-schema", schema, *force, *found], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_actions_are_pinned_by_commit_and_say_their_version() -> None:
    uses = re.findall(r"uses: (.*)", "".join(path.read_text() for path in (TREE / ".github/workflows").glob("*.yml")))
    assert uses
    assert [one for one in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one)] == []


def test_the_same_pythons_are_supported_checked_and_named() -> None:
    assert SUPPORTED
    for name, job in jobs().items():
        assert job["strategy"]["matrix"]["python"] == SUPPORTED, name
    listed = re.search(r"^for version in (.*); do$", read("deploy/check_pythons.sh"), re.MULTILINE)
    assert listed
    assert listed[1].split() == SUPPORTED


def test_strangers_changes_run_on_the_forge_alone() -> None:
    for name, job in jobs().items():
        own = "self-hosted" in job["runs-on"]
        assert (job.get("if") == "github.event_name != 'pull_request'") == own, name
    assert loaded(".github/workflows/ci.yml")["permissions"] == {"contents": "read"}


def test_the_citation_names_the_version_and_its_day() -> None:
    citation = loaded("CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert f"## [{citation['version']}] - {citation['date-released']}" in read("CHANGELOG.md")


def test_hooks_before_a_commit_call_the_projects_own_tools() -> None:
    hooks = [hook for repository in loaded(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    programs = {hook["entry"].split()[0] for hook in hooks}
    assert programs == {".venv/bin/python", ".venv/bin/lint-imports"}
    for hook in hooks:
        assert hook["language"] == "system"
        command = [Path(sys.executable).parent / Path(hook["entry"].split()[0]).name, *hook["entry"].split()[1:3]]
        done = subprocess.run([*command, "--help"], check=False, capture_output=True, cwd=TREE)
        assert done.returncode == 0, hook["id"]


def test_editors_are_told_the_line_length_of_the_formatter() -> None:
    editors = configparser.ConfigParser()
    editors.read_string(f"[top]\n{read('.editorconfig')}")
    tool = tomllib.loads(read("pyproject.toml"))["tool"]
    assert editors.getboolean("top", "root")
    assert editors.getint("*", "max_line_length") == tool["ruff"]["line-length"]
