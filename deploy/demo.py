"""The whole way of a film, shown: real and drawn films into two folders, the real worker on them, one table.

``make demo`` runs it. Everything lies in a new folder under ``./demo`` that stays there to look at; nothing is deleted.
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
# The real chest film that pydicom-data brings; its patient is 64 by birth and study date.
REAL_FILMS = {"RG1_UNCR.dcm": "real film, uncompressed", "RG1_J2KI.dcm": "real film, JPEG 2000"}
# Phantoms that are drawn to be refused, and why.
REFUSED_PHANTOMS = {"phantom-adult.dcm": "age_outside", "phantom-lateral.dcm": "view"}
SETTINGS = """\
database_url = "sqlite:///{folder}/preread.db"
scan_interval_s = 2.0
settle_s = 1.0

[[roots]]
path = "{folder}/inbox"
population = "children-1-5y"

[[roots]]
path = "{folder}/research"
population = "research"
"""


@dataclass(frozen=True)
class Dropped:
    """One film that the demo put into a root, and what it is."""

    root: str
    name: str
    what: str


class DemoError(Exception):
    """The demo did not see what it should have seen."""


def main() -> int:
    """Run the demo; 0 when every film has its outcome and the worker stopped cleanly."""
    # a pipe has no width; this holds a row on one line
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    folder = new_folder()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREREAD_")}
    environment["PREREAD_CONFIG"] = str(folder / "preread.toml")
    (folder / "preread.toml").write_text(SETTINGS.format(folder=folder), encoding="utf-8")
    for root in ("inbox", "research"):
        (folder / root).mkdir()

    console.print(f"The demo lies in {folder} and stays there.")
    preread(environment, "db", "upgrade")
    log = folder / "worker.log"
    began = time.monotonic()
    with log.open("wb") as stream:
        worker = subprocess.Popen([*PREREAD, "run"], env=environment, stdin=subprocess.DEVNULL, stderr=stream)
    try:
        dropped = drop_films(folder)
        console.print(f"The worker runs (process {worker.pid}); {len(dropped)} films lie in its two folders.")
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
    """Make a folder of its own for this run, under ./demo."""
    parent = Path("demo").resolve()
    parent.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=parent))


def preread(environment: dict[str, str], *arguments: str) -> str:
    """Run a command of preread and return what it printed on stdout.

    Raises:
        DemoError: it ended with another exit code than 0.
    """
    ended = subprocess.run([*PREREAD, *arguments], env=environment, check=False, capture_output=True, text=True)
    if ended.returncode != 0:
        raise DemoError(f"`preread {' '.join(arguments)}` ended with {ended.returncode}: {ended.stderr.strip()}")
    return ended.stdout


def drop_films(folder: Path) -> list[Dropped]:
    """Copy the real films into both roots and draw phantoms into the first."""
    dropped = []
    for name, what in REAL_FILMS.items():
        source = get_testdata_file(name, download=False)
        if not isinstance(source, str):
            raise DemoError(f"the package pydicom-data does not hold {name}")
        for root in ("inbox", "research"):
            shutil.copyfile(source, folder / root / name)
            dropped.append(Dropped(root, name, what))
    for name, data in phantoms.demo_films():
        (folder / "inbox" / name).write_bytes(data)
        dropped.append(Dropped("inbox", name, "phantom"))
    return dropped


def wait_for_results(worker: subprocess.Popen[bytes], environment: dict[str, str], count: int) -> list[dict[str, Any]]:
    """Ask the database, through the command that people use, until each film has its outcome.

    Raises:
        DemoError: the worker ended, or the outcomes did not come in time.
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
    raise DemoError(f"{len(rows)} of {count} films had an outcome after {WAIT_S:.0f} s")


def stop(worker: subprocess.Popen[bytes]) -> int:
    """Ask the worker to finish what is in flight; kill it only when it does not."""
    if worker.poll() is None:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(STOP_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait(STOP_S)
    return worker.returncode


def show(console: Console, dropped: list[Dropped], rows: list[dict[str, Any]]) -> None:
    """Print what was answered, film by film, and what the words mean."""
    found = {place(row): row for row in rows}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("folder", "film", "what it is", "answer", "why, or what limits it"):
        table.add_column(column, overflow="fold")
    for film in dropped:
        row = found.get((film.root, film.name), {})
        table.add_row(film.root, film.name, film.what, Text(answer(row)), Text(remarks(row)))
    console.print(table)
    for caveat in sorted({caveat for row in rows for caveat in row["caveats"]}):
        console.print(f"  {caveat}: {CAVEAT_TEXT[Caveat(caveat)]}", markup=False)
    console.print()
    console.print("The folder inbox declares children of 1 to 5 years, the folder research declares research.")
    console.print("The real film's patient is 64: inbox refuses it, research assesses it and says what limits that.")
    console.print("Every phantom is the same drawing in another encoding, so its answer is the same but for rounding.")
    console.print("That it was read is the point: an answer on a drawing is worth nothing clinically.")
    console.print(NO_DEVICE)


def place(row: dict[str, Any]) -> tuple[str, str]:
    """Return the root's name and the film's name of a result."""
    return Path(row["root"]).name, row["path"]


def answer(row: dict[str, Any]) -> str:
    """Say in a few words how a film ended."""
    if not row:
        return "no outcome"
    if row["outcome"] != "assessed":
        return f"{row['outcome']}: {row['code']}"
    return "; ".join(
        format_result(Answer(finding["answer"]), finding["finding"], finding["probability"], finding["prevalence"])
        for finding in row["findings"]
    )


def remarks(row: dict[str, Any]) -> str:
    """Say why a film was refused, or name what limits its answer."""
    if not row:
        return ""
    return row["reason"] or ", ".join(row["caveats"])


def look_for_problems(dropped: list[Dropped], rows: list[dict[str, Any]], code: int) -> list[str]:
    """Name everything that is not as this page of the README promises."""
    found = {place(row): row for row in rows}
    problems = [f"{film.root}/{film.name} has no outcome" for film in dropped if (film.root, film.name) not in found]
    for film in dropped:
        row = found.get((film.root, film.name), {})
        refusal = REFUSED_PHANTOMS.get(film.name)
        if film.root == "inbox" and film.name in REAL_FILMS:
            refusal = "age_outside"
        expected = ("refused", refusal) if refusal else ("assessed", None)
        ended = (row.get("outcome"), row.get("code"))
        if row and ended != expected:
            problems.append(f"{film.root}/{film.name} ended as {ended}, not as {expected}")
        if row and film.root == "research" and "outside_intended_age" not in row["caveats"]:
            problems.append(f"{film.root}/{film.name} lacks the caveat on its age")
    shown = [finding["probability"] for row in rows if row["path"].startswith("phantom") for finding in row["findings"]]
    if shown and max(shown) - min(shown) > ENCODINGS_DIFFER_AT_MOST:
        problems.append(f"one drawing got probabilities from {min(shown):.3f} to {max(shown):.3f}")
    if code != 0:
        problems.append(f"the worker ended with exit code {code}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
