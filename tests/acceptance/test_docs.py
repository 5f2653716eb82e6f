"""The pages of the documentation, walked as a newcomer would: every command in a ``sh`` block is run, page by page."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from pydicom.data import get_testdata_file

from preread_training.data import phantoms
from tests.bench import reporting
from tests.support.paths import REPOSITORY
from tests.support.ports import PortReservations

PAGES = {
    page.relative_to(REPOSITORY / "docs").as_posix(): re.findall(
        r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    for page in (REPOSITORY / "docs").rglob("*.md")
}


FIRST = "tutorials/first-results.md"
RECEIVE = "how-to/receive-images.md"  # needs DCMTK and a port


def follow(page: str, place: Path, replaced: Mapping[str, str] = MappingProxyType({})) -> None:
    """Run every command of a page in a folder.

    Args:
        page: below ``docs``.
        place: the folder.
        replaced: what stands in the commands of a test in place of a word of the page.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREREAD_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for block in PAGES[page]:
        for word, instead in replaced.items():
            assert word in block, f"{page} has a block without {word}"
            block = block.replace(word, instead)  # noqa: PLW2901 - one after the other
        ended = subprocess.run(
            ["sh", "-eux"], input=block, cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{block}\n{ended.stdout}\n{ended.stderr}"


def fill(place: Path) -> None:
    """Put into a folder what the pages assume: an image in the inbox, labelled images."""
    (place / "inbox").mkdir()
    (place / "inbox" / "image.dcm").write_bytes(phantoms.to_dicom(phantoms.draw_chest(1), seed=1))
    for seed in range(12):
        label, name = ("PNEUMONIA", f"person{seed}_virus_1.png") if seed % 2 else ("NORMAL", f"IM-{seed:04}-0001.png")
        (place / "films" / label).mkdir(parents=True, exist_ok=True)
        (place / "films" / label / name).write_bytes(phantoms.to_png(phantoms.draw_chest(seed)))


@pytest.fixture(scope="module")
def after_first_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as the first tutorial leaves it: settings, a database, a result."""
    place = tmp_path_factory.mktemp("first")
    fill(place)
    follow(FIRST, place)
    return place


@pytest.mark.parametrize(
    "page", sorted(page for page, blocks in PAGES.items() if blocks and page not in {FIRST, RECEIVE})
)
def test_every_command_of_a_page_does_what_the_page_says(page: str, after_first_results: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(after_first_results, place)
    follow(page, place)


@pytest.mark.dcmtk
def test_an_image_is_received_as_its_page_says(
    after_first_results: Path, tmp_path: Path, ports: PortReservations
) -> None:
    place = tmp_path / "place"
    shutil.copytree(after_first_results, place)
    try:
        follow(RECEIVE, place, {"11112": str(ports.reserve())})
    finally:
        if (started := place / "storescp.pid").exists():
            with contextlib.suppress(ProcessLookupError):  # the page ends it
                os.kill(int(started.read_text()), signal.SIGKILL)
    assert [path.name[:3] for path in (place / "received").iterdir()] == ["CR."]


def test_each_audience_has_a_page_with_commands_that_are_tried() -> None:
    for index in ("doctors.md", "administrators.md", "training.md"):
        linked = re.findall(r"\]\(([\w/-]+\.md)", (REPOSITORY / "docs" / index).read_text())
        assert any(PAGES[page] for page in linked), index


def test_the_readme_shows_what_the_command_prints(tmp_path: Path) -> None:
    """Each row of the README's example: file, outcome, and the code or the probability."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    child = phantoms.draw_chest(1)
    (inbox / "child.png").write_bytes(phantoms.to_png(child))
    (inbox / "child.dcm").write_bytes(phantoms.to_dicom(child, seed=1))
    for name in ("RG1_UNCR.dcm", "CT_small.dcm"):
        (inbox / name).write_bytes(Path(str(get_testdata_file(name))).read_bytes())
    command: list[str | Path] = [Path(sys.executable).parent / "preread", "assess", "--json", "inbox"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    found = {}
    for row in map(json.loads, printed.splitlines()):
        said = [f"{finding['answer']} ({finding['probability']:.0%}" for finding in row["findings"]]
        found[row["path"], row["outcome"]] = row["code"] or said[0].replace("%", " %")
    example = re.findall(r"^```console\n(.+?)^```", (REPOSITORY / "README.md").read_text(), re.DOTALL | re.MULTILINE)[0]
    rows = re.findall(r"^ (inbox/\S+) +(\w+) +(?:(\w+):|pneumonia (\w+ \(\d+ %))", example, re.MULTILINE)
    assert {(path, outcome): code or answer for path, outcome, code, answer in rows} == found


@pytest.mark.parametrize(
    "page",
    [*REPOSITORY.glob("*.md"), REPOSITORY / "deploy" / "RUNBOOK.md", *(REPOSITORY / "docs").rglob("*.md")],
    ids=lambda page: page.relative_to(REPOSITORY).as_posix(),
)
def test_no_link_leads_nowhere(page: Path) -> None:
    """In the repository and in the tar of a release, where the pages are read without the built site."""
    text = page.read_text()
    for match in re.finditer(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = match[1].partition("#")
        place = f"{page.relative_to(REPOSITORY)}:{text.count(chr(10), 0, match.start()) + 1}"
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{place}: {match[1]} is not there"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{place}: {path or page.name} has no heading #{anchor}"


def test_every_file_that_a_page_names_is_there() -> None:
    for page in (*REPOSITORY.glob("*.md"), REPOSITORY / "deploy" / "RUNBOOK.md", *(REPOSITORY / "docs").rglob("*.md")):
        if page.name in {"CHANGELOG.md", "DECISIONS.md"}:  # they tell of files as they were
            continue
        for number, line in enumerate(page.read_text().splitlines(), 1):
            for name in re.findall(
                r"(?<![\w/.])(?:deploy|docs|migrations|tests|worker|model_training)/[\w./-]+\.\w+", line
            ):
                assert (REPOSITORY / name).exists(), f"{page.relative_to(REPOSITORY)}:{number}: {name} is not there"


def test_the_tables_of_speed_and_sizing_are_those_of_the_kept_figures() -> None:
    docs = REPOSITORY / "docs"
    figures = json.loads((docs / "explanation" / "speed.json").read_text())
    assert reporting.page(figures).strip() in (docs / "explanation" / "speed.md").read_text()
    assert reporting.sizing(figures["kinds"]).strip() in (docs / "reference" / "sizing.md").read_text()
