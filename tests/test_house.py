"""The house rules that a machine can check: arrows, sizes, words, and that the record says what the code does."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement

import preread.cli
import preread.runner.confine.confinement
from deploy import licences
from docs._ext import settings_table
from preread.core import errors, settings
from preread.core.types import Outcome, Population, RefusalCode, RootSpec
from preread.imaging import identity
from preread.imaging.codecs import decoders
from preread.runner.assess_files import FileResult
from tests.support.paths import REPOSITORY

PACKAGES = ("preread", "preread_training")
FOLDERS = ("worker", "model_training")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
README = (REPOSITORY / "README.md").read_text()
DOCS = REPOSITORY / "docs"
RUNBOOK = (REPOSITORY / "deploy" / "RUNBOOK.md").read_text()
CONFTEST = (REPOSITORY / "conftest.py").read_text()
CI = (REPOSITORY / ".ci" / "run").read_text()
LOCKS = sorted(path for path in (REPOSITORY / "requirements").glob("*.txt") if path.name != "constraints.txt")
LINES_MAX = 600
README_LINES_MAX = 150


def modules(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (REPOSITORY / package).rglob("*.py"))


def named(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout
    return [REPOSITORY / name for name in listing.split("\0") if name and (REPOSITORY / name).is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def classes(root: type[errors.PrereadError] = errors.PrereadError) -> Iterator[type[errors.PrereadError]]:
    """The worker's errors; the bench's own, which no operator meets, stand in its modules."""
    if root.__module__.startswith("preread."):
        yield root
    for child in root.__subclasses__():
        yield from classes(child)


# --------------------------------------------------------------------------- arrows and sizes


def test_import_contracts_hold() -> None:
    """Arrows go one way: see [tool.importlinter] in pyproject.toml."""
    linter = Path(sys.executable).parent / "lint-imports"
    answer = subprocess.run([linter, "--no-cache"], cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


def test_help_loads_neither_training_nor_runtime() -> None:
    """`preread --help` answers at once, and a worker never loads what trains."""
    program = (
        "import sys, preread.cli; print({'tensorflow', 'keras', 'preread_training', 'ai_edge_litert'} & {*sys.modules})"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "set()"


def test_only_the_classifier_imports_the_inference_runtime() -> None:
    importers = [
        named(path)
        for path in modules(*FOLDERS)
        if re.search(r"^\s*(from|import) ai_edge", path.read_text(), re.MULTILINE)
    ]
    assert importers == ["worker/preread/model/classifier.py"]


def test_every_python_file_is_documented() -> None:
    bare = [
        named(p)
        for p in modules("worker", "model_training", "deploy")
        if p.stat().st_size and not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert not bare


# --------------------------------------------------------------------------- errors and the runbook


def test_every_error_code_has_a_paragraph_in_the_runbook() -> None:
    codes = [kind.code for kind in classes()]
    assert len(codes) == len(set(codes)), "two classes share a code"
    parts = re.split(r"^### `(\w+)`$", RUNBOOK.split("\n## Refusals")[0], flags=re.MULTILINE)[1:]
    paragraphs = dict(zip(parts[::2], parts[1::2], strict=True))
    assert set(paragraphs) == set(codes)
    assert all(len(text.split()) >= 6 for text in paragraphs.values())


def test_every_refusal_code_stands_in_the_runbook() -> None:
    table = re.findall(r"^\| `(\w+)` \|", section_of_the_runbook("Refusals"), flags=re.MULTILINE)
    assert sorted(table) == sorted(RefusalCode)


def section_of_the_runbook(heading: str) -> str:
    return RUNBOOK.split(f"\n## {heading}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize(
    "heading, sources, code",
    [
        (
            "What `preread status` and `/health` say",
            ["monitoring/health", "ledger/archives"],
            r'(?:Level\.\w+,\s+|yield )"(\w+)"',
        ),
        (
            "What `preread reconcile` prints",
            ["admin/reconcile", "ledger/invariants"],
            r'(?:yield\s+\(?\s*"|code, \w+ = "|Difference\("|code == ")(\w+)"',
        ),
    ],
)
def test_every_problem_and_difference_has_its_row_in_the_runbook(heading: str, sources: list[str], code: str) -> None:
    table = re.findall(r"^\| \*\*(\w+)\*\* \|", section_of_the_runbook(heading), flags=re.MULTILINE)
    text = "".join((REPOSITORY / "worker" / "preread" / f"{name}.py").read_text() for name in sources)
    assert len(table) == len(set(table))
    assert set(table) - {errors.FileLocked.code} == set(re.findall(code, text))


def test_every_error_stands_in_the_drawn_tree() -> None:
    drawn = set(re.findall(r"[A-Z]\w+", (errors.__doc__ or "").split("::")[1]))
    assert {kind.__name__ for kind in classes()} <= drawn


# --------------------------------------------------------------------------- locks and packaging


def requirements_of(lock: Path) -> dict[str, list[str]]:
    """Name -> pinned lines of a lock."""
    pinned: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n", " ", lock.read_text()).splitlines():
        if line and not line.lstrip().startswith("#"):
            pinned.setdefault(Requirement(line.split(" --hash")[0]).name.lower().replace("_", "-"), []).append(line)
    return pinned


@pytest.mark.parametrize("lock", LOCKS, ids=named)
def test_a_lock_pins_hashes_and_names_no_index(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "index" not in text
    lines = [line for lines in requirements_of(lock).values() for line in lines]
    assert lines
    assert all("==" in line and "--hash=sha256:" in line for line in lines)


def test_the_locks_agree_and_hold_what_the_project_asks_for() -> None:
    locks = {lock.stem: requirements_of(lock) for lock in LOCKS}

    def pins(lock: str, name: str) -> list[str]:
        """Without the marker: an extra may need everywhere what the runtime needs on one system."""
        return [re.sub(r"\s*(;.*?)?\s+--hash", " --hash", line) for line in locks[lock].get(name, [])]

    for small, large in (*pairwise(("runtime", "demo", "train", "dev")), ("runtime", "fleet"), ("fleet", "dev")):
        for name in locks[small]:
            assert set(pins(small, name)) <= set(pins(large, name)), name
    for wanted in map(Requirement, PROJECT["project"]["dependencies"]):
        for line in locks["runtime"][wanted.name.lower()]:
            version = re.findall(r"==([^\s;]+)", line)[0]
            assert wanted.specifier.contains(version), line


def test_a_worker_never_installs_what_trains() -> None:
    for lock in LOCKS:
        if lock.stem in {"runtime", "demo", "fleet"}:
            assert not {"tensorflow", "keras", "torch"} & set(requirements_of(lock))


def test_no_licence_comes_into_the_runtime_unseen() -> None:
    page = (DOCS / "reference" / "licences.md").read_text()
    names = licences.pinned(licences.FLEET)
    assert len(names) > 30
    for name in names:
        said = licences.licence(name)
        assert f"| {name} | {said} |" in page, (
            f"run `python deploy/licences.py > docs/reference/licences.md` for {name}"
        )
        assert licences.parts(said) <= licences.PERMISSIVE | {licences.WEAK_COPYLEFT.get(name, "")}, f"{name}: {said}"


def test_the_wheel_holds_the_two_packages_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert "preread/db/migrations/env.py" in names
    assert "preread/py.typed" in names
    assert "preread/admin/systemd/preread-worker.service" in names
    assert any(re.fullmatch(r"preread/db/migrations/versions/\w+\.py", name) for name in names)
    for wanted in ("manifest.json", "weights.tflite"):
        assert any(re.fullmatch(rf"preread/bundles/[^/]+/[^/]+/{re.escape(wanted)}", name) for name in names), wanted
    assert not [name for name in names if name.endswith((".pyc", ".db", ".jpeg", ".dcm"))]
    assert wheel.stat().st_size < 30 * 2**20


# --------------------------------------------------------------------------- the record


def test_the_changelog_speaks_of_this_version() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[(.+?)\]", changelog, flags=re.MULTILINE)[0] in {
        "Unreleased",
        PROJECT["project"]["version"],
    }


def test_every_way_to_fail_has_its_test() -> None:
    text = (DOCS / "explanation" / "failures.md").read_text()
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)] == list(range(1, 41))
    there = {
        f"{path.stem}::{name}"
        for path in modules("tests")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), flags=re.MULTILINE)
    }
    rows = [row for row in text.splitlines() if re.match(r"\| \d+ \|", row)]
    named_tests = [re.findall(r"`(test_\w+::test_\w+)`", row) for row in rows]
    assert all(named_tests)
    assert {name for names in named_tests for name in names} <= there


def test_the_readme_begins_with_the_two_commands() -> None:
    named_first = re.findall(r"^make (\w+)", README, flags=re.MULTILINE)
    assert named_first[:2] == ["demo", "test"]
    assert len(README.splitlines()) <= README_LINES_MAX


def test_every_make_command_in_the_record_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE))
    said = {
        target
        for name in ("README.md", "CONTRIBUTING.md", ".ci/run")
        for target in re.findall(r"(?:^|`|&& )make ([a-z-]+)", (REPOSITORY / name).read_text(), flags=re.MULTILINE)
    }
    assert said <= targets
    assert {"help", "demo", "test", "run", "lint", "type"} <= targets


def test_ci_installs_each_program_that_a_test_asks_for() -> None:
    """Else a run on a machine that happens to have it hides that the installation is missing."""
    wanted = set(re.findall(r'"([a-z0-9-]+)"', "".join(re.findall(r"_programs\((.+?)\)", CONFTEST))))
    installed = set(
        re.findall(r"([a-z0-9-]+)=[a-z0-9-]+", re.findall(r'^programs="(.+?)"', CI, re.MULTILINE | re.DOTALL)[0])
    )
    assert len(wanted) > 8
    assert wanted <= installed


def column(page: str, heading: str) -> list[str]:
    """Return the code words in the first column of the table under a heading of a page of the reference."""
    text = (DOCS / "reference" / page).read_text()
    section = re.split(rf"^## {re.escape(heading)}$", text, flags=re.MULTILINE)[1].split("\n## ")[0]
    cells = re.findall(r"^\| (.+?) \|", section, flags=re.MULTILINE)
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def commands(command: Any, name: str) -> Iterator[str]:
    """Every command of a typer tree that does something, by its whole name."""
    children = getattr(command, "commands", {})
    if not children or command.invoke_without_command:
        yield name
    for word, child in children.items():
        yield from commands(child, f"{name} {word}")


def test_the_reference_lists_every_command_and_no_other() -> None:
    import preread.cli.app
    import preread_training.cli.app

    there = {*commands(typer.main.get_command(preread.cli.app.app), "preread")}
    there |= {*commands(typer.main.get_command(preread_training.cli.app.app), "preread-train")}
    assert set(column("commands.md", "List of commands")) == there


def test_the_reference_says_every_setting_as_the_code_does() -> None:
    """``python docs/_ext/settings_table.py`` prints the table."""
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    assert settings_table.markdown_table() in page
    keys = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert {one.name for one in dataclasses.fields(RootSpec)} <= keys
    assert all(f"`{population}`" in page for population in Population)


def test_the_documented_file_of_settings_can_be_used(tmp_path: Path) -> None:
    page = (DOCS / "how-to" / "declare-folders.md").read_text()
    config = tmp_path / "preread.toml"
    config.write_text(re.findall(r"```toml\n(.+?)```", page, flags=re.DOTALL)[0])
    roots = settings.load_settings(config).roots
    assert [str(root.population) for root in roots] == ["children-1-5y", "research"]
    assert identity.read_identity_from_path("P17/A4/1.jpeg", str(roots[0].path_pattern)) == {
        "patient_id": "P17",
        "accession_number": "A4",
    }


def test_the_reference_and_the_errors_name_the_same_exit_codes() -> None:
    said = {int(code) for code in column("commands.md", "Exit codes")}
    assert {kind.exit_code for kind in classes()} <= said
    assert said == {int(code) for code in re.findall(r"^(\d+) ", preread.cli.__doc__ or "", flags=re.MULTILINE)}


def test_the_reference_lists_the_transfer_syntaxes_that_are_decoded() -> None:
    page = (DOCS / "reference" / "images.md").read_text()
    listed = re.findall(r"^\| (.+?) \| `(1\.2\.840\.10008\.[\d.]+)` \|", page, flags=re.MULTILINE)
    assert {uid for _, uid in listed} == decoders.SUPPORTED
    assert len(listed) == len(decoders.SUPPORTED)


def test_the_reference_names_every_field_of_assess() -> None:
    result = FileResult("a.dcm", None, Outcome.UNREADABLE, "empty", "it is empty", (), (), "name/1", 1.0)
    assert column("results.md", "Fields") == list(result.to_json())


def test_decisions_are_numbered_and_short() -> None:
    text = (REPOSITORY / "DECISIONS.md").read_text()
    parts = re.split(r"^## (\d+)\. ", text, flags=re.MULTILINE)[1:]
    assert [int(number) for number in parts[::2]] == list(range(1, len(parts) // 2 + 1))
    for number, body in zip(parts[::2], parts[1::2], strict=True):
        assert len([line for line in body.splitlines()[1:] if line.strip()]) <= 14, f"decision {number}"
