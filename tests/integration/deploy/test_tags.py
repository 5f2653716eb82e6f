"""The tags that ``RELEASES`` names, in real repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import tags

VERSIONS = st.tuples(*[st.integers(0, 40)] * 3)
COMMITS = st.text("0123456789abcdef", min_size=40, max_size=40)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path, version: str) -> str:
    (folder / "pyproject.toml").write_text(f'[project]\nname = "preread"\nversion = "{version}"\n')
    git(folder, "add", "pyproject.toml")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", version)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    for key, value in (("user.name", "tester"), ("user.email", "tester@example.org"), ("tag.gpgSign", "false")):
        git(tmp_path, "config", key, value)
    return tmp_path


def test_missing_tags_are_made_once_and_are_annotated(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = commit(repository, "0.1.0"), commit(repository, "0.1.1")
    (repository / "RELEASES").write_text(f"0.1.0 {first}\n0.1.1 {second}\n")
    assert tags.main(["--tree", str(repository), "--check"]) == 0
    assert capsys.readouterr().out.count("missing") == 2
    assert git(repository, "tag") == ""
    for state in ("made", "agrees"):
        assert tags.main(["--tree", str(repository)]) == 0
        assert capsys.readouterr().out == f"v0.1.0 {first} {state}\nv0.1.1 {second} {state}\n"
    for tag, named in (("v0.1.0", first), ("v0.1.1", second)):
        assert git(repository, "rev-parse", f"{tag}^{{commit}}") == named
        assert git(repository, "cat-file", "-t", tag) == "tag"


@pytest.mark.parametrize("annotated", [True, False])
def test_a_tag_of_another_commit_is_named_and_stays(
    repository: Path, annotated: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = commit(repository, "0.1.0"), commit(repository, "0.1.0")
    git(repository, "tag", *(["-a", "-m", "moved"] if annotated else []), "v0.1.0", second)
    (repository / "RELEASES").write_text(f"0.1.0 {first}\n")
    assert tags.main(["--tree", str(repository)]) == 1
    said = capsys.readouterr().err
    assert first in said
    assert second in said
    assert git(repository, "rev-parse", "v0.1.0^{commit}") == second


def test_a_commit_of_another_version_gets_no_tag(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = commit(repository, "0.1.0")
    (repository / "RELEASES").write_text(f"0.2.0 {first}\n")
    assert tags.main(["--tree", str(repository)]) == 1
    assert "says version 0.1.0" in capsys.readouterr().err
    assert git(repository, "tag") == ""


def test_a_commit_that_is_not_here_is_named_with_its_remedy(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    first = commit(repository, "0.1.0")
    (repository / "RELEASES").write_text(f"0.1.0 {first}\n")
    git(repository, "add", "RELEASES")
    commit(repository, "0.2.0")
    clone = tmp_path_factory.mktemp("shallow")
    git(clone, "clone", "--quiet", "--depth=1", f"file://{repository}", ".")
    assert tags.main(["--tree", str(clone)]) == 1
    assert "git fetch --unshallow" in capsys.readouterr().err
    (repository / "RELEASES").write_text(f"0.1.0 {'0' * 40}\n")
    assert tags.main(["--tree", str(repository)]) == 1
    assert "mend the line in RELEASES" in capsys.readouterr().err


@given(st.lists(st.tuples(VERSIONS, COMMITS), unique_by=lambda pair: pair[0]))
def test_lines_are_read_in_the_order_of_their_versions_only(pairs: list[tuple[tuple[int, ...], str]]) -> None:
    lines = [f"{'.'.join(map(str, version))} {commit}" for version, commit in sorted(pairs)]
    assert [f"{one.version} {one.commit}" for one in tags.read("\n".join(lines))] == lines
    if len(lines) > 1:
        with pytest.raises(tags.TagsDiffer, match="does not come after"):
            tags.read("\n".join(reversed(lines)))


@pytest.mark.parametrize(
    "line", ["0.1.0", "v0.1.0 " + "a" * 40, "0.1.0 " + "a" * 39, "0.1.0  " + "a" * 40, "", "0.1 x"]
)
def test_a_line_of_another_form_is_refused(line: str) -> None:
    with pytest.raises(tags.TagsDiffer, match="line 1"):
        tags.read(f"{line}\n")


def test_this_repositorys_releases_are_a_list() -> None:
    assert tags.read((tags.TREE / "RELEASES").read_text())[0] == tags.Release(
        "0.1.0", "f71eae1d7eff521daa8765bfe016ab55c94d67d3"
    )
