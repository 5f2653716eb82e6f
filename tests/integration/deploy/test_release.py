"""``make release`` in repositories of ours: what it builds, signs and refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from tests.support.paths import DEPLOY

PLATFORM = f"cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}"
PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "preread"
version = "{version}"
requires-python = ">=3.11"
[tool.hatch.build.targets.wheel]
packages = ["worker"]
"""
PAGES = ("README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "deploy/RUNBOOK.md", "docs/a.md", "worker/__init__.py")

pytestmark = pytest.mark.minisign


def called(*command: str | Path, cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


def commit(tree: Path, message: str) -> str:
    called("git", "add", "--all", cwd=tree)
    called("git", "commit", "--quiet", "--message", message, cwd=tree)
    return called("git", "rev-parse", "HEAD", cwd=tree)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with the scripts of this one, a product of one module, and no dependency."""
    tree = tmp_path / "tree"
    (tree / "requirements").mkdir(parents=True)
    shutil.copytree(DEPLOY, tree / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    for page in PAGES:
        (tree / page).parent.mkdir(exist_ok=True)
        (tree / page).write_text("")
    for lock in ("runtime.txt", "fleet.txt"):
        (tree / "requirements" / lock).write_text("# nothing\n")
    (tree / ".gitignore").write_text("/release/\n__pycache__/\n")
    (tree / "RELEASES").write_text("")
    (tree / "pyproject.toml").write_text(PROJECT.format(version="1.2.3"))
    called("git", "init", "--quiet", cwd=tree)
    for key, value in (("user.name", "tester"), ("user.email", "tester@example.org"), ("tag.gpgSign", "false")):
        called("git", "config", key, value, cwd=tree)
    commit(tree, "1.2.3")
    called("minisign", "-G", "-W", "-s", tmp_path / "site.key", "-p", tmp_path / "site.pub")
    return tree


def listed(tree: Path) -> str:
    """Add the line and the tag of the version that is committed; return its commit."""
    named = called("git", "rev-parse", "HEAD", cwd=tree)
    (tree / "RELEASES").write_text(f"1.2.3 {named}\n")
    commit(tree, "its line")
    called("git", "tag", "-a", "-m", "1.2.3", "v1.2.3", named, cwd=tree)
    return named


def release(tree: Path, key: str = "site.key") -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = ["sh", tree / "deploy" / "release.sh", sys.executable, tree.parent / key]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_a_release_is_built_from_its_commit_alone_and_signed(tree: Path) -> None:
    named = listed(tree)
    (tree / "worker" / "later.py").write_text("later = True\n")
    commit(tree, "what came later")
    done = release(tree)
    assert done.returncode == 0, done.stderr
    folder = tree / "release" / f"1.2.3-{PLATFORM}"
    public = tree.parent / "site.pub"
    said = called("minisign", "-V", "-Q", "-p", public, "-m", folder / "SHA256SUMS")
    assert said == f"preread 1.2.3 {PLATFORM} release of commit {named}"
    called("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "SHA256SUMS", "SHA256SUMS.minisig", "release.pub", "preread-1.2.3-py3-none-any.whl",
        f"preread-1.2.3-{PLATFORM}.tar", f"preread-1.2.3-{PLATFORM}.cdx.json",
    }  # fmt: skip
    assert json.loads((folder / f"preread-1.2.3-{PLATFORM}.cdx.json").read_text())["bomFormat"] == "CycloneDX"
    assert "later.py" not in (folder / "preread-1.2.3-py3-none-any.whl").read_bytes().decode("latin-1")
    with tarfile.open(folder / f"preread-1.2.3-{PLATFORM}.tar") as archive:
        archive.extractall(tree.parent, filter="data")
    unpacked = tree.parent / f"preread-1.2.3-{PLATFORM}"
    said = called("minisign", "-V", "-Q", "-p", public, "-m", unpacked / "SHA256SUMS")
    assert said == f"preread 1.2.3 {PLATFORM} commit {named}"
    assert called("git", "status", "--porcelain", cwd=tree) == ""

    again = release(tree)
    assert (again.returncode, "is there already" in again.stderr) == (1, True)


def test_what_is_no_release_is_not_made_into_one(tree: Path) -> None:
    def refused(why: str, key: str = "site.key") -> None:
        done = release(tree, key)
        assert done.returncode != 0
        assert why in done.stderr
        assert not (tree / "release").exists()

    refused("no line in RELEASES")
    listed(tree)
    called("git", "tag", "-d", "v1.2.3", cwd=tree)
    refused("make tags")
    called("git", "tag", "v1.2.3", "HEAD", cwd=tree)
    refused("do not agree")
    called("git", "tag", "-d", "v1.2.3", cwd=tree)
    called("git", "tag", "v1.2.3", "HEAD~", cwd=tree)
    (tree / "untracked").touch()
    refused("not clean")
    (tree / "untracked").unlink()
    (tree / "README.md").write_text("changed")
    refused("not clean")
    called("git", "checkout", "--quiet", "README.md", cwd=tree)
    called("minisign", "-G", "-W", "-s", tree.parent / "alone.key", "-p", tree.parent / "elsewhere.pub")
    refused("alone.pub is missing", "alone.key")
    shutil.copy(tree.parent / "site.pub", tree.parent / "alone.pub")
    refused("key", "alone.key")
    (tree / "pyproject.toml").write_text(PROJECT.format(version="1.2.4"))
    commit(tree, "1.2.4")
    refused("1.2.4 has no line in RELEASES")


def test_a_version_from_before_signatures_is_named(tree: Path) -> None:
    called("git", "rm", "--quiet", "--cached", "deploy/release.sh", cwd=tree)
    called("git", "commit", "--quiet", "--message", "as it was", cwd=tree)
    listed(tree)
    done = release(tree)
    assert (done.returncode, "before releases were signed" in done.stderr) == (1, True)
