"""Demonstration: images in two watched folders, a worker, its results.

``make demo`` runs it. Everything lies in a new folder under ``./demo``, which stays; nothing is deleted.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.data import get_testdata_file
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from preread.core.text.wording import NO_DEVICE, format_result
from preread.core.types import CAVEAT_TEXT, Answer, Caveat
from preread_training.data import phantoms

WAIT_S = 180.0
STOP_S = 60.0
POLL_S = 1.0
ENCODINGS_DIFFER_AT_MOST = 0.05
PIPE_WIDTH = 210
PREREAD = [sys.executable, "-m", "preread"]
# The real chest radiograph that pydicom-data brings; its patient is 64 by birth and study date.
REAL_IMAGES = {"RG1_UNCR.dcm": "real image, uncompressed", "RG1_J2KI.dcm": "real image, JPEG 2000"}
# Phantoms that are drawn to be refused, and why.
REFUSED_PHANTOMS = {"phantom-adult.dcm": "age_outside", "phantom-lateral.dcm": "view"}
SETTINGS = """\
database_url = "sqlite:///{folder}/preread.db"
scan_interval_s = 2.0
settle_s = 1.0

[[roots]]
path = "{folder}/children"
population = "children-1-5y"

[[roots]]
path = "{folder}/research"
population = "research"
"""


@dataclass(frozen=True)
class Dropped:
    """An image that the demo copied into a watched folder."""

    root: str
    name: str
    what: str


class DemoError(Exception):
    """The demo did not reach the expected results."""


def main() -> int:
    """Run the demo.

    Returns:
        0 if every image has the expected outcome and the worker stopped with exit code 0, else 1.
    """
    # a pipe has no width; this holds a row on one line
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    folder = new_folder()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREREAD_")}
    environment["PREREAD_CONFIG"] = str(folder / "preread.toml")
    (folder / "preread.toml").write_text(SETTINGS.format(folder=folder), encoding="utf-8")
    for root in ("children", "research"):
        (folder / root).mkdir()

    console.print(f"The demo lies in {folder} and stays there.")
    preread(environment, "db", "upgrade")
    log = folder / "worker.log"
    began = time.monotonic()
    with log.open("wb") as stream:
        worker = subprocess.Popen([*PREREAD, "run"], env=environment, stdin=subprocess.DEVNULL, stderr=stream)
    try:
        dropped = copy_images(folder)
        console.print(f"The worker runs (process {worker.pid}); {len(dropped)} images lie in its two watched folders.")
        rows = wait_for_results(worker, environment, len(dropped))
        waited_s = time.monotonic() - began
        code = stop(worker)
    except DemoError as error:
        stop(worker)
        console.print(f"The demo failed: {error}. The end of {log}:", markup=False)
        console.print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]), markup=False)
        return 1
    show(console, dropped, rows)
    console.print(f"{len(rows)} results {waited_s:.0f} s after the worker's start; it stopped with exit code {code}.")
    problems = look_for_problems(dropped, rows, code)
    for problem in problems:
        console.print(f"NOT AS EXPECTED: {problem}", markup=False)
    command = f"PREREAD_CONFIG={os.path.relpath(folder)}/preread.toml .venv/bin/preread"
    console.print(f"Look further:  {command} results", markup=False)
    console.print(
        f"The page:      {command} users add ada --role reader; {command} web, then open http://127.0.0.1:8350/",
        markup=False,
    )
    return 1 if problems else 0


def new_folder() -> Path:
    """Make a new folder for this run under ``./demo``."""
    parent = Path("demo").resolve()
    parent.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=parent))


def preread(environment: dict[str, str], *arguments: str) -> str:
    """Run a command of preread and return what it printed on stdout.

    Raises:
        DemoError: the exit code was not 0.
    """
    ended = subprocess.run([*PREREAD, *arguments], env=environment, check=False, capture_output=True, text=True)
    if ended.returncode != 0:
        raise DemoError(f"`preread {' '.join(arguments)}` ended with {ended.returncode}: {ended.stderr.strip()}")
    return ended.stdout


def copy_images(folder: Path) -> list[Dropped]:
    """Copy the real images into both watched folders, and phantoms into one."""
    dropped = []
    for name, what in REAL_IMAGES.items():
        source = get_testdata_file(name, download=False)
        if not isinstance(source, str):
            raise DemoError(f"the package pydicom-data does not hold {name}")
        for root in ("children", "research"):
            shutil.copyfile(source, folder / root / name)
            dropped.append(Dropped(root, name, what))
    for name, data in phantoms.make_demo_files():
        (folder / "children" / name).write_bytes(data)
        dropped.append(Dropped("children", name, "phantom"))
    return dropped


def wait_for_results(worker: subprocess.Popen[bytes], environment: dict[str, str], count: int) -> list[dict[str, Any]]:
    """Run ``preread results`` until every image has its outcome.

    Raises:
        DemoError: the worker ended, or outcomes are missing after `WAIT_S` seconds.
    """
    deadline = time.monotonic() + WAIT_S
    rows: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        rows = [json.loads(line) for line in preread(environment, "results", "--json").splitlines()]
        if len(rows) >= count:
            return rows
        if worker.poll() is not None:
            raise DemoError(f"the worker ended with exit code {worker.returncode}")
        time.sleep(POLL_S)
    raise DemoError(f"{len(rows)} of {count} images had an outcome after {WAIT_S:.0f} s")


def stop(worker: subprocess.Popen[bytes]) -> int:
    """Stop the worker with SIGTERM; kill it after `STOP_S` seconds."""
    if worker.poll() is None:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(STOP_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait(STOP_S)
    return worker.returncode


def show(console: Console, dropped: list[Dropped], rows: list[dict[str, Any]]) -> None:
    """Print the results of all images and an explanation of the caveats."""
    found = {place(row): row for row in rows}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("folder", "image", "description", "result", "reason or caveats"):
        table.add_column(column, overflow="fold")
    for image in dropped:
        row = found.get((image.root, image.name), {})
        table.add_row(image.root, image.name, image.what, Text(answer(row)), Text(remarks(row)))
    console.print(table)
    for caveat in sorted({caveat for row in rows for caveat in row["caveats"]}):
        console.print(f"  {caveat}: {CAVEAT_TEXT[Caveat(caveat)]}", markup=False)
    console.print()
    console.print("The folder children declares children of 1 to 5 years, the folder research declares research.")
    console.print("The patient of the real image is 64 years old: children refuses it, research assesses it.")
    console.print("Every phantom is the same synthetic image in another encoding: the results differ by rounding only.")
    console.print("A result on a synthetic image has no clinical meaning; it shows that the file was read.")
    console.print(NO_DEVICE)


def place(row: dict[str, Any]) -> tuple[str, str]:
    """Return the watched folder's name and the file name of a result."""
    return Path(row["root"]).name, row["path"]


