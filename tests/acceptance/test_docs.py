"""The pages of the documentation, walked as a newcomer would: every command in a ``sh`` block is run, page by page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from preread_training.data import phantoms

HOUSE = Path(__file__).parents[2]
PAGES = {
    page.name: re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    for page in (HOUSE / "docs").glob("*.md")
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty working folder but for what each page says is at hand: a film in the inbox, labelled films."""
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "film.dcm").write_bytes(phantoms.to_dicom(phantoms.draw_chest(1), seed=1))
    for seed in range(12):
        label, name = ("PNEUMONIA", f"person{seed}_virus_1.png") if seed % 2 else ("NORMAL", f"IM-{seed:04}-0001.png")
        (tmp_path / "films" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "films" / label / name).write_bytes(phantoms.to_png(phantoms.draw_chest(seed)))
    return tmp_path


@pytest.mark.parametrize("page", sorted(name for name, blocks in PAGES.items() if blocks))
def test_every_command_of_a_page_does_what_the_page_says(page: str, place: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREREAD_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for block in PAGES[page]:
        ended = subprocess.run(
            ["sh", "-eux"], input=block, cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{block}\n{ended.stdout}\n{ended.stderr}"


def test_each_reader_has_a_page_with_commands_that_are_tried() -> None:
    assert all(PAGES[page] for page in ("doctors.md", "administrators.md", "training.md"))


@pytest.mark.parametrize(
    "page",
    [HOUSE / "README.md", HOUSE / "CONTRIBUTING.md", HOUSE / "deploy" / "RUNBOOK.md", *(HOUSE / "docs").glob("*.md")],
    ids=lambda page: page.name,
)
def test_no_link_leads_nowhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} leads to {target}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target
