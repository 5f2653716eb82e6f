"""Selection of the tests that this machine can run; the rest is listed.

Some tests need what pip cannot bring. Where a piece is missing, a local run deselects its tests and ends with one line
for each piece, naming what to install; with ``CI=true`` or ``REQUIRE_ALL=1`` a missing piece fails the run.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

KEPT_SETTINGS = frozenset({"PREREAD_FILMS"})
FILM_FOLDERS = ("chest_xray_224", "chest_xray_full", "not_chest")

# Nothing of the developer's own installation or terminal reaches the tests. The size of the terminal comes with an
# import of readline too, and pytest-xdist hands the environment of its main process on.
for name in [name for name in os.environ if name.startswith("PREREAD_") and name not in KEPT_SETTINGS]:
    del os.environ[name]
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# A busy machine is slow, not wrong: time limits are pytest-timeout's. In CI the same examples run every time.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


def _end(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def pytest_configure() -> None:
    """End at SIGTERM as at Ctrl-C.

    The fixtures then stop what they started, a Postgres server among it.
    """
    signal.signal(signal.SIGTERM, _end)


@dataclass(frozen=True)
class Piece:
    """Something that tests need and pip cannot bring.

    Attributes:
        present: whether this machine has it.
        remedy: what a person does to have it.
    """

    present: Callable[[], bool]
    remedy: str


def _programs(*names: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(name) for name in names)


def _films() -> bool:
    folder = os.environ.get("PREREAD_FILMS")
    return bool(folder) and all((Path(str(folder)) / name).is_dir() for name in FILM_FOLDERS)


def _releases() -> bool:
    from tests.support import releases

    return releases.commits_are_here()


PIECES = {
    "dcmtk": Piece(
        _programs("dcmj2pnm", "dcmdump", "echoscu", "storescp", "storescu"),
        "install DCMTK (Debian: apt-get install dcmtk)",
    ),
    "browser": Piece(
        _programs("chromium", "chromedriver"), "install a browser (Debian: apt-get install chromium chromium-driver)"
    ),
    "caddy": Piece(_programs("caddy"), "install Caddy (Debian: apt-get install caddy)"),
    "systemd": Piece(
        lambda: os.geteuid() == 0 and _programs("systemd-analyze", "systemd-sysusers", "systemd-tmpfiles")(),
        "install systemd's programs (Debian: apt-get install systemd) and run as root",
    ),
    "minisign": Piece(_programs("minisign"), "install minisign (Debian: apt-get install minisign)"),
    "prometheus": Piece(_programs("prometheus", "promtool"), "install Prometheus (Debian: apt-get install prometheus)"),
    "fail2ban": Piece(_programs("fail2ban-regex"), "install fail2ban (Debian: apt-get install fail2ban)"),
    "releases": Piece(_releases, "get the commits that RELEASES names (a shallow clone: git fetch --unshallow)"),
    "films": Piece(_films, f"set PREREAD_FILMS to the folder that holds {' and '.join(FILM_FOLDERS)}"),
}
DESELECTED = pytest.StashKey[dict[str, int]]()
NOT_RUN = "preread_not_run"


def missing_pieces(items: Iterable[pytest.Item]) -> dict[str, int]:
    """Return the missing pieces that these tests need, and the tests of each."""
    items = list(items)
    wanted = {name: sum(1 for item in items if item.get_closest_marker(name)) for name in PIECES}
    return {name: count for name, count in wanted.items() if count and not PIECES[name].present()}


def _all_required() -> bool:
    return os.environ.get("CI") == "true" or os.environ.get("REQUIRE_ALL") == "1"


def _described(missing: dict[str, int]) -> str:
    return "; ".join(f"{count} tests need '{name}': {PIECES[name].remedy}" for name, count in missing.items())


@pytest.hookimpl(trylast=True)  # after -k and -m: what nobody asked for is not missed
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that this machine cannot run.

    Raises:
        UsageError: a piece is missing and all tests are required.
    """
    missing = missing_pieces(items)
    config.stash[DESELECTED] = missing
    if not missing:
        return
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in missing)]
    if hasattr(config, "workeroutput"):  # a process of pytest-xdist: its main process prints and decides
        config.workeroutput[NOT_RUN] = missing
        left_out = list(items) if _all_required() else left_out
    elif _all_required():
        raise pytest.UsageError(_described(missing))
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Record the tests that a process of pytest-xdist left out.

    Each process collects the same tests.
    """
    config: pytest.Config = node.config
    config.stash.setdefault(DESELECTED, {}).update(getattr(node, "workeroutput", {}).get(NOT_RUN, {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of several processes in which a required piece was missing."""
    if not hasattr(session.config, "workeroutput") and _all_required() and session.config.stash.get(DESELECTED, {}):
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    missing = config.stash.get(DESELECTED, {})
    if missing and _all_required():
        terminalreporter.write_line(f"ERROR: {_described(missing)}", red=True)
        return
    for name, count in missing.items():
        terminalreporter.write_line(f"NOT RUN: {count} tests marked '{name}': {PIECES[name].remedy}", yellow=True)