def answer(row: dict[str, Any]) -> str:
    """Return the outcome of an image in a few words."""
    if not row:
        return "no outcome"
    if row["outcome"] != "assessed":
        return f"{row['outcome']}: {row['code']}"
    return "; ".join(
        format_result(Answer(finding["answer"]), finding["finding"], finding["probability"], finding["prevalence"])
        for finding in row["findings"]
    )


def remarks(row: dict[str, Any]) -> str:
    """Return the reason of a refusal, or the caveats of a result."""
    if not row:
        return ""
    return row["reason"] or ", ".join(row["caveats"])


def look_for_problems(dropped: list[Dropped], rows: list[dict[str, Any]], code: int) -> list[str]:
    """Return all differences from the outcome that the README describes."""
    found = {place(row): row for row in rows}
    problems = [
        f"{image.root}/{image.name} has no outcome" for image in dropped if (image.root, image.name) not in found
    ]
    for image in dropped:
        row = found.get((image.root, image.name), {})
        refusal = REFUSED_PHANTOMS.get(image.name)
        if image.root == "children" and image.name in REAL_IMAGES:
            refusal = "age_outside"
        expected = ("refused", refusal) if refusal else ("assessed", None)
        ended = (row.get("outcome"), row.get("code"))
        if row and ended != expected:
            problems.append(f"{image.root}/{image.name} ended as {ended}, not as {expected}")
        if row and image.root == "research" and "outside_intended_age" not in row["caveats"]:
            problems.append(f"{image.root}/{image.name} lacks the caveat on its age")
    shown = [finding["probability"] for row in rows if row["path"].startswith("phantom") for finding in row["findings"]]
    if shown and max(shown) - min(shown) > ENCODINGS_DIFFER_AT_MOST:
        problems.append(f"one synthetic image got probabilities from {min(shown):.3f} to {max(shown):.3f}")
    if code != 0:
        problems.append(f"the worker ended with exit code {code}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
